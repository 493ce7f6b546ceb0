#!/usr/bin/python3
# timeout: 600
"""The same random histories of several clients against kfarm store and Debian's etcds: every answer must be equal, errors
by code and text, streams item for item. store_allow.py lists what may differ, store_gen.py leaves out what ends etcd.

  SEED=n        the first history (random: another each time). The default is fixed: a test that fails must fail again on
                the same tree, and longer looks are asked for: SEED=random ROUNDS=50
  ROUNDS= OPS=  how often, and how many operations of the longest kind
  VERSIONS= KINDS=   of 3.4,3.5,3.5new and kv,auth,sync
  SHRINK=       seconds for making a history short that shows a difference (default 60; 0: not at all)"""
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
from store_allow import allowed  # noqa: E402
from store_gen import Gen  # noqa: E402
from store_history import replay, run_history  # noqa: E402
from store_lib import Tap, etcd_binary  # noqa: E402

# How much of OPS: passwords are slow on purpose, and locks wait for each other. Only the last 3.5 asks everybody who they
# are, so users are tried against it most.
SHARE = {("3.5", "kv"): 1, ("3.4", "kv"): 0.6, ("3.5new", "kv"): 0.4, ("3.5new", "auth"): 0.5, ("3.4", "auth"): 0.2,
         ("3.5", "auth"): 0.2, ("3.5", "sync"): 0.3, ("3.4", "sync"): 0.2}


def shrink(version, ops, deadline):
    """Leaves out pieces while there is a difference."""
    size = max(1, len(ops) // 2)
    while size and time.monotonic() < deadline:
        i = 0
        while i < len(ops) - 1 and time.monotonic() < deadline:
            done, wrong = replay(version, ops[:i] + ops[i + size:], allowed)
            if wrong:
                ops = done
            else:
                i += size
        size //= 2
    return ops


def one_history(version, kind, seed, n):
    ops, wrong = run_history(version, Gen(random.Random(f"{seed} {kind}"), kind, version, n), allowed)
    if not wrong:
        return
    report = f"SEED={seed} KINDS={kind} VERSIONS={version}, after {len(ops)} operations {ops[-1]}\n{wrong}"
    patience = float(os.environ.get("SHRINK", 60))
    if patience:
        short = shrink(version, ops, time.monotonic() + patience)
        _, again = replay(version, short, allowed)
        lines = "\n".join(str(op) for op in short)
        report += f"\nshortest history found:\n{lines}\n{again or '(equal when repeated)'}"
    raise AssertionError(report)


def main():
    tap = Tap()
    seed = os.environ.get("SEED", "20261122")
    seed = random.randrange(1 << 32) if seed == "random" else int(seed)
    ops = int(os.environ.get("OPS", 700))
    versions = [v for v in os.environ.get("VERSIONS", "3.5,3.4,3.5new").split(",")]
    for version in [v for v in versions if not etcd_binary(v)]:
        versions.remove(version)
        if version == "3.5new":
            tap.skip("the last etcd 3.5", "Debian's next release has another")
        else:
            tap.run(f"etcd {version} is there", lambda: etcd_binary(version)[0])
    kinds = os.environ.get("KINDS", "kv,auth,sync").split(",")
    for k in range(int(os.environ.get("ROUNDS", 1))):
        for (version, kind), share in SHARE.items():
            if version in versions and kind in kinds:
                tap.run(f"etcd {version}, {kind}, seed {seed + k}",
                        lambda: one_history(version, kind, seed + k, int(share * ops)))
    tap.end()


if __name__ == "__main__":
    main()
