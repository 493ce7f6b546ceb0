#!/usr/bin/python3
"""Rates of the boot service beside dnsmasq's, in the same run: `name<TAB>value` lines. Run as root; takes about two minutes.

Every DHCP figure is with leases on disk before the ACK (dnsmasq: its normal lease file). Peak: the highest offered rate of
four-packet exchanges that loses at most 2.5 %. Overload: exchanges finished when twice the peak is offered."""
import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../test/lib"))
from netboot_lab import Lab, run  # noqa: E402

SECONDS, RATES = 4, (100, 200, 400, 800, 1200, 1600, 2400, 3200, 4800, 6400, 9600, 12800)
FILE, MIB = "f64", 64


def row(name, value):
    print(f"{name}\t{value}", flush=True)


def exchanges(rate):
    """(finished per second, lost share) at an offered rate of new clients."""
    r = run("perfdhcp", "-4", "-l", "10.77.0.2", "-r", str(rate), "-R", "1000000", "-b", f"mac={os.urandom(6).hex(':')}",
            "-p", str(SECONDS), "-W", "1000000", "-g", "single", "10.77.0.1", check=False, timeout=SECONDS + 30).stdout
    offered = int(re.search(r"DISCOVER-OFFER\*\*\*\nsent packets: (\d+)", r)[1])
    done = int(re.search(r"REQUEST-ACK\*\*\*\nsent packets: \d+\nreceived packets: (\d+)", r)[1])
    return done / SECONDS, 1 - done / max(offered, 1)


def dhcp(name):
    peak = 0
    for rate in RATES:
        done, lost = exchanges(rate)
        if lost > 0.025 or done < rate * 0.9:
            break
        peak = rate
    row(f"{name}: DHCP exchanges a second, peak with <= 2.5 % lost", peak)
    if peak:
        done, _ = exchanges(2 * peak)
        row(f"{name}: finished at twice the peak", f"{done:.0f}/s = {100 * done / peak:.0f} % of it")
    return peak


def tftp(name, lab):
    for what, cmd in (("512", ["curl", "-s", "-o", "/dev/null", "--tftp-blksize", "512"]),
                      ("1468", ["curl", "-s", "-o", "/dev/null", "--tftp-blksize", "1468"])):
        began = time.monotonic()
        run(*cmd, f"tftp://10.77.0.1/{FILE}")
        row(f"{name}: TFTP blksize {what}", f"{MIB / (time.monotonic() - began):.1f} MiB/s")
    began = time.monotonic()
    run("atftp", "--option", "blksize 1468", "--option", "windowsize 16", "-g", "-r", FILE, "-l", lab.work + "/out", "10.77.0.1")
    row(f"{name}: TFTP blksize 1468 windowsize 16", f"{MIB / (time.monotonic() - began):.1f} MiB/s")


def ours(lab):
    # A new address is probed for 0.4 s before it is offered; perfdhcp's clients give up after one: switched off for the rate.
    lab.plan({"networks": [{"name": "big", "cidr": "10.76.0.0/14", "range": {"start": "10.76.0.1", "end": "10.79.255.250"},
                            "probe": False}]})
    lab.start("--interface", "srv", "--log-level", "info")
    peak = dhcp("kfarm")
    tftp("kfarm", lab)
    if shutil.which("wrk"):
        r = run("wrk", "-t1", "-c16", "-d4s", f"http://10.77.0.1:8069/{FILE}").stdout
        row("kfarm: HTTP, 16 clients", re.search(r"Transfer/sec:\s*(\S+)", r)[1] + "/s")
    lab.stop()
    return peak


def dnsmasq(lab):
    p = subprocess.Popen(["ip", "netns", "exec", lab.s, "dnsmasq", "-k", "--port=0", "--interface=srv", "--bind-interfaces",
                          "--user=root", "--no-ping", "--dhcp-range=10.77.1.0,10.77.255.250,255.252.0.0,10m",
                          "--dhcp-lease-max=100000", f"--dhcp-leasefile={lab.work}/dnsmasq.leases", "--enable-tftp",
                          f"--tftp-root={lab.boot}", f"--pid-file={lab.work}/dnsmasq.pid", "--conf-file=/dev/null"])
    time.sleep(0.5)
    try:
        peak = dhcp("dnsmasq")
        tftp("dnsmasq", lab)
        return peak
    finally:
        p.kill()
        p.wait()


def main():
    for program in ("perfdhcp", "dnsmasq", "atftp", "curl"):
        if not shutil.which(program):
            sys.exit(f"netboot.py: {program} is missing (scripts/setup.sh bench)")
    lab = Lab()
    lab.log = open(os.path.join(lab.work, "log"), "ab")
    try:
        lab.on_server("ip", "addr", "replace", "10.77.0.1/14", "dev", "srv")
        lab.on_server("ip", "addr", "del", "10.77.0.1/24", "dev", "srv")
        run("ip", "addr", "add", "10.77.0.2/14", "dev", "cli")
        with open(os.path.join(lab.boot, FILE), "wb") as f:
            f.write(os.urandom(1 << 20) * MIB)
        a, b = ours(lab), dnsmasq(lab)
        if b:
            row("ratio of the DHCP peaks", f"{a / b:.1f}")
    finally:
        lab.close()


main()
