#!/usr/bin/python3
# timeout: 600
"""The API server on an external etcd that loses members, leaders, its past and its network."""
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import api_lab
from etcd_lab import Api, Cluster, KFARM, Watcher, Writer, free_port

ROUNDS = int(os.environ.get("ROUNDS", "3"))

# Answers reads from memory while etcd is away.
SOLE = ("--etcd-sole-writer",)


def no_gaps(seen, acked, where):
    """Every acknowledged create was watched once, in the order of revisions."""
    revs = [rv for _, _, rv in seen]
    assert revs == sorted(set(revs)), f"{where}: revisions go back or come twice"
    names = [n for t, n, _ in seen if t == "ADDED"]
    assert len(names) == len(set(names)), f"{where}: an object was added twice"
    missing = set(acked) - set(names)
    assert not missing, f"{where}: not seen by the watch: {sorted(missing)[:5]}"


def start_version(api):
    return api.call("GET", "/api/v1/namespaces/default/configmaps")[1]["metadata"]["resourceVersion"]


def members_are_killed():
    with Cluster(3) as c, Api(c) as api:
        watch, writer = Watcher(api, start_version(api)), Writer(api, "w")
        for n in range(ROUNDS):
            time.sleep(0.7)
            m, before = api.until("a connection", api.member_in_use), len(writer.acked)
            m.kill()
            api.until("writes go on", lambda: len(writer.acked) > before + 5)
            m.start(fresh=False)
        time.sleep(0.5)
        writer.stop()
        acked = writer.acked
        lost = set(acked) - api.names()
        assert not lost, f"acknowledged and lost: {sorted(lost)[:5]}"
        api.until("the watch has them all", lambda: set(acked) <= {n for _, n, _ in watch.seen})
        watch.stop()
        no_gaps(watch.seen, acked, "members killed")
        # A write under way when its member died is an error that says so, never a silent repetition.
        for name, status, message in writer.failed:
            assert status in (500, 503, 504), (name, status, message)
        print(f"# {len(acked)} acknowledged, {len(writer.failed)} failed {writer.failed[:2]}, slowest "
              f"{writer.slowest:.1f} s, {watch.requests} watch requests", flush=True)
        assert watch.requests == 1, "the watch was ended although nothing was compacted"


def own_writes_are_read():
    """Whoever heard of success finds what it wrote, also while the watch is being resumed elsewhere."""
    with Cluster(3) as c, Api(c, flags=SOLE) as api:
        done, wrong, stop = [0] * 6, [], threading.Event()

        def work(k):
            conn, i = api.conn(), 0
            while not stop.is_set():
                name = f"t{k}-{i}"
                i += 1
                if api.create(name, conn)[0] != 201:
                    continue
                status, body = api.call("GET", f"/api/v1/namespaces/default/configmaps/{name}", conn=conn)
                if status != 200:
                    wrong.append((name, status, body))
                done[k] += 1

        threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(len(done))]
        for t in threads:
            t.start()
        for _ in range(ROUNDS):
            time.sleep(0.5)
            m, before = api.until("a connection", api.member_in_use), sum(done)
            m.kill()
            api.until("writes go on", lambda: sum(done) > before + 30)
            m.start(fresh=False)
        stop.set()
        for t in threads:
            t.join(30)
        assert not wrong, wrong[:3]
        print(f"# {sum(done)} writes read back", flush=True)


def no_majority():
    with Cluster(3) as c, Api(c, flags=SOLE) as api:
        api.create("before")
        used = api.until("a connection", api.member_in_use)
        for m in [m for m in c.members if m is not used]:
            m.kill()
        began = time.monotonic()
        status, body = api.create("during")
        assert status in (500, 503, 504), (status, body)
        assert "etcd" in body["message"], body
        assert time.monotonic() - began < 40
        api.until("readyz sees it", lambda: not api.ready())
        status, text = api.call("GET", "/readyz?verbose")
        assert "[-]etcd failed" in text, text
        assert api.call("GET", "/livez")[0] == 200
        assert "before" in api.names()
        for m in c.members:
            if m.proc.poll() is not None:
                m.start(fresh=False)
        api.until("it heals", api.ready)
        api.until("writes succeed", lambda: api.create(f"after-{time.time_ns()}")[0] == 201)
        assert "before" in api.names()


def a_silent_member():
    """Nothing is refused and nothing answers: only a PING finds out."""
    with Cluster(3) as c, Api(c) as api:
        api.create("before")
        m = api.until("a connection", api.member_in_use)
        m.kill(signal.SIGSTOP)
        began = time.monotonic()
        api.until("another member", lambda: api.create(f"n-{time.time_ns()}")[0] == 201)
        took = time.monotonic() - began
        assert took < 40, took
        print(f"# {took:.1f} s", flush=True)
        m.proc.send_signal(signal.SIGCONT)


def compacted_meanwhile():
    """What happened while nobody could be reached is no longer known: everything is read again, watches end."""
    with Cluster(1) as c, Api(c) as api:
        watch = Watcher(api, start_version(api))
        for i in range(20):
            assert api.create(f"old-{i}")[0] == 201
        api.until("seen", lambda: len(watch.seen) == 20)
        os.kill(api.pid(), signal.SIGSTOP)
        c.members[0].kill()
        c.members[0].start(fresh=False)
        key = "/kfarm/test/registry/core/configmaps/default/"
        api.until("etcd is back", lambda: "true" in c.health())
        value = c.ctl("get", key + "old-0", "--print-value-only").rstrip("\n")
        c.ctl("put", key + "new", value.replace("old-0", "new"))
        c.ctl("del", key + "old-1")
        rev = c.ctl("put", "elsewhere", "x", "-w", "json").split('"revision":')[1].split(",")[0]
        c.ctl("compact", rev)
        os.kill(api.pid(), signal.SIGCONT)
        api.until("the new object", lambda: "new" in api.names())
        assert "old-1" not in api.names()
        assert "reading everything again" in api.log()
        assert api.create("later")[0] == 201
        api.until("the watch goes on", lambda: ("ADDED", "later") in [e[:2] for e in watch.seen])
        watch.stop()


def another_history():
    """The cluster was lost and made anew: what is not there any more is not served, and what every cluster has comes back."""
    with Cluster(1) as c, Api(c) as api:
        for i in range(5):
            assert api.create(f"lost-{i}")[0] == 201
        c.members[0].kill()
        shutil.rmtree(c.members[0].dir)
        c.members[0].start()
        api.until("the loss", lambda: not any(n.startswith("lost") for n in api.names()))
        api.until("namespaces", lambda: api.call("GET", "/api/v1/namespaces/default")[0] == 200)
        api.until("writes succeed", lambda: api.create("new")[0] == 201)
        assert api.names() >= {"new"}


def idle_is_idle():
    """Connected, watching and without work: no turns of the loop but those of its timers."""
    def ticks():
        fields = open(f"/proc/{api.pid()}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    with Cluster(1) as c, Api(c) as api:
        used = []
        while not used or used[-1] > 3:  # what the start made due takes as long as the machine needs
            assert len(used) < 10, f"{used} ticks of CPU in 3 s without work"
            before = ticks()
            time.sleep(3)
            used.append(ticks() - before)


def absent_at_the_start():
    c = Cluster(1, start=False)
    threading.Timer(8, c.start).start()
    with c, Api(c) as api:
        assert api.create("x")[0] == 201
        assert "the cluster cannot be used, trying on" in api.log()
        assert "connection refused" in api.log(), api.log()


def prefixes_are_apart():
    with Cluster(1) as c, Api(c, "/kfarm/a") as a, Api(c, "/kfarm/ab/") as ab:
        assert a.create("of-a")[0] == 201 and ab.create("of-ab")[0] == 201
        assert "of-ab" not in a.names() and "of-a" not in ab.names()
        assert a.create("of-ab")[0] == 201
        keys = c.ctl("get", "--prefix", "/", "--keys-only").split()
        assert all(k.startswith(("/kfarm/a/registry/", "/kfarm/ab/registry/")) for k in keys), keys
        assert "/kfarm/a/registry/core/configmaps/default/of-a" in keys


def tls_and_its_refusals():
    with Cluster(1, start=False) as c:
        pki = c.dir + "/pki"
        subprocess.run(["bash", "-ec", f"""
PKI={pki}; mkdir "$PKI"; cd "$PKI"; BATS_TEST_DIRNAME={api_lab.HERE}; . "$BATS_TEST_DIRNAME/kubectl.bash"
for ca in ca other; do
    openssl ecparam -name prime256v1 -genkey -noout -out $ca.key
    openssl req -x509 -new -key $ca.key -subj "/CN=$ca" -days 30 -out $ca.crt
done
make_cert server /CN=etcd; make_cert client /CN=client; make_cert root /CN=root; make_cert app /CN=app"""], check=True, stderr=subprocess.DEVNULL)
        c.tls = ["--cert-file", pki + "/server.crt", "--key-file", pki + "/server.key", "--trusted-ca-file",
                 pki + "/ca.crt", "--client-cert-auth"]
        c.start()
        mine = ["--etcd-certfile", pki + "/client.crt", "--etcd-keyfile", pki + "/client.key"]
        with Api(c, flags=["--etcd-cafile", pki + "/ca.crt", *mine]) as api:
            assert api.create("x")[0] == 201
            # The certificate is renewed by somebody: with the next connection the new one is used.
            subprocess.run(["bash", "-ec", f"PKI={pki}; BATS_TEST_DIRNAME={api_lab.HERE}; "
                            '. "$BATS_TEST_DIRNAME/kubectl.bash"; make_cert client /CN=again'], check=True,
                            stderr=subprocess.DEVNULL)
            c.members[0].kill()
            c.members[0].start(fresh=False)
            api.until("it is found again", lambda: api.create(f"y-{time.time_ns()}")[0] == 201)
        # etcd's own users: the certificate's name has its prefix and nothing else.
        root = ["--cacert", pki + "/ca.crt", "--cert", pki + "/root.crt", "--key", pki + "/root.key"]
        for words in ("user add root --no-password", "user grant-role root root", "role add app",
                      "role grant-permission app readwrite /kfarm/app/ /kfarm/app0", "user add app --no-password",
                      "user grant-role app app", "auth enable"):
            c.ctl(*root, *words.split())
        app = ["--etcd-cafile", pki + "/ca.crt", "--etcd-certfile", pki + "/app.crt", "--etcd-keyfile", pki + "/app.key"]
        with Api(c, "/kfarm/app", flags=app) as api:
            assert api.create("x")[0] == 201
        base = [KFARM, "apiserver", "--secure-port", str(free_port()), "--bind-address", "127.0.0.1", "--tls-cert-file",
                pki + "/server.crt", "--tls-private-key-file", pki + "/server.key"]

        def says(flags, text, seconds=20):
            p = subprocess.Popen(base + flags, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            timer = threading.Timer(seconds, p.kill)
            timer.start()
            lines = []
            for line in p.stdout:
                lines.append(line)
                if text in line:
                    break
            timer.cancel()
            p.kill()
            p.wait()
            assert lines and text in lines[-1], "".join(lines)

        servers = ["--etcd-servers", c.urls]
        says(servers + ["--etcd-cafile", pki + "/other.crt", *mine], "certificate")
        says(servers + ["--etcd-cafile", pki + "/ca.crt"], "reason=")
        says(servers + app + ["--etcd-prefix", "/kfarm/other"], "permission denied")
        says(servers, "needs a CA file")
        says(["--etcd-servers", "http://192.0.2.1:2379"], "without TLS only this machine")
        says(["--etcd-servers", "ftp://x"], "begins with none of")
        says(servers + ["--etcd-cafile", pki + "/none.crt"], "none.crt")


def kfarm_store_as_the_etcd():
    with Cluster(1, version="kfarm") as c, Api(c) as api:
        watch, writer = Watcher(api, start_version(api)), Writer(api, "k", 0.002)
        for _ in range(ROUNDS):
            time.sleep(0.5)
            before = len(writer.acked)
            c.members[0].kill()
            c.members[0].start()
            api.until("writes go on", lambda: len(writer.acked) > before + 5)
        writer.stop()
        lost = set(writer.acked) - api.names()
        assert not lost, f"acknowledged and lost: {sorted(lost)[:5]}"
        api.until("the watch has them all", lambda: set(writer.acked) <= {n for _, n, _ in watch.seen})
        watch.stop()
        no_gaps(watch.seen, writer.acked, "kfarm store")


TESTS = [("what was acknowledged survives kill -9 of the member in use, and watches have no gap", members_are_killed),
         ("what was written is read, members dying or not", own_writes_are_read),
         ("without a majority writes fail with etcd's words, reads go on, and it heals", no_majority),
         ("a member that says nothing is left for another", a_silent_member),
         ("history that was compacted meanwhile: everything is read again", compacted_meanwhile),
         ("a cluster made anew under the same address is another history", another_history),
         ("without work nothing runs", idle_is_idle),
         ("an etcd that is not there yet is waited for", absent_at_the_start),
         ("two API servers on one etcd, one prefix being the start of the other", prefixes_are_apart),
         ("TLS with client certificates; wrong ones are named", tls_and_its_refusals),
         ("kfarm store is the etcd", kfarm_store_as_the_etcd)]

if __name__ == "__main__":
    only = sys.argv[1:]
    sys.exit(api_lab.run([t for t in TESTS if not only or t[1].__name__ in only]))
