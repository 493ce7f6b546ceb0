#!/bin/bash
# test.sh [files]: everything that a machine without KVM can test, or only the given files.
#
# Runs the unit tests, fuzz corpora, lint, clang and thread sanitizer builds, then every
# scripts/test/[0-9]*.{bats,sh,py} in order of name, on the release binary. Goes on after a failure.
# Logs are in build/test-logs/; the last line is "N passed, N failed[, N skipped]".
#
# A test file speaks TAP; one that does not counts as a single test by its exit status (77: skipped).
# It may hold a line `# timeout: <seconds>` (default 600). It runs with stdin closed, in the top
# folder, with KFARM (the binary), TMPDIR (a folder of its own, removed afterwards) and TEST_LOGS.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

top=$PWD
logs=$top/build/test-logs
export KFARM=$top/build/kfarm TEST_LOGS=$logs
passed=0 failed=0 skipped=0
broken=()

seconds() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# count <log> <exit status>: adds what the log tells to the totals, sets p f s.
count() {
    local status=$2
    read -r p f s < <(awk '
        /^ok .*# *[Ss][Kk][Ii][Pp]/ { s++; next }
        /^ok /                      { p++ }
        /^not ok .*# *TODO/         { s++; next }
        /^not ok /                  { f++ }
        /^\[       OK \]/           { p++ }                   # cmocka
        /^\[  FAILED  \].*listed below/ { sub(/.*: /, ""); f += $1 }
        /^\[  SKIPPED \].*listed below/ { sub(/.*: /, ""); s += $1 }
        END { print p + 0, f + 0, s + 0 }' "$1")
    if [ "$status" = 77 ] && [ $((p + f + s)) = 0 ]; then
        s=1
    elif [ "$status" != 0 ] && [ "$f" = 0 ]; then
        f=1
    elif [ "$status" = 0 ] && [ $((p + f + s)) = 0 ]; then
        p=1
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# run <name> <timeout> <command…>
run() {
    local name=$1 limit=$2 log=$logs/${1//\//_}.log started=$EPOCHREALTIME status=0 note=
    shift 2
    TMPDIR=$(mktemp -d)
    chmod 755 "$TMPDIR" # roles run as users of their own
    export TMPDIR
    timeout -k 15 "$limit" "$@" >"$log" 2>&1 </dev/null || status=$?
    rm -rf "$TMPDIR"
    unset TMPDIR
    [ $status != 124 ] && [ $status != 137 ] || note=" (stopped after $limit s)"
    count "$log" $status
    note=${note:-$(sed -n '/^1\.\.0 *# *SKIP */{s///;s/^/; /;p;q}' "$log")}
    if [ "$f" = 0 ]; then
        printf 'ok      %-28s %4d passed%s  %s s\n' "$name" "$p" \
            "$([ "$s" = 0 ] || echo ", $s skipped")$note" "$(seconds "$started")"
    else
        broken+=("$name")
        printf 'FAILED  %-28s %4d passed, %d failed, exit status %d%s  %s s\n' "$name" "$p" "$f" $status \
            "$note" "$(seconds "$started")"
        { grep -nE -A12 '^not ok |^\[  FAILED  \]|ERROR: AddressSanitizer|runtime error:|error:' "$log" |
            head -80; echo "  … end of ${log#"$top"/}:"; tail -25 "$log"; } | sed 's/^/    | /'
    fi
}

# explain <log> <lines>: the failed cases with what explains each, first what failed and at last what led to it, or how the log
# ends; no more than so many lines.
explain() {
    awk -v most="$2" '
        function tell(    i) { # a case: its first four comments and its last ones
            for (i = 1; i <= n; i++) { if (i <= 4 || i > n - part + 4) { print held[i] } }
            n = 0
        }
        NR == FNR { cases += /^not ok / && !/# *TODO/; last = FNR; next }
        FNR == 1 { part = cases ? int(most / cases) - 1 : 0; part = part < 5 ? 5 : part > 20 ? 20 : part }
        !/^#/ { tell(); is_case = 0 }
        /^not ok / { is_case = !/# *TODO/; told += is_case; if (is_case) { print; next } }
        /^\[ *(ERROR|LINE|FAILED) *\]|error:|ERROR: |WARNING: ThreadSanitizer/ && !cases { print; told++; next }
        is_case { held[++n] = $0; next }
        { tail[FNR % 12] = $0 }
        END {
            tell()
            for (i = last - 11; !told && i <= last; i++) { if (i > 0) { print tail[i % 12] } }
        }' "$1" "$1" |
        cut -c1-240 | head -n "$2" | sed 's/^/    | /'
}

mkdir -p "$logs"
rm -f "$logs"/*.log
jobs=-j$(nproc)
began=$SECONDS

# What everything else needs: without it there is nothing to test.
echo "== build"
for step in "scripts/setup.sh build" "scripts/setup.sh test" "make deps" "make $jobs"; do
    echo "-- $step"
    if ! $step; then
        echo "'$step' failed"
        echo "0 passed, 1 failed"
        exit 1
    fi
done

if [ $# -gt 0 ]; then
    files=("$@")
else
    echo "== unit tests and checks"
    for target in unit fuzz-replay lint clang tsan; do
        echo "-- make $target"
        run "$target" 1500 make $jobs --no-print-directory $target
    done
    shopt -s nullglob
    files=(scripts/test/[0-9]*.bats scripts/test/[0-9]*.sh scripts/test/[0-9]*.py)
fi

echo "== tests of the binary"
while read -r file; do
    [ -n "$file" ] || continue
    limit=$(sed -n 's/^# timeout: *\([0-9]*\).*/\1/p' "$file" | head -1)
    case $file in
    *.bats) command=(bats --formatter tap) ;;
    *.sh) command=(bash) ;;
    *.py) command=(/usr/bin/python3) ;;
    *) echo "$file: not a test file" >&2; failed=$((failed + 1)); continue ;;
    esac
    run "$(basename "$file")" "${limit:-600}" "${command[@]}" "$file"
done < <(printf '%s\n' ${files[@]+"${files[@]}"} | sort)

echo "== $((SECONDS - began)) s, logs in build/test-logs${broken[*]:+; failed: ${broken[*]}}"
for name in ${broken[@]+"${broken[@]}"}; do # the end of the output alone tells what failed and why
    echo "FAILED  $name"
    explain "$logs/${name//\//_}.log" $((60 / ${#broken[@]}))
done | head -60
if [ $skipped = 0 ]; then
    echo "$passed passed, $failed failed"
else
    echo "$passed passed, $failed failed, $skipped skipped"
fi
[ $failed = 0 ] && [ $passed -gt 0 ]
