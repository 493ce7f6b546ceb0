# timeout: 600
# The JSON gateway with curl, answer by answer beside a real etcd's.
load store.bash

setup_file() {
    WORK=$(mktemp -d "${BATS_FILE_TMPDIR:-/tmp}/kf.XXXXXX")
    PORT=$(free_port)
    OTHER=$(free_port)
    export WORK PORT OTHER
    store_start s "$PORT"
    [ -z "$(etcd_binary)" ] || etcd_start e "$OTHER"
}
teardown_file() { all_stop; }

post() { curl -sN -m "${4:-60}" -X POST "http://127.0.0.1:$1/v3/$2" -d "$3"; }
wait_lines() { # NUMBER FILE
    for _ in $(seq 300); do
        [ "$(grep -c . "$2")" -lt "$1" ] || return 0
        sleep 0.1
    done
    return 1
}
same() {
    local mask='del(.header, .result.header) * {rev: (.header.revision // .result.header.revision)}' a b
    a=$(post "$PORT" "$1" "$2" | jq -cS "$mask")
    [ -n "$a" ]
    [ -n "$(etcd_binary)" ] || return 0
    b=$(post "$OTHER" "$1" "$2" | jq -cS "$mask")
    [ "$a" = "$b" ] || { printf '%s %s\nkfarm: %s\netcd:  %s\n' "$1" "$2" "$a" "$b"; return 1; }
}

@test "keys: put, range, delete, errors" {
    same kv/put '{"key":"Zm9v","value":"YmFy"}'
    same kv/put '{"key":"Zm9v","value":"YmF6","prev_kv":true}'
    same kv/put '{"key":"Zm9w","value":""}'
    same kv/range '{"key":"Zm9v"}'
    same kv/range '{"key":"Zm9v","range_end":"Zm9x","limit":"1"}'
    same kv/range '{"key":"AA==","range_end":"AA==","sort_order":"DESCEND","sort_target":"MOD","keys_only":true}'
    same kv/range '{"key":"Zm9v","revision":2}'
    same kv/range '{"key":"Zm9v","revision":"99"}'
    same kv/range '{}'
    same kv/deleterange '{"key":"Zm9w","prev_kv":true}'
    same kv/compaction '{"revision":"4"}'
    same kv/range '{"key":"Zm9v","revision":2}'
}

@test "transactions" {
    same kv/txn '{"compare":[{"target":"CREATE","key":"Zm9v","create_revision":"2"}],"success":[{"request_put":{"key":"Zm9v","value":"eA=="}},{"request_range":{"key":"Zm9v"}}],"failure":[{"request_delete_range":{"key":"Zm9v"}}]}'
    same kv/txn '{"compare":[{"target":"VALUE","result":"NOT_EQUAL","key":"Zm9v","value":"eA=="}],"failure":[{"request_delete_range":{"key":"Zm9v"}}]}'
    same kv/txn '{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}'
}

@test "leases" {
    same lease/grant '{"TTL":"1000","ID":"77"}'
    same kv/put '{"key":"bA==","value":"bA==","lease":"77"}'
    same lease/keepalive '{"ID":"77"}'
    same lease/timetolive '{"ID":"78","keys":true}'
    same lease/leases '{}'
    same lease/revoke '{"ID":"77"}'
    same lease/revoke '{"ID":"77"}'
}

@test "watch streams results" {
    post "$PORT" kv/put '{"key":"dw==","value":"MQ=="}'
    post "$PORT" watch '{"create_request":{"key":"dw==","start_revision":"1"}}' 4 >"$WORK/w" || true
    # revision 1 was compacted above: the answer says so
    grep -q '"compact_revision":"4"' "$WORK/w"
    rev=$(post "$PORT" kv/range '{"key":"dw=="}' | jq -r .header.revision)
    post "$PORT" watch "{\"create_request\":{\"key\":\"dw==\",\"start_revision\":\"$rev\"}}" 4 >"$WORK/w" || true
    [ "$(head -1 "$WORK/w" | jq -c .result.created)" = true ]
    [ "$(sed -n 2p "$WORK/w" | jq -r '.result.events[0].kv.value')" = MQ== ]
}

@test "status, members, health; what is not JSON or not there" {
    [ "$(post "$PORT" maintenance/status '{}' | jq -r .version)" = 3.5.16 ]
    [ "$(post "$PORT" cluster/member/list '{}' | jq -r '.members[0].name')" = default ]
    [ "$(post "$PORT" kv/range 'no json' | jq -r .code)" = 3 ]
    [ "$(post "$PORT" kv/range '{"nokey":1}' | jq -r .code)" = 3 ]
    expect_code 405 curl "http://127.0.0.1:$PORT/v3/kv/range"
    expect_code 404 curl -X POST "http://127.0.0.1:$PORT/v3/kv/nothing"
    [ "$(curl -s "http://127.0.0.1:$PORT/version" | jq -r .etcdserver)" = 3.5.16 ]
}

@test "a lock is held by one, given on, and given up by who leaves the queue" {
    key=$(post "$PORT" lock/lock '{"name":"bQ=="}' | jq -r .key)
    [ -n "$key" ]
    post "$PORT" lock/lock '{"name":"bQ=="}' 1 >"$WORK/left" || true # gives up after a second
    [ ! -s "$WORK/left" ]
    post "$PORT" lock/lock '{"name":"bQ=="}' 60 >"$WORK/second" 3>&- &
    waiter=$!
    sleep 0.5
    [ ! -s "$WORK/second" ]
    post "$PORT" lock/unlock "{\"key\":\"$key\"}" | jq -e .header
    wait $waiter
    second=$(jq -r .key "$WORK/second")
    [ -n "$second" ] && [ "$second" != "$key" ]
    [ "$(post "$PORT" kv/range '{"key":"bS8=","range_end":"bTA="}' | jq -r .count)" = 1 ] # nobody left behind
}

@test "an election: campaign, leader, observe, proclaim, resign" {
    [ "$(post "$PORT" election/leader '{"name":"dm90ZQ=="}' | jq -r .message)" = "election: no leader" ]
    post "$PORT" lease/grant '{"TTL":"100","ID":"91"}'
    post "$PORT" lease/grant '{"TTL":"100","ID":"92"}'
    first=$(post "$PORT" election/campaign '{"name":"dm90ZQ==","lease":"91","value":"YQ=="}' | jq -c .leader)
    post "$PORT" election/observe '{"name":"dm90ZQ=="}' 60 >"$WORK/observed" 3>&- &
    observer=$!
    post "$PORT" election/campaign '{"name":"dm90ZQ==","lease":"92","value":"Yg=="}' 60 >"$WORK/campaign" 3>&- &
    waiter=$!
    wait_lines 1 "$WORK/observed"
    sleep 0.5
    [ ! -s "$WORK/campaign" ]
    post "$PORT" election/proclaim "{\"leader\":$first,\"value\":\"YWE=\"}" | jq -e .header
    [ "$(post "$PORT" election/leader '{"name":"dm90ZQ=="}' | jq -r .kv.value)" = YWE= ]
    post "$PORT" election/resign "{\"leader\":$first}" | jq -e .header
    wait $waiter
    [ "$(post "$PORT" election/leader '{"name":"dm90ZQ=="}' | jq -r .kv.value)" = Yg== ]
    [ "$(post "$PORT" election/proclaim "{\"leader\":$first,\"value\":\"YWE=\"}" | jq -r .message)" = "election: not leader" ]
    post "$PORT" lease/revoke '{"ID":"92"}'
    [ "$(post "$PORT" election/leader '{"name":"dm90ZQ=="}' | jq -r .message)" = "election: no leader" ]
    wait_lines 3 "$WORK/observed"
    kill $observer || true
    [ "$(jq -r .result.kv.value "$WORK/observed" | tr '\n' ' ')" = "YQ== YWE= Yg== " ]
}

@test "probes say what etcd's say" {
    local u=http://127.0.0.1:$PORT
    [ "$(curl -s "$u/livez")" = ok ]
    [ "$(curl -s "$u/readyz?verbose")" = $'[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok' ]
    [ "$(curl -s "$u/livez/serializable_read")" = ok ]
    expect_code 404 curl "$u/livez/nothing"
    curl -s "$u/v3/maintenance/alarm" -d '{"action":"ACTIVATE","alarm":"CORRUPT"}' >/dev/null
    [ "$(curl -s "$u/readyz")" = $'[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n[+]linearizable_read ok' ]
    [ "$(curl -s "$u/readyz?exclude=data_corruption")" = ok ]
    [ "$(curl -s "$u/health")" = '{"health":"false","reason":"ALARM CORRUPT"}' ]
    [ "$(curl -s "$u/health?exclude=CORRUPT")" = '{"health":"true","reason":""}' ]
    curl -s "$u/v3/maintenance/alarm" -d '{"action":"DEACTIVATE","alarm":"CORRUPT"}' >/dev/null
    curl -s "$u/metrics" | grep -q '^grpc_server_handled_total{grpc_code="OK",grpc_method="Alarm"'
    curl -s "$u/metrics" | grep -q '^process_resident_memory_bytes [1-9]'
}
