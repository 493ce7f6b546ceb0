#!/usr/bin/python3
# timeout: 600
"""A disk that fills up, and one that turns read-only, under the released binary: writes get etcd's errors, reads and watches
go on, nothing acknowledged is lost, and it heals when there is room. The file systems are a tmpfs and small ext4 images,
mounted in a mount namespace of the server's own."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from store_lib import KFARM, Tap, free_port  # noqa: E402

try:
    import grpc  # noqa: F401
except ImportError:
    print("python3-grpcio is missing")
    sys.exit(77)
if os.geteuid() or subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
    print("needs root and mount namespaces")
    sys.exit(77)
from store_raw import Raw, fields, get, msg  # noqa: E402

FULL = ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")


class Disk:
    """A store whose data are on a file system of its own."""

    def __init__(self, mount):
        self.dir, self.mount, self.proc = tempfile.mkdtemp(prefix="kf-disk-"), mount, None
        os.mkdir(os.path.join(self.dir, "m"))
        self.start()

    def start(self):
        self.port = free_port()
        url, top = f"http://127.0.0.1:{self.port}", os.path.join(self.dir, "m")
        self.log = open(os.path.join(self.dir, "log"), "ab")
        self.proc = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c",
             f'{self.mount.format(dir=self.dir, top=top)} && exec "$@"', "sh", KFARM, "store", "--data-dir", f"{top}/d",
             "--listen-client-urls", url, "--advertise-client-urls", url, "--log-level", "warn"], stdout=self.log, stderr=self.log)
        self.raw = Raw(self.port)
        end = time.monotonic() + 60
        while self.raw.call("Maintenance/Status", timeout=2)[0] != "OK":
            assert time.monotonic() < end and self.proc.poll() is None, open(os.path.join(self.dir, "log")).read()[-2000:]
            time.sleep(0.05)

    def inside(self, *command):
        subprocess.run(["nsenter", "-t", str(self.proc.pid), "-m", *command], check=True, timeout=60)

    def put(self, key, n=100):
        return self.raw.call("KV/Put", [(1, key), (2, os.urandom(n // 2).hex())], timeout=60)[:2]

    def stop(self):
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(60)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        self.raw.close()

    def end(self):
        self.stop()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Watch:
    def __init__(self, raw, key, start=0):
        import queue
        self.q = queue.SimpleQueue()
        self.q.put(msg([(1, [(1, key), (3, start)])]))
        self.stream = raw.stream("Watch/Watch", iter(self.q.get, None), timeout=100)
        assert get(next(self.stream), 3) == 1

    def event(self):
        for body in self.stream:
            for no, ev in fields(body):
                if no == 11:
                    return get(get(ev, 2), 5)

    def end(self):
        self.q.put(None)
        self.stream.cancel()


def until_full(d):
    """Writes until the disk is full; what was acknowledged."""
    acked = []
    for i in range(100000):
        got = d.put("fill/%06d" % i, 20000)
        if got[0] != "OK":
            assert got == FULL, got
            return acked
        acked.append("fill/%06d" % i)
    raise AssertionError("it never fills")


def reads_go_on(d, acked):
    code, text, body = d.raw.call("KV/Range", [(1, "fill/"), (2, "fill0"), (8, 1)])
    assert code == "OK", (code, text)
    have = {get(v, 1).decode() for no, v in fields(body) if no == 2}
    assert have == set(acked), f"{len(have)} keys, {len(acked)} acknowledged"
    assert d.raw.call("Maintenance/Status")[0] == "OK"
    old = Watch(d.raw, acked[0], 2)  # a watch that reads the past from the file
    assert old.event()
    old.end()


def full(d, make_room):
    try:
        w = Watch(d.raw, "healed")
        acked = until_full(d)
        assert len(acked) > 20, len(acked)
        for _ in range(3):
            assert d.put("more", 20000) == FULL
        reads_go_on(d, acked)
        grant = d.raw.call("Lease/LeaseGrant", [(1, 100), (2, 7)])
        assert grant[0] in ("OK", "RESOURCE_EXHAUSTED"), grant
        make_room(d)
        end = time.monotonic() + 60
        while d.put("healed")[0] != "OK":
            assert time.monotonic() < end, d.put("healed")
            time.sleep(0.1)
        assert w.event()
        w.end()
        assert d.put("large", 1000000)[0] == "OK"
        reads_go_on(d, acked)
        assert d.raw.call("Maintenance/Alarm")[0] == "OK"
    finally:
        d.end()


def full_tmpfs():
    full(Disk("mount -t tmpfs -o size=6m kf {top}"), lambda d: d.inside("mount", "-o", "remount,size=60m", f"{d.dir}/m"))


EXT4 = "([ -e {dir}/img ] || { truncate -s 24M {dir}/img && mkfs.ext4 -q -m 0 {dir}/img; }) && mount -o loop {dir}/img {top}"


def ext4_mount():
    return EXT4.replace("{ truncate", "{{ truncate").replace("img; }", "img; }}")


def full_ext4():
    """Somebody else's file takes the room, and goes."""
    d = Disk(ext4_mount())
    d.inside("sh", "-c", f"head -c 12M /dev/zero >{d.dir}/m/other")
    full(d, lambda d: d.inside("rm", f"{d.dir}/m/other"))


def read_only():
    """What ext4 does when it finds an error: the file system turns read-only under the open files."""
    d = Disk(ext4_mount())
    try:
        acked = []
        for i in range(50):
            assert d.put("fill/%06d" % i)[0] == "OK"
            acked.append("fill/%06d" % i)
        w = Watch(d.raw, "healed")
        d.inside("mount", "-o", "remount,abort", f"{d.dir}/m")
        for i in range(3):
            code, text = d.put("lost/%d" % i)
            assert code in ("UNAVAILABLE", "INTERNAL", "DATA_LOSS") and "permission" not in text, (code, text)
        reads_go_on(d, acked)
        assert d.raw.call("KV/Range", [(1, "lost/"), (2, "lost0"), (9, 1)])[2].find(b"lost") < 0
        w.end()
        d.proc.kill()
        d.proc.wait()
        subprocess.run(["e2fsck", "-fy", f"{d.dir}/img"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
        d.start()
        reads_go_on(d, acked)
        code, _, body = d.raw.call("KV/Range", [(1, "lost/"), (2, "lost0"), (9, 1)])
        assert code == "OK" and get(body, 4, 0) == 0, "a write that was refused is there"
        assert d.put("healed")[0] == "OK"
    finally:
        d.end()


tap = Tap()
tap.run("a tmpfs that is full, and grows", full_tmpfs)
if os.path.exists("/dev/loop-control") and shutil.which("mkfs.ext4"):
    tap.run("an ext4 that is full, and gets room", full_ext4)
    tap.run("an ext4 that turns read-only", read_only)
tap.end()
