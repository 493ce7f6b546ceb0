#!/usr/bin/python3
# timeout: 300
"""gRPC's keep-alive by HTTP/2 pings, both ways, with node's client and with one that does not answer; etcd 3.5 where it is to be
had must pass the same."""
import os
import shutil
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from store_lib import Server, Tap, etcd_binary  # noqa: E402

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
DATA, SETTINGS, PING, GOAWAY, ACK, CALM = 0, 4, 6, 7, 1, 11
FLAGS = ["--grpc-keepalive-interval", "1s", "--grpc-keepalive-timeout", "1s", "--grpc-keepalive-min-time", "200ms"]

# node: calls and pings as asked for on the command line; prints what happened to the session.
CLIENT = """
const http2 = require('http2');
const [port, what] = process.argv.slice(-2);
const wait = ms => new Promise(r => setTimeout(r, ms));
const s = http2.connect('http://127.0.0.1:' + port);
let over = '';
s.on('goaway', (code, last, data) => { over = 'goaway ' + code + ' ' + (data ? data.toString() : ''); });
s.on('error', () => {});
s.on('close', () => { over = over || 'closed'; });
const ping = () => new Promise(r => { if (s.closed || s.destroyed || over || !s.ping(() => r())) r(); setTimeout(r, 1000); });
const call = (path, body, end, data) => new Promise(r => {
  const c = s.request({':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers'});
  c.on('error', () => r()); c.on('data', () => { if (data) data(); if (!end) r(); }); c.on('close', () => r());
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  c.write(Buffer.concat([head, body]));
  if (end) c.end();
});
(async () => {
  await new Promise(r => s.once('remoteSettings', r));
  if (what == 'alone') for (let i = 0; i < 8 && !over; i++) { await ping(); await wait(50); }
  if (what == 'watching') {
    await call('/etcdserverpb.Watch/Watch', Buffer.from([10, 3, 10, 1, 97]), false);
    for (let i = 0; i < 10 && !over; i++) { await ping(); await wait(350); }
  }
  if (what == 'hasty') {
    await call('/etcdserverpb.Watch/Watch', Buffer.from([10, 3, 10, 1, 97]), false);
    for (let i = 0; i < 8 && !over; i++) { await ping(); await wait(20); }
  }
  if (what == 'busy') for (let i = 0; i < 20 && !over; i++) {
    await call('/etcdserverpb.KV/Put', Buffer.from([10, 1, 97]), true); await ping();
  }
  if (what == 'long') { // as grpc-go measures the line: a ping for data that came, the next when it has its answer
    let out = false, pings = 0;
    const value = Buffer.alloc(1 << 20, 120);
    await call('/etcdserverpb.KV/Put', Buffer.concat([Buffer.from([10, 1, 97, 18, 0x80, 0x80, 0x40]), value]), true);
    for (let i = 0; i < 3 && !over; i++) {
      await call('/etcdserverpb.KV/Range', Buffer.from([10, 1, 97]), true, () => {
        if (out || over) return;
        out = true; pings++;
        s.ping(() => { out = false; });
      });
    }
    if (!over && pings < 20) over = 'only ' + pings + ' pings';
  }
  if (what == 'still') await wait(6000);
  await wait(300);
  console.log(over || 'open');
  process.exit(0);
})();
"""


def node(server, what):
    r = subprocess.run(["node", "-e", CLIENT, "--", str(server.port), what], stdout=subprocess.PIPE, timeout=60, check=True)
    return r.stdout.decode().strip()


def frames(conn):
    """(kind, flags, payload) until the connection ends."""
    data = b""
    while True:
        while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
            try:
                part = conn.recv(4096)
            except ConnectionError:
                part = b""
            if not part:
                return
            data += part
        n = int.from_bytes(data[:3], "big")
        yield data[3], data[4], data[9:9 + n]
        data = data[9 + n:]


def connect(server):
    conn = socket.create_connection(("127.0.0.1", server.port), 60)
    conn.sendall(HELLO + b"\0\0\0\4\1\0\0\0\0")
    return conn


def mute(server):
    """A client that never answers is pinged, then given up."""
    conn, began, pings = connect(server), time.monotonic(), 0
    for kind, flags, _ in frames(conn):
        pings += kind == PING and not flags & ACK
    assert pings == 1, f"{pings} pings"
    assert time.monotonic() - began >= 1.5, "too early"


def answering(server):
    """One that answers, and does nothing else, stays and is asked again."""
    conn, pings = connect(server), 0
    for kind, flags, payload in frames(conn):
        if kind == PING and not flags & ACK:
            conn.sendall(struct.pack(">I", 8)[1:] + bytes([PING, ACK]) + bytes(4) + payload)
            pings += 1
            if pings == 4:
                break
    assert pings == 4, "the connection was ended"
    conn.close()


def calm(server, what):
    got = node(server, what)
    assert got == f"goaway {CALM} too_many_pings", got


def stays(server, what):
    got = node(server, what)
    assert got == "open", got


tap = Tap()
kinds = ["kfarm"] + (["etcd"] if etcd_binary("3.5") else [])
for name in kinds:
    srv = Server(name, FLAGS, version="3.5")
    try:
        tap.run(f"{name}: a client that does not answer a ping is given up", lambda: mute(srv))
        tap.run(f"{name}: one that answers stays", lambda: answering(srv))
        if shutil.which("node"):
            tap.run(f"{name}: a still client that answers pings stays", lambda: stays(srv, "still"))
            tap.run(f"{name}: pings without a call are too many", lambda: calm(srv, "alone"))
            tap.run(f"{name}: pings beside a watch are welcome, at their time", lambda: stays(srv, "watching"))
            tap.run(f"{name}: and too many when they come faster", lambda: calm(srv, "hasty"))
            tap.run(f"{name}: an answer forgives them", lambda: stays(srv, "busy"))
            tap.run(f"{name}: each piece of a long answer too", lambda: stays(srv, "long"))
    finally:
        srv.stop()
tap.end()
