"""api_lab: a standalone API server for tests in Python; TAP output."""
import os
import subprocess
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))


class Lab:
    """with Lab() as lab: lab.kubeconfig, lab.port, lab.pki. The server runs until the block ends."""

    flags = ()  # of the server, further ones

    def __enter__(self):
        script = f"""
set -eu
BATS_TEST_DIRNAME={HERE}
. "$BATS_TEST_DIRNAME/kubectl.bash"
api_setup
trap api_teardown EXIT
echo "$WORK $PORT"
read -r _ || true
"""
        env = {**os.environ, "API_FLAGS": " ".join(self.flags)} if self.flags else None
        self.shell = subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        line = self.shell.stdout.readline().split()
        if len(line) != 2:
            raise RuntimeError("the API server did not start")
        self.work, self.port = line[0], int(line[1])
        self.pki, self.kubeconfig = self.work + "/pki", self.work + "/admin.kubeconfig"
        return self

    def __exit__(self, *_):
        self.shell.stdin.close()
        self.shell.wait(timeout=30)


def run(tests):
    """Runs (name, function) pairs and prints TAP; returns the exit status."""
    print(f"1..{len(tests)}")
    failed = 0
    for i, (name, fn) in enumerate(tests, 1):
        try:
            fn()
            print(f"ok {i} - {name}", flush=True)
        except Exception:  # every failure is a result
            failed += 1
            print(f"not ok {i} - {name}", flush=True)
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            sys.stdout.flush()
    return 1 if failed else 0
