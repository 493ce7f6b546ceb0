#!/usr/bin/python3
# timeout: 600
"""Namespaces of one store: each answers as a store of its own would, revisions aside, and none sees or changes anything of
another. Random histories run on two namespaces of one store and on two stores; SEED=, ROUNDS= and OPS= make it longer."""
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from store_lib import Server, Tap, free_port  # noqa: E402

try:
    import grpc  # noqa: F401
except ImportError:
    print("python3-grpcio is missing")
    sys.exit(77)
from store_raw import Raw, fields, get, msg  # noqa: E402

KEYS = ["a", "aa", "ab", "b", "b\0", "c", b"\xff", b"\xff\xff", "tenants/b/a", "/tenants/b/a"]
ENDS = ["", "", "\0", "b", "c", b"\xff", "d", "ab", b"\xff\xff\xff", "~"]
PREFIX = {"a": b"/tenants/a/", "b": b"/tenants/b/"}
FUTURE = 1 << 50


class Revisions:
    """Which revision of the namespace is which of the store of its own."""

    def __init__(self):
        self.own, self.there, self.all = {1: 1}, {1: 1}, [1]

    def pair(self, own, there):
        self.own[own], self.there[there] = there, own
        self.all.append(own)

    def to_there(self, own):
        return self.own.get(own, own)

    def to_own(self, there):
        return self.there[there]


class Rev(int):
    """A number in a request that is a revision of the store of its own."""


def translate(request, revs):
    return [(no, revs.to_there(v) if isinstance(v, Rev) else translate(v, revs) if isinstance(v, list) else v)
            for no, v in request]


def kv(body, revs):
    return tuple((no, revs.to_own(v) if revs and no in (2, 3) else v) for no, v in fields(body))


def answer(kind, body, revs):
    """The answer without headers; revs: of a namespace, its revisions become those of the store of its own."""
    out = []
    for no, v in fields(body):
        if no == 1 and kind != "op":
            continue
        if kind == "op":
            out.append((no, tuple(answer({1: "range", 2: "put", 3: "delete", 4: "txn"}[no], v, revs))))
        elif (kind, no) in (("range", 2), ("put", 2), ("delete", 3)):
            out.append((no, kv(v, revs)))
        elif (kind, no) == ("txn", 3):
            out.append((no, tuple(answer("op", v, revs))))
        elif (kind, no) == ("ttl", 3):
            out.append((no, v < 1 << 63))
        elif (kind, no) == ("campaign", 2):
            out.append((no, tuple((n, revs.to_own(x) if revs and n == 3 else x) for n, x in fields(v))))
        elif (kind, no) == ("leader", 2):
            out.append((no, kv(v, revs)))
        else:
            out.append((no, v))
    return sorted(out) if kind == "leases" else out


PATH = {"range": "KV/Range", "put": "KV/Put", "delete": "KV/DeleteRange", "txn": "KV/Txn", "grant": "Lease/LeaseGrant",
        "revoke": "Lease/LeaseRevoke", "ttl": "Lease/LeaseTimeToLive", "leases": "Lease/LeaseLeases",
        "lock": "v3lockpb.Lock/Lock", "unlock": "v3lockpb.Lock/Unlock", "campaign": "v3electionpb.Election/Campaign",
        "leader": "v3electionpb.Election/Leader", "proclaim": "v3electionpb.Election/Proclaim",
        "resign": "v3electionpb.Election/Resign", "keepalive": "Lease/LeaseKeepAlive"}


class Pair:
    """A namespace and a store of its own."""

    def __init__(self, there, own):
        self.there, self.own, self.revs, self.rev = there, own, Revisions(), 1

    def call(self, kind, request):
        if kind == "keepalive":
            a = self.there.first(PATH[kind], [msg(request)])
            b = self.own.first(PATH[kind], [msg(request)])
        else:
            a = self.there.call(PATH[kind], translate(request, self.revs))
            b = self.own.call(PATH[kind], request)
        if b[0] == "OK" and kind in ("put", "delete", "txn", "revoke", "lock", "unlock", "campaign", "proclaim", "resign"):
            rev = get(get(b[2], 1), 3, 0)
            if rev > self.rev:
                self.rev = rev
                if a[0] == "OK":
                    self.revs.pair(rev, get(get(a[2], 1), 3, 0))
        assert a[:2] == b[:2], f"{kind} {request}\nnamespace: {a}\nalone:     {b}"
        x, y = answer(kind, a[2], self.revs), answer(kind, b[2], None)
        assert x == y, f"{kind} {request}\nnamespace: {x}\nalone:     {y}"
        return b


class Gen:
    def __init__(self, rnd, pair):
        self.r, self.pair = rnd, pair

    def key(self):
        return self.r.choice(KEYS) if self.r.random() > 0.03 else ""

    def rev(self):
        return Rev(self.r.choice(self.pair.revs.all[-20:]))

    def range(self):
        q = [(1, self.key()), (2, self.r.choice(ENDS))]
        if self.r.random() < 0.4:
            q.append((3, self.r.randint(1, 4)))
        if self.r.random() < 0.3:
            q.append((4, self.rev() if self.r.random() < 0.9 else FUTURE))
        if self.r.random() < 0.3:
            q += [(5, self.r.randint(0, 2)), (6, 0)]
        for flag in (8, 9):
            if self.r.random() < 0.15:
                q.append((flag, 1))
        if self.r.random() < 0.2:
            q.append((self.r.randint(10, 13), self.rev()))
        return q

    def put(self):
        q = [(1, self.key()), (2, "v%d" % self.r.randint(0, 99)), (4, self.r.randint(0, 1))]
        if self.r.random() < 0.3:
            q.append((3, self.r.randint(1, 5)))
        if self.r.random() < 0.05:
            q.append((self.r.choice([5, 6]), 1))
        return q

    def delete(self):
        return [(1, self.key()), (2, self.r.choice(ENDS + [""] * 6)), (3, self.r.randint(0, 1))]

    def compare(self):
        target, n = self.r.randint(0, 4), self.r.randint(0, 3)
        value = {0: (4, n), 1: (5, self.rev()), 2: (6, self.rev()), 3: (7, "v%d" % self.r.randint(0, 99)),
                 4: (8, self.r.randint(0, 5))}[target]
        return [(1, self.r.randint(0, 3)), (2, target), (3, self.key()), value, (64, self.r.choice(ENDS + [""] * 20))]

    def txn(self, depth=0):
        q = [(1, self.compare()) for _ in range(self.r.choice([0, 1, 1, 2]))]
        for branch in (2, 3):
            for _ in range(self.r.choice([0, 1, 1, 2, 3])):
                x = self.r.random()
                q.append((branch, [(2, self.put())] if x < 0.4 else [(3, self.delete())] if x < 0.6 else
                          [(1, self.range())] if x < 0.9 or depth > 1 else [(4, self.txn(depth + 1))]))
        return q

    def op(self):
        x, lease = self.r.random(), self.r.randint(1, 5)
        for limit, kind in ((0.28, "put"), (0.38, "delete"), (0.62, "txn")):
            if x < limit:
                return kind, getattr(self, kind)()
        if x < 0.66:
            return "grant", [(1, self.r.choice([600, 5000, 9999999999])), (2, lease)]
        if x < 0.68:
            return "revoke", [(1, lease)]
        if x < 0.71:
            return "ttl", [(1, lease), (2, 1)]
        if x < 0.72:
            return "keepalive", [(1, lease)]
        if x < 0.74:
            return "leases", []
        if x < 0.75:
            return "leader", [(1, self.r.choice(["a", "e", "locks"]))]
        return "range", self.range()


def watch_all(raw, key, end, start, until, revs):
    """Every event from a revision on, with what was before."""
    events, held = [], threading.Event()

    def requests():
        yield msg([(1, [(1, key), (2, end), (3, start), (6, 1)])])
        held.wait(20)

    stream = raw.stream("Watch/Watch", requests(), timeout=20)
    try:
        for body in stream:
            last = 0
            assert not get(body, 4, 0), fields(body)
            for no, ev in fields(body):
                if no == 11:
                    events.append(tuple((n, kv(v, revs) if isinstance(v, bytes) else v) for n, v in fields(ev)))
                    last = get(get(ev, 2), 3, 0)
            if last >= until:
                break
    finally:
        held.set()
        stream.cancel()
    return events


def scenario(p):
    """Locks and elections, in turn."""
    p.call("grant", [(1, 600), (2, 77)])
    p.call("lock", [(1, "locks"), (2, 77)])
    key = "locks/%x" % 77
    p.call("range", [(1, key)])
    p.call("unlock", [(1, key)])
    p.call("range", [(1, key)])
    b = p.call("campaign", [(1, "e"), (2, 77), (3, "me")])
    leader = get(b[2], 2)
    ours = [(1, get(leader, 1)), (2, get(leader, 2)), (3, Rev(get(leader, 3))), (4, 77)]
    p.call("leader", [(1, "e")])
    p.call("proclaim", [(1, ours), (2, "still me")])
    p.call("leader", [(1, "e")])
    p.call("resign", [(1, ours)])
    p.call("leader", [(1, "e")])
    p.call("revoke", [(1, 77)])


class Lab:
    def __init__(self):
        self.ports = {n: free_port() for n in PREFIX}
        urls = ",".join(f"http://127.0.0.1:{port}={PREFIX[n].decode()}" for n, port in self.ports.items())
        self.shared = Server("kfarm", ["--listen-namespace-urls", urls])
        self.alone = {n: Server("kfarm") for n in PREFIX}
        self.pairs = {n: Pair(Raw(self.ports[n]), Raw(self.alone[n].port)) for n in PREFIX}
        self.root = Raw(self.shared.port)

    def restart(self):
        self.shared.kill()
        self.shared.start()
        for n, p in self.pairs.items():
            p.there.close()
            p.there = Raw(self.ports[n])
        self.root = Raw(self.shared.port)

    def stop(self):
        for s in (self.shared, *self.alone.values()):
            s.stop()

    def noise(self, rnd):
        """What others do in the same store."""
        key = rnd.choice([b"other/a", b"/tenants", b"/tenants/", b"/tenants/a", b"/tenants/a0", b"/tenants/c/a", b"zz"])
        if rnd.random() < 0.7:
            self.root.call("KV/Put", [(1, key), (2, "x")])
        else:
            self.root.call("KV/DeleteRange", [(1, key)])
        if rnd.random() < 0.1:
            self.root.call("Lease/LeaseGrant", [(1, 600), (2, rnd.randint(1, 5))])


def history(seed, n):
    rnd, lab = random.Random(seed), Lab()
    try:
        gens = {name: Gen(rnd, p) for name, p in lab.pairs.items()}
        for i in range(n):
            if rnd.random() < 0.15:
                lab.noise(rnd)
            if i == n // 2:
                lab.restart()
            name = rnd.choice("ab")
            try:
                lab.pairs[name].call(*gens[name].op())
            except AssertionError as e:
                raise AssertionError(f"seed {seed}, operation {i}, namespace {name}\n{e}") from None
        for name, p in lab.pairs.items():
            scenario(p)
            p.call("put", [(1, "b"), (2, "the last one")])
            for key, end in (("\0", "\0"), ("a", "c")):
                a = watch_all(p.there, key, end, 2, p.revs.to_there(p.rev), p.revs)
                b = watch_all(p.own, key, end, 2, p.rev, None)
                assert a == b and a, f"seed {seed}, watch of {name}: {len(a)} and {len(b)} events"
            alone = {get(v, 1) for no, v in fields(p.own.call("KV/Range", [(1, "\0"), (2, "\0")])[2]) if no == 2}
            there = {get(v, 1) for no, v in fields(lab.root.call("KV/Range", [(1, PREFIX[name]), (2, PREFIX[name][:-1] + b"0")])[2])
                     if no == 2}
            assert there == {PREFIX[name] + k for k in alone}
    finally:
        lab.stop()


def refusals():
    lab = Lab()
    try:
        there = lab.pairs["a"].there
        for path, request in (("KV/Compact", [(1, 1)]), ("Maintenance/Alarm", []), ("Maintenance/Defragment", []),
                              ("Maintenance/Hash", []), ("Maintenance/HashKV", []), ("Maintenance/MoveLeader", [(1, 1)]),
                              ("Maintenance/Downgrade", []), ("Cluster/MemberAdd", []), ("Cluster/MemberRemove", []),
                              ("Cluster/MemberUpdate", []), ("Cluster/MemberPromote", []), ("Auth/AuthEnable", []),
                              ("Auth/AuthDisable", []), ("Auth/AuthStatus", []), ("Auth/UserAdd", [(1, "u"), (2, "p")]),
                              ("Auth/UserList", []), ("Auth/UserGet", [(1, "u")]), ("Auth/UserDelete", [(1, "u")]),
                              ("Auth/UserChangePassword", [(1, "u")]), ("Auth/UserGrantRole", []), ("Auth/UserRevokeRole", []),
                              ("Auth/RoleAdd", [(1, "r")]), ("Auth/RoleGet", [(1, "r")]), ("Auth/RoleList", []),
                              ("Auth/RoleDelete", [(1, "r")]), ("Auth/RoleGrantPermission", []),
                              ("Auth/RoleRevokePermission", [])):
            got = there.call(path, request)[:2]
            assert got == ("PERMISSION_DENIED", "etcdserver: permission denied"), (path, got)
        try:
            next(there.server_stream("Maintenance/Snapshot"))
            raise AssertionError("a snapshot")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.PERMISSION_DENIED
        assert there.call("Maintenance/Status")[0] == "OK"
        assert there.call("Cluster/MemberList")[0] == "OK"
    finally:
        lab.stop()


def chosen_leases():
    """Ids that the server chooses, and what one namespace sees of the other's."""
    lab = Lab()
    try:
        a, b = lab.pairs["a"].there, lab.pairs["b"].there
        ids = [get(a.call("Lease/LeaseGrant", [(1, 600)])[2], 2) for _ in range(20)]
        assert len(set(ids)) == 20 and all(0 < i < 1 << 63 for i in ids)
        assert a.call("KV/Put", [(1, "k"), (2, "v"), (3, ids[0])])[0] == "OK"
        assert b.call("KV/Put", [(1, "k"), (2, "v"), (3, ids[0])])[:2] == ("NOT_FOUND", "etcdserver: requested lease not found")
        assert b.call("Lease/LeaseRevoke", [(1, ids[0])])[0] == "NOT_FOUND"
        assert b.call("Lease/LeaseGrant", [(1, 600), (2, ids[0])])[0] == "OK"
        assert b.call("Lease/LeaseRevoke", [(1, ids[0])])[0] == "OK"
        assert a.call("KV/Range", [(1, "k")])[2] and get(a.call("KV/Range", [(1, "k")])[2], 4) == 1

        def listed(r):
            return {get(v, 1) for no, v in fields(r.call("Lease/LeaseLeases")[2]) if no == 2}
        assert listed(a) == set(ids) and listed(b) == set()
        assert len(listed(lab.root)) == 20 and not listed(lab.root) & set(ids)
        lab.restart()
        a, b = lab.pairs["a"].there, lab.pairs["b"].there
        assert listed(a) == set(ids) and listed(b) == set()
        assert get(get(a.call("KV/Range", [(1, "k")])[2], 2), 6) == ids[0]
        got = a.call("Lease/LeaseTimeToLive", [(1, ids[0]), (2, 1)])[2]
        assert get(got, 5) == b"k" and 0 < get(got, 3) <= 600
    finally:
        lab.stop()


if __name__ == "__main__":
    tap = Tap()
    tap.run("what concerns the whole store is refused", refusals)
    tap.run("leases belong to a namespace", chosen_leases)
    first = int(os.environ.get("SEED", 52))
    for k in range(int(os.environ.get("ROUNDS", 3))):
        tap.run(f"history {first + k}", lambda: history(first + k, int(os.environ.get("OPS", 800))))
    tap.end()
