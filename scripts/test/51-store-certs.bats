# timeout: 60
# Certificates, keys and client CAs that change are in use without a signal: what openssl's client is shown by `kfarm store`
# (confined by seccomp) and `kfarm apiserver`, and what etcd is shown by the API server's client.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    export WORK PORT
    cd "$WORK" || return 1
    local n
    for n in one two three four; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $n.key -out $n.crt -days 2 -subj /CN=$n \
            -addext subjectAltName=IP:127.0.0.1 2>/dev/null
    done
    # as Kubernetes mounts a Secret
    mkdir -p mount/..v1 plain
    cp one.crt mount/..v1/tls.crt && cp one.key mount/..v1/tls.key && cp one.crt mount/..v1/ca.crt
    ln -s ..v1 mount/..data
    for n in tls.crt tls.key ca.crt; do ln -s ..data/$n mount/$n; done
    "$KFARM" store --data-dir ours --listen-client-urls "https://127.0.0.1:$PORT" --advertise-client-urls "https://127.0.0.1:$PORT" \
        --cert-file mount/tls.crt --key-file mount/tls.key --trusted-ca-file mount/ca.crt --client-cert-auth >ours.log 2>&1 3>&- &
    echo $! >ours.pid
    wait_port "$PORT"
}
teardown_file() { all_stop; }

# shown PORT: the common name of the server's certificate
shown() { timeout 10 openssl s_client -connect "127.0.0.1:$1" </dev/null 2>/dev/null | openssl x509 -noout -subject 2>/dev/null | sed 's/.*CN = //'; }
# shows PORT NAME: sooner or later
shows() {
    for _ in $(seq 100); do [ "$(shown "$1")" = "$2" ] && return 0; sleep 0.05; done
    echo "port $1 shows $(shown "$1"), not $2" && return 1
}
# trusts NAME: the store answers who shows this certificate
trusts() {
    local want=$2
    for _ in $(seq 100); do
        [ "$(curl -sk -m 5 --cert "$1.crt" --key "$1.key" "https://127.0.0.1:$PORT/health" | grep -c true)" = "$want" ] && return 0
        sleep 0.05
    done
    return 1
}
# secret NAME VERSION: a new version of the mounted Secret
secret() {
    mkdir "mount/..$2"
    cp "$1.crt" "mount/..$2/tls.crt" && cp "$1.key" "mount/..$2/tls.key" && cp "$1.crt" "mount/..$2/ca.crt"
    ln -s "..$2" mount/..tmp
    mv -T mount/..tmp mount/..data
}

@test "a mounted Secret: the link ..data is exchanged, twice; client CAs go along" {
    cd "$WORK" || return 1
    shows "$PORT" one
    trusts one 1
    trusts two 0
    secret two v2
    shows "$PORT" two
    trusts two 1
    trusts one 0
    rm -r mount/..v1
    secret three v3
    shows "$PORT" three
    trusts three 1
}

@test "written in place, a half at a time: the old pair stays and the failure is told once" {
    cd "$WORK" || return 1
    cp four.crt mount/..v3/tls.crt
    for _ in $(seq 100); do grep -q "not read again" ours.log && break; sleep 0.05; done
    echo nonsense >mount/..v3/tls.key
    sleep 0.3
    cp four.crt mount/..v3/tls.crt # as it was
    sleep 0.3
    shows "$PORT" three
    [ "$(grep -c "do not belong together" ours.log)" = 1 ]
    cp four.key mount/..v3/tls.key
    shows "$PORT" four
}

@test "the directory is moved away and another takes its place" {
    cd "$WORK" || return 1
    mkdir new && cp one.crt new/tls.crt && cp one.key new/tls.key && cp one.crt new/ca.crt
    mv mount old
    sleep 0.2
    shows "$PORT" four
    mv new mount
    shows "$PORT" one
    grep -L "not permitted" ours.log | grep -q ours.log
    proc_stop ours
}

@test "the API server: its own certificate by rename, client CAs, and its certificate towards etcd" {
    cd "$WORK" || return 1
    local p etcd
    p=$(free_port)
    etcd=$(free_port)
    cp one.crt srv.crt && cp one.key srv.key && cp one.crt ca.crt
    cp two.crt cli.crt && cp two.key cli.key && cat one.crt two.crt >trust.crt
    "$KFARM" store --data-dir theirs --listen-client-urls "https://127.0.0.1:$etcd" --advertise-client-urls "https://127.0.0.1:$etcd" \
        --cert-file one.crt --key-file one.key --trusted-ca-file trust.crt --client-cert-auth >theirs.log 2>&1 3>&- &
    echo $! >theirs.pid
    wait_port "$etcd"
    "$KFARM" apiserver --etcd-servers "https://127.0.0.1:$etcd" --etcd-cafile one.crt --etcd-certfile cli.crt --etcd-keyfile cli.key \
        --tls-cert-file srv.crt --tls-private-key-file srv.key --client-ca-file ca.crt --secure-port "$p" --bind-address 127.0.0.1 >api.log 2>&1 3>&- &
    echo $! >api.pid
    wait_port "$p"
    shows "$p" one
    cp two.key .key && mv .key srv.key && cp two.crt .crt && mv .crt srv.crt
    shows "$p" two
    # etcd trusts another certificate from now on, and only by that one can the client come back
    cp three.crt trust.crt
    cp three.key cli.key && cp three.crt cli.crt
    for _ in $(seq 100); do grep -q '"\?etcd"\?.*read again\|pkg=etcd.*read again' api.log && break; sleep 0.05; done
    proc_stop theirs
    "$KFARM" store --data-dir theirs --listen-client-urls "https://127.0.0.1:$etcd" --advertise-client-urls "https://127.0.0.1:$etcd" \
        --cert-file one.crt --key-file one.key --trusted-ca-file trust.crt --client-cert-auth >theirs2.log 2>&1 3>&- &
    echo $! >theirs.pid
    for _ in $(seq 200); do tail -n 3 api.log | grep -q "the cluster answers" && break; sleep 0.05; done
    tail -n 3 api.log | grep -q "the cluster answers"
    proc_stop api
    proc_stop theirs
}
