# timeout: 600
# Snapshots go both ways between one SQLite file and a real etcd, with etcd's own tools.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    export WORK PORT
    store_start s "$PORT"
    local i
    for i in $(seq 60); do ctl put "key/$((i % 25))" "value $i" >/dev/null; done
    head -c 30000 /dev/zero | tr '\0' b | ctl put big >/dev/null
    ctl del key/3 >/dev/null
    ctl put leased x --lease="$(ctl lease grant 1000 --hex 2>/dev/null | awk '{print $2}')" >/dev/null
    ctl compaction 40 --physical >/dev/null
    for i in $(seq 10); do ctl put "key/$i" "late $i" >/dev/null; done
}
teardown_file() { all_stop; }

all_of() { PORT=$1 ctl get --prefix "" -w json "${@:2}" | jq -c '[.kvs, .count, .header.revision]'; }

@test "etcdctl snapshot save and status accept it" {
    ctl snapshot save "$WORK/snap.db"
    run env ETCDCTL_API=3 etcdctl snapshot status "$WORK/snap.db" -w json
    [ "$status" = 0 ]
    rev=$(ctl get big -w json | jq .header.revision)
    [ "$(jq .revision <<<"$output")" = "$rev" ]
}

@test "a real etcd starts from it with every key, revision, lease and the compacted revision" {
    [ -n "$(etcd_binary)" ] || skip "no etcd"
    ETCDCTL_API=3 etcdctl snapshot restore "$WORK/snap.db" --data-dir "$WORK/e" >/dev/null 2>&1
    p=$(free_port)
    rm -rf "$WORK/e.pid"
    "$(etcd_binary)" --data-dir "$WORK/e" --listen-client-urls "http://127.0.0.1:$p" --advertise-client-urls \
        "http://127.0.0.1:$p" --listen-peer-urls "http://127.0.0.1:$(free_port)" --logger zap --log-level error \
        >"$WORK/e.log" 2>&1 3>&- &
    echo $! >"$WORK/e.pid"
    wait_port "$p"
    for _ in $(seq 100); do PORT=$p ctl endpoint health >/dev/null && break; sleep 0.1; done
    [ "$(all_of "$PORT")" = "$(all_of "$p")" ]
    [ "$(all_of "$PORT" --rev 50)" = "$(all_of "$p" --rev 50)" ]
    [ "$(all_of "$PORT" --rev 40)" = "$(all_of "$p" --rev 40)" ]
    [[ "$(PORT=$p ctl get big --rev 39 || true)" == *"has been compacted"* ]]
    [ "$(PORT=$p ctl lease list | tail -1)" = "$(ctl lease list | tail -1)" ]
    ours=$(ctl endpoint hashkv --rev 60 | awk '{print $2}')
    [ "$ours" = "$(PORT=$p ctl endpoint hashkv --rev 60 | awk '{print $2}')" ]
    proc_stop e
}

@test "kfarm store restore takes it back, and a real etcd's too" {
    "$KFARM" store restore "$WORK/snap.db" --data-dir "$WORK/again"
    p=$(free_port)
    store_start again "$p"
    [ "$(all_of "$PORT")" = "$(all_of "$p")" ]
    [ "$(all_of "$PORT" --rev 45)" = "$(all_of "$p" --rev 45)" ]
    [ -n "$(etcd_binary)" ] || skip "no etcd"
    e=$(free_port)
    etcd_start real "$e"
    for i in $(seq 80); do PORT=$e ctl put "k/$((i % 7))" "v$i" >/dev/null; done
    PORT=$e ctl del k/2 >/dev/null
    PORT=$e ctl put k/l v --lease="$(PORT=$e ctl lease grant 500 | awk '{print $2}')" >/dev/null
    PORT=$e ctl compaction 30 --physical >/dev/null
    PORT=$e ctl snapshot save "$WORK/real.db"
    run "$KFARM" store restore "$WORK/real.db" --data-dir "$WORK/fromreal"
    [ "$status" = 0 ]
    f=$(free_port)
    store_start fromreal "$f"
    [ "$(all_of "$e")" = "$(all_of "$f")" ]
    [ "$(all_of "$e" --rev 30)" = "$(all_of "$f" --rev 30)" ]
    [[ "$(PORT=$f ctl get k/1 --rev 29 || true)" == *"has been compacted"* ]]
    [ "$(PORT=$e ctl lease list | tail -1)" = "$(PORT=$f ctl lease list | tail -1)" ]
    [ "$(PORT=$e ctl endpoint hashkv | awk '{print $2}')" = "$(PORT=$f ctl endpoint hashkv | awk '{print $2}')" ]
    proc_stop fromreal
    "$KFARM" store check --data-dir "$WORK/fromreal"
}

@test "damaged snapshots are refused, check finds damage and repairs the index" {
    head -c 20000 "$WORK/snap.db" >"$WORK/cut.db"
    run "$KFARM" store restore "$WORK/cut.db" --data-dir "$WORK/none"
    [ "$status" != 0 ]
    [ ! -e "$WORK/none/store.db" ]
    cp "$WORK/snap.db" "$WORK/flip.db"
    printf 'X' | dd of="$WORK/flip.db" bs=1 seek=9000 conv=notrunc status=none
    run "$KFARM" store restore "$WORK/flip.db" --data-dir "$WORK/none"
    [ "$status" != 0 ]
    [[ "$output" == *digest* ]]
    command -v sqlite3 || skip "no sqlite3"
    "$KFARM" store restore "$WORK/snap.db" --data-dir "$WORK/broken"
    sqlite3 "$WORK/broken/store.db" "DELETE FROM cur WHERE key = CAST('key/7' AS BLOB)"
    run "$KFARM" store check --data-dir "$WORK/broken"
    [ "$status" != 0 ]
    [[ "$output" == *"newer than their key's current one"* ]]
    "$KFARM" store check --repair --data-dir "$WORK/broken"
    "$KFARM" store check --data-dir "$WORK/broken"
}
