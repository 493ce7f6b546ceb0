#!/usr/bin/env bats
# kfarm's HTTP and TLS against clients that are not ours: curl, openssl, nghttp, h2load, python.
# The server is the test runner's (internal/t/t_httpd.c).
# timeout: 600

load common.bash

bats_require_minimum_version 1.5.0

runner=${KFARM_TESTS:-$BATS_TEST_DIRNAME/../../build/check/kfarm-tests}

setup_file() {
    [ -x "$runner" ] || env -u MAKEFLAGS make -C "$BATS_TEST_DIRNAME/../.." build/check/kfarm-tests >&2 || return
    cd "$BATS_FILE_TMPDIR" || return
    openssl ecparam -name prime256v1 -genkey -noout -out ca.key
    openssl req -x509 -new -key ca.key -subj /CN=ca -days 2 -out ca.pem
    cp ca.key other.key && openssl ecparam -name prime256v1 -genkey -noout -out other.key
    openssl req -x509 -new -key other.key -subj /CN=other -days 2 -out other.pem
    issue srv /CN=srv ca "subjectAltName=DNS:localhost,IP:127.0.0.1"
    issue cli /O=system:masters/O=b/CN=admin ca "extendedKeyUsage=clientAuth"
    issue bad /CN=evil other "extendedKeyUsage=clientAuth"
    head -c 3000000 /dev/urandom >body
    start plain
    start tls -c srv.pem -k srv.key -a ca.pem
}

issue() { # name subject ca extensions
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA "$3.pem" -CAkey "$3.key" -CAcreateserial -days 1 \
        -extfile <(echo "$4") -out "$1.pem"
}

start() { # name options; serves until its fifo has no writer
    local name=$1
    shift
    mkfifo "$name.fifo"
    "$runner" --httpd -p 0 "$@" <"$name.fifo" >"$name.out" 2>"$name.err" 3>&- &
    echo $! >"$name.pid"
    sleep 1000 >"$name.fifo" 3>&- &
    echo $! >"$name.hold"
    for _ in $(seq 300); do
        grep -q ready "$name.out" && break
        sleep 0.1
    done
    awk '{print $2}' "$name.out" >"$name.port"
}

teardown_file() {
    cd "$BATS_FILE_TMPDIR" || return
    for name in plain tls; do
        kill "$(cat $name.hold)" # the server sees the end of its input, and leaks would fail it
        for _ in $(seq 300); do
            kill -0 "$(cat $name.pid)" 2>/dev/null || break
            sleep 0.1
        done
        ! kill "$(cat $name.pid)" 2>/dev/null || echo "# $name did not stop" >&3
        ! grep -E 'ERROR|runtime error' "$name.err" >&3 || false
    done
}

setup() {
    cd "$BATS_FILE_TMPDIR" || return
    unset CURL_CA_BUNDLE REQUESTS_CA_BUNDLE SSL_CERT_FILE
    export no_proxy='*'
    plain=http://127.0.0.1:$(cat plain.port)
    port=$(cat tls.port)
    tls=https://127.0.0.1:$port
    c="curl -sS --max-time 20 --cacert ca.pem"
}

@test "curl: one answer, keep-alive, HEAD, 404 (HTTP/1.1, HTTP/1.0, h2c)" {
    for v in --http1.1 --http1.0 --http2-prior-knowledge; do
        [ "$($c $v $plain/hello)" = hello ]
        expect_code 404 $c $v $plain/nothing
        $c $v -I $plain/hello | grep -qi '^content-length: 6'
    done
    [ "$($c $plain/hello $plain/hello -w '%{num_connects}')" = "$(printf 'hello\n1hello\n0')" ]
}

@test "curl: bodies both ways, whole, streamed, from a file, over every version" {
    for u in "$plain" "$tls"; do
        for v in --http1.1 --http2-prior-knowledge; do
            $c $v --data-binary @body "$u/echo" | cmp - body
            $c $v -H 'Transfer-Encoding: chunked' --data-binary @body "$u/stream" | cmp - body
            $c $v "$u/file?path=$PWD/body" | cmp - body
            [ "$($c $v "$u/big?n=30000000" | wc -c)" = 30000000 ]
        done
    done
}

@test "curl: an answer in chunks ends, an aborted one is an error, one cut by the client is noticed" {
    [ "$($c "$plain/watch?n=3&ms=20" | wc -l)" = 3 ]
    [ "$($c --http1.0 "$plain/watch?n=3&ms=20" | wc -l)" = 3 ]
    run ! $c "$plain/abort"
    run ! $c --http2-prior-knowledge "$plain/abort"
    run ! $c -N --max-time 0.5 "$plain/watch?n=100&ms=100"
    for _ in $(seq 300); do grep -q 'complete=0' plain.err && break; sleep 0.1; done
    grep -q 'complete=0' plain.err
}

@test "curl: 413 for a body beyond the limit, and the next request still works" {
    run $c -o /dev/null -w '%{http_code}' --data-binary @body "$plain/echo?max=1000"
    [[ $output == *413* ]]
    [ "$($c $plain/hello)" = hello ]
}

@test "curl: TLS 1.2 and 1.3, HTTP/1.1 and 2, with and without client certificate" {
    for t in '--tls-max 1.2' --tlsv1.3; do
        for v in 1.1 2; do
            $c $t --http$v $tls/who | grep "version=${v%.*} cn= "
            $c $t --http$v --cert cli.pem --key cli.key $tls/who |
                grep "version=${v%.*} cn=admin o=system:masters o=b "
        done
    done
    $c --resolve "localhost:$port:127.0.0.1" "https://localhost:$port/who" | grep sni=localhost
}

@test "curl: a client certificate of another CA is refused, and told why" {
    for t in '--tls-max 1.2' --tlsv1.3; do
        run $c $t --cert bad.pem --key bad.key $tls/who
        [ "$status" -ne 0 ]
        [[ $output == *"unknown ca"* ]]
    done
}

@test "openssl: protocol, chain, ALPN; nothing below TLS 1.2" {
    s="timeout 60 openssl s_client -connect 127.0.0.1:$port -CAfile ca.pem -verify_return_error"
    $s -alpn h2 </dev/null 2>&1 | grep 'ALPN protocol: h2'
    $s -alpn http/1.1 -tls1_2 </dev/null 2>&1 | grep 'ALPN protocol: http/1.1'
    $s </dev/null 2>&1 | grep 'Verify return code: 0'
    run ! $s -tls1_1 -cipher DEFAULT:@SECLEVEL=0 </dev/null
    run ! $s -tls1_2 -cipher AES128-SHA </dev/null
}

@test "nghttp: many streams of one connection, trailers, a window-bound body" {
    nghttp -n -m 200 $plain/hello
    nghttp $plain/trailers | grep body
    nghttp -v $plain/trailers | grep 'grpc-status: 0'
    [ "$(nghttp -w 16 -W 16 "$plain/big?n=5000000" | wc -c)" = 5000000 ]
}

@test "h2load: every request is answered" {
    for u in "$plain" "$tls"; do
        h2load -n 3000 -c 20 -m 20 $u/hello | grep ' 3000 succeeded, 0 failed'
        h2load -n 3000 -c 20 --h1 $u/hello | grep ' 3000 succeeded, 0 failed'
    done
}

@test "python requests: session, post, stream, client certificate" {
    python3 -c 'import requests' || skip "no requests"
    python3 - "$tls" <<'EOF'
import sys, requests
s = requests.Session()
s.trust_env, s.verify, s.cert = False, "ca.pem", ("cli.pem", "cli.key")
u = sys.argv[1]
assert "cn=admin" in s.get(u + "/who").text
body = open("body", "rb").read()[:100000]
assert s.post(u + "/echo", data=body).content == body
assert s.post(u + "/nothing", data=body).status_code == 404
assert list(s.get(u + "/watch?n=3&ms=50", stream=True).iter_lines()) == [b"tick 3", b"tick 2", b"tick 1"]
def parts():
    for i in range(10):
        yield body[i * 1000:(i + 1) * 1000]
assert s.post(u + "/stream", data=parts()).content == body[:10000]
EOF
}

@test "python sockets: upgrade, pipelining, bytes one by one, half-close" {
    python3 - "$(cat plain.port)" <<'EOF'
import socket, sys, time
def talk(data, slow=False, close=False, until=None):
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    s.settimeout(5)
    for part in ([data[i:i+1] for i in range(len(data))] if slow else [data]):
        s.sendall(part)
    if close:
        s.shutdown(socket.SHUT_WR)
    out = b""
    while until is None or out.count(until[0]) < until[1]:
        got = s.recv(65536)
        if not got:
            break
        out += got
    return out
get = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
assert talk(get * 50, until=(b"hello\n", 50)).count(b"200 OK") == 50
assert talk(get, slow=True, until=(b"hello\n", 1))
assert talk(get, close=True).endswith(b"hello\n")
up = b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly"
out = talk(up, until=(b"early", 1))
assert out.startswith(b"HTTP/1.1 101 ") and out.endswith(b"early"), out
assert b" 400 " in talk(b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n")
EOF
}

@test "a thousand idle connections and a slow reader do not disturb others" {
    ulimit -n 4096
    python3 - "$(cat plain.port)" <<'EOF'
import socket, sys, time
P = int(sys.argv[1])
idle = [socket.create_connection(("127.0.0.1", P)) for _ in range(1000)]
slow = socket.create_connection(("127.0.0.1", P))
slow.sendall(b"GET /big?n=100000000 HTTP/1.1\r\nHost: a\r\n\r\n")
t = time.time()
for i in range(50):
    s = socket.create_connection(("127.0.0.1", P))
    s.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"hello" in s.recv(4096)
assert time.time() - t < 5
EOF
}
