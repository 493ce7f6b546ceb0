#!/usr/bin/python3
# timeout: 600
"""Who may call what: every call by every kind of caller is answered as etcd 3.5 does, by code and text. Random histories of
users and roles: KINDS=auth of 50-store-diff.py."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from store_lib import Server, Tap, etcd_binary  # noqa: E402

try:
    import grpc  # noqa: F401
except ImportError:
    print("python3-grpcio is missing")
    sys.exit(77)
if not etcd_binary("3.5"):
    print("no etcd 3.5 to compare with")
    sys.exit(77)
from store_raw import Raw, fields, get, msg  # noqa: E402

LEASE = {"free": 11, "mine": 12, "theirs": 13, "mixed": 14}
READ, WRITE, READWRITE = 0, 1, 2


def no_header(path, body):
    """What must be equal: all but ids, sizes and times; of the header the revision."""
    out = []
    for no, v in fields(body):
        if no == 1 and isinstance(v, bytes):
            out.append((1, get(v, 3, 0)))
        elif "TimeToLive" in path and no == 3:
            out.append((3, v < 1 << 63))
        elif "LeaseKeepAlive" in path or "MemberList" in path or "Status" in path and "Auth" not in path or "Hash" in path:
            continue
        elif "Authenticate" in path and no == 2:
            continue
        else:
            out.append((no, v))
    return sorted(out, key=repr) if "TimeToLive" in path else out  # etcd tells the keys in any order


def prepare(r):
    def do(path, req):
        code, text, _ = r.call(path, req)
        assert code == "OK", (path, req, code, text)
    for name in ("root", "alice", "bob"):
        do("Auth/UserAdd", [(1, name), (2, name + "pw")])
    do("Auth/UserAdd", [(1, "certonly"), (3, [(1, 1)])])
    for role in ("root", "reader", "writer"):
        do("Auth/RoleAdd", [(1, role)])
    for role, kind, key, end in (("reader", READ, "r/", "r0"), ("writer", READWRITE, "w/", "w0"), ("writer", WRITE, "one", ""),
                                 ("reader", READ, "one", "")):
        do("Auth/RoleGrantPermission", [(1, role), (2, [(1, kind), (2, key), (3, end)])])
    for user, role in (("root", "root"), ("alice", "reader"), ("alice", "writer")):
        do("Auth/UserGrantRole", [(1, user), (2, role)])
    for lease in LEASE.values():
        do("Lease/LeaseGrant", [(1, 5000), (2, lease)])
    for key, lease in (("r/1", 0), ("w/1", LEASE["mine"]), ("x", LEASE["theirs"]), ("w/2", LEASE["mixed"]), ("y", LEASE["mixed"]),
                       ("one", 0)):
        do("KV/Put", [(1, key), (2, "v"), (3, lease)])
    do("Auth/AuthEnable", [])


def put(key, **kw):
    return [(1, key), (2, "v"), (3, kw.get("lease", 0)), (4, kw.get("prev", 0))]


def calls():
    """(path, request); those that change much come last."""
    for key, end in (("r/1", ""), ("r/", "r0"), ("r/", "r1"), ("w/1", ""), ("x", ""), ("a", "\0"), ("\0", "\0"), ("one", ""), ("", ""),
                     ("r/5", "r/2")):
        yield "KV/Range", [(1, key), (2, end)]
        yield "KV/DeleteRange", [(1, "zz" + key), (2, "zz" + end if end else "")]
    for key in ("w/1", "r/1", "one", "x", ""):
        yield "KV/Put", put(key)
        yield "KV/Put", put(key, prev=1)
    for lease in LEASE.values():
        yield "KV/Put", put("w/9", lease=lease)
        yield "Lease/LeaseTimeToLive", [(1, lease), (2, 1)]
        yield "Lease/LeaseTimeToLive", [(1, lease)]
    yield "KV/DeleteRange", [(1, "w/7"), (2, "w/8"), (3, 1)]
    yield "KV/Txn", [(1, [(3, "r/1"), (4, 1)]), (2, [(2, put("w/1"))])]
    yield "KV/Txn", [(1, [(3, "x"), (4, 1)]), (2, [(2, put("w/1"))])]
    yield "KV/Txn", [(2, [(2, put("w/1"))]), (3, [(1, [(1, "x")])])]
    yield "KV/Txn", [(2, [(3, [(1, "w/6"), (3, 1)])])]
    yield "KV/Txn", [(2, [(3, [(1, "one"), (3, 1)])])]
    yield "KV/Txn", [(2, [(2, put("one", prev=1))])]
    yield "Lease/LeaseGrant", [(1, 5000), (2, 99)]
    yield "Lease/LeaseRevoke", [(1, 99)]
    yield "Lease/LeaseRevoke", [(1, 12345)]
    yield "Lease/LeaseRevoke", [(1, LEASE["theirs"])]
    yield "Lease/LeaseRevoke", [(1, LEASE["mixed"])]
    yield "Lease/LeaseLeases", []
    yield "stream Lease/LeaseKeepAlive", [(1, LEASE["theirs"])]
    yield "stream Lease/LeaseKeepAlive", [(1, 12345)]
    yield "stream Watch/Watch", [(1, [(1, "x"), (3, 100000)])]
    yield "stream Watch/Watch", [(1, [(1, "r/1"), (3, 100000)])]
    for path in ("Maintenance/Status", "Cluster/MemberList", "Auth/AuthStatus", "Auth/UserList", "Auth/RoleList"):
        yield path, []
    yield "Maintenance/Alarm", []
    yield "Maintenance/Alarm", [(1, 2), (3, 1)]
    yield "Maintenance/Hash", []
    yield "Maintenance/HashKV", []
    yield "Maintenance/Defragment", []
    yield "Maintenance/Snapshot", []
    yield "Maintenance/MoveLeader", [(1, 77)]
    for action, version in ((0, "9.9.9"), (1, "2.0"), (0, "x"), (0, ""), (2, "")):
        yield "Maintenance/Downgrade", [(1, action), (2, version)]
    yield "Cluster/MemberAdd", [(1, "http://127.0.0.1:1")]
    yield "Cluster/MemberRemove", [(1, 77)]
    yield "Cluster/MemberUpdate", [(1, 77), (2, "http://127.0.0.1:1")]
    yield "Cluster/MemberPromote", [(1, 77)]
    for name in ("alice", "bob", "nobody", "root"):
        yield "Auth/UserGet", [(1, name)]
    for name in ("reader", "root", "nothing"):
        yield "Auth/RoleGet", [(1, name)]
    yield "Auth/UserAdd", [(1, "alice"), (2, "x")]
    yield "Auth/UserAdd", [(1, ""), (2, "x")]
    yield "Auth/UserDelete", [(1, "nobody")]
    yield "Auth/UserDelete", [(1, "root")]
    yield "Auth/UserChangePassword", [(1, "nobody"), (2, "x")]
    yield "Auth/UserGrantRole", [(1, "nobody"), (2, "reader")]
    yield "Auth/UserGrantRole", [(1, "bob"), (2, "nothing")]
    yield "Auth/UserRevokeRole", [(1, "bob"), (2, "reader")]
    yield "Auth/UserRevokeRole", [(1, "root"), (2, "root")]
    yield "Auth/RoleAdd", [(1, "")]
    yield "Auth/RoleAdd", [(1, "reader")]
    yield "Auth/RoleDelete", [(1, "nothing")]
    yield "Auth/RoleDelete", [(1, "root")]
    yield "Auth/RoleGrantPermission", [(1, "nothing"), (2, [(2, "k")])]
    yield "Auth/RoleGrantPermission", [(1, "reader")]
    yield "Auth/RoleGrantPermission", [(1, "reader"), (2, [(2, "b"), (3, "a")])]
    yield "Auth/RoleGrantPermission", [(1, "reader"), (2, [(2, ""), (3, "a")])]
    yield "Auth/RoleRevokePermission", [(1, "reader"), (2, "k")]
    yield "Auth/Authenticate", [(1, "alice"), (2, "wrong")]
    yield "Auth/Authenticate", [(1, "nobody"), (2, "x")]
    yield "Auth/Authenticate", [(1, "certonly"), (2, "")]
    yield "Auth/Authenticate", [(1, ""), (2, "")]
    yield "KV/Compact", [(1, 3)]
    yield "v3lockpb.Lock/Lock", [(1, "locks"), (2, LEASE["free"])]
    yield "v3electionpb.Election/Leader", [(1, "w")]
    yield "v3electionpb.Election/Proclaim", [(1, [(1, "x"), (2, "x"), (3, 2)]), (2, "v")]


EMPTY, DENIED, TOKEN = (("INVALID_ARGUMENT", "etcdserver: user name is empty"),
                        ("PERMISSION_DENIED", "etcdserver: permission denied"),
                        ("UNAUTHENTICATED", "etcdserver: invalid auth token"))
NEEDS_USER = {"Maintenance/Status", "Cluster/MemberList", "Lease/LeaseGrant", "Lease/LeaseRevoke", "Lease/LeaseLeases",
              "stream Lease/LeaseKeepAlive", "Maintenance/Alarm", "Lease/LeaseTimeToLive"}
NEEDS_ROOT = {"KV/Compact", "Maintenance/MoveLeader", "Maintenance/Downgrade"}


def stricter(who, path, req):
    """What etcd has closed since 3.5.16 (as of 3.5.28); None: nothing."""
    changes_alarm = path == "Maintenance/Alarm" and req
    if path in NEEDS_USER | NEEDS_ROOT and who in ("nobody", "bad token"):
        return EMPTY if who == "nobody" else TOKEN
    if (path in NEEDS_ROOT or changes_alarm) and who in ("alice", "bob"):
        return DENIED
    if path == "Lease/LeaseLeases" and who in ("alice", "bob"):
        return DENIED  # it would tell of leases whose keys the caller may not read
    if path == "stream Lease/LeaseKeepAlive" and req == [(1, LEASE["theirs"])] and who in ("alice", "bob"):
        return DENIED
    return None


def do(r, path, req, token):
    if path.startswith("stream "):
        return r.first(path[7:], [msg(req)], token)
    if path == "Maintenance/Snapshot":
        try:
            next(r.server_stream(path, req, token))
            return "OK", None, b""
        except grpc.RpcError as e:
            return e.code().name, e.details(), b""
    return r.call(path, req, token)


def every_call():
    ours, theirs = Server("kfarm", ["--bcrypt-cost", "4"]), Server("etcd", ["--bcrypt-cost", "4"], version="3.5")
    wrong = []
    try:
        clients = [Raw(s.port) for s in (ours, theirs)]
        for r in clients:
            prepare(r)
        tokens = {"nobody": (None, None), "bad token": ("x.1", "x.1")}
        for name in ("alice", "bob", "root"):
            tokens[name] = tuple(r.login(name, name + "pw") for r in clients)
        for who, pair in tokens.items():
            for path, req in calls():
                if who == "root" and path == "Cluster/MemberAdd":
                    continue  # etcd would wait for the new member from here on
                rule = stricter(who, path, req)
                if rule:
                    a = do(clients[0], path, req, pair[0])
                    if a[:2] != rule:
                        wrong.append(f"{who} {path} {req}: {a[:2]}, not {rule}")
                    continue
                a, b = (do(r, path, req, t) for r, t in zip(clients, pair))
                if path.startswith("Cluster/") and b[0] == "DEADLINE_EXCEEDED":  # its raft drops a change of members
                    b = do(clients[1], path, req, pair[1])                       # while another is being applied
                if path == "Lease/LeaseLeases" and a[0] == "OK":  # etcd leaves those of its own sessions behind
                    b = b[:2] + (b"".join(msg([(2, v)]) for no, v in fields(b[2]) if no == 2 and len(v) < 4),)
                    a = a[:2] + (b"".join(msg([(2, v)]) for no, v in fields(a[2]) if no == 2),)
                if a[:2] != b[:2] or no_header(path, a[2]) != no_header(path, b[2]):
                    wrong.append(f"{who} {path} {req}:\n  kfarm {a[0]} {a[1]} {no_header(path, a[2])}\n"
                                 f"  etcd  {b[0]} {b[1]} {no_header(path, b[2])}")
    finally:
        ours.stop()
        theirs.stop()
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(wrong[:40])


def token_ttl():
    """A token ends so long after its last use, not after it was given."""
    server = Server("kfarm", ["--bcrypt-cost", "4", "--auth-token-ttl", "4"])
    try:
        r = Raw(server.port)
        prepare(r)
        token = r.login("root", "rootpw")
        for _ in range(6):
            time.sleep(0.8)
            assert r.call("KV/Range", [(1, "x")], token)[0] == "OK"
        time.sleep(4.5)
        assert r.call("KV/Range", [(1, "x")], token)[:2] == TOKEN
        assert r.call("KV/Range", [(1, "x")], r.login("root", "rootpw"))[0] == "OK"
    finally:
        server.stop()


if __name__ == "__main__":
    tap = Tap()
    tap.run("every call by every kind of caller", every_call)
    tap.run("a token ends some time after its last use", token_ttl)
    tap.end()
