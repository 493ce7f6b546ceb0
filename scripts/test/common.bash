# common.bash: loaded by every bats file. What a failed test did last, with the values that it compared; HTTP statuses; free ports.

if [ -n "${BATS_TEST_TMPDIR:-}" ]; then
    exec 19>"$BATS_TEST_TMPDIR/trace"
    BASH_XTRACEFD=19
    PS4='+${BASH_SOURCE##*/}:$LINENO: '
    set -x
fi

# show_last: for teardown(). 1 when the test failed.
show_last() {
    { set +x; } 2>/dev/null
    [ -z "${BATS_TEST_COMPLETED:-}" ] || return 0
    echo "--- what it did last:"
    # The test's own commands (bats runs a copy of the file) and those of its *.bash, without what bats does about them.
    awk '/^\++[^ :]+:[0-9]+: / {
            own = /^\++(bats\.[0-9]+\.src|(server|store|kubectl|common)\.bash):/ && !/: (bats_|teardown$|show_last$|set \+x$)/
            sub(/bats\.[0-9]+\.src/, "line"); n = 0
        }
        own && n++ < 8' "$BATS_TEST_TMPDIR/trace" | cut -c1-240 | tail -n 9
    return 1
}
teardown() { show_last || true; }

# expect_code STATUS CURL…: a curl command gets that HTTP status (000: no answer).
expect_code() {
    local want=$1 got status=0
    shift
    got=$("$@" -sS --max-time 60 -w '\n%{http_code}' 2>&1) || status=$?
    [ "${got##*$'\n'}" = "$want" ] && return 0
    echo "status $want expected of: $*"
    echo "came (the status last; curl's exit status $status): $got"
    return 1
}

free_port() { PYTHONPATH=$BATS_TEST_DIRNAME /usr/bin/python3 -c 'import store_lib; print(store_lib.free_port())'; }
