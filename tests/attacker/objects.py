"""The format as src/format/FORMAT.md describes it, written from that page alone: what an attacker would write.

Of the age file, the seals, keyrings of both versions, records, checkpoints, packs, segments and one page it has what the attacks need. It shares no
code with the program that it attacks.
"""

import base64
import json
import os
import struct
from hashlib import sha256

from blake3 import blake3
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ZERO = bytes(12)


def b64(data):
    return base64.b64encode(data).decode().rstrip("=")


def unb64(text):
    return base64.b64decode(text + "=" * (-len(text) % 4))


def h(data):
    return blake3(data).digest()


def derive(context, data):
    return blake3(data, derive_key_context=context).digest()


def mac(key, data):
    return blake3(data, key=key).digest()


# --- age

CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def polymod(values):
    generator = [0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3]
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i in range(5):
            check ^= generator[i] if (top >> i) & 1 else 0
    return check


def regroup(data, from_bits, to_bits, pad):
    acc = bits = 0
    out = []
    for value in data:
        acc = acc << from_bits | value
        bits += from_bits
        while bits >= to_bits:
            bits -= to_bits
            out.append(acc >> bits & (1 << to_bits) - 1)
    if pad and bits:
        out.append(acc << (to_bits - bits) & (1 << to_bits) - 1)
    return out


def bech32(prefix, data):
    values = regroup(data, 8, 5, True)
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    check = polymod(expanded + values + [0] * 6) ^ 1
    values += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return prefix + "1" + "".join(CHARSET[v] for v in values)


def unbech32(text):
    text = text.lower()
    at = text.rindex("1")
    return bytes(regroup([CHARSET.index(c) for c in text[at + 1 : -6]], 5, 8, False))


class Identity:
    def __init__(self, secret=None):
        self.secret = X25519PrivateKey.from_private_bytes(secret or os.urandom(32))
        self.public = raw(self.secret.public_key())
        self.recipient = bech32("age", self.public)

    @staticmethod
    def read(path):
        lines = [line for line in open(path).read().split() if line.startswith("AGE-SECRET-KEY-1")]
        return Identity(unbech32(lines[0]))

    def shared(self, public):
        return self.secret.exchange(X25519PublicKey.from_public_bytes(public))


def raw(public):
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def hkdf(secret, salt, info):
    return HKDF(hashes.SHA256(), 32, salt or None, info).derive(secret)


def age_close(payload, publics):
    file_key = os.urandom(16)
    header = "age-encryption.org/v1\n"
    for public in publics:
        one = Identity()
        key = hkdf(one.shared(public), one.public + public, b"age-encryption.org/v1/X25519")
        wrapped = ChaCha20Poly1305(key).encrypt(ZERO, file_key, None)
        header += f"-> X25519 {b64(one.public)}\n{b64(wrapped)}\n"
    header += "---"
    sign = hmac.HMAC(hkdf(file_key, b"", b"header"), hashes.SHA256())
    sign.update(header.encode())
    nonce = os.urandom(16)
    key = hkdf(file_key, nonce, b"payload")
    sealed = ChaCha20Poly1305(key).encrypt(bytes(11) + b"\x01", payload, None)
    return header.encode() + b" " + b64(sign.finalize()).encode() + b"\n" + nonce + sealed


def age_open(data, identity):
    head, rest = data.split(b"\n---", 1)
    lines = head.decode().split("\n")[1:]
    body = rest[rest.index(b"\n") + 1 :]
    for stanza, wrapped in zip(lines[::2], lines[1::2]):
        share = unb64(stanza.split()[2])
        key = hkdf(identity.shared(share), share + identity.public, b"age-encryption.org/v1/X25519")
        try:
            file_key = ChaCha20Poly1305(key).decrypt(ZERO, unb64(wrapped), None)
        except Exception:
            continue
        key = hkdf(file_key, body[:16], b"payload")
        return ChaCha20Poly1305(key).decrypt(bytes(11) + b"\x01", body[16:], None)
    raise SystemExit("no stanza opens")


# --- seals

PACK, SEGMENT, RECORD, CHECKPOINT = range(4)


def head(magic, generation, salt):
    return magic + struct.pack("<BI", 1 if generation else 0, generation) + salt


def object_key(data_key, salt, kind, number, store, host=""):
    name = store.encode()
    text = b"understudy seal 1" + salt + bytes([kind]) + struct.pack("<Q", number)
    return mac(data_key, text + bytes([len(name)]) + name + host.encode())


def close(magic, body, kind, number, store, keys=(), generation=None):
    """A whole object around `body`: sealed with the data key of a generation (the newest, unless it is told), or with a hash at its end."""
    generation = len(keys) if generation is None else generation
    salt = os.urandom(16)
    start = head(magic, generation, salt)
    if not generation:
        return start + body + h(start + body)
    key = object_key(keys[generation - 1], salt, kind, number, store)
    return start + AESGCM(key).encrypt(ZERO, body, start)


def open_object(data, kind, number, store, keys):
    generation, salt = struct.unpack("<I", data[9:13])[0], data[13:29]
    if not generation:
        return data[29:-32]
    key = object_key(keys[generation - 1], salt, kind, number, store)
    return AESGCM(key).decrypt(ZERO, data[29:], data[:29])


# --- keyrings


class Ring:
    """What a keyring opens to."""

    def __init__(self, version, sequence, hash, master, keys, recipients, names, before):
        self.version, self.sequence, self.hash = version, sequence, hash
        self.master, self.keys, self.before = master, keys, before
        self.recipients, self.names = recipients, names

    def as_before(self):
        return {"sequence": self.sequence, "hash": self.hash.hex(), "keys": len(self.keys)}

    def named(self):
        return {"sequence": self.sequence, "hash": self.hash.hex()} if self.version == 2 else None


def ring2(store, maker, names, publics, master, keys, before=None, sequence=None, claims=None, hashes=None):
    """A keyring of version 2. `claims` is the public key of whom it is said to be made by; `before` an opened one, or what is said to be one."""
    salt = os.urandom(16)
    sequence = sequence or (before.sequence + 1 if before else 1)
    history = (before.before + [before.as_before()]) if before else []
    claims = claims or maker.public
    inner = {
        "recipients": [bech32("age", public) for public in publics],
        "maker": publics.index(claims),
        "keys": b64(b"".join(keys)),
        "before": history,
    }
    sealed = AESGCM(derive("understudy keyring 2 seal", master + salt)).encrypt(ZERO, text(inner), None)
    slots = [
        {"name": name, "holder": b64(derive("understudy keyring 2 holder", salt + public)[:16])}
        for name, public in zip(names, publics)
    ]
    body = {
        "version": 2,
        "store": store,
        "sequence": sequence,
        "slots": slots,
        "master": b64(age_close(master, publics)),
        "salt": b64(salt),
        "sealed": b64(sealed),
    }
    first = text(body) + b"\n"
    H = h(first)
    made = []
    for public in publics:
        key = derive("understudy keyring 2 slot", maker.shared(public) + claims + public)
        made.append(b64(mac(key, H)))
    chain = None
    if before:
        chain = b64(mac(derive("understudy keyring 2 chain", before.keys[-1] + before.hash), H))
    second = text({"made": made, "chain": chain}) + b"\n"
    return first + second, Ring(2, sequence, H, master, keys, publics, names, history)


def ring1(store, sequence, names, publics, master, keys):
    salt = os.urandom(16)
    slots = [{"name": n, "recipient": bech32("age", p)} for n, p in zip(names, publics)]
    key = mac(master, b"understudy keyring 1" + salt)
    covered = text([1, store, sequence, slots])
    sealed = AESGCM(key).encrypt(ZERO, b"".join(keys), covered)
    ring = {
        "version": 1,
        "store": store,
        "sequence": sequence,
        "slots": slots,
        "master": b64(age_close(master, publics)),
        "salt": b64(salt),
        "keys": b64(sealed),
    }
    data = text(ring)
    return data, Ring(1, sequence, h(data), master, keys, publics, names, [])


def text(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def open_ring(data, identity):
    first = data[: data.index(b"\n") + 1] if b"\n" in data else data
    try:
        body = json.loads(first)
    except ValueError:
        body = json.loads(data)
    master = age_open(unb64(body["master"]), identity)
    salt = unb64(body["salt"])
    names = [slot["name"] for slot in body["slots"]]
    split = lambda keys: [keys[i : i + 32] for i in range(0, len(keys), 32)]
    if body["version"] == 1:
        covered = text([1, body["store"], body["sequence"], body["slots"]])
        key = mac(master, b"understudy keyring 1" + salt)
        keys = AESGCM(key).decrypt(ZERO, unb64(body["keys"]), covered)
        publics = [unbech32(slot["recipient"]) for slot in body["slots"]]
        return Ring(1, body["sequence"], h(data), master, split(keys), publics, names, [])
    key = derive("understudy keyring 2 seal", master + salt)
    inner = json.loads(AESGCM(key).decrypt(ZERO, unb64(body["sealed"]), None))
    publics = [unbech32(recipient) for recipient in inner["recipients"]]
    return Ring(2, body["sequence"], h(first), master, split(unb64(inner["keys"])), publics, names, inner["before"])


# --- records and checkpoints


def record(store, sequence, previous, event, ring=None, generation=None, epoch=0):
    """A record's bytes; sealed with `ring`'s keys, naming it where it is of version 2."""
    body = {
        "store": store,
        "sequence": sequence,
        "epoch": epoch,
        "writer": "web-1",
        "nonce": 1,
        "previous": previous.hex() if previous else None,
    }
    named = ring.named() if ring else None
    if named:
        body["ring"] = named
    body["event"] = event
    magic = b"USRECRD\x04" if named else b"USRECRD\x03"
    return close(magic, text(body), RECORD, sequence, store, ring.keys if ring else (), generation)


def open_record(data, store, sequence, keys):
    return json.loads(open_object(data, RECORD, sequence, store, keys))


def zstd_raw(data):
    """A Zstandard frame of blocks that are not compressed."""
    out = b"\x28\xb5\x2f\xfd" + b"\xe0" + struct.pack("<Q", len(data))
    parts = [data[i : i + 65536] for i in range(0, len(data), 65536)] or [b""]
    for at, part in enumerate(parts):
        last = at + 1 == len(parts)
        out += struct.pack("<I", len(part) << 3 | int(last))[:3] + part
    return out


def checkpoint(store, state, sequence, keys, generation=None):
    return close(b"USCHECK\x01", zstd_raw(text(state)), CHECKPOINT, sequence, store, keys, generation)


# --- packs, segments and a page


def number(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def pack(store, chunks, keys=(), generation=None):
    """A pack of `chunks` (what for, bytes). Returns its bytes, generation, salt, and each chunk's id, offset and length."""
    generation = len(keys) if generation is None else generation
    salt = os.urandom(16)
    out = head(b"USPACK\x00\x02", generation, salt)
    places = []
    for what, data in chunks:
        at = len(out)
        frame = struct.pack("<BBII", 0, what, len(data), len(data))
        if generation:
            seal = AESGCM(object_key(keys[generation - 1], salt, PACK, 0, store))
            nonce = lambda part: (256 * at + part).to_bytes(12, "little")
            out += seal.encrypt(nonce(0), frame, None) + seal.encrypt(nonce(1), data, None)
        else:
            out += frame + data
        places.append((h(data), at, len(out) - at))
    return out, generation, salt, places


def segment(store, pack_id, size, pack_generation, pack_salt, places, keys=(), generation=None):
    table = b"USTABLE\x02" + struct.pack("<II", 1, len(places))
    table += pack_id + struct.pack("<QI", size, pack_generation) + pack_salt
    for chunk, offset, length in sorted(places):
        table += chunk + struct.pack("<III", 0, offset, length)
    table += h(table)
    return close(b"USINDEX\x02", table, SEGMENT, 0, store, keys, generation)


def entry(path, kind, more=b""):
    mode = number(0o755) if kind == 0 else number(0o644)
    return number(0) + number(len(path)) + path + bytes([kind]) + mode + number(0) * 2 + bytes(2) + number(0) + bytes(2) + more


def page(name, content):
    """A leaf with the root and one file of one chunk."""
    return b"L" + entry(b"", 0) + entry(name, 2, number(len(content)) + h(content))
