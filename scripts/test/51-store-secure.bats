# timeout: 600
# TLS with client certificates whose common name is the user, and unix sockets: etcdctl 3.4 and 3.5, and Python, get from
# kfarm store what they get from etcd 3.5.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    OTHER=$(free_port)
    export WORK PORT OTHER ETCDCTL_API=3
    cd "$WORK" || return 1
    local n side
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -subj /CN=test-ca -days 2 -out ca.crt 2>/dev/null
    for n in server root alice nobody; do
        openssl ecparam -name prime256v1 -genkey -noout -out $n.key
        openssl req -new -key $n.key -subj /CN=$n -out $n.csr 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' >ext
        openssl x509 -req -in $n.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $n.crt 2>/dev/null
    done
    local tls=(--cert-file server.crt --key-file server.key --trusted-ca-file ca.crt --client-cert-auth)
    "$KFARM" store --data-dir ours --listen-client-urls "https://127.0.0.1:$PORT,unix://$WORK/ours.sock" --log-level warn \
        --advertise-client-urls "https://127.0.0.1:$PORT" "${tls[@]}" >ours.log 2>&1 3>&- &
    echo $! >ours.pid
    # etcd makes TLS of every address or of none, and its unix sockets are host:port at that
    ETCD_VERSION=3.5
    "$(etcd_binary)" --data-dir theirs --listen-client-urls "https://127.0.0.1:$OTHER" --log-level error \
        --advertise-client-urls "https://127.0.0.1:$OTHER" --listen-peer-urls "http://127.0.0.1:$(free_port)" "${tls[@]}" >theirs.log 2>&1 3>&- &
    echo $! >theirs.pid
    wait_port "$PORT"
    for side in $PORT $OTHER; do
        for _ in $(seq 100); do as root "$side" endpoint health >/dev/null && break; sleep 0.1; done
        as root "$side" user add root --no-password
        as root "$side" user add alice --no-password
        as root "$side" role add root
        as root "$side" role add own
        as root "$side" role grant-permission own readwrite --prefix alice/
        as root "$side" user grant-role root root
        as root "$side" user grant-role alice own
        as root "$side" auth enable
    done
}
teardown_file() { all_stop; }

# as USER PORT ARGUMENTS…: etcdctl with the user's certificate
as() {
    local user=$1 port=$2
    shift 2
    timeout 60 "$(etcd_binary etcdctl)" --dial-timeout 45s --command-timeout 45s --endpoints "https://127.0.0.1:$port" --cacert "$WORK/ca.crt" \
        --cert "$WORK/$user.crt" --key "$WORK/$user.key" "$@" 2>&1
}
# alike USER ARGUMENTS…: both servers answer the same
alike() {
    local user=$1 ours theirs a=0 b=0
    shift
    ours=$(as "$user" "$PORT" "$@" | sed -E '/^\{"level"/d; s/127.0.0.1:[0-9]+/ADDRESS/g; s/[0-9.]+(µs|ms|s)\b/TIME/'; exit "${PIPESTATUS[0]}") || a=$?
    theirs=$(as "$user" "$OTHER" "$@" | sed -E '/^\{"level"/d; s/127.0.0.1:[0-9]+/ADDRESS/g; s/[0-9.]+(µs|ms|s)\b/TIME/'; exit "${PIPESTATUS[0]}") || b=$?
    output=$ours
    [ "$ours" = "$theirs" ] && [ $a = $b ] || {
        printf -- '--- %s: etcdctl %s %s: kfarm (%s)\n%s\n--- etcd (%s)\n%s\n' "$user" "$ETCD_VERSION" "$*" $a "$ours" $b "$theirs"
        return 1
    }
}

@test "the common name of a certificate is the user" {
    for ETCD_VERSION in 3.4 3.5; do
        alike alice put alice/a 1
        alike alice get alice/a
        alike alice get --prefix alice/
        alike alice get other
        [[ "$output" == *"permission denied"* ]]
        alike alice put other x
        alike alice user list
        alike alice user get alice
        alike alice lock alice/lock echo held
        alike root put other y
        alike root get --prefix ""
        alike root user get alice --detail
        alike nobody get alice/a
        alike nobody put alice/a x
        as alice "$PORT" snapshot save "$WORK/no.db" && return 1
        as root "$PORT" snapshot save "$WORK/yes.db"
    done
}

@test "no certificate, another CA's, or plain text: nothing" {
    ETCD_VERSION=3.5
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$WORK/bad.key" -subj /CN=root -days 2 \
        -out "$WORK/bad.crt" 2>/dev/null
    local none=(--cacert "$WORK/ca.crt") etcdctl
    etcdctl="timeout 10 $(etcd_binary etcdctl) --command-timeout 2s --dial-timeout 2s"
    ! $etcdctl --endpoints "https://127.0.0.1:$PORT" "${none[@]}" get alice/a || false
    ! $etcdctl --endpoints "https://127.0.0.1:$PORT" "${none[@]}" --cert "$WORK/bad.crt" --key "$WORK/bad.key" get alice/a || false
    ! $etcdctl --endpoints "http://127.0.0.1:$PORT" get alice/a
}

# etcdctl 3.4 names the socket's path as the authority, which is none by RFC 3986: HTTP/2 refuses the stream.
@test "a unix socket: etcdctl 3.5 and Python, with a password since it shows no certificate" {
    as root "$PORT" user add bob:pw
    as root "$PORT" user grant-role bob own
    ETCD_VERSION=3.5
    local etcdctl="timeout 60 $(etcd_binary etcdctl) --dial-timeout 45s --command-timeout 45s --endpoints unix://$WORK/ours.sock"
    [[ "$($etcdctl get alice/a 2>&1 || true)" == *"user name is empty"* ]]
    [ "$($etcdctl --user bob:pw put alice/u "$ETCD_VERSION" 2>/dev/null)" = OK ]
    [ "$($etcdctl --user bob:pw get alice/u --print-value-only 2>/dev/null)" = "$ETCD_VERSION" ]
    $etcdctl --user bob:pw watch alice/w >"$WORK/watch" 2>&1 3>&- &
    echo $! >"$WORK/watch.pid"
    for _ in $(seq 100); do
        $etcdctl --user bob:pw put alice/w seen >/dev/null 2>&1
        grep -q seen "$WORK/watch" && break
        sleep 0.1
    done
    grep -q seen "$WORK/watch"
    proc_stop watch
    run /usr/bin/python3 -c "
import grpc, etcd3.etcdrpc as pb
ch = grpc.insecure_channel('unix:$WORK/ours.sock')
token = pb.AuthStub(ch).Authenticate(pb.AuthenticateRequest(name='bob', password='pw'), timeout=60).token
print(pb.KVStub(ch).Range(pb.RangeRequest(key=b'alice/u'), timeout=5, metadata=[('token', token)]).kvs[0].value.decode())"
    [ "$output" = 3.5 ]
}

@test "Python over TLS with a certificate" {
    run /usr/bin/python3 -c "
import etcd3
c = etcd3.client(host='127.0.0.1', port=$PORT, ca_cert='$WORK/ca.crt', cert_cert='$WORK/alice.crt', cert_key='$WORK/alice.key', timeout=60)
c.put('alice/py', 'tls')
print(c.get('alice/py')[0].decode())
try:
    c.get('other')
except Exception as e:
    print('denied' if 'permission denied' in str(e.details() if hasattr(e, 'details') else e) else e)"
    echo "$output"
    [ "$output" = $'tls\ndenied' ]
}
