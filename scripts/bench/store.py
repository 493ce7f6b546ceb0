#!/usr/bin/python3
"""kfarm store beside etcd 3.5, in the same run, on the same disk, both durable: `name<TAB>value<TAB>target<TAB>verdict` lines.

store.py [short] [full] [SECTION…]: short is puts, reads, lists, watches, catchup and leases, and takes about five minutes;
full is memory, file and history, with a million keys, a GiB and a million revisions, and takes about six. Both servers run all
the time and are loaded in turn (kfarm, etcd, kfarm, …); figures are medians of the rounds. What is being done is told on stderr.
A section that fails is a row that says so, and the next one begins. Server CPU is user and system time of the server's
process: on a small machine it bounds what the wall clock shows."""
import json
import os
import shutil
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
ROUNDS, SECONDS = 2, 3
MOST = 240  # seconds for one run of the load; a server that takes longer has failed
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
        self.servers, self.runs = {}, []
        try:
            for kind in KINDS:
                os.mkdir(os.path.join(self.dir, kind))
                self.servers[kind] = Server(kind, ["--quota-backend-bytes", str(8 << 30)], version="3.5",
                                            data=os.path.join(self.dir, kind))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for run in self.runs:
            run.kill()
        for s in self.servers.values():
            s.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def begin(self, kind, scenario, **options):
        s = self.servers[kind]
        args = [f"{k}={v}" for k, v in options.items()]
        progress(f"{kind}: {scenario} {' '.join(args)}")
        run = subprocess.Popen([LOAD, f"127.0.0.1:{s.port}", scenario, *args, f"pid={s.proc.pid}"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
        self.runs.append(run)
        return run

    def end(self, kind, run):
        what = f"{kind}: {' '.join(run.args[2:])}"
        try:
            out, said = run.communicate(timeout=MOST)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{what}: not done after {MOST} s") from None
        self.runs.remove(run)
        if self.servers[kind].proc.poll() is not None:
            raise RuntimeError(f"{what}: the server ended")
        out = json.loads(out) if run.returncode == 0 else None
        if not out or out["failed"]:
            raise RuntimeError(f"{what}: {out['failed']} calls failed" if out else f"{what}: {said.strip()[-200:]}")
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
            + (f"reads p99 {k['read_p99_ms']:.1f} ms, " if 0 < k.get("reads", 0) < k["ops"] else "")
            + f"{1000 * k['cpu_s_per_1000']:.0f} ms CPU/1,000")
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
        rates("80 % reads, 20 % puts, 100 clients", p.both("mixed", conns=100, keys=10000, seconds=SECONDS), 2, True)
        rates("reads of one key, 100 clients", p.both("get", conns=100, keys=10000, seconds=SECONDS), 2, True)
        rates("ranges of 10,000 keys, 4 clients", p.both("range", conns=4, seconds=SECONDS), 2, True)
        for kind in KINDS:
            p.load(kind, "fill", count=100000, keys=100000, conns=4)
        rates("100,000 keys in pages of 500, 4 clients", p.both("page", conns=4, keys=100000, batch=500, seconds=SECONDS), 2, True,
              "pages/s")
        rates("counts of 100,000 keys, 4 clients", p.both("count", conns=4, seconds=SECONDS), 2, True)
        past = {kind: p.revision(kind) for kind in KINDS}
        for kind in KINDS:
            p.load(kind, "fill", count=150000, keys=150000, conns=4)
        r = {kind: p.load(kind, "count", conns=4, seconds=SECONDS, **{"from": past[kind]}) for kind in KINDS}
        rates("counts of these at a revision before 100,000 were changed and 50,000 made, 4 clients", r, 1, True)


def lists():
    with Pair() as p:
        for conns in (100, 1000):
            rates(f"create, then list, {conns:,} clients", p.both("list", conns=conns, seconds=SECONDS), 2, True)
        objects = 5000
        r = {kind: p.load(kind, "churn", conns=1000, watches=25, objects=objects) for kind in KINDS}
        name = f"{objects:,} objects created, updated twice, deleted by 1,000 clients, 25 watches"
        rates(name, r, 2, unit="writes/s")
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
                r = p.both("watch", rounds=1, watches=1000, wconns=wconns, wper=wper, rate=rate, conns=10,
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
        rates("100,000 leases granted, 100 clients", r, 1)
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
    count = 1000000
    with Pair() as p:
        for kind in KINDS:
            p.load(kind, "fill", count=count, keys=count, conns=4, streams=4)
        time.sleep(5)
        name = f"{count:,} keys of 256 bytes"
        smaller(f"{name}, RSS", {kind: p.rss(kind) for kind in KINDS}, 0.25)
        smaller(f"{name}, file", {kind: p.file_mib(kind) for kind in KINDS}, 1)
        smaller(f"{name}, restart to serving", {kind: p.restart_ms(kind) for kind in KINDS}, 1, "ms")


def file():
    count = 1000000
    with Pair() as p:
        for kind in KINDS:
            p.load(kind, "fill", count=count, keys=count, value=950, batch=50, conns=4, streams=4)
        size = p.file_mib("kfarm")
        smaller(f"open of a file of {size / 1024:.2f} GiB", {kind: p.restart_ms(kind) for kind in KINDS}, 1, "ms")


def beside(p, kind, name, doing, part, seconds):
    """A client that puts, while something goes on: how many it still does, and how long it had to wait at most."""
    before = p.load(kind, "put", keys=10000, seconds=SECONDS)
    run = p.begin(kind, "put", keys=10000, seconds=seconds)
    began, cpu = time.monotonic(), p.cpu_s(kind)
    doing()
    took = time.monotonic() - began
    during = p.end(kind, run)
    rate = during["rate"] / before["rate"]
    row(f"{name} beside 1 client: {SAY[kind]}",
        f"{took:.1f} s, {p.cpu_s(kind) - cpu:.1f} s CPU with the puts; puts {before['rate']:,.0f} -> {during['rate']:,.0f} /s, "
        f"p99 {before['p99_ms']:.2f} -> {during['p99_ms']:.2f} ms, max {during['max_ms']:.0f} ms",
        f">= {part} of the rate" if kind == "kfarm" else "-", rate >= part if kind == "kfarm" else None)
    return during["max_ms"]


def stall(name, v):
    row(f"{name}: longest put, kfarm / etcd", f"{v['kfarm']:.0f} / {v['etcd']:.0f} ms", "<= 1", v["kfarm"] <= v["etcd"])


def history():
    count = 1000000
    name = f"{count:,} revisions of 10,000 keys"
    with Pair() as p:  # without the puts below: the faster server would keep more revisions
        for kind in KINDS:
            p.load(kind, "fill", count=10000, keys=10000, conns=4)
            p.load(kind, "history", count=count, keys=10000, conns=4)
        smaller(f"{name}, file", {kind: p.file_mib(kind) for kind in KINDS}, 1)
        for kind in KINDS:  # nobody else is there
            p.load(kind, "compact", count=p.revision(kind))
        stall(f"{name}, compacted, then defragmentation", {
            kind: beside(p, kind, f"{name}, compacted, then defragmentation", lambda k=kind: p.load(k, "defrag"), 0.5, 5)
            for kind in KINDS})
    with Pair() as p:
        steps = {}
        for kind in KINDS:
            p.load(kind, "fill", count=10000, keys=10000, conns=4)
        steps["new"] = (p.both("put", conns=100, keys=10000, seconds=SECONDS), p.both("get", conns=100, keys=10000, seconds=SECONDS))
        for kind in KINDS:
            p.load(kind, "history", count=count, keys=10000, batch=1, **MANY)
        steps["old"] = (p.both("put", conns=100, keys=10000, seconds=SECONDS), p.both("get", conns=100, keys=10000, seconds=SECONDS))
        stall(f"{name}, compaction", {
            kind: beside(p, kind, f"{name}, compaction", lambda k=kind: p.load(k, "compact", count=p.revision(k)), 0.7, 8)
            for kind in KINDS})
        stall(f"{name}, the 5 s behind the compaction, in which kfarm gives pages back", {
            kind: p.load(kind, "put", keys=10000, seconds=5)["max_ms"] for kind in KINDS})
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


SHORT = ("puts", "reads", "lists", "watches", "catchup", "leases")
FULL = ("memory", "file", "history")


def main():
    asked = sys.argv[1:] or ["short", "full"]
    sections = [s for a in asked for s in {"short": SHORT, "full": FULL}.get(a, (a,))]
    for section in sections:
        if section not in SHORT + FULL:
            sys.exit(f"store.py: {section} is not a section")
    for section in sections:
        began = time.monotonic()
        try:
            globals()[section]()
        except (OSError, RuntimeError, ValueError, KeyError, subprocess.SubprocessError) as e:
            row(f"section {section}", f"failed: {' '.join(str(e).split())[:200]}", "all of it", False)
        progress(f"{section} took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
