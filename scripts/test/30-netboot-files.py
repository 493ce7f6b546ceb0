#!/usr/bin/env python3
"""Boot files of `kfarm netboot` by TFTP, HTTP and HTTPS, fetched by programs that are not ours; boot documents and tickets.
# timeout: 600"""
import base64
import glob
import hashlib
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from netboot_lab import *  # pylint: disable=wildcard-import,unused-wildcard-import

B = "http://10.77.0.1:8069"
A1, A1B, B1, NOBODY = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "52:54:00:bb:00:01", "52:54:00:dd:00:01"
SECRET = "do-not-leak-" + os.urandom(8).hex()
IPXE = dict(o60=b"PXEClient:Arch:00000:UNDI:002001", o93=b"\0\0", o77=b"iPXE")


def plan(**net):
    def node(name, macs, addr, tenant, **more):
        return {"name": name, "macs": macs, "ip": addr, "image": "node", "args": f"tenant={tenant}",
                "tenant": {"namespace": "default", "name": tenant, "uid": f"uid-{tenant}"},
                "document": {"timezone": "Europe/Prague", "sshAuthorizedKeys": [SECRET]}, **more}
    return {"images": [{"name": "node", "kernel": "node/vmlinuz", "initrd": "node/initrd.img", "root": "node/root.squashfs",
                        "rootDigest": "sha256:" + "ab" * 32, "rootSize": 12345}],
            "networks": [{"name": "lab", "cidr": "10.77.0.0/24", "range": {"start": "10.77.0.100", "end": "10.77.0.150"},
                          "probe": False, **net}],
            "nodes": [node("a1", [A1, A1B], "10.77.0.20", "team-a"), node("b1", [B1], "10.77.0.21", "team-b")]}


def make(lab):
    rng = __import__("random").Random(1)
    lab.files = {"undionly.kpxe": 74213, "snponly.efi": 173792, "empty": 0, "exact": 1468 * 7, "one": 1, "rolls": 8 * 65540 + 3, "big": 90_000_000}
    for name, size in lab.files.items():
        with open(os.path.join(lab.boot, name), "wb") as f:
            f.write(rng.randbytes(size))
    with open(os.path.join(lab.boot, "text"), "w") as f:
        f.write("one\ntwo\n")
    os.makedirs(os.path.join(lab.images, "node"))
    for name in ("vmlinuz", "initrd.img", "root.squashfs"):
        with open(os.path.join(lab.images, "node", name), "wb") as f:
            f.write(name.encode() * 1000)
    with open(os.path.join(lab.work, "outside"), "w") as f:
        f.write(SECRET)
    os.symlink("../outside", os.path.join(lab.boot, "link"))
    os.symlink(lab.work, os.path.join(lab.images, "up"))
    os.mkfifo(os.path.join(lab.boot, "fifo"))
    os.mkdir(os.path.join(lab.boot, "dir"))
    c = lambda name: os.path.join(lab.work, name)
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("openssl", "req", "-x509", *ec, "-keyout", c("ca.key"), "-out", c("ca.crt"), "-subj", "/CN=boot-ca", "-days", "2")
    run("openssl", "req", *ec, "-keyout", c("srv.key"), "-out", c("srv.csr"), "-subj", "/CN=boot")
    with open(c("ext"), "w") as f:
        f.write("subjectAltName=IP:10.77.0.1\n")
    run("openssl", "x509", "-req", "-in", c("srv.csr"), "-CA", c("ca.crt"), "-CAkey", c("ca.key"), "-CAcreateserial",
        "-out", c("srv.crt"), "-days", "2", "-extfile", c("ext"))
    lab.plan(plan())
    lab.tls = ["--interface", "srv", "--tls-cert", c("srv.crt"), "--tls-key", c("srv.key"), "--boot-ca", c("ca.crt")]
    lab.start(*lab.tls)
    lab.wire = Wire()
    be(lab, "10.77.0.5")


def be(lab, addr):
    run("ip", "addr", "flush", "dev", "cli")
    run("ip", "addr", "add", addr + "/24", "dev", "cli")


def same(lab, name, got):
    return open(os.path.join(lab.boot, name), "rb").read() == got


def curl(*args, **kw):
    return subprocess.run(["curl", "-s", "--max-time", "30", *args], capture_output=True, timeout=110, **kw)


# ---- TFTP ----

def test_tftp_curl_with_every_block_size(lab):
    assert raw_tftp(b"\0\1empty\0octet\0")[0] == b"\0\3\0\1", "curl refuses a tsize of 0, others do not"
    for name in ("undionly.kpxe", "exact", "one"):
        for size in ("8", "512", "1024", "1432", "1468", "8192"):
            if size == "8" and lab.files[name] > 20000:
                continue
            r = curl("--tftp-blksize", size, f"tftp://10.77.0.1/{name}")
            assert r.returncode == 0 and same(lab, name, r.stdout), (name, size, r.returncode, len(r.stdout))


def test_tftp_atftp_with_windows(lab):
    for window in ("1", "2", "16", "64", "1000"):
        out = os.path.join(lab.work, "out")
        run("atftp", "--option", "blksize 1468", "--option", f"windowsize {window}", "-g", "-r", "snponly.efi", "-l", out,
            "10.77.0.1")
        assert same(lab, "snponly.efi", open(out, "rb").read()), window


def test_tftp_hpa_client_and_text_mode(lab):
    out = os.path.join(lab.work, "out2")
    run("tftp", "-m", "binary", "10.77.0.1", "-c", "get", "snponly.efi", out)
    assert same(lab, "snponly.efi", open(out, "rb").read())
    r = raw_tftp(b"\0\1text\0netascii\0")
    assert r[0][4:] == b"one\r\ntwo\r\n", r


def test_tftp_busybox_client(lab):
    out = os.path.join(lab.work, "out3")
    run("busybox", "tftp", "-g", "-b", "1400", "-r", "undionly.kpxe", "-l", out, "10.77.0.1")
    assert same(lab, "undionly.kpxe", open(out, "rb").read())


def test_tftp_block_numbers_roll_over(lab):
    r = curl("--max-time", "100", "--tftp-blksize", "8", "tftp://10.77.0.1/rolls")  # the smallest file of 2^16 blocks
    assert r.returncode == 0 and same(lab, "rolls", r.stdout), (r.returncode, len(r.stdout))


def test_tftp_through_a_lossy_link(lab):
    """Lost where they arrive: who sends must not be told, as by a rule for what goes out (EPERM, at which atftp ends). By
    count, not by chance: atftp ends also when it sees a second OACK, so it is not its ACK of the first that is lost."""
    losses = (((), "udp length > 100", 23, 11), (("ip", "netns", "exec", lab.s), "udp dport != 69", 7, 3))
    try:
        for where, what, of, nth in losses:
            run(*where, "nft", "add table ip t; add chain ip t in { type filter hook input priority 0; }; "
                f"add rule ip t in {what} numgen inc mod {of} == {nth} counter drop")
        out = os.path.join(lab.work, "out4")
        run("atftp", "--option", "blksize 1468", "--option", "windowsize 8", "--option", "timeout 1", "-g", "-r",
            "snponly.efi", "-l", out, "10.77.0.1", timeout=120)
        assert same(lab, "snponly.efi", open(out, "rb").read())
        for where, what, *_ in losses:
            rules = run(*where, "nft", "list", "table", "ip", "t").stdout
            assert int(rules.split("counter packets ")[1].split()[0]) >= 2, (what, rules)
    finally:
        for where, *_ in losses:
            run(*where, "nft", "delete", "table", "ip", "t", check=False)


def test_tftp_repeats_what_is_not_answered(lab):
    """OACK, a window and the last block, whichever of it or its ACK was lost; then the transfer has ended well."""
    done = lab.status()["counters"]["tftp_done"]
    with udp() as s:
        oack, peer = exchange(s, b"\0\1exact\0octet\0blksize\0001468\0timeout\0001\0windowsize\0007\0")
        assert oack[:2] == b"\0\6" and s.recv(2000) == oack
        s.sendto(b"\0\4\0\0", peer)
        for n in 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7:
            assert s.recv(2000)[:4] == b"\0\3\0" + bytes([n]), n
        s.sendto(b"\0\4\0\7", peer)
        assert s.recv(2000) == s.recv(2000) == b"\0\3\0\x08"
        s.sendto(b"\0\4\0\x08", peer)
        wait("the transfer is done", lambda: lab.status()["counters"]["tftp_done"] == done + 1)


def udp(seconds=60):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(seconds)
    s.bind(("", 0))
    return s


def exchange(s, request, answers=()):
    """Sends a request and then one answer for each packet; returns the last packet and its source."""
    s.sendto(request, ("10.77.0.1", 69))
    for answer in answers:
        s.sendto(answer, s.recvfrom(70000)[1])
    return s.recvfrom(70000)


def raw_tftp(request, answers=(), seconds=20):
    """Sends a request and then one answer for each packet; returns the packets."""
    s = udp(seconds)
    s.sendto(request, ("10.77.0.1", 69))
    got = []
    try:
        while True:
            p, peer = s.recvfrom(70000)
            got.append(p)
            if len(got) > len(answers):
                break
            s.sendto(answers[len(got) - 1], peer)
    except TimeoutError:
        pass
    return got


def test_tftp_option_negotiation(lab):
    rows = [(b"tsize\0000\0blksize\0001468\0windowsize\0004\0", b"tsize\000173792\0blksize\0001468\0windowsize\0004\0"),
            (b"BLKSIZE\0001432\0foo\0bar\0", b"blksize\0001432\0"), (b"blksize\00065464\0", b"blksize\0001468\0"),
            (b"timeout\0003\0", b"timeout\0003\0")]
    for asked, want in rows:
        p = raw_tftp(b"\0\1snponly.efi\0octet\0" + asked)[0]
        assert p == b"\0\6" + want, (asked, p)
    for asked in (b"", b"blksize\0007\0", b"blksize\000x\0", b"foo\0bar\0"):
        p = raw_tftp(b"\0\1snponly.efi\0octet\0" + asked)[0]
        assert p[:4] == b"\0\3\0\1" and len(p) == 516, (asked, p[:20])


def test_tftp_size_probe_of_ovmf_is_no_failure(lab):
    def count():
        return {k: v for k, v in lab.status()["counters"].items() if k.startswith("tftp")}
    before = count()
    probe = b"\0\1snponly.efi\0octet\0tsize\0000\0blksize\0001468\0windowsize\0004\0"
    raw_tftp(probe, [b"\0\5\0\x08User aborted the transfer\0"], 0.3)
    p = raw_tftp(b"\0\1snponly.efi\0octet\0blksize\0001468\0windowsize\0004\0", [b"\0\4\0\0"])
    assert p[1][:4] == b"\0\3\0\1" and len(p[1]) == 1472
    assert count()["tftp_failed"] == before["tftp_failed"]


def test_tftp_no_answer_to_duplicate_acks(lab):
    got = raw_tftp(b"\0\1undionly.kpxe\0octet\0", [b"\0\4\0\1", b"\0\4\0\1", b"\0\4\0\1"], 0.5)
    assert [p[3] for p in got] == [1, 2], [p[:4] for p in got]


def test_tftp_what_is_not_there_is_answered_at_once(lab):
    """At once: it is there when the answer to a request that was sent later is."""
    for name in ("revocations_sbat.efi", "shim_certificate_0.efi", "grub/x86_64-efi/command.lst", "dir", "fifo", "dir/x"):
        with udp() as s, udp() as later:
            s.sendto(b"\0\1" + name.encode() + b"\0octet\0", ("10.77.0.1", 69))
            assert exchange(later, b"\0\1one\0octet\0")[0][:4] == b"\0\3\0\1"
            s.setblocking(False)
            assert s.recv(2000)[:4] == b"\0\5\0\1", name


def test_tftp_names_as_firmware_writes_them(lab):
    for name in ("/one", "//one", "./one", "\\one", "/./one", "images//node/vmlinuz", "/images\\node\\vmlinuz"):
        p = raw_tftp(b"\0\1" + name.encode() + b"\0octet\0")[0]
        assert p[:2] == b"\0\3", (name, p)


def test_tftp_nothing_outside_its_directories(lab):
    for name in ("../outside", "/../outside", "dir/../../outside", "..\\outside", "link", "images/up/outside",
                 "images/../../outside", "/etc/passwd", "images/up", "dir/..", "%2e%2e/outside", "one\x01", "x" * 600):
        got = raw_tftp(b"\0\1" + name.encode() + b"\0octet\0", seconds=0.3)
        assert all(p[:2] == b"\0\5" and SECRET.encode() not in p for p in got), (name, got)


def test_tftp_is_read_only_and_ignores_noise(lab):
    assert raw_tftp(b"\0\2new\0octet\0")[0][:4] == b"\0\5\0\2"
    assert raw_tftp(b"\0\1one\0mail\0")[0][:4] == b"\0\5\0\4"
    for noise in (b"", b"\0", b"\0\1", b"\0\3\0\1x", b"\0\5\0\1x\0", b"\0\1\0\0", os.urandom(600)):
        assert raw_tftp(noise, seconds=0.1) == [], noise


def test_tftp_transfers_of_one_client_are_bounded(lab):
    socks = []
    for _ in range(40):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(b"\0\1big\0octet\0", ("10.77.0.1", 69))
        socks.append(s)
    assert raw_tftp(b"\0\2new\0octet\0")[0][:4] == b"\0\5\0\2"  # when that is answered, all before it are served
    transfers = lab.on_server("ss", "-Huan", "dst", "10.77.0.5").stdout.splitlines()
    assert len(transfers) == 8, transfers
    assert curl("--tftp-blksize", "1468", "tftp://10.77.0.1/one").returncode == 0
    for s in socks:
        s.close()


def test_tftp_the_next_request_from_a_port_ends_the_transfer_before(lab):
    """A client's next socket may have the port of the last. Its request was taken for a repetition of the unfinished one
    and answered with that one's file: an empty one here, which curl, checking no source port, takes for success."""
    for unfinished, answers in (("empty", []), ("exact", []), ("exact", [b"\0\4\0\1"])):
        with udp() as s:
            port = s.getsockname()[1]
            exchange(s, b"\0\1" + unfinished.encode() + b"\0octet\0", answers)
        r = curl("--local-port", str(port), "--tftp-blksize", "8192", "tftp://10.77.0.1/undionly.kpxe")
        assert r.returncode == 0 and same(lab, "undionly.kpxe", r.stdout), (unfinished, r.returncode, len(r.stdout))


def test_tftp_a_duplicated_request_is_one_transfer(lab):
    rq = b"\0\1exact\0octet\0"
    with udp() as s:
        first, peer = exchange(s, rq)
        s.sendto(rq, ("10.77.0.1", 69))  # before the first ACK, and after it
        got = [first]
        for n in range(1, 4):
            s.sendto(b"\0\4" + n.to_bytes(2, "big"), peer)
            if n == 2:
                s.sendto(rq, ("10.77.0.1", 69))
            packet, source = s.recvfrom(2000)
            assert source == peer, "a second transfer"
            got.append(packet)
        assert [p[3] for p in got] == [1, 2, 3, 4]


def test_tftp_many_at_once(lab):
    be_many = ["10.77.0.%d" % n for n in range(30, 90)]
    for a in be_many:
        run("ip", "addr", "add", a + "/24", "dev", "cli")
    procs = [subprocess.Popen(["curl", "-s", "--interface", a, "--max-time", "60", "--tftp-blksize", "1468",
                               "tftp://10.77.0.1/snponly.efi"], stdout=subprocess.PIPE) for a in be_many]
    good = sum(same(lab, "snponly.efi", p.communicate()[0]) for p in procs)
    be(lab, "10.77.0.5")
    assert good == len(be_many), good


# ---- HTTP ----

def http(path, *args):
    r = curl("--path-as-is", "-D", "-", "-o", "-", *args, B + path)
    head, _, body = r.stdout.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(x.lower().split(": ", 1) for x in lines[1:]), body


def test_http_head_then_get_as_uefi_does(lab):
    r = curl("-I", B + "/snponly.efi").stdout.decode().lower()
    assert "200 ok" in r and "content-length: 173792" in r and "chunked" not in r, r
    code, head, body = http("/snponly.efi")
    assert code == 200 and same(lab, "snponly.efi", body) and head["content-type"] == "application/efi"
    assert same(lab, "snponly.efi", http("/snponly.efi", "--http1.0")[2])
    assert http("//snponly.efi")[0] == 200, "shim asks with two slashes"


def test_http_ranges_and_etags(lab):
    data = open(os.path.join(lab.boot, "snponly.efi"), "rb").read()
    code, head, body = http("/snponly.efi", "-r", "100-199")
    assert code == 206 and body == data[100:200] and head["content-range"] == "bytes 100-199/173792"
    assert http("/snponly.efi", "-r", "-10")[2] == data[-10:]
    assert http("/snponly.efi", "-r", "173790-")[2] == data[-2:]
    assert http("/snponly.efi", "-r", "173792-")[0] == 416
    tag = head["etag"]
    assert http("/snponly.efi", "-H", "If-None-Match: " + tag)[0] == 304
    assert http("/snponly.efi", "-r", "0-9", "-H", "If-Range: \"other\"")[0] == 200
    assert http("/empty")[0] == 200


def test_http_large_file_is_whole(lab):
    r = curl(B + "/big")
    assert hashlib.sha256(r.stdout).digest() == hashlib.sha256(open(os.path.join(lab.boot, "big"), "rb").read()).digest()


def test_http_nothing_outside_its_directories(lab):
    for path in ("/../outside", "/%2e%2e/outside", "/dir/../../outside", "/dir/%2e%2e/%2e%2e/outside", "/..%2foutside",
                 "/link", "/images/up/outside", "/images/%2e%2e/outside", "/..%5coutside", "/%00", "/a%0ab", "/dir", "/fifo",
                 "/leases.db", "/images/../data/leases.db", "/"):
        code, _, body = http(path)
        assert code in (403, 404) and SECRET.encode() not in body, (path, code, body)
    assert http("/one", "-X", "POST", "-d", "x")[0] == 405
    assert http("/one", "-X", "DELETE")[0] == 405


# ---- scripts ----

def test_scripts_belong_to_their_machines(lab):
    a, b, n = (http(f"/boot/{m.replace(':', '-')}.ipxe")[2].decode() for m in (A1, B1, NOBODY))
    assert a.startswith("#!ipxe\n") and "a1 boots node" in a and "tenant=team-a" in a and "BOOTIF=01-52-54-00-aa-00-01" in a
    assert f"kernel {B}/images/node/vmlinuz initrd=initrd.img" in a and f"initrd {B}/images/node/initrd.img" in a
    assert "tenant=team-b" in b and "team-a" not in b
    assert "nobody has declared" in n and "kernel" not in n
    assert http(f"/boot/{A1}.ipxe")[2] and "BOOTIF=01-52-54-00-aa-00-02" in http(f"/boot/{A1B}.ipxe")[2].decode()
    der = run("openssl", "x509", "-in", os.path.join(lab.work, "ca.crt"), "-pubkey", "-noout").stdout
    pin = hashlib.sha256(base64.b64decode("".join(der.strip().splitlines()[1:-1]))).hexdigest()
    assert f"kfarm.boot=https://10.77.0.1:8070 kfarm.ca=sha256:{pin}" in a, (pin, a)


def test_grub_gets_its_configuration_by_lease_and_by_mac(lab):
    assert raw_tftp(b"\0\1/grub/grub.cfg\0octet\0")[0][:4] == b"\0\5\0\1", "no lease at this address"
    lab.wire.lease(A1, **IPXE)
    be(lab, "10.77.0.20")
    try:
        cfg = raw_tftp(b"\0\1/grub/grub.cfg\0octet\0blksize\0001400\0", [b"\0\4\0\0"])[1][4:].decode()
        assert "linux (tftp,10.77.0.1)/images/node/vmlinuz" in cfg and "tenant=team-a" in cfg, cfg
        assert "(http,10.77.0.1:8069)/images/node/vmlinuz" in http("/grub/grub.cfg")[2].decode()
    finally:
        be(lab, "10.77.0.5")
    assert "tenant=team-b" in http("/grub/grub.cfg-01-52-54-00-bb-00-01")[2].decode()


# ---- boot documents ----

def boot(lab, hw, ca="ca.crt"):
    r = curl("--cacert", os.path.join(lab.work, ca), "-w", "\n%{http_code}", "-d", json.dumps({"mac": hw, "nonce": "n"}),
             "https://10.77.0.1:8070/v1/boot")
    body, _, code = r.stdout.decode().rpartition("\n")
    return int(code or 0), json.loads(body) if body else None


def join(lab, ticket, csr="csr-1"):
    r = curl("--cacert", os.path.join(lab.work, "ca.crt"), "-w", "\n%{http_code}", "-d",
             json.dumps({"ticket": ticket, "csr": csr}), "https://10.77.0.1:8070/v1/join")
    body, _, code = r.stdout.decode().rpartition("\n")
    return int(code), json.loads(body)


def fetch_script(hw):
    return http(f"/boot/{hw.replace(':', '-')}.ipxe")[0]


def fresh_machine(lab, hw, addr):
    """As after a power cycle: a lease, no script yet."""
    lab.stop()
    lab.start(*lab.tls)
    assert lab.wire.lease(hw, **IPXE).yiaddr == addr


def test_boot_document_needs_lease_script_and_address(lab):
    fresh_machine(lab, A1, "10.77.0.20")
    assert boot(lab, A1)[0] == 403, "from an address that is not leased"
    be(lab, "10.77.0.20")
    assert boot(lab, A1)[0] == 403, "before its script was fetched"
    be(lab, "10.77.0.5")
    fetch_script(A1)
    be(lab, "10.77.0.20")
    assert boot(lab, A1)[0] == 403, "script fetched from somewhere else"
    fetch_script(A1)
    assert boot(lab, B1)[0] == 403, "another machine's MAC"
    code, doc = boot(lab, A1)
    assert code == 200 and doc["hostname"] == "a1" and doc["tenant"] == {"name": "team-a", "namespace": "default"}, doc
    assert doc["image"] == {"name": "node", "url": f"{B}/images/node/root.squashfs", "digest": "sha256:" + "ab" * 32,
                            "size": 12345}
    assert doc["timezone"] == "Europe/Prague" and len(doc["ticket"]) == 43
    assert boot(lab, "nonsense")[0] == 400
    lab.ticket = doc["ticket"]


def test_ticket_is_for_one_address_and_one_key(lab):
    be(lab, "10.77.0.5")
    assert join(lab, lab.ticket)[0] == 403, "from another address"
    lab.wire.lease(B1, **IPXE)
    be(lab, "10.77.0.21")
    assert join(lab, lab.ticket)[0] == 403, "from another node's address"
    be(lab, "10.77.0.20")
    assert join(lab, "x" * 43)[0] == 403 and join(lab, "")[0] == 403
    code, body = join(lab, lab.ticket)
    assert code == 503 and "keys" in body["error"], "no keyd here: but the ticket was right"
    assert join(lab, lab.ticket, "csr-2")[0] == 403, "used again for another key"
    assert join(lab, lab.ticket)[0] == 503, "the same request repeated"
    assert boot(lab, A1)[0] == 403, "a second document in the same boot"
    assert fetch_script(A1) == 200 and boot(lab, A1)[0] == 200, "the next boot"


def test_guessing_ends_the_ticket(lab):
    fetch_script(A1)
    ticket = boot(lab, A1)[1]["ticket"]
    for i in range(10):
        assert join(lab, "y" * 43)[0] == 403
    assert join(lab, ticket)[0] == 403


def test_approval_is_waited_for(lab):
    p = plan(trust="approve")
    lab.plan(p)
    fetch_script(A1)
    assert boot(lab, A1)[0] == 503
    p["nodes"][0]["approved"] = True
    lab.plan(p)
    assert boot(lab, A1)[0] == 200
    lab.plan(plan())


def test_catch_all_machines_get_names_of_their_own(lab):
    lab.plan(plan(catchAll={"name": "spare", "image": "node", "tenant": {"namespace": "default", "name": "t", "uid": "u"},
                            "document": {}}))
    addr = lab.wire.lease(NOBODY, **IPXE).yiaddr
    be(lab, addr)
    fetch_script(NOBODY)
    code, doc = boot(lab, NOBODY)
    assert code == 200 and doc["hostname"] == "spare-525400dd0001", doc
    lab.plan(plan())
    be(lab, "10.77.0.5")


def test_https_takes_only_what_it_should(lab):
    for args in (["https://10.77.0.1:8070/"], ["https://10.77.0.1:8070/v1/boot"], ["-d", "{", "https://10.77.0.1:8070/v1/boot"],
                 ["-d", "[]", "https://10.77.0.1:8070/v1/join"], ["--http1.1", "-d", "x" * 70000, "https://10.77.0.1:8070/v1/join"]):
        r = curl("--cacert", os.path.join(lab.work, "ca.crt"), "-o", "/dev/null", "-w", "%{http_code}", *args)
        assert r.stdout in (b"400", b"404", b"405", b"413"), (args[-1], r.stdout)


def test_nothing_secret_in_the_clear(lab):
    """Every name that is served without TLS, searched for what belongs in boot documents only."""
    names = [os.path.relpath(p, lab.boot) for p in glob.glob(lab.boot + "/*")]
    names += ["images/node/" + f for f in os.listdir(lab.images + "/node")]
    names += [f"boot/{m.replace(':', '-')}{end}" for m in (A1, A1B, B1, NOBODY) for end in (".ipxe", ".cfg")]
    names += ["grub/grub.cfg", "metrics", "livez"]
    be(lab, "10.77.0.20")
    assert lab.ticket
    served = 0
    for name in names:
        code, _, body = http("/" + name)
        served += code == 200
        for word in (SECRET, lab.ticket, "PRIVATE KEY", "Europe/Prague"):
            assert word.encode() not in body, (name, word)
        if name != "big":
            body = b"".join(p[4:] for p in raw_tftp(b"\0\1" + name.encode() + b"\0octet\0blksize\0001468\0windowsize\00064\0",
                                                    [b"\0\4\0\0"] + [b""] * 200, 0.05))
            assert SECRET.encode() not in body and b"PRIVATE KEY" not in body, name
    assert served > 12, served
    lab.wire.sock.setblocking(False)
    log = open(lab.log.name).read()
    assert SECRET not in log and lab.ticket not in log, "a secret in the log"


# ---- other DHCP clients ----

def test_dhcp_udhcpc_and_dhclient(lab):
    run("ip", "addr", "flush", "dev", "cli")
    r = run("busybox", "udhcpc", "-i", "cli", "-f", "-q", "-n", "-t", "3", "-T", "1", "-s", "/bin/true", "-x", "hostname:x",
            "-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "93:0007")
    assert "obtained from 10.77.0.1" in r.stderr, r.stderr
    if shutil.which("dhclient"):
        conf = os.path.join(lab.work, "dhclient.conf")
        with open(conf, "w") as f:
            f.write("timeout 10;\n")
        r = subprocess.Popen(["dhclient", "-4", "-1", "-d", "-v", "-cf", conf, "-lf", lab.work + "/l", "-pf",
                              lab.work + "/p", "-sf", "/bin/true", "cli"], stderr=subprocess.PIPE, text=True)
        seen = ""
        deadline = time.monotonic() + 15
        while "bound to" not in seen and time.monotonic() < deadline:
            seen += r.stderr.readline()
        r.kill()
        r.wait()
        assert "DHCPACK of 10.77.0." in seen, seen
    be(lab, "10.77.0.5")


def test_dhcp_through_isc_dhcrelay(lab):
    if not shutil.which("dhcrelay"):
        return
    # a third namespace behind ours, which becomes the relay
    far = lab.c + "-far"
    run("ip", "netns", "add", far)
    try:
        run("ip", "link", "add", "down0", "type", "veth", "peer", "name", "up0", "netns", far)
        run("ip", "addr", "add", "10.81.0.1/24", "dev", "down0")
        run("ip", "link", "set", "down0", "up")
        run("ip", "-n", far, "link", "set", "up0", "up")
        lab.on_server("ip", "route", "replace", "10.81.0.0/24", "via", "10.77.0.5")
        p = plan()
        p["networks"].append({"name": "behind", "cidr": "10.81.0.0/24", "range": {"start": "10.81.0.50", "end": "10.81.0.60"}})
        lab.plan(p)
        relay = subprocess.Popen(["dhcrelay", "-4", "-d", "-a", "-D", "-iu", "cli", "-id", "down0", "10.77.0.1"],
                                 stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        try:
            r = run("ip", "netns", "exec", far, "busybox", "udhcpc", "-i", "up0", "-f", "-q", "-n", "-t", "10", "-T", "2",
                    "-s", "/bin/true", check=False)
            assert "lease of 10.81.0.5" in r.stderr or "lease of 10.81.0.60" in r.stderr, r.stderr
        finally:
            relay.kill()
            relay.wait()
    finally:
        run("ip", "netns", "del", far)
        lab.plan(plan())


def test_dhcp_perfdhcp_finds_no_address_twice(lab):
    if not shutil.which("perfdhcp"):
        return
    p = plan(range={"start": "10.77.0.100", "end": "10.77.0.200"})
    lab.plan(p)
    r = run("perfdhcp", "-4", "-l", "10.77.0.5", "-r", "40", "-R", "5000", "-p", "2", "-u", "-g", "single", "10.77.0.1",
            check=False)
    assert "non unique addresses: 0" in r.stdout and "sent packets" in r.stdout, r.stdout
    lab.plan(plan())


sys.exit(main({k: v for k, v in list(globals().items())}, make))
