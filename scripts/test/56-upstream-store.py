#!/usr/bin/python3
"""Upstream kube-apiserver 1.20, controller manager, scheduler and a hollow node on kfarm store.

`make test` runs it where the binaries are already built; `make test-upstream` builds them and sets FULL.

  FULL=1        the whole conformance focus, more kills, two API servers, the way to a real etcd and back
  REFERENCE=1   (with FULL) the same on a real etcd before
  ETCD=34|35    which etcd (35)
"""
# timeout: 3600
import json
import os
import random
import re
import signal
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "lib")]
import upstream_lab as lab  # noqa: E402
from store_lib import Tap  # noqa: E402
from upstream_writers import NO_ANSWER, Watcher, Writer, contents  # noqa: E402

FULL = bool(os.environ.get("FULL"))
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))

# Focus, what to leave out of it, tests side by side. While kinds come and go the quota controller waits
# for its caches, so the quotas' tests, which have time limits, are not beside those of custom resources.
CONFORMANCE = (
    (r"\[sig-api-machinery\] ResourceQuota.*\[Conformance\]", r"\[Serial\]", 4),
    (r"\[sig-api-machinery\].*(\[Conformance\]|API chunking)", r"\[Serial\]|ResourceQuota", 4),
    (r"\[sig-api-machinery\].*\[Serial\].*\[Conformance\]", "", 1),
)
SHORT = ((r"\[sig-api-machinery\] (Watchers should be able to|Events|server version|Servers.*(Table|chunks)"
          r"|Garbage collector.*RS created by deployment when not"
          r"|CustomResourceDefinition.*(listing|sub-resource)|Namespaces.*patch)", r"\[Serial\]", 2),)
# These start containers, which a hollow node only pretends to do.
NEED_CONTAINERS = r"[Ww]ebhook|Aggregator|consumable"

CRD = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {"group": "example.com", "names": {"kind": "Widget", "plural": "widgets"}, "scope": "Namespaced",
             "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                 "type": "object", "properties": {"spec": {"type": "object", "properties": {
                     "n": {"type": "integer", "minimum": 1}}}}}}}]}}


def note(text):
    print("# " + text, flush=True)


class Suite:
    """The tests of one cluster, in order: each goes on with what the ones before made."""

    def __init__(self, kind):
        self.kind = kind
        self.c = lab.Cluster(kind, 30 if FULL else 15)
        self.api = self.c.api

    def starts(self):
        self.c.start_store()
        seconds = self.c.start_apiserver()
        note(f"{self.kind}: kube-apiserver ready after {seconds:.1f} s")
        self.c.start_controllers()
        self.c.start_hollow(1)
        self.api.post("/api/v1/namespaces", {"metadata": {"name": "t"}})
        lab.until("the namespace has its service account", 120,
                  lambda: self.api.get("/api/v1/namespaces/t/serviceaccounts/default")["secrets"])
        self.node_ready()

    def node_ready(self):
        """Before the store is killed: a kubelet 1.20 that cannot make its CSINode in six tries, 23 s, ends itself."""
        lab.until("the hollow node is ready", 120, lambda: "True" in [
            c["status"] for n in self.api.get("/api/v1/nodes")["items"] for c in n["status"]["conditions"]
            if c["type"] == "Ready"])

    def scale(self, replicas, wait=120):
        """Gives the deployment so many replicas and waits until they are ready."""
        path = "/apis/apps/v1/namespaces/t/deployments/web"
        self.api.call("PATCH", path, {"spec": {"replicas": replicas}}, "application/merge-patch+json")
        if wait:
            lab.until(f"{replicas} replicas are ready", wait,
                      lambda: self.api.get(path)["status"].get("readyReplicas", 0) == replicas)

    def workloads(self):
        self.node_ready()
        self.c.kubectl("-n", "t", "expose", "deployment", "web", "--port=80")
        self.scale(4)
        lab.until("four pods run and no other is left", 120, lambda: [
            (p["spec"]["nodeName"], p["status"]["phase"]) for p in self.api.get("/api/v1/namespaces/t/pods")["items"]
        ] == [("hollow-1", "Running")] * 4)
        lab.until("the service has its endpoints", 60, lambda: len(self.api.get(
            "/api/v1/namespaces/t/endpoints/web")["subsets"][0]["addresses"]) == 4)
        self.scale(2)
        lab.until("two pods are left", 120, lambda: len(self.api.get("/api/v1/namespaces/t/pods")["items"]) == 2)

    def seen(self):
        """Who is behind: the workload as the store has it and as the API server's cache does, and the last complaints."""
        lines = []
        for where in ("", "?resourceVersion=0"):
            for path in ("/api/v1/nodes", *(f"/{p}/namespaces/t/{r}" for p, r in (
                    ("apis/apps/v1", "deployments"), ("apis/apps/v1", "replicasets"), ("api/v1", "pods")))):
                try:
                    items = self.api.get(path + where)["items"]
                except (*NO_ANSWER, lab.ApiError) as e:
                    items = []
                    lines.append(f"{path}{where}: {e}")
                for o in items:
                    st, meta = o["status"], o["metadata"]
                    lines.append(" ".join(map(str, (
                        "cache" if where else "store", meta["name"], meta["resourceVersion"], o["spec"].get("replicas", ""),
                        st.get("readyReplicas", ""), st.get("phase", ""), o["spec"].get("nodeName", ""),
                        meta.get("deletionTimestamp", ""),
                        [f"{c['type']}={c['status']} since {c.get('lastTransitionTime', '')[11:19]}"
                         for c in st.get("conditions", [])],
                        [w["reason"] for c in st.get("containerStatuses", []) if (w := c["state"].get("waiting"))]))))
        try:
            events = self.api.get("/api/v1/namespaces/t/events")["items"]  # what failed in the last seconds of their lives
            lines += [f"event {e['involvedObject']['name']} {e['reason']} x{e.get('count', 1)}: {e['message'][:150]}"
                      for e in events if e["type"] != "Normal"][-10:]
        except (*NO_ANSWER, lab.ApiError) as e:
            lines.append(f"events: {e}")
        for p in self.c.procs.values():
            bad = [line for line in p.tail(2000).splitlines() if re.match(r"[EFW]\d{4} |.*lvl=(warn|error)", line)]
            lines += [f"{p.name}{'' if p.alive() else ' (ended)'}: {line[:200]}" for line in bad[-5:]]
        return "\n".join(lines)

    def node_lease(self):
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/hollow-1"
        first = self.api.get(path)["spec"]["renewTime"]
        lab.until("the node renews its lease", 60, lambda: self.api.get(path)["spec"]["renewTime"] != first)

    def deployment(self):
        self.c.kubectl("-n", "t", "create", "deployment", "web", "--image=nginx", "--replicas=1")

    def custom_resources(self):
        self.c.kubectl("apply", "-f", "-", input=json.dumps(CRD))
        self.c.kubectl("wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=50s")
        path = "/apis/example.com/v1/namespaces/t/widgets"

        def widget(n):
            return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": f"w{n}"}, "spec": {"n": n}}

        version = lab.until("the resource is served", 30, lambda: self.api.get(path))["metadata"]["resourceVersion"]
        self.api.post(path, widget(3))
        try:
            self.api.post(path, widget(0))
            raise AssertionError("n = 0 was accepted")
        except lab.ApiError as e:
            assert e.code == 422 and "greater than or equal to 1" in str(e), e
        self.api.delete(path + "/w3")
        types = []
        for event in self.api.watch(f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=20"):
            types.append(event["type"])
            if len(types) == 2:
                break
        assert types == ["ADDED", "DELETED"], types

    def apply(self):
        path = "/api/v1/namespaces/t/configmaps/shared"

        def patch(manager, data, force=""):
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": data}
            return json.loads(self.api.call("PATCH", f"{path}?fieldManager={manager}{force}", body,
                                            "application/apply-patch+yaml"))

        patch("one", {"a": "1"})
        both = patch("two", {"b": "2"})
        assert both["data"] == {"a": "1", "b": "2"}, both
        assert {f["manager"] for f in both["metadata"]["managedFields"]} == {"one", "two"}, both
        try:
            patch("two", {"a": "9"})
            raise AssertionError("a conflict was accepted")
        except lab.ApiError as e:
            assert e.code == 409, e
        assert patch("two", {"a": "9"}, "&force=true")["data"] == {"a": "9"}

    def event_made(self):
        """The API server gives events a lease of the store: one made before the kills ends by itself."""
        body = {"metadata": {"name": "short", "namespace": "t"}, "reason": "Test", "message": "m", "type": "Normal",
                "involvedObject": {"kind": "Namespace", "name": "t", "namespace": "t"}}
        self.api.post("/api/v1/namespaces/t/events", body)
        self.event_at = time.monotonic()

    def event_there(self):
        try:
            return bool(self.api.get("/api/v1/namespaces/t/events/short"))
        except lab.ApiError as e:
            if e.code != 404:
                raise
            return False

    def event_ends(self):
        lab.until("the event is gone", self.c.event_ttl * 3 + 60, lambda: not self.event_there())

    def compaction(self):
        """By the second API server, whose interval is short. Not by the first: when the store starts again,
        watches of what did not change resume at revisions that would be compacted, and 1.20 leaves its own
        clients' watches of services open and silent then (kubernetes/kubernetes#102464), on etcd as well."""
        def compacted():
            try:
                self.c.etcdctl("get", "/", "--rev=2", "--limit=1", "--prefix")
            except AssertionError as e:
                return "required revision has been compacted" in str(e)
        lab.until("revision 2 is compacted", 120, compacted)

    def conformance(self, runs):
        for focus, skip, nodes in runs:
            skip = "|".join(filter(None, (NEED_CONTAINERS, skip)))
            status, text, seconds = self.c.e2e(focus, skip, 1500, nodes)
            found = re.search(r"(\d+) Passed.*?(\d+) Failed", text)
            if not found:
                raise AssertionError(f"status {status}: {text[-1500:]}")
            note(f"{self.kind}: {found[0]}, {seconds:.0f} s, {nodes} side by side")
            failed = "\n".join(sorted(set(re.findall(r"\[Fail\] (.*)", text))))
            assert status == 0 and int(found[1]) > 0 and int(found[2]) == 0, failed[:3000]

    def kills(self, namespace, seconds, between):
        """SIGKILL of the store under writers and watchers, with a supervisor that starts it again."""
        c, rng = self.c, random.Random(SEED)
        store, apiserver = c.procs["store"], c.procs["apiserver"]
        before = apiserver.proc.pid
        self.api.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
        writers = [Writer(self.api, namespace, i) for i in range(4)]
        watchers = [Watcher(self.api, namespace) for _ in range(2)]
        for t in watchers + writers:
            t.start()
        lab.until("writes are acknowledged", 60, lambda: all(len(w.acked) > 5 for w in writers))
        end, kills = time.monotonic() + seconds, []
        while time.monotonic() < end:
            time.sleep(rng.uniform(*between))
            store.stop(signal.SIGKILL)
            kills.append(time.monotonic())
            time.sleep(rng.choice((0, 0.1, 1)))
            store.start()
            lab.until("writes go on", 60, lambda: all(w.times[-1] > kills[-1] for w in writers))
            lab.until("the API takes it", 60, lambda: self.scale(rng.randrange(6), wait=0) or True)
        for w in writers:
            w.halt.set()
        for w in writers:
            w.join(60)
        acked = sorted(a for w in writers for a in w.acked)
        last = max(a[0] for a in acked)
        lab.until("the watchers have seen the last write", 60, lambda: all(w.version >= last for w in watchers))
        there = contents(self.api, namespace)
        lab.until("the watchers know what is there", 30, lambda: all(w.known == there for w in watchers))
        for w in watchers:
            w.halt.set()
        pauses = [min(t for w in writers for t in w.times if t > k) - k for k in kills]
        note(f"{self.kind}: {len(kills)} kills, {len(acked)} writes acknowledged, "
             f"{sum(w.unanswered + w.refused for w in writers)} not; first acknowledgement "
             f"{sum(pauses) / len(pauses):.2f} s after a kill, {max(pauses):.2f} s at most; "
             f"watchers listed {sum(w.lists for w in watchers)} and connected "
             f"{sum(w.connections for w in watchers)} times, seed {SEED}")
        assert not (lost := [x for w in writers for x in w.lost(there)]), lost
        assert not (faults := [f for w in watchers for f in w.faults]), faults
        assert not (missed := [m for w in watchers for m in w.missed(acked)]), missed[:20]
        versions = [a[0] for a in acked if a[0]]
        assert len(versions) == len(set(versions)), "one resource version for two writes"
        if time.monotonic() - self.event_at < c.event_ttl - 2:
            assert self.event_there(), "a lease ended early"
        c.wait_ready(apiserver, self.api, 60)
        assert apiserver.alive() and apiserver.proc.pid == before
        for name in ("controller-manager", "scheduler", "hollow-1"):
            assert c.procs[name].alive(), name

    def two_servers(self):
        """A pair of API servers on one store: both write with optimistic concurrency."""
        self.c.start_apiserver("apiserver-2", lab.API_PORT + 1, 20 if FULL else 5)
        other = lab.Api(self.c.pki, lab.API_PORT + 1)
        path = "/api/v1/namespaces/t/configmaps"
        version = self.api.post(path, {"metadata": {"name": "sum"}, "data": {"n": "0"}})["metadata"]["resourceVersion"]
        seen, turns = [], 40

        def add(api):
            done = 0
            while done < turns:
                o = api.get(path + "/sum")
                o["data"]["n"] = str(int(o["data"]["n"]) + 1)
                try:
                    api.put(path + "/sum", o)
                    done += 1
                except lab.ApiError as e:
                    if e.code != 409:
                        raise

        def follow():
            for event in other.watch(f"{path}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dsum"
                                     "&timeoutSeconds=100", timeout=100):
                seen.append(int(event["object"]["data"]["n"]))
                if seen[-1] == 4 * turns:
                    return

        threads = [threading.Thread(target=follow, daemon=True)]
        threads += [threading.Thread(target=add, args=(api,), daemon=True) for api in (self.api, other) * 2]
        for t in threads:
            t.start()
        for t in threads:
            t.join(110)
        assert seen == list(range(1, 4 * turns + 1)), f"{len(seen)} seen: {seen[-5:]}"
        assert self.api.get(path + "/sum")["data"]["n"] == str(4 * turns)

    def one_server_dies(self):
        self.c.procs.pop("apiserver-2").stop(signal.SIGKILL)
        self.scale(3)

    def measure(self):
        keys, revision = self.c.keys()
        store = self.c.procs["store"]
        now, most = store.memory()
        size = int(lab.run(["du", "-sk", self.c.data]).split()[0])
        note(f"{self.kind}: {keys} keys, revision {revision}; memory {now:.1f} MiB ({most:.1f} at most since its "
             f"last start), files {size / 1024:.1f} MiB, {store.cpu():.1f} s of CPU; "
             f"kube-apiserver {self.c.procs['apiserver'].memory()[0]:.0f} MiB")

    def stop_kubernetes(self):
        for name in [n for n in self.c.procs if n != "store"]:
            self.c.procs.pop(name).stop(signal.SIGKILL)

    def stops_clean(self):
        self.stop_kubernetes()
        store = self.c.procs["store"]
        store.stop()
        assert store.proc.returncode == 0, store.tail()
        lab.run([lab.KFARM, "store", "check", "--data-dir", self.c.data])

    def move(self, to):
        """The cluster goes on in the other kind of store, by a snapshot that standard tools take and restore."""
        c = self.c
        if not c.procs["store"].alive():
            c.start_store(c.data)
        self.stop_kubernetes()
        snapshot, data = os.path.join(c.dir, "to-" + to), os.path.join(c.dir, "data-" + to)
        c.etcdctl("snapshot", "save", snapshot)
        before, leases = c.contents()
        c.procs["store"].stop()
        if to == "etcd":
            peer = f"http://127.0.0.1:{lab.PEER_PORT}"
            tool = lab.etcd_program("etcdutl")  # 3.4 has it in etcdctl
            tool = tool if os.path.exists(tool) else lab.etcd_program("etcdctl")
            lab.run([tool, "snapshot", "restore", snapshot, "--data-dir", data,
                     "--initial-cluster", "default=" + peer, "--initial-advertise-peer-urls", peer],
                    env=os.environ | {"ETCDCTL_API": "3"})
        else:
            lab.run([lab.KFARM, "store", "restore", snapshot, "--data-dir", data])
        c.kind = to
        c.start_store(data)
        after, leases_after = c.contents()
        # What hangs on a lease may have ended meanwhile.
        differ = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)
                  and not (k in before and before[k].get("lease") and k not in after)]
        assert not differ, [(before.get(k), after.get(k)) for k in differ[:3]]
        assert leases_after <= leases, (leases, leases_after)
        seconds = c.start_apiserver()
        c.start_controllers()
        c.start_hollow(1)
        note(f"{to}: {len(before)} keys moved, kube-apiserver ready after {seconds:.1f} s")
        for replicas in (1, 3):
            self.scale(replicas)
        self.c.kubectl("-n", "t", "annotate", "--overwrite", "namespace", "t", "at=" + to)


def run_all(tap, kind):
    suite = Suite(kind)

    def test(name, fn, *args):
        def attempt():
            try:
                fn(*args)
            except AssertionError as e:
                raise AssertionError(f"{e}\n{suite.seen()}") from e

        began = time.monotonic()
        tap.run(f"{kind}: {name}", attempt)
        note(f"{time.monotonic() - began:.0f} s")

    try:
        started, bad = time.monotonic(), tap.bad
        test("kube-apiserver starts and is ready", suite.starts)
        if tap.bad > bad:
            return
        test("custom resources are made, used, validated and watched", suite.custom_resources)
        test("server-side apply keeps owners of fields", suite.apply)
        test("an event and a deployment are made", lambda: (suite.event_made(), suite.deployment()))
        test("SIGKILL of the store loses nothing that was acknowledged", suite.kills, "kill",
             *((120, (0.5, 6)) if FULL else (12, (0.5, 3))))
        test("scheduling, pods on a hollow node, services, endpoints", suite.workloads)
        test("two API servers on one store", suite.two_servers)
        test("upstream's end-to-end tests", suite.conformance, CONFORMANCE if FULL else SHORT)
        test("the API server's compactor compacts", suite.compaction)
        test("events end with their lease", suite.event_ends)
        test("a node renews its lease", suite.node_lease)
        test("one of two API servers dies", suite.one_server_dies)
        test("measured", suite.measure)
        if FULL:
            test("SIGKILL of the store with compacted revisions", suite.kills, "kill-compacted", 30, (0.5, 6))
        if kind == "store":
            test("the store stops cleanly and its file is whole", suite.stops_clean)
        if kind == "store" and FULL:
            test("the cluster moves to a real etcd", suite.move, "etcd")
            test("the cluster moves back", suite.move, "store")
        note(f"{kind}: {time.monotonic() - started:.0f} s in all")
    finally:
        suite.c.close()


if __name__ == "__main__":
    lab.enter(None if FULL else 900)
    tap = Tap()
    if FULL and os.environ.get("REFERENCE"):
        run_all(tap, "etcd")
    run_all(tap, "store")
    tap.end()
