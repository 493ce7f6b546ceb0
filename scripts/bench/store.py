#!/usr/bin/python3
"""kfarm store beside etcd 3.5, in the same run, on the same disk, both durable: `name<TAB>value<TAB>target<TAB>verdict` lines.

store.py [short|full] [SECTION…]: short takes about seven minutes, full about twenty, of which memory, file and history (a
million keys, a GiB, a million revisions) take ten. Sections: puts, reads, lists, watches, catchup, leases, memory, file,
history. Both servers run all the time and are loaded in turn (kfarm, etcd, kfarm, …); figures are medians of the rounds. What
is being done is told on stderr. Server CPU is user and system time of the server's process: on a small machine it bounds what the wall clock shows."""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../test"))
from store_lib import Server  # noqa: E402

LOAD = os.path.join(HERE, "../../build/etcdload")
FULL = "full" in sys.argv[1:]
ROUNDS, SECONDS = (3, 5) if FULL else (2, 3)
MANY = {"conns": 10, "streams": 100}  # to load quickly
KINDS = ("kfarm", "etcd")
BEGAN = time.monotonic()
SAY = {"kfarm": "kfarm", "etcd": "etcd 3.5"}


def row(name, value, target="-", good=None):
    print(f"{name}\t{value}\t{target}\t{'' if good is None else 'pass' if good else 'MISS'}", flush=True)


def progress(text):
    print(f"-- {time.monotonic() - BEGAN:5.0f} s  {text}", file=sys.stderr, flush=True)


class Pair:
    """A server of each kind on new data; load() runs a scenario on one of them."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="bench-store-", dir=os.path.join(HERE, "../../build"))
        self.servers = {}
        for kind in KINDS:
            os.mkdir(os.path.join(self.dir, kind))
            self.servers[kind] = Server(kind, ["--quota-backend-bytes", str(8 << 30)], version="3.5",
                                        data=os.path.join(self.dir, kind))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for s in self.servers.values():
            s.stop()
        os.rmdir(self.dir)

    def begin(self, kind, scenario, **options):
        s = self.servers[kind]
        args = [f"{k}={v}" for k, v in options.items()]
        progress(f"{kind}: {scenario} {' '.join(args)}")
        return subprocess.Popen([LOAD, f"127.0.0.1:{s.port}", scenario, *args, f"pid={s.proc.pid}"], stdout=subprocess.PIPE)

    def end(self, kind, run):
        out = json.loads(run.communicate(timeout=3000)[0])
        if run.returncode or out["failed"]:
            raise RuntimeError(f"{kind}: {run.args}: {out['failed']} calls failed")
        return out

    def load(self, kind, scenario, **options):
        return self.end(kind, self.begin(kind, scenario, **options))

    def both(self, scenario, rounds=ROUNDS, **options):
        """Medians of every figure, by kind; the kinds take turns."""
        runs = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind in KINDS:
                runs[kind].append(self.load(kind, scenario, **options))
        return {kind: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for kind, rs in runs.items()}

    def rss(self, kind, field="VmRSS"):
        with open(f"/proc/{self.servers[kind].proc.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith(field)) / 1024

    def cpu_s(self, kind):
        with open(f"/proc/{self.servers[kind].proc.pid}/stat") as f:
            return sum(int(v) for v in f.read().rsplit(")", 1)[1].split()[11:13]) / os.sysconf("SC_CLK_TCK")

    def file_mib(self, kind):
        """What the data directory takes on disk; etcd's own write-ahead log is not counted, which is of fixed size."""
        top = os.path.join(self.dir, kind, "d")
        paths = [os.path.join(d, f) for d, _, fs in os.walk(top) for f in fs if kind == "kfarm" or f == "db"]
        return sum(os.stat(p).st_blocks for p in paths) / 2048

    def restart_ms(self, kind):
        s = self.servers[kind]
        progress(f"{kind}: restart")
        s.stop(remove=False)
        began = time.monotonic()
        s.start()
        return (time.monotonic() - began) * 1000

    def revision(self, kind):
        body = json.dumps({"key": "AA=="}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.servers[kind].port}/v3/kv/range", body, timeout=20) as r:
            return int(json.load(r)["header"]["revision"])


def rates(name, r, target=None, p99=False, unit="/s"):
    for kind in KINDS:
        k = r[kind]
        row(f"{name}: {SAY[kind]}", f"{k['rate']:,.0f} {unit}, p50 {k['p50_ms']:.2f}, p99 {k['p99_ms']:.1f} ms, "
            f"{1000 * k['cpu_s_per_1000']:.0f} ms CPU/1,000")
    ratio = r["kfarm"]["rate"] / r["etcd"]["rate"]
    row(f"{name}: kfarm / etcd", f"{ratio:.2f}", f">= {target}" if target else "-", ratio >= target if target else None)
    if p99:
        ratio = r["kfarm"]["p99_ms"] / r["etcd"]["p99_ms"]
        row(f"{name}: p99, kfarm / etcd", f"{ratio:.2f}", "<= 1", ratio <= 1)


def puts():
    with Pair() as p:
        time.sleep(3)
        for kind in KINDS:
            rss = p.rss(kind)
            row(f"idle RSS: {SAY[kind]}", f"{rss:.1f} MiB", "<= 6 MiB" if kind == "kfarm" else "-",
                rss <= 6 if kind == "kfarm" else None)
        for conns, streams, what in ((1, 1, "1 client"), (100, 1, "100 clients"), (1000, 1, "1,000 clients"),
                                     (1, 1000, "1,000 streams of 1 connection")):
            rates(f"durable puts of 256 bytes, {what}", p.both("put", conns=conns, streams=streams, seconds=SECONDS), 2, True)


def reads():
    with Pair() as p:
        for kind in KINDS:
            p.load(kind, "fill", count=10000, keys=10000, conns=4)
        rates("80 % reads, 20 % puts, 100 clients", p.both("mixed", conns=100, keys=10000, seconds=SECONDS))
        rates("reads of one key, 100 clients", p.both("get", conns=100, keys=10000, seconds=SECONDS))
        rates("ranges of 10,000 keys, 4 clients", p.both("range", conns=4, seconds=SECONDS))
        for kind in KINDS:
            p.load(kind, "fill", count=100000, keys=100000, conns=4)
        rates("100,000 keys in pages of 500, 4 clients", p.both("page", conns=4, keys=100000, batch=500, seconds=SECONDS), unit="pages/s")
        rates("counts of 100,000 keys, 4 clients", p.both("count", conns=4, seconds=SECONDS))


def lists():
    with Pair() as p:
        for conns in (100, 1000):
            rates(f"create, then list, {conns:,} clients", p.both("list", conns=conns, seconds=SECONDS))
        objects = 10000 if FULL else 2000
        r = {kind: p.load(kind, "churn", conns=1000, watches=25, objects=objects) for kind in KINDS}
        name = f"{objects:,} objects created, updated twice, deleted by 1,000 clients, 25 watches"
        rates(name, r, unit="writes/s")
        watch_rows(name, r)


def watch_rows(name, r):
    for kind in KINDS:
        k = r[kind]
        row(f"{name}: {SAY[kind]}: events", f"{k['events']:,.0f} of {k['expected']:,.0f}, lag p50 {k['lag_p50_ms']:.1f}, "
            f"p99 {k['lag_p99_ms']:.1f} ms", "all" if kind == "kfarm" else "-",
            k["events"] == k["expected"] if kind == "kfarm" else None)
    row(f"{name}: p99 of the lag, kfarm / etcd", f"{r['kfarm']['lag_p99_ms'] / max(r['etcd']['lag_p99_ms'], 0.001):.3f}", "<= 1",
        r["kfarm"]["lag_p99_ms"] <= r["etcd"]["lag_p99_ms"])


def watches():
    with Pair() as p:
        for wconns, wper, what in ((1000, 1, "1,000 connections"), (10, 1, "10 connections, 1,000 streams"),
                                   (10, 100, "10 connections, 10 streams")):
            for rate in (100, 1000):
                r = p.both("watch", rounds=ROUNDS if FULL else 1, watches=1000, wconns=wconns, wper=wper, rate=rate, conns=10,
                           streams=10, seconds=SECONDS)
                name = f"1,000 watches of one prefix x {rate:,} puts/s, {what}"
                for kind in KINDS:
                    k = r[kind]
                    held = k["events_per_s"] > 950 * rate
                    row(f"{name}: {SAY[kind]}", f"{k['events_per_s']:,.0f} events/s, lag p50 {k['lag_p50_ms']:.1f}, p99 "
                        f"{k['lag_p99_ms']:.1f} ms, {k['cpu_us_per_event']:.2f} us CPU/event",
                        f"{1000 * rate:,} events/s" if kind == "kfarm" else "-", held if kind == "kfarm" else None)


def catchup():
    """Watches that start at an old revision, all at once, each put a revision of its own."""
    count = 20000
    with Pair() as p:
        for kind in KINDS:
            p.load(kind, "fill", count=count, keys=10000, batch=1, **MANY)
        for watches in (100, 1000):
            r = {kind: p.load(kind, "catchup", watches=watches, wconns=watches, count=count,
                              **{"from": p.revision(kind) - count + 1}) for kind in KINDS}
            name = f"{watches:,} watches start {count:,} events back"
            for kind in KINDS:
                k = r[kind]
                row(f"{name}: {SAY[kind]}", f"{k['rate']:,.0f} events/s, {k['cpu_us_per_event']:.2f} us CPU/event, RSS peak "
                    f"{p.rss(kind, 'VmHWM'):.0f} MiB", "all" if kind == "kfarm" else "-",
                    k["events"] == k["expected"] if kind == "kfarm" else None)
            ratio = r["kfarm"]["rate"] / r["etcd"]["rate"]
            row(f"{name}: kfarm / etcd", f"{ratio:.2f}", ">= 1", ratio >= 1)


def leases():
    with Pair() as p:
        before = {kind: p.rss(kind) for kind in KINDS}
        r = {kind: p.load(kind, "lease", count=100000, conns=100) for kind in KINDS}
        rates("100,000 leases granted, 100 clients", r)
        for kind in KINDS:
            row(f"100,000 leases, RSS: {SAY[kind]}", f"{p.rss(kind):.1f} MiB ({p.rss(kind) - before[kind]:+.1f})")
        rates("keep-alives, 100 streams", p.both("keepalive", conns=10, streams=10, count=100000, seconds=SECONDS))
        for kind in KINDS:
            row(f"restart to serving with 100,000 leases: {SAY[kind]}", f"{p.restart_ms(kind):,.0f} ms")


def smaller(name, v, factor, unit="MiB"):
    for kind in KINDS:
        row(f"{name}: {SAY[kind]}", f"{v[kind]:,.1f} {unit}")
    part = v["kfarm"] / v["etcd"]
    row(f"{name}: kfarm / etcd", f"{part:.3f}", f"<= {factor}", part <= factor)


def memory():
    count = 1000000 if FULL else 250000
    with Pair() as p:
        for kind in KINDS:
            p.load(kind, "fill", count=count, keys=count, conns=4, streams=4)
        time.sleep(5)
        name = f"{count:,} keys of 256 bytes"
        smaller(f"{name}, RSS", {kind: p.rss(kind) for kind in KINDS}, 0.25)
        smaller(f"{name}, file", {kind: p.file_mib(kind) for kind in KINDS}, 1)
        smaller(f"{name}, restart to serving", {kind: p.restart_ms(kind) for kind in KINDS}, 1, "ms")


def file():
    count = 1000000 if FULL else 250000
    with Pair() as p:
        for kind in KINDS:
            p.load(kind, "fill", count=count, keys=count, value=950, batch=50, conns=4, streams=4)
        size = p.file_mib("kfarm")
        smaller(f"open of a file of {size / 1024:.2f} GiB", {kind: p.restart_ms(kind) for kind in KINDS}, 1, "ms")


def compaction(p, kind, name):
    """Beside one client that puts."""
    before = p.load(kind, "put", keys=10000, seconds=SECONDS)
    run = p.begin(kind, "put", keys=10000, seconds=2 * SECONDS)
    began, cpu, revision = time.monotonic(), p.cpu_s(kind), p.revision(kind)
    p.load(kind, "compact", count=revision)
    took = time.monotonic() - began
    during = p.end(kind, run)
    rate = during["rate"] / before["rate"]
    row(f"{name}, compaction beside 1 client: {SAY[kind]}",
        f"{took:.1f} s, {p.cpu_s(kind) - cpu:.1f} s CPU with the puts; puts {before['rate']:,.0f} -> {during['rate']:,.0f} /s, "
        f"p99 {before['p99_ms']:.2f} -> {during['p99_ms']:.2f} ms, max {during['max_ms']:.0f} ms",
        ">= 0.7 of the rate" if kind == "kfarm" else "-", rate >= 0.7 if kind == "kfarm" else None)


def history():
    count = 1000000 if FULL else 200000
    name = f"{count:,} revisions of 10,000 keys"
    with Pair() as p:  # without the puts below: the faster server would keep more revisions
        for kind in KINDS:
            p.load(kind, "fill", count=10000, keys=10000, conns=4)
            p.load(kind, "history", count=count, keys=10000, conns=4)
        smaller(f"{name}, file", {kind: p.file_mib(kind) for kind in KINDS}, 1)
    with Pair() as p:
        steps = {}
        for kind in KINDS:
            p.load(kind, "fill", count=10000, keys=10000, conns=4)
        steps["new"] = (p.both("put", conns=100, keys=10000, seconds=SECONDS), p.both("get", conns=100, keys=10000, seconds=SECONDS))
        for kind in KINDS:
            p.load(kind, "history", count=count, keys=10000, batch=1, **MANY)
        steps["old"] = (p.both("put", conns=100, keys=10000, seconds=SECONDS), p.both("get", conns=100, keys=10000, seconds=SECONDS))
        for kind in KINDS:
            compaction(p, kind, name)
        time.sleep(5)
        smaller(f"{name}, compacted, file", {kind: p.file_mib(kind) for kind in KINDS}, 1)
        smaller(f"{name}, compacted, RSS", {kind: p.rss(kind) for kind in KINDS}, 1)
        steps["compacted"] = (p.both("put", conns=100, keys=10000, seconds=SECONDS),
                              p.both("get", conns=100, keys=10000, seconds=SECONDS))
        for i, what in enumerate(("puts", "reads")):
            for kind in KINDS:
                v = [steps[s][i][kind] for s in ("new", "old", "compacted")]
                worst = min(v[1]["rate"], v[2]["rate"]) / v[0]["rate"]
                cpu = max(v[1]["cpu_s_per_1000"], v[2]["cpu_s_per_1000"]) / v[0]["cpu_s_per_1000"]
                row(f"{what}, 100 clients: new, with {name}, compacted: {SAY[kind]}",
                    " ".join(f"{x['rate']:,.0f}" for x in v) + f" /s, CPU x {cpu:.2f}", ">= 0.9 of new" if kind == "kfarm" else "-",
                    worst >= 0.9 if kind == "kfarm" else None)


if __name__ == "__main__":
    sections = [a for a in sys.argv[1:] if a not in ("short", "full")]
    for section in sections or ("puts", "reads", "lists", "watches", "catchup", "leases", "memory", "file", "history"):
        began = time.monotonic()
        globals()[section]()
        progress(f"{section} took {time.monotonic() - began:.0f} s")
