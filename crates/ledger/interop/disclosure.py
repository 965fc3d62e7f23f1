#!/usr/bin/env python3
"""Opened fields of ledger entries, checked from the specification (docs/ledger-entry.md) alone, with Python's
standard library. Shares no code with the ledger.

usage: disclosure.py vectors FILE     the test vectors: salts, commitments and leaves from seeds and records
       disclosure.py proof FILE       a .tlog-proof with opened fields: each must be the entry's, and the entry
                                      must be under the root in the file. The signature is for verify.go.

       disclosure.py texts DIR        an unpacked export for auditors: each text in texts/ must be the entry's, and
                                      with all of them put in, the entry must be the one that is shown. That the
                                      entries are the log's is for verify.go.

Exit status: 0 all hold, 1 one does not.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import sys


def refuse(what):
    sys.exit(f"refused: {what}")


def salt_of(seed, field):
    """HKDF-Expand (RFC 5869) to one block of SHA-256."""
    return hmac.new(seed, b"agentwall/salt/v1\0" + field.encode() + b"\x01", hashlib.sha256).digest()


def commitment(field, salt, value):
    name = field.encode()
    text = b"agentwall/commit/v1\0" + len(name).to_bytes(8, "big") + name + salt + value.encode()
    return base64.b64encode(hashlib.sha256(text).digest()).decode()


def steps(field):
    """The steps of a JSON pointer (RFC 6901)."""
    return [step.replace("~1", "/").replace("~0", "~") for step in field.split("/")[1:]]


def look_up(value, field):
    for step in steps(field):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def put(value, field, new):
    *path, last = steps(field)
    for step in path:
        value = value[int(step)] if isinstance(value, list) else value[step]
    value[int(last) if isinstance(value, list) else last] = new


def check(leaf, opening):
    salt = base64.b64decode(opening["salt"], validate=True)
    try:
        there = look_up(leaf, opening["field"])
    except (KeyError, IndexError, ValueError, TypeError):
        refuse(f"the entry has no field {opening['field']}")
    if leaf["v"] != 3 or len(salt) != 32 or there != {"c": commitment(opening["field"], salt, opening["value"])}:
        refuse(f"{opening['field']} is not what the entry commits to")


def vectors(path):
    with open(path, encoding="utf-8") as file:
        cases = json.load(file)
    for case in cases:
        leaf, seed = json.loads(case["leaf"]), base64.b64decode(case["seed"])
        for opening in case["openings"]:
            if base64.b64decode(opening["salt"]) != salt_of(seed, opening["field"]):
                refuse(f"another salt for {opening['field']}")
            check(leaf, opening)
        # With every field opened, what is left of the leaf is the record.
        record = json.loads(case["leaf"])
        for opening in case["openings"]:
            put(record, opening["field"], opening["value"])
        record["v"] = record.pop("of")
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if json.loads(text) != json.loads(case["record"]) or list(record) != list(json.loads(case["record"])):
            refuse(f"the record of {case['leaf'][:60]}")
        digest = hashlib.sha256(b"\0" + case["leaf"].encode()).digest()
        if base64.b64encode(digest).decode() != case["leaf_hash"]:
            refuse("a leaf hash")
    print(f"verified: {len(cases)} records")


def root_of(leaf, index, size, path):
    """RFC 9162, section 2.1.3.2."""
    at, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            refuse("too many hashes")
        if at % 2 or at == last:
            node = hashlib.sha256(b"\x01" + sibling + node).digest()
            while not at % 2 and at:
                at, last = at >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\x01" + node + sibling).digest()
        at, last = at >> 1, last >> 1
    if last:
        refuse("too few hashes")
    return node


def proof(path):
    with open(path, encoding="utf-8") as file:
        head, checkpoint = file.read().split("\n\n", 1)
    version, extra, index, *hashes = head.split("\n")
    if version != "c2sp.org/tlog-proof@v1" or not extra.startswith("extra ") or not index.startswith("index "):
        refuse("not a proof that holds its entry")
    leaf, _, opened = base64.b64decode(extra[6:], validate=True).partition(b"\n")
    openings = json.loads(opened or b"[]")
    for opening in openings:
        check(json.loads(leaf), opening)
    _, size, root, *_ = checkpoint.split("\n")
    path = [base64.b64decode(h, validate=True) for h in hashes]
    found = root_of(hashlib.sha256(b"\0" + leaf).digest(), int(index[6:]), int(size), path)
    if base64.b64encode(found).decode() != root:
        refuse("the entry is not under this root")
    for opening in openings:
        print(f"{opening['field']}: {opening['value']!r}")
    print(f"verified: {len(openings)} fields of entry {index[6:]}")


def bundle(path):
    """The entries of a bundle: each after its length, 16 bits big-endian."""
    data, out = path.read_bytes(), []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        out.append(data[2:end])
        data = data[end:]
    return out


def texts(path):
    folder, count, opened = pathlib.Path(path), 0, 0
    for file in sorted(folder.glob("texts/**/*.jsonl")):
        place = file.relative_to(folder / "texts").with_suffix("")
        number = int("".join(c for c in str(place) if c.isdigit()))
        full = folder / "ledger/tile/entries" / place
        found = [full] if full.is_file() else list(full.parent.glob(f"{full.name}.p/*"))
        if len(found) != 1:
            refuse(f"no bundle for {file}")
        leaves = bundle(found[0])
        for line in file.read_text(encoding="utf-8").splitlines():
            shown = json.loads(line)
            leaf = json.loads(leaves[shown["index"] - 256 * number])
            for opening in shown["openings"]:
                check(leaf, opening)
            for opening in shown["openings"]:
                put(leaf, opening["field"], opening["value"])
            if json.dumps(leaf) != json.dumps(shown["entry"]):
                refuse(f"entry {shown['index']} is shown as another one")
            count, opened = count + 1, opened + len(shown["openings"])
    print(f"verified: {opened} texts of {count} entries")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("vectors", "proof", "texts"):
        sys.exit(__doc__)
    {"vectors": vectors, "proof": proof, "texts": texts}[sys.argv[1]](sys.argv[2])
