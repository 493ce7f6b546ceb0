#!/usr/bin/python3
# timeout: 600
"""The same tests on both stores: what store.h promises, the API server's unit tests, kubectl and recorded answers, with an
external etcd behind them."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import api_lab
from etcd_lab import Cluster
from store_lib import TOP

RUNNER = os.path.join(TOP, "build", "check", "kfarm-tests")


def show(run):
    assert run.returncode == 0, (run.stdout + run.stderr)[-6000:]


def units(version):
    with Cluster(1, version=version) as c:
        env = {**os.environ, "STORE": "etcd", "ETCD_ENDPOINTS": c.urls}
        for package in ("face", "apiserver"):
            show(subprocess.run([RUNNER, package], env=env, cwd=TOP, capture_output=True, text=True, timeout=120))


def with_etcd(version, command):
    with Cluster(1, version=version) as c:
        env = {**os.environ, "API_FLAGS": f"--etcd-servers {c.urls}"}
        show(subprocess.run(command, env=env, cwd=TOP, capture_output=True, text=True, timeout=300))


if __name__ == "__main__":
    subprocess.run(["make", "-s", "-C", TOP, "build/check/kfarm-tests"], check=True, stdout=sys.stderr)
    tests = [(f"interface and API server units on {v}", lambda v=v: units(v)) for v in ("3.4", "3.5", "kfarm")]
    tests += [("kubectl on etcd 3.4", lambda: with_etcd("3.4", ["bats", "scripts/test/20-api-kubectl.bats"])),
              ("recorded answers on etcd 3.5", lambda: with_etcd("3.5", ["/usr/bin/python3",
                                                                         "scripts/test/40-conformance.py"]))]
    sys.exit(api_lab.run(tests))
