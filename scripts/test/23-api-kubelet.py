#!/usr/bin/python3
"""Logs, exec and port-forward through the API server to a kubelet that this test plays."""
# timeout: 600
import os
import socket
import ssl
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kubernetes import client, config  # noqa: E402

os.environ["API_KUBELET"] = "1"
from api_lab import Lab, run  # noqa: E402

SEEN = []


def serve(conn):
    """One connection: logs are answered, upgrades are accepted and echoed."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = conn.recv(4096)
        if not part:
            return
        data += part
    head = data.split(b"\r\n\r\n")[0].decode()
    line = head.split("\r\n")[0]
    headers = dict(x.lower().split(": ", 1) for x in head.split("\r\n")[1:])
    SEEN.append((line, headers, conn.getpeercert()))
    if "/containerLogs/" in line:
        body = b"line of the log\n" * 1000
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    elif "refuse" in line:
        conn.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    else:
        conn.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                     b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nhello")
        while True:
            d = conn.recv(65536)
            if not d:
                break
            conn.sendall(d)
    conn.close()


def kubelet(lab):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(lab.pki + "/server.crt", lab.pki + "/server.key")
    ctx.load_verify_locations(lab.pki + "/ca.crt")
    ctx.verify_mode = ssl.CERT_REQUIRED
    s = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                conn, _ = s.accept()
            except OSError:
                return
            threading.Thread(target=lambda c=conn: serve(ctx.wrap_socket(c, server_side=True)), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return s.getsockname()[1]


def objects(v1, port):
    v1.create_node(client.V1Node(metadata=client.V1ObjectMeta(name="n1")))
    v1.patch_node_status("n1", {"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                                           "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}})
    v1.create_namespaced_service_account("default", client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="default")))
    for name, node in (("p", "n1"), ("refuse", "n1"), ("unbound", None)):
        v1.create_namespaced_pod("default", client.V1Pod(
            metadata=client.V1ObjectMeta(name=name),
            spec=client.V1PodSpec(node_name=node, containers=[client.V1Container(name="c", image="i")])))


def upgrade(lab, path, method="POST"):
    ctx = ssl.create_default_context(cafile=lab.pki + "/ca.crt")
    ctx.load_cert_chain(lab.pki + "/admin.crt", lab.pki + "/admin.key")
    s = ctx.wrap_socket(socket.create_connection(("127.0.0.1", lab.port)), server_hostname="localhost")
    s.settimeout(10)
    s.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
              "X-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
              "Content-Length: 0\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        part = s.recv(4096)
        assert part, data
        data += part
    head, rest = data.split(b"\r\n\r\n", 1)
    return s, head.decode().lower(), rest


def logs(v1):
    text = v1.read_namespaced_pod_log("p", "default", tail_lines=5, timestamps=True)
    assert text == "line of the log\n" * 1000, len(text)
    line, _, cert = SEEN[-1]
    assert line.startswith("GET /containerLogs/default/p/c?") and "tailLines=5" in line and "timestamps=" in line, line
    assert dict(x[0] for x in cert["subject"])["commonName"] == "kubernetes-admin"
    assert v1.read_namespaced_pod_log("unbound", "default") == ""
    try:
        v1.read_namespaced_pod_log("p", "default", container="nope")
        raise AssertionError("no such container")
    except client.ApiException as e:
        assert e.status == 400 and "container nope is not valid for pod p" in e.body


def execs(lab):
    s, head, rest = upgrade(lab, "/api/v1/namespaces/default/pods/p/exec?command=sh&command=-c&command=echo+x&stdin=true&stdout=true&tty=false")
    assert head.startswith("http/1.1 101") and "x-stream-protocol-version: v4.channel.k8s.io" in head, head
    assert "upgrade: spdy/3.1" in head, head
    line = SEEN[-1][0]
    assert line.startswith("POST /exec/default/p/c?command=sh&command=-c&command=echo%20x&input=1&output=1"), line
    while len(rest) < 5:
        rest += s.recv(100)
    assert rest == b"hello", rest
    sent = os.urandom(3 << 20)
    threading.Thread(target=s.sendall, args=(sent,), daemon=True).start()
    got = b""
    while len(got) < len(sent):
        got += s.recv(1 << 20)
    assert got == sent
    s.close()


def forwards(lab):
    s, head, _ = upgrade(lab, "/api/v1/namespaces/default/pods/p/portforward?ports=80")
    assert head.startswith("http/1.1 101"), head
    assert SEEN[-1][0].startswith("POST /portForward/default/p?port=80 "), SEEN[-1][0]
    s.close()


def refusals(lab):
    for path, status, text in (("/api/v1/namespaces/default/pods/refuse/exec?command=x", "404", "error dialing backend"),
                               ("/api/v1/namespaces/default/pods/unbound/exec?command=x", "400", "does not have a host"),
                               ("/api/v1/namespaces/default/pods/nope/exec?command=x", "404", "not found"),
                               ("/api/v1/namespaces/default/services/kubernetes/proxy/", "501", "not supported")):
        s, head, rest = upgrade(lab, path)
        while len(rest) < int(head.split("content-length: ")[1].split("\r\n")[0]):
            rest += s.recv(4096)
        assert head.startswith("http/1.1 " + status) and text in rest.decode(), (head, rest)
        s.close()
    bob = ["curl", "-s", "--cacert", lab.pki + "/ca.crt", "--cert", lab.pki + "/bob.crt", "--key", lab.pki + "/bob.key"]
    out = subprocess.run(bob + ["-X", "POST", f"https://localhost:{lab.port}/api/v1/namespaces/default/pods/p/exec"],
                         capture_output=True, text=True, check=True).stdout
    assert 'cannot create resource \\"pods/exec\\"' in out, out


with Lab() as the_lab:
    config.load_kube_config(the_lab.kubeconfig)
    V1 = client.CoreV1Api()
    objects(V1, kubelet(the_lab))
    STATUS = run([("logs", lambda: logs(V1)), ("exec: bytes pass both ways", lambda: execs(the_lab)),
                  ("port-forward", lambda: forwards(the_lab)), ("refusals", lambda: refusals(the_lab))])
sys.exit(STATUS)
