#!/usr/bin/python3
# timeout: 300
"""The same random histories against kfarm store and Debian's etcd 3.4 and 3.5: every answer must be equal, errors by code
and text, streams item for item. SEED= chooses the first history (random: another each time), ROUNDS= how many for each
version, OPS= how long, KINDS= and VERSIONS= which. A difference is shrunk to a short history before it is printed."""
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
try:
    import grpc  # noqa: F401
except ImportError:
    print("python3-grpcio is missing")
    sys.exit(77)
from store_gen import Gen  # noqa: E402
from store_history import replay, run_history  # noqa: E402
from store_lib import Tap, etcd_binary  # noqa: E402


def shrink(version, ops, deadline):
    """Leaves out pieces while there is a difference."""
    size = max(1, len(ops) // 2)
    while size and time.monotonic() < deadline:
        i = 0
        while i < len(ops) - 1 and time.monotonic() < deadline:
            done, wrong = replay(version, ops[:i] + ops[i + size:])
            if wrong:
                ops = done
            else:
                i += size
        size //= 2
    return ops


def one_history(version, kind, seed, n):
    ops, wrong = run_history(version, Gen(random.Random(f"{seed} {kind}"), kind, version, n))
    if not wrong:
        return
    short = shrink(version, ops, time.monotonic() + float(os.environ.get("SHRINK", 60)))
    _, again = replay(version, short)
    lines = "\n".join(str(op) for op in short)
    raise AssertionError(f"SEED={seed} KINDS={kind} VERSIONS={version}, after {len(ops)} operations {ops[-1]}\n{wrong}\n"
                         f"shortest history found:\n{lines}\n{again or '(equal when repeated)'}")


if __name__ == "__main__":
    tap = Tap()
    seed = os.environ.get("SEED", "20261122")
    seed = random.randrange(1 << 32) if seed == "random" else int(seed)
    versions = os.environ.get("VERSIONS", "3.4,3.5").split(",")
    for version in versions:
        if not etcd_binary(version):
            tap.run(f"etcd {version} is there", lambda: 1 / 0)
    kinds = os.environ.get("KINDS", "kv,auth,sync").split(",")
    for k in range(int(os.environ.get("ROUNDS", 3))):
        kind = kinds[k % len(kinds)]
        for version in versions:
            tap.run(f"etcd {version}, {kind}, seed {seed + k}",
                    lambda: one_history(version, kind, seed + k, int(os.environ.get("OPS", 1000))))
    tap.end()
