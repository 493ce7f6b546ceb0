#!/usr/bin/python3
"""kfarm store with 10,000 connections that do nothing: bounded memory, no work, others are served, and all goes back.
Needs about ten seconds; with a smaller limit of open files as many connections as that allows."""
import os
import resource
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from store_lib import Server, Tap  # noqa: E402

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # an empty SETTINGS frame
ACK = b"\0\0\0\4\1\0\0\0\0"
KIB_EACH = 24

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
want = 10400 if hard == resource.RLIM_INFINITY else min(10400, hard)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, want), hard))
count = min(9900, max(soft, want) - 200)
server = Server("kfarm")
conns = []


def rss_kib():
    with open(f"/proc/{server.proc.pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def cpu_ticks():
    with open(f"/proc/{server.proc.pid}/stat") as f:
        words = f.read().rsplit(")", 1)[1].split()
    return int(words[11]) + int(words[12])


def answered(conn, data=b""):
    """Reads until the server's acknowledgement of our settings has come: the connection is in its resting state."""
    while ACK not in data:
        part = conn.recv(4096)
        assert part, "the server closed an idle connection"
        data += part


def held():
    before = rss_kib()
    for _ in range(count):
        conn = socket.create_connection(("127.0.0.1", server.port), 60)
        conn.sendall(HELLO)
        conns.append(conn)
    for conn in conns:
        conn.settimeout(60)
        answered(conn)
        conn.sendall(ACK)
    each = (rss_kib() - before) / count
    print(f"# {count} connections, {each:.1f} KiB each")
    assert each < KIB_EACH, f"{each:.1f} KiB for an idle connection"


def quiet():
    used = []
    for _ in range(10):  # what connecting made due takes as long as the machine needs
        before = cpu_ticks()
        time.sleep(5)
        used.append(cpu_ticks() - before)
        if used[-1] <= 0.02 * 5 * os.sysconf("SC_CLK_TCK"):
            return
    raise AssertionError(f"ticks in 5 s of rest: {used}")


def served():
    ping = b"\0\0\x08\6\0\0\0\0\0" + b"idletest"
    for conn in (conns[0], conns[len(conns) // 2], conns[-1]):
        conn.sendall(ping)
        data = b""
        while b"idletest" not in data:
            part = conn.recv(4096)
            assert part, "closed"
            data += part


def given_back():
    limit = rss_kib()
    for conn in conns:
        conn.close()
    end = time.monotonic() + 60
    while rss_kib() > limit / 4 and time.monotonic() < end:
        time.sleep(0.5)
    assert rss_kib() <= limit / 4, f"{rss_kib()} of {limit} KiB are still held"


tap = Tap()
try:
    tap.run(f"{count} idle connections are held in little memory", held)
    tap.run("they cost no time", quiet)
    tap.run("each of them is still served", served)
    tap.run("their memory goes back when they close", given_back)
finally:
    server.stop()
tap.end()
