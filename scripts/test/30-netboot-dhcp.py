#!/usr/bin/env python3
"""DHCP of `kfarm netboot`, packet by packet: who gets which address, how answers travel, what is refused.
# timeout: 600"""
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from netboot_lab import *  # pylint: disable=wildcard-import,unused-wildcard-import

LO, HI = "10.77.0.100", "10.77.0.189"
PXE7 = dict(o60=b"PXEClient:Arch:00007:UNDI:003000", o93=b"\0\7", o94=b"\1\3\0", o97=bytes(17))


def plan(**more):
    net = {"name": "lab", "cidr": "10.77.0.0/24", "range": {"start": LO, "end": HI}, "gateway": "10.77.0.1",
           "dns": ["10.77.0.2", "10.77.0.3"], "ntp": ["10.77.0.4"], "domain": "lab.test", "mtu": 1400, "leaseSeconds": 600,
           "options": {"224": "hex:0a0b"}, **more}
    return {
        "images": [{"name": "node", "kernel": "node/vmlinuz", "initrd": "node/initrd.img"}],
        "networks": [net, {"name": "far", "cidr": "10.78.0.0/24", "range": {"start": "10.78.0.10", "end": "10.78.0.20"},
                           "gateway": "10.78.0.1", "relays": ["10.77.0.2", "10.78.0.1"], "catchAll": {"image": "node"}},
                     {"name": "small", "cidr": "10.79.0.0/24", "range": {"start": "10.79.0.10", "end": "10.79.0.12"}},
                     {"name": "proxied", "cidr": "10.80.0.0/24", "proxy": True, "catchAll": {"image": "node"}}],
        "nodes": [
            {"name": "a1", "macs": ["52:54:00:aa:00:01", "52:54:00:aa:00:02"], "ip": "10.77.0.20", "image": "node",
             "tenant": {"namespace": "default", "name": "team-a"}},
            {"name": "b1", "macs": ["52:54:00:bb:00:01"], "ip": "10.77.0.110", "image": "node", "args": "team=b",
             "tenant": {"namespace": "default", "name": "team-b"}, "options": {"42": "10.77.0.9"}},
            {"name": "chain", "macs": ["52:54:00:cc:00:01"], "image": "node", "reloadIPXE": True},
            {"name": "grub", "macs": ["52:54:00:dd:00:01"], "image": "node", "options": {"67": "grubnetx64.efi"}},
            {"name": "far1", "macs": ["52:54:00:ff:00:01"], "ip": "10.78.0.99", "image": "node"},
        ]}


def make(lab):
    for name in ("undionly.kpxe", "snponly.efi", "snponly-arm64.efi"):
        with open(os.path.join(lab.boot, name), "wb") as f:
            f.write(name.encode() * 100)
    lab.plan(plan())
    lab.start("--interface", "srv")
    lab.wire = Wire()


def fresh():
    return "02:%02x:%02x:%02x:%02x:%02x" % tuple(random.getrandbits(8) for _ in range(5))


def test_declared_machine_gets_its_address_and_name(lab):
    ack = lab.wire.lease("52:54:00:aa:00:01", o55=bytes([1, 3, 6, 12, 15, 26, 28, 42, 51, 58, 59, 224]))
    assert ack.kind == ACK and ack.yiaddr == "10.77.0.20", ack
    want = {1: "ffffff00", 3: "0a4d0001", 6: "0a4d00020a4d0003", 12: b"a1".hex(), 15: b"lab.test".hex(), 26: "0578",
            28: "0a4d00ff", 42: "0a4d0004", 51: "00000258", 54: "0a4d0001", 58: "0000012c", 59: "0000020d", 224: "0a0b"}
    for code, value in want.items():
        assert ack.opts[code].hex() == value, (code, ack.opts[code].hex())
    assert ack.siaddr == "0.0.0.0" and ack.file == "" and 67 not in ack.opts, "an operating system is told to boot"


def test_options_come_in_the_order_asked_and_no_others(lab):
    ack = lab.wire.lease(fresh(), o55=bytes([15, 6, 12]))
    assert [c for c in ack.order if c in (15, 6)] == [15, 6], ack.order
    assert 42 not in ack.opts and 26 not in ack.opts, ack


def test_node_options_win_over_those_of_the_network(lab):
    ack = lab.wire.lease("52:54:00:bb:00:01", o55=b"\x2a")
    assert ack.yiaddr == "10.77.0.110" and ack.opts[42] == ip("10.77.0.9"), ack


def test_unknown_machine_gets_one_of_the_range_and_keeps_it(lab):
    hw = fresh()
    a, b = lab.wire.lease(hw), lab.wire.lease(hw)
    assert a.yiaddr == b.yiaddr and in_range(a.yiaddr, LO, HI), (a, b)
    assert a.yiaddr != "10.77.0.110", "a declared address was given away"


def test_every_client_gets_another_address(lab):
    seen = [lab.wire.lease(fresh()).yiaddr for _ in range(12)]
    assert len(set(seen)) == 12, seen


def test_client_identifier_does_not_change_the_address_and_comes_back(lab):
    hw = fresh()
    a = lab.wire.lease(hw)
    b = lab.wire.lease(hw, o61=b"\1" + mac(hw))
    c = lab.wire.lease(hw, o61=b"\xff\0\0\0\1\0\3duid")
    assert a.yiaddr == b.yiaddr == c.yiaddr
    assert 61 not in a.opts and c.opts[61] == b"\xff\0\0\0\1\0\3duid"


def test_second_nic_takes_over_when_the_machine_boots_from_it(lab):
    assert lab.wire.lease("52:54:00:aa:00:01").yiaddr == "10.77.0.20"
    other = lab.wire.lease("52:54:00:aa:00:02")
    assert in_range(other.yiaddr, LO, HI), "one address on two NICs of a running system"
    assert lab.wire.lease("52:54:00:aa:00:02", **PXE7).yiaddr == "10.77.0.20"
    assert lab.wire.lease("52:54:00:aa:00:01", **PXE7).yiaddr == "10.77.0.20"


def test_wish_is_granted_when_free_and_in_range(lab):
    free = next(a for a in ("10.77.0.%d" % n for n in range(120, 190)) if a not in [x["ip"] for x in lab.status()["leases"]])
    ack = lab.wire.lease(fresh(), o50=free)
    assert ack.yiaddr == free, ack
    for wish in (free, "10.77.0.20", "10.77.0.1", "10.77.0.200", "192.0.2.1", "10.77.0.255"):
        assert lab.wire.lease(fresh(), o50=wish).yiaddr != wish, wish


def test_no_broadcast_flag_frame_goes_to_the_hardware_address(lab):
    hw = fresh()
    lab.on_server("ip", "neigh", "flush", "all")
    offer = lab.wire.ask(Dhcp(DISCOVER, hw))
    assert offer.to_hw == hw and offer.to_ip == offer.yiaddr and offer.to_port == 68, (offer.to_hw, offer.to_ip)
    assert offer.from_ip == "10.77.0.1"


def test_broadcast_flag_is_honoured(lab):
    offer = lab.wire.ask(Dhcp(DISCOVER, fresh(), flags=0x8000))
    assert offer.to_hw == "ff:ff:ff:ff:ff:ff" and offer.to_ip == BROADCAST and offer.flags == 0x8000


def boot_of(lab, hw="52:54:00:aa:00:01", **opts):
    r = lab.wire.ask(Dhcp(DISCOVER, hw, o55=bytes([66, 67]), **opts))
    return (r.opts.get(67, b"").decode(), r) if r else (None, None)


def test_firmware_gets_the_loader_of_its_architecture(lab):
    rows = [(0, "undionly.kpxe"), (7, "snponly.efi"), (9, "snponly.efi"), (11, "snponly-arm64.efi"), (6, ""), (0x777, "")]
    for arch, want in rows:
        name, r = boot_of(lab, o60=b"PXEClient:Arch:%05d:UNDI:003000" % arch, o93=struct.pack("!H", arch))
        assert name == want, (arch, name)
        assert r.file == want and r.siaddr == ("10.77.0.1" if want else "0.0.0.0"), (arch, r)
    name, _ = boot_of(lab, o60=b"PXEClient", o93=struct.pack("!HH", 0x777, 7))
    assert name == "snponly.efi", "the first architecture that is known counts"


def test_option_97_is_mirrored_and_may_be_missing(lab):
    uuid = b"\0" + bytes(range(16))
    assert boot_of(lab, o60=b"PXEClient", o93=b"\0\7", o97=uuid)[1].opts[97] == uuid
    assert 97 not in boot_of(lab, o60=b"PXEClient", o93=b"\0\7")[1].opts


def test_http_boot_gets_a_url_and_option_60(lab):
    name, r = boot_of(lab, o60=b"HTTPClient:Arch:00016:UNDI:003000", o93=b"\0\x10")
    assert name == "http://10.77.0.1:8069/snponly.efi" and r.opts[60] == b"HTTPClient", r


def test_ipxe_gets_its_script_however_it_says_so(lab):
    url = "http://10.77.0.1:8069/boot/52-54-00-aa-00-01.ipxe"
    for how in (dict(o77=b"iPXE"), dict(o77=b"\4iPXE"), dict(o77=b"\3abc\4iPXE"), dict(o175=b"\1\1\1")):
        name, r = boot_of(lab, o60=b"PXEClient:Arch:00000:UNDI:002001", o93=b"\0\0", **how)
        assert name == url and r.file == url, (how, name)
    assert boot_of(lab, o77=b"iPXEx", o60=b"PXEClient", o93=b"\0\7")[0] == "snponly.efi"


def test_ipxe_in_rom_is_replaced_once_when_wanted(lab):
    ipxe = dict(o60=b"PXEClient:Arch:00000:UNDI:002001", o93=b"\0\0", o77=b"iPXE")
    hw = "52:54:00:cc:00:01"
    assert boot_of(lab, hw, **ipxe)[0] == "undionly.kpxe"
    addr = lab.wire.lease(hw, **ipxe).yiaddr
    run("ip", "addr", "add", addr + "/24", "dev", "cli")
    try:
        run("curl", "-s", "-o", "/dev/null", f"tftp://10.77.0.1/undionly.kpxe")
    finally:
        run("ip", "addr", "del", addr + "/24", "dev", "cli")
    assert boot_of(lab, hw, **ipxe)[0].endswith(".ipxe"), "the second iPXE is given the loader again: a loop"


def test_declared_loader_wins_but_not_over_the_script(lab):
    hw = "52:54:00:dd:00:01"
    assert boot_of(lab, hw, **PXE7)[0] == "grubnetx64.efi"
    assert boot_of(lab, hw, o60=b"HTTPClient", o93=b"\0\x10")[0] == "http://10.77.0.1:8069/grubnetx64.efi"
    assert boot_of(lab, hw, o60=b"PXEClient", o93=b"\0\7", o77=b"iPXE")[0].endswith(".ipxe")


def test_undeclared_machine_without_catch_all_is_not_booted(lab):
    hw = fresh()
    name, r = boot_of(lab, hw, **PXE7)
    assert name == "" and in_range(r.yiaddr, LO, HI)


def test_catch_all_boots_undeclared_machines(lab):
    lab.plan(plan(catchAll={"image": "node"}))
    try:
        assert boot_of(lab, fresh(), **PXE7)[0] == "snponly.efi"
    finally:
        lab.plan(plan())


def test_another_servers_offer_chosen_is_silence_and_frees(lab):
    hw = fresh()
    offer = lab.wire.ask(Dhcp(DISCOVER, hw))
    assert lab.wire.ask(Dhcp(REQUEST, hw, o54="10.77.0.99", o50=offer.yiaddr), 0.4) is None
    assert lab.wire.lease(fresh(), o50=offer.yiaddr).yiaddr == offer.yiaddr


def test_request_for_what_was_not_offered_is_refused(lab):
    taken = lab.wire.lease(fresh()).yiaddr
    for wish in (taken, "10.77.0.20", "10.77.0.1", "192.0.2.7"):
        r = lab.wire.ask(Dhcp(REQUEST, fresh(), o54="10.77.0.1", o50=wish))
        assert r.kind == NAK and r.yiaddr == "0.0.0.0" and 51 not in r.opts and r.to_ip == BROADCAST, (wish, r)


def test_init_reboot(lab):
    hw = fresh()
    mine = lab.wire.lease(hw).yiaddr
    assert lab.wire.ask(Dhcp(REQUEST, hw, o50=mine)).kind == ACK
    assert lab.wire.ask(Dhcp(REQUEST, hw, o50="10.77.0.189" if mine != "10.77.0.189" else LO)).kind in (NAK, ACK)
    assert lab.wire.ask(Dhcp(REQUEST, hw, o50="192.168.1.5")).kind == NAK, "wrong network"
    assert lab.wire.ask(Dhcp(REQUEST, fresh(), o50="10.77.0.105"), 0.4) is None, "unknown client on the right network"


def test_renewing_and_rebinding(lab):
    hw = fresh()
    mine = lab.wire.lease(hw).yiaddr
    server_hw = lab.on_server("cat", "/sys/class/net/srv/address").stdout.strip()
    run("ip", "addr", "add", mine + "/24", "dev", "cli")
    try:
        r = lab.wire.ask(Dhcp(REQUEST, hw, ciaddr=mine), src=mine, dst="10.77.0.1", dst_hw=server_hw)
        assert r.kind == ACK and r.to_ip == mine and r.ciaddr == mine, r
        r = lab.wire.ask(Dhcp(REQUEST, hw, ciaddr=mine), src=mine)
        assert r.kind == ACK and r.to_ip == mine, r
    finally:
        run("ip", "addr", "del", mine + "/24", "dev", "cli")
    r = lab.wire.ask(Dhcp(REQUEST, hw, ciaddr="10.77.0.20"), src="10.77.0.20")
    assert r.kind == NAK, "renewed the address of a declared machine for somebody else"


def test_release_only_by_the_owner(lab):
    hw = fresh()
    mine = lab.wire.lease(hw).yiaddr
    state = lambda: [x["state"] for x in lab.status()["leases"] if x["ip"] == mine]
    lab.wire.send(Dhcp(RELEASE, fresh(), ciaddr=mine, o54="10.77.0.1"))
    assert lab.wire.ask(Dhcp(DISCOVER, fresh()))  # when that is answered, what came before it is done
    assert state() == ["bound"], "released by a stranger"
    lab.wire.send(Dhcp(RELEASE, hw, ciaddr=mine, o54="10.77.0.1"))
    wait("the address is free", lambda: state() == ["free"])
    assert lab.wire.lease(hw).yiaddr == mine, "its last address is not remembered"


def test_declined_address_is_in_quarantine_and_the_range_survives(lab):
    hw, seen = fresh(), []
    for _ in range(8):
        r = lab.wire.lease(hw)
        seen.append(r.yiaddr)
        lab.wire.send(Dhcp(DECLINE, hw, o50=r.yiaddr, o54="10.77.0.1"))
    assert lab.wire.ask(Dhcp(DISCOVER, fresh()))
    declined = [x["ip"] for x in lab.status()["leases"] if x["state"] == "declined"]
    assert 1 <= len(declined) <= 4 and set(declined) <= set(seen), (declined, seen)
    assert lab.wire.lease(fresh()).yiaddr not in declined


def test_inform_gets_options_and_no_lease(lab):
    hw = fresh()
    run("ip", "addr", "add", "10.77.0.77/24", "dev", "cli")
    before = len(lab.status()["leases"])
    try:
        r = lab.wire.ask(Dhcp(INFORM, hw, ciaddr="10.77.0.77", o55=b"\6\x0f"), src="10.77.0.77")
    finally:
        run("ip", "addr", "del", "10.77.0.77/24", "dev", "cli")
    assert r.kind == ACK and r.yiaddr == "0.0.0.0" and 51 not in r.opts and r.opts[15] == b"lab.test", r
    assert len(lab.status()["leases"]) == before


def forget(lab):
    lab.stop()
    os.unlink(os.path.join(lab.data, "leases.db"))
    lab.start("--interface", "srv")


def test_address_in_use_by_a_stranger_is_never_offered(lab):
    forget(lab)  # what is on offer to others, which the status does not list, would not be tried
    free = ["10.77.0.120", "10.77.0.121", "10.77.0.122"]
    for a in free:
        run("ip", "addr", "add", a + "/24", "dev", "cli")
    try:
        for a in free:
            r = lab.wire.ask(Dhcp(DISCOVER, fresh(), o50=a))
            assert r and r.yiaddr not in free, (r, free)
        assert lab.status()["counters"]["dhcp_conflicts"] == 3
    finally:
        for a in free:  # the first one takes the others, its secondaries, with it
            run("ip", "addr", "del", a + "/24", "dev", "cli", check=False)


def test_declared_address_in_use_by_a_stranger(lab):
    run("ip", "addr", "add", "10.77.0.110/24", "dev", "cli")
    lab.plan(plan(leaseSeconds=60))
    try:
        forget(lab)
        r = lab.wire.ask(Dhcp(DISCOVER, "52:54:00:bb:00:01", **PXE7))
        assert r and r.yiaddr != "10.77.0.110" and in_range(r.yiaddr, LO, HI), r
    finally:
        run("ip", "addr", "del", "10.77.0.110/24", "dev", "cli")
        lab.plan(plan())


def test_relayed_requests(lab):
    run("ip", "addr", "add", "10.77.0.2/24", "dev", "cli")
    run("ip", "addr", "add", "10.78.0.1/24", "dev", "cli")
    lab.on_server("ip", "route", "replace", "10.78.0.0/24", "via", "10.77.0.2")
    relay, far = Relay("10.77.0.2"), Relay("10.78.0.1")
    agent = b"\1\4port\2\6\x52\x54\0\0\0\1"
    r = far.ask(Dhcp(DISCOVER, fresh(), o82=agent))
    assert in_range(r.yiaddr, "10.78.0.10", "10.78.0.20") and r.opts[3] == ip("10.78.0.1"), r
    assert r.opts[82] == agent and r.order[-1] == 82 and r.giaddr == "10.78.0.1", r
    link = b"\5\4" + ip("10.78.0.0")  # RFC 3527: relay on one network, client on another
    r = relay.ask(Dhcp(DISCOVER, "52:54:00:ff:00:01", o82=link))
    assert r.yiaddr == "10.78.0.99", r
    r = relay.ask(Dhcp(DISCOVER, fresh(), o118="10.78.0.0"))
    assert in_range(r.yiaddr, "10.78.0.10", "10.78.0.20"), r
    override = b"\x0b\4" + ip("10.78.0.1")  # RFC 5107
    hw = fresh()
    r = far.ask(Dhcp(DISCOVER, hw, o82=override))
    assert r.opts[54] == ip("10.78.0.1"), r
    r = far.ask(Dhcp(REQUEST, hw, o82=override, o54="10.78.0.1", o50=r.yiaddr))
    assert r.kind == ACK, r
    r = far.ask(Dhcp(REQUEST, fresh(), o50="10.77.0.5"))
    assert r.kind == NAK and r.flags & 0x8000, "a NAK through a relay must be broadcast there"
    assert relay.ask(Dhcp(DISCOVER, fresh()), 0.4, giaddr="10.78.0.3") is None, "relay not in the list"
    r = far.ask(Dhcp(DISCOVER, fresh(), **PXE7))
    assert r.file == "snponly.efi", "catch-all of the relayed network"
    relay.sock.close()
    far.sock.close()


def test_forged_relay_option_on_the_link_is_ignored(lab):
    r = lab.wire.ask(Dhcp(DISCOVER, fresh(), o82=b"\5\4" + ip("10.78.0.0")))
    assert in_range(r.yiaddr, LO, HI) and 82 not in r.opts, r


def test_full_range_is_silence_but_declared_machines_are_served(lab):
    relay = Relay("10.77.0.2")
    small = b"\5\4" + ip("10.79.0.0")
    assert all(relay.ask(Dhcp(DISCOVER, fresh(), o82=small)) for _ in range(3))
    assert relay.ask(Dhcp(DISCOVER, fresh(), o82=small), 0.7) is None
    relay.sock.close()
    assert lab.wire.lease("52:54:00:aa:00:01", **PXE7).yiaddr == "10.77.0.20"


def test_proxy_mode_adds_what_to_boot_and_gives_no_address(lab):
    relay = Relay("10.77.0.2")
    far = b"\5\4" + ip("10.80.0.0")
    r = relay.ask(Dhcp(DISCOVER, fresh(), o82=far, **PXE7))
    assert r.kind == OFFER and r.yiaddr == "0.0.0.0" and r.opts[60] == b"PXEClient" and r.file == "snponly.efi", r
    assert r.opts[43] == b"\6\1\x08\xff" and 51 not in r.opts and 1 not in r.opts, r
    r = relay.ask(Dhcp(DISCOVER, fresh(), o82=far, o77=b"iPXE", **PXE7))
    assert r.opts[60] == b"PXEClient" and r.file.endswith(".ipxe"), "iPXE knows a proxy's offer by option 60"
    assert relay.ask(Dhcp(DISCOVER, fresh(), o82=far), 0.4) is None, "not a boot client"
    relay.sock.close()


def test_port_4011_answers_the_asking_address(lab):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("10.77.0.2", 0))
    s.settimeout(20)
    m = Dhcp(REQUEST, "52:54:00:aa:00:01", ciaddr="10.77.0.2", **PXE7)
    s.sendto(m.bytes(), ("10.77.0.1", 4011))
    r = Dhcp.parse(s.recv(2000))
    assert r.kind == ACK and r.xid == m.xid and r.file == "snponly.efi" and r.yiaddr == "0.0.0.0", r


def test_small_messages_use_overloading_and_large_ones_do_not(lab):
    long = {str(c): "hex:" + "78" * 90 for c in range(230, 236)}
    lab.plan(plan(options=long))
    try:
        asked = bytes(range(230, 236))
        small = lab.wire.ask(Dhcp(DISCOVER, fresh(), o55=asked))
        assert small.wire <= 548 and 52 in small.opts and sum(c in small.opts for c in range(230, 236)) >= 3, small
        large = lab.wire.ask(Dhcp(DISCOVER, fresh(), o55=asked, o57=b"\xff\0"))
        assert large.wire <= 1472 and 52 not in large.opts and all(c in large.opts for c in range(230, 236)), large
    finally:
        lab.plan(plan())


def test_malformed_packets_change_nothing(lab):
    good = Dhcp(DISCOVER, fresh(), **PXE7).bytes()
    rng = random.Random(7)
    for _ in range(2000):
        b = bytearray(good[:rng.randrange(len(good) + 1)] if rng.random() < 0.5 else good)
        for _ in range(rng.randrange(1, 12)):
            at = rng.randrange(len(b)) if b else 28
            if not 28 <= at < 34:  # one MAC address: every other would be a client of its own, with an offer
                b[at] = rng.getrandbits(8)
        lab.wire.send(None, raw=bytes(b))
    lab.wire.send(None, raw=b"")
    lab.wire.send(None, raw=bytes(1400))
    assert lab.wire.lease("52:54:00:aa:00:01", **PXE7).yiaddr == "10.77.0.20"
    assert lab.server.poll() is None


def test_one_client_cannot_keep_the_server_busy(lab):
    hw, answers = fresh(), 0
    first = Dhcp(DISCOVER, hw)
    assert lab.wire.ask(first)
    for _ in range(300):
        lab.wire.send(Dhcp(DISCOVER, hw))
    time.sleep(0.3)
    while lab.wire.sock in select.select([lab.wire.sock], [], [], 0)[0]:
        f = lab.wire.sock.recv(2000)
        answers += f[:6] == mac(hw)
    assert answers < 100, answers
    assert lab.wire.lease(fresh())


def test_leases_survive_a_kill_and_damage(lab):
    hws = [fresh() for _ in range(5)]
    before = [lab.wire.lease(hw).yiaddr for hw in hws]
    lab.stop(signal.SIGKILL)
    with open(os.path.join(lab.data, "leases.db"), "ab") as f:
        f.write(b"\xd4\x00\x40half a record")
    lab.start("--interface", "srv")
    for hw, addr in zip(hws, before):
        r = lab.wire.ask(Dhcp(REQUEST, hw, o50=addr))
        assert r.kind == ACK and r.yiaddr == addr, (r, addr)
    lab.stop(signal.SIGKILL)
    lab.start("--interface", "srv")  # the damage was repaired by the first write
    log = open(lab.log.name).read().rsplit("ready", 2)
    assert "damaged" not in log[-2], log[-2]
    assert lab.wire.ask(Dhcp(REQUEST, hws[0], o50=before[0])).kind == ACK


def test_ack_only_after_the_lease_is_on_disk(lab):
    for _ in range(5):
        hw = fresh()
        assert lab.wire.lease(hw)
        assert mac(hw) in open(os.path.join(lab.data, "leases.db"), "rb").read()


def test_changed_range_is_not_fatal(lab):
    hw = fresh()
    old = lab.wire.lease(hw).yiaddr
    lab.plan(plan(range={"start": "10.77.0.200", "end": "10.77.0.220"}))
    try:
        assert lab.wire.ask(Dhcp(REQUEST, hw, ciaddr=old)).kind == NAK
        assert in_range(lab.wire.lease(hw).yiaddr, "10.77.0.200", "10.77.0.220")
    finally:
        lab.plan(plan())


def test_bad_plans_are_refused_and_the_old_one_stays(lab):
    good = plan()
    for change, word in ((lambda p: p["nodes"][0].update(ip="10.99.0.1"), "no network"),
                         (lambda p: p["nodes"][1].update(macs=["52:54:00:aa:00:02"]), "belongs to node a1"),
                         (lambda p: p["nodes"][1].update(ip="10.77.0.20"), "belongs to node a1"),
                         (lambda p: p["nodes"][0].update(name="Bad_Name"), "not a DNS name"),
                         (lambda p: p["nodes"][0].update(args="x\nchain http://evil"), "kernel arguments"),
                         (lambda p: p["images"][0].update(kernel="../../etc/shadow"), "plain paths"),
                         (lambda p: p["networks"][1].update(cidr="10.77.0.128/25"), "overlaps"),
                         (lambda p: p["networks"][0].update(range={"start": "10.76.0.1", "end": "10.77.0.9"}), "range"),
                         (lambda p: p["nodes"][0].update(colour="red"), "unknown member")):
        p = plan()
        change(p)
        lab.plan(p)
        tail = open(lab.log.name).read().splitlines()[-1]
        assert "continuing with the old one" in tail and word in tail, (word, tail)
        assert lab.wire.lease("52:54:00:aa:00:01", **PXE7).yiaddr == "10.77.0.20"
    lab.plan(good)


def test_stops_cleanly(lab):
    assert lab.stop() == 0
    lab.start("--interface", "srv")


sys.exit(main({k: v for k, v in list(globals().items())}, make))
