"""etcd_lab: etcd members as processes, and an API server on them, for 57-etcd-*."""
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import api_lab
from store_lib import etcd_binary, free_port, KFARM


class Member:
    """One etcd, of a cluster of len(ports) members, or `kfarm store`."""

    def __init__(self, cluster, i):
        self.cluster, self.i, self.proc = cluster, i, None
        self.port, self.peer = cluster.ports[i], cluster.peers[i]
        self.dir = os.path.join(cluster.dir, f"m{i}")

    def start(self, fresh=True):
        c, scheme = self.cluster, "https" if self.cluster.tls else "http"
        url = f"{scheme}://127.0.0.1:{self.port}"
        cmd = [KFARM, "store", "--log-level", "warn"] if c.version == "kfarm" else [etcd_binary(c.version), "--log-level",
                                                                                   "error", "--logger", "zap"]
        cmd += ["--data-dir", self.dir, "--listen-client-urls", url, "--advertise-client-urls", url] + c.tls
        if c.version != "kfarm":
            peer = f"http://127.0.0.1:{self.peer}"
            cmd += ["--name", f"m{self.i}", "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                    "--initial-cluster", ",".join(f"m{k}=http://127.0.0.1:{p}" for k, p in enumerate(c.peers)),
                    "--initial-cluster-state", "new" if fresh else "existing",
                    "--heartbeat-interval", "100", "--election-timeout", "1000"]
        log = open(self.dir + ".log", "ab")
        self.proc = subprocess.Popen(cmd, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()

    def kill(self, sig=signal.SIGKILL):
        self.proc.send_signal(sig)
        if sig != signal.SIGSTOP:
            self.proc.wait(20)


class Cluster:
    def __init__(self, n=1, version=os.environ.get("ETCD_VERSION", "3.4"), tls=(), start=True):
        self.version, self.tls = version, list(tls)
        self.dir = tempfile.mkdtemp(prefix="kf-etcd-")
        self.ports, self.peers = [free_port() for _ in range(n)], [free_port() for _ in range(n)]
        self.members = [Member(self, i) for i in range(n)]
        if start:
            self.start()

    def start(self):
        for m in self.members:
            m.start()

    @property
    def urls(self):
        return ",".join(f"{'https' if self.tls else 'http'}://127.0.0.1:{p}" for p in self.ports)

    def ctl(self, *args):
        cmd = [etcd_binary("3.4", "etcdctl"), "--endpoints", self.urls.split(",")[0], *args]
        out = subprocess.run(cmd, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, timeout=30)
        if out.returncode:
            raise RuntimeError(out.stderr)
        return out.stdout

    def health(self):
        try:
            return self.ctl("endpoint", "health", "-w", "json")
        except RuntimeError:
            return ""

    def stop(self):
        for m in self.members:
            if m.proc and m.proc.poll() is None:
                m.proc.send_signal(signal.SIGCONT)
                m.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Api(api_lab.Lab):
    """The API server on a cluster. In its own words: api.get(path), api.create(name), api.watch(rv)."""

    def __init__(self, cluster, prefix="/kfarm/test", flags=()):
        self.flags = ["--etcd-servers", cluster.urls, "--etcd-prefix", prefix, *flags]
        self.cluster = cluster

    def __enter__(self):
        super().__enter__()
        self.tls = ssl.create_default_context(cafile=self.pki + "/ca.crt")
        self.tls.load_cert_chain(self.pki + "/admin.crt", self.pki + "/admin.key")
        self.tls.check_hostname = False
        return self

    def conn(self, timeout=60):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=timeout)

    def call(self, method, path, body=None, conn=None):
        c = conn or self.conn()
        c.request(method, path, json.dumps(body) if body is not None else None, {"content-type": "application/json"})
        r = c.getresponse()
        data = r.read()
        if conn is None:
            c.close()
        is_json = r.getheader("content-type", "").startswith("application/json")
        return r.status, json.loads(data) if is_json else data.decode()

    def create(self, name, conn=None):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x" * 200}}
        return self.call("POST", "/api/v1/namespaces/default/configmaps", body, conn)

    def names(self):
        path, end = "/api/v1/namespaces/default/configmaps", time.monotonic() + 60
        status, body = self.call("GET", path)
        while status == 503 and time.monotonic() < end:  # everything is being read again
            time.sleep(0.1)
            status, body = self.call("GET", path)
        assert status == 200, body
        return {o["metadata"]["name"] for o in body["items"]}

    def log(self):
        return open(self.work + "/log").read()

    def pid(self):
        return int(open(self.work + "/pid").read())

    def member_in_use(self):
        out = subprocess.run(["ss", "-Htnp", "state", "established"], capture_output=True, text=True).stdout
        for line in out.splitlines():
            if f"pid={self.pid()}," in line:
                port = int(re.search(r":(\d+)\s+users", line).group(1))
                if port in self.cluster.ports:
                    return self.cluster.members[self.cluster.ports.index(port)]
        return None

    def until(self, what, check, seconds=60):
        """What check returns, when it is true."""
        end = time.monotonic() + seconds
        while not (answer := check()):
            assert time.monotonic() < end, f"{what}: not within {seconds} s\n" + self.log()[-3000:]
            time.sleep(0.1)
        return answer

    def ready(self):
        return self.call("GET", "/readyz")[0] == 200


class Watcher(threading.Thread):
    """Follows the config maps of `default`, with a new request from the last version when one ends: (type, name, rv)…"""

    def __init__(self, api, rv):
        super().__init__(daemon=True)
        self.api, self.rv, self.seen, self.requests, self.gone, self.stopping = api, rv, [], 0, 0, False
        self.start()

    def run(self):
        while not self.stopping:
            try:
                self.follow()
            except OSError:
                time.sleep(0.2)

    def follow(self):
        c = self.api.conn(timeout=5)
        c.request("GET", f"/api/v1/namespaces/default/configmaps?watch=1&resourceVersion={self.rv}")
        r = c.getresponse()
        self.requests += 1
        while not self.stopping:
            line = r.readline()
            if not line:
                break
            ev = json.loads(line)
            if ev["type"] == "ERROR":
                self.gone += 1
                self.rv = self.api.call("GET", "/api/v1/namespaces/default/configmaps")[1]["metadata"]["resourceVersion"]
                break
            self.rv = ev["object"]["metadata"]["resourceVersion"]
            self.seen.append((ev["type"], ev["object"]["metadata"]["name"], int(self.rv)))
        c.close()

    def stop(self):
        self.stopping = True


class Writer(threading.Thread):
    """Creates config maps one after the other and keeps what was acknowledged, refused, and how."""

    def __init__(self, api, prefix, pause=0.0):
        super().__init__(daemon=True)
        self.api, self.prefix, self.pause = api, prefix, pause
        self.acked, self.failed, self.slowest, self.stopping = [], [], 0.0, False
        self.start()

    def run(self):
        conn, i = self.api.conn(), 0
        while not self.stopping:
            name, began = f"{self.prefix}-{i}", time.monotonic()
            i += 1
            status, body = self.api.create(name, conn)
            self.slowest = max(self.slowest, time.monotonic() - began)
            if status == 201:
                self.acked.append(name)
            else:
                self.failed.append((name, status, body.get("message") if isinstance(body, dict) else body))
            time.sleep(self.pause)

    def stop(self):
        self.stopping = True
        self.join(60)
        assert not self.is_alive(), "the writer hangs"
