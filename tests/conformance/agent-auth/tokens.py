"""Keys and tokens of the Agent Auth Protocol, made with nothing of the project: openssl signs."""

import base64
import hashlib
import json
import os
import subprocess
import tempfile
import time

# What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 7).
SEED_DER = bytes.fromhex("302e020100300506032b657004220420")


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


class Key:
    """An Ed25519 key. The private half is in a file for openssl, and in no argument list."""

    def __init__(self, seed=None):
        self.seed = seed or os.urandom(32)
        handle, self.path = tempfile.mkstemp(suffix=".der")
        with os.fdopen(handle, "wb") as file:
            file.write(SEED_DER + self.seed)
        public = subprocess.run(["openssl", "pkey", "-inform", "DER", "-in", self.path, "-pubout",
                                 "-outform", "DER"], check=True, capture_output=True).stdout
        self.x = b64(public[-32:])

    def __del__(self):
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def jwk(self):
        return {"kty": "OKP", "crv": "Ed25519", "x": self.x}

    def thumbprint(self):
        """RFC 7638: the required members, in the order of their names, without blanks."""
        members = {"crv": "Ed25519", "kty": "OKP", "x": self.x}
        return b64(hashlib.sha256(compact(members)).digest())

    def sign(self, data):
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return subprocess.run(["openssl", "pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey",
                                   self.path, "-in", file.name], check=True, capture_output=True).stdout

    def jwt(self, header, claims):
        signed = f"{b64(compact(header))}.{b64(compact(claims))}"
        return f"{signed}.{b64(self.sign(signed.encode()))}"


def jti():
    return b64(os.urandom(16))


def claims(issuer, **others):
    now = int(time.time())
    return {"aud": issuer, "iat": now, "exp": now + 60, "jti": jti(), **others}


class Host:
    """A host and the tokens it makes."""

    def __init__(self, issuer, name="conformance"):
        self.issuer, self.name, self.key = issuer, name, Key()

    def token(self, agent_key=None, header=None, key=None, **others):
        said = claims(self.issuer, iss=self.key.thumbprint(), host_public_key=self.key.jwk(),
                      host_name=self.name)
        if agent_key:
            said["agent_public_key"] = agent_key.jwk()
        said.update(others)
        said = {name: value for name, value in said.items() if value is not None}
        return (key or self.key).jwt({"alg": "EdDSA", "typ": "host+jwt", **(header or {})}, said)


class Agent:
    """An agent of a host, and the tokens it makes."""

    def __init__(self, host, agent_id, key):
        self.host, self.id, self.key = host, agent_id, key

    def token(self, header=None, key=None, **others):
        said = claims(self.host.issuer, iss=self.host.key.thumbprint(), sub=self.id)
        said.update(others)
        said = {name: value for name, value in said.items() if value is not None}
        return (key or self.key).jwt({"alg": "EdDSA", "typ": "agent+jwt", **(header or {})}, said)
