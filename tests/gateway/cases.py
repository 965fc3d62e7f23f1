"""What a gateway does with the calls of agents. A "refused" case shows that the API did not see the call, and that the
allowed neighbour goes through."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

from client import call
from world import Gateway, Host, Postgres, Redis, free_port
from tokens import Agent, Key

ALLOW = """agentwall: 1
default: deny
rules:
  - { id: calls, action: [api.call, http.request], resource: "**", effect: allow, reason: "All calls." }
"""


def passes(check, world):
    """calls: what is allowed goes through, whole, with the API's own credential and without the agent's token"""
    secret = f"{world.dir}/credential"
    with open(secret, "w") as file:
        file.write("s3cret\n")
    options = ["--credential", f"Authorization: Bearer @{secret}"]
    with Gateway(world, policy=ALLOW, options=options) as gateway:
        agent = gateway.agent("read", "write")
        head = {"X-Forwarded-For": "1.2.3.4", "X-HTTP-Method-Override": "DELETE", "Connection": "x-private",
                "X-Private": "1", "AgentWall-Agent": "other", "Accept-Language": "de"}
        answer = gateway.call(agent, "/a%41/b?x=1&y=%2F", "POST", b'{"n": 1.50}', {**head, "Content-Type": "application/json"})
        sent = answer.json
        check("it is answered", answer.status == 200, answer)
        check("in one spelling", sent["path"] == "/aA/b?x=1&y=%2F", sent)
        check("the body is the agent's, byte for byte", sent["body"] == '{"n": 1.50}', sent)
        names = {name.lower(): value for name, value in sent["headers"].items()}
        check("with the credential of the operator", names.get("authorization") == "Bearer s3cret", names)
        check("with the API's name", names.get("host") == world.api.url[7:], names)
        check("with the agent's other headers", names.get("accept-language") == "de", names)
        gone = {"x-forwarded-for", "x-http-method-override", "x-private", "agentwall-agent", "connection"}
        check("without what is not for the API", not gone & set(names), names)
        check("the API cannot forge the gateway's headers", answer.headers.get("agentwall-decision") == "allow", answer.headers)
        answer = gateway.call(agent, "/missing")
        check("the API's own refusal is the API's", answer.status == 404, answer)
        answer = gateway.call(agent, "/a", "HEAD")
        check("HEAD has no content", answer.status == 200 and answer.raw == b"", answer)


def refused(check, world):
    """calls: without a token, a grant or a rule nothing reaches the API"""
    policy = ALLOW.replace("rules:", """rules:
  - { id: no-admin, priority: 1, action: http.request, resource: "**/admin/**", effect: deny,
      reason: "Administration is for people.", hint: { next: use-path, with: /things } }""")
    with Gateway(world, policy=policy) as gateway:
        agent = gateway.agent("read")
        before = len(world.api.seen)
        answer = call(f"{gateway.url}/a")
        check("without a token", (answer.status, answer.error()) == (401, "authentication_required"), answer)
        answer = gateway.call(agent, "/a", "POST", b"x")
        check("without the grant", (answer.status, answer.error()) == (403, "capability_not_granted"), answer)
        check("it says which to ask for", answer.json["hint"]["next"] == [{"action": "request_capability", "with": "write"}],
              answer)
        answer = gateway.call(agent, "/admin/users")
        check("against a rule", (answer.status, answer.error()) == (403, "unauthorized"), answer)
        hint = answer.json["hint"]
        check("it says which, why and what instead", hint["rule_id"] == "no-admin" and "for people" in answer.json["detail"]
              and hint["next"] == [{"action": "use-path", "with": "/things"}], answer)
        for path in ["/x/../admin/users", "/%2e%2e/admin", "//admin/users", "/admin%2fusers", "/admin;x/users", "/a\\..\\admin"]:
            answer = gateway.call(agent, path)
            check(f"not by {path}", answer.status == 400, answer)
        check("nothing of it reached the API", len(world.api.seen) == before, world.api.paths()[before:])
        check("the neighbour does", gateway.call(agent, "/things").status == 200)
        token = agent.token()
        for _ in range(2):
            answer = gateway.call(agent, "/things", token=token)
        check("a token is for one call", (answer.status, answer.error()) == (401, "jti_replay"), answer)


def disclosure(check, world):
    """refusals: how much is told is the operator's choice"""
    policy = ALLOW.replace("effect: allow", "effect: deny").replace("All calls.", "a secret reason")
    for level, told in [("full", True), ("code", False), ("none", False)]:
        with Gateway(world, policy=policy, options=["--disclose", level]) as gateway:
            agent = gateway.agent("read")
            answer = gateway.call(agent, "/a")
            check(f"{level}", answer.status == 403 and (b"secret reason" in answer.raw) == told, answer)
            check(f"{level}: the kind", (b"denied-by-policy" in answer.raw) == (level != "none"), answer)


def capabilities(check, world):
    """capabilities: with OpenAPI each operation is one, arguments are decided, and what is no operation is not passed on"""
    policy = """agentwall: 1
default: deny
rules:
  - { id: small, action: api.call, resource: "capability:create_transfer", effect: allow, when: "args.amount <= 100" }
  - { id: reads, action: api.call, resource: "capability:get_account", effect: allow, unless: 'args.id == "7"' }
"""
    with Gateway(world, policy=policy, openapi=world.openapi) as gateway:
        agent = gateway.agent("create_transfer", "get_account")
        post = lambda body: gateway.call(agent, "/transfers", "POST", body)
        before = len(world.api.seen)
        check("a small transfer is made", post({"amount": 100}).status == 200)
        check("a large one is not", post({"amount": 101}).status == 403)
        check("one without the amount is not", post({"to": "x"}).status == 403)
        for kind in ["text/plain", "application/octet-stream"]:
            answer = gateway.call(agent, "/transfers", "POST", '{"amount":101}', {"Content-Type": kind})
            check(f"nor as {kind}", answer.status == 403, answer)
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        check("nor as a form", gateway.call(agent, "/transfers", "POST", "amount=101", form).status == 403)
        check("nor JSON as a form", gateway.call(agent, "/transfers", "POST", '{"amount":101}', form).status == 400)
        check("nor as something that is not read", gateway.call(agent, "/transfers", "POST", b"\x00", {
            "Content-Type": "application/protobuf"}).status == 400)
        check("one with two amounts is not", post('{"amount":1,"amount":1000}').status == 400)
        answer = gateway.call(agent, "/transfers?amount=1", "POST", {"amount": 1})
        check("one with the amount in two places is not", answer.status == 400, answer)
        check("one account is read", gateway.call(agent, "/accounts/8").status == 200)
        check("another is not", gateway.call(agent, "/accounts/7").status == 403)
        check("nor in another spelling", gateway.call(agent, "/accounts/%37").status == 403)
        for method, path in [("PUT", "/accounts/8"), ("GET", "/accounts"), ("GET", "/other"), ("GET", "/accounts/8/x")]:
            answer = gateway.call(agent, path, method)
            check(f"{method} {path} is nothing", (answer.status, answer.error()) == (404, "capability_not_found"), answer)
        check("the API saw the two alone", len(world.api.seen) == before + 2, world.api.paths()[before:])
        answer = call(f"{gateway.url}/agentwall/capability/execute", "POST", agent.token(),
                      {"capability": "get_account", "arguments": {"id": "8/../7"}})
        check("an argument cannot become a path", answer.status in (400, 403), answer)
        answer = call(f"{gateway.url}/agentwall/capability/execute", "POST", agent.token(),
                      {"capability": "create_transfer", "arguments": {"amount": 5, "to": "y"}})
        sent = answer.json.get("data", {})
        check("a call by name is the same call", answer.status == 200 and sent["path"] == "/transfers"
              and json.loads(sent["body"]) == {"amount": 5, "to": "y"}, answer)
        answer = call(f"{gateway.url}/agentwall/capability/execute", "POST", agent.token(),
                      {"capability": "create_transfer", "arguments": {"amount": 500}})
        check("under the same rules", answer.status == 403, answer)


ASK = ALLOW.replace("effect: allow", "effect: ask").replace("All calls.", "A person looks.")


def approvals(check, world):
    """approvals: a call waits, is shown, is made once and exactly as it was shown"""
    with Gateway(world, policy=ASK, openapi=world.openapi) as gateway:
        agent = gateway.agent("create_transfer")
        post = lambda body, **o: gateway.call(agent, "/transfers", "POST", body, **o)
        before = len(world.api.seen)
        answer = post({"amount": 5})
        check("it waits", answer.status == 202 and answer.json["status"] == "pending", answer)
        check("it says where to look, and when", answer.headers.get("location") == answer.json["status_url"]
              and answer.headers.get("retry-after"), answer.headers)
        status = answer.json["status_url"]
        check("there it waits", call(status, token=agent.token()).json["status"] == "pending")
        other = gateway.agent("create_transfer")
        check("another agent sees nothing there", call(status, token=other.token()).status == 404)
        check("the same call is the same question", post({"amount": 5}).json["ticket"] == answer.json["ticket"])
        asks = gateway.pending()
        check("a person sees one question", len(asks) == 1, asks)
        check("with the arguments", asks[0]["action"]["facts"]["args"] == {"amount": 5}, asks)
        question = asks[0]["id"].split(":")[1]
        gateway.answer("approve", question)
        check("its agent is told", call(status, token=agent.token()).json["status"] == "approved")
        check("another call is another question", post({"amount": 6}).status == 202)
        check("another agent's, too", gateway.call(other, "/transfers", "POST", {"amount": 5}).status == 202)
        check("with other bytes, too", post('{"amount": 5 }').status == 202)
        check("with a header that says something else, too", post({"amount": 5}, headers={"X-Account": "7"}).status == 202)
        check("nothing reached the API", len(world.api.seen) == before, world.api.paths()[before:])
        check("the call is made, whoever says what of itself", post({"amount": 5}, headers={"User-Agent": "another"}).status == 200)
        check("once", post({"amount": 5}).status == 202)
        check("the API saw it once", len(world.api.seen) == before + 1, world.api.paths()[before:])
        again = world.run("approve", f"{gateway.name}:{question}", check=False)
        check("an answer is given once", again.returncode != 0, again)
        waiting = [a["id"].split(":")[1] for a in gateway.pending() if a["action"]["facts"]["args"] == {"amount": 6}]
        gateway.answer("reject", waiting[0], "--reason", "too much")
        answer = post({"amount": 6})
        check("a no is told with its reason", answer.status == 403 and "too much" in answer.json["detail"], answer)
        check("and holds for the same call", post({"amount": 6}).status == 403)
        records = [e for e in world.ledger("approval") if e["ask"] == f"{gateway.name}:{question}"]
        check("the ledger has the answer", [r["verdict"] for r in records] == ["approve"], records)


def executions(check, world):
    """approvals: an execution that waits is made when its agent asks after the person's yes"""
    with Gateway(world, policy=ASK, openapi=world.openapi) as gateway:
        agent = gateway.agent("create_transfer")
        answer = call(f"{gateway.url}/agentwall/capability/execute", "POST", agent.token(),
                      {"capability": "create_transfer", "arguments": {"amount": 5}})
        check("it waits", answer.status == 202, answer)
        status, before = answer.json["status_url"], len(world.api.seen)
        gateway.answer("approve", gateway.pending()[0]["id"].split(":")[1])
        answers = []
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: call(status, token=agent.token()), range(8)))
        made = [a for a in answers if "data" in (a.json or {})]
        check("asking for it makes it, once", len(made) == 1 and len(world.api.seen) == before + 1, answers)
        check("with what was approved", json.loads(made[0].json["data"]["body"]) == {"amount": 5}, made)
        check("afterwards it is over", call(status, token=agent.token()).json["status"] == "completed")


def batches(check, world):
    """executions: several in one request are judged each by itself, in order; the token is for one request"""
    policy = """agentwall: 1
default: deny
rules:
  - { id: small, action: api.call, resource: "capability:create_transfer", effect: allow, when: "args.amount <= 100" }
  - { id: large, priority: 2000, action: api.call, resource: "capability:create_transfer", effect: ask }
  - { id: reads, action: api.call, resource: "capability:get_account", effect: allow }
budgets:
  - { action: api.call, resource: "capability:get_account", minute: 1 }
"""
    with Gateway(world, policy=policy, openapi=world.openapi) as gateway:
        agent = gateway.agent("create_transfer", "get_account")
        run = lambda requests, token=None: call(f"{gateway.url}/agentwall/capability/batch-execute", "POST",
                                                token or agent.token(), {"requests": requests})
        transfer = lambda amount: {"capability": "create_transfer", "arguments": {"amount": amount}}
        account = {"capability": "get_account", "arguments": {"id": "1"}}
        token = agent.token()
        before = len(world.api.seen)
        answer = run([{"id": "a", **transfer(1)}, transfer(1000), {"id": 7, **account}, account, {"capability": "close_account"},
                      {"capability": "no"}, {}], token)
        told = answer.json["responses"]
        check("each has its answer", [(r["id"], r["status"]) for r in told] == [
            ("a", "completed"), ("1", "failed"), (7, "completed"), ("3", "failed"), ("4", "failed"), ("5", "failed"), ("6", "failed")],
            told)
        codes = [r.get("error", {}).get("error") for r in told]
        check("and its reason", codes == [None, "approval_required", None, "rate_limited", "capability_not_granted",
                                          "capability_not_found", "invalid_request"], codes)
        check("what is allowed is made, in order", world.api.paths()[before:] == ["POST /transfers", "GET /accounts/1"],
              world.api.paths()[before:])
        check("with what the API said", told[0]["data"]["method"] == "POST", told[0])
        check("the token is for one request", run([account], token).error() == "jti_replay")
        gateway.answer("approve", gateway.pending()[0]["id"].split(":")[1])
        made = call(told[1]["error"]["status_url"], token=agent.token())
        check("what waited is made after the yes", "data" in (made.json or {}), made)
        for wrong in [[], [1], [account] * 51]:
            check(f"{len(wrong)} of {str(wrong[:1])[:12]} are refused", run(wrong).status == 400)
        check("without reaching the API", len(world.api.seen) == before + 3, world.api.paths()[before:])


def approvals_at_once(check, world):
    """approvals: of many calls at once, one gets the approval"""
    with Gateway(world, policy=ASK, openapi=world.openapi) as gateway:
        agent = gateway.agent("create_transfer")
        gateway.call(agent, "/transfers", "POST", {"amount": 5})
        gateway.answer("approve", gateway.pending()[0]["id"].split(":")[1])
        before = len(world.api.seen)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: gateway.call(agent, "/transfers", "POST", {"amount": 5}).status, range(16)))
        check("one", answers.count(200) == 1 and len(world.api.seen) == before + 1, answers)


def standing_answers(check, world):
    """approvals: one for a pattern answers the next question, and no other"""
    with Gateway(world, policy=ASK) as gateway:
        agent = gateway.agent("read")
        gateway.call(agent, "/a/1")
        question = gateway.pending()[0]["id"].split(":")[1]
        wide = world.run("approve", f"{gateway.name}:{question}", "--for", f"{world.api.url}/b/*", check=False)
        check("a pattern that misses the question is refused", wide.returncode != 0, wide)
        gateway.answer("approve", question, "--for", f"{world.api.url}/a/*")
        check("the call is made", gateway.call(agent, "/a/1").status == 200)
        check("the next like it, too", gateway.call(agent, "/a/2").status == 200)
        check("another is asked", gateway.call(agent, "/c").status == 202)
        other = gateway.agent("read")
        check("another agent is asked", gateway.call(other, "/a/1").status == 202)


def budgets(check, world):
    """budgets: many at once get exactly what there is; who is refused or waits spends nothing"""
    policy = ALLOW + 'budgets:\n  - { action: http.request, resource: "**", minute: 20 }\n'
    with Gateway(world, policy=policy) as gateway:
        agent = gateway.agent("read")
        for _ in range(5):
            gateway.call(agent, "/a", "POST", b"x")
        before = len(world.api.seen)
        tokens = [agent.token() for _ in range(40)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda token: gateway.call(agent, "/a", token=token), tokens))
        made = [a for a in answers if a.status == 200]
        limited = [a for a in answers if a.status == 429]
        check("exactly 20 go through", len(made) == 20 and len(limited) == 20, [a.status for a in answers])
        check("the API saw 20", len(world.api.seen) == before + 20)
        check("the others are told when", all(a.headers.get("retry-after") and a.error() == "rate_limited" for a in limited),
              limited[:1])
        check("what is left is told", re.fullmatch(r'"b0-minute";r=\d+;t=\d+', made[0].headers.get("ratelimit", "")),
              made[0].headers)
        check("and what there is", made[0].headers.get("ratelimit-policy") == '"b0-minute";q=20;w=60', made[0].headers)
        other = gateway.agent("read")
        check("another agent has its own", gateway.call(other, "/a").status == 200)


def costs(check, world):
    """budgets: a call costs what its arguments say, and one whose cost cannot be known is refused"""
    policy = ALLOW + 'budgets:\n  - { action: api.call, resource: "capability:create_transfer", cost: args.amount, hour: 100 }\n'
    with Gateway(world, policy=policy, openapi=world.openapi) as gateway:
        agent = gateway.agent("create_transfer")
        post = lambda body: gateway.call(agent, "/transfers", "POST", body).status
        check("60 of 100", post({"amount": 60}) == 200)
        check("60 more are too much", post({"amount": 60}) == 429)
        check("40 are not", post({"amount": 40}) == 200)
        check("nothing is free because it is small", post({"amount": 0.0000001}) == 429)
        check("nothing is given back by a negative amount", post({"amount": -50}) == 403)
        check("a cost that is no number is no cost", post({"amount": "1"}) == 403)
        check("and none at all", post({}) == 403)


def unreachable(check, world):
    """budgets: a call that did not reach the API is not charged"""
    policy = ALLOW + 'budgets:\n  - { action: http.request, resource: "**", minute: 2 }\n'
    with Gateway(world, policy=policy, upstream=f"http://127.0.0.1:{free_port()}") as gateway:
        agent = gateway.agent("read")
        answers = [gateway.call(agent, "/a").status for _ in range(5)]
        check("each is told so, none is charged", answers == [502] * 5, answers)


def risk(check, world):
    """risk: a new agent that tries what it may not is asked about, then refused; each point has its reason"""
    policy = ALLOW + "risk: { ask_at: 25, deny_at: 40 }\n"
    with Gateway(world, policy=policy) as gateway:
        agent = gateway.agent("read")
        check("at first it may", gateway.call(agent, "/a").status == 200)
        for _ in range(3):
            gateway.call(agent, "/a", "POST", b"x")
        answer = gateway.call(agent, "/a")
        check("then a person is asked", answer.status == 202 and "refused attempts" in answer.json["message"], answer)
        for _ in range(10):
            gateway.call(agent, "/a", "POST", b"x")
        answer = gateway.call(agent, "/a")
        check("then it is refused, with the sum", answer.status == 403 and "deny_at is 40" in answer.json["detail"], answer)
        other = gateway.agent("read")
        check("another agent may", gateway.call(other, "/a").status == 200)
        last = [e for e in world.ledger("call") if e["agent"] == agent.id][-1]
        check("the ledger has risk and reasons", last["risk"] == 40 and len(last["risks"]) == 2, last)


class Stream:
    """A stream that is read beside, as bytes."""

    def __init__(self, gateway, agent, host=None):
        self.connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
        self.connection.sendall(f"GET /stream HTTP/1.1\r\nHost: {host or gateway.url[7:]}\r\n"
                                f"Authorization: Bearer {agent.token()}\r\n\r\n".encode())
        self.data, self.ended = b"", None
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            while part := self.connection.recv(4096):
                self.data += part
        except OSError:
            pass
        self.ended = time.monotonic()

    @property
    def count(self):
        return self.data.count(b"data:")

    @property
    def whole(self):
        """Whether it came to its end (RFC 9112, section 7.1)."""
        return self.data.endswith(b"0\r\n\r\n")


def revocation(check, world):
    """revocation: a host's end ends the calls, streams and questions of its agents at once, and nobody else's"""
    policy = ALLOW.replace("rules:", """rules:
  - { id: asked, priority: 1, action: http.request, resource: "**/asked", effect: ask }""")
    with Gateway(world, policy=policy) as gateway:
        agent, other = gateway.agent("read"), gateway.agent("read")
        streams = [Stream(gateway, agent), Stream(gateway, other)]
        ticket = gateway.call(agent, "/asked").json["status_url"]
        time.sleep(0.5)
        check("streams come as they are sent", all(s.count >= 3 for s in streams), [s.count for s in streams])
        answer = call(f"{gateway.url}/agentwall/host/revoke", "POST", agent.host.token())
        check("the host ends with its agent", answer.json.get("agents_revoked") == 1, answer)
        streams[0].thread.join(5)
        check("its stream breaks off", streams[0].ended and not streams[0].whole, streams[0].data[-60:])
        check("its calls are refused", gateway.call(agent, "/a").status == 403)
        check("its question is gone", not any(a["name"] == agent.id for a in gateway.pending()))
        check("and cannot be asked after", call(ticket, token=agent.token()).status == 403)
        had = streams[1].count
        time.sleep(0.5)
        check("another's stream goes on", streams[1].count > had, streams[1].count)
        check("another's calls, too", gateway.call(other, "/a").status == 200)
        check("and is not cut", streams[1].ended is None)
        world.run("gateway", "revoke", other.id, "--name", gateway.name)
        streams[1].thread.join(5)
        check("until its operator ends it", streams[1].ended is not None)
        check("and its calls", gateway.call(other, "/a").status == 403)
        events = [e["event"] for e in world.ledger("principal")]
        check("the ledger has both", {"host.revoked", "agent.revoked"} <= set(events), events)


def restart(check, world):
    """restarts: hosts, agents and what ended are there after kill -9; questions are not, and nothing is let go on by that"""
    with Gateway(world, policy=ASK) as gateway:
        agent, gone = gateway.agent("read"), gateway.agent("read")
        call(f"{gateway.url}/agentwall/agent/revoke", "POST", gone.host.token(), {"agent_id": gone.id})
        gateway.call(agent, "/a")
        gateway.answer("approve", gateway.pending()[0]["id"].split(":")[1])
        used = agent.token()
        gateway.call(agent, "/b", token=used)
        gateway.stop(signal.SIGKILL)
        gateway.start()
        before = len(world.api.seen)
        answer = gateway.call(agent, "/a")
        check("who was let in is in, and is asked anew", answer.status == 202, answer)
        check("who was revoked is out", gateway.call(gone, "/a").status == 403)
        answer = gateway.call(agent, "/b", token=used)
        check("a token of before is no token any more", (answer.status, answer.error()) == (401, "invalid_jwt"), answer)
        check("nothing reached the API", len(world.api.seen) == before)
        verified = world.run("ledger", "verify", check=False)
        check("the ledger verifies", verified.returncode == 0, verified)


def reload(check, world):
    """policy: SIGHUP puts another in force; one that is wrong leaves the old one"""
    with Gateway(world, policy=ALLOW) as gateway:
        agent = gateway.agent("read")
        check("allowed", gateway.call(agent, "/a").status == 200)
        def put(text, said):
            with open(gateway.policy_file, "w") as file:
                file.write(text)
            gateway.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 10
            while said not in gateway.said() and time.monotonic() < end:
                time.sleep(0.05)
        put("agentwall: 1\nrules: [", "the old policy stays")
        check("still, with a wrong one", gateway.call(agent, "/a").status == 200)
        put(ALLOW.replace("effect: allow", "effect: deny"), "in force")
        check("not any more", gateway.call(agent, "/a").status == 403)


def ledger(check, world):
    """ledger: each call is there before the API sees it, with who, what and why; the end, too"""
    with Gateway(world, policy=ALLOW) as gateway:
        agent = gateway.agent("read")
        answer = gateway.call(agent, "/ledger?x=1")
        entries, end = [], time.monotonic() + 10
        # Durable at once, and with readers a moment later.
        while len(entries) < 2 and time.monotonic() < end:
            entries = [e for e in world.ledger() if e.get("call") == answer.headers["agentwall-call"]]
        check("decision and end", [e["type"] for e in entries] == ["call", "call_end"], entries)
        record = entries[0]
        wanted = {"agent": agent.id, "effect": "allow", "rule": "calls", "target": f"GET {world.api.url}/ledger?x=1",
                  "enforced_by": "gateway"}
        check("with who, what and why", wanted.items() <= record.items(), record)
        check("the end has the status", entries[1]["status"] == 200, entries[1])
        text = "".join(json.dumps(e) for e in world.ledger())
        check("no token is in it", agent.token().split(".")[0] + "." not in text)


def raw(gateway, data, wait=3):
    """Bytes as they are; everything that comes back."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=wait) as connection:
        connection.sendall(data)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
    return answer


def smuggling(check, world):
    """requests: what two readers take for different requests reaches nobody"""
    with Gateway(world, policy=ALLOW) as gateway:
        agent = gateway.agent("read", "write")
        host = f"127.0.0.1:{gateway.port}"
        inner = f"GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
        def request(head, body="", method="POST", path="/front", version="HTTP/1.1", name=host):
            return (f"{method} {path} {version}\r\nHost: {name}\r\nAuthorization: Bearer {agent.token()}\r\n"
                    f"{head}\r\n{body}").encode("latin-1")
        chunked = f"0\r\n\r\n{inner}"
        corpus = [
            ("two different lengths", request(f"Content-Length: 0\r\nContent-Length: {len(inner)}\r\n", inner)),
            ("lengths in a list", request(f"Content-Length: 0, {len(inner)}\r\n", inner)),
            ("a signed length", request(f"Content-Length: +{len(inner)}\r\n", inner)),
            ("a length in hexadecimal", request("Content-Length: 0x10\r\n", inner)),
            ("length and chunks", request(f"Content-Length: {len(chunked)}\r\nTransfer-Encoding: chunked\r\n", chunked)),
            ("chunks and length", request(f"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", f"0\r\n\r\n{inner}")),
            ("a blank before the colon", request("Transfer-Encoding : chunked\r\nContent-Length: 0\r\n", chunked)),
            ("an unknown coding", request("Transfer-Encoding: xchunked\r\n", chunked)),
            ("identity beside chunked", request("Transfer-Encoding: chunked, identity\r\n", chunked)),
            ("two codings", request("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", chunked)),
            ("a coding behind a vertical tab", request("Transfer-Encoding: \x0bchunked\r\nContent-Length: 0\r\n", chunked)),
            ("a folded header", request("X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", chunked)),
            ("a line feed alone in a value", request("X: a\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n", chunked)),
            ("a zero byte in a value", request("X: a\x00b\r\nContent-Length: 0\r\n", inner)),
            ("a chunk size with a sign", request("Transfer-Encoding: chunked\r\n", f"+5\r\nhello\r\n{chunked}")),
            ("a chunk size that overflows", request("Transfer-Encoding: chunked\r\n", f"10000000000000005\r\nhello\r\n{chunked}")),
            ("a chunk without its end", request("Transfer-Encoding: chunked\r\n", f"5\r\nhelloXX0\r\n\r\n{inner}")),
            ("another host beside", f"GET /front HTTP/1.1\r\nHost: {host}\r\nHost: other\r\n\r\n".encode()),
            ("another host", request("", "", "GET", name="evil.example")),
            ("no host", f"GET /front HTTP/1.1\r\nAuthorization: Bearer {agent.token()}\r\n\r\n".encode()),
            ("another host in the target", request("", "", "GET", "http://evil.example/front")),
            ("CONNECT", request("", "", "CONNECT", "evil.example:80")),
            ("TRACE", request("", "", "TRACE")),
            ("an unknown version", request("", "", "GET", version="HTTP/1.2")),
        ]
        for what, data in corpus:
            before = len(world.api.seen)
            answer = raw(gateway, data, wait=2)
            statuses = re.findall(rb"HTTP/1\.[01] (\d{3})", answer)
            seen = world.api.paths()[before:]
            check(f"{what}: nothing was smuggled", not any("smuggled" in s for s in seen), (seen, answer[:300]))
            # Each request of its own needs a token of its own, so that one more is answered with 401 at most.
            check(f"{what}: what is passed on is what was judged", len(seen) <= 1 and all(
                s in (b"200", b"400", b"401", b"404", b"421", b"501", b"505", b"431") for s in statuses), (seen, answer[:300]))
        answer = raw(gateway, request("Connection: close\r\nContent-Length: 2\r\n", "hi"), wait=5)
        check("the neighbour goes through", answer.startswith(b"HTTP/1.1 200"), answer[:300])
        answer = raw(gateway, request("Connection: close\r\nTransfer-Encoding: chunked\r\n", "2\r\nhi\r\n0\r\n\r\n"), wait=5)
        check("also in chunks", answer.startswith(b"HTTP/1.1 200"), answer[:300])


def limits(check, world):
    """limits: long heads, bodies and slow clients are turned away, and others are served meanwhile"""
    with Gateway(world, policy=ALLOW, options=["--max-body", "1000"]) as gateway:
        agent = gateway.agent("read", "write")
        before = len(world.api.seen)
        check("a long body", gateway.call(agent, "/a", "POST", b"x" * 1001, {"Content-Type": "text/plain"}).status == 413)
        check("a long path", gateway.call(agent, "/" + "a" * 9000).status in (400, 414, 431))
        answer = raw(gateway, b"GET / HTTP/1.1\r\nX: " + b"a" * 70000 + b"\r\n\r\n", wait=5)
        check("a long head", b" 200 " not in answer[:20], answer[:100])
        check("nothing reached the API", len(world.api.seen) == before)
        answer = gateway.call(agent, "/a", "POST", b"x" * 1000, {"Content-Type": "text/plain"})
        check("a body that is as long as may be", answer.status == 200, answer)
        silent = {said: socket.create_connection(("127.0.0.1", gateway.port)) for said in (b"", b"PRI * HTTP/2.0\r\n")}
        for said, connection in silent.items():
            connection.sendall(said)
            connection.settimeout(20)
        slow = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(200)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHos")
        check("others are served beside 200 slow ones", gateway.call(agent, "/a").status == 200)
        slow[0].settimeout(20)
        check("who says half of a head is given up", slow[0].recv(1000)[:12] in (b"", b"HTTP/1.1 408"))
        check("who says nothing, too, and half of a preface", all(closes(one) for one in silent.values()))
        for connection in slow:
            connection.close()


def closes(connection):
    """Whether the other side ends it in time; what it says before is no matter."""
    try:
        while connection.recv(1000):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def http2(check, world):
    """HTTP/2: calls go through as over HTTP/1.1"""
    with Gateway(world, policy=ALLOW) as gateway:
        agent = gateway.agent("read")
        def curl(*options):
            return subprocess.run(["curl", "-s", "--http2-prior-knowledge", "-o", "-", "-w", "\n%{http_version} %{http_code}",
                                   *options], capture_output=True, text=True, timeout=20).stdout.splitlines()
        lines = curl("-H", f"Authorization: Bearer {agent.token()}", f"{gateway.url}/two")
        check("it is HTTP/2, and allowed", lines[-1] == "2 200" and json.loads(lines[0])["path"] == "/two", lines)
        lines = curl("-H", f"Authorization: Bearer {agent.token()}", "-H", "Host: evil.example", f"{gateway.url}/two")
        check("another authority is not this gateway", lines[-1] == "2 421", lines)
        lines = curl(f"{gateway.url}/two")
        check("without a token it is not", lines[-1] == "2 401", lines)


def start(check, world):
    """start: what cannot be served safely is not served"""
    def refused(*options):
        return world.run("protect", *options, check=False)
    done = refused(world.api.url, "--listen", "0.0.0.0:0")
    check("tokens in clear over a network", done.returncode == 1 and "TLS" in done.stderr, done)
    for url in ["ftp://x", "http://u:p@x", "http://x/?q", "nothing"]:
        check(f"{url} is no API", refused(url).returncode == 1)
    bad = world.policy("agentwall: 1\nrules: [{}]\n")
    check("a policy that is wrong", refused(world.api.url, "--policy", bad).returncode == 1)
    properties = world.policy(ALLOW + "properties:\n  - { id: p, never: 'file.read(/a) then net.connect(*)' }\n")
    done = refused(world.api.url, "--policy", properties)
    check("a policy that it cannot enforce", done.returncode == 1 and "properties" in done.stderr, done)
    check("a document that is no OpenAPI", refused(world.api.url, "--openapi", bad).returncode == 1)
    with Gateway(world, name="one", policy=ALLOW):
        done = refused(world.api.url, "--name", "one", "--listen", "127.0.0.1:0")
        check("a second one of its name", done.returncode == 1 and "runs already" in done.stderr, done)


def client(check, world):
    """identity: enrol, approve, call - with the commands of the README"""
    with Gateway(world, policy=ALLOW) as gateway:
        done = world.run("identity", "enrol", gateway.url, "--name", "claude", "--reason", "to see")
        check("it says how it is let in", f"agentwall approve {gateway.name}:" in done.stderr, done)
        asked = gateway.pending()[0]
        check("a person sees who, from where and why", "claude" in asked["decision"]["reason"] and
              "to see" in asked["decision"]["reason"], asked)
        world.run("approve", asked["id"])
        token = world.run("identity", "token", gateway.url).stdout.strip()
        check("its token is taken", call(f"{gateway.url}/a", token=token).status == 200)
        done = world.run("identity", "status", gateway.url, "--json")
        check("its status is told", json.loads(done.stdout)["status"] == "active", done)
        agents = json.loads(world.run("gateway", "agents", "--name", gateway.name, "--json").stdout)
        check("its operator sees it", [a["name"] for a in agents] == ["claude"], agents)
        keys = [f"{world.state}/identity/host.json", *(
            os.path.join(world.state, "identity/agents", f) for f in os.listdir(f"{world.state}/identity/agents"))]
        check("keys are for their user alone", all(os.stat(k).st_mode & 0o077 == 0 for k in keys), keys)


def shared(check, world):
    """Redis: three gateways grant together what one would, and know each other's tokens; without it they refuse"""
    with Redis() as redis, contextlib.ExitStack() as ending:
        policy = ALLOW + 'budgets:\n  - { action: http.request, resource: "**", minute: 30 }\n'
        options = ["--redis", f"redis://127.0.0.1:{redis.port}", "--redis-timeout", "5000"]
        # One name and one set of identities; three processes need three state folders.
        first = Gateway(world, name="shared", policy=policy, options=options)
        public = first.url
        first.command += ["--public", public]
        with first:
            agent = first.agent("read")
        gateways = instances(world, ending, "shared", policy, [*options, "--public", public], world.state)
        before = len(world.api.seen)
        tokens = [agent.token() for _ in range(90)]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda n: one_call(gateways[n % 3], tokens[n], public), range(90)))
        check("exactly 30 of 90", answers.count(200) == 30 and answers.count(429) == 60, answers)
        check("the API saw 30", len(world.api.seen) == before + 30)
        used = agent.token()
        both = [one_call(gateway, used, public) for gateway in gateways]
        check("a token is known to all", both[1:] == [401, 401], both)
        redis.process.kill()
        redis.process.wait()
        before = len(world.api.seen)
        check("without Redis calls are refused", one_call(gateways[0], agent.token(), public) == 503)
        check("and do not reach the API", len(world.api.seen) == before)


def identities(check, world):
    """PostgreSQL: gateways share hosts and agents; who is revoked at one is refused by all; without it nobody is let in"""
    folder = tempfile.mkdtemp(dir=world.dir)
    os.chmod(world.dir, 0o755)
    with Postgres(folder) as database, Redis() as redis, contextlib.ExitStack() as ending:
        secret = f"{world.dir}/identities.url"
        with open(secret, "w") as file:
            file.write(database.url)
        public = f"http://127.0.0.1:{free_port()}"
        options = ["--redis", f"redis://127.0.0.1:{redis.port}", "--redis-timeout", "5000", "--identities", f"@{secret}",
                   "--public", public]
        alone = Gateway(world, policy=ALLOW, options=["--identities", f"@{secret}"])
        done = subprocess.run(alone.command, capture_output=True, text=True, timeout=30, check=False)
        check("without a common Redis it does not start", done.returncode == 1 and "--redis" in done.stderr, done)
        gateways = instances(world, ending, "common", ALLOW, options)
        own = {"Host": public[7:]}

        def register(gateway, host, name="one"):
            key = Key()
            body = {"name": name, "capabilities": ["read"]}
            told = call(f"{gateway.url}/agentwall/agent/register", "POST", host.token(agent_key=key), body, own)
            assert told.status == 200, told
            return told.json, Agent(host, told.json["agent_id"], key)

        on = lambda gateway, *arguments, **options: world.run(*arguments, state=gateway.state, **options)

        def let_in(number):
            """Registered at one, approved at the next."""
            told, agent = register(gateways[number % 3], host, f"n{number}")
            other, code = gateways[(number + 1) % 3], told["approval"]["user_code"]
            wait_for(lambda: code in on(other, "pending").stdout)
            on(other, "approve", f"common:{code}")
            return agent

        host = Host(public)
        agent = let_in(0)
        known = lambda who: [one_call(gateway, who.token(), public) for gateway in gateways]
        check("registered at one, approved at the second, let in by all", wait_for(lambda: known(agent) == [200] * 3))
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            agents = list(pool.map(let_in, range(18)))
        check("registered at once everywhere", len({a.id for a in agents}) == 18)
        check("all are let in by all", wait_for(lambda: all(known(a) == [200] * 3 for a in agents)))

        streams = [Stream(gateways[2], one, public[7:]) for one in (agent, agents[0])]
        check("streams at the third", wait_for(lambda: all(s.count >= 3 for s in streams)))
        on(gateways[0], "gateway", "revoke", agent.id)
        streams[0].thread.join(5)
        check("revoked at the first, its stream ends there", streams[0].ended and not streams[0].whole)
        check("another's does not", streams[1].ended is None)
        check("and it is refused by all", wait_for(lambda: known(agent) == [403] * 3), known(agent))
        check("others are not", known(agents[0]) == [200] * 3)

        database.stop()
        before = len(world.api.seen)
        refused = wait_for(lambda: known(agents[0]) == [503] * 3, 20)
        check("without the database nobody is let in", refused, known(agents[0]))
        seen = len(world.api.seen)
        known(agents[1])
        check("and nothing reaches the API", len(world.api.seen) == seen, world.api.paths()[before:])
        done = on(gateways[0], "gateway", "revoke", agents[2].id, check=False)
        check("who revokes then is told that it is not kept yet", "PostgreSQL" in done.stdout + done.stderr, done)
        database.start()
        check("with it they are again", wait_for(lambda: known(agents[0]) == [200] * 3, 20))
        check("what was revoked meanwhile is known to all", wait_for(lambda: known(agents[2]) == [403] * 3, 30), known(agents[2]))
        again = instances(world, ending, "common", ALLOW, options, count=1)[0]
        check("an instance that comes later knows it, too", one_call(again, agents[2].token(), public) == 403)
        check("and everybody else", one_call(again, agents[3].token(), public) == 200)
        database.query("UPDATE agentwall_gateways SET last_event = last_event - 1")
        check("with a database that has gone back nobody is let in", wait_for(lambda: known(agents[3]) == [503] * 3, 20))
        said = "".join(gateway.said() for gateway in gateways)
        check("and it is said why", "gone back" in said, said)
        check("the password is nowhere", Postgres.PASSWORD not in said, said)


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def instances(world, ending, name, policy, options, copy_of=None, count=3):
    """Gateways of one name that run at the same time, each with a state folder of its own, until `ending`."""
    public = options[options.index("--public") + 1]
    all_of_them = []
    for _ in range(count):
        state = tempfile.mkdtemp(dir=world.dir)
        if copy_of:
            subprocess.run(["cp", "-aT", copy_of, state], check=True)
        one = Gateway(world, name=name, policy=policy, options=options)
        one.state = state
        start_at(one, public)
        ending.callback(one.stop)
        all_of_them.append(one)
    return all_of_them


def start_at(gateway, public):
    """Starts a gateway that is known under another's URL."""
    environment = {**os.environ, "AGENTWALL_STATE": gateway.state}
    gateway.log = open(f"{gateway.world.dir}/{gateway.name}-{gateway.port}.log", "a+")
    gateway.process = subprocess.Popen(gateway.command, env=environment, stdin=subprocess.DEVNULL, stdout=gateway.log,
                                       stderr=gateway.log)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if call(f"{gateway.url}/agentwall/health", timeout=2, headers={"Host": public[7:]}).status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the gateway does not answer: {gateway.said()}")


def one_call(gateway, token, public):
    return call(f"{gateway.url}/a", token=token, headers={"Host": public[7:]}).status


ALL = [passes, refused, disclosure, capabilities, approvals, executions, batches, approvals_at_once, standing_answers, budgets, costs,
       unreachable, risk, revocation, restart, reload, ledger, smuggling, limits, http2, start, client, shared, identities]
