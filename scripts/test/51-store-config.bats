# timeout: 600
# How kfarm store is configured, confined, reloaded and stopped.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    export WORK PORT
}
teardown_file() { all_stop; }

refuses() {
    local why=$1
    shift
    run timeout 60 "$KFARM" store --data-dir "$WORK/never" "$@"
    [ "$status" = 2 ]
    [[ "$output" == *"$why"* ]] || { echo "$output"; return 1; }
}
pid() { cat "$WORK/$1.pid"; }

@test "every flag of etcd 3.5 is known; it starts with all that describe one member" {
    local etcd line flag args=() known
    etcd=$(KFARM_CACHE="${KFARM_CACHE:-$HOME/.cache/kfarm}" /usr/bin/python3 -c \
        "import sys; sys.path.insert(0, '$BATS_TEST_DIRNAME'); import store_lib; print(store_lib.etcd_binary('3.5') or '')")
    [ -n "$etcd" ] || skip "no etcd 3.5"
    known=$("$KFARM" store --help)
    while read -r flag; do
        [[ "$known" == *" $flag"[[:space:]]* ]] || { echo "$flag"; return 1; }
    done < <("$etcd" --help 2>&1 | grep -oE '^ +--[a-z0-9-]+' | tr -d ' ')
    store_start all "$PORT" --name one --listen-peer-urls http://127.0.0.1:1 --initial-advertise-peer-urls http://127.0.0.1:1 \
        --initial-cluster one=http://127.0.0.1:1 --initial-cluster-state new --initial-cluster-token t --snapshot-count 10000 \
        --heartbeat-interval 100 --election-timeout 1000 --max-snapshots 5 --max-wals 5 --quota-backend-bytes 8589934592 \
        --auto-compaction-mode revision --auto-compaction-retention 1000 --max-txn-ops 10000 --max-request-bytes 33554432 \
        --max-concurrent-streams 1000 --grpc-keepalive-min-time 5s --grpc-keepalive-interval 2h0m0s --grpc-keepalive-timeout 20s \
        --strict-reconfig-check=true --pre-vote --logger zap --log-outputs stderr --metrics extensive --auth-token simple \
        --auth-token-ttl 300 --bcrypt-cost 4 --experimental-initial-corrupt-check=true --experimental-corrupt-check-time 240m \
        --experimental-compaction-batch-limit 1000 --watch-progress-notify-interval 5s --proxy off --discovery-fallback proxy \
        --cors '*' --host-whitelist '*' --enable-v2=false --socket-reuse-address --feature-gates InitialCorruptCheck=true
    [ "$(ctl member list -w json | jq -r '.members[0].name')" = one ]
    head -c 20000000 /dev/zero | tr '\0' x >"$WORK/big"
    run ctl put big <"$WORK/big"
    proc_stop all
}

@test "what cannot be had is refused, with the flag and a remedy" {
    refuses "--wal-dir /x: there is no log beside the data: use --data-dir" --wal-dir /x
    refuses "--discovery x: a store is one member" --discovery x
    refuses "--client-crl-file x" --client-crl-file x
    refuses "--auto-tls: give --cert-file" --auto-tls
    refuses "--cipher-suites X" --cipher-suites X
    refuses "--cors http://a" --cors http://a
    refuses "--proxy on" --proxy on
    refuses "--bcrypt-cost: 3 is not between 4 and 31" --bcrypt-cost 3
    refuses "--max-txn-ops: 0 is not between" --max-txn-ops 0
    refuses "--auth-token jwt: only simple" --auth-token jwt,pub-key=a
    refuses "--grpc-keepalive-interval: \"5\" is not a duration" --grpc-keepalive-interval 5
    refuses "--auto-compaction-retention: \"5m\" is not a number" --auto-compaction-mode revision --auto-compaction-retention 5m
    refuses "--tls-min-version TLS1.0" --tls-min-version TLS1.0
    refuses "unknown feature \"Nonsense\"" --feature-gates Nonsense=true
    refuses "needs --experimental-enable-lease-checkpoint" --experimental-enable-lease-checkpoint-persist
    refuses "TLS needs --cert-file" --listen-client-urls https://127.0.0.1:0 --advertise-client-urls https://x:1
    refuses "scheme must be" --listen-client-urls ftp://127.0.0.1:0 --advertise-client-urls https://x:1
    refuses "host:port" --listen-client-urls http://127.0.0.1 --advertise-client-urls https://x:1
    refuses "--cert-file and --key-file go together" --cert-file x
    run timeout 60 "$KFARM" store --data-dir "$WORK/never" --cert-file "$WORK/no" --key-file "$WORK/no" \
        --listen-client-urls "https://127.0.0.1:$(free_port)" --advertise-client-urls https://x:1
    [ "$status" != 0 ]
    [[ "$output" == *"--cert-file"*"$WORK/no"* ]]
}

@test "etcd's environment and configuration file" {
    local p=$PORT
    ETCD_NAME=from-env ETCD_DATA_DIR="$WORK/env" ETCD_LISTEN_CLIENT_URLS="http://127.0.0.1:$p" \
        ETCD_ADVERTISE_CLIENT_URLS="http://127.0.0.1:$p" ETCD_LOG_LEVEL=warn ETCD_AUTO_COMPACTION_RETENTION=1h \
        "$KFARM" store >"$WORK/env.log" 2>&1 3>&- &
    echo $! >"$WORK/env.pid"
    wait_port "$p"
    [ "$(ctl member list -w json | jq -r '.members[0].name')" = from-env ]
    proc_stop env
    cat >"$WORK/etcd.yaml" <<END
name: from-file
data-dir: $WORK/file
listen-client-urls: http://127.0.0.1:$p
advertise-client-urls: http://127.0.0.1:$p
quota-backend-bytes: 1073741824
auto-compaction-mode: revision
auto-compaction-retention: "1000"
strict-reconfig-check: false
log-outputs: [stderr]
client-transport-security: {client-cert-auth: false}
peer-transport-security:
  cert-file: $WORK/peer.crt
  auto-tls: true
cors:
END
    ETCD_NAME=ignored "$KFARM" store --config-file "$WORK/etcd.yaml" --name ignored-too >"$WORK/file.log" 2>&1 3>&- &
    echo $! >"$WORK/file.pid"
    wait_port "$p"
    [ "$(ctl member list -w json | jq -r '.members[0].name')" = from-file ]
    [ -f "$WORK/file/store.db" ]
    proc_stop file
    echo "nonsense: 1" >"$WORK/bad.yaml"
    refuses 'unknown key "nonsense"' --config-file "$WORK/bad.yaml"
    echo "auto-tls: true" >"$WORK/bad.yaml"
    refuses '--auto-tls' --config-file "$WORK/bad.yaml"
}

@test "leases keep the time they had left over a restart, when told so" {
    store_start lease "$PORT" --experimental-enable-lease-checkpoint --experimental-enable-lease-checkpoint-persist \
        --lease-checkpoint-interval 1s
    ctl lease grant 600 >/dev/null
    id=$(ctl lease list | tail -1)
    sleep 4
    proc_stop lease -KILL
    store_start lease "$PORT" --experimental-enable-lease-checkpoint --experimental-enable-lease-checkpoint-persist \
        --lease-checkpoint-interval 1s
    left=$(ctl lease timetolive "$id" -w json | jq .ttl)
    [ "$left" -le 598 ]
    [ "$left" -ge 400 ]
    ctl lease keep-alive --once "$id" >/dev/null
    proc_stop lease -KILL
    store_start lease "$PORT"
    left=$(ctl lease timetolive "$id" -w json | jq .ttl)
    [ "$left" -ge 540 ]
    proc_stop lease
}

@test "the system call list is in force, and everything works under it" {
    store_start sec "$PORT" --auto-compaction-mode revision --auto-compaction-retention 100
    local p
    p=$(pid sec)
    grep -q '^Seccomp:[[:space:]]*2$' "/proc/$p/status"
    grep -q '^NoNewPrivs:[[:space:]]*1$' "/proc/$p/status"
    grep -q '^CapEff:[[:space:]]*0000000000000000$' "/proc/$p/status"
    for t in /proc/"$p"/task/*; do grep -q '^Seccomp:[[:space:]]*2$' "$t/status"; done
    for i in $(seq 30); do ctl put k "$i" >/dev/null; done
    ctl compaction 20 --physical
    ctl defrag
    ctl snapshot save "$WORK/sec.snap" >/dev/null
    ctl lease grant 2 >/dev/null
    for t in /proc/"$p"/task/*; do grep -q '^Seccomp:[[:space:]]*2$' "$t/status"; done
    [[ "$(ctl endpoint hashkv 2>&1)" == *","* ]]
    "$KFARM" store restore "$WORK/sec.snap" --data-dir "$WORK/sec2" >/dev/null
    proc_stop sec
    "$KFARM" store check --data-dir "$WORK/sec"
    "$KFARM" store check --data-dir "$WORK/sec2"
    ! grep -i "not permitted" "$WORK/sec.log"
}

@test "certificates are read again on SIGHUP" {
    cd "$WORK" || return 1
    local n p
    for n in one two; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $n.key -out $n.crt -days 2 -subj /CN=$n \
            -addext subjectAltName=IP:127.0.0.1 2>/dev/null
    done
    cp one.crt tls.crt && cp one.key tls.key
    p=$(free_port)
    "$KFARM" store --data-dir "$WORK/hup" --listen-client-urls "https://127.0.0.1:$p" --advertise-client-urls "https://127.0.0.1:$p" \
        --cert-file tls.crt --key-file tls.key >"$WORK/hup.log" 2>&1 3>&- &
    echo $! >"$WORK/hup.pid"
    wait_port "$p"
    curl -s --cacert one.crt "https://127.0.0.1:$p/health" | grep -q true
    cp two.crt tls.crt
    kill -HUP "$(pid hup)" # a certificate without its key: the old pair stays
    for _ in $(seq 100); do grep -q "not read again" hup.log && break; sleep 0.1; done
    curl -s --cacert one.crt "https://127.0.0.1:$p/health" | grep -q true
    cp two.key tls.key
    kill -HUP "$(pid hup)"
    for _ in $(seq 100); do curl -s --cacert two.crt "https://127.0.0.1:$p/health" | grep -q true && break; sleep 0.1; done
    curl -s --cacert two.crt "https://127.0.0.1:$p/health" | grep -q true
    proc_stop hup
}

@test "SIGTERM: calls are answered, streams are ended with a status, the port is free for the next" {
    store_start term "$PORT"
    /usr/bin/python3 - "$BATS_TEST_DIRNAME" "$PORT" "$(pid term)" <<'END'
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
import grpc
from store_raw import Raw, msg
r = Raw(int(sys.argv[2]))
asked = threading.Event()
def requests():
    yield msg([(1, [(1, "k")])])
    asked.wait(20)
watch = r.stream("Watch/Watch", requests(), timeout=20)
next(watch)
began = time.monotonic()
os.kill(int(sys.argv[3]), signal.SIGTERM)
try:
    next(watch)
    sys.exit("an answer")
except grpc.RpcError as e:
    assert e.code().name == "UNAVAILABLE" and "server stopped" in e.details(), e
asked.set()
END
    for _ in $(seq 200); do kill -0 "$(pid term)" 2>/dev/null || break; sleep 0.05; done
    ! kill -0 "$(pid term)" 2>/dev/null || false
    rm "$WORK/term.pid"
    [ ! -e "$WORK/term/store.db-wal" ]
    store_start term "$PORT"
    run timeout 60 "$KFARM" store --data-dir "$WORK/term" --listen-client-urls "http://127.0.0.1:$(free_port)" --advertise-client-urls http://x:1
    [ "$status" != 0 ]
    [[ "$output" == *"--data-dir $WORK/term"*"in use by another process"* ]]
    proc_stop term
}

@test "more listeners: the gateway without gRPC, metrics alone, no gateway" {
    local http metrics
    http=$(free_port) metrics=$(free_port)
    store_start faces "$PORT" --listen-client-http-urls "http://127.0.0.1:$http" --listen-metrics-urls "http://127.0.0.1:$metrics" \
        --enable-grpc-gateway=false
    curl -s "http://127.0.0.1:$metrics/metrics" | grep -q '^etcd_mvcc_put_total'
    curl -s "http://127.0.0.1:$metrics/health" | grep -q true
    expect_code 404 curl "http://127.0.0.1:$metrics/v3/kv/range" -d '{"key":"aw=="}'
    expect_code 404 curl "http://127.0.0.1:$PORT/v3/kv/range" -d '{"key":"aw=="}'
    PORT=$http run ctl --command-timeout 2s get k
    [ "$status" != 0 ]
    proc_stop faces
}
