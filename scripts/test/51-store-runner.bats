# timeout: 600
# etcd's own etcd-runner against kfarm store: many real clients that elect, lock, watch and keep leases.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    RUNNER=$("$BATS_TEST_DIRNAME/../tools.sh" etcd-runner)/etcd-runner || skip "no etcd-runner"
    export WORK PORT RUNNER
    store_start s "$PORT"
}
teardown_file() { all_stop; }
# runner SECONDS COMMAND ARGUMENTS…: its complaints end it with another status than 0
runner() {
    local limit=$1
    shift
    timeout "$limit" "$RUNNER" --endpoints "127.0.0.1:$PORT" --dial-timeout 20s "$@" 2>&1 | tee "$WORK/runner.out" | tail -n 20
    return "${PIPESTATUS[0]}"
}

@test "election: 10 clients, one leader at a time" {
    runner 100 election --rounds 40 --req-rate 200 --total-client-connections 10
}

@test "lock-racer: 10 clients, one holder at a time" {
    runner 100 lock-racer --rounds 60 --req-rate 200 --total-client-connections 10
}

@test "watcher: 100 watches of 10 prefixes miss nothing" {
    runner 100 watcher --rounds 1 --req-rate 500 --total-keys 200 --total-prefixes 10 --watch-per-prefix 10 --running-time 1s
}

@test "lease-renewer: leases live as long as they are kept alive" {
    # It goes on for ever, and ends by itself only when something is wrong.
    run runner 15 lease-renewer --ttl 3
    echo "$output"
    [ "$status" = 124 ]
    ! grep -qi "error\|fail" "$WORK/runner.out"
}
