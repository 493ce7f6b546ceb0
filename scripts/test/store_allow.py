"""Where kfarm's answers may differ from a real etcd's, each with its reason. docs/store.md lists them for users."""


def allowed(version, op, ours, theirs, pair):
    call, msg = op.get("call"), op.get("msg", {})
    # etcd 3.5 keeps the hashes of its last compactions and repeats them, with the revision compacted before.
    if call == "hashkv" and version == "3.5" and msg.get("revision", 0) in pair.compactions:
        return True
    return False
