# timeout: 600
# The boot service as a role of kfarm server: two tenants on one subnet, joining with keyd's signature, conflicts between
# objects, life without the API server.
load server.bash

BOOT=http://10.88.0.1:8069
A=02:00:00:00:0a:01 A2=02:00:00:00:0a:02 B=02:00:00:00:0b:01

setup_file() {
    net_up
    mkdir -p "$WORK/a/images/default" "$WORK/a/boot"
    for f in kernel initrd root.squashfs; do echo "$f" >"$WORK/a/images/default/$f"; done
    cat >"$WORK/a/images/default/manifest.json" <<'MANIFEST'
{"kernel": {"file": "kernel"}, "initrd": {"file": "initrd"},
 "root": {"file": "root.squashfs", "digest": "sha256:00", "size": 14}}
MANIFEST
    head -c 70000 /dev/urandom >"$WORK/a/boot/undionly.kpxe"
    server_start a
    CLI=$NS-c
    export CLI
    ip netns add "$CLI"
    ip link add p0 netns "$NS" type veth peer name cli netns "$CLI"
    ip -n "$NS" link set p0 master br0 up
    ip -n "$CLI" link set cli up
    k apply -f - <<'OBJECTS'
apiVersion: kfarm.dev/v1alpha1
kind: Network
metadata: {name: rack, namespace: default}
spec: {cidr: 10.88.0.0/24, range: {start: 10.88.0.100, end: 10.88.0.120}, ntp: [10.88.0.1, ntp.example],
       options: [{name: domain-name, value: rack.test}]}
---
apiVersion: kfarm.dev/v1alpha1
kind: Tenant
metadata: {name: red, namespace: default}
spec:
  sshAuthorizedKeys: [key-of-red]
  tags:
  - {name: slow, kernelArgs: [quiet, loglevel=3], labels: {speed: slow, kind: any}, sysctls: {vm.swappiness: "1"}}
  - {name: fast, kernelArgs: [mitigations=off], labels: {speed: fast}, taints: [{key: only, value: x, effect: NoSchedule}],
     timezone: Europe/Prague, files: [{path: /etc/motd, content: hello, mode: "0600"}]}
  pools:
  - name: p
    tags: [slow]
    nodes: [{name: red-1, macs: ["02:00:00:00:0a:01", "02:00:00:00:0a:02"], ip: 10.88.0.11, tags: [fast]}]
---
apiVersion: kfarm.dev/v1alpha1
kind: Tenant
metadata: {name: blue, namespace: default}
spec:
  pools: [{name: p, nodes: [{name: blue-1, macs: ["02:00:00:00:0b:01"]}]}]
OBJECTS
    wait_until tenant_fetch red
    wait_until tenant_fetch blue
    wait_until planned red-1
    wait_until planned blue-1
    wait_until t red get namespace default
    wait_until t blue get namespace default
}
teardown_file() {
    [ -z "${CLI:-}" ] || ip netns del "$CLI"
    net_down
}

# A node is known with its tenant's address and CA.
planned() { jq -e --arg n "$1" '.nodes[] | select(.name == $n) | .document.tenant.caData' "$WORK/a/netboot/plan.json"; }
client() { nsenter --net="/run/netns/$CLI" -- "$@"; }
post() { client curl -sk --max-time 60 -d "$2" "https://10.88.0.1:8070/v1/$1"; }

# power_on MAC: lease and boot script, as iPXE gets them, with $UUID_OPTION; sets ADDR and SCRIPT.
power_on() {
    ip -n "$CLI" addr flush dev cli
    ip -n "$CLI" link set cli down address "$1" up
    sleep 0.2
    ADDR=$(client busybox udhcpc -i cli -f -q -n -t 5 -T 1 -s /bin/true -V PXEClient:Arch:00000:UNDI:002001 -x 93:0000 ${UUID_OPTION-} 2>&1 |
        sed -n 's/.*lease of \([0-9.]*\) obtained.*/\1/p')
    [ -n "$ADDR" ] || return 1
    ip -n "$CLI" addr add "$ADDR/24" dev cli
    SCRIPT=$(client curl -sf --max-time 60 "$BOOT/boot/${1//:/-}.ipxe")
}

@test "making tenants is no reason for keyd to complain" {
    ! grep 'role=keyd.*request refused' "$WORK/a.log"
}

@test "two tenants on one subnet: each machine gets its own" {
    power_on $A
    [ "$ADDR" = 10.88.0.11 ]
    [[ $SCRIPT == *"kernel $BOOT/images/default/kernel initrd=initrd "* ]]
    [[ $SCRIPT == *"quiet loglevel=3 mitigations=off"* ]]
    doc=$(post boot "{\"mac\": \"$A\"}")
    echo "$doc"
    [ "$(jq -r '.hostname, .tenant.name, .timezone' <<<"$doc" | xargs)" = "red-1 red Europe/Prague" ]
    [ "$(jq -cS '.node.labels' <<<"$doc")" = '{"kind":"any","speed":"fast"}' ]
    [ "$(jq -r '.node.taints[0].key, .sysctls["vm.swappiness"], .sshAuthorizedKeys[0], .files[0].mode' <<<"$doc" | xargs)" = "only 1 key-of-red 384" ]
    [ "$(jq -r .tenant.server <<<"$doc")" = "$(k get tenant red -o 'jsonpath={.status.endpoint}')" ]

    power_on $B
    [[ $ADDR == 10.88.0.1[0-2]? ]]
    doc=$(post boot "{\"mac\": \"$B\"}")
    [ "$(jq -r '.hostname, .tenant.name' <<<"$doc" | xargs)" = "blue-1 blue" ]
    [ "$(jq -r .error <<<"$(post boot "{\"mac\": \"$A\"}")")" != null ]
}

@test "a ticket becomes a certificate of its own tenant, for that node only" {
    power_on $A2
    [ "$ADDR" = 10.88.0.11 ]
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$WORK/n.key" -out "$WORK/n.csr" -subj "/O=system:masters/CN=root"
    ticket=$(post boot "{\"mac\": \"$A2\"}" | jq -r .ticket)
    body=$(jq -n --arg t "$ticket" --rawfile c "$WORK/n.csr" '{ticket: $t, csr: $c}')
    post join "$body" | jq -r .cert >"$WORK/n.crt"
    openssl x509 -in "$WORK/n.crt" -noout -subject -nameopt multiline >"$WORK/subject"
    cat "$WORK/subject"
    grep -q 'commonName *= system:bootstrap:red-1$' "$WORK/subject"
    ! grep -q masters "$WORK/subject" || false
    openssl x509 -in "$WORK/n.crt" -noout -checkend 1
    ! openssl x509 -in "$WORK/n.crt" -noout -checkend 900 || false
    kubeconfig_split "$WORK/red.kubeconfig"
    kubeconfig_split "$WORK/blue.kubeconfig"
    answers() { expect_code "$1" client curl -k --cert "$WORK/n.crt" --key "$WORK/n.key" "$2"; }
    answers 403 "$(cat "$WORK/red.server")/api/v1/nodes" # known there, and may do next to nothing
    answers 401 "$(cat "$WORK/blue.server")/api/v1/nodes"
    answers 401 https://10.88.0.1:6443/api/v1/nodes
    # Once: another key is refused.
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$WORK/o.key" -out "$WORK/o.csr" -subj /CN=x
    body=$(jq -n --arg t "$ticket" --rawfile c "$WORK/o.csr" '{ticket: $t, csr: $c}')
    [ "$(post join "$body" | jq -r .cert)" = null ]
}

@test "a MAC address declared twice stays with the older tenant; both are told of the other" {
    k apply -f - <<'OBJECT'
apiVersion: kfarm.dev/v1alpha1
kind: Tenant
metadata: {name: thief, namespace: default}
spec: {pools: [{name: p, nodes: [{name: thief-1, macs: ["02:00:00:00:0a:01"]}, {name: thief-2, macs: ["02:00:00:00:0c:01"]}]}]}
OBJECT
    wait_until planned thief-2
    told() { # TENANT STATUS TEXT, and as an event
        local c='{.status.conditions[?(@.type=="DeclarationConflict")]'
        [ "$(k get tenant "$1" -o "jsonpath=$c.status}")" = "$2" ] && [ "$(k get tenant "$1" -o "jsonpath=$c.message}")" = "$3" ] &&
            { [ "$2" = False ] || k get events --field-selector "reason=DeclaredTwice,involvedObject.name=$1" | grep "$3$"; }
    }
    wait_until told thief True "node thief-1: MAC address $A belongs to node red-1 of tenant default/red already"
    wait_until told red True "node red-1: its MAC address $A is also declared for node thief-1 of tenant default/thief, which is newer and not served"
    k get tenant red -o json | jq -e '.status.conditions | map(.type) | contains(["Accepted", "ControlPlaneReady", "Ready"])'
    [ -z "$(k get tenant blue -o 'jsonpath={.status.conditions[?(@.type=="DeclarationConflict")].type}')" ]
    power_on $A
    [[ $SCRIPT == *"red-1 boots"* ]]
    k delete tenant thief --timeout=120s
    gone() { ! jq -e '.nodes[] | select(.name == "thief-2")' "$WORK/a/netboot/plan.json"; }
    wait_until gone
    wait_until told red False ""
    wait_until k wait --for=condition=ControlPlaneReady --timeout=1s tenant/red
}

@test "it answers without the admin API server, also after a restart" {
    api=$(role_pids apiserver | while read -r p; do grep -qz -- '--scope=' "/proc/$p/cmdline" || echo "$p"; done | head -1)
    [ -n "$api" ] || api=$(role_pids apiserver | head -1)
    kill -STOP "$api"
    power_on $A
    [ "$ADDR" = 10.88.0.11 ]
    kill -KILL "$(role_pids netboot)"
    sleep 1
    power_on $A2
    status=$?
    # What the API server tells now adds to what it knew before: that keyd must tell a tenant's CA anew changes nothing.
    local keyd answer= n=0
    keyd=$(role_pids keyd)
    kill -STOP "$keyd"
    kill -CONT "$api"
    while [ $((n++)) -lt 20 ] && answer=$(post boot "{\"mac\": \"$A2\"}") && [ "$(jq -r .hostname <<<"$answer")" = red-1 ]; do
        sleep 0.1
    done
    kill -CONT "$keyd"
    echo "$answer"
    [ "$status" = 0 ] && [ "$ADDR" = 10.88.0.11 ] && [[ $SCRIPT == *"red-1 boots"* ]]
    [ "$(jq -r .hostname <<<"$answer")" = red-1 ]
}

@test "leases are shown in the status of the Network" {
    shown() { [ "$(k get network rack -o 'jsonpath={.status.interface}')" = br0 ] && [ "$(k get network rack -o 'jsonpath={.status.leases}')" -ge 2 ]; }
    wait_until shown || { k get network rack -o yaml; grep role=netboot "$WORK/a.log" | tail -20; cat "$WORK/a.log" | grep -i "rack\|forbidden" | tail; false; }
}

@test "servers that booted are shown as Hosts" {
    seen() { [ "$(k get host mac-02-00-00-00-0a-01 -o 'jsonpath={.status.tenant} {.status.node} {.status.addresses[0]} {.status.firmware} {.spec.macs[1]}')" = "default/red red-1 10.88.0.11 bios $A2" ]; }
    wait_until seen || { k get hosts -o yaml; false; }
    k apply -f - <<'OBJECT'
apiVersion: kfarm.dev/v1alpha1
kind: Host
metadata: {name: by-hand}
spec: {macs: ["02:00:00:00:0b:01"]}
OBJECT
    k delete host mac-02-00-00-00-0b-01 --ignore-not-found
    # When it knows the next change of a Host it knows the end of that one.
    in_plan() { jq -e --arg mac "$1" '.approved | index($mac)' "$WORK/a/netboot/plan.json"; }
    not_in_plan() { ! in_plan "$1"; }
    k patch host by-hand --type=merge -p '{"spec": {"approved": true}}'
    wait_until in_plan $B
    k patch host by-hand --type=merge -p '{"spec": {"approved": false}}'
    wait_until not_in_plan $B
    power_on $B
    recognised() { [ "$(k get host by-hand -o 'jsonpath={.status.node}')" = blue-1 ]; }
    wait_until recognised
    ! k get host mac-02-00-00-00-0b-01
}

@test "a machine that nobody declared is shown as a Host" {
    power_on 02:00:00:00:dd:01 # an address, and a script that boots no image
    echo "$SCRIPT"
    [[ $SCRIPT != *"kernel "* ]]
    [[ $ADDR == 10.88.0.1[0-2]? ]]
    shown() { [ "$(k get host mac-02-00-00-00-dd-01 -o 'jsonpath={.spec.purpose} {.spec.macs[0]} {.status.addresses[0]} {.status.firmware}')" = "spare 02:00:00:00:dd:01 $ADDR bios" ]; }
    wait_until shown || { k get hosts -o yaml; false; }
}

@test "where approval is demanded a machine waits for it, also one of the catch-all" {
    k patch network rack --type=merge -p '{"spec": {"trust": "approve", "catchAll": {"tenant": "blue", "pool": "p"}}}'
    trusts() { jq -e --arg t "$1" '.networks[0].trust == $t' "$WORK/a/netboot/plan.json"; }
    wait_until trusts approve
    for mac in $B 02:00:00:00:dd:01; do
        power_on $mac
        [[ $(post boot "{\"mac\": \"$mac\"}") == *"waits for approval"* ]]
    done
    waits() { k get events --field-selector reason=WaitsForApproval -o 'jsonpath={.items[*].involvedObject.name}' -A | grep -w "$1"; }
    wait_until waits by-hand
    wait_until waits mac-02-00-00-00-dd-01
    k patch host mac-02-00-00-00-dd-01 --type=merge -p '{"spec": {"approved": true}}'
    k get hosts | grep 'mac-02-00-00-00-dd-01 *spare *true'
    approved() { jq -e '.approved == ["02:00:00:00:dd:01"]' "$WORK/a/netboot/plan.json"; }
    wait_until approved
    [ "$(post boot '{"mac": "02:00:00:00:dd:01"}' | jq -r .hostname)" = p-02000000dd01 ]
    power_on $B
    [[ $(post boot "{\"mac\": \"$B\"}") == *"waits for approval"* ]]
    k patch network rack --type=merge -p '{"spec": {"trust": "mac", "catchAll": null}}'
    wait_until trusts mac
}

@test "a node declared by UUID is known by it, then by the address it was seen with" {
    k patch tenant blue --type=json -p '[{"op": "add", "path": "/spec/pools/0/nodes/-", "value":
        {"name": "blue-2", "uuid": "11112222-3333-4444-5555-666677778888", "ip": "10.88.0.22"}}]'
    wait_until planned blue-2
    UUID_OPTION="-x 97:0022221111333344445555666677778888" power_on 02:00:00:00:ee:01 # as firmware sends it
    [ "$ADDR" = 10.88.0.22 ] && [[ $SCRIPT == *"blue-2 boots"* ]]
    [ "$(post boot '{"mac": "02:00:00:00:ee:01"}' | jq -r .hostname)" = blue-2 ]
    learnt() { jq -e '.nodes[] | select(.name == "blue-2") | .macs == ["02:00:00:00:ee:01"]' "$WORK/a/netboot/plan.json"; }
    wait_until learnt
    kill -KILL "$(role_pids netboot)"
    sleep 0.5
    power_on 02:00:00:00:ee:01 # without it, as an operating system
    [ "$ADDR" = 10.88.0.22 ] && [[ $SCRIPT == *"blue-2 boots"* ]]
}

@test "it runs without privileges, as a user of its own" {
    pid=$(role_pids netboot)
    grep -qx 'CapEff:.0000000000000000' "/proc/$pid/status"
    grep -qx 'Seccomp:.2' "/proc/$pid/status"
    [ "$(awk '$1 == "Uid:" { print $2 }' "/proc/$pid/status")" != 0 ]
}
