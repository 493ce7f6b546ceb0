#!/bin/bash
# demo.sh: the whole of kfarm once: from nothing to a pod on two servers that booted over the network, then three failures.
#
# Runs as root on Debian 12. Everything happens in one network namespace and one temporary folder; both are removed at the
# end. KEEP=1 leaves them and prints how to use them. MEM= megabytes per virtual machine (1024).
# TIMES=FILE also writes the table of steps as "seconds<TAB>step" lines (used by bench.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8

kfarm=$PWD/build/kfarm lab=demo-$$ work='' server_pid='' step='' step_began='' done_steps=() began=$EPOCHREALTIME
cache=${KFARM_CACHE:-$HOME/.cache/kfarm}
mem=${MEM:-1024}

since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }'; }
say() { printf '%7.1f  %s\n' "$(since "$began")" "$*"; }
quote() { sed -u 's/^/         | /'; }

begin() {
    step=$*
    step_began=$EPOCHREALTIME
    printf '\n'
    say "== $step"
}
finish() { # [seconds that are the point of the step, when they differ from how long it took]
    done_steps+=("${1:-$(since "$step_began")}"$'\t'"$step")
    step=
}

on_lab() { nsenter --net="/run/netns/kf-lab-$lab" -- "$@"; }
admin() { on_lab kubectl --kubeconfig "$work/data/admin.kubeconfig" "$@"; }
team() { on_lab kubectl --kubeconfig "$work/team-a.kubeconfig" "$@"; }

# until_true SECONDS TEXT COMMAND…: tries until it succeeds; TEXT says what was awaited when it never does.
until_true() {
    local limit=$1 text=$2 started=$SECONDS
    shift 2
    until "$@" >"$work/last-try" 2>&1; do
        if ((SECONDS - started >= limit)); then
            echo "waited $limit s for: $text" >&2
            quote <"$work/last-try" >&2
            return 1
        fi
        kill -0 "$server_pid" || { echo "kfarm server is gone" >&2; return 1; }
        sleep 0.05
    done
}

show_logs() {
    local f
    for f in "$work/server.log" "$work"/lab/kf-lab-"$lab"/*/serial.log; do
        [ -s "$f" ] || continue
        echo "--- end of ${f#"$work"/}:"
        tail -n 25 "$f" | sed -e 's/\x1b\[[0-9;?=]*[a-zA-Z]//g' -e 's/\r//g' | quote
    done
    [ -e "$work/data/admin.kubeconfig" ] || return 0
    echo "--- tenants, pods, events of the admin cluster:"
    timeout 20 nsenter --net="/run/netns/kf-lab-$lab" -- kubectl --kubeconfig "$work/data/admin.kubeconfig" get tenants,machines,pods,events -A 2>&1 |
        tail -n 40 | quote || true
    [ -e "$work/team-a.kubeconfig" ] || return 0
    echo "--- nodes, pods, events of team-a:"
    timeout 20 nsenter --net="/run/netns/kf-lab-$lab" -- kubectl --kubeconfig "$work/team-a.kubeconfig" get nodes,csr,pods,events -A 2>&1 |
        tail -n 40 | quote || true
}

stop_server() {
    [ -n "$server_pid" ] || return 0
    kill -TERM "$server_pid" 2>/dev/null || true
    for _ in $(seq 150); do
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$server_pid" 2>/dev/null && echo "kfarm server did not stop within 15 s and was killed" >&2
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}

how_to_use() {
    cat <<EOF

The lab is up (KEEP=1):
  admin cluster   ip netns exec kf-lab-$lab kubectl --kubeconfig $work/data/admin.kubeconfig get tenants,machines,hosts -A
  the tenant      ip netns exec kf-lab-$lab kubectl --kubeconfig $work/team-a.kubeconfig get nodes,pods -A -o wide
  status          ip netns exec kf-lab-$lab $kfarm status --data-dir $work/data
  consoles        LAB_DIR=$work/lab $PWD/scripts/lab.sh serial $lab node-1
  power           LAB_DIR=$work/lab $PWD/scripts/lab.sh cut $lab node-2
                  LAB_DIR=$work/lab $PWD/scripts/lab.sh boot $lab node-2 --uefi --tap 2 --mem $mem
  server's log    $work/server.log
To remove it: kill $server_pid; LAB_DIR=$work/lab $PWD/scripts/lab.sh down $lab; rm -rf $work
EOF
}

at_end() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    set +e
    if [ $status != 0 ]; then
        printf '\n%7.1f  FAILED%s\n' "$(since "$began")" "${step:+ in: $step}" >&2
        [ -z "$work" ] || show_logs >&2
    fi
    if [ -n "$work" ] && [ -n "${KEEP:-}" ] && [ -n "$server_pid" ]; then
        how_to_use
        exit $status
    fi
    if [ -n "$work" ]; then
        LAB_DIR=$work/lab scripts/lab.sh down "$lab"
        stop_server
        rm -rf "$work"
    fi
    exit $status
}
trap at_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ "$(id -u)" = 0 ] || { echo "demo.sh: run it as root: it makes a network namespace and node images" >&2; exit 1; }

begin "packages and build"
scripts/setup.sh demo
env -u MAKEFLAGS make --no-print-directory -j"$(nproc)" all 2>&1 |
    awk '/^  rel / { if (++n % 50 == 0) { print n " files compiled"; fflush() } next } { print; fflush() }' | quote
say "$("$kfarm" version), one static file of $(stat -c %s "$kfarm") bytes"
finish

work=$(mktemp -d "${TMPDIR:-/tmp}/kfarm-demo.XXXXXX")
chmod 755 "$work" # the roles are users of their own and must reach what is below
export LAB_DIR=$work/lab HOME=$work/home
mkdir "$LAB_DIR" "$HOME"

begin "node image"
# Packages are kept in the cache; what is made of them is not.
mkdir "$work/data"
KFARM_CACHE=$cache "$kfarm" image build --data-dir "$work/data" 2>&1 | quote
"$kfarm" image ls --data-dir "$work/data" | quote
finish

begin "lab: a network namespace with a bridge"
scripts/lab.sh up "$lab" --taps 3 --addr 10.77.0.1/24
finish

begin "kfarm server, first start"
# The shell's own child, so that its pid is the server's.
nsenter --net="/run/netns/kf-lab-$lab" -- "$kfarm" server --data-dir "$work/data" --node-name host-1 </dev/null 2>"$work/server.log" &
server_pid=$!
until_true 60 "/readyz of the admin cluster" on_lab curl -sfk https://10.77.0.1:6443/readyz
finish
until_true 60 "the host's Node" admin wait --for=condition=Ready --timeout=1s node/host-1
admin get nodes -o wide | quote

begin "network and tenant applied, the tenant answers"
admin apply -f docs/examples/network.yaml -f docs/examples/team-a.yaml | quote
secret() { admin get secret team-a-kubeconfig -o 'jsonpath={.data.value}' | base64 -d >"$work/team-a.kubeconfig" && [ -s "$work/team-a.kubeconfig" ]; }
until_true 60 "the tenant's kubeconfig" secret
until_true 60 "the tenant's API server" team get namespaces
finish
team get namespaces | quote
admin get tenants,machines,pods | quote

# node_state NAME: how far it has come, by what its cluster knows and by what the boot server logged since it was powered on.
declare -A log_from=() last=()
node_state() {
    local ready failed
    ready=$(team get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null) || true
    if [ "$ready" = True ]; then
        echo "$1 is Ready"
        return
    fi
    failed=$(scripts/lab.sh serial "$lab" "$1" | grep -a 'kfarm: .*FAILED' | tail -n 1) || true
    if [ -n "$failed" ]; then
        echo "$1 did not come up: ${failed#*FAILED: }"
        return
    fi
    tail -n "+${log_from[$1]}" "$work/server.log" | awk -v name="$1" -v registered="$ready" '
        index($0 " ", " node=" name " ") || index($0, " node=\"" name "\"") {
            if (/msg=lease/) s = /stage=os/ ? "runs its kernel, got its address" : "got its address"
            if (/msg="boot script"/) s = "fetched its boot script, loads kernel and initrd"
            if (/msg="boot document"/) s = "runs kfarm, fetched its boot document"
            if (/msg=joined/) s = "switched to its root image, proved itself with its ticket"
        }
        END { print name " " (registered && s ~ /ticket/ ? "joined, not Ready yet" : s ? s : "is in its firmware") }'
}

power_on() { # NAME FIRMWARE TAP
    log_from[$1]=$(($(wc -l <"$work/server.log") + 1))
    last[$1]=
    scripts/lab.sh boot "$lab" "$1" "$2" --tap "$3" --mem "$mem" >/dev/null
    say "$1 is powered on"
}

# watch_until SECONDS CONDITION NODE…: prints every change of state until the condition holds for all nodes.
watch_until() {
    local limit=$1 want=$2 started=$SECONDS node state left
    shift 2
    while :; do
        left=0
        for node in "$@"; do
            state=$(node_state "$node")
            if [ "${last[$node]-}" != "$state" ]; then
                say "$state"
                last[$node]=$state
            fi
            [[ $state == *"$want" ]] || left=1
            # It tries again by itself, which is no use to a demonstration.
            [[ $state != *" did not come up: "* ]] || return 1
        done
        [ $left = 1 ] || return 0
        ((SECONDS - started < limit)) || { echo "waited $limit s for: $* $want" >&2; return 1; }
        kill -0 "$server_pid" || { echo "kfarm server is gone" >&2; return 1; }
        sleep 0.3
    done
}

begin "power on node-1 (BIOS) and node-2 (UEFI), both Ready"
power_on node-1 --bios 1
power_on node-2 --uefi 2
watch_until 600 " is Ready" node-1 node-2
finish
team get nodes -o wide -L topology.kubernetes.io/zone | quote

begin "a Deployment with one pod on each node"
team apply -f docs/examples/hello.yaml | quote
team rollout status deployment/hello --timeout=180s | quote
finish
team get pods -o wide | quote
[ "$(team get pods -l app=hello -o 'jsonpath={.items[*].spec.nodeName}' | tr ' ' '\n' | sort | tr '\n' ' ')" = "node-1 node-2 " ] ||
    { echo "the pods are not on both nodes" >&2; exit 1; }

begin "logs through kubectl"
logs_say_hello() {
    team logs -l app=hello --prefix >"$work/logs" 2>&1 && grep -q 'on node-1' "$work/logs" && grep -q 'on node-2' "$work/logs"
}
until_true 60 "the pods' logs" logs_say_hello
quote <"$work/logs"
finish

# --- failures ---

# role_pid ROLE SCOPE: the process of a role; all are descendants of the server.
role_pid() {
    local f words
    for f in /proc/[0-9]*/cmdline; do
        mapfile -d '' -t words 2>/dev/null <"$f" || continue
        [ "${words[1]-}" = "$1" ] || continue
        [[ " ${words[*]} " == *"${2:+ --scope=$2 }"* && "$(readlink "${f%cmdline}exe")" == "$kfarm" &&
            "$(readlink "${f%cmdline}ns/net")" == "$lab_net" ]] && basename "${f%/cmdline}" && return
    done
    echo "no process of role $1 ${2-}" >&2
    return 1
}
# The roles with a network share the lab's; this tells ours from those of another server.
lab_net=$(readlink "/proc/$(cat "$work"/lab/kf-lab-"$lab"/node-1/qemu.pid)/ns/net")
uid=$(admin get tenant team-a -o 'jsonpath={.metadata.uid}')
server=$(team config view -o 'jsonpath={.clusters[0].cluster.server}')
for key_of in client-certificate-data:crt client-key-data:key; do
    awk -v k="${key_of%:*}:" '$1 == k { print $2 }' "$work/team-a.kubeconfig" | base64 -d >"$work/team-a.${key_of#*:}"
done
api() { on_lab curl -sfk --max-time 2 --cert "$work/team-a.crt" --key "$work/team-a.key" "$server$1"; }

begin "failure 1: SIGKILL of the tenant's API server, answers again after"
team create configmap before-the-crash --from-literal=answer=42 | quote
pid=$(role_pid apiserver "$uid")
say "kill -KILL $pid"
kill -KILL "$pid"
killed=$EPOCHREALTIME
until_true 60 "the tenant's API server" api /api/v1/namespaces/default/configmaps/before-the-crash
healed=$(since "$killed")
until_true 60 "a new process" role_pid apiserver "$uid"
say "answered after $healed s (now process $(role_pid apiserver "$uid")), the object written before is there:"
team get configmap before-the-crash -o 'jsonpath={.data.answer}{"\n"}' | quote
[ "$(team get configmap before-the-crash -o 'jsonpath={.data.answer}')" = 42 ]
awk -v s="$healed" 'BEGIN { exit !(s < 1) }' || { echo "healing took $healed s, it must take less than 1 s" >&2; exit 1; }
finish "$healed"
admin get pods | quote

begin "failure 2: power cut of node-2, noticed"
scripts/lab.sh cut "$lab" node-2
lost_node() { [ "$(team get node node-2 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" != True ]; }
until_true 120 "node-2 to be NotReady" lost_node
finish
team get nodes | quote
begin "node-2 powered on, Ready again"
power_on node-2 --uefi 2
watch_until 600 " is Ready" node-2
finish
begin "its pod runs again"
pods_run() { [ "$(team get pods -l app=hello --field-selector=status.phase=Running -o 'jsonpath={.items[*].spec.nodeName}' | tr ' ' '\n' | sort -u | tr '\n' ' ')" = "node-1 node-2 " ] && logs_say_hello; }
until_true 180 "pods on both nodes" pods_run
finish
team get nodes,pods -o wide | quote

begin "failure 3: netboot stopped for 45 s, the nodes do not notice"
pid=$(role_pid netboot '')
transitions() { team get nodes -o 'jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}{"\n"}{end}'; }
restarts() { team get pods -l app=hello -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}'; }
nodes_before=$(transitions) pods_before=$(restarts)
kill -STOP "$pid"
say "process $pid stopped; nobody answers DHCP, TFTP and boot documents"
if on_lab curl -s --max-time 2 http://10.77.0.1:8069/ >/dev/null; then
    echo "netboot answers although it is stopped" >&2
    exit 1
fi
sleep 45 # longer than a silent node is believed to be alive
nodes_after=$(transitions) pods_after=$(restarts)
logs_say_hello
kill -CONT "$pid"
quote <<<"$nodes_after"
[ "$nodes_before" = "$nodes_after" ] || { printf 'the nodes changed; before:\n%s\n' "$nodes_before" >&2; exit 1; }
[ "$pods_before" = "$pods_after" ] || { printf 'the pods changed; before:\n%s\nafter:\n%s\n' "$pods_before" "$pods_after" >&2; exit 1; }
finish

if [ -z "${KEEP:-}" ]; then
    begin "everything stopped and removed"
    scripts/lab.sh cut "$lab" node-1
    scripts/lab.sh cut "$lab" node-2
    stop_server
    finish
fi

printf '\n%8s  %s\n' seconds step
printf '%8s  %s\n' "$(printf '%.0s-' {1..8})" "$(printf '%.0s-' {1..64})"
for s in "${done_steps[@]}"; do
    printf '%8.2f  %s\n' "${s%%$'\t'*}" "${s#*$'\t'}"
done
printf '%8.2f  %s\n' "$(since "$began")" "in all"
[ -z "${TIMES:-}" ] || printf '%s\n' "${done_steps[@]}" >"$TIMES"
