# timeout: 600
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

tls() { ETCDCTL_API=3 timeout 60 etcdctl --dial-timeout 10s --command-timeout 45s --endpoints "https://127.0.0.1:$PORT" "$@" 2>&1; }
refuses() {
    local why=$1
    shift
    run timeout 60 "$KFARM" store --data-dir "$WORK/never" "$@"
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
    run timeout 60 "$KFARM" store --data-dir "$WORK/tls" --listen-client-urls "http://127.0.0.1:$(free_port)" --advertise-client-urls http://x:1
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

@test "a namespace demands certificates of a CA of its own" {
    cd "$WORK" || return 1
    openssl ecparam -name prime256v1 -genkey -noout -out ns-ca.key
    openssl req -x509 -new -key ns-ca.key -subj /CN=ns-ca -days 2 -out ns-ca.crt 2>/dev/null
    openssl ecparam -name prime256v1 -genkey -noout -out ns.key
    openssl req -new -key ns.key -subj /CN=ns -out ns.csr 2>/dev/null
    openssl x509 -req -in ns.csr -CA ns-ca.crt -CAkey ns-ca.key -CAcreateserial -days 2 -out ns.crt 2>/dev/null
    local all a b
    all=$(free_port) a=$(free_port) b=$(free_port)
    "$KFARM" store --data-dir "$WORK/ns" --listen-client-urls "https://127.0.0.1:$all" --advertise-client-urls "https://127.0.0.1:$all" \
        --cert-file server.crt --key-file server.key --trusted-ca-file ca.crt --client-cert-auth \
        --listen-namespace-urls "https://127.0.0.1:$a=/a/,https://127.0.0.1:$b=/b/,unix:$WORK/ns.sock=/b/" \
        --namespace-trusted-ca-file "/a/=ns-ca.crt" >"$WORK/ns.log" 2>&1 3>&- &
    echo $! >"$WORK/ns.pid"
    wait_port "$b"
    ns() { local p=$1 who=$2; shift 2; PORT=$p tls --cacert ca.crt --cert $who.crt --key $who.key --command-timeout 3s "$@"; }
    [ "$(ns "$a" ns put k 1)" = OK ]
    [ "$(ns "$b" client put k 2)" = OK ]
    [ "$(ns "$all" client get /a/k --print-value-only)" = 1 ]
    run ns "$a" client get k
    [ "$status" != 0 ]
    run ns "$b" ns get k
    [ "$status" != 0 ]
    run ns "$all" ns get k
    [ "$status" != 0 ]
    expect_code 403 curl --unix-socket "$WORK/ns.sock" http://localhost/metrics
    [ "$(curl -s --unix-socket "$WORK/ns.sock" http://localhost/v3/kv/range -d '{"key":"aw=="}' | jq -r .kvs[0].value)" = Mg== ]
    proc_stop ns
    refuses "overlap" --listen-namespace-urls "unix:$WORK/x=/a/,unix:$WORK/y=/a/b/"
    refuses "use https" --listen-namespace-urls "unix:$WORK/x=/a/" --namespace-trusted-ca-file "/a/=ns-ca.crt" --cert-file server.crt \
        --key-file server.key
    refuses "no --listen-namespace-urls has this" --namespace-trusted-ca-file "/a/=ns-ca.crt"
    refuses "is not URL=PREFIX" --listen-namespace-urls "unix:$WORK/x"
}
