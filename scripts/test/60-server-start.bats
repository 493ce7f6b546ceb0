# timeout: 600
# Starting, stopping, starting again, two side by side.
load server.bash

setup_file() { net_up; }
teardown_file() { net_down; }

@test "a first start makes an admin cluster" {
    server_start a
    [ "$(on curl -sk https://10.88.0.1:6443/readyz)" = ok ]
    [ "$(stat -c %a "$WORK/a/admin.kubeconfig")" = 600 ]
    run k get namespaces -o name
    [ "$status" = 0 ]
    for ns in default kube-system kube-public kube-node-lease; do
        [[ "$output" == *"namespace/$ns"* ]]
    done
}

@test "the host registers as a Node that becomes Ready, and as a Host" {
    wait_until k wait --for=condition=Ready --timeout=1s node/host-1
    wait_until k get host host-1
}

@test "keys lie in keyd's directory only and nobody else may read it" {
    [ "$(stat -c %a "$WORK/a/keyd")" = 700 ]
    run grep -rlE --exclude-dir=keyd --exclude=admin.kubeconfig 'BEGIN [A-Z ]*PRIVATE KEY' "$WORK/a"
    [ -z "$output" ]
    [ -n "$(ls -A "$WORK/a/keyd")" ]
}

@test "every role has a user of its own, none but the supervisor is root" {
    sup=$(cat "$WORK/a.pid")
    for pid in $(server_tree); do
        [ "$pid" != "$sup" ] || continue
        uid=$(awk '$1 == "Uid:" { print $2 }' "/proc/$pid/status")
        echo "$pid $(tr '\0' ' ' <"/proc/$pid/cmdline") uid $uid"
        [ "$uid" -ge 64200 ]
        [ "$(awk '$1 == "NoNewPrivs:" { print $2 }' "/proc/$pid/status")" = 1 ]
    done
    for role in keyd front apiserver controllers farm hostlet netboot; do
        [ "$(role_pids $role admin | wc -l)" = 1 ] || [ "$(role_pids $role | wc -l)" = 1 ]
    done
}

@test "no command line and no environment carries a secret" {
    for pid in $(server_tree); do
        run grep -aqE 'PRIVATE KEY|token=|password' "/proc/$pid/cmdline" "/proc/$pid/environ"
        [ "$status" != 0 ]
    done
}

@test "kfarm status shows roles, hosts and tenants" {
    run on "$KFARM" status --data-dir "$WORK/a"
    echo "$output"
    [ "$status" = 0 ]
    [[ "$output" == *apiserver* && "$output" == *keyd* && "$output" == *netboot* && "$output" == *host-1* ]]
}

@test "everything it writes lies below the data directory" {
    for pid in $(server_tree); do
        run bash -c "ls -l /proc/$pid/fd 2>/dev/null | sed -n 's/.* -> \(\/.*\)/\1/p' | grep -vE '^(/dev/|/proc|$WORK/|$KFARM)'"
        echo "$pid: $output"
        # A role in a root directory of its own shows paths relative to it.
        [ "$(readlink "/proc/$pid/root")" != / ] || [ -z "$output" ]
    done
    [ ! -e /etc/kfarm/admin.kubeconfig ] || [ /etc/kfarm/admin.kubeconfig -ot "$WORK/a/lock" ]
}

@test "SIGTERM stops everything" {
    k create configmap kept --from-literal=a=b
    k get namespace default -o 'jsonpath={.metadata.uid}' >"$WORK/uid"
    k config view --raw -o 'jsonpath={.clusters[0].cluster.certificate-authority-data}' >"$WORK/ca"
    tree=$(server_tree)
    server_stop a
    for pid in $tree; do
        [ ! -e "/proc/$pid" ]
    done
    run on curl -sk --max-time 2 https://10.88.0.1:6443/readyz
    [ "$status" != 0 ]
}

@test "a second start finds everything as it was" {
    server_start a
    echo "ready after $READY_MS ms"
    [ "$(k get configmap kept -o 'jsonpath={.data.a}')" = b ]
    [ "$(k get namespace default -o 'jsonpath={.metadata.uid}')" = "$(cat "$WORK/uid")" ]
    [ "$(k config view --raw -o 'jsonpath={.clusters[0].cluster.certificate-authority-data}')" = "$(cat "$WORK/ca")" ]
}

@test "SIGKILL of the admin API server loses nothing and heals by itself" {
    k create configmap acknowledged --from-literal=a=b
    kubeconfig_split "$WORK/a/admin.kubeconfig"
    ask() { on curl -sfk --max-time 5 --cert "$WORK/a/admin.crt" --key "$WORK/a/admin.key" https://10.88.0.1:6443/api/v1/namespaces/default/configmaps/acknowledged; }
    restarts() { grep -c 'role ended.*role=apiserver.*signal=9.*after_ms=50$' "$WORK/a.log"; }
    n=$(restarts) || true
    old=$(role_pids apiserver admin)
    kill -KILL "$old"
    began=$(now_ms)
    wait_until ask
    took=$(($(now_ms) - began))
    # The supervisor starts it again once, after 50 ms. Then it has to run, open the store, and answer: 1 s is ten times what
    # that takes on an idle machine, where a request takes 25 ms; a loaded one is allowed twenty of its requests more.
    slow=$(slowest_ms ask)
    echo "healed after $took ms; a request takes up to $slow ms"
    [ "$(restarts)" = $((n + 1)) ]
    [ "$took" -lt $((1000 + 20 * slow)) ]
    [ "$(role_pids apiserver admin)" != "$old" ]
}

@test "every role that is killed comes back" {
    for role in front controllers farm hostlet netboot keyd; do
        old=$(role_pids $role admin)
        [ -n "$old" ] || old=$(role_pids $role)
        [ "$(wc -w <<<"$old")" = 1 ]
        kill -KILL "$old"
        back() { new=$(role_pids "$1" | head -1); [ -n "$new" ] && [ "$new" != "$2" ]; }
        wait_until back $role "$old"
    done
    wait_until k create configmap after-the-kills --from-literal=a=b
    wait_until k get serviceaccount default
}

@test "a request that keyd was working on when it was killed is answered by the next one" {
    keyd=$(role_pids keyd)
    # Stopped in the middle of its work it has perhaps read some of them, perhaps none.
    ask='{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}' # Debian's kubectl has no `create token`
    for i in 1 2 3 4 5 6; do
        k create -f - --raw /api/v1/namespaces/default/serviceaccounts/default/token <<<"$ask" >"$WORK/token-$i" &
    done
    kill -STOP "$keyd"
    sleep 0.3
    kill -KILL "$keyd"
    wait
    for i in 1 2 3 4 5 6; do jq -r .status.token "$WORK/token-$i" | grep -q '^ey.*[.]'; done
}

@test "SIGKILL of the supervisor takes every role with it; the next start finds everything" {
    tree=$(server_tree)
    kill -KILL "$(cat "$WORK/a.pid")"
    gone() { for pid in $1; do [ ! -e "/proc/$pid" ] || return 1; done; }
    wait_until gone "$tree"
    server_start a
    [ "$(k get configmap acknowledged -o 'jsonpath={.data.a}')" = b ]
}

@test "two servers run side by side with data directories of their own" {
    server_start b --https-listen-port=7443 --kubelet-port=0 --disable-netboot --tenant-ports=21000-21999
    run on kubectl --kubeconfig "$WORK/b/admin.kubeconfig" get configmap kept
    [ "$status" != 0 ]
    [ "$(k get configmap kept -o 'jsonpath={.data.a}')" = b ]
    # The credentials of one are worth nothing at the other.
    kubeconfig_split "$WORK/a/admin.kubeconfig"
    code=$(on curl -sk -o /dev/null -w '%{http_code}' --cert "$WORK/a/admin.crt" --key "$WORK/a/admin.key" https://10.88.0.1:7443/api/v1/namespaces || true)
    [ "$code" = 401 ] || [ "$code" = 403 ] || [ "$code" = 000 ]
    server_stop b
    [ "$(k get configmap kept -o 'jsonpath={.data.a}')" = b ]
}

@test "a copy of the stopped host's directory is a complete backup" {
    server_stop a
    cp -a "$WORK/a" "$WORK/saved"
    server_start a
    k delete configmap kept
    server_stop a
    rm -rf "$WORK/a"
    mv "$WORK/saved" "$WORK/a"
    server_start a
    [ "$(k get configmap kept -o 'jsonpath={.data.a}')" = b ]
}

@test "it stops cleanly at the end" {
    server_stop a
    run ip netns pids "$NS"
    [ -z "$output" ]
}
