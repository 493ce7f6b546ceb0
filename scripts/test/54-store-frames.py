#!/usr/bin/python3
# timeout: 600
"""Clients that break the rules of HTTP/2, gRPC and protobuf, or only their spirit: the store answers with the right status
or ends the connection, its memory stays bounded, and a well-behaved client beside them never fails."""
import os
import random
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from store_lib import Server, Tap  # noqa: E402

try:
    import grpc  # noqa: F401
except ImportError:
    print("python3-grpcio is missing")
    sys.exit(77)
from store_raw import Raw, fields, get, msg, service, varint  # noqa: E402

MAX = 1536 * 1024  # --max-request-bytes
S = Server("kfarm")
UNARY = [f"KV/{m}" for m in ("Range", "Put", "DeleteRange", "Txn", "Compact", "RangeStream")] + \
    [f"Lease/Lease{m}" for m in ("Grant", "Revoke", "TimeToLive", "Leases")] + \
    [f"Maintenance/{m}" for m in ("Alarm", "Status", "Defragment", "Hash", "HashKV", "Snapshot", "MoveLeader", "Downgrade")] + \
    [f"Cluster/Member{m}" for m in ("List", "Add", "Remove", "Update", "Promote")] + \
    ["v3lockpb.Lock/Lock", "v3lockpb.Lock/Unlock"] + \
    [f"v3electionpb.Election/{m}" for m in ("Campaign", "Proclaim", "Leader", "Observe", "Resign")] + \
    [f"Auth/{m}" for m in ("AuthEnable", "AuthDisable", "AuthStatus", "Authenticate", "UserAdd", "UserGet", "UserList", "UserDelete",
                           "UserChangePassword", "UserGrantRole", "UserRevokeRole", "RoleAdd", "RoleGet", "RoleList", "RoleDelete",
                           "RoleGrantPermission", "RoleRevokePermission")]
STREAMS = ["Watch/Watch", "Lease/LeaseKeepAlive"]


def rss_kib(field="VmRSS"):
    for line in open(f"/proc/{S.proc.pid}/status"):
        if line.startswith(field):
            return int(line.split()[1])


class Bystander:
    """Writes and reads all the time; every call must succeed."""

    def __enter__(self):
        self.n, self.error, self.stop = 0, None, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        r = Raw(S.port)
        while not self.stop.is_set():
            for path, req in (("KV/Put", [(1, "bystander"), (2, "%d" % self.n)]), ("KV/Range", [(1, "bystander")])):
                got = r.call(path, req, timeout=30)
                if got[0] != "OK":
                    self.error = got
                    return
            self.n += 1
            self.stop.wait(0.01)

    def __exit__(self, kind, *rest):
        self.stop.set()
        self.thread.join()
        assert kind or (not self.error and self.n > 0), f"a bystander's call {self.n} failed: {self.error}"


# ---- HTTP/2 by hand ----

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, sid, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", sid) + payload


def field(name, value):
    name, value = name.encode(), value.encode()
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def head(path, content_type="application/grpc", extra=()):
    return b"".join(field(*kv) for kv in ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
                                          ("content-type", content_type), ("te", "trailers"), *extra))


class H2:
    def __init__(self, settings=b""):
        self.s = socket.create_connection(("127.0.0.1", S.port), 10)
        self.s.settimeout(60)
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))
        self.buf = b""

    def send(self, data):
        self.s.sendall(data)

    def next(self):
        """(kind, flags, stream, payload); None: the connection has ended."""
        while len(self.buf) < 9 or len(self.buf) < 9 + int.from_bytes(self.buf[:3], "big"):
            try:
                got = self.s.recv(65536)
            except ConnectionError:
                got = b""
            if not got:
                return None
            self.buf += got
        n = int.from_bytes(self.buf[:3], "big")
        out = self.buf[3], self.buf[4], int.from_bytes(self.buf[5:9], "big"), self.buf[9:9 + n]
        self.buf = self.buf[9 + n:]
        return out

    def ended(self, send=b"", seconds=30):
        """Does the server end it, by GOAWAY or closing?"""
        try:
            if send:
                self.send(send)
            self.s.settimeout(seconds)
            while True:
                f = self.next()
                if f is None or f[0] == GOAWAY:
                    return True
        except ConnectionError:
            return True
        except (socket.timeout, OSError):
            return False

    def close(self):
        try:
            self.s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.s.close()


def grpc_frame(body, flag=0):
    return bytes([flag]) + struct.pack(">I", len(body)) + body


# ---- messages ----

def malformed_messages():
    r = Raw(S.port)
    rnd = random.Random(54)
    bad = [b"\xff" * 4, b"\x0a\x05ab", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b\x0c", b"\x08" + b"\x80" * 11, b"\x00\x01",
           b"\x0a\x80\x80\x80\x80\x08", b"\xf8\xff\xff\xff\x0f\x01"]
    with Bystander():
        for path in UNARY:
            for body in bad + [bytes(rnd.randrange(256) for _ in range(rnd.randint(1, 60))) for _ in range(6)]:
                if "Snapshot" in path or "Observe" in path or "Campaign" in path or path.endswith("Lock/Lock"):
                    try:
                        for _ in r.server_stream(path, body, timeout=1):
                            break
                    except grpc.RpcError as e:
                        assert e.code().name != "UNAVAILABLE", (path, body, e.details())
                    continue
                code, text, _ = r.call(path, body, timeout=60)
                assert code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), (path, body, code, text)
                if body in bad[:2] and path in ("KV/Put", "KV/Txn", "KV/Range", "Lease/LeaseGrant"):
                    assert code == "INVALID_ARGUMENT", (path, body, code, text)
        for path in STREAMS:
            for body in bad:
                try:
                    next(r.stream(path, iter([body]), timeout=60))
                except (grpc.RpcError, StopIteration) as e:
                    assert not isinstance(e, grpc.RpcError) or e.code().name == "INVALID_ARGUMENT", (path, body, e)
    r.call("Auth/AuthDisable")


def sizes():
    """The limits, to the byte."""
    r = Raw(S.port)

    def put(total):
        body = msg([(1, "k"), (2, b"")])
        for spare in range(12):
            body = msg([(1, "k"), (2, b"x" * (total - len(body) - spare))])
            if len(body) == total:
                return r.call("KV/Put", body)[:2]
            body = msg([(1, "k"), (2, b"")])
        raise AssertionError(total)
    with Bystander():
        assert put(MAX)[0] == "OK"
        assert put(MAX + 1) == ("INVALID_ARGUMENT", "etcdserver: request is too large")
        assert put(MAX + 512 * 1024) == ("INVALID_ARGUMENT", "etcdserver: request is too large")
        limit = MAX + 512 * 1024
        want = ("RESOURCE_EXHAUSTED", f"grpc: received message larger than max ({limit + 1} vs. {limit})")
        assert put(limit + 1) == want, put(limit + 1)
        ops = [(2, [(1, [(1, "none")])])]
        assert r.call("KV/Txn", ops * 128)[0] == "OK"
        assert r.call("KV/Txn", ops * 129)[:2] == ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request")
        deep = [(1, [(1, "none")])]
        for _ in range(200):
            deep = [(4, [(2, deep)])]
        assert r.call("KV/Txn", [(2, deep)])[0] == "INVALID_ARGUMENT"
    # what is announced and never sent costs nothing
    before, conns = rss_kib(), []
    for _ in range(100):
        c = H2()
        c.send(frame(HEADERS, END_HEADERS, 1, head(service("KV/Put"))) + frame(DATA, 0, 1, b"\0" + struct.pack(">I", MAX) + b"x" * 10))
        conns.append(c)
    assert r.call("KV/Range", [(1, "k"), (8, 1)])[0] == "OK"
    assert rss_kib() - before < 20 * 1024, rss_kib() - before
    for c in conns:
        c.close()


def grpc_framing():
    def one(path, data, content_type="application/grpc", extra=()):
        c = H2()
        try:
            c.send(frame(HEADERS, END_HEADERS, 1, head(path, content_type, extra)) + frame(DATA, END_STREAM, 1, data))
            seen = []
            while True:
                try:
                    f = c.next()
                except socket.timeout:
                    raise AssertionError(f"{path} {data[:20]}: no answer") from None
                assert f and f[0] != GOAWAY, (path, data[:20])
                if f[2] == 1:
                    seen.append(f)
                    if f[1] & END_STREAM or f[0] == RST:
                        return seen
        finally:
            c.close()
    with Bystander():
        for path in map(service, UNARY[:8] + STREAMS):
            for data in (grpc_frame(b"x", 1), grpc_frame(b"", 255), b"", b"\0\0", grpc_frame(b"\x0a\x01n") * 2,
                         b"\0" + struct.pack(">I", 0xFFFFFFFF), b"\0" + struct.pack(">I", 10) + b"short"):
                one(path, data)
        one(service("KV/Put"), grpc_frame(b"\x0a\x01n"), "application/json")
        one(service("KV/Put"), grpc_frame(b"\x0a\x01n"), "application/grpc+json")
        one(service("KV/Put"), grpc_frame(b"\x0a\x01n"), extra=[("grpc-encoding", "gzip")])
        one("/nothing/Here", b"")
        one("/", b"")


# ---- floods ----

def rapid_reset():
    """Streams that are opened and reset at once (CVE-2023-44487)."""
    with Bystander():
        before = rss_kib()
        for _ in range(3):
            c = H2()
            data = b"".join(frame(HEADERS, END_HEADERS, sid, head(service("KV/Range"))) + frame(RST, 0, sid, b"\0\0\0\x08")
                            for sid in range(1, 40001, 2))
            assert c.ended(data), "20,000 resets were taken"
            c.close()
        assert rss_kib() - before < 30 * 1024, rss_kib() - before


def continuation_flood():
    """A head that never ends (CVE-2024-27316)."""
    with Bystander():
        before = rss_kib()
        c = H2()
        part = field("x-filler", "y" * 120) * 50
        assert c.ended(frame(HEADERS, 0, 1, head("/")) + frame(CONTINUATION, 0, 1, part) * 2000)
        c.close()
        c = H2()
        assert c.ended(frame(HEADERS, 0, 1, head("/")) + frame(CONTINUATION, 0, 1, b"") * 20000), "empty ones"
        c.close()
        assert rss_kib() - before < 20 * 1024


def control_floods():
    """Frames that ask for an answer, from a client that reads none."""
    with Bystander():
        before = rss_kib()
        for data in (frame(PING, 0, 0, b"12345678") * 200000, frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64") * 200000,
                     frame(WINDOW, 0, 0, b"\0\0\0\0") * 1000, frame(DATA, 0, 1, b"x") * 1000, frame(99, 0, 0, b"") * 100000):
            c = H2()
            c.s.settimeout(3)
            try:
                for i in range(0, len(data), 65536):
                    c.send(data[i:i + 65536])
            except (OSError, socket.timeout):
                pass
            c.close()
        assert rss_kib() - before < 30 * 1024, rss_kib() - before


def many_streams():
    """Calls without end on one connection: past the limit they are refused, and the memory comes back."""
    c = H2()
    threading.Thread(target=c.ended, args=(b"", 60), daemon=True).start()
    with Bystander():
        try:
            for sid in range(1, 60001, 2):
                c.send(frame(HEADERS, END_HEADERS, sid, head(service("Watch/Watch"))))
        except OSError:
            pass
        time.sleep(1)
        per = rss_kib() / 30000
        assert per < 4, f"{per:.1f} KiB for a stream"
    c.close()
    r = Raw(S.port)
    assert r.call("KV/Range", [(1, "k"), (8, 1)])[0] == "OK"


def endless_requests():
    """A stream that asks for ever and whose answers nobody takes."""
    for path, request in (("Lease/LeaseKeepAlive", msg([(1, 12345)])), ("Watch/Watch", msg([(2, [(1, 7)])])),
                          ("Watch/Watch", msg([(3, b"")])), ("Watch/Watch", msg([(1, [(1, "b"), (2, "a")])]))):
        c = H2(b"\0\4\0\0\0\0")  # not a byte may be sent to us
        before = rss_kib()
        c.send(frame(HEADERS, END_HEADERS, 1, head(service(path))))
        data, sent = frame(DATA, 0, 1, grpc_frame(request) * 200), 0
        c.s.settimeout(1)
        with Bystander():
            try:
                while sent < 64 << 20:
                    c.send(data)
                    sent += len(data)
            except (OSError, socket.timeout):
                pass
        grown = rss_kib() - before
        assert grown < 24 * 1024, f"{path}: {grown} KiB after {sent} bytes"
        c.close()


def slow_heads():
    """Heads that come byte by byte hold nobody up and are ended in time."""
    conns = []
    for i in range(30):
        s = socket.create_connection(("127.0.0.1", S.port), 10)
        s.settimeout(60)
        s.sendall((b"PRI * HTTP/2.0\r\n", b"GET /health HT", b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nX-A: ")[i % 3])
        conns.append(s)
    began, left = time.monotonic(), set(conns)
    with Bystander():
        while left and time.monotonic() - began < 60:
            for s in list(left):
                try:
                    s.sendall(b"a")
                    s.setblocking(False)
                    try:
                        if s.recv(1000) == b"":
                            left.discard(s)
                    except BlockingIOError:
                        pass
                    s.setblocking(True)
                except OSError:
                    left.discard(s)
            time.sleep(0.5)
    assert not left, f"{len(left)} are still open after a minute"


def slow_range_stream():
    """RangeStream: the same as Range, and a page in memory however slowly it is read."""
    r = Raw(S.port)
    for i in range(400):
        assert r.call("KV/Put", [(1, "s/%04d" % i), (2, os.urandom(200000 if i % 3 else 10))])[0] == "OK"

    def whole(request, pause=0):
        kvs, last = [], b""
        for b in r.server_stream("KV/RangeStream", request, timeout=60):
            last = get(b, 1)
            kvs += [v for no, v in fields(last) if no == 2]
            time.sleep(pause)
            pause = 0
        return kvs, [x for x in fields(last) if x[0] != 2]
    for request in ([(1, "s/"), (2, "s0")], [(1, "s/"), (2, "s0"), (3, 33)], [(1, "s/"), (2, "s0"), (8, 1)],
                    [(1, "s/"), (2, "s0"), (9, 1)], [(1, "s/0100")], [(1, "nothing")], [(1, "s/0"), (2, "\0"), (3, 400)]):
        body = r.call("KV/Range", request)[2]
        assert whole(request) == ([v for no, v in fields(body) if no == 2], [x for x in fields(body) if x[0] != 2]), request
    before = rss_kib()
    peak = []
    t = threading.Thread(target=lambda: [peak.append(rss_kib()) or time.sleep(0.05) for _ in range(40)])
    t.start()
    assert len(whole([(1, "s/"), (2, "s0")], 1.5)[0]) == 400
    t.join()
    assert max(peak) - before < 16 * 1024, max(peak) - before
    for request, code in (([(1, "a"), (5, 2)], "UNIMPLEMENTED"), ([(1, "a"), (10, 9)], "UNIMPLEMENTED"), ([(1, "")], "INVALID_ARGUMENT"),
                          ([(1, "a"), (4, 1 << 40)], "OUT_OF_RANGE")):
        assert r.call("KV/RangeStream", request)[0] == code, request


def json_bodies():
    """The gateway and the other paths."""
    import http.client
    rnd = random.Random(7)
    bad = [b"", b"{", b"[]", b"null", b'{"key":5}', b'{"key":"!"}', b'{"key":"aw==","key":"aw=="}', b"{" * 100000, b'{"a":' * 5000 + b"1",
           b'{"key":"' + b"a" * 5000000 + b'"}', b'{"limit":"99999999999999999999999"}', b'{"success":[{"requestTxn":{}}]}', b"\xff\xfe",
           b'{"compare":[{"result":"BAD"}]}']
    with Bystander():
        for path in ("/v3/kv/range", "/v3/kv/txn", "/v3/kv/put", "/v3/lease/grant", "/v3/watch", "/v3/auth/user/add", "/v3/lock/lock"):
            for body in bad + [bytes(rnd.randrange(256) for _ in range(40)) for _ in range(5)]:
                h = http.client.HTTPConnection("127.0.0.1", S.port, timeout=3)
                try:
                    h.request("POST", path, body)
                    assert h.getresponse().status < 600
                except (http.client.HTTPException, OSError):
                    pass  # a watch or a lock that waits
                h.close()
        for line in (b"GET /health?exclude=%ff&&& HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                     b"GET " + b"/" * 70000 + b" HTTP/1.1\r\n\r\n", b"POST /v3/kv/put HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"):
            s = socket.create_connection(("127.0.0.1", S.port), 5)
            s.settimeout(5)
            try:
                s.sendall(line)
                s.recv(1000)
            except OSError:
                pass
            s.close()


tap = Tap()
try:
    for name, fn in (("malformed messages for every call", malformed_messages), ("limits of size, to the byte", sizes),
                     ("malformed gRPC", grpc_framing), ("streams that are reset at once", rapid_reset),
                     ("heads without end", continuation_flood), ("frames that want answers", control_floods),
                     ("many streams on a connection", many_streams), ("requests without end", endless_requests),
                     ("heads that come slowly", slow_heads), ("RangeStream to a slow reader", slow_range_stream),
                     ("bodies that are not what they should be", json_bodies)):
        began = time.monotonic()
        tap.run(name, fn)
        print(f"# {time.monotonic() - began:.1f} s, {rss_kib()} KiB, at most {rss_kib('VmHWM')} KiB so far", flush=True)
        assert S.proc.poll() is None, open(os.path.join(S.dir, "log")).read()[-3000:]
finally:
    S.stop()
tap.end()
