"""Tells AgentWall what an agent is about to do, from inside a session of `agentwall run`.

    import agentwall

    with agentwall.intent("report", why="the user asked for the figures", parameters={"month": 10},
                          does=[agentwall.exec("/usr/bin/make", "make", "report"),
                                agentwall.does("net.connect", "tcp://example.org:443")]) as action:
        subprocess.run(["make", "report"], check=True)

The intent is durable in the ledger when `intent` returns; what follows is linked to it; leaving the block ends the action, as
failed when an exception leaves it. An intent permits nothing: the wall decides each call as it does without. Python 3.8 or newer, the
standard library alone; the protocol is in docs/intent.md.
"""

import http.client
import json
import os
import socket
import urllib.parse

__all__ = ["Action", "Error", "Refused", "NotSealed", "does", "exec", "intent"]

DEFAULT_SOCKET = "/dev/agentwall/intent"


class Error(Exception):
    """Something else than what was asked for: the request is wrong, or nobody knows the action."""


class Refused(Error):
    """The policy refuses what was claimed; `decision` says by which rule, why, and what to do instead."""

    def __init__(self, message, answer):
        super().__init__(message)
        self.decision = answer.get("decision") or {}
        self.id, self.index = answer.get("id"), answer.get("index")


class NotSealed(Error):
    """The ledger has no record of it, so it must not be done. Also outside of a session."""


def does(verb, resource):
    """A claim: a verb and an object as policies have them."""
    return {"verb": verb, "resource": resource}


def exec(program, *argv):  # the name of the verb
    """The claim to start a program with these arguments, its name with them."""
    return {"verb": "process.exec", "resource": program, "argv": list(argv) or [program]}


def intent(tool=None, *, why="", parameters=None, does=(), call=None, path=None):
    """Seals what is about to be done and gives the action.

    Raises Refused when the policy refuses a claim, NotSealed when nothing is recorded: do not act then.
    """
    body = {"tool": tool, "call": call, "why": why, "parameters": parameters, "does": list(does)}
    answer = _post(path, "/v1/intent", {key: value for key, value in body.items() if value is not None})
    return Action(answer, path)


class Action:
    """An action whose intent is sealed."""

    def __init__(self, answer, path=None):
        #: The action's id, its number in the ledger, the leaf hash of its intent, and what the policy says of the claims.
        self.id, self.index, self.leaf = answer["id"], answer["index"], answer["leaf"]
        self.decision = answer.get("decision")
        self._path = path

    def end(self, failed=False, exit=None):
        """Ends it. Gives `events`, `root`, `finding` and the session's `risk`."""
        ending = {"failed": failed} if exit is None else {"failed": failed, "exit": exit}
        return _post(self._path, f"/v1/intent/{urllib.parse.quote(self.id, safe='')}/end", ending)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.end(failed=kind is not None)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("agentwall", timeout=60)
        self._at = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._at)


def _post(path, place, body):
    path = path or os.environ.get("AGENTWALL_INTENT", DEFAULT_SOCKET)
    connection = _Connection(path)
    try:
        connection.request("POST", place, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotSealed(f"nothing is recorded: {path}: {error}") from error
    finally:
        connection.close()
    if response.status == 200:
        return answer
    if response.status == 403:
        decision = answer.get("decision") or {}
        raise Refused(f"{answer.get('about')}: {decision.get('reason', 'refused')}", answer)
    said = answer.get("error", f"status {response.status}")
    raise (NotSealed if response.status == 503 else Error)(said)
