#!/usr/bin/env python3
"""Conversations recorded with upstream 1.36 get the same answers from kfarm: at least as many as testdata/conformance.minimum
says. Raise that number whenever it can be raised; it never goes down."""
# timeout: 600
import os
import re
import subprocess
import sys
import tempfile

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
RUN = r"""
set -eu
BATS_TEST_DIRNAME=%s/scripts/test
. "$BATS_TEST_DIRNAME/kubectl.bash"
api_setup
trap api_teardown EXIT
python3 %s/scripts/conformance.py --kubeconfig "$KUBECONFIG" --show 1000 >"$1"
"""

with tempfile.NamedTemporaryFile("r") as out:
    env = dict(os.environ, KFARM=os.environ.get("KFARM", os.path.join(TOP, "build/kfarm")))
    script = RUN % (TOP, TOP)
    run = subprocess.run(["bash", "-c", script, "conformance", out.name], env=env, timeout=180, check=False)
    text = out.read()
logs = os.environ.get("TEST_LOGS")
if logs:
    with open(os.path.join(logs, "conformance.txt"), "w", encoding="utf-8") as f:
        f.write(text)
lines = text.strip().splitlines()
match = re.match(r"conformance: (\d+) of (\d+)", lines[-1]) if lines else None
if run.returncode or not match:
    print(text[-2000:])
    sys.exit("the replay did not finish")
same, total = map(int, match.groups())
minimum = int(open(os.path.join(TOP, "testdata/conformance.minimum"), encoding="utf-8").read())
print("1..1")
print(f"{'ok' if same >= minimum else 'not ok'} 1 - {same} of {total} recorded answers are the same (minimum {minimum})")
sys.exit(same < minimum)
