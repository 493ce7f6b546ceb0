#!/bin/bash
# timeout: 600
# The API server driven with the JavaScript client: typed calls, watch, informer, server-side apply.
set -eu
BATS_TEST_DIRNAME=$(cd "$(dirname "$0")" && pwd)
. "$BATS_TEST_DIRNAME/kubectl.bash"

lib=$TOOLS/client-node-1
if [ ! -d "$lib/node_modules/@kubernetes/client-node" ]; then
    mkdir -p "$lib"
    (cd "$lib" && npm init -y >/dev/null 2>&1 && npm install --silent --no-audit --no-fund @kubernetes/client-node@1 >/dev/null 2>&1) || {
        echo "1..0 # skip the JavaScript client cannot be installed"
        exit 0
    }
fi
api_setup
trap api_teardown EXIT
cp "$BATS_TEST_DIRNAME/api_client.mjs" "$WORK/"
ln -s "$lib/node_modules" "$WORK/node_modules"
node "$WORK/api_client.mjs"
