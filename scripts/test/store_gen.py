"""Random operations for store_history: a few keys, revisions near the interesting ones, every option, and values that are
wrong. Three kinds of histories: "kv" (keys, leases, watches, maintenance, restarts), "auth" (users that may do little),
"sync" (locks and elections of several clients)."""

KEYS = [b"a", b"aa", b"ab", b"b", b"b\x00", b"c", b"d/1", b"d/2", b"\xff", b"\xff\xff"]
ENDS = [b"\x00", b"b", b"c", b"d0", b"\xff", b"ab", b"a", b"d/2"]
PERM_ENDS = [b"b", b"b\x00", b"\x00", b"d0", b"", b"\xff", b"", b"e", b"\x00", b"", b"c", b"a"]
USERS, ROLES = ["root", "u1", "u2", "u3"], ["root", "r1", "r2", "r3"]
PASSWORDS = ["p1", "p2"]
BCRYPT_P1 = "$2a$04$J8vVUPWK3Hz9hfqMzzLxZeE9/tyHtdgPlc9PZhSQNJT2uCf3u9KMe"


class Gen:
    def __init__(self, rnd, kind, version, n):
        self.r, self.kind, self.version, self.left = rnd, kind, version, n
        self.pair = None
        self.newest = version == "3.5new"
        self.watches = {}  # (client, slot): ids that are alive
        self.grants = self.waits = self.observers = 0
        self.server_ids = self.chance(0.5)  # ids of leases that the servers choose make their hashes differ
        self.locks, self.leaders = [], []
        self.full, self.full_kind = False, 0
        self.first = {"kv": [], "auth": self.auth_start(), "sync": self.sync_start()}[kind]

    def __call__(self, pair):
        self.pair = pair
        if self.first:
            return self.first.pop(0)
        self.left -= 1
        return None if self.left < 0 else self.op()

    def chance(self, p):
        return self.r.random() < p

    def pick(self, *of):
        return self.r.choice(of)

    def client(self):
        return self.r.randint(1, 3)

    # ---- keys ----

    def key(self):
        return self.r.choice(KEYS) if not self.chance(0.015) else b""

    def interval(self, often):
        """A key and an end. Whether a user may read an interval that ends before it begins depends on the shape of
        etcd's tree of permissions, so users do not ask for such."""
        key, end = self.key(), self.r.choice(ENDS) if self.chance(often) else b""
        if self.kind == "auth" and end and end != b"\x00" and end <= key:
            end = b""
        return {"key": key, "range_end": end}

    def some_rev(self):
        rev, compacted = self.pair.rev, self.pair.compacted
        return self.pick(0, 0, 0, 0, self.r.randint(0, rev + 1), rev, max(1, rev - 1), compacted, compacted + 1,
                         self.r.randint(compacted, rev), -1)

    def lease(self):
        return ("ref", f"L{self.r.randint(1, self.grants)}") if self.grants and self.chance(0.2) else self.r.randint(1, 5)

    def range(self):
        q = self.interval(0.8) | {"revision": self.some_rev()}
        if self.chance(0.4):
            q["limit"] = self.pick(0, 1, 2, 3, 4, 100, -1)
        if self.chance(0.4) and self.kind != "sync":
            # Keys that are equal in what is sorted by come in the order of keys up to 12 of them, by the sort that etcd
            # uses: there are not more in these histories.
            # Unknown orders are left out: 3.6 refuses them (and kfarm), 3.5 sorts somehow or ends itself.
            q["sort_order"], q["sort_target"] = self.r.randint(0, 2), self.r.randint(0, 4)
        for bound in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if self.chance(0.08):
                q[bound] = self.r.randint(0, self.pair.rev + 1)
        q["keys_only"], q["count_only"] = self.chance(0.15), self.chance(0.15)
        q["serializable"] = self.chance(0.3)
        return q

    def put(self, txn=False):
        p = {"key": self.key(), "prev_kv": self.chance(0.3)}
        x = self.r.random()
        # etcd ends itself (3.4 and 3.5: "unexpected error during txn") when such a put of a transaction finds that its
        # key has been deleted by the transaction, so there only puts outside.
        if x < 0.06 and not txn:
            p["ignore_value"] = True
            p["value"] = self.pick(b"", b"", b"x")
            p["lease"] = self.pick(0, self.lease())
        elif x < 0.12 and not txn:
            p["ignore_lease"] = True
            p["lease"] = self.pick(0, 0, self.lease())
            p["value"] = b"il"
        else:
            p["value"] = self.pick(b"", b"v%d" % self.r.randint(0, 99), b"v%d" % self.r.randint(0, 99), b"\x00\xff")
            if self.chance(0.2):
                p["lease"] = self.lease()
        return p

    def delete(self):
        return self.interval(0.35) | {"prev_kv": self.chance(0.4)}

    def compare(self):
        c = self.interval(0.2) | {"result": self.r.randint(0, 3), "target": self.r.randint(0, 4)}
        if self.chance(0.02):
            c[self.pick("result", "target")] = self.pick(7, 9)
        n = self.pick(0, 1, 2, self.r.randint(0, self.pair.rev))
        target = c["target"] if not self.chance(0.03) else self.r.randint(0, 4)  # the union may say something else
        field = ["version", "create_revision", "mod_revision", "value", "lease"][target] if target < 5 else "version"
        if not self.chance(0.03):
            c[field] = self.pick(b"", b"il", b"v%d" % self.r.randint(0, 99)) if field == "value" else \
                self.pick(0, self.lease()) if field == "lease" else n
        return c

    def txn(self, depth=0):
        t = {"compare": [self.compare() for _ in range(self.pick(0, 1, 1, 2))], "success": [], "failure": []}
        for branch in (t["success"], t["failure"]):
            for _ in range(self.pick(0, 1, 1, 2, 3)):
                x = self.r.random()
                if x < 0.4:
                    branch.append({"request_put": self.put(True)})
                elif x < 0.6:
                    branch.append({"request_delete_range": self.delete()})
                elif x < 0.88 or depth > 2:
                    branch.append({"request_range": self.range()})
                elif x < 0.99 and not self.full and (self.newest or self.kind != "auth"):
                    branch.append({"request_txn": self.txn(depth + 1)})
                else:
                    branch.append({})
        if depth == 0 and self.chance(0.01):
            t["success"] = [{"request_range": {"key": b"a"}}] * self.pick(127, 128, 129)
        return t

    # ---- operations ----

    def call(self, name, msg=None, **more):
        return {"client": self.client(), "call": name, "msg": msg or {}} | more

    def op(self):
        return self.choose({"kv": self.kv_weights, "auth": self.auth_weights, "sync": self.sync_weights}[self.kind]())

    def choose(self, weights):
        x = self.r.random() * sum(w for w, _ in weights)
        for w, fn in weights:
            x -= w
            if x < 0:
                return fn()
        return weights[0][1]()

    def data_weights(self):
        return [(25, lambda: self.call("range", self.range())), (25, lambda: self.call("put", self.put())),
                (8, lambda: self.call("delete", self.delete())), (22, lambda: self.call("txn", self.txn()))]

    def lease_weights(self):
        return [(2.5, self.grant), (1.5, lambda: self.call("revoke", {"ID": self.pick(self.lease(), 77, 0)})),
                (2, lambda: self.call("ttl", {"ID": self.pick(self.lease(), self.lease(), 77), "keys": self.chance(0.7)})),
                (1.2, lambda: {"client": self.client(), "keepalive": self.pick(self.lease(), 77)})]

    def kv_weights(self):
        return self.data_weights() + self.lease_weights() + [
            (0.7, lambda: self.call("leases")), (1.5, self.compact), (2.5, self.watch), (1, self.cancel),
            (0.4, lambda: {"client": self.client(), "slot": self.pick(0, 1), "progress": 1}), (0.2, self.close), (1.8, self.maintenance), (0.05, lambda: self.again({"client": 1, "restart": 1})),
            (0.1, self.expiring)]

    def grant(self):
        ttl = self.pick(600, 5000, 70000, 9000000000, 9999999999)
        if self.chance(0.3) and self.server_ids:
            self.grants += 1
            return self.call("grant", {"TTL": self.pick(600, 5000)}, save=f"L{self.grants}")
        return self.call("grant", {"TTL": ttl, "ID": self.pick(*range(1, 6), -7)})

    def expiring(self):
        self.first = [self.call("put", {"key": self.r.choice(KEYS), "value": b"short", "lease": 9}),
                      self.call("put", {"key": self.r.choice(KEYS), "value": b"short", "lease": 9}), {"client": 1, "expire": 1},
                      self.call("ttl", {"ID": 9, "keys": True})]
        return self.call("grant", {"TTL": self.pick(0, -1, 1, 2), "ID": 9})

    def compact(self):
        # Not at 0: etcd takes that once, and then tells a never compacted store from one compacted at 0.
        rev, compacted = self.pair.rev, max(1, self.pair.compacted)
        return self.call("compact", {"revision": self.pick(self.r.randint(compacted, rev + 1), max(compacted, rev - 5),
                                                           rev if self.chance(0.3) else compacted + 1,
                                                           self.pick(-1, rev, compacted) if self.chance(0.3) else compacted + 2),
                                     "physical": self.chance(0.7)})

    def watch(self):
        client, slot = self.client(), self.pick(0, 1)
        w = self.interval(0.7) | {"prev_kv": self.chance(0.5), "fragment": self.chance(0.2),
                                  "progress_notify": self.chance(0.1)}
        if self.chance(0.1):
            w["key"], w["range_end"] = self.pick(b"", b"\x00"), b"\x00"
        if self.kind == "auth" and w["range_end"] == b"\x00":
            w["range_end"] = b""  # etcd lets a user watch from a key to the end who may only read the key
        past = max(0, self.some_rev()) if not self.newest else self.some_rev()  # older ones take -1 for the beginning
        w["start_revision"] = self.pick(0, 0, past, self.pair.compacted, self.pair.rev + self.r.randint(0, 4))
        if self.chance(0.25):
            w[self.pick("filters", "filters_unpacked")] = self.pick([0], [1], [0, 1], [0, 0], [7])
        if self.chance(0.2):
            w["watch_id"] = self.pick(1, 2, 3, 50, -1, -5)
        ids = self.watches.setdefault((client, slot), [])
        ids.append(w.get("watch_id") or len(ids))
        return {"client": client, "slot": slot, "watch": w}

    def cancel(self):
        live = [(k, i) for k, ids in self.watches.items() for i in ids]
        if not live or self.chance(0.15):
            return {"client": self.client(), "slot": 0, "cancel": self.pick(99, -1)}
        (client, slot), i = self.r.choice(live)
        return {"client": client, "slot": slot, "cancel": i, "known": True}

    def close(self):
        client, slot = self.client(), self.pick(0, 1)
        self.watches.pop((client, slot), None)
        return {"client": client, "slot": slot, "close": 1}

    def again(self, op):
        self.watches = {}
        return op

    def maintenance(self):
        rev = self.pair.rev
        return self.choose([
            (3, lambda: self.call("hashkv", {"revision": self.pick(0, rev, self.r.randint(0, rev + 1), self.pair.compacted, -1)})),
            (1, lambda: self.call("hash")), (2, lambda: self.call("status")), (0.5, lambda: self.call("defrag")),
            (1, lambda: self.call("member_list", {"linearizable": self.chance(0.5)})),
            (1, lambda: self.call("member_remove", {"ID": 4711})),
            (0.5, lambda: self.call("member_update", {"ID": 4711, "peerURLs": ["http://127.0.0.1:1"]})),
            (0.5, lambda: self.call("member_promote", {"ID": self.pick(4711, ("self",))})),
            (0.5, lambda: self.call("move_leader", {"targetID": self.pick(4711, ("self",), 0)})),
            # An unknown action or type ends etcd.
            (1, lambda: self.call("alarm", {"action": 0, "alarm": self.pick(0, 1, 2)})),
            (1, lambda: self.alarm(1)), (1.5, lambda: self.alarm(2)),
            (0.7, lambda: self.call("downgrade", {"action": self.pick(0, 2, 9), "version": self.pick("3.5.0", "x", "3.3.0", "4.0.0", "3.5", "")})),
            (0.3, lambda: self.call("nothing"))])

    def alarm(self, action):
        kind = self.pick(0 if self.version != "3.4" else 1, 1, 1, 2)  # 3.4 raises NONE and does not start again
        if action == 1 and self.full:
            action = 2  # of two alarms etcd obeys the one that was raised later
        if kind:  # the puts of nested transactions escape etcd's quota, so there are none while it stands
            self.full = action == 1 or (self.full and self.full_kind != kind)
            self.full_kind = kind if action == 1 else self.full_kind
        return self.call("alarm", {"action": action, "alarm": kind, "memberID": self.pick(0, ("self",))})

    # ---- users ----

    def auth_start(self):
        def as_(client, call, **msg):
            return {"client": client, "call": call, "msg": msg}
        ops = [as_(0, "user_add", name=u, password="p1") for u in ("root", "u1", "u2")]
        ops += [as_(0, "role_add", name=r) for r in ("root", "r1", "r2")]
        ops += [as_(0, "role_grant", name="r1", perm={"permType": 2, "key": b"a", "range_end": b"b"}),
                as_(0, "role_grant", name="r2", perm={"permType": 0, "key": b"\x00", "range_end": b"\x00"}),
                as_(0, "user_grant", user="root", role="root"), as_(0, "user_grant", user="u1", role="r1"),
                as_(0, "user_grant", user="u2", role="r2"), as_(0, "put", key=b"a", value=b"1"), as_(0, "auth_enable")]
        return ops + [as_(i, "authenticate", name=u, password="p1") for i, u in enumerate(("root", "u1", "u2", "u1"))]

    def auth_weights(self):
        def user():
            return self.r.choice(USERS + ["", "nobody"])

        def role():
            return self.r.choice(ROLES + ["", "none"])

        def perm():
            # One end for each key: of two intervals that begin alike etcd finds only the first again.
            key, end = self.r.choice(list(zip(KEYS + [b"", b"d/3"], PERM_ENDS)))
            if self.version == "3.4" and (not key or end == b"a"):  # it takes what is not an interval
                key, end = b"a", b"b"
            return {"permType": self.pick(0, 1, 2, 2), "key": key, "range_end": end}

        def admin(name, msg=None):
            return {"client": 0 if self.chance(0.8) else self.client(), "call": name, "msg": msg or {}}

        def token():
            i = self.r.randint(0, 3)
            who = ("root", "u1", "u2", "u1")[i] if self.chance(0.8) else user()
            return {"client": i, "call": "authenticate", "msg": {"name": who, "password": self.r.choice(PASSWORDS)}}

        def add():
            msg = {"name": user(), "password": self.pick("p1", "p2", "")}
            if self.chance(0.2):
                msg["options"] = {"no_password": self.chance(0.7)}
            if self.chance(0.15) and self.version != "3.4":
                msg["hashedPassword"] = self.pick(BCRYPT_P1, "nonsense")
            return msg
        # Up to 3.5.27 these were open to everybody, as were nested transactions and the keys of other people's leases.
        open_once = self.lease_weights() + [(1, self.maintenance), (0.5, self.compact), (0.7, lambda: self.call("leases"))]
        return self.data_weights() + [
            (5, token), (2, lambda: admin("user_add", add())), (1, lambda: admin("user_delete", {"name": user()})),
            (1.5, lambda: self.call("user_get", {"name": user()})), (1.5, lambda: admin("user_get", {"name": user()})),
            (1, lambda: admin("user_list")), (1, lambda: admin("role_list")),
            (1.5, lambda: admin("user_password", {"name": user(), "password": self.pick("p1", "p1", "p2", "")})),
            (3, lambda: admin("user_grant", {"user": user(), "role": role()})),
            (1, lambda: admin("user_revoke", {"name": user(), "role": role()})),
            (2, lambda: admin("role_add", {"name": role()})), (0.7, lambda: admin("role_delete", {"role": role()})),
            (2, lambda: admin("role_get", {"role": role()})), (1, lambda: self.call("role_get", {"role": role()})),
            (4, lambda: admin("role_grant", {"name": role(), "perm": perm()})),
            (1.5, lambda: admin("role_revoke", {"role": role(), "key": self.r.choice(KEYS + [b""]),
                                                   "range_end": self.pick(b"", self.r.choice(ENDS))})),
            (0.6, lambda: admin("auth_disable")), (1.2, lambda: admin("auth_enable")),
            (1, lambda: admin("auth_status")), (2, self.watch), (0.5, self.cancel), (0.2, self.close),
            (0.04, lambda: self.again({"client": 1, "restart": 1}))] + (open_once if self.newest else [])

    # ---- locks and elections ----

    def sync_start(self):
        return [{"client": 1, "call": "grant", "msg": {"ID": i, "TTL": 600}} for i in range(1, 6)]

    def sync_weights(self):
        return [(6, self.lock), (6, self.unlock), (6, self.campaign), (6, self.resign),
                (4, lambda: self.call("proclaim", {"leader": self.leader(), "value": b"p%d" % self.r.randint(0, 9)})),
                (4, lambda: self.call("leader", {"name": self.name()})),
                (1, self.observe),
                (2, lambda: self.call("range", {"key": b"\x00", "range_end": b"\x00"})),
                (2, lambda: self.call("put", {"key": self.pick(b"n/x", b"m"), "value": b"1", "lease": self.pick(0, 0, 1)})),
                (1, lambda: self.call("revoke", {"ID": self.r.randint(1, 5)})),
                (3, lambda: self.call("grant", {"ID": self.r.randint(1, 5), "TTL": 600})), (1, self.watch)]

    def name(self):
        return self.pick(b"m", b"n", b"n")

    def observe(self):
        self.observers += 1
        return {"client": self.client(), "slot": self.observers, "observe": self.name()}

    def lock(self):
        self.waits += 1
        self.locks.append(f"K{self.waits}")
        return self.call("lock", {"name": self.name(), "lease": self.pick(*range(1, 6), 88)}, start=f"w{self.waits}",
                         save=f"K{self.waits}")

    def unlock(self):
        if not self.locks or self.chance(0.1):
            return self.call("unlock", {"key": self.pick(b"", b"none")})
        return self.call("unlock", {"key": ("ref", self.locks.pop(self.r.randrange(len(self.locks))))})

    def campaign(self):
        self.waits += 1
        self.leaders.append(f"E{self.waits}")
        return self.call("campaign", {"name": self.name(), "lease": self.pick(*range(1, 6), 88), "value": b"c%d" % self.waits},
                         start=f"w{self.waits}", save=f"E{self.waits}")

    def leader(self):
        if not self.leaders or self.chance(0.1):
            return {"name": b"n", "key": b"n/1", "rev": self.pick(0, 5), "lease": self.pick(1, 88)}
        return ("ref", self.r.choice(self.leaders))

    def resign(self):
        return self.call("resign", {"leader": self.leader()})
