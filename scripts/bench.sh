#!/bin/bash
# bench.sh: sizes, start times, memory and rates of build/kfarm on this machine, with the targets beside them.
# Figures are not tests: nothing fails because it is slow. BOOT=0 leaves the demo (boot times) out.
# BENCH=store: only the store beside etcd 3.5, five minutes; STORE=full: what takes a million keys, six minutes; STORE="puts watches"
# chooses sections. The table is also written to build/bench.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C.UTF-8
[ "$(id -u)" = 0 ] || { echo "bench.sh: run it as root" >&2; exit 1; }
scripts/setup.sh bench
env -u MAKEFLAGS make --no-print-directory -j"$(nproc)" all build/apiload >&2

rows=()
row() { # NAME VALUE TARGET [VERDICT]
    rows+=("$1"$'\t'"$2"$'\t'"$3"$'\t'"${4:-}")
    printf '  %-58s %14s   %-22s %s\n' "$1" "$2" "$3" "${4:-}" >&2
}
say() { echo "-- $*" >&2; }

tmp=$(mktemp -d)
BATS_TEST_DIRNAME=$PWD/scripts/test BATS_FILE_TMPDIR=$tmp
. scripts/test/server.bash
finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    set +e
    [ $status = 0 ] || { echo "bench.sh: failed; the end of the server's log:" >&2; tail -n 20 "${WORK:-/nowhere}/a.log" >&2; }
    [ -z "${NS:-}" ] || net_down
    rm -rf "$tmp"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

# memory PID…: PSS of these processes together, in KiB.
memory() {
    local pid files=()
    for pid in "$@"; do [ ! -e "/proc/$pid/smaps_rollup" ] || files+=("/proc/$pid/smaps_rollup"); done
    cat "${files[@]}" | awk '$1 == "Pss:" { s += $2 } END { print s + 0 }'
}
mib() { awk -v k="$1" 'BEGIN { printf "%.1f MiB", k / 1024 }'; }
# cpu_ticks PID…: user and system time of these processes together.
cpu_ticks() {
    local pid
    for pid in "$@"; do sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null; done | awk '{ t += $12 + $13 } END { print t + 0 }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
api() { on python3 scripts/bench/api.py "$@"; }
tenant_pids() { role_pids apiserver "$1"; role_pids controllers "$1"; }
idle_cpu() { # SECONDS: percent of one core that the whole server uses
    local pids before after
    mapfile -t pids < <(server_tree)
    before=$(cpu_ticks "${pids[@]}")
    sleep "$1"
    after=$(cpu_ticks "${pids[@]}")
    awk -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" -v s="$1" 'BEGIN { printf "%.2f %%", 100 * t / hz / s }'
}

# The table, on stdout and into a file.
finish_table() {
    {
        printf '\n%-60s %14s   %s\n' name value target
        printf '%-60s %14s   %s\n' "$(printf '%.0s-' {1..60})" "$(printf '%.0s-' {1..14})" ----------------
        for r in "${rows[@]}"; do
            IFS=$'\t' read -r a b c d <<<"$r"
            printf '%-60s %14s   %-22s %s\n' "$a" "$b" "$c" "$d"
        done
    } | sed 's/ *$//' | tee build/bench.txt
}
store_section() {
    say "the store, beside etcd 3.5"
    make --no-print-directory build/etcdload >&2
    # shellcheck disable=SC2086
    while IFS=$'\t' read -r name value target verdict; do
        row "$name" "$value" "$target" "$verdict"
    done < <(KFARM=$PWD/build/kfarm python3 scripts/bench/store.py ${STORE:-short} || echo "the run"$'\t'"failed"$'\t'"-"$'\t'"MISS")
}

row "machine: cores, load average before the run" "$(nproc), $(cut -d' ' -f1 /proc/loadavg)" "-"
if [ "${BENCH:-all}" = store ]; then
    store_section
    finish_table
    exit 0
fi
say "binary"
row "binary" "$(awk -v n="$(stat -c %s build/kfarm)" 'BEGIN { printf "%.2f MiB", n / 1048576 }')" "<= 8 MiB static"

say "start of the admin cluster"
net_up
server_start a
row "admin cluster, exec to /readyz, first start" "$READY_MS ms" "-"
times=
for _ in 1 2 3 4 5; do
    server_stop a
    server_start a
    times="$times $READY_MS"
done
row "admin cluster, exec to /readyz, later starts (median of 5)" "$(tr ' ' '\n' <<<"$times" | sed '/^$/d' | median) ms" "<= 150 ms"
wait_until 20 k get serviceaccount default >&2
sleep 3
mapfile -t pids < <(server_tree)
row "admin cluster, PSS of all ${#pids[@]} processes, idle" "$(mib "$(memory "${pids[@]}")")" "-"

say "tenants"
times=
for i in 1 2 3 4 5; do
    times="$times $(api tenant "$WORK/a/admin.kubeconfig" "one-$i" | awk '{ print $2 }')"
done
row "tenant, apply to answering (median of 5)" "$(tr ' ' '\n' <<<"$times" | sed '/^$/d' | median) ms" "<= 250 ms"
sleep 10
mapfile -t pids < <(tenant_pids "$(tenant_uid one-3)")
row "idle tenant, PSS of its ${#pids[@]} processes" "$(mib "$(memory "${pids[@]}")")" "<= 8 MiB"

say "50 tenants"
began=$(now_ms)
for i in $(seq 6 50); do
    printf 'apiVersion: kfarm.dev/v1alpha1\nkind: Tenant\nmetadata: {name: one-%d, namespace: default}\nspec: {}\n---\n' "$i"
done | k apply -f - >/dev/null
all_ready() { [ "$(k get tenants -o json | jq '[.items[] | select(.status.phase == "Running")] | length')" = 50 ]; }
wait_until 120 all_ready >&2
row "45 more tenants, apply to all Running" "$(($(now_ms) - began)) ms" "-"
sleep 20
all=()
for uid in $(k get tenants -o 'jsonpath={.items[*].metadata.uid}'); do
    mapfile -t pids < <(tenant_pids "$uid")
    all+=("${pids[@]}")
done
total=$(memory "${all[@]}")
row "50 idle tenants, PSS of their ${#all[@]} processes" "$(mib "$total")" "-"
row "  the same, per tenant" "$(mib $((total / 50)))" "<= 8 MiB"
row "50 idle tenants, CPU of everything over 30 s, of one core" "$(idle_cpu 30)" "< 2 %"
server_stop a
rm -rf "$WORK/a"

say "list and watch"
server_start a
tenant_up rates >&2
kc=$WORK/rates.kubeconfig
while read -r name value; do
    case $name in
    create_per_s) row "durable creates, 8 connections" "$value /s" "-" ;;
    esac
done < <(api fill "$kc" 10000)
while read -r name value; do
    case $name in
    list_ms) row "list of 10,000 ConfigMaps, HTTP/1.1" "$value ms" "-" ;;
    list_objects_per_s) row "  the same" "$value objects/s" "-" ;;
    esac
done < <(api list "$kc" 5)
kubeconfig_split "$kc"
t=$(for _ in 1 2 3 4 5; do
    on curl -s -o /dev/null -w '%{time_total}\n' --http2 --cacert "$WORK/rates.ca" --cert "$WORK/rates.crt" --key "$WORK/rates.key" \
        "$(cat "$WORK/rates.server")/api/v1/namespaces/bench/configmaps"
done | median)
row "list of 10,000 ConfigMaps, HTTP/2, new connection" "$(awk -v t="$t" 'BEGIN { printf "%.0f ms", t * 1000 }')" "-"
pid=$(role_pids apiserver "$(tenant_uid rates)" | head -n 1)
watches() { # VERSION of HTTP: 100 connections watch, 8 write
    while read -r name value; do
        case $name in
        watch_writes_per_s) row "100 watches, HTTP/$1: writes" "$value /s" "1,000 /s" ;;
        watch_events_per_s) row "  events delivered" "$value /s" "100,000 /s" ;;
        watch_lag_p50_ms) row "  write sent to event seen, median" "$value ms" "-" ;;
        watch_lag_p99_ms) row "  the same, 99th percentile" "$value ms" "-" ;;
        watch_cpu_s_per_100k) row "  CPU of the API server, writes included, 100,000 events" "$value s" "< 1 s" ;;
        esac
    done < <(on build/apiload "$WORK/rates" 100 5000 8 "$1" "$pid")
}
watches 1
watches 2
server_stop a
net_down
NS=

say "boot service, beside dnsmasq"
KFARM=$PWD/build/kfarm python3 scripts/bench/netboot.py >"$tmp/netboot"
while IFS=$'\t' read -r name value; do
    case $name in
    ratio*) row "$name" "$value" ">= 3" ;;
    "kfarm: finished"*) row "$name" "$value" ">= 80 %" ;;
    *) row "$name" "$value" "-" ;;
    esac
done <"$tmp/netboot"

if [ "${BOOT:-1}" != 0 ]; then
    say "boot times (demo; software emulation)"
    TIMES=$tmp/times KEEP='' scripts/demo.sh >"$tmp/demo.log" 2>&1 || { tail -n 60 "$tmp/demo.log" >&2; exit 1; }
    while IFS=$'\t' read -r seconds step; do
        case $step in *install* | *removed*) continue ;; esac
        row "demo: $step" "$seconds s" "-"
    done <"$tmp/times"
fi

store_section
finish_table
