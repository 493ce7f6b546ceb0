# timeout: 1500
# The main job: two machines, one BIOS and one UEFI, boot over the network into a tenant and run pods; three failures.
load common.bash

setup_file() {
    [ "$(id -u)" = 0 ] || skip "needs root"
    export TIMES=$BATS_FILE_TMPDIR/times OUT=${TEST_LOGS:-$BATS_FILE_TMPDIR}/demo-output.log
    ip netns list | sort >"$BATS_FILE_TMPDIR/netns"
    status=0
    env -u KEEP "$BATS_TEST_DIRNAME/../demo.sh" >"$OUT" 2>&1 3>&- </dev/null || status=$?
    echo $status >"$BATS_FILE_TMPDIR/status"
}

@test "the demo runs to its end" {
    [ "$(cat "$BATS_FILE_TMPDIR/status")" = 0 ] || tail -n 120 "$OUT"
    [ "$(cat "$BATS_FILE_TMPDIR/status")" = 0 ]
}

@test "a BIOS and a UEFI machine became Ready and ran a pod each" {
    grep -q 'both Ready' "$TIMES"
    grep -q 'one pod on each node' "$TIMES"
    grep -q 'hello from .* on node-1' "$OUT"
    grep -q 'hello from .* on node-2' "$OUT"
}

@test "the API server's SIGKILL, a power cut and a stopped boot server were survived" {
    for n in 1 2 3; do grep -q "failure $n" "$TIMES"; done
    grep -q 'powered on, Ready again' "$TIMES"
}

@test "nothing is left of it" {
    ip netns list | sort | comm -13 "$BATS_FILE_TMPDIR/netns" - | grep demo- && return 1
    run find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'kfarm-demo.*' -newer "$BATS_FILE_TMPDIR/netns"
    [ -z "$output" ]
}
