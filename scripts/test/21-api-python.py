#!/usr/bin/python3
"""The API server driven with the Python client: typed objects, watches, patches, errors, many objects and watchers."""
# timeout: 600
import os
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kubernetes import client, config, watch  # noqa: E402

from api_lab import Lab, run  # noqa: E402

V1 = APPS = None


def configmap(name, labels=None, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels=labels), data=data)


def crud():
    made = V1.create_namespaced_config_map("default", configmap("a", a="1"))
    assert made.metadata.uid and made.metadata.resource_version
    made.data["b"] = "2"
    assert V1.replace_namespaced_config_map("a", "default", made).data == {"a": "1", "b": "2"}
    try:
        V1.replace_namespaced_config_map("a", "default", made)  # the revision is the old one
        raise AssertionError("no conflict")
    except client.ApiException as e:
        assert e.status == 409, e
    V1.patch_namespaced_config_map("a", "default", {"data": {"a": None}})
    assert V1.read_namespaced_config_map("a", "default").data == {"b": "2"}
    assert V1.delete_namespaced_config_map("a", "default").status == "Success"
    try:
        V1.read_namespaced_config_map("a", "default")
        raise AssertionError("still there")
    except client.ApiException as e:
        assert e.status == 404 and "not found" in e.body, e


def generate_name():
    names = set()
    for _ in range(20):
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="g-"))
        names.add(V1.create_namespaced_config_map("default", body).metadata.name)
    assert len(names) == 20 and all(n.startswith("g-") and len(n) == 7 for n in names), names
    V1.delete_collection_namespaced_config_map("default")
    assert not V1.list_namespaced_config_map("default").items


def watching():
    seen = []
    start = V1.list_namespaced_config_map("default").metadata.resource_version

    def reader():
        for e in watch.Watch().stream(V1.list_namespaced_config_map, "default", resource_version=start,
                                      label_selector="w=1", timeout_seconds=4):
            seen.append((e["type"], e["object"].metadata.name))

    t = threading.Thread(target=reader)
    t.start()
    V1.create_namespaced_config_map("default", configmap("w1", {"w": "1"}))
    V1.create_namespaced_config_map("default", configmap("w2"))
    V1.patch_namespaced_config_map("w2", "default", {"metadata": {"labels": {"w": "1"}}})
    V1.patch_namespaced_config_map("w1", "default", {"data": {"x": "1"}})
    V1.patch_namespaced_config_map("w1", "default", {"metadata": {"labels": {"w": "2"}}})
    V1.delete_namespaced_config_map("w2", "default")
    t.join()
    assert seen == [("ADDED", "w1"), ("ADDED", "w2"), ("MODIFIED", "w1"), ("DELETED", "w1"), ("DELETED", "w2")], seen
    V1.delete_namespaced_config_map("w1", "default")


def too_old():
    for i in range(4200):
        V1.patch_namespaced_config_map("ring", "default", {"data": {"i": str(i)}}) if i else \
            V1.create_namespaced_config_map("default", configmap("ring"))
    events = list(watch.Watch().stream(V1.list_namespaced_secret, "default", resource_version="1", timeout_seconds=1))
    assert not events, events  # nothing happened to secrets: revision 1 is not too old for them ...
    try:
        list(watch.Watch().stream(V1.list_namespaced_config_map, "default", resource_version="4", timeout_seconds=2))
        raise AssertionError("an old revision was accepted")
    except client.ApiException as e:
        assert e.status == 410, e
    V1.delete_namespaced_config_map("ring", "default")


def chunks():
    for i in range(25):
        V1.create_namespaced_config_map("default", configmap(f"c{i:02}"))
    first = V1.list_namespaced_config_map("default", limit=10)
    assert len(first.items) == 10 and first.metadata.remaining_item_count == 15
    V1.create_namespaced_config_map("default", configmap("c99"))  # not part of the list that was begun
    V1.delete_namespaced_config_map("c15", "default")             # still part of it
    names, cont = [o.metadata.name for o in first.items], first.metadata._continue
    while cont:
        page = V1.list_namespaced_config_map("default", limit=10, _continue=cont)
        assert page.metadata.resource_version == first.metadata.resource_version
        names += [o.metadata.name for o in page.items]
        cont = page.metadata._continue
    assert names == [f"c{i:02}" for i in range(25)], names
    V1.delete_collection_namespaced_config_map("default")


def services():
    ips = set()
    for i in range(30):
        s = client.V1Service(metadata=client.V1ObjectMeta(name=f"s{i}"),
                             spec=client.V1ServiceSpec(type="NodePort", ports=[client.V1ServicePort(port=80)]))
        made = V1.create_namespaced_service("default", s)
        ips.add((made.spec.cluster_ip, made.spec.ports[0].node_port))
    assert len({a for a, _ in ips}) == 30 and len({b for _, b in ips}) == 30
    taken, port = next(iter(ips))
    for spec in (client.V1ServiceSpec(cluster_ip=taken, ports=[client.V1ServicePort(port=80)]),
                 client.V1ServiceSpec(type="NodePort", ports=[client.V1ServicePort(port=80, node_port=port)])):
        try:
            V1.create_namespaced_service("default", client.V1Service(metadata=client.V1ObjectMeta(name="x"), spec=spec))
            raise AssertionError("taken twice")
        except client.ApiException as e:
            assert e.status == 422 and "already allocated" in e.body, e.body
    for i in range(30):
        V1.delete_namespaced_service(f"s{i}", "default")
    V1.create_namespaced_service("default", client.V1Service(
        metadata=client.V1ObjectMeta(name="x"), spec=client.V1ServiceSpec(cluster_ip=taken, ports=[client.V1ServicePort(port=80)])))
    V1.delete_namespaced_service("x", "default")


def races():
    """Concurrent increments without a revision given: patches are never lost."""
    V1.create_namespaced_config_map("default", configmap("race"))

    def work(n):
        for i in range(20):
            V1.patch_namespaced_config_map("race", "default", {"data": {f"k{n}-{i}": "1"}})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(V1.read_namespaced_config_map("race", "default").data) == 160
    V1.delete_namespaced_config_map("race", "default")


def slow_watcher(lab):
    """A watcher that does not read must not make the server hold what it has not read."""
    ctx = ssl.create_default_context(cafile=lab.pki + "/ca.crt")
    ctx.load_cert_chain(lab.pki + "/admin.crt", lab.pki + "/admin.key")
    raw = socket.create_connection(("127.0.0.1", lab.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s = ctx.wrap_socket(raw, server_hostname="localhost")
    s.sendall(b"GET /api/v1/configmaps?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    pid = int(open(lab.work + "/pid").read())

    def rss():
        return int(next(x for x in open(f"/proc/{pid}/status") if x.startswith("VmRSS")).split()[1])

    V1.create_namespaced_config_map("default", configmap("big", x="y" * 100000))
    before = rss()
    for i in range(400):
        V1.patch_namespaced_config_map("big", "default", {"data": {"i": str(i)}})
    grown = rss() - before
    assert grown < 40000, f"{grown} KiB more"  # 40 MB went by; the ring keeps 8
    s.close()
    V1.delete_namespaced_config_map("big", "default")


def many():
    started = time.monotonic()
    threads = [threading.Thread(target=lambda n=n: [V1.create_namespaced_config_map("default", configmap(f"m{n}-{i}", {"m": "1"}))
                                                    for i in range(125)]) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(V1.list_namespaced_config_map("default", label_selector="m=1").items) == 1000
    print(f"# 1000 objects in {time.monotonic() - started:.1f} s")
    V1.delete_collection_namespaced_config_map("default")
    assert not V1.list_namespaced_config_map("default").items


def deployments():
    spec = client.V1DeploymentSpec(
        selector=client.V1LabelSelector(match_labels={"a": "b"}),
        template=client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"a": "b"}),
                                          spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="i")])))
    APPS.create_namespaced_deployment("default", client.V1Deployment(metadata=client.V1ObjectMeta(name="d"), spec=spec))
    scale = APPS.read_namespaced_deployment_scale("d", "default")
    assert scale.spec.replicas == 1
    APPS.patch_namespaced_deployment_scale("d", "default", {"spec": {"replicas": 4}})
    d = APPS.read_namespaced_deployment("d", "default")
    assert d.spec.replicas == 4 and d.metadata.generation == 2
    APPS.patch_namespaced_deployment_status("d", "default", {"status": {"replicas": 3}, "spec": {"replicas": 9}})
    d = APPS.read_namespaced_deployment("d", "default")
    assert d.status.replicas == 3 and d.spec.replicas == 4 and d.metadata.generation == 2
    APPS.delete_namespaced_deployment("d", "default", propagation_policy="Foreground")
    d = APPS.read_namespaced_deployment("d", "default")
    assert d.metadata.finalizers == ["foregroundDeletion"] and d.metadata.deletion_timestamp
    APPS.patch_namespaced_deployment("d", "default", {"metadata": {"finalizers": None}})
    try:
        APPS.read_namespaced_deployment("d", "default")
        raise AssertionError("still there")
    except client.ApiException as e:
        assert e.status == 404


with Lab() as the_lab:
    config.load_kube_config(the_lab.kubeconfig)
    V1, APPS = client.CoreV1Api(), client.AppsV1Api()
    STATUS = run([("create, replace, patch, delete", crud), ("generateName and deletecollection", generate_name),
                  ("watch with a selector", watching), ("chunks are of one revision", chunks),
                  ("addresses and node ports of services", services), ("patches are never lost", races),
                  ("deployments: scale, status, foreground deletion", deployments), ("a thousand objects", many),
                  ("old revisions are gone", too_old), ("a watcher that does not read", lambda: slow_watcher(the_lab))])
sys.exit(STATUS)
