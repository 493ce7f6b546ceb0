#!/usr/bin/python3
"""Measurements through the API, standard library only. Prints `name value` lines.

api.py tenant KUBECONFIG NAME            milliseconds from sending a Tenant to its cluster answering
api.py fill KUBECONFIG N                 creates N ConfigMaps on 8 connections: writes per second
api.py list KUBECONFIG SECONDS           lists them again and again on one connection: lists and objects per second
"""
import base64
import http.client
import json
import re
import ssl
import sys
import tempfile
import threading
import time


class Cluster:
    def __init__(self, text):
        def field(name):
            return re.search(r"^\s*%s:\s*(\S+)\s*$" % name, text, re.M).group(1).strip('"')

        self.host, self.port = re.match(r"https://\[?([^\]/]+?)\]?:(\d+)", field("server")).groups()
        self.ctx = ssl.create_default_context(cadata=base64.b64decode(field("certificate-authority-data")).decode())
        with tempfile.NamedTemporaryFile() as f:
            f.write(base64.b64decode(field("client-certificate-data")) + base64.b64decode(field("client-key-data")))
            f.flush()
            self.ctx.load_cert_chain(f.name)

    def connect(self):
        return http.client.HTTPSConnection(self.host, int(self.port), context=self.ctx, timeout=60)


def call(conn, method, path, body=None, ok=(200, 201)):
    conn.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
    r = conn.getresponse()
    data = r.read()
    if r.status not in ok:
        raise SystemExit("%s %s: %d %s" % (method, path, r.status, data[:300].decode(errors="replace")))
    return r.status, data


def read(path):
    with open(path) as f:
        return f.read()


def tenant(path, name):
    admin = Cluster(read(path)).connect()
    call(admin, "GET", "/readyz")  # the connection's own cost is not the tenant's
    began = time.monotonic()
    call(admin, "POST", "/apis/kfarm.dev/v1alpha1/namespaces/default/tenants",
         {"apiVersion": "kfarm.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": {}})
    while True:
        if time.monotonic() - began > 30:
            raise SystemExit("tenant %s did not answer within 30 s" % name)
        status, data = call(admin, "GET", "/api/v1/namespaces/default/secrets/%s-kubeconfig" % name, ok=(200, 404))
        if status == 200 and "value" in (json.loads(data).get("data") or {}):
            break
        time.sleep(0.002)
    text = base64.b64decode(json.loads(data)["data"]["value"]).decode()
    cluster = Cluster(text)
    while True:
        if time.monotonic() - began > 30:
            raise SystemExit("tenant %s did not answer within 30 s" % name)
        try:
            c = cluster.connect()
            status, _ = call(c, "GET", "/api/v1/namespaces/default", ok=(200, 401, 403, 404, 500, 503))
            c.close()
            if status == 200:
                break
        except OSError:
            pass
        time.sleep(0.002)
    print("tenant_ms %.0f" % ((time.monotonic() - began) * 1000))


def config_map(name, i):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "bench"}},
            "data": {"n": str(i), "text": "x" * 400}}


def fill(path, n):
    cluster = Cluster(read(path))
    call(cluster.connect(), "POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}}, ok=(201, 409))

    def work(k):
        conn = cluster.connect()
        for i in range(k, n, 8):
            call(conn, "POST", "/api/v1/namespaces/bench/configmaps", config_map("cm-%d" % i, i))

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print("create_per_s %.0f" % (n / (time.monotonic() - began)))


def list_(path, seconds):
    conn = Cluster(read(path)).connect()
    count = size = items = 0
    began = time.monotonic()
    while time.monotonic() - began < seconds or count == 0:
        _, data = call(conn, "GET", "/api/v1/namespaces/bench/configmaps")
        items = items or len(json.loads(data)["items"])
        count += 1
        size += len(data)
    took = time.monotonic() - began
    print("list_items %d" % items)
    print("list_ms %.1f" % (took / count * 1000))
    print("list_objects_per_s %.0f" % (count * items / took))
    print("list_mb_per_s %.0f" % (size / took / 1e6))


def main(a):
    if len(a) == 3 and a[0] == "tenant":
        tenant(a[1], a[2])
    elif len(a) == 3 and a[0] == "fill":
        fill(a[1], int(a[2]))
    elif len(a) == 3 and a[0] == "list":
        list_(a[1], float(a[2]))
    else:
        raise SystemExit(__doc__)


main(sys.argv[1:])
