"""Upstream Kubernetes on kfarm store or on a real etcd: programs, certificates, a client, TAP lines.

Everything runs in network, mount and process namespaces of its own (see enter): upstream's programs
listen on all addresses, and whatever is left at the end goes with the first process.
"""
import collections
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".."))
KFARM = os.path.abspath(os.environ.get("KFARM", os.path.join(TOP, "build", "kfarm")))
HOST_ADDRESS = "10.99.0.1"  # what the API server advertises; it exists only in the namespace
STORE_PORT, PEER_PORT, API_PORT = 2379, 2380, 6443


def binaries():
    """The folder with upstream's programs, None where they were not built."""
    found = subprocess.run([os.path.join(TOP, "scripts", "upstream.sh"), "--where"], stdout=subprocess.PIPE, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def enter(limit=None):
    """Goes on in namespaces of its own, for so many seconds; without upstream's binaries the file is skipped."""
    if not binaries():
        print("1..0 # SKIP not run: upstream Kubernetes is not built here (make test-upstream builds it)")
        sys.exit(77)
    if os.environ.get("KF_UPSTREAM_INSIDE") != "1":
        os.environ["KF_UPSTREAM_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                              sys.executable, *sys.argv])
    for sig in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(sig, lambda *_: sys.exit(1))
    signal.alarm(limit or 0)
    # The unreachable ones are a cloud's metadata, for which the kubelet would wait.
    for command in ("link set lo up", f"addr add {HOST_ADDRESS}/32 dev lo", "route add default dev lo",
                    "route add unreachable 169.254.0.0/16"):
        subprocess.run(["ip", *command.split()], check=True)
    # Names are answered or refused at once: a kubelet asks for its own whenever it tells its status.
    for path, text in (("/etc/hosts", f"127.0.0.1 localhost\n{HOST_ADDRESS} hollow-1\n"), ("/etc/resolv.conf", "")):
        with tempfile.NamedTemporaryFile("w", suffix=os.path.basename(path)) as f:
            f.write(text)
            f.flush()
            subprocess.run(["mount", "--bind", f.name, path], check=True)


def until(what, limit, fn):
    """Calls fn until its answer is true, and returns that; a machine under load is slow, so limits are wide."""
    end, last = time.monotonic() + limit, None
    while time.monotonic() < end:
        try:
            answer = fn()
            if answer:
                return answer
        except (OSError, http.client.HTTPException, ValueError, KeyError, subprocess.SubprocessError, ApiError) as e:
            last = e
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {limit} s" + (f", last: {last}" if last else ""))


class Pki:
    """One CA for the cluster, one for the store, and who needs to be known to them."""

    def __init__(self, folder):
        self.dir = folder
        os.makedirs(folder)
        for ca in ("ca", "front-proxy-ca", "store-ca"):
            self._openssl("req", "-x509", *self._new_key(ca), "-days", "30", "-out", ca + ".crt", "-subj", "/CN=" + ca)
        server = "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc," \
                 f"IP:127.0.0.1,IP:10.96.0.1,IP:{HOST_ADDRESS}\nextendedKeyUsage=serverAuth,clientAuth\n"
        client = "extendedKeyUsage=clientAuth\n"
        self.issue("store", "/CN=store", "store-ca", server)
        self.issue("store-client", "/CN=kube-apiserver", "store-ca", client)
        self.issue("apiserver", "/CN=kube-apiserver", "ca", server)
        self.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client", "ca", client)
        self.issue("front-proxy-client", "/CN=front-proxy-client", "front-proxy-ca", client)
        for name, subject in (("admin", "/O=system:masters/CN=admin"), ("scheduler", "/CN=system:kube-scheduler"),
                              ("controller-manager", "/CN=system:kube-controller-manager")):
            self.issue(name, subject, "ca", client)
            self._kubeconfig(name)
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")
        self._openssl("ec", "-in", "sa.key", "-pubout", "-out", "sa.pub")

    def path(self, name):
        return os.path.join(self.dir, name)

    def context(self, name="admin", ca="ca"):
        context = ssl.create_default_context(cafile=self.path(ca + ".crt"))
        context.load_cert_chain(self.path(name + ".crt"), self.path(name + ".key"))
        return context

    def _openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.dir, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def _new_key(self, name):
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name + ".key"

    def issue(self, name, subject, ca, extensions):
        with open(self.path(name + ".ext"), "w") as f:
            f.write(extensions)
        self._openssl("req", *self._new_key(name), "-out", name + ".csr", "-subj", subject)
        self._openssl("x509", "-req", "-in", name + ".csr", "-CA", ca + ".crt", "-CAkey", ca + ".key", "-CAcreateserial",
                      "-days", "30", "-out", name + ".crt", "-extfile", name + ".ext")

    def _kubeconfig(self, name):
        user = {"client-certificate": self.path(name + ".crt"), "client-key": self.path(name + ".key")}
        cluster = {"server": f"https://127.0.0.1:{API_PORT}", "certificate-authority": self.path("ca.crt")}
        with open(self.path(name + ".conf"), "w") as f:
            json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "x",
                       "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}],
                       "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}, f)


class ApiError(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text[:300]}")
        self.code = code


class Api:
    """A client of one API server, one connection a thread."""

    def __init__(self, pki, port=API_PORT):
        self.context, self.port = pki.context(), port
        self.forget()

    def forget(self):
        """The server was started anew: its connections are."""
        self.local = threading.local()

    def connection(self, timeout):
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=timeout)

    def call(self, method, path, body=None, kind="application/json", timeout=30):
        """The answer's text; ApiError for a refusal, OSError or HTTPException when there is no answer."""
        c = getattr(self.local, "connection", None) or self.connection(timeout)
        self.local.connection = None  # kept only when the exchange ends well
        try:
            c.request(method, path, body if isinstance(body, (str, type(None))) else json.dumps(body),
                      {"Content-Type": kind} if body is not None else {})
            answer = c.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            c.close()
            raise
        self.local.connection = c
        if answer.status >= 300:
            raise ApiError(answer.status, text)
        return text

    def get(self, path, **kw):
        return json.loads(self.call("GET", path, **kw))

    def post(self, path, body, **kw):
        return json.loads(self.call("POST", path, body, **kw))

    def put(self, path, body, **kw):
        return json.loads(self.call("PUT", path, body, **kw))

    def delete(self, path, **kw):
        return json.loads(self.call("DELETE", path, **kw))

    def watch(self, path, timeout=60):
        """Events of a watch until the server ends it."""
        c = self.connection(timeout)
        try:
            c.request("GET", path)
            answer = c.getresponse()
            if answer.status != 200:
                raise ApiError(answer.status, answer.read().decode())
            while line := answer.readline():
                yield json.loads(line)
        finally:
            c.close()


class Process:
    def __init__(self, name, command, log):
        self.name, self.command, self.log_path = name, command, log
        self.started = 0
        self.proc = None

    def start(self):
        folder = os.path.dirname(self.log_path)
        with open(self.log_path, "ab") as log:
            self.started = time.monotonic()
            self.proc = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         cwd=folder, env=os.environ | {"TMPDIR": folder})

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def stop(self, sig=signal.SIGTERM, limit=15):
        if self.alive():
            self.proc.send_signal(sig)
            try:
                self.proc.wait(limit)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()

    def memory(self):
        """Resident MiB now and at most."""
        with open(f"/proc/{self.proc.pid}/status") as f:
            fields = dict(line.split(":", 1) for line in f)
        return tuple(int(fields[k].split()[0]) / 1024 for k in ("VmRSS", "VmHWM"))

    def cpu(self):
        """Seconds of user and system time."""
        with open(f"/proc/{self.proc.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self, lines=15):
        with open(self.log_path, errors="replace") as f:
            return "".join(collections.deque(f, lines))


class Cluster:
    """kind: "store" (kfarm store) or "etcd"; event_ttl: the seconds that events live."""

    def __init__(self, kind, event_ttl):
        self.kind, self.event_ttl = kind, event_ttl
        self.bin = binaries()
        self.dir = tempfile.mkdtemp(prefix="kf-upstream-")
        self.logs = os.path.join(self.dir, "logs")  # and what the programs put into a temporary folder
        os.makedirs(self.logs)
        self.pki = Pki(os.path.join(self.dir, "pki"))
        self.api = Api(self.pki)
        self.procs = {}

    def close(self):
        for p in reversed(list(self.procs.values())):
            p.stop(signal.SIGKILL if p.name != "store" else signal.SIGTERM)
        keep = os.environ.get("TEST_LOGS")
        if keep and os.path.isdir(keep):
            for log in [f for f in os.listdir(self.logs) if f.endswith(".log")]:
                shutil.copy(os.path.join(self.logs, log), os.path.join(keep, f"upstream-{self.kind}-{log}"))
        shutil.rmtree(self.dir, ignore_errors=True)

    def run(self, name, command):
        p = self.procs[name] = Process(name, command, os.path.join(self.logs, name + ".log"))
        p.start()
        return p

    # --- the store -------------------------------------------------------------------------------

    def store_command(self, data):
        url = f"https://127.0.0.1:{STORE_PORT}"
        flags = ["--data-dir", data, "--listen-client-urls", url, "--advertise-client-urls", url,
                 "--cert-file", self.pki.path("store.crt"), "--key-file", self.pki.path("store.key"),
                 "--trusted-ca-file", self.pki.path("store-ca.crt"), "--client-cert-auth", "--log-level"]
        if self.kind == "store":
            return [KFARM, "store", *flags, "info"]
        peer = f"http://127.0.0.1:{PEER_PORT}"
        return [etcd_program("etcd"), *flags, "warn", "--logger", "zap", "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer]

    def start_store(self, data=None):
        self.data = data or os.path.join(self.dir, "data")
        self.run("store", self.store_command(self.data))
        self.wait_store()

    def wait_store(self):
        def healthy():
            c = http.client.HTTPSConnection("127.0.0.1", STORE_PORT, timeout=5,
                                            context=self.pki.context("store-client", "store-ca"))
            c.request("GET", "/health")
            return json.loads(c.getresponse().read())["health"] == "true"
        until("the store is healthy", 60, healthy)

    def etcdctl(self, *args):
        flags = ["--endpoints", f"https://127.0.0.1:{STORE_PORT}", "--cacert", self.pki.path("store-ca.crt"),
                 "--cert", self.pki.path("store-client.crt"), "--key", self.pki.path("store-client.key")]
        return run([etcd_program("etcdctl"), *flags, *args], env=os.environ | {"ETCDCTL_API": "3"})

    def keys(self):
        """Number of keys in the store, and its revision."""
        found = json.loads(self.etcdctl("get", "/", "--prefix", "--keys-only", "--limit=1", "-w", "json"))
        return found["count"], found["header"]["revision"]

    def contents(self):
        """Every key with its value, revisions and lease, and the leases."""
        found = json.loads(self.etcdctl("get", "", "--prefix", "-w", "json"))["kvs"]
        leases = json.loads(self.etcdctl("lease", "list", "-w", "json")).get("leases", [])
        return {kv["key"]: kv for kv in found}, {lease["id"] for lease in leases}

    # --- upstream's programs ---------------------------------------------------------------------

    def start_apiserver(self, name="apiserver", port=API_PORT, compaction=300):
        """Returns the seconds until it was ready. It compacts to where the store was one interval before."""
        pki = self.pki.path
        flags = {
            "etcd-servers": f"https://127.0.0.1:{STORE_PORT}", "etcd-cafile": pki("store-ca.crt"),
            "etcd-certfile": pki("store-client.crt"), "etcd-keyfile": pki("store-client.key"),
            "etcd-compaction-interval": f"{compaction}s", "event-ttl": f"{self.event_ttl}s",
            "bind-address": "127.0.0.1", "advertise-address": HOST_ADDRESS, "secure-port": port,
            "service-cluster-ip-range": "10.96.0.0/16", "tls-cert-file": pki("apiserver.crt"),
            "tls-private-key-file": pki("apiserver.key"), "client-ca-file": pki("ca.crt"),
            "authorization-mode": "Node,RBAC", "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-signing-key-file": pki("sa.key"), "service-account-key-file": pki("sa.pub"),
            "kubelet-client-certificate": pki("kubelet-client.crt"), "kubelet-client-key": pki("kubelet-client.key"),
            "requestheader-client-ca-file": pki("front-proxy-ca.crt"),
            "requestheader-allowed-names": "front-proxy-client", "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group", "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": pki("front-proxy-client.crt"),
            "proxy-client-key-file": pki("front-proxy-client.key"), "allow-privileged": "true", "v": 1,
        }
        p = self.run(name, [os.path.join(self.bin, "kube-apiserver"), *(f"--{k}={v}" for k, v in flags.items())])
        self.wait_ready(p, Api(self.pki, port), 120)
        if port == API_PORT:
            self.api.forget()
        return time.monotonic() - p.started

    @staticmethod
    def wait_ready(process, api, limit):
        def ready():
            if not process.alive():
                raise RuntimeError(f"{process.name} ended:\n{process.tail()}")
            return api.call("GET", "/readyz", timeout=10) == "ok"
        until(f"{process.name} is ready", limit, ready)

    def start_controllers(self):
        pki = self.pki.path
        for name, port, flags in (
            ("controller-manager", 10257, {
                "service-account-private-key-file": pki("sa.key"), "root-ca-file": pki("ca.crt"),
                "cluster-signing-cert-file": pki("ca.crt"), "cluster-signing-key-file": pki("ca.key"),
                "use-service-account-credentials": "true"}),
            ("scheduler", 10259, {}),
        ):
            conf = pki(name + ".conf")
            flags = {"kubeconfig": conf, "authentication-kubeconfig": conf, "authorization-kubeconfig": conf,
                     "bind-address": "127.0.0.1", "secure-port": port, "port": 0, "leader-elect": "false", "v": 1} | flags
            self.run(name, [os.path.join(self.bin, "kube-" + name), *(f"--{k}={v}" for k, v in flags.items())])

    def start_hollow(self, number):
        """A kubelet with a pretended runtime: its pods run at once and do nothing."""
        name = f"hollow-{number}"
        self.run(name, [os.path.join(self.bin, "kubemark"), "--morph=kubelet", "--name=" + name,
                        "--kubeconfig=" + self.pki.path("admin.conf"), f"--kubelet-port={10350 + number}",
                        "--kubelet-read-only-port=0", "--v=1"])

    def kubectl(self, *args, input=None):
        return run([os.path.join(self.bin, "kubectl"), "--kubeconfig", self.pki.path("admin.conf"),
                    "--cache-dir", os.path.join(self.dir, "kubectl"), *args], input=input)

    def e2e(self, focus, skip, limit, nodes=1):
        """Runs upstream's end-to-end tests on so many processes; returns status, output and seconds."""
        env = os.environ | {"KUBECONFIG": self.pki.path("admin.conf"), "HOME": self.dir}
        command = [os.path.join(self.bin, "ginkgo"), f"-nodes={nodes}", "-noColor", "-focus=" + focus, "-skip=" + skip,
                   os.path.join(self.bin, "e2e.test"), "--", "--provider=local", "--num-nodes=1",
                   "--kubeconfig=" + self.pki.path("admin.conf"), "--kubectl-path=" + os.path.join(self.bin, "kubectl")]
        started = time.monotonic()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=env, cwd=self.dir, timeout=limit, text=True, errors="replace")
        with open(os.path.join(self.logs, "e2e.log"), "a") as f:
            f.write(done.stdout)
        return done.returncode, done.stdout, time.monotonic() - started


def etcd_program(name):
    """Of the version that ETCD says (34 or 35); scripts/tools.sh has fetched it."""
    cache = os.environ.get("KFARM_CACHE", os.path.expanduser("~/.cache/kfarm"))
    return os.path.join(cache, "etcd" + os.environ.get("ETCD", "35"), "usr", "bin", name)


def run(command, limit=60, **kw):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=limit, **kw)
    if done.returncode != 0:
        raise AssertionError(f"{os.path.basename(command[0])} {' '.join(command[-4:])}: {done.stderr[-800:]}")
    return done.stdout
