# timeout: 120
# kfarm store driven by Debian's etcdctl.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    export WORK PORT
    store_start s "$PORT"
}
teardown_file() { all_stop; }

@test "put, get, del, ranges, previous values, old revisions" {
    [ "$(ctl put a 1)" = OK ]
    [ "$(ctl put a 2 --prev-kv)" = $'OK\na\n1' ]
    ctl put ab 3
    [ "$(ctl get --prefix a --print-value-only)" = $'2\n3' ]
    [ "$(ctl get a --rev 2 --print-value-only)" = 1 ]
    [ "$(ctl get --prefix a --limit 1 --order DESCEND --print-value-only)" = 3 ]
    [ "$(ctl get --prefix a --limit 1 -w json | jq .count)" = 2 ]
    [ "$(ctl del a --prev-kv)" = $'1\na\n2' ]
    [ "$(ctl del nothing)" = 0 ]
}

@test "txn: compares choose the branch" {
    ctl put t 1
    run ctl txn <<<$'value("t") = "1"\n\nput t yes\nget t\n\nput t no\n\n'
    [[ "$output" == *SUCCESS* && "$output" == *yes* ]]
    run ctl txn <<<$'ver("t") > "5"\n\nput t yes\n\nget t\n\n'
    [[ "$output" == *FAILURE* ]]
}

@test "watch: from a revision, with previous values, live and exec" {
    ctl put w 1
    rev=$(ctl get w -w json | jq .header.revision)
    timeout 10 env ETCDCTL_API=3 etcdctl --endpoints "127.0.0.1:$PORT" watch w --rev "$rev" --prev-kv >"$WORK/watch" 2>&1 3>&- &
    watcher=$!
    ctl put w 2
    ctl del w
    for _ in $(seq 50); do grep -q DELETE "$WORK/watch" && break; sleep 0.1; done
    kill $watcher
    [ "$(cat "$WORK/watch")" = $'PUT\nw\n1\nPUT\nw\n1\nw\n2\nDELETE\nw\n2\nw' ]
}

@test "leases: grant, attach, list, time to live, keep-alive, revoke, expiry" {
    id=$(ctl lease grant 300 | awk '{print $2}')
    ctl put l 1 --lease="$id"
    [[ "$(ctl lease timetolive "$id" --keys)" == *"attached keys([l])"* ]]
    [[ "$(ctl lease list)" == *"$id"* ]]
    [[ "$(ctl lease keep-alive --once "$id")" == *"keepalived with TTL(300)"* ]]
    ctl lease revoke "$id"
    [ -z "$(ctl get l)" ]
    [[ "$(ctl lease revoke "$id" || true)" == *"requested lease not found"* ]]
    id=$(ctl lease grant 1 | awk '{print $2}')
    ctl put l 1 --lease="$id"
    for _ in $(seq 60); do [ -z "$(ctl get l)" ] && break; sleep 0.1; done
    [ -z "$(ctl get l)" ]
}

@test "lock and elect" {
    [[ "$(ctl lock mutex echo held)" == *held* ]]
    timeout 10 env ETCDCTL_API=3 etcdctl --endpoints "127.0.0.1:$PORT" elect vote me >"$WORK/elect" 2>&1 3>&- &
    elector=$!
    for _ in $(seq 50); do grep -q me "$WORK/elect" && break; sleep 0.1; done
    kill $elector
    grep -q me "$WORK/elect"
}

@test "compaction: older revisions are gone, with etcd's text" {
    rev=$(ctl get w -w json | jq .header.revision)
    ctl compaction "$rev" --physical
    [[ "$(ctl get a --rev 2 || true)" == *"etcdserver: mvcc: required revision has been compacted"* ]]
    [[ "$(ctl get a --rev 99999 || true)" == *"etcdserver: mvcc: required revision is a future revision"* ]]
}

@test "status, health, members, hash, defragmentation, alarms" {
    [[ "$(ctl endpoint status -w json | jq -r '.[0].Status.version')" == 3.5.* ]]
    [[ "$(ctl endpoint health)" == *"is healthy"* ]]
    [[ "$(ctl member list)" == *started* ]]
    [[ "$(ctl endpoint hashkv)" == *"127.0.0.1:$PORT, "* ]]
    [[ "$(ctl defrag)" == *Finished* ]]
    [ -z "$(ctl alarm list)" ]
    [[ "$(ctl member remove 1234 || true)" == *"member not found"* ]]
    [[ "$(ctl move-leader 1234 || true)" == *Error* ]]
    [ "$(curl -s "http://127.0.0.1:$PORT/health" | jq -r .health)" = true ]
    curl -s "http://127.0.0.1:$PORT/metrics" | grep -q '^etcd_mvcc_put_total'
}

@test "quota: NOSPACE alarm, reads go on, space comes back" {
    q=$(free_port)
    store_start quota "$q" --quota-backend-bytes=1000000
    PORT=$q
    big=$(head -c 200000 /dev/zero | tr '\0' x)
    for _ in 1 2 3 4 5 6 7 8; do echo "$big" | ctl put big || true; done
    [[ "$(ctl put more 1 || true)" == *"etcdserver: mvcc: database space exceeded"* ]]
    [[ "$(ctl alarm list)" == *NOSPACE* ]]
    [ -n "$(ctl get big --keys-only)" ]
    ctl compaction "$(ctl get big -w json | jq .header.revision)" --physical
    ctl defrag
    ctl alarm disarm
    [ "$(ctl put more 1)" = OK ]
}

@test "make-mirror copies to another store and keeps up" {
    m=$(free_port)
    store_start mirror "$m"
    ctl put mir/1 one
    timeout 15 env ETCDCTL_API=3 etcdctl --endpoints "127.0.0.1:$PORT" make-mirror --prefix mir/ "127.0.0.1:$m" >/dev/null 2>&1 3>&- &
    mirror=$!
    for _ in $(seq 50); do [ -n "$(PORT=$m ctl get mir/1)" ] && break; sleep 0.1; done
    ctl put mir/2 two
    for _ in $(seq 50); do [ -n "$(PORT=$m ctl get mir/2)" ] && break; sleep 0.1; done
    kill $mirror
    [ "$(PORT=$m ctl get --prefix mir/ --print-value-only)" = $'one\ntwo' ]
}

@test "a killed store has everything that was acknowledged" {
    ctl put durable yes
    proc_stop s -KILL
    store_start s "$PORT"
    [ "$(ctl get durable --print-value-only)" = yes ]
}

