"""Where kfarm's answers may differ from a real etcd's, each with its reason. docs/store.md lists them for users."""


def allowed(version, op, ours, theirs, pair):
    call, msg = op.get("call"), op.get("msg", {})
    if version == "3.4":
        # Its alarms are answered without a header.
        if call == "alarm" and [f for f in ours if f[0] != "header"] == theirs:
            return True
        # It refuses the hash of the compacted revision itself.
        if call == "hashkv" and msg.get("revision") == pair.compacted and theirs[:2] == ["error", "OUT_OF_RANGE"]:
            return True
        # It does not know of downgrades, nor tells whether it asks for users.
        if call in ("downgrade", "auth_status") and theirs[:2] == ["error", "UNIMPLEMENTED"]:
            return True
    # etcd 3.5 keeps the hashes of its last compactions and repeats them, with the revision compacted before.
    if call == "hashkv" and version.startswith("3.5") and msg.get("revision", 0) in pair.compactions:
        return True
    # etcd gives a lock or leadership to who waited for it even when its own key is gone meanwhile, or is another's that
    # came later in its place; kfarm says that the session is over.
    if call in ("lock", "campaign") and ours[0] == "error" and ours[2].endswith(": session is expired"):
        return theirs[0] != "error"
    # The last etcds of 3.5 tell their status to root only; clients ask for it to learn the version.
    if call == "status" and version == "3.5new" and theirs[:2] == ["error", "PERMISSION_DENIED"]:
        return True
    # Without a user's name etcd answers a transaction that touches no key, and looks for a user of no name.
    if ours[:1] == ["error"] and ours[2] == "etcdserver: user name is empty":
        return call == "txn" and not keys_of(msg) or call == "user_get" and not msg.get("name")
    return False


def keys_of(txn):
    """Does a transaction name a key anywhere?"""
    ops = txn.get("success", []) + txn.get("failure", [])
    return txn.get("compare") or any("request_txn" not in op or keys_of(op["request_txn"]) for op in ops)
