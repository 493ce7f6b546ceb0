# store.bash: loaded by the store's bats files: kfarm store on a free port, etcdctl, a real etcd.
. "$BATS_TEST_DIRNAME/common.bash"
KFARM=${KFARM:-$BATS_TEST_DIRNAME/../../build/kfarm}

# etcd_binary [etcd|etcdctl|etcdutl]: of $ETCD_VERSION (3.4 or 3.5), which scripts/setup.sh test has fetched.
etcd_binary() {
    local binary=${KFARM_CACHE:-$HOME/.cache/kfarm}/etcd${ETCD_VERSION//./}/usr/bin/${1:-etcd}
    [ ! -x "$binary" ] || echo "$binary"
}
ETCD_VERSION=${ETCD_VERSION:-3.4}
wait_port() {
    local i
    for ((i = 0; i < 1200; i++)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
        sleep 0.05
    done
    return 1
}
# store_start <name> <port> [flags…]: data in $WORK/<name>, pid in $WORK/<name>.pid
store_start() {
    local name=$1 port=$2
    shift 2
    "$KFARM" store --data-dir "$WORK/$name" --listen-client-urls "http://127.0.0.1:$port" \
        --advertise-client-urls "http://127.0.0.1:$port" --log-level warn "$@" >"$WORK/$name.log" 2>&1 3>&- &
    echo $! >"$WORK/$name.pid"
    wait_port "$port"
}
etcd_start() {
    local name=$1 port=$2 peer
    peer=$(free_port)
    shift 2
    "$(etcd_binary)" --data-dir "$WORK/$name" --listen-client-urls "http://127.0.0.1:$port" \
        --advertise-client-urls "http://127.0.0.1:$port" --listen-peer-urls "http://127.0.0.1:$peer" \
        --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" \
        --logger zap --log-level error "$@" >"$WORK/$name.log" 2>&1 3>&- &
    echo $! >"$WORK/$name.pid"
    wait_port "$port"
}
proc_stop() {
    local pid
    pid=$(cat "$WORK/$1.pid" 2>/dev/null) || return 0
    rm -f "$WORK/$1.pid"
    kill "${2:--TERM}" "$pid" 2>/dev/null || return 0
    local i
    for ((i = 0; i < 200; i++)); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.05
    done
    kill -KILL "$pid"
}
all_stop() {
    local f
    for f in "$WORK"/*.pid; do
        [ -e "$f" ] && proc_stop "$(basename "$f" .pid)"
    done
    rm -rf "$WORK"
}
ctl() {
    ETCDCTL_API=3 timeout 60 "$(etcd_binary etcdctl)" --dial-timeout 45s --command-timeout 45s --endpoints \
        "127.0.0.1:${PORT:?}" "$@" 2>&1
}
