# timeout: 120
# kfarm store's flags: TLS with client certificates, unix sockets, what is refused and why.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    export WORK PORT
    cd "$WORK" || return 1
    local n
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -subj /CN=test-ca -days 2 -out ca.crt 2>/dev/null
    for n in server client; do
        openssl ecparam -name prime256v1 -genkey -noout -out $n.key
        openssl req -new -key $n.key -subj /CN=$n -out $n.csr 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' >ext
        openssl x509 -req -in $n.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $n.crt 2>/dev/null
    done
    "$KFARM" store --data-dir "$WORK/tls" --listen-client-urls "https://127.0.0.1:$PORT,unix://$WORK/sock" \
        --advertise-client-urls "https://127.0.0.1:$PORT" --cert-file server.crt --key-file server.key \
        --trusted-ca-file ca.crt --client-cert-auth >"$WORK/tls.log" 2>&1 3>&- &
    echo $! >"$WORK/tls.pid"
    wait_port "$PORT"
}
teardown_file() { all_stop; }

tls() { ETCDCTL_API=3 timeout 10 etcdctl --endpoints "https://127.0.0.1:$PORT" "$@" 2>&1; }
refuses() {
    local why=$1
    shift
    run timeout 5 "$KFARM" store --data-dir "$WORK/never" "$@"
    [ "$status" = 2 ]
    [[ "$output" == *"$why"* ]]
}

@test "a client with a certificate of the trusted CA is served" {
    [ "$(tls --cacert "$WORK/ca.crt" --cert "$WORK/client.crt" --key "$WORK/client.key" put a 1)" = OK ]
}

@test "without a certificate, or in plain text, nothing is served" {
    run tls --cacert "$WORK/ca.crt" --command-timeout 2s get a
    [ "$status" != 0 ]
    run env ETCDCTL_API=3 timeout 10 etcdctl --endpoints "http://127.0.0.1:$PORT" --command-timeout 2s get a
    [ "$status" != 0 ]
}

@test "the unix socket is served in plain and belongs to its owner only" {
    [ "$(stat -c %a "$WORK/sock")" = 600 ]
    [ "$(curl -s --unix-socket "$WORK/sock" http://localhost/health | jq -r .health)" = true ]
    run /usr/bin/python3 -c "
import grpc, etcd3.etcdrpc as pb
kv = pb.KVStub(grpc.insecure_channel('unix:$WORK/sock'))
print(kv.Range(pb.RangeRequest(key=b'a'), timeout=5).kvs[0].value.decode())"
    [ "$output" = 1 ]
}

@test "files are private" {
    [ "$(stat -c %a "$WORK/tls/store.db")" = 600 ]
    [ "$(stat -c %a "$WORK/tls")" = 700 ]
}

@test "what cannot be honoured is refused with a reason" {
    refuses "one member" --initial-cluster "a=http://x:1,b=http://y:1"
    refuses "v2 API" --enable-v2
    refuses "durable" --unsafe-no-fsync
    refuses "only simple tokens" --auth-token jwt
    refuses "without TLS only loopback" --listen-client-urls http://0.0.0.0:0 --advertise-client-urls http://x:1
    refuses "advertise-client-urls" --listen-client-urls http://127.0.0.1:1
    refuses "not a duration" --auto-compaction-retention soon
    refuses "neither periodic nor revision" --auto-compaction-retention 1h --auto-compaction-mode x
    refuses "unknown" --no-such-flag
}

@test "a second process is kept out of the same directory" {
    run timeout 5 "$KFARM" store --data-dir "$WORK/tls" --listen-client-urls "http://127.0.0.1:$(free_port)" --advertise-client-urls http://x:1
    [ "$status" != 0 ]
    [[ "$output" == *"in use by another process"* ]]
}

@test "auto-compaction by time" {
    p=$(free_port)
    store_start auto "$p" --auto-compaction-mode periodic --auto-compaction-retention 2s
    PORT=$p
    for _ in $(seq 5); do ctl put a x; done
    for _ in $(seq 80); do
        [[ "$(ctl get a --rev 2 || true)" == *compacted* ]] && break
        sleep 0.1
    done
    [[ "$(ctl get a --rev 2 || true)" == *compacted* ]]
    [ "$(ctl get a --print-value-only)" = x ]
}

@test "SIGTERM ends it in good order" {
    proc_stop tls
    [ ! -e "$WORK/tls/store.db-wal" ]
}
