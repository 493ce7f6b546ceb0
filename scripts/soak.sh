#!/bin/bash
# soak.sh [ROUNDS] [SEED]: the store's fault rounds (scripts/test/55-store-lin.sh), thousands of them, from a seed that is
# another one each time and is printed. About three rounds a second on two idle cores.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5000}
export SEED=${2:-$((RANDOM * 32768 + RANDOM + 1))} SCALE=$(((rounds + 579) / 580))
echo "seed $SEED, $((SCALE * 580)) rounds"
make -j"$(nproc)" all
exec scripts/test/55-store-lin.sh
