"""HTTP as these tests need it: each answer with status, headers and body, and never an exception for a status."""

import http.client
import json
import urllib.parse


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.raw = response.read()
        try:
            self.json = json.loads(self.raw)
        except ValueError:
            self.json = None

    def error(self):
        return self.json.get("error") if isinstance(self.json, dict) else None

    def __repr__(self):
        return f"{self.status} {self.raw[:500]!r}"


def call(url, method="GET", token=None, body=None, headers=None, timeout=15):
    """One request on a connection of its own. A body that is no text is sent as JSON."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=timeout)
    head = dict(headers or {})
    if token is not None:
        head["Authorization"] = f"Bearer {token}"
    if body is not None and not isinstance(body, (str, bytes)):
        body = json.dumps(body)
        head.setdefault("Content-Type", "application/json")
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    try:
        connection.request(method, target, body=body, headers=head)
        return Answer(connection.getresponse())
    finally:
        connection.close()
