"""Namespaces, packets and a running `kfarm netboot` for the tests in the folder above. Not a test itself.

Two namespaces joined by a cable: the server's (interface `srv`, 10.77.0.1/24) and the client's (`cli`). DHCP
packets are built and read here by hand, so that the server is not checked with its own code."""
import ctypes
import ipaddress
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

KFARM = os.environ.get("KFARM", os.path.join(os.path.dirname(__file__), "../../../build/kfarm"))
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
BROADCAST = "255.255.255.255"


def run(*argv, **kw):
    kw.setdefault("check", True)
    return subprocess.run(argv, capture_output=True, text=True, timeout=kw.pop("timeout", 60), **kw)


def wait(what, fn, seconds=60):
    """Waits until fn() is true; a machine under load is slow, so the limit is wide."""
    end = time.monotonic() + seconds
    while not fn():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ip(text):
    return socket.inet_aton(text)


class Dhcp:
    """One DHCP message."""

    def __init__(self, kind, hw, **opts):
        self.op, self.xid, self.secs, self.flags = 1, random.getrandbits(32), 0, 0
        self.ciaddr = self.yiaddr = self.siaddr = self.giaddr = "0.0.0.0"
        self.hw, self.file = hw, ""
        self.opts = {53: bytes([kind])} if kind else {}
        for key, value in opts.items():
            if key.startswith("o"):
                self.opts[int(key[1:])] = value if isinstance(value, bytes) else ip(value)
            else:
                setattr(self, key, value)

    def bytes(self):
        b = struct.pack("!BBBBIHH", self.op, 1, 6, 0, self.xid, self.secs, self.flags)
        b += ip(self.ciaddr) + ip(self.yiaddr) + ip(self.siaddr) + ip(self.giaddr)
        b += mac(self.hw) + bytes(10) + bytes(64) + bytes(128) + b"\x63\x82\x53\x63"
        for code, value in self.opts.items():
            for i in range(0, max(len(value), 1), 255):
                b += bytes([code, len(value[i:i + 255])]) + value[i:i + 255]
        return (b + b"\xff").ljust(300, b"\0")

    @classmethod
    def parse(cls, b):
        m = cls(0, "00:00:00:00:00:00")
        m.op, _, _, _, m.xid, m.secs, m.flags = struct.unpack("!BBBBIHH", b[:12])
        m.ciaddr, m.yiaddr, m.siaddr, m.giaddr = (socket.inet_ntoa(b[i:i + 4]) for i in (12, 16, 20, 24))
        m.hw = b[28:34].hex(":")
        m.order, m.wire = [], len(b)

        def options(s):
            i = 0
            while i < len(s) and s[i] != 255:
                if s[i] == 0:
                    i += 1
                    continue
                m.opts[s[i]] = m.opts.get(s[i], b"") + s[i + 2:i + 2 + s[i + 1]]
                m.order.append(s[i])
                i += 2 + s[i + 1]
            assert i < len(s), "no END option"

        options(b[240:])
        overload = m.opts.get(52, b"\0")[0]
        if overload & 1:
            options(b[108:236])
        else:
            m.file = b[108:236].split(b"\0")[0].decode()
        if overload & 2:
            options(b[44:108])
        m.kind = m.opts.get(53, b"\0")[0]
        return m

    def __repr__(self):
        return f"kind={self.kind} yiaddr={self.yiaddr} {({k: v.hex() for k, v in self.opts.items()})}"


class Lab:
    def __init__(self):
        tag = f"kf-netboot-{os.getpid()}"
        self.s, self.c = tag + "-s", tag + "-c"
        self.work = tempfile.mkdtemp(prefix="kf-netboot.", dir=os.environ.get("TMPDIR"))
        self.boot, self.images, self.data = (os.path.join(self.work, d) for d in ("boot", "images", "data"))
        for d in (self.boot, self.images, self.data):
            os.mkdir(d)
        self.server = None
        for ns in (self.s, self.c):
            run("ip", "netns", "add", ns)
            run("ip", "-n", ns, "link", "set", "lo", "up")
        self.cable("srv", "cli", "10.77.0.1/24")
        self.enter(self.c)  # this process lives in the client's namespace from now on

    def cable(self, srv, cli, addr):
        run("ip", "link", "add", srv, "netns", self.s, "type", "veth", "peer", "name", cli, "netns", self.c)
        run("ip", "-n", self.s, "addr", "add", addr, "dev", srv)
        run("ip", "-n", self.s, "link", "set", srv, "up")
        run("ip", "-n", self.c, "link", "set", cli, "up")

    @staticmethod
    def enter(ns):
        with open(f"/run/netns/{ns}") as f:
            if ctypes.CDLL(None, use_errno=True).setns(f.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def on_server(self, *argv, **kw):
        return run("ip", "netns", "exec", self.s, *argv, **kw)

    def plan(self, plan):
        with open(os.path.join(self.work, "plan.json"), "w") as f:
            json.dump(plan, f)
        if self.server:
            begin = os.path.getsize(self.log.name)
            self.server.send_signal(signal.SIGHUP)
            wait("the plan is read", lambda: any(w in self.logged(begin) for w in ("serving", "no network", "the old one")))

    def logged(self, begin):
        with open(self.log.name, errors="replace") as f:
            f.seek(begin)
            return f.read()

    def start(self, *args):
        self.log = open(os.path.join(self.work, "log"), "ab")
        begin = os.path.getsize(self.log.name)
        self.server = subprocess.Popen(
            ["ip", "netns", "exec", self.s, KFARM, "netboot", "--plan", f"{self.work}/plan.json", "--data-dir", self.data,
             "--boot-dir", self.boot, "--images-dir", self.images, "--log-level", "debug", *args],
            stdout=subprocess.PIPE, stderr=self.log)
        wait("netboot is ready or has ended", lambda: "msg=ready" in self.logged(begin) or self.server.poll() is not None)
        if self.server.poll() is not None:
            raise RuntimeError("netboot does not start: " + self.logged(begin))

    def stop(self, sig=signal.SIGTERM):
        if self.server:
            self.server.send_signal(sig)
            rc = self.server.wait(60)
            self.server = None
            return rc

    def status(self):
        self.server.send_signal(signal.SIGUSR1)
        return json.loads(self.server.stdout.readline())

    def close(self):
        self.stop(signal.SIGKILL)
        for ns in (self.s, self.c):
            subprocess.run(["ip", "netns", "del", ns], capture_output=True)
        shutil.rmtree(self.work, ignore_errors=True)


class Wire:
    """A client on `cli`: sends broadcasts as firmware does, sees every frame."""

    def __init__(self, ifname="cli"):
        self.ifname = ifname
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.bind((ifname, 0))

    @staticmethod
    def checksum(b):
        b += b"\0" * (len(b) % 2)
        s = sum(struct.unpack(f"!{len(b) // 2}H", b))
        while s >> 16:
            s = (s & 0xffff) + (s >> 16)
        return ~s & 0xffff

    def send(self, m, src="0.0.0.0", dst=BROADCAST, dst_hw="ff:ff:ff:ff:ff:ff", ports=(68, 67), raw=None):
        data = m.bytes() if raw is None else raw
        hw = m.hw if m else "02:00:00:00:00:99"
        udp = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + ip(src) + ip(dst)
        head = head[:10] + struct.pack("!H", self.checksum(head)) + head[12:]
        self.sock.send(mac(dst_hw) + mac(hw) + b"\x08\0" + head + udp)

    def receive(self, xid, seconds=20):
        """The next DHCP message with this xid: (message, destination MAC, destination address) or None."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.sock], [], [], left)[0]:
                return None
            frame, addr = self.sock.recvfrom(65536)
            if addr[2] == socket.PACKET_OUTGOING or frame[12:14] != b"\x08\0" or frame[23] != 17:
                continue
            ihl = (frame[14] & 15) * 4
            sport, dport, length = struct.unpack("!HHH", frame[14 + ihl:20 + ihl])
            data = frame[22 + ihl:14 + ihl + length]
            if sport not in (67, 4011) or len(data) < 240 or struct.unpack("!I", data[4:8])[0] != xid:
                continue
            m = Dhcp.parse(data)
            m.to_hw, m.to_ip, m.to_port = frame[:6].hex(":"), socket.inet_ntoa(frame[30:34]), dport
            m.from_ip = socket.inet_ntoa(frame[26:30])
            assert self.checksum(frame[14:14 + ihl]) == 0, "IP checksum"
            return m
        return None

    def ask(self, m, seconds=20, **kw):
        while select.select([self.sock], [], [], 0)[0]:  # what came before is of no interest and may fill the socket
            self.sock.recv(65536)
        self.send(m, **kw)
        return self.receive(m.xid, seconds)

    def lease(self, hw, seconds=20, **opts):
        """DISCOVER to ACK; the ACK or None."""
        offer = self.ask(Dhcp(DISCOVER, hw, **opts), seconds)
        if not offer:
            return None
        opts = {k: v for k, v in opts.items() if k != "o50"}
        return self.ask(Dhcp(REQUEST, hw, o54=offer.opts[54], o50=offer.yiaddr, **opts), seconds)


class Relay:
    """A relay agent: unicast with giaddr, answers come to port 67."""

    def __init__(self, addr):
        self.addr = addr
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((addr, 67))

    def ask(self, m, seconds=20, giaddr=None):
        m.giaddr = giaddr or self.addr
        self.sock.sendto(m.bytes(), ("10.77.0.1", 67))
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.sock], [], [], left)[0]:
                return None
            r = Dhcp.parse(self.sock.recv(65536))
            if r.xid == m.xid:
                return r
        return None


def in_range(addr, lo, hi):
    return ipaddress.ip_address(lo) <= ipaddress.ip_address(addr) <= ipaddress.ip_address(hi)


def main(tests, make):
    """Runs functions test_* in order against one lab; TAP."""
    if os.geteuid() != 0:
        print("1..0 # skip needs root")
        return 77
    names = [n for n in tests if n.startswith("test_") and (len(sys.argv) < 2 or sys.argv[1] in n)]
    print(f"1..{len(names)}", flush=True)
    lab, failed = None, 0
    try:
        lab = Lab()
        make(lab)
        for i, name in enumerate(names, 1):
            try:
                tests[name](lab)
                print(f"ok {i} {name[5:].replace('_', ' ')}", flush=True)
            except Exception as e:  # pylint: disable=broad-except
                import traceback
                failed += 1
                print(f"not ok {i} {name[5:].replace('_', ' ')}\n# {type(e).__name__}: {e}", flush=True)
                for line in traceback.format_exc().splitlines()[-6:] + open(lab.log.name).read().splitlines()[-12:]:
                    print("#   " + line, flush=True)
    finally:
        if lab:
            lab.close()
    return 1 if failed else 0
