# timeout: 600
# Every command of etcdctl that makes sense for one member, given alike to kfarm store and to a real etcd: what it prints
# must be equal. The version of both is in the name of this file, of which the other one is a link.
ETCD_VERSION=$(basename "$BATS_TEST_FILENAME" .bats)
ETCD_VERSION=${ETCD_VERSION##*-}
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    export WORK PORT
    store_start s "$PORT"
    OTHER=$(free_port)
    export OTHER
    etcd_start e "$OTHER"
    until PORT=$OTHER ctl endpoint health >/dev/null; do sleep 0.1; done
    if [ "$ETCD_VERSION" = 3.5 ]; then # a minute long, so it runs beside the other tests
        PERF=$(free_port)
        export PERF
        store_start perf "$PERF"
        ETCDCTL_API=3 timeout 200 "$(etcd_binary etcdctl)" --endpoints "127.0.0.1:$PERF" check perf >"$WORK/perf.out" 2>&1 3>&- &
        echo $! >"$WORK/check.pid"
    fi
}
teardown_file() { all_stop; }

# Without what is this member's, this lease's, this moment's or this file's.
plain() {
    sed -E -e 's/"(ClusterID|MemberID|RaftTerm|Lease)" : [0-9]+/"\1" : N/' -e 's/127\.0\.0\.1:[0-9]+/ADDRESS/g' -e 's/\b[0-9a-f]{14,16}\b/ID/g' -e 's/"(cluster_id|member_id|ID|id|leader)":[0-9]+/"\1":ID/g' \
        -e 's/"(raft[A-Za-z]*|raft_term|dbSize[A-Za-z]*)":[0-9]+/"\1":N/g' -e 's/[0-9.]+(µs|ms|s)\b/TIME/g' \
        -e 's/remaining\([0-9]+s?\)/remaining(N)/g' -e 's/"ts":"[^"]*"|20[0-9-]{8}T[0-9:.]+Z?|"caller":"[^"]*"//g' \
        -e 's/"ttl":[0-9]+/"ttl":N/g' -e 's/^\{"level":.*(retrying|error) *//; s/"target":"[^"]*"/"target":T/g'
}
# both ARGUMENTS…: etcdctl against both servers; $output is what it printed. %L stands for the lease that both made last.
both() {
    local ours theirs a=0 b=0 input=
    [ -t 0 ] || [ -n "${NO_INPUT:-}" ] || input=$(timeout 1 cat || true)
    ours=$(ctl "${@//%L/$(cat "$WORK/lease.$PORT" 2>/dev/null)}" <<<"$input" | plain; exit "${PIPESTATUS[0]}") || a=$?
    theirs=$(PORT=$OTHER ctl "${@//%L/$(cat "$WORK/lease.$OTHER" 2>/dev/null)}" <<<"$input" | plain; exit "${PIPESTATUS[0]}") || b=$?
    output=$ours
    [ "$ours" = "$theirs" ] && [ $a = $b ] || {
        printf -- '--- etcdctl %s: kfarm (%s)\n%s\n--- etcd (%s)\n%s\n' "$*" $a "$ours" $b "$theirs"
        return 1
    }
}
# both_lease TTL: grants one on each.
both_lease() {
    ctl lease grant "$1" | awk '{print $2}' >"$WORK/lease.$PORT"
    PORT=$OTHER ctl lease grant "$1" | awk '{print $2}' >"$WORK/lease.$OTHER"
}
wait_for() { # FILE PATTERN
    local i
    for ((i = 0; i < 600; i++)); do
        grep -qE -- "$2" "$1" && return 0
        sleep 0.1
    done
    cat "$1"
    return 1
}
# watchers N: until there are so many on each side.
watchers() {
    local port
    for port in "$PORT" "$OTHER"; do
        for _ in $(seq 600); do
            [ "$(curl -s "http://127.0.0.1:$port/metrics" | sed -n 's/^etcd_debugging_mvcc_watcher_total //p')" != "$1" ] || continue 2
            sleep 0.1
        done
        echo "no $1 watchers"
        return 1
    done
}
# follow NAME ARGUMENTS…: an etcdctl on each that goes on; output in $WORK/NAME.ours and .theirs, pids for proc_stop.
follow() {
    local name=$1 side port
    shift
    for side in ours theirs; do
        port=$PORT
        [ $side = ours ] || port=$OTHER
        ETCDCTL_API=3 timeout 120 "$(etcd_binary etcdctl)" --dial-timeout 45s --endpoints "127.0.0.1:$port" "$@" \
            >"$WORK/$name.$side" 2>&1 3>&- <"${FOLLOW_INPUT:-/dev/null}" &
        echo $! >"$WORK/$name.$side.pid"
    done
}
# followed NAME PATTERN: both have printed it, and the same.
followed() {
    local side
    for side in ours theirs; do
        wait_for "$WORK/$1.$side" "$2"
        proc_stop "$1.$side" -INT
    done
    diff <(plain <"$WORK/$1.ours") <(plain <"$WORK/$1.theirs")
}

@test "put, get, del and their options" {
    NO_INPUT=1
    both put a 1
    both put a 2 --prev-kv
    both put ab 3
    echo -n "from standard input" | NO_INPUT= both put b
    both put a --ignore-value --prev-kv
    both put a 4 --ignore-lease
    both put nothing --ignore-value
    both put a x --ignore-value
    both get a
    both get a c
    both get --prefix a
    both get --from-key ab
    both get --prefix a --keys-only
    both get --prefix a --print-value-only
    both get --prefix a --limit 1 --order DESCEND
    both get --prefix "" --sort-by MODIFY --order DESCEND
    both get --prefix "" --sort-by VALUE
    both get --prefix "" --sort-by VERSION -w fields
    both get --prefix "" --sort-by CREATE -w simple
    both get a --rev 2
    both get a --rev 99999
    both get a --consistency s
    both get a -w json
    both get a -w fields
    both get a --hex
    both put "" x
    both get ""
    both del a --prev-kv
    both del nothing
    both del --prefix a -w json
    both del --from-key b --prev-kv
    both get --prefix "" -w json
}

@test "txn, given at once and asked for line by line" {
    NO_INPUT=1 both put t 1
    both txn <<<$'value("t") = "1"\n\nput t yes\nget t\n\nput t no\n\n'
    both txn -w json <<<$'ver("t") > "5"\ncreate("t") > "0"\nmod("t") > "0"\n\nput t yes\n\nget t\ndel t\n\n'
    both txn --interactive <<<$'value("t") = "2"\n\nput t 3\n\nput t 4\nget t\n\n'
    both txn <<<$'\n\nput d 1\nput d 2\n\n\n'
    both txn <<<$'\n\nput d 1\ndel d\n\n\n'
    both txn <<<$'mod("t") > "0"\n\nget "" --prefix\n\n\n'
}

@test "watch: live, past revisions, prefix, range, previous values" {
    NO_INPUT=1
    both put w/1 1
    rev=$(ctl get w/1 -w json | jq .header.revision)
    follow live watch w/1 --prev-kv
    follow prefix watch --prefix w/ -w json
    follow range watch w/1 w/3 --rev "$rev"
    [ "$ETCD_VERSION" = 3.4 ] || follow progress watch w/1 --progress-notify
    watchers $([ "$ETCD_VERSION" = 3.4 ] && echo 3 || echo 4)
    both put w/1 2
    both put w/2 2
    both put w/3 2
    both del --prefix w/
    both put w/1 end
    followed live '^end'
    followed prefix 'ZW5k'
    followed range '^end'
    [ "$ETCD_VERSION" = 3.4 ] || followed progress '^end'
    follow past watch --prefix w/ --rev "$rev" --prev-kv
    followed past '^end'
    both compaction "$((rev + 2))"
    follow gone watch --prefix w/ --rev "$rev"
    followed gone 'compacted'
}

@test "watch: with a command for each event, and interactive" {
    NO_INPUT=1
    # shellcheck disable=SC2016
    follow exec watch x -- sh -c 'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE rev $ETCD_WATCH_REVISION"'
    watchers 1
    mkfifo "$WORK/in"
    FOLLOW_INPUT=$WORK/in follow talk watch -i
    printf 'watch y\nwatch z --prefix\nprogress\n' | tee "$WORK/in" "$WORK/in" >/dev/null &
    sleep 0.5
    both put x 1
    both put y 2
    both put z/1 3
    both del x
    followed exec '"DELETE" "x"'
    [ "$(grep -c . "$WORK/exec.ours")" -ge 4 ]
    proc_stop talk.ours -INT
    proc_stop talk.theirs -INT
}

@test "leases: grant, attach, list, time to live, keep-alive, revoke, expiry" {
    NO_INPUT=1
    both lease grant 300
    both lease list
    both_lease 200
    both put l 1 --lease=%L
    both lease timetolive %L
    both lease timetolive %L --keys -w json
    both lease keep-alive --once %L
    both get l -w fields
    both lease revoke %L
    both get l
    both lease revoke %L
    both lease timetolive %L
    both lease keep-alive --once 1234
    both put l 1 --lease=1234
    both lease grant -w json 100
    both_lease 4
    both put short 1 --lease=%L
    follow alive lease keep-alive "$(cat "$WORK/lease.$PORT")"
    for _ in $(seq 300); do [ -n "$(PORT=$OTHER ctl get short)" ] || break; sleep 0.1; done
    [ -z "$(PORT=$OTHER ctl get short)" ] # nobody kept it alive there
    [ "$(ctl get short --print-value-only)" = 1 ]
    proc_stop alive.ours
    for _ in $(seq 300); do [ -n "$(ctl get short)" ] || break; sleep 0.1; done
    both get short
}

@test "lock with a command, exclusion, elect and observe" {
    NO_INPUT=1
    both lock mutex echo held
    both lock mutex --ttl 5 sh -c 'exit 3'
    follow holder lock excl
    wait_for "$WORK/holder.ours" excl/
    wait_for "$WORK/holder.theirs" excl/
    follow second lock excl echo second
    sleep 0.7
    [ ! -s "$WORK/second.ours" ] && [ ! -s "$WORK/second.theirs" ]
    followed holder excl/
    followed second second
    follow leader elect vote me
    wait_for "$WORK/leader.ours" me
    wait_for "$WORK/leader.theirs" me
    follow observer elect --listen vote
    followed observer me
    followed leader me
    both get --prefix vote
}

@test "snapshot: save, status, restore both ways" {
    NO_INPUT=1
    both put snap/1 one
    both put snap/2 two
    both del snap/1
    local util=("$(etcd_binary etcdctl)") p
    [ "$ETCD_VERSION" = 3.4 ] || util=("$(etcd_binary etcdutl)")
    export ETCDCTL_API=3
    ctl snapshot save "$WORK/ours.db" && PORT=$OTHER ctl snapshot save "$WORK/theirs.db"
    for f in ours theirs; do
        "${util[@]}" snapshot status "$WORK/$f.db" -w json 2>/dev/null | jq -c '[.revision, .totalKey]' >"$WORK/$f.status"
    done
    [ "$(jq '.[0]' "$WORK/ours.status")" = "$(jq '.[0]' "$WORK/theirs.status")" ]
    "${util[@]}" snapshot restore "$WORK/ours.db" --data-dir "$WORK/from-ours" >/dev/null 2>&1
    p=$(free_port)
    etcd_start from-ours "$p"
    for _ in $(seq 300); do PORT=$p ctl endpoint health >/dev/null && break; sleep 0.1; done
    [ "$(PORT=$p ctl get --prefix "" -w json | jq -c .kvs)" = "$(ctl get --prefix "" -w json | jq -c .kvs)" ]
    proc_stop from-ours
    "$KFARM" store restore "$WORK/theirs.db" --data-dir "$WORK/from-theirs"
    store_start from-theirs "$p"
    [ "$(PORT=$p ctl get --prefix "" -w json | jq -c .kvs)" = "$(PORT=$OTHER ctl get --prefix "" -w json | jq -c .kvs)" ]
    "$(etcd_binary etcdctl)" --endpoints "127.0.0.1:$p" snapshot save "$WORK/again.db"
    "${util[@]}" snapshot status "$WORK/again.db"
    proc_stop from-theirs
}

@test "compaction, defragmentation, status, health, hash, members, alarms" {
    NO_INPUT=1
    rev=$(ctl get w -w json | jq .header.revision)
    both compaction "$rev" --physical
    both compaction "$rev"
    both compaction 99999
    both get a --rev 2
    both defrag
    both endpoint health
    both endpoint health -w json
    [[ "$(ctl endpoint hashkv)" == "127.0.0.1:$PORT, "* ]] # equal hashes: 50-store-diff.py, 50-store-snapshot.bats
    [[ "$(ctl endpoint status -w json | jq -r '.[0].Status.version')" == 3.5.* ]]
    ctl endpoint status -w table
    [ "$(ctl endpoint status -w json | jq -c '.[0].Status | keys')" = \
        "$(PORT=$OTHER ctl endpoint status -w json | jq -c '.[0].Status | keys')" ]
    ctl member list -w table
    [ "$(ctl member list -w json | jq -c '.members[0] | keys')" = \
        "$(PORT=$OTHER ctl member list -w json | jq -c '.members[0] | keys')" ]
    both alarm list
    both alarm disarm
    both member remove 1234
    both member promote 1234
    both member update 1234 --peer-urls=http://127.0.0.1:1
    run ctl member remove "$(ctl member list | cut -d, -f1)"
    [ "$status" != 0 ]
    run ctl member add other --peer-urls=http://127.0.0.1:1
    [ "$status" != 0 ] # etcd would take it, and then wait for it for ever
    both move-leader 1234
    both version
    curl -s "http://127.0.0.1:$PORT/metrics" | grep -q '^etcd_mvcc_put_total'
}

@test "users, roles and authentication" {
    NO_INPUT=1
    both user add root:rootpw
    both user add alice:alicepw
    both user add bob --no-password
    both user add alice:x
    both role add reader
    both role add reader
    both role grant-permission reader read app/ app0
    both role grant-permission reader readwrite own/alice
    both role grant-permission reader read --prefix pre/
    both role grant-permission reader write --from-key zz
    both role grant-permission nothing read a
    both role get reader
    both user grant-role alice reader
    both user grant-role alice nothing
    both user get alice
    both user get alice --detail
    both user list
    both role list
    both put app/1 one
    both put secret/1 hidden
    both auth enable
    both role add root
    both user grant-role root root
    both auth enable
    both get app/1
    both --user alice:alicepw get app/1
    both --user alice:wrong get app/1
    both --user nobody:x get app/1
    both --user bob:x get app/1
    both --user alice:alicepw put app/1 x
    both --user alice:alicepw get secret/1
    both --user alice:alicepw get --prefix ""
    both --user alice:alicepw put own/alice mine
    both --user alice:alicepw put zzz mine
    both --user alice:alicepw del own/alice --prefix
    both --user alice:alicepw user add carl:x
    both --user alice:alicepw role list
    both --user alice:alicepw user get alice
    both --user alice:alicepw lock app/x echo no
    follow denied --user alice:alicepw watch secret/1
    followed denied denied
    both --user root:rootpw user delete root
    both --user root:rootpw role revoke-permission reader app/ app0
    both --user root:rootpw role revoke-permission reader app/ app0
    echo changed | NO_INPUT= both --user root:rootpw user passwd alice --interactive=false
    both --user alice:alicepw get own/alice
    both --user alice:changed get own/alice
    [ "$ETCD_VERSION" = 3.4 ] || both --user root:rootpw auth status
    both --user root:rootpw user revoke-role alice reader
    both --user root:rootpw role delete reader
    both --user root:rootpw user delete alice
    both --user root:rootpw auth disable
    both get app/1
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
    proc_stop quota
}

# mirror FROM TO ARGUMENTS…
mirror() {
    local from=$1
    shift
    ETCDCTL_API=3 timeout 60 "$(etcd_binary etcdctl)" --endpoints "127.0.0.1:$from" make-mirror "$@" >"$WORK/mirror.log" 2>&1 3>&- &
    echo $! >"$WORK/mirror.pid"
}
@test "make-mirror in both directions, with other prefixes" {
    for way in "$PORT $OTHER" "$OTHER $PORT"; do
        read -r from to <<<"$way"
        for i in $(seq 20); do PORT=$from ctl put "mir/$i" "v$i" >/dev/null; done
        mirror "$from" --prefix mir/ --dest-prefix "copy/$from/" "127.0.0.1:$to"
        for _ in $(seq 300); do [ "$(PORT=$to ctl get --prefix "copy/$from/" --keys-only | grep -c .)" = 20 ] && break; sleep 0.1; done
        PORT=$from ctl put mir/21 late
        PORT=$from ctl del mir/1
        for _ in $(seq 300); do [ -z "$(PORT=$to ctl get "copy/$from/1")" ] && break; sleep 0.1; done
        proc_stop mirror
        [ "$(PORT=$to ctl get --prefix "copy/$from/" --print-value-only)" = "$(PORT=$from ctl get --prefix mir/ --print-value-only)" ]
        mirror "$from" --prefix mir/ --no-dest-prefix "127.0.0.1:$to"
        for _ in $(seq 300); do [ -n "$(PORT=$to ctl get 9)" ] && break; sleep 0.1; done
        proc_stop mirror
        [ "$(PORT=$to ctl get 9 --print-value-only)" = v9 ]
        PORT=$from ctl del --prefix mir/
        PORT=$to ctl del --prefix ""
    done
}

@test "a killed store has everything that was acknowledged" {
    ctl put durable yes
    proc_stop s -KILL
    store_start s "$PORT"
    [ "$(ctl get durable --print-value-only)" = yes ]
}

@test "check perf and check datascale" {
    run env ETCDCTL_API=3 timeout 100 "$(etcd_binary etcdctl)" --endpoints "127.0.0.1:$PORT" check datascale --load s
    echo "$output"
    [[ "$output" == *"PASS: Approximate system memory used"* ]]
    [ -z "$(ctl get --prefix /etcdctl-check-datascale/ --limit 1)" ]
    [ "$ETCD_VERSION" = 3.5 ] || return 0
    # How fast is for the benchmarks: a machine that does other things beside may FAIL here.
    wait_for "$WORK/perf.out" 'Stddev' || sleep 60
    cat "$WORK/perf.out"
    grep -qE 'Throughput (is|too low)' "$WORK/perf.out"
    [ -z "$(PORT=$PERF ctl get --prefix /etcdctl-check-perf/ --limit 1)" ]
}
