"""Writers and watchers that go through an API server and know what was acknowledged.

A write without an answer may have happened or not; everything that was answered must be there at the
end, and every watcher must have seen it, in order, unless the server told it to list again (410).
"""
import http.client
import json
import threading
import time

from upstream_lab import ApiError

LABEL = "kfarm-writer"
NO_ANSWER = (OSError, http.client.HTTPException, ValueError)


class Writer(threading.Thread):
    """Creates, updates and deletes its own config maps, one after the other."""

    def __init__(self, api, namespace, number, objects=5):
        super().__init__(daemon=True)
        self.api, self.namespace, self.number = api, namespace, number
        self.names = [f"w{number}-{i}" for i in range(objects)]
        self.state = {name: {None} for name in self.names}  # what may be there: sequence numbers, None is absent
        self.acked = []  # (resource version, name, sequence number or None)
        self.times = []  # when acknowledgements came
        self.refused = self.unanswered = 0
        self.halt = threading.Event()

    def run(self):
        sequence = 0
        while not self.halt.is_set():
            sequence += 1
            name = self.names[sequence % len(self.names)]
            remove = sequence % 7 == 0
            try:
                self._write(name, None if remove else sequence)
            except ApiError as e:
                if e.code in (404, 409) and len(self.state[name]) > 1:
                    self._settle(name)
                else:
                    self.refused += 1
                    self.halt.wait(0.05)
            except NO_ANSWER:
                self.unanswered += 1
                self.halt.wait(0.05)

    def path(self, name=""):
        return f"/api/v1/namespaces/{self.namespace}/configmaps" + (name and "/" + name)

    def _write(self, name, sequence):
        before = self.state[name]
        if sequence is None and before == {None}:
            return
        self.state[name] = before | {sequence}  # until there is an answer
        body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"n": str(sequence)},
                "metadata": {"name": name, "labels": {LABEL: str(self.number)}}}
        try:
            if sequence is None:
                self.api.delete(self.path(name), timeout=15)
                version = 0
            elif None in before:
                try:
                    version = self.api.post(self.path(), body, timeout=15)["metadata"]["resourceVersion"]
                except ApiError as e:
                    if e.code != 409 or before == {None}:
                        raise
                    version = self.api.put(self.path(name), body, timeout=15)["metadata"]["resourceVersion"]
            else:
                version = self.api.put(self.path(name), body, timeout=15)["metadata"]["resourceVersion"]
        except ApiError as e:
            if e.code < 500:  # refused: nothing was written
                self.state[name] = before
            raise
        self.state[name] = {sequence}
        self.acked.append((int(version), name, sequence))
        self.times.append(time.monotonic())

    def _settle(self, name):
        """Asks what became of writes without an answer."""
        try:
            found = int(self.api.get(self.path(name), timeout=15)["data"]["n"])
        except ApiError as e:
            if e.code != 404:
                return
            found = None
        except NO_ANSWER:
            return
        if found not in self.state[name]:
            raise AssertionError(f"{name} is {found}, possible are {self.state[name]}")
        self.state[name] = {found}

    def lost(self, there):
        """there: name → sequence number. Returns what differs from what may be there."""
        return [f"{name}: {there.get(name)} is there, possible are {self.state[name]}" for name in self.names
                if there.get(name) not in self.state[name]]


class Watcher(threading.Thread):
    """Follows the config maps of a namespace as an informer does: lists when told to, else resumes."""

    def __init__(self, api, namespace):
        super().__init__(daemon=True)
        self.api, self.path = api, f"/api/v1/namespaces/{namespace}/configmaps?labelSelector={LABEL}"
        self.seen, self.gaps, self.connections, self.lists, self.faults = {}, [], 0, 0, []
        self.known = {}  # name → sequence number as the events tell
        self.version = 0
        self.halt = threading.Event()

    def run(self):
        fresh = True
        while not self.halt.is_set():
            try:
                if fresh:
                    self._list()
                    fresh = False
                self.connections += 1
                for event in self.api.watch(f"{self.path}&watch=1&resourceVersion={self.version}"
                                            "&allowWatchBookmarks=true&timeoutSeconds=600", timeout=90):
                    if event["type"] == "ERROR":
                        fresh = event["object"].get("code") == 410
                        break
                    self._take(event)
                    if self.halt.is_set():
                        return
            except ApiError as e:
                fresh = e.code == 410
                self.halt.wait(0.1)
            except NO_ANSWER:
                self.halt.wait(0.1)

    def _list(self):
        found = self.api.get(self.path)
        version = int(found["metadata"]["resourceVersion"])
        if version < self.version:
            self.faults.append(f"list at {version} after an event at {self.version}")
        self.gaps.append((self.version, version))
        self.lists += 1
        self.version = version
        self.known = {o["metadata"]["name"]: int(o["data"]["n"]) for o in found["items"]}

    def _take(self, event):
        meta = event["object"]["metadata"]
        version = int(meta["resourceVersion"])
        if event["type"] == "BOOKMARK":
            if version < self.version:
                self.faults.append(f"bookmark {version} after {self.version}")
            self.version = max(version, self.version)
            return
        if version <= self.version:
            self.faults.append(f"event {version} of {meta['name']} after {self.version}")
        self.version = max(version, self.version)
        number = int(event["object"]["data"]["n"])
        self.seen[version] = (meta["name"], None if event["type"] == "DELETED" else number)
        if event["type"] == "DELETED":
            self.known.pop(meta["name"], None)
        else:
            self.known[meta["name"]] = number

    def missed(self, acked):
        """Acknowledged writes that were not told, other than those in a gap."""
        return [a for a in acked if a[2] is not None and a[0] > 0 and self.seen.get(a[0]) != (a[1], a[2])
                and not any(low < a[0] <= high for low, high in self.gaps)]


def contents(api, namespace):
    """name → sequence number, read from the store and not from a cache."""
    found = api.get(f"/api/v1/namespaces/{namespace}/configmaps?labelSelector={LABEL}")
    return {o["metadata"]["name"]: int(o["data"]["n"]) for o in found["items"]}
