# timeout: 600
# Users, roles and ranges, with etcdctl; and users that move to a real etcd in a snapshot.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    export WORK PORT
    store_start s "$PORT"
}
teardown_file() { all_stop; }
as() { local u=$1; shift; ctl --user "$u" "$@"; }

@test "users, roles and grants" {
    ctl user add root:rootpw
    ctl user add alice:alicepw
    [[ "$(ctl user add alice:x || true)" == *"user name already exists"* ]]
    ctl role add reader
    ctl role grant-permission reader read app/ app0
    ctl role grant-permission reader readwrite own/alice
    [[ "$(ctl user grant-role alice nothing || true)" == *"role name not found"* ]]
    ctl user grant-role alice reader
    [[ "$(ctl user get alice)" == *reader* ]]
    [[ "$(ctl role get reader)" == *app/* ]]
    [ "$(ctl user list)" = $'alice\nroot' ]
    ctl put app/1 one
    ctl put secret/1 hidden
    ctl user grant-role root root
    [[ "$(ctl auth enable)" == *"Authentication Enabled"* ]]
}

@test "nobody without a name, nobody with a wrong password" {
    [[ "$(ctl get app/1 || true)" == *"user name is empty"* ]]
    [[ "$(as alice:wrong get app/1 || true)" == *"authentication failed, invalid user ID or password"* ]]
    [[ "$(as nobody:x get app/1 || true)" == *"authentication failed, invalid user ID or password"* ]]
}

@test "a user reads and writes where the roles allow, nowhere else" {
    [ "$(as alice:alicepw get app/1 --print-value-only)" = one ]
    [ "$(as alice:alicepw get --prefix app/ --print-value-only)" = one ]
    [[ "$(as alice:alicepw put app/1 x || true)" == *"permission denied"* ]]
    [[ "$(as alice:alicepw get secret/1 || true)" == *"permission denied"* ]]
    [[ "$(as alice:alicepw get --prefix "" || true)" == *"permission denied"* ]]
    [ "$(as alice:alicepw put own/alice mine)" = OK ]
    [[ "$(as alice:alicepw del own/alice --prefix || true)" == *"permission denied"* ]]
    run as alice:alicepw txn <<<$'\nput own/alice a\nget secret/1\n\n\n'
    [[ "$output" == *"permission denied"* ]]
    [ "$(as alice:alicepw get own/alice --print-value-only)" = mine ]
    [[ "$(timeout 20 env ETCDCTL_API=3 etcdctl --dial-timeout 15s --endpoints "127.0.0.1:$PORT" --user alice:alicepw watch secret/1 2>&1 || true)" == *"permission denied"* ]]
}

@test "only administrators manage" {
    [[ "$(as alice:alicepw user add bob:x || true)" == *"permission denied"* ]]
    [[ "$(as alice:alicepw role list || true)" == *"permission denied"* ]]
    [[ "$(as alice:alicepw snapshot save "$WORK/no.db" || true)" == *"permission denied"* ]]
    [[ "$(as alice:alicepw user get alice)" == *reader* ]]
    [[ "$(as root:rootpw user delete root || true)" == *"invalid auth management"* ]]
    echo changed | as root:rootpw user passwd alice --interactive=false
    [[ "$(as alice:alicepw get app/1 || true)" == *"authentication failed"* ]]
    [ "$(as alice:changed get app/1 --print-value-only)" = one ]
}

@test "it survives a restart" {
    proc_stop s -KILL
    store_start s "$PORT"
    [[ "$(ctl get app/1 || true)" == *"user name is empty"* ]]
    [ "$(as alice:changed get app/1 --print-value-only)" = one ]
}

@test "users move to a real etcd with a snapshot" {
    [ -n "$(etcd_binary)" ] || skip "no etcd"
    as root:rootpw snapshot save "$WORK/snap.db"
    ETCDCTL_API=3 etcdctl snapshot restore "$WORK/snap.db" --data-dir "$WORK/e" >/dev/null 2>&1
    p=$(free_port)
    "$(etcd_binary)" --data-dir "$WORK/e" --listen-client-urls "http://127.0.0.1:$p" --advertise-client-urls \
        "http://127.0.0.1:$p" --listen-peer-urls "http://127.0.0.1:$(free_port)" --logger zap --log-level error \
        >"$WORK/e.log" 2>&1 3>&- &
    echo $! >"$WORK/e.pid"
    wait_port "$p"
    for _ in $(seq 300); do PORT=$p as alice:changed get app/1 >/dev/null && break; sleep 0.1; done
    [ "$(PORT=$p as alice:changed get app/1 --print-value-only)" = one ]
    [[ "$(PORT=$p as alice:changed get secret/1 || true)" == *"permission denied"* ]]
    proc_stop e
}

@test "revoked roles, removed roles, switched off" {
    as root:rootpw role revoke-permission reader app/ app0
    [[ "$(as alice:changed get app/1 || true)" == *"permission denied"* ]]
    as root:rootpw role delete reader
    [[ "$(as alice:changed put own/alice x || true)" == *"permission denied"* ]]
    [[ "$(as root:rootpw auth disable)" == *Disabled* ]]
    [ "$(ctl get app/1 --print-value-only)" = one ]
}
