#!/usr/bin/env python3
"""fake_kubelet.py SERVER CA CERT KEY DIR NODE...: plays the kubelets of nodes, for tests of controllers without machines.

Registers the nodes, keeps their leases, makes bound pods Running and Ready (Succeeded when their first container's args
say "succeed", Failed for "fail"), and removes pods that are being deleted. A file DIR/silent-NODE makes a node
silent. Ends with its standard input.
"""
import datetime
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse
import urllib.request

server, ca, cert, key, folder, *nodes = sys.argv[1:]
ctx = ssl.create_default_context(cafile=ca)
ctx.load_cert_chain(cert, key)


def now(micro=False):
    t = datetime.datetime.now(datetime.timezone.utc)
    return t.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def call(method, path, body=None, kind="application/json"):
    req = urllib.request.Request(server + path, method=method,
                                 data=None if body is None else json.dumps(body).encode(),
                                 headers={"Content-Type": kind, "Accept": "application/json"})
    try:
        with urllib.request.urlopen(req, context=ctx, timeout=30) as r:
            return json.load(r)
    except urllib.error.HTTPError as e:
        if e.code not in (404, 409):
            print(method, path, e.code, e.read()[:300], file=sys.stderr)
        return None
    except OSError as e:  # the API server is not there just now
        print(method, path, e, file=sys.stderr)
        return None


was_silent = set()


def ready(name):
    call("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"conditions": [
        {"type": t, "status": s, "reason": "KubeletReady", "message": "", "lastHeartbeatTime": now(),
         "lastTransitionTime": now()}
        for t, s in (("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False"))]}},
         "application/strategic-merge-patch+json")


def register(i, name):
    call("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
    size = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    call("PATCH", f"/api/v1/nodes/{name}/status", {"status": {
        "capacity": size, "allocatable": size,
        "addresses": [{"type": "InternalIP", "address": f"10.0.0.{i + 1}"}]}}, "application/strategic-merge-patch+json")
    ready(name)


def silent(name):
    if os.path.exists(f"{folder}/silent-{name}"):
        was_silent.add(name)
        return True
    return False


def beat():
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    while True:
        for n in nodes:
            if silent(n):
                continue
            if n in was_silent:
                was_silent.remove(n)
                ready(n)
            spec = {"holderIdentity": n, "leaseDurationSeconds": 40, "renewTime": now(True)}
            if call("PATCH", f"{path}/{n}", {"spec": spec}, "application/merge-patch+json") is None:
                call("POST", path, {"metadata": {"name": n}, "spec": spec})
        time.sleep(1)


def serve(pod):
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
    if spec.get("nodeName") not in nodes or silent(spec["nodeName"]):
        return
    if "deletionTimestamp" in meta:
        call("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}})
        return
    if status.get("phase", "Pending") != "Pending":
        return
    ip = f"10.1.{nodes.index(spec['nodeName'])}.{int(meta['uid'][:8], 16) % 250 + 2}"
    args = spec["containers"][0].get("args", [])
    phase = "Succeeded" if "succeed" in args else "Failed" if "fail" in args else "Running"
    ready = "True" if phase == "Running" and "unready" not in args else "False"
    code = 0 if phase == "Succeeded" else 1
    state = {"running": {"startedAt": now()}} if phase == "Running" else \
        {"terminated": {"exitCode": code, "startedAt": now(), "finishedAt": now()}}
    call("PATCH", path + "/status", {"status": {
        "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now(),
        "conditions": [{"type": t, "status": ready, "lastTransitionTime": now()} for t in ("Ready", "ContainersReady")],
        "containerStatuses": [{"name": c["name"], "image": c["image"], "imageID": "", "restartCount": 0,
                               "ready": ready == "True", "state": state} for c in spec["containers"]]}},
         "application/strategic-merge-patch+json")


def watch():
    while True:
        pods = call("GET", "/api/v1/pods")
        if pods is None:
            time.sleep(0.2)
            continue
        for p in pods["items"]:
            serve(p)
        q = urllib.parse.urlencode({"watch": "1", "resourceVersion": pods["metadata"]["resourceVersion"]})
        try:
            with urllib.request.urlopen(server + "/api/v1/pods?" + q, context=ctx) as r:
                for line in r:
                    ev = json.loads(line)
                    if ev["type"] in ("ADDED", "MODIFIED"):
                        serve(ev["object"])
        except OSError as e:
            print("watch:", e, file=sys.stderr)
            time.sleep(0.2)


for i, n in enumerate(nodes):
    register(i, n)
threading.Thread(target=beat, daemon=True).start()
threading.Thread(target=watch, daemon=True).start()
sys.stdin.read()
