"""What the store's tests share: a free port, kfarm store and a real etcd as processes, TAP lines."""
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
KFARM = os.environ.get("KFARM", os.path.join(TOP, "build", "kfarm"))


def free_port(given=set()):
    """Below the ports that the kernel gives to clients: one that tries to reach a server which is not there yet, or away for a
    while, would sooner or later be given its port and be connected to itself."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in given:
            given.add(port)
            return port


def etcd_binary(version="3.4", name="etcd"):
    """etcd, etcdctl or etcdutl of this version (3.4, 3.5, 3.5new), which scripts/tools.sh has put into the cache; None: not
    to be had."""
    cache = os.environ.get("KFARM_CACHE", os.path.expanduser("~/.cache/kfarm"))
    binary = os.path.join(cache, "etcd" + version.replace(".", ""), "usr", "bin", name)
    if not os.path.exists(binary):
        subprocess.run([os.path.join(TOP, "scripts", "tools.sh"), "etcd" + version.replace(".", "")], stdout=sys.stderr,
                       timeout=200)
    return binary if os.path.exists(binary) else None


class Server:
    def __init__(self, kind, extra=(), data=None, port=None, version="3.4"):
        self.kind, self.extra, self.version = kind, list(extra), version
        self.dir = data or tempfile.mkdtemp(prefix="kf-store-")
        self.port = port or free_port()
        self.proc = None
        self.start()

    def start(self):
        url = f"http://127.0.0.1:{self.port}"
        args = ["--data-dir", os.path.join(self.dir, "d"), "--listen-client-urls", url, "--advertise-client-urls", url]
        peer = f"http://127.0.0.1:{free_port()}"
        args += ["--initial-advertise-peer-urls", peer]
        if self.kind == "kfarm":
            cmd = [KFARM, "store", "--log-level", "warn"]
        else:
            cmd = [etcd_binary(self.version), "--log-level", "error", "--logger", "zap"]
            args += ["--listen-peer-urls", peer, "--initial-cluster", "default=" + peer]
        self.log = open(os.path.join(self.dir, "log"), "ab")
        env = {k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}
        env |= {"PATH": os.environ["PATH"], "HOME": self.dir, "ETCD_UNSUPPORTED_ARCH": "amd64"}
        self.proc = subprocess.Popen(cmd + args + self.extra, stdout=self.log, stderr=self.log, env=env)
        began = time.monotonic()
        end = began + 90
        while time.monotonic() < end:
            if self.proc.poll() is not None:
                raise RuntimeError(f"{self.kind} ended: " + open(os.path.join(self.dir, "log")).read()[-2000:])
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as r:
                    if json.load(r)["health"] == "true":
                        return
            except urllib.error.HTTPError as e:  # 503: not yet, or an alarm stands
                if e.code == 503 and time.monotonic() > began + 5:
                    return
            except (OSError, ValueError, http.client.HTTPException):
                pass
            time.sleep(0.02)
        raise RuntimeError(f"{self.kind} does not listen")

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def stop(self, remove=True):
        if self.proc and self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()
        if remove:
            shutil.rmtree(self.dir, ignore_errors=True)


class Tap:
    """Runs functions as TAP tests."""

    def __init__(self):
        self.n = self.bad = 0

    def run(self, name, fn):
        self.n += 1
        try:
            fn()
            print(f"ok {self.n} {name}", flush=True)
        except Exception as e:  # noqa: BLE001 - a test fails by any of them
            self.bad += 1
            print(f"not ok {self.n} {name}\n# " + f"{type(e).__name__}: {e}".replace("\n", "\n# "), flush=True)

    def skip(self, name, why):
        self.n += 1
        print(f"ok {self.n} {name} # skip {why}", flush=True)

    def end(self):
        print(f"1..{self.n}")
        sys.exit(1 if self.bad else 0)
