#!/bin/bash
# timeout: 900
# The store under SIGKILL, SIGSTOP, power loss, failing and full disks, slow disks, clocks that jump, and with users whose
# permissions change: several clients write down what they ask and see, and every round's history must be linearizable and
# keep etcd's watch guarantees. "lie" is a disk that only says that it syncs: its losses must be seen. The last rounds are of
# a binary with the sanitizers.
# SEED= starts elsewhere, SCALE=n makes n times as many rounds. Histories of failed rounds stay in the folder of the logs.
set -euo pipefail
cd "$(dirname "$0")/../.."
n=${SCALE:-1}
keep=${TEST_LOGS:-build/test-logs}
mkdir -p "$keep"
make --no-print-directory -j"$(nproc)" build/check/kfarm-lin build/check/kfarm-faulty-store build/check/kfarm >&2
exec build/check/kfarm-lin run "${KFARM:-build/kfarm}" build/check/kfarm-faulty-store "$keep" "${SEED:-1}" \
    kill=$((90 * n)) stop=$((30 * n)) power=$((120 * n)) sync=$((120 * n)) space=$((60 * n)) slow=$((30 * n)) \
    drag=$((8 * n)) clock=$((60 * n)) \
    lag=$((12 * n)) users=$((20 * n)) lie=30 kfarm=build/check/kfarm kill=$((10 * n)) stop=$((20 * n))
