#!/bin/bash
# timeout: 600
# The etcd3 package of npm, every part of it, against kfarm store, with and without users.
set -eu
BATS_TEST_DIRNAME=$(cd "$(dirname "$0")" && pwd)
. "$BATS_TEST_DIRNAME/store.bash"
lib=$("$BATS_TEST_DIRNAME/../tools.sh" etcd3-npm)
WORK=$(mktemp -d)
trap all_stop EXIT
cp "$BATS_TEST_DIRNAME/etcd3_client.mjs" "$WORK/"
ln -s "$lib/node_modules" "$WORK/node_modules"
export KFARM WORK PORT
PORT=$(free_port)
timeout 180 node "$WORK/etcd3_client.mjs"
