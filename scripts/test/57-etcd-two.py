#!/usr/bin/python3
# timeout: 240
"""Two API servers on one prefix of one etcd: what one has answered the other knows, races have one winner, service addresses
are given once, informers of both see everything, one goes on when the other is killed; the endpoints of the service
`kubernetes` name those that live, and of several controller processes one acts."""
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import api_lab
from etcd_lab import Api, Cluster, KFARM, Watcher, Writer

MAPS = "/api/v1/namespaces/default/configmaps"
SERVICES = "/api/v1/namespaces/default/services"


def cm(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def ok(status, answer):
    assert answer[0] == status, answer
    return answer[1]


def together(*work):
    """Runs functions at the same time; what they return, in order."""
    out = [None] * len(work)

    def run(i, fn):
        try:
            out[i] = fn()
        except Exception as e:
            out[i] = e

    threads = [threading.Thread(target=run, args=(i, fn)) for i, fn in enumerate(work)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    for o in out:
        if isinstance(o, Exception):
            raise o
    return out


def patch(api, path, body, conn=None):
    c = conn or api.conn()
    c.request("PATCH", path, json.dumps(body), {"content-type": "application/merge-patch+json"})
    r = c.getresponse()
    return r.status, json.loads(r.read())


def fresh(a, b):
    ca, cb = a.conn(), b.conn()
    for i in range(40):
        (one, c1), (two, c2) = ((a, ca), (b, cb)) if i % 2 else ((b, cb), (a, ca))
        name = f"fresh-{i}"
        made = ok(201, one.call("POST", MAPS, cm(name, a="1"), c1))
        assert ok(200, two.call("GET", f"{MAPS}/{name}", None, c2))["data"] == {"a": "1"}
        made["data"] = {"a": "2"}
        ok(200, two.call("PUT", f"{MAPS}/{name}", made, c2))
        assert ok(200, one.call("GET", f"{MAPS}/{name}", None, c1))["data"] == {"a": "2"}
        ok(409, one.call("PUT", f"{MAPS}/{name}", made, c1))
        assert name in [o["metadata"]["name"] for o in ok(200, one.call("GET", MAPS, None, c1))["items"]]
        ok(409, two.call("POST", MAPS, cm(name), c2))
        ok(200, one.call("DELETE", f"{MAPS}/{name}", None, c1))
        ok(404, two.call("GET", f"{MAPS}/{name}", None, c2))
        ns = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        ok(201, two.call("POST", "/api/v1/namespaces", ns, c2))
        rv = ok(201, one.call("POST", f"/api/v1/namespaces/{name}/configmaps", cm("x"), c1))["metadata"]["resourceVersion"]
        # a version that only the other has told
        ok(200, two.call("GET", f"/api/v1/namespaces/{name}/configmaps?resourceVersion={rv}", None, c2))


def races(a, b):
    ok(201, a.call("POST", MAPS, cm("race", n="0")))
    ca, cb = a.conn(), b.conn()
    for i in range(30):
        cur = ok(200, a.call("GET", f"{MAPS}/race", None, ca))
        one, two = dict(cur, data={"n": f"a{i}"}), dict(cur, data={"n": f"b{i}"})
        got = together(lambda: a.call("PUT", f"{MAPS}/race", one, ca)[0], lambda: b.call("PUT", f"{MAPS}/race", two, cb)[0])
        assert sorted(got) == [200, 409], got
        now = ok(200, a.call("GET", f"{MAPS}/race", None, ca))["data"]["n"]
        assert now == (f"a{i}" if got[0] == 200 else f"b{i}")
        made = together(lambda: a.call("POST", MAPS, cm(f"one-{i}"), ca)[0], lambda: b.call("POST", MAPS, cm(f"one-{i}"), cb)[0])
        assert sorted(made) == [201, 409], made

    def patches(api, who):
        c = api.conn()
        for k in range(25):
            ok(200, patch(api, f"{MAPS}/race", {"data": {f"{who}{k}": "x"}}, c))

    together(*[lambda api=api, w=w: patches(api, w) for api, w in ((a, "p"), (b, "q"), (a, "r"), (b, "s"))])
    data = ok(200, b.call("GET", f"{MAPS}/race"))["data"]
    lost = [f"{w}{k}" for w in "pqrs" for k in range(25) if f"{w}{k}" not in data]
    assert not lost, lost


def collections(a, b):
    """All objects go, however often the other changes them meanwhile."""
    def busy(names):
        c, alive = a.conn(), list(names)
        while alive:
            alive = [n for n in alive if patch(a, f"{MAPS}/{n}", {"data": {"at": str(time.monotonic())}}, c)[0] == 200]

    for _ in range(5):
        names = [f"all-{i}" for i in range(8)]
        for n in names:
            ok(201, a.call("POST", MAPS, {**cm(n), "metadata": {"name": n, "labels": {"all": "1"}}}))
        together(*[lambda n=n: busy(n) for n in (names[:4], names[4:])],
                 lambda: ok(200, b.call("DELETE", MAPS + "?labelSelector=all%3D1")))
        assert not ok(200, b.call("GET", MAPS + "?labelSelector=all%3D1"))["items"]


def services(a, b):
    def make(api, who):
        c, out = api.conn(), []
        for k in range(12):
            body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{who}-{k}"},
                    "spec": {"type": "NodePort", "ports": [{"port": 80}]}}
            s = ok(201, api.call("POST", SERVICES, body, c))["spec"]
            out.append((s["clusterIP"], s["ports"][0]["nodePort"]))
        return out


    got = sum(together(*[lambda api=api, w=w: make(api, w) for api, w in ((a, "p"), (b, "q"), (a, "r"), (b, "s"))]), [])
    assert len({ip for ip, _ in got}) == len({port for _, port in got}) == 48, sorted(got)
    want = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "again"},
            "spec": {"clusterIP": got[0][0], "ports": [{"port": 80}]}}
    ok(422, b.call("POST", SERVICES, want))
    for api, w in ((a, "q"), (b, "p")):
        for k in range(12):
            ok(200, api.call("DELETE", f"{SERVICES}/{w}-{k}"))
    ok(201, b.call("POST", SERVICES, want))


def informers(a, b):
    rv = ok(200, a.call("GET", MAPS))["metadata"]["resourceVersion"]
    seen = [Watcher(a, rv), Watcher(b, rv)]
    writers = [Writer(api, w) for api, w in ((a, "wa"), (b, "wb"), (a, "xa"), (b, "xb"))]
    a.until("writers write", lambda: all(len(w.acked) >= 25 for w in writers))
    for w in writers:
        w.stop()
        assert not w.failed, w.failed[:3]
    made = sorted(n for w in writers for n in w.acked)
    for api, w in zip((a, b), seen):
        api.until("the informer has seen all", lambda w=w: len(w.seen) >= len(made), 20)
        w.stop()
        assert sorted(n for t, n, _ in w.seen if t == "ADDED") == made
        rvs = [r for _, _, r in w.seen]
        assert rvs == sorted(set(rvs)), "revisions out of order, or twice"
    assert [s[1] for s in seen[0].seen] == [s[1] for s in seen[1].seen], "another order"


def kubectl(a, b):
    tool = subprocess.run(["bash", "-c", f"BATS_TEST_DIRNAME={api_lab.HERE}; . {api_lab.HERE}/kubectl.bash; kubectl_of new"],
                          capture_output=True, text=True, check=True).stdout.strip()

    def k(api, *args):
        run = subprocess.run([tool, "--kubeconfig", api.kubeconfig, *args], capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return run.stdout

    k(a, "create", "deployment", "web", "--image=x", "--replicas=2")
    k(b, "scale", "deployment", "web", "--replicas=3")
    assert k(a, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas}") == "3"
    k(a, "expose", "deployment", "web", "--port=80")
    k(b, "annotate", "service", "web", "by=b")
    assert k(a, "get", "service", "web", "-o", "jsonpath={.metadata.annotations.by}") == "b"
    k(b, "delete", "deployment,service", "web")
    assert k(a, "get", "deployments,services", "--ignore-not-found", "-l", "app=web") == ""


class Mortal(Writer):
    """Ends with its server."""

    def run(self):
        try:
            super().run()
        except (OSError, http.client.HTTPException):
            pass


def addresses(api):
    """What Endpoints and EndpointSlice say, which is the same."""
    subsets = ok(200, api.call("GET", "/api/v1/namespaces/default/endpoints/kubernetes"))["subsets"]
    assert [s["ports"][0]["port"] for s in subsets] == [16443], subsets
    there = {x["ip"] for x in subsets[0]["addresses"]}
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
    slice_ = {x["addresses"][0] for x in ok(200, api.call("GET", path))["endpoints"]}
    return there if slice_ == there else None


def endpoints(a, b):
    for api in (a, b):
        api.until("both are named", lambda api=api: addresses(api) == {"192.0.2.11", "192.0.2.12"})
    c = Api(a.cluster, flags=("--advertise-address", "192.0.2.13"))
    with c:
        b.until("a third is named", lambda: addresses(b) == {"192.0.2.11", "192.0.2.12", "192.0.2.13"})
    b.until("it has left", lambda: addresses(b) == {"192.0.2.11", "192.0.2.12"})


class Loops:
    """`kfarm controllers` on an API server."""

    def __init__(self, api, name):
        self.path = os.path.join(api.work, name + ".log")
        with open(self.path, "wb") as log:
            self.proc = subprocess.Popen(
                [KFARM, "controllers", "--kubeconfig", api.kubeconfig, "--root-ca-file", api.pki + "/ca.crt",
                 "--cluster-signing-cert-file", api.pki + "/ca.crt", "--cluster-signing-key-file", api.pki + "/ca.key"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end(self, sig):
        self.proc.send_signal(sig)
        self.proc.wait(30)

    def leads(self):
        """Of its two Leases."""
        return open(self.path).read().count("msg=leader ")


def lease(api, name):
    return ok(200, api.call("GET", f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}"))["spec"]


def acts(api, name):
    """The controllers do something in a new namespace: it gets its service account."""
    ns = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    ok(201, api.call("POST", "/api/v1/namespaces", ns))
    api.until("the controllers act", lambda: api.call("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")[0] == 200)


def leaders(a, b):
    """`a` is killed on the way, with the controllers beside it."""
    loops = [Loops(a, "loops-a")]
    try:
        a.until("the first one leads", lambda: loops[0].leads() == 2, 20)
        loops.append(Loops(b, "loops-b"))
        acts(b, "led")
        before = lease(b, "kube-controller-manager")
        loops[0].proc.send_signal(signal.SIGSTOP)
        ok(201, b.call("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "waits"}}))
        time.sleep(3)
        status = b.call("GET", "/api/v1/namespaces/waits/serviceaccounts/default")[0]
        if lease(b, "kube-controller-manager")["holderIdentity"] == before["holderIdentity"]:
            assert status == 404, "the second acts beside the first"
        loops[0].proc.send_signal(signal.SIGCONT)
        one_dies(a, b)
        loops[0].end(signal.SIGKILL)
        b.until("the second one leads", lambda: loops[1].leads() == 2)
        now = lease(b, "kube-controller-manager")
        assert now["holderIdentity"] != before["holderIdentity"] and now["leaseTransitions"] > before.get("leaseTransitions", 0)
        acts(b, "taken-over")
        loops.append(Loops(b, "loops-c"))
        loops[1].end(signal.SIGTERM)
        assert loops[1].proc.returncode == 0, open(loops[1].path).read()
        b.until("the third one leads", lambda: loops[2].leads() == 2)
        acts(b, "handed-over")
        b.until("the dead one is not named any more", lambda: addresses(b) == {"192.0.2.12"})
    except AssertionError:
        for l in loops:
            print("# " + open(l.path).read()[-2000:].replace("\n", "\n# "))
        raise
    finally:
        for l in loops:
            if l.proc.poll() is None:
                l.end(signal.SIGKILL)


def one_dies(a, b):
    watcher = Watcher(b, ok(200, b.call("GET", MAPS))["metadata"]["resourceVersion"])
    writer, other = Writer(b, "lives"), Mortal(a, "dies")
    b.until("both write", lambda: len(writer.acked) > 5 and len(other.acked) > 5)
    os.kill(a.pid(), 9)
    before = len(writer.acked)
    b.until("the other goes on", lambda: len(writer.acked) > before + 20)
    writer.stop()
    assert not writer.failed, writer.failed[:3]
    wanted = set(writer.acked) | set(other.acked)
    b.until("all that was acknowledged is seen", lambda: wanted <= {n for _, n, _ in watcher.seen}, 20)
    watcher.stop()
    assert wanted <= b.names()


def etcd_away(b, c):
    """What is newest cannot be told; what was known can."""
    c.members[0].kill()
    status, body = b.call("GET", MAPS)
    assert status in (500, 503, 504), (status, body)
    ok(200, b.call("GET", MAPS + "?resourceVersion=0"))
    c.members[0].start(fresh=False)
    b.until("the newest state again", lambda: b.call("GET", MAPS)[0] == 200)


def on(version):
    with Cluster(1, version=version) as c:
        few = ("--service-node-port-range", "30000-30063")  # so that both choose the same ones all the time
        a, b = (Api(c, flags=(*few, "--advertise-address", ip)) for ip in ("192.0.2.11", "192.0.2.12"))
        together(a.__enter__, b.__enter__)  # both write the first objects
        try:
            for test in (fresh, races, collections, services, informers, kubectl, endpoints, leaders):
                began = time.monotonic()
                test(a, b)
                print(f"# {version}: {test.__name__} {time.monotonic() - began:.1f} s", flush=True)
            if version != "kfarm":
                etcd_away(b, c)
        finally:
            a.__exit__()
            b.__exit__()


if __name__ == "__main__":
    sys.exit(api_lab.run([(f"two API servers on {name}", lambda v=v: on(v)) for v, name in (("3.5", "etcd 3.5"),
                                                                                          ("kfarm", "kfarm store"))]))
