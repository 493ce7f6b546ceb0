#!/usr/bin/python3
"""Measurements through the API, standard library only. Prints `name value` lines.

api.py tenant KUBECONFIG NAME            milliseconds from sending a Tenant to its cluster answering
api.py fill KUBECONFIG N                 creates N ConfigMaps on 8 connections: writes per second
api.py list KUBECONFIG SECONDS           lists them again and again on one connection: lists and objects per second
api.py watch KUBECONFIG WATCHERS N       N writes seen by WATCHERS watches: events per second, lag
"""
import base64
import http.client
import json
import re
import selectors
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


def watch(path, watchers, n):
    cluster = Cluster(read(path))
    call(cluster.connect(), "POST", "/api/v1/namespaces", {"metadata": {"name": "watched"}}, ok=(201, 409))
    sel = selectors.DefaultSelector()
    socks = []
    for _ in range(watchers):
        conn = cluster.connect()
        conn.connect()
        s = conn.sock
        s.sendall(("GET /api/v1/namespaces/watched/configmaps?watch=1 HTTP/1.1\r\nHost: %s\r\n\r\n" % cluster.host).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += s.recv(65536)
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise SystemExit("watch: " + head[:200].decode(errors="replace"))
        s.setblocking(False)
        seen = [head.count(b'"type":"ADDED"')]
        sel.register(s, selectors.EVENT_READ, (s, seen))
        socks.append((conn, s, seen))
    sent = [0.0] * n
    first = [0.0] * n  # arrival at the first watcher

    def write(k, step):
        conn = cluster.connect()
        for i in range(k, n, step):
            sent[i] = time.monotonic()
            call(conn, "POST", "/api/v1/namespaces/watched/configmaps", config_map("w-%d" % i, i))

    began = time.monotonic()
    writers = [threading.Thread(target=write, args=(k, 4), daemon=True) for k in range(4)]
    for t in writers:
        t.start()
    left = watchers
    tail = b""
    while left and time.monotonic() - began < 120:
        for key, _ in sel.select(1):
            s, seen = key.data
            while True:
                try:
                    data = s.recv(262144)
                except (ssl.SSLWantReadError, BlockingIOError):
                    break
                if not data:
                    raise SystemExit("a watch was closed after %d of %d events" % (seen[0], n))
                now = time.monotonic()
                if s is socks[0][1]:
                    tail += data
                    for m in re.finditer(rb'"name":"w-(\d+)"', tail):
                        first[int(m.group(1))] = first[int(m.group(1))] or now
                    tail = tail[-64:]
                before = seen[0]
                seen[0] += data.count(b'"type":"ADDED"')
                if before < n <= seen[0]:
                    left -= 1
    took = time.monotonic() - began
    delivered = sum(seen[0] for _, _, seen in socks)
    lags = sorted((f - s) * 1000 for f, s in zip(first, sent) if f and s)
    if left:
        raise SystemExit("only %d of %d events came within 120 s" % (delivered, n * watchers))
    print("watch_writes_per_s %.0f" % (n / took))
    print("watch_events_per_s %.0f" % (delivered / took))
    print("watch_lag_p50_ms %.1f" % lags[len(lags) // 2])
    print("watch_lag_p99_ms %.1f" % lags[len(lags) * 99 // 100])


def main(a):
    if len(a) == 3 and a[0] == "tenant":
        tenant(a[1], a[2])
    elif len(a) == 3 and a[0] == "fill":
        fill(a[1], int(a[2]))
    elif len(a) == 3 and a[0] == "list":
        list_(a[1], float(a[2]))
    elif len(a) == 4 and a[0] == "watch":
        watch(a[1], int(a[2]), int(a[3]))
    else:
        raise SystemExit(__doc__)


main(sys.argv[1:])
