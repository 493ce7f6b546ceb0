# server.bash: loaded by the tests of the whole server. Each test file has a network namespace of its own (as each test of
# the product has its folder), so that ports, DHCP and addresses never meet those of the machine or of another test.

. "$BATS_TEST_DIRNAME/common.bash"
teardown() { # of every test: with what the servers complained about
    show_last || grep -h 'lvl=\(warn\|error\)' "$WORK"/*.log | tail -n 4 | cut -c1-240
}

KFARM=${KFARM:-$BATS_TEST_DIRNAME/../../build/kfarm}
KFARM=$(readlink -f "$KFARM")
EXAMPLES=$BATS_TEST_DIRNAME/../../docs/examples

# net_up / net_down: namespace $NS with a bridge that has 10.88.0.1/24.
net_up() {
    [ "$(id -u)" = 0 ] || skip "needs root"
    NS=kf-t-$$-$RANDOM
    ip netns add "$NS"
    ip -n "$NS" link set lo up
    ip -n "$NS" link add br0 type bridge
    ip -n "$NS" addr add 10.88.0.1/24 dev br0
    ip -n "$NS" link set br0 up
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    # Roles are users of their own; they must reach what is below.
    local d=$WORK
    while [ "$d" != / ]; do
        [ "$(stat -c %A "$d" | cut -c10)" = x ] || [ "$(stat -c %A "$d" | cut -c10)" = t ] || chmod o+x "$d"
        d=$(dirname "$d")
    done
    export NS WORK HOME=$WORK/home
    mkdir -p "$HOME"
}
net_down() {
    local f
    for f in "$WORK"/*.pid; do
        [ -e "$f" ] && stop_pid "$(cat "$f")"
    done
    # What outlived its server is stopped too, and named: that is a bug.
    local left
    left=$(ip netns pids "$NS" 2>/dev/null)
    if [ -n "$left" ]; then
        ps -o pid,args -p "$(tr '\n' ',' <<<"$left" | sed 's/,$//')" >&2
        kill -KILL $left 2>/dev/null
    fi
    ip netns del "$NS"
    rm -rf "$WORK"
    [ -z "$left" ]
}

on() { nsenter --net="/run/netns/$NS" -- "$@"; }
now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }

# stop_pid PID [SECONDS]: SIGTERM, then SIGKILL. 1 when it had to be killed.
stop_pid() {
    local pid=$1 n=$((${2:-15} * 20))
    kill -TERM "$pid" 2>/dev/null || return 0
    while ((n-- > 0)); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null
    return 1
}

# wait_until COMMAND…: as long as a machine under load may need.
wait_until() {
    local end=$(($(now_ms) + 120000))
    until "$@" >"$WORK/last-try" 2>&1; do
        if (($(now_ms) > end)); then
            echo "not within the time: $*"
            tail -n 5 "$WORK/last-try"
            return 1
        fi
        sleep 0.05
    done
}

# slowest_ms COMMAND…: what it takes here and now, the slowest of three. Bounds are written as multiples of it, so that they are
# tight on an idle machine and hold on a loaded one.
slowest_ms() {
    local i began took slow=1
    for i in 1 2 3; do
        began=$(now_ms)
        "$@" >/dev/null 2>&1 || return 1
        took=$(($(now_ms) - began))
        slow=$((took > slow ? took : slow))
    done
    echo "$slow"
}

# server_start NAME [FLAG…]: data in $WORK/NAME, log in $WORK/NAME.log; returns when /readyz answers, sets READY_MS.
server_start() {
    local name=$1 port=6443 flag began
    shift
    for flag in "$@"; do
        case $flag in --https-listen-port=*) port=${flag#*=} ;; esac
    done
    if [ -e "$WORK/$name.pid" ]; then # left by a test that failed
        stop_pid "$(cat "$WORK/$name.pid")" || true
    fi
    began=$(now_ms)
    # Not by on(): a function in the background is a shell of its own, and its pid is not the server's.
    nsenter --net="/run/netns/$NS" -- "$KFARM" server --data-dir "$WORK/$name" --node-name host-1 "$@" </dev/null >"$WORK/$name.out" 2>>"$WORK/$name.log" 3>&- 4>&- 19>&- &
    echo $! >"$WORK/$name.pid"
    until on curl -sfk --max-time 2 "https://10.88.0.1:$port/readyz" >/dev/null 2>&1; do
        if ! kill -0 "$(cat "$WORK/$name.pid")" 2>/dev/null || (($(now_ms) - began > 60000)); then
            echo "the server did not become ready:"
            tail -n 30 "$WORK/$name.log"
            stop_pid "$(cat "$WORK/$name.pid")"
            rm -f "$WORK/$name.pid"
            return 1
        fi
        sleep 0.01
    done
    READY_MS=$(($(now_ms) - began))
}
server_stop() { # NAME: must end by itself
    local pid
    pid=$(cat "$WORK/$1.pid")
    rm -f "$WORK/$1.pid"
    stop_pid "$pid" || { echo "the server had to be killed"; tail -n 30 "$WORK/$1.log"; return 1; }
}
# The processes of a server: its pid and all below it.
server_tree() {
    local todo pid f
    todo=$(cat "$WORK/${1:-a}.pid")
    while [ -n "$todo" ]; do
        pid=${todo%%[[:space:]]*}
        echo "$pid"
        todo=${todo#"$pid"}
        for f in "/proc/$pid/task/"*/children; do
            [ -e "$f" ] && todo="$todo $(cat "$f")"
        done
        todo=$(xargs <<<"$todo")
    done
}
# role_pids ROLE [SCOPE] [NAME]: processes of a role of that server.
role_pids() {
    local pid words
    for pid in $(server_tree "${3:-a}"); do
        mapfile -d '' -t words 2>/dev/null <"/proc/$pid/cmdline" || continue
        [ "${words[1]-}" = "$1" ] || continue
        [[ -z "${2-}" || " ${words[*]} " == *" --scope=$2 "* ]] && echo "$pid"
    done
    return 0
}

k() { on kubectl --kubeconfig "$WORK/a/admin.kubeconfig" "$@"; }
t() { # NAME ARGS…: kubectl with a tenant's kubeconfig
    local name=$1
    shift
    on kubectl --kubeconfig "$WORK/$name.kubeconfig" "$@"
}

# tenant_apply NAME [NAMESPACE]: the smallest Tenant.
tenant_apply() {
    k apply -f - <<EOF
apiVersion: kfarm.dev/v1alpha1
kind: Tenant
metadata: {name: $1, namespace: ${2:-default}}
spec: {}
EOF
}
tenant_fetch() { # writes $WORK/NAME.kubeconfig
    k get secret "$1-kubeconfig" -n "${2:-default}" -o 'jsonpath={.data.value}' | base64 -d >"$WORK/$1.kubeconfig"
    [ -s "$WORK/$1.kubeconfig" ]
}
tenant_up() { # NAME [NAMESPACE]: applied, and answers
    tenant_apply "$@" || return 1
    wait_until tenant_fetch "$@" || return 1
    wait_until t "$1" get namespace default
}
tenant_uid() { k get tenant "$1" -n "${2:-default}" -o 'jsonpath={.metadata.uid}'; }
# Splits a kubeconfig into FILE.crt, FILE.key, FILE.ca and FILE.server, for curl and openssl.
kubeconfig_split() {
    local f=$1 p
    for p in client-certificate-data:crt client-key-data:key certificate-authority-data:ca; do
        awk -v k="${p%:*}:" '$1 == k { print $2 }' "$f" | base64 -d >"${f%.kubeconfig}.${p#*:}"
    done
    awk '$1 == "server:" { print $2 }' "$f" >"${f%.kubeconfig}.server"
}
