#!/usr/bin/env python3
"""Writes the objects that a cluster has from its first moment: gen.py OUT.c

data/bootstrap.jsonl holds upstream's defaults (names, rules, numbers), one object a line without what every object of its
kind has; data/kfarm.jsonl holds ours. The controllers of a builtin control plane run under one identity, so the rules of
all system:controller:* roles are also given together, as kfarm:controllers.
"""
import json
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
groups = {
    "Namespace": "v1",
    "ClusterRole": "rbac.authorization.k8s.io/v1",
    "ClusterRoleBinding": "rbac.authorization.k8s.io/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "PriorityClass": "scheduling.k8s.io/v1",
    "FlowSchema": "flowcontrol.apiserver.k8s.io/v1",
    "PriorityLevelConfiguration": "flowcontrol.apiserver.k8s.io/v1",
}
order = {"Namespace": 0, "PriorityClass": 1}


def lines(name):
    with open(os.path.join(here, "data", name), encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def merged(objects):
    rules = {}
    for o in objects:
        if o["kind"] == "ClusterRole" and o["metadata"]["name"].startswith("system:controller:"):
            for r in o.get("rules") or []:
                key = json.dumps({k: v for k, v in r.items() if k != "verbs"}, sort_keys=True)
                verbs = rules.setdefault(key, set())
                verbs.update(r["verbs"])
    return {
        "kind": "ClusterRole",
        "metadata": {"name": "kfarm:controllers"},
        "rules": [dict(json.loads(k), verbs=sorted(v)) for k, v in sorted(rules.items())],
    }


def finish(o):
    api = groups[o["kind"]]
    meta = o["metadata"]
    if api.startswith("rbac."):
        meta.setdefault("labels", {})["kubernetes.io/bootstrapping"] = "rbac-defaults"
        meta.setdefault("annotations", {})["rbac.authorization.kubernetes.io/autoupdate"] = "true"
    if api.startswith("flowcontrol."):
        meta.setdefault("annotations", {})["apf.kubernetes.io/autoupdate-spec"] = "true"
    out = {"kind": o["kind"], "apiVersion": api, "metadata": meta}
    out.update({k: v for k, v in o.items() if k not in out and k != "manager"})
    return out


def main():
    base = lines("bootstrap.jsonl")
    objects = base + [merged(base)] + lines("kfarm.jsonl")
    objects.sort(key=lambda o: order.get(o["kind"], 2))
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        f.write('#include "internal/apiserver/api_int.h"\n\nconst char api_bootstrap_json[] =\n')
        for o in objects:
            text = json.dumps(finish(o), separators=(",", ":"))
            text = text.replace("\\", "\\\\").replace('"', '\\"')
            f.write(f'    "{text}\\n"\n')
        f.write("    ;\n")


main()
