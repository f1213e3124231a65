"""Attacks on a repository, by whoever holds it: with no key, with a key that was removed, or with none but a guess of the public keys.

    attack.py ATTACK REPOSITORY STORE [NAME=VALUE …]

Prints what it has to show as one JSON object. Each does what it does to the objects alone; the tests run the real program before and after.
"""

import json
import os
import shutil
import sys

from objects import (
    Identity, Ring, PACK, RECORD, age_close, b64, bech32, checkpoint, close, h, head, mac, object_key, open_record, open_ring,
    pack, page, record, ring1, ring2, segment, text, unbech32, AESGCM,
)

EVIL = b"<?php system($_GET[0]);"
repository, store = sys.argv[2], sys.argv[3]
options = dict(argument.split("=", 1) for argument in sys.argv[4:])
base = os.path.join(repository, store)


def at(*parts):
    return os.path.join(base, *parts)


def put(data, *parts):
    path = at(*parts)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def get(*parts):
    with open(at(*parts), "rb") as file:
        return file.read()


def listed(folder):
    return sorted(os.listdir(at(folder))) if os.path.isdir(at(folder)) else []


def log(sequence):
    return f"{sequence:020}"


def key(sequence):
    return f"{sequence:010}"


def newest():
    return int(listed("keys")[-1])


def opened(identity, sequence):
    return open_ring(get("keys", key(sequence)), identity)


def snapshot(ring=None, generation=None, names_segment=True):
    """Ships a file of the attacker's, and returns the event of a snapshot that shows it."""
    keys = ring.keys if ring else ()
    leaf = page(b"evil.php", EVIL)
    data, pack_generation, salt, places = pack(store, [(1, leaf), (0, EVIL)], keys, generation)
    pack_id = h(data)
    put(data, "packs", pack_id.hex()[:2], pack_id.hex())
    index = segment(store, pack_id, len(data), pack_generation, salt, places, keys, generation)
    put(index, "index", h(index).hex())
    changes = {name: 0 for name in ("added", "modified", "metadata", "removed", "unchanged")}
    counts = ("read_bytes", "new_bytes", "shipped_bytes", "torn_files", "unreadable", "vanished")
    return {
        "kind": "snapshot",
        "manifest": {"page": h(leaf).hex(), "height": 0, "entries": 2, "size_bytes": len(EVIL)},
        "scan_start_ns": 1_700_000_000_000_000_000,
        "scan_end_ns": 1_700_000_000_000_000_001,
        "source_path": "/srv/acme",
        "filesystem": {"magic": 0, "id": 0, "root_inode": 0, "mounts": []},
        "statistics": {"changes": changes, **{name: 0 for name in counts}},
        "new_packs": [{"id": pack_id.hex(), "size_bytes": len(data)}],
        "new_index": [{"id": h(index).hex(), "size_bytes": len(index)}],
    }


def write_log(count, ring, previous=None, begins=1, generation=None):
    """So many records that say nothing, then the snapshot."""
    for sequence in range(begins, begins + count):
        last = sequence + 1 == begins + count
        event = snapshot(ring, generation) if last else {"kind": "unpinned", "snapshot": 1}
        data = record(store, sequence, previous, event, ring, generation)
        put(data, "log", log(sequence))
        previous = h(data)
    return previous


def plant():
    """Everything goes; a keyring of the attacker's for the victim's public key, and a log of `records` sealed with it."""
    victim = unbech32(options["victim"])
    attacker = Identity(h(b"attacker"))
    if options.get("delete", "yes") == "yes":
        shutil.rmtree(base, ignore_errors=True)
    sequence = int(options.get("sequence", 1))
    master, keys = h(b"master"), [h(b"data")]
    names, publics = ["key-file", "standby"], [victim, attacker.public]
    if options["version"] == "1":
        # One slot: the list of holders looks as ever.
        data, ring = ring1(store, sequence, names[:1], publics[:1], master, keys)
    else:
        claims = victim if options.get("claims") == "victim" else None
        before = None
        if sequence > 1:
            # What cannot be known of the one before is made up.
            before = Ring(2, sequence - 1, h(b"guess"), master, keys, publics, names, [
                {"sequence": n, "hash": h(b"guess").hex(), "keys": 1} for n in range(1, sequence - 1)
            ])
        data, ring = ring2(store, attacker, names, publics, master, keys, before=before, claims=claims)
    put(data, "keys", key(sequence))
    if int(options.get("records", 0)):
        write_log(int(options["records"]), ring)
    return {}


def read():
    """Opens every pack with the attacker's data keys, and tells what lies there: hashes of what is stored as it is."""
    if "identity" in options:
        identity = Identity.read(options["identity"])
        keys = []
        for name in listed("keys"):
            try:
                found = open_ring(get("keys", name), identity).keys
                keys += [k for k in found if k not in keys]
            except BaseException:
                continue
    else:
        keys = [h(b"data")]
    found = []
    for folder, _, files in os.walk(at("packs")):
        for name in files:
            data = open(os.path.join(folder, name), "rb").read()
            generation, salt = int.from_bytes(data[9:13], "little"), data[13:29]
            if not generation:
                continue
            for data_key in keys:
                offset, seal = 29, AESGCM(object_key(data_key, salt, PACK, 0, store))
                try:
                    while offset < len(data):
                        nonce = lambda part: (256 * offset + part).to_bytes(12, "little")
                        frame = seal.decrypt(nonce(0), data[offset : offset + 26], None)
                        length = int.from_bytes(frame[2:6], "little")
                        body = seal.decrypt(nonce(1), data[offset + 26 : offset + 42 + length], None)
                        if frame[0] == 0:
                            found.append(h(body).hex())
                        offset += 42 + length
                    break
                except Exception:
                    continue
    return {"read": found}


def plain():
    """Everything goes; a log without any encryption, which shows the attacker's file, or says nothing."""
    if options.get("delete", "yes") == "yes":
        shutil.rmtree(base, ignore_errors=True)
    if options.get("nothing") == "yes":
        put(record(store, 1, None, {"kind": "unpinned", "snapshot": 1}), "log", log(1))
    else:
        write_log(int(options["records"]), None)
    return {}


def longer():
    """The log goes on behind record `behind` with so many others, without any encryption; the records of the live one are kept aside."""
    behind = int(options["behind"])
    kept = at("..", "kept-log")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(at("log"), kept)
    for name in listed("log"):
        if int(name) > behind:
            os.remove(at("log", name))
    write_log(int(options["records"]), None, previous=h(get("log", log(behind))), begins=behind + 1)
    return {}


def back():
    """One record of the live log is put back in the midst of the other one."""
    name = log(int(options["record"]))
    shutil.copy(at("..", "kept-log", name), at("log", name))
    return {}


def former_ring():
    """Whoever was removed puts another keyring behind the one that removed them, or in its place."""
    identity = Identity.read(options["identity"])
    known = opened(identity, int(options["knows"]))
    sequence = int(options["sequence"])
    keys = known.keys + [h(b"data")]
    names, publics = list(known.names), list(known.recipients)
    before = known
    if sequence > known.sequence + 1:
        # The keyring that removed them: its name anybody reads, its keys not.
        stands = get("keys", key(sequence - 1))
        before = Ring(2, sequence - 1, h(stands[: stands.index(b"\n") + 1]), known.master, keys, publics, names,
                      known.before + [known.as_before()])
    claims = known.recipients[int(options["claims"])] if "claims" in options else None
    data, ring = ring2(store, identity, names, publics, h(b"master"), keys, before=before, claims=claims)
    put(data, "keys", key(sequence))
    if options.get("record") == "yes":
        sequence = len(listed("log")) + 1
        put(record(store, sequence, h(get("log", log(sequence - 1))), snapshot(ring), ring), "log", log(sequence))
    return {}


def former_record():
    """Whoever was removed appends a snapshot, sealed with the data keys that they have: naming the keyring that they know, the newest, or none."""
    identity = Identity.read(options["identity"])
    known = opened(identity, int(options["knows"]))
    sequence = len(listed("log")) + 1
    event = snapshot(known)
    ring = Ring(**vars(known))
    if options["names"] == "none":
        ring.version = 1
    if options["names"] == "newest":
        stands = get("keys", listed("keys")[-1])
        ring.sequence, ring.hash = newest(), h(stands[: stands.index(b"\n") + 1])
    data = record(store, sequence, h(get("log", log(sequence - 1))), event, ring)
    put(data, "log", log(sequence))
    return {}


def former_checkpoint():
    """Whoever was removed puts a checkpoint of the honest log's head that shows their own snapshot."""
    identity = Identity.read(options["identity"])
    known = opened(identity, int(options["knows"]))
    for name in listed("checkpoints"):
        os.remove(at("checkpoints", name))
    sequence = int(options.get("at", len(listed("log"))))
    event = snapshot(known)
    event.pop("kind")
    index, event["new_index"], event["new_packs"] = event["new_index"], [], []
    honest = get("log", log(sequence))
    stands = get("keys", listed("keys")[-1])
    state = {
        "head": [sequence, h(honest).hex()],
        "epoch": 0,
        "primary": None,
        "snapshots": {str(sequence): event},
        "index": index,
        "doomed_packs": {}, "doomed_index": {}, "pins": {}, "dropped": {},
        "moved": None, "lost": None, "pruned_ns": None,
    }
    named = {"sequence": newest(), "hash": h(stands[: stands.index(b"\n") + 1]).hex()}
    state["ring"] = named if sequence == len(listed("log")) else known.named()
    put(checkpoint(store, state, sequence, known.keys), "checkpoints", log(sequence))
    return {}


def former_segment():
    """Whoever was removed says, by a segment that no record names, that a content is there already: it would not be shipped."""
    identity = Identity.read(options["identity"])
    known = opened(identity, int(options["knows"]))
    content = bytes.fromhex(options["chunk"])
    data, generation, salt, places = pack(store, [(0, b"nothing of the kind" * 40)], known.keys)
    put(data, "packs", h(data).hex()[:2], h(data).hex())
    lies = [(content, places[0][1], places[0][2])]
    index = segment(store, h(data), len(data), generation, salt, lies, known.keys)
    put(index, "index", h(index).hex())
    return {}


def many_words():
    """Not an attack: a keyring of version 1 as earlier versions made it, with so many passphrases beside its key file."""
    identity = Identity.read(options["identity"])
    known = opened(identity, 1)
    publics, slots = [identity.public], [{"name": "file", "recipient": bech32("age", identity.public)}]
    for number in range(int(options["count"])):
        publics.append(Identity().public)
        words = {"memory_kib": 65536, "passes": 3, "salt": b64(os.urandom(16)), "identity": b64(os.urandom(48))}
        slots.append({"name": f"words-{number}", "recipient": bech32("age", publics[-1]), "passphrase": words})
    salt = os.urandom(16)
    seal = AESGCM(mac(known.master, b"understudy keyring 1" + salt))
    ring = {"version": 1, "store": store, "sequence": 1, "slots": slots, "master": b64(age_close(known.master, publics)),
            "salt": b64(salt), "keys": b64(seal.encrypt(bytes(12), b"".join(known.keys), text([1, store, 1, slots])))}
    put(text(ring), "keys", key(1))
    return {}


def names():
    """A keyring of version 1 for nobody here, whose holders' names steer a terminal."""
    shutil.rmtree(base, ignore_errors=True)
    name = "\x1b]0;owned\x07\x1b[2J\u202e\nkey-file"
    publics = [Identity().public]
    data, ring = ring1(store, 1, [name], publics, h(b"master"), [h(b"data")])
    put(data, "keys", key(1))
    put(record(store, 1, None, {"kind": "unpinned", "snapshot": 1}, ring), "log", log(1))
    return {}


def plain_text():
    """A log without encryption whose texts steer a terminal: the writer, a note."""
    shutil.rmtree(base, ignore_errors=True)
    hostile = "\x1b]0;owned\x07\x1b[2J\u202e\u009b2J\nroot"
    first = record(store, 1, None, snapshot())
    put(first, "log", log(1))
    body = {
        "store": store, "sequence": 2, "epoch": 1, "writer": hostile, "nonce": 1, "previous": h(first).hex(),
        "event": {"kind": "promoted", "primary": hostile},
    }
    second = close(b"USRECRD\x03", text(body), RECORD, 2, store)
    put(second, "log", log(2))
    body |= {"sequence": 3, "previous": h(second).hex()}
    body["event"] = {"kind": "pinned", "snapshot": 1, "note": hostile}
    put(close(b"USRECRD\x03", text(body), RECORD, 3, store), "log", log(3))
    note = {"host": hostile, "snapshot": 1, "published_ns": 1, "pinned": []}
    put(text(note), "standbys", "web-2")
    return {}


def show():
    """What whoever holds a key reads: whether this page and the program mean the same."""
    identity = Identity.read(options["identity"])
    ring = opened(identity, newest())
    records = []
    for name in listed("log"):
        try:
            found = open_record(get("log", name), store, int(name), ring.keys)
            records.append([found["event"]["kind"], (found.get("ring") or {}).get("sequence")])
        except Exception:
            records.append(None)
    return {"names": ring.names, "recipients": [bech32("age", p) for p in ring.recipients],
            "keys": len(ring.keys), "before": len(ring.before), "records": records}


ATTACKS = [plant, read, plain, longer, back, former_ring, former_record, former_checkpoint, former_segment, many_words, names, plain_text, show]
print(json.dumps({attack.__name__: attack for attack in ATTACKS}[sys.argv[1]]()))
