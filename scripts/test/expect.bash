# expect.bash: comparisons that show what came instead.

# expect_code STATUS CURL…: a curl command gets that HTTP status (000: none).
expect_code() {
    local want=$1 got status=0
    shift
    got=$("$@" -sS --max-time 60 -w '\n%{http_code}' 2>&1) || status=$?
    [ "${got##*$'\n'}" = "$want" ] && return 0
    echo "HTTP status $want expected of: $*"
    echo "$got (the last line is the status; curl's exit status $status)"
    return 1
}
