"""Histories of operations that kfarm store and a real etcd are given alike: connections, streams, and what of an answer
may differ (ids, times, sizes). An operation is a dict that says everything, so that a history can be replayed:

  client   which of the connections            call   a method of etcd_wire.METHODS, with msg its fields
  save     a name for what the answer brings: a lease's id, a lock's key, a leader; ("ref", name) stands for it later
  start    call that may wait for others: its answer is compared as soon as etcd has one
  watch, cancel, progress, keepalive, observe, close, sleep, sync, restart, expire: see Pair
"""
import queue
import re
import threading
import time

import grpc
from etcd_wire import METHODS, decode, encode, get, text_of
from store_lib import Server

WATCH, KEEPALIVE = "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"
OBSERVE = "/v3electionpb.Election/Observe"
PATIENCE = 10  # seconds until an answer that is missing counts as a difference


class Near(int):
    """A time in seconds: equal to one that was read a little later."""

    def __eq__(self, other):
        return abs(int(self) - int(other)) <= 4

    __hash__ = int.__hash__


class Stream:
    """One stream of calls; a thread collects what comes."""

    def __init__(self, side, path, client, response):
        self.side, self.response = side, response
        self.out, self.got, self.ended = queue.Queue(), [], False
        self.progress_rev, self.event_rev, self.faults, self.partial = 0, {}, [], {}
        call = side.channel(client).stream_stream(path, None, None)
        self.call = call(iter(self.out.get, None), metadata=side.metadata(client))
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def send(self, data):
        self.out.put(data)

    def read(self):
        try:
            for data in self.call:
                self.take(decode(self.response, data), len(data))
            self.add("end", ("end", "OK", ""))
        except grpc.RpcError as e:
            if not self.ended:
                self.add("end", ("end", e.code().name, self.side.plain(e.details())))
        self.side.wake()

    def add(self, key, item):
        with self.side.lock:
            self.got.append((key, item))
        self.side.wake()

    def take(self, m, size):
        if self.response != "WatchResponse":
            return self.add("answers", self.side.masked(self.response, m))
        header, wid, events = get(m, "header", []), get(m, "watch_id"), [v for k, v in m if k == "events"]
        rev = get(header, "revision")
        if not events and not get(m, "created") and not get(m, "canceled"):
            self.progress_rev = max(self.progress_rev, rev) if wid == -1 else self.progress_rev
            return self.add(("progress", wid), rev)
        if get(m, "created") or get(m, "canceled"):
            return self.add(wid, self.side.masked(self.response, m))
        for e in events:
            mod = get(get(e, "kv", []), "mod_revision")
            # A watch from the past may be given what is older than a progress report of the others.
            if mod < self.event_rev.get(wid, 0):
                self.faults.append(f"watch {wid}: revision {mod} after {self.event_rev[wid]}")
            if self.partial.get(wid) == mod:
                self.faults.append(f"watch {wid}: revision {mod} in two answers")
            self.event_rev[wid] = mod
            self.add(wid, self.side.masked("Event", e))
        if rev < self.event_rev[wid]:
            self.faults.append(f"watch {wid}: the header's revision {rev} is older than its events")
        # Only fragments may leave the rest of a revision to the next answer.
        self.partial[wid] = None if get(m, "fragment") else self.event_rev[wid]

    def close(self):
        self.ended = True
        self.out.put(None)
        self.call.cancel()
        self.thread.join(5)


class Side:
    """One of the two servers with its connections."""

    def __init__(self, kind, version=None, extra=()):
        self.kind, self.version = kind, version
        self.server = Server(kind, extra, version=version)
        self.lock, self.changed = threading.RLock(), threading.Event()
        self.channels, self.tokens, self.names, self.streams, self.pending = {}, {}, {}, {}, {}
        self.restarted = False
        status = self.channel("admin").unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=PATIENCE)
        self.member = get(get(decode("StatusResponse", status), "header"), "member_id")

    def wake(self):
        self.changed.set()

    def channel(self, client):
        if client not in self.channels:
            self.channels[client] = grpc.insecure_channel(
                f"127.0.0.1:{self.server.port}", options=[("grpc.max_receive_message_length", -1),
                                                          ("grpc.use_local_subchannel_pool", 1)])
        return self.channels[client]

    def metadata(self, client):
        token = self.tokens.get(client)
        return [("token", token)] if token else []

    def value_of(self, v):
        if isinstance(v, tuple) and v and v[0] == "ref":
            return self.names.get(v[1], 0)
        if v == ("self",):
            return self.member
        return v

    def plain(self, text):
        """An error's text without what names this server."""
        text = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text or "")
        return text.replace(str(self.member & (1 << 64) - 1), "MEMBER")

    # ---- what may differ ----

    def masked(self, message, tree):
        out = [(k, self.mask(message, k, v)) for k, v in tree]
        if message == "LeaseTimeToLiveResponse":  # etcd gives the keys of a lease in the order of a hash table
            out.sort(key=lambda kv: (kv[0] == "keys", kv[1] if kv[0] == "keys" else b""))
        if message == "LeaseLeasesResponse" and self.restarted:  # of equal length they then end at the same time
            out.sort(key=lambda kv: (kv[0] == "leases", str(kv[1]) if kv[0] == "leases" else ""))
        return out

    def mask(self, message, name, v):
        if message == "ResponseHeader" and name != "revision":
            return "some"
        if name == "header":
            return self.masked("ResponseHeader", v)
        if name in ("ID", "lease") and message not in ("Member", "AlarmMember"):
            return next((f"lease {n}" for n, is_ in self.names.items() if is_ == v and n.startswith("L")), v)
        if message == "Member" and name == "ID" or name in ("memberID", "leader") and isinstance(v, int):
            return "self" if v == self.member else v
        if name in ("peerURLs", "clientURLs", "errors"):
            return self.plain(v.decode())
        if (message, name) in MASKED or name == "hash" and any(n.startswith("L") for n in self.names):
            return "some"
        if name == "TTL" and message in ("LeaseTimeToLiveResponse", "LeaseKeepAliveResponse"):
            return Near(v)
        if isinstance(v, list):
            inner = INNER[message, name] if (message, name) in INNER else None
            return self.masked(inner, v)
        if isinstance(v, bytes) and self.names:
            for n, is_ in self.names.items():
                if n.startswith("L"):
                    v = v.replace(b"/%x" % (is_ & (1 << 64) - 1), b"/lease " + n.encode())
        return v

    # ---- calls ----

    def unary(self, op):
        path, req, res = METHODS[op["call"]]
        call = self.channel(op["client"]).unary_unary(path)
        data = op["raw"] if "raw" in op else encode(req, op.get("msg", {}), self.value_of)
        metadata = self.metadata(op["client"]) if op["call"] != "authenticate" else []
        future = call.future(data, timeout=None if op.get("start") else 30, metadata=metadata)
        if op.get("start"):
            self.pending[op["start"]] = (future, op, res)
            future.add_done_callback(lambda _: self.wake())
            return None
        return self.answer(future, op, res)

    def answer(self, future, op, res):
        try:
            tree = decode(res, future.result())
        except grpc.RpcError as e:
            return ["error", e.code().name, self.plain(e.details())]
        if op["call"] == "lock":  # it may have waited: how far the others were by then is left to chance
            tree = [(k, [("revision", 1)] if k == "header" else v) for k, v in tree]
        if op.get("save"):
            self.names[op["save"]] = SAVED[op["call"]](tree)
        if op["call"] == "authenticate":
            self.tokens[op["client"]] = get(tree, "token").decode()
        return self.masked(res, tree)

    def finished(self):
        """The calls that waited and now have their answer."""
        out = {}
        for name, (future, op, res) in list(self.pending.items()):
            if isinstance(future, list):
                out[name] = future
            elif future.done():
                out[name] = [op["call"], self.answer(future, op, res)]
                self.pending[name] = (out[name], op, res)
        return out

    def stream(self, op, path, response):
        key = (path, op["client"], op.get("slot", 0))
        if key not in self.streams:
            self.streams[key] = Stream(self, path, op["client"], response)
        return self.streams[key]

    def seen(self):
        """What the streams have brought: {(stream, watch id): [item…]}."""
        out = {}
        with self.lock:
            for key, s in self.streams.items():
                for sub, item in s.got:
                    out.setdefault((key, sub), []).append(item)
        return out

    def faults(self):
        return [f for s in self.streams.values() for f in s.faults]

    def forget_connections(self):
        for s in self.streams.values():
            s.close()
        for future, _, _ in self.pending.values():
            if not isinstance(future, list):
                future.cancel()
        for c in self.channels.values():
            c.close()
        self.channels, self.streams, self.pending = {}, {}, {}

    def stop(self):
        self.forget_connections()
        self.server.stop()


MASKED = {("StatusResponse", f) for f in ("version", "dbSize", "dbSizeInUse", "raftIndex", "raftTerm",
                                          "raftAppliedIndex")} | {("HashResponse", "hash"),
                                                                  ("AuthenticateResponse", "token")}
SAVED = {"grant": lambda m: get(m, "ID"), "lock": lambda m: get(m, "key"),
         "campaign": lambda m: {k: v for k, v in get(m, "leader", [])}}
INNER = {}


def _inner():
    from etcd_wire import FIELDS
    for message, fields in FIELDS.items():
        for name, (_, kind) in fields.items():
            if kind not in ("i", "b", "s", "p"):
                INNER[message, name] = kind


_inner()


def first_difference(a, b):
    """Of two dicts of lists: (key, position, item, item) where one has another item, or None; then the shorter is a
    beginning of the longer."""
    for key in set(a) | set(b):
        for i, (x, y) in enumerate(zip(a.get(key, []), b.get(key, []))):
            if x != y:
                return key, i, x, y
    return None


def show(x):
    if isinstance(x, list) and (not x or isinstance(x[0], tuple)):
        return text_of(x) or "(empty)"
    return str(x)


class Pair:
    """Both servers. step() gives an operation to both and tells how their answers differ, or None."""

    def __init__(self, version, allow=None):
        self.version, self.allow = version, allow or (lambda *_: False)
        self.ours = self.theirs = None
        # Costs that make etcd's own answers slow; they do not change what is answered.
        quick = ["--bcrypt-cost", "4"] + (["--unsafe-no-fsync"] if version.startswith("3.5") else [])
        self.theirs = Side("etcd", version, quick)
        try:
            self.ours = Side("kfarm", extra=["--bcrypt-cost", "4"])
        except BaseException:
            self.theirs.stop()
            raise
        self.unsettled = 0  # until then etcd may still be bringing a watch up to date
        self.rev, self.compacted, self.compactions = 1, 0, set()

    def both(self, fn):
        return fn(self.ours), fn(self.theirs)

    def stop(self):
        self.both(lambda s: s.stop())

    def step(self, op):
        if "call" in op:
            return self.unary(op)
        return getattr(self, "do_" + next(k for k in op if hasattr(self, "do_" + k)))(op)

    def unary(self, op):
        if op["call"] in ("compact", "auth_enable", "auth_disable") or op.get("start"):
            self.settle()
            wrong = self.do_sync(op)
            if wrong:
                return wrong
        a, b = self.both(lambda s: s.unary(op))
        if b and b[0] == "error" and b[1] in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            return f"etcd itself failed: {b}"
        if op.get("start"):
            time.sleep(0.05)
            return None
        if a != b and not self.allow(self.version, op, a, b, self):
            return f"--- kfarm:\n{show(a)}\n--- etcd {self.version}:\n{show(b)}"
        if b and b[0] != "error":
            self.rev = max(self.rev, get(get(b, "header", []), "revision"))
            if op["call"] == "auth_disable" and self.version == "3.4":  # it refuses tokens even while it needs none,
                self.both(lambda s: s.tokens.clear())                   # those of open streams too
                for key in list(self.theirs.streams):
                    self.both(lambda side: side.streams.pop(key).close())
            if op["call"] == "compact":
                self.compacted = max(self.compacted, op["msg"].get("revision", 0))
                self.compactions.add(op["msg"].get("revision", 0))
        return None

    # ---- streams ----

    def settle(self):
        time.sleep(max(0, self.unsettled - time.monotonic()))

    def wait(self, fn, seconds=PATIENCE):
        """Until fn is true: told by the streams' threads."""
        end = time.monotonic() + seconds
        while not fn():
            for s in (self.ours, self.theirs):
                s.changed.clear()
            if fn():
                return True
            if time.monotonic() > end:
                return False
            (self.ours if self.ours.seen() != self.theirs.seen() else self.theirs).changed.wait(0.02)
        return True

    def state(self):
        a, b = self.both(lambda s: s.seen() | {("call", n): [v] for n, v in s.finished().items()})
        for key, (answer,) in [(k, v) for k, v in a.items() if k[0] == "call"]:
            if key in b and self.allow(self.version, {"call": answer[0]}, answer[1], b[key][0][1], self):
                a[key] = b[key]
                self.theirs.names.pop(self.theirs.pending[key[1]][1].get("save"), None)
        if self.version == "3.4":  # it forgets a deletion at a revision that was compacted at (its issues 18089, 19179)
            a, b = ({key: [i for i in items if not self.forgotten(i)] for key, items in x.items()} for x in (a, b))
        return a, b

    def forgotten(self, item):
        return isinstance(item, list) and isinstance(item[0], tuple) and get(item, "type") == 1 and \
            get(get(item, "kv", []), "mod_revision") in self.compactions

    def do_sync(self, op):
        """Until both have brought the same; another item at the same place is a difference at once."""
        found = []

        def same():
            a, b = self.state()
            d = first_difference(a, b)
            if d:
                found.append(f"stream {d[0]}, item {d[1]}\n--- kfarm:\n{show(d[2])}\n--- etcd {self.version}:\n{show(d[3])}")
                return True
            return {k: len(v) for k, v in a.items() if v} == {k: len(v) for k, v in b.items() if v}
        if not self.wait(same):
            a, b = self.state()
            key = next(k for k in set(a) | set(b) if len(a.get(k, [])) != len(b.get(k, [])))
            n = min(len(a.get(key, [])), len(b.get(key, [])))
            return (f"stream {key} has {n} items of both, then\n--- kfarm:\n{[show(x) for x in a.get(key, [])[n:n + 3]]}"
                    f"\n--- etcd {self.version}:\n{[show(x) for x in b.get(key, [])[n:n + 3]]}")
        faults = self.ours.faults()
        self.leave_compacted()
        return found[0] if found else f"kfarm's stream: {faults[0]}" if faults else None

    def leave_compacted(self):
        """A watch that a compaction has cancelled stays in etcd's stream: its id is taken, cancelling it is answered, and
        progress requests are not any more. None of that is worth having, so both streams are left here."""
        for key, s in list(self.theirs.streams.items()):
            if any(isinstance(item, list) and get(item, "compact_revision") for _, item in s.got):
                self.both(lambda side: side.streams.pop(key).close())

    def send(self, op, path, response, request, fields, answers, seconds):
        """One message on a stream; then etcd has `seconds` for the answers that there may be."""
        def sent(side):
            s = side.stream(op, path, response)
            before = len(s.got)
            s.send(encode(request, fields, side.value_of))
            return lambda: sum(answers(k, v) for k, v in s.got[before:])
        _, theirs = self.both(sent)
        end = time.monotonic() + seconds
        while not theirs() and time.monotonic() < end:
            time.sleep(0.001)
        return self.do_sync(op)

    def do_watch(self, op):
        self.settle()
        if op["watch"].get("start_revision", 0) > 0:
            self.unsettled = time.monotonic() + 0.35
        return self.send(op, WATCH, "WatchResponse", "WatchRequest", {"create_request": op["watch"]},
                         lambda k, v: isinstance(v, list) and v[-1] is not None and k != "end" and
                         any(n in ("created", "canceled") for n, _ in v) or k == "end", 5)

    def do_cancel(self, op):
        self.settle()
        wrong = self.do_sync(op)
        return wrong or self.send(op, WATCH, "WatchResponse", "WatchRequest", {"cancel_request": {"watch_id": op["cancel"]}},
                                  lambda k, v: k == op["cancel"] or k == "end", 0.3 if op.get("known") else 0.05)

    def do_progress(self, op):
        self.settle()
        wrong = self.do_sync(op)
        if self.version == "3.4" and not self.watching(op):  # it answers for a stream that watches nothing, 3.5 does not
            return wrong
        return wrong or self.send(op, WATCH, "WatchResponse", "WatchRequest", {"progress_request": {}},
                                  lambda k, v: True, 0.3)

    def watching(self, op):
        s = self.theirs.streams.get((WATCH, op["client"], op["slot"]))
        heads = [item for _, item in s.got if isinstance(item, list)] if s else []
        return sum(get(h, "created") - get(h, "canceled") for h in heads)

    def do_keepalive(self, op):
        return self.send(op, KEEPALIVE, "LeaseKeepAliveResponse", "LeaseKeepAliveRequest", {"ID": op["keepalive"]},
                         lambda k, v: True, 5)

    def do_observe(self, op):
        self.settle()
        wrong = self.do_sync(op)
        if wrong:
            return wrong
        for s in (self.ours, self.theirs):
            one = s.stream(op, OBSERVE, "LeaderResponse")
            one.send(encode("LeaderRequest", {"name": op["observe"]}))
        time.sleep(0.15)
        return self.do_sync(op)

    def do_close(self, op):
        """The client ends a stream of watches."""
        self.settle()
        wrong = self.do_sync(op)
        for s in (self.ours, self.theirs):
            key = (WATCH, op["client"], op["slot"])
            if key in s.streams:
                s.streams.pop(key).close()
        return wrong

    def do_sleep(self, op):
        time.sleep(op["sleep"])
        return self.do_sync(op)

    def do_restart(self, op):
        self.settle()
        wrong = self.do_sync(op)
        if wrong:
            return wrong
        for s in (self.ours, self.theirs):
            s.forget_connections()
            s.tokens, s.restarted = {}, True
            s.server.stop(remove=False)
            s.server.start()
        return None

    def do_expire(self, op):
        """Waits until a lease of few seconds has run out on both: their next revision is then the same."""
        def revision(side):
            path, _, res = METHODS["range"]
            data = side.channel("admin").unary_unary(path)(encode("RangeRequest", {"key": b"x"}), timeout=PATIENCE,
                                                           metadata=side.metadata("admin"))
            return get(get(decode(res, data), "header"), "revision")
        before = revision(self.theirs)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and min(self.both(revision)) == before:
            time.sleep(0.05)
        a, b = self.both(revision)
        return None if a == b else f"revision after a lease has expired: kfarm {a}, etcd {b}"


def run_history(version, next_op, allow=None):
    """Gives new servers what next_op(pair) makes until it makes None. Returns (the operations, difference or None)."""
    pair, ops = Pair(version, allow), []
    try:
        while (op := next_op(pair)) is not None:
            ops.append(op)
            wrong = pair.step(op)
            if wrong:
                return ops, wrong
        time.sleep(0.3)  # what came too much would come now
        return ops, pair.do_sync({})
    finally:
        pair.stop()


def replay(version, ops, allow=None):
    it = iter(ops)
    return run_history(version, lambda _: next(it, None), allow)
