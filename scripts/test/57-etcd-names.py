#!/usr/bin/python3
# timeout: 90
"""The API server finds etcd 3.5 by name, in a network and with a DNS server of its own: several addresses of one name, an
address that changes, a DNS server that is silent, a certificate for another name."""
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
if os.environ.get("KF_NAMES_NS") != "1":  # again, with own network and mounts
    os.execvpe("unshare", ["unshare", "-m", "-n", "--propagation", "private", sys.executable, *sys.argv],
               {**os.environ, "KF_NAMES_NS": "1"})
from store_lib import etcd_binary, KFARM

DIR = tempfile.mkdtemp(prefix="kf-names-")
PROCS = []


class Dns(threading.Thread):
    """A and AAAA of the one name; asked counts the questions for it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.a, self.aaaa, self.silent, self.asked = [], [], False, 0
        self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.s.bind(("127.0.0.1", 53))

    def run(self):
        while True:
            q, peer = self.s.recvfrom(1500)
            at, labels = 12, []
            while q[at]:
                labels.append(q[at + 1:at + 1 + q[at]])
                at += 1 + q[at]
            kind = struct.unpack("!H", q[at + 1:at + 3])[0]
            known = b".".join(labels).lower() == b"etcd.test"
            self.asked += known
            if self.silent:
                continue
            found = ([socket.inet_aton(x) for x in self.a] if kind == 1 else
                     [socket.inet_pton(socket.AF_INET6, x) for x in self.aaaa] if kind == 28 else []) if known else []
            out = q[:2] + struct.pack("!HHHHH", 0x8180 if known else 0x8183, 1, len(found), 0, 0) + q[12:at + 5]
            for r in found:
                out += struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(r)) + r
            self.s.sendto(out, peer)


def sh(*cmd):
    subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)


def certs():
    sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "ca.key", "-out",
       "ca.crt", "-days", "2", "-subj", "/CN=ca")
    for name, san in (("etcd", "DNS:etcd.test"), ("other", "DNS:other.test"), ("api", "IP:127.0.0.1")):
        sh("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", name + ".key", "-out",
           name + ".csr", "-subj", "/CN=" + name)
        open("ext", "w").write(f"subjectAltName={san}\nextendedKeyUsage=serverAuth,clientAuth\n")
        sh("openssl", "x509", "-req", "-in", name + ".csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
           "-extfile", "ext", "-out", name + ".crt")


def start(log, *cmd):
    p = subprocess.Popen(cmd, stdout=open(log, "ab"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    PROCS.append(p)
    return p


def etcd(addr, cert="etcd"):
    host = f"[{addr}]" if ":" in addr else addr
    return start("etcd.log", etcd_binary("3.5"), "--data-dir", "data", "--log-level", "error", "--listen-client-urls",
                 f"https://{host}:2379", "--advertise-client-urls", "https://etcd.test:2379", "--cert-file", cert + ".crt",
                 "--key-file", cert + ".key", "--trusted-ca-file", "ca.crt", "--client-cert-auth")


def stop(p):
    p.kill()
    p.wait(10)


def wait(what, test, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if test():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}\n" + open("api.log").read()[-3000:])


def curl(path, *args):
    out = subprocess.run(["curl", "-sk", "-m", "8", "--cert", "api.crt", "--key", "api.key", *args,
                          "https://127.0.0.1:6443" + path], capture_output=True, text=True, timeout=20)
    return out.stdout


def said(text, since=0):
    return lambda: text in open("api.log").read()[since:]


def mark():
    return os.path.getsize("api.log")



def main():
    os.chdir(DIR)
    for a in ("link set lo up", "addr add 127.0.0.2/8 dev lo", "addr add fd00::2/64 dev lo nodad"):
        sh("ip", *a.split())
    open("resolv.conf", "w").write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    sh("mount", "--bind", "resolv.conf", "/etc/resolv.conf")
    certs()
    dns = Dns()
    dns.start()
    dns.a, dns.aaaa = ["127.0.0.9", "127.0.0.2"], ["::1"]  # only the middle one, in whatever order they come
    e = etcd("127.0.0.2")
    api = start("api.log", KFARM, "apiserver", "--etcd-servers", "https://etcd.test:2379", "--etcd-cafile", "ca.crt",
                "--etcd-certfile", "api.crt", "--etcd-keyfile", "api.key", "--tls-cert-file", "api.crt", "--tls-private-key-file",
                "api.key", "--client-ca-file", "ca.crt", "--secure-port", "6443", "--bind-address", "127.0.0.1",
                "--service-account-signing-key-file", "api.key")
    wait("ready by the one address of three that answers", said("msg=ready"))
    print("ok 1 the one of three addresses that answers")

    at, asked = mark(), dns.asked
    dns.a, dns.aaaa = [], ["fd00::2"]
    stop(e)
    e = etcd("fd00::2")
    wait("the new address", said("the cluster answers", at))
    assert dns.asked > asked
    print("ok 2 the name is asked for again: an address that changed, IPv6 now")

    at, dns.silent = mark(), True
    stop(e)
    wait("told that the name is not resolved", said("resolve", at))
    slow = time.monotonic()
    assert "ok" in curl("/livez")
    assert time.monotonic() - slow < 5
    dns.silent = False
    e = etcd("fd00::2")
    wait("the cluster once DNS answers", said("the cluster answers", at))
    print("ok 3 a silent DNS server holds nothing else up")

    at = mark()
    stop(e)
    e = etcd("fd00::2", "other")
    wait("another name's certificate is refused", said("is for another name", at))
    stop(e)
    etcd("fd00::2")
    wait("the right one again", said("the cluster answers", at))
    assert api.poll() is None
    print("ok 4 a certificate for another name is refused")


if __name__ == "__main__":
    print("1..4", flush=True)
    try:
        main()
    finally:
        for p in PROCS:
            if p.poll() is None:
                stop(p)
        subprocess.run(["rm", "-rf", DIR])
