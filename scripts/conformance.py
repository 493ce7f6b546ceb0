#!/usr/bin/env python3
"""Replays recorded conversations with upstream's API server against another server and compares the answers.

usage: conformance.py (--kubeconfig FILE | --server URL --ca FILE --cert FILE --key FILE) [--data DIR]
                      [--show N] [--scenario NAME] [--markdown]

One line of testdata/conformance/*.jsonl is a request and upstream's answer. Identifiers, revisions, times, tokens and random
names are masked on both sides. An answer counts when status, warnings and body agree completely.
"""
import argparse
import base64
import collections
import glob
import http.client
import json
import os
import re
import ssl
import sys
import tempfile
import urllib.parse

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
# Kinds that kfarm does not serve on purpose: see docs/conformance.md.
OUT_OF_SCOPE = re.compile(
    r"^(crd|webhook$|vap$|defaults-(admissionregistration|apiregistration|networking\.k8s\.io_v1-ServiceCIDR))")
OUT_OF_SCOPE_PATH = re.compile(
    r"/apis/(admissionregistration|apiextensions|apiregistration|resource)\.k8s\.io/"
    r"|/(servicecidrs|ipaddresses|componentstatuses|volumeattributesclasses)\b")


def kubeconfig(path):
    """The few fields needed, of a kubeconfig in block or flow style with one cluster and one user."""
    text = open(path, encoding="utf-8").read()

    def field(name):
        m = re.search(rf'["\']?{name}["\']?:\s*["\']?([^\s"\',}}]+)', text)
        return m.group(1) if m else None

    def file_of(name):
        if field(name + "-data"):
            f = tempfile.NamedTemporaryFile(delete=False)
            f.write(base64.b64decode(field(name + "-data")))
            f.close()
            TEMP.append(f.name)
            return f.name
        return field(name)

    return (field("server"), file_of("certificate-authority"), file_of("client-certificate"), file_of("client-key"))


TEMP = []


class Server:
    def __init__(self, url, ca, cert, key):
        u = urllib.parse.urlsplit(url)
        self.host, self.port = u.hostname, u.port or 443
        self.with_cert = ssl.create_default_context(cafile=ca)
        self.with_cert.load_cert_chain(cert, key)
        self.anonymous = ssl.create_default_context(cafile=ca)
        self.conns = {}

    def request(self, method, path, body=None, headers=None, anon=False):
        for attempt in (0, 1):
            conn = self.conns.get(anon)
            if conn is None:
                ctx = self.anonymous if anon else self.with_cert
                conn = self.conns[anon] = http.client.HTTPSConnection(self.host, self.port, context=ctx, timeout=30)
            try:
                h = {"User-Agent": "recorder", "Accept": "application/json"}
                h.update(headers or {})
                conn.request(method, path, body=body, headers=h)
                r = conn.getresponse()
                return r.status, (r.headers.get_all("Warning") or [None])[-1], r.read()
            except (http.client.HTTPException, OSError):
                conn.close()
                self.conns.pop(anon)
                if attempt:
                    raise


MASKS = [
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uid>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"kube-api-access-[a-z0-9]{5}"), "kube-api-access-<random>"),
    (re.compile(r"\b10\.96\.\d+\.\d+\b"), "<service-ip>"),
    (re.compile(r"\bBad_[a-z0-9]{5}\b"), "Bad_<random>"),
    (re.compile(r"X509SHA256=[0-9a-f]{64}"), "X509SHA256=<sha>"),
    (re.compile(r"in record \(\d+\)"), "in record (<rv>)"),
    (re.compile(r"current: \d+"), "current: <rv>"),
    (re.compile(r"\{TCP 3\d{4}\}"), "{TCP <node-port>}"),
    (re.compile(r'resourceVersion: "\d+"'), 'resourceVersion: "<rv>"'),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), "<token>"),
    (re.compile(r"kubernetes-super-admin|kubernetes-admin"), "<admin>"),
]
AGE = re.compile(r"^(<unknown>|\d+[smhdy](\d+[smhd])?|<invalid>)$")


# What the controllers and the scheduler of the recording wrote is not the API server's answer.
CONTROLLERS = ("kube-scheduler", "kube-controller-manager", "clusterrole-aggregation-controller")


def by_controller(v):
    return isinstance(v, dict) and (v.get("manager") in CONTROLLERS
                                    or (v.get("type") == "PodScheduled" and v.get("reason") == "Unschedulable"))


def foreign(x):
    """Objects of kfarm's own beside upstream's defaults, and those of the recording's vendor, are not compared."""
    name = str((x.get("metadata") or {}).get("name", "")) if isinstance(x, dict) else ""
    return name.startswith("kfarm:") or "openshift" in name or "service-ca-cert-publisher" in name


def mask(v, key="", path=()):
    if isinstance(v, dict):
        out = {k: mask(x, k, path + (k,)) for k, x in v.items()}
        if isinstance(out.get("description"), str):
            del out["description"]  # the recording has none
        for k in ("managedFields", "conditions"):
            if k in out and v[k] and not out[k]:
                del out[k]
        # The recording cluster published a further CA bundle of its vendor into every pod.
        if key == "projected" and isinstance(out.get("sources"), list):
            out["sources"] = [s for s in out["sources"] if (s.get("configMap") or {}).get("name") != "openshift-service-ca.crt"]
        return out
    if isinstance(v, list):
        return [mask(x, key, path) for x in v if not by_controller(x) and not foreign(x)]
    if isinstance(v, bool) or v is None:
        return v
    if key == "remainingItemCount":
        return "<count>"
    if isinstance(v, (int, float)):
        return "<node-port>" if key in ("nodePort", "healthCheckNodePort") and v >= 30000 else v
    if key == "message" and re.search(r'Invalid value: "\{\\"', v):
        return re.sub(r'Invalid value: "\{.*\}": ', 'Invalid value: "<object>": ', v, flags=re.S)
    if key == "resourceVersion" and v:
        return "<rv>"
    if key == "continue" and v:
        return "<continue>"
    if key == "token" and len(v) > 100:
        return "<token>"
    if key == "cells" and AGE.match(v):
        return "<age>"
    if key == "serverAddress":
        return "<address>"
    for pattern, text in MASKS:
        v = pattern.sub(text, v)
    return v


def body_of(raw):
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def prepare_body(b):
    if b is None:
        return None
    if isinstance(b, dict) and "<large>" in b:
        text = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"a": ""}})
        return text.replace('"a": ""', '"a": "%s"' % ("x" * b["<large>"])).encode()
    if isinstance(b, str):
        m = re.match(r"^<(\d+) bytes: (.*)xxx\.\.\.>$", b)
        if m:
            head = '{"a":"'
            return (head + "x" * (int(m.group(1)) - len(head) - 2) + '"}').encode()
        return b.encode()
    return json.dumps(b).encode()


def subst(s, saved):
    return re.sub(r"\$\{(\w+)\}", lambda m: saved.get(m.group(1), m.group(0)), s)


def differences(want, got, path="", out=None, limit=6):
    out = [] if out is None else out
    if len(out) >= limit:
        return out
    if isinstance(want, dict) and isinstance(got, dict):
        for k in sorted(set(want) | set(got)):
            p = f"{path}.{k}"
            if k not in got:
                out.append(f"{p}: missing, want {json.dumps(want[k])[:200]}")
            elif k not in want:
                out.append(f"{p}: unwanted {json.dumps(got[k])[:200]}")
            else:
                differences(want[k], got[k], p, out, limit)
    elif isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            out.append(f"{path}: {len(got)} items, want {len(want)}")
        for i, (a, b) in enumerate(zip(want, got)):
            differences(a, b, f"{path}[{i}]", out, limit)
    elif want != got or isinstance(want, bool) != isinstance(got, bool):
        out.append(f"{path}: got {json.dumps(got)[:300]}, want {json.dumps(want)[:300]}")
    return out


def compare(step, status, warning, raw):
    diffs = []
    if status != step["status"]:
        diffs.append(f"status {status}, want {step['status']}: {raw[:300]!r}")
    want_warning = step["headers"].get("Warning")
    if mask(warning or "") != mask(want_warning or ""):
        diffs.append(f"warning {warning!r}, want {want_warning!r}")
    want, got = mask(step["body"]), mask(body_of(raw))
    if step["request"]["m"] == "HEAD":
        got = want
    if not diffs or status == step["status"]:
        differences(want, got, "", diffs)
    return diffs


def controllers(server, step, status):
    """What a controller manager did during the recording: default service accounts in new namespaces."""
    r = step["request"]
    if r["m"] == "POST" and r["p"].split("?")[0] == "/api/v1/namespaces" and status == 201:
        account(server, r["b"]["metadata"]["name"])


def account(server, ns):
    body = json.dumps({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}).encode()
    server.request("POST", f"/api/v1/namespaces/{ns}/serviceaccounts", body,
                   {"Content-Type": "application/json", "User-Agent": "kube-controller-manager"})


def replay(server, files, only):
    results = collections.OrderedDict()
    account(server, "default")
    for path in files:
        steps = [json.loads(line) for line in open(path, encoding="utf-8")]
        name = steps[0]["scenario"]
        if only and only != name:
            continue
        saved = {}
        results[name] = []
        for step in steps:
            r = step["request"]
            headers = {k: subst(v, saved) for k, v in r.get("h", {}).items()}
            body = prepare_body(r.get("b"))
            if body is not None:
                body = subst(body.decode("utf-8", "surrogateescape"), saved).encode("utf-8", "surrogateescape")
                headers.setdefault("Content-Type", "application/json")
            target = subst(r["p"], saved).replace(" ", "%20")
            status, warning, raw = server.request(r["m"], target, body, headers, r.get("anon", False))
            for key, at in r.get("save", {}).items():
                v = body_of(raw)
                for part in at.split("."):
                    v = v.get(part, "") if isinstance(v, dict) else ""
                saved[key] = str(v)
            controllers(server, step, status)
            in_scope = not OUT_OF_SCOPE.search(name) and not OUT_OF_SCOPE_PATH.search(r["p"])
            results[name].append((step, compare(step, status, warning, raw), in_scope))
    return results


def order(path):
    """The order of the recording: later scenarios build on the state that earlier ones left."""
    first = ["discovery", "bootstrap", "table-columns", "pod-crud", "request-errors", "list-setup", "list"]
    name = os.path.basename(path)[:-len(".jsonl")]
    return (first.index(name) if name in first else len(first), name)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--kubeconfig")
    p.add_argument("--server")
    p.add_argument("--ca")
    p.add_argument("--cert")
    p.add_argument("--key")
    p.add_argument("--data", default=os.path.join(TOP, "testdata/conformance"))
    p.add_argument("--show", type=int, default=0, help="print the differences of the first N steps")
    p.add_argument("--scenario")
    p.add_argument("--markdown", action="store_true", help="a table for docs/conformance.md")
    a = p.parse_args()
    access = kubeconfig(a.kubeconfig) if a.kubeconfig else (a.server, a.ca, a.cert, a.key)
    try:
        results = replay(Server(*access), sorted(glob.glob(os.path.join(a.data, "*.jsonl")), key=order), a.scenario)
    finally:
        for f in TEMP:
            os.unlink(f)
    same = total = same_status = shown = skipped = 0
    for name, steps in results.items():
        ok = sum(1 for _, d, s in steps if s and not d)
        n = sum(1 for _, _, s in steps if s)
        same, total = same + ok, total + n
        skipped += len(steps) - n
        same_status += sum(1 for _, d, s in steps if s and not any(x.startswith("status ") for x in d))
        for step, diffs, in_scope in steps:
            if diffs and in_scope and shown < a.show:
                shown += 1
                print(f"--- {name} {step['step']}: {step['request']['m']} {step['request']['p']}")
                for d in diffs:
                    print(f"    {d}")
        if a.markdown and n:
            print(f"| {name} | {ok} / {n} |")
    print(f"conformance: {same} of {total} answers are the same ({100 * same / max(total, 1):.1f} %), "
          f"{same_status} have the same status; {skipped} steps about kinds that are not served")
    return 0


sys.exit(main())
