# timeout: 600
# What cannot work is refused at once, with the remedy in the message.
load server.bash

setup_file() { net_up; }
teardown_file() { net_down; }

server() { timeout 10 nsenter --net="/run/netns/$NS" -- "$KFARM" server "$@"; }

@test "without root" {
    run setpriv --reuid=65534 --regid=65534 --clear-groups "$KFARM" server --data-dir "$WORK/x"
    [ "$status" = 1 ]
    [[ "$output" == *"started as root"* ]]
}

@test "a port that is taken" {
    nsenter --net="/run/netns/$NS" -- python3 -c 'import socket, time
s = socket.socket(socket.AF_INET6)
s.bind(("::", 6443)); s.listen(); time.sleep(30)' 3>&- &
    holder=$!
    taken() { on ss -ltn | grep -q ':6443 '; }
    wait_until taken
    run server --data-dir "$WORK/x"
    kill "$holder"
    [ "$status" = 1 ]
    [[ "$output" == *"port 6443 is taken"*"--https-listen-port"* ]]
}

@test "a data directory that cannot be written" {
    run server --data-dir /proc/kfarm
    [ "$status" = 1 ]
    [[ "$output" == *"data directory"* ]]
}

@test "a data directory that is a file" {
    : >"$WORK/file"
    run server --data-dir "$WORK/file"
    [ "$status" = 1 ]
    [[ "$output" == *"$WORK/file"* ]]
}

@test "a data directory in use" {
    server_start a
    run server --data-dir "$WORK/a" --https-listen-port 7443 --kubelet-port 0 --disable-netboot
    [ "$status" != 0 ]
    [[ "$output" == *"another kfarm server uses $WORK/a"* ]]
    server_stop a
}

@test "a clock before the certificates" {
    server_start a
    server_stop a
    # The same CA key, certified from next year on: what a machine sees whose clock has lost its battery.
    d=$WORK/a/keyd/admin
    openssl x509 -in "$d/ca.crt" -noout -subject
    mkdir "$WORK/ca"
    cat >"$WORK/ca/config" <<EOF
[ca]
default_ca = c
[c]
database = $WORK/ca/index
serial = $WORK/ca/serial
new_certs_dir = $WORK/ca
default_md = sha256
policy = p
x509_extensions = e
[p]
commonName = supplied
[e]
basicConstraints = critical,CA:TRUE
keyUsage = critical,digitalSignature,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[req]
distinguished_name = n
[n]
EOF
    : >"$WORK/ca/index"
    echo 01 >"$WORK/ca/serial"
    openssl req -new -config "$WORK/ca/config" -key "$d/ca.key" -subj /CN=kubernetes -out "$WORK/ca/csr"
    openssl ca -batch -notext -config "$WORK/ca/config" -selfsign -keyfile "$d/ca.key" -in "$WORK/ca/csr" -out "$WORK/ca/crt" \
        -startdate "$(date -u -d '+1 year' +%Y%m%d%H%M%SZ)" -enddate "$(date -u -d '+9 years' +%Y%m%d%H%M%SZ)"
    cat "$WORK/ca/crt" >"$d/ca.crt"
    rm "$WORK/a/admin.kubeconfig"
    run server --data-dir "$WORK/a" --disable-netboot
    echo "$output"
    [ "$status" = 1 ]
    [[ "$output" == *clock* ]]
}

@test "options that are wrong are named, with exit status 2" {
    for bad in --no-such-option --https-listen-port=http --https-listen-port=70000 --node-ip=here --tenant-ports=9-1 \
        --log-level=loud --write-kubeconfig-mode=rw --bind-address=everywhere --service-cidr=10.0.0.0 \
        --service-cidr=10.0.0.0/31 --cluster-cidr=pods --cluster-cidr=10.0.0.0/16,fd00::/32 --cluster-domain=.. --node-name=Bad_Name \
        --advertise-address=a/b --tls-san='*' --tls-san=a..b; do
        run server --data-dir "$WORK/x" $bad
        echo "$bad: $status $output"
        [ "$status" = 2 ]
        name=${bad#--}
        [[ "$output" == *"${name%%=*}"* ]]
    done
}

@test "a config file with an unknown key is refused" {
    printf 'data-dir: %s\nhttps-lisen-port: 7443\n' "$WORK/x" >"$WORK/config.yaml"
    run server --config "$WORK/config.yaml"
    [ "$status" = 2 ]
    [[ "$output" == *https-lisen-port* ]]
}

@test "what is wrong in a config file or the environment is named with its place" {
    printf 'https-listen-port: http\n' >"$WORK/config.yaml"
    run server --config "$WORK/config.yaml"
    [ "$status" = 2 ]
    [[ "$output" == *"$WORK/config.yaml: https-listen-port: \"http\""* ]]
    KFARM_HTTPS_LISTEN_PORT=http run server --data-dir "$WORK/x"
    [ "$status" = 2 ]
    [[ "$output" == *"KFARM_HTTPS_LISTEN_PORT"*"\"http\""* ]]
    run server --config "$WORK/nothing.yaml"
    [ "$status" = 1 ]
    [[ "$output" == *"$WORK/nothing.yaml"* ]]
}

@test "every command explains itself, unknown options exit with 2, and the README names it" {
    run "$KFARM" help
    [ "$status" = 0 ]
    commands=$("$KFARM" help | awk '/^Commands:/ { on = 1; next } /^$/ { on = 0 } on { print $1 }')
    roles=$("$KFARM" help | awk '/^Roles/ { on = 1; next } /^$/ { on = 0 } on { print $1 }')
    [ -n "$commands" ] && [ -n "$roles" ]
    for c in $commands $roles; do
        run timeout 10 "$KFARM" "$c" --help
        echo "$c: $status"
        [ "$status" = 0 ]
        [[ "$output" == "Usage: kfarm $c"* || "$c" = help ]]
        [ "$c" = help ] || { run timeout 10 "$KFARM" "$c" --no-such-option; [ "$status" = 2 ]; }
    done
    for c in $commands; do
        grep -q "\`kfarm $c" "$BATS_TEST_DIRNAME/../../README.md"
    done
}
