"""A gateway as a decision point for others (AuthZEN): one policy, who may ask, what a person is asked about."""

import http.client
import json
import os
import socket
import time

from client import Answer, call
from world import Gateway, free_port

POLICY = """agentwall: 1
default: deny
rules:
  - { id: small, action: api.call, resource: "capability:create_transfer", effect: allow, when: "args.amount <= 100" }
  - { id: reads, action: api.call, subject: "user:*", resource: "record:*", effect: allow, when: 'args.action == "read"' }
  - { id: deletes, action: api.call, subject: "user:*", resource: "record:*", effect: ask, when: 'args.action == "delete"',
      reason: "Deleting is for people to decide." }
  - { id: pages, action: http.request, resource: "https://example.org/**", effect: allow }
  - { id: no-admin, priority: 1, action: http.request, resource: "https://example.org/admin/**", effect: deny }
budgets:
  - { action: api.call, resource: "capability:*", minute: 3 }
"""


class Pdp:
    """The decision point of a gateway, as one enforcement point sees it."""

    def __init__(self, gateway, name="mesh", token=None):
        self.url = gateway.pdp
        self.token = token or gateway.world.run("gateway", "token", "add", name, "--name", gateway.name).stdout.strip()

    def ask(self, subject, action, resource, properties=None, **more):
        return call(f"{self.url}/access/v1/evaluation", "POST", self.token,
                    asked(subject, action, resource, properties, **more))

    def submit(self, question, denial, headers=None):
        offer = denial.json["context"]
        bound = {"evaluation_id": offer["evaluation_id"], "expires_at": offer["access_request"]["expires_at"]}
        return call(f"{self.url}/access/v1/requests", "POST", self.token, {**question, "denial": bound}, headers)

    def task(self, answer):
        return call(answer.json["task"]["status_endpoint"], token=self.token)


def asked(subject, action, resource, properties=None, **more):
    subject, resource = [dict(zip(("type", "id"), text.split(":", 1))) for text in (subject, resource)]
    return {"subject": subject, "resource": resource, "action": {"name": action, "properties": properties or {}}, **more}


def deciding(world, policy=POLICY, **others):
    port = free_port()
    gateway = Gateway(world, policy=policy, options=["--pdp", f"127.0.0.1:{port}"], **others)
    gateway.pdp = f"http://127.0.0.1:{port}"
    return gateway


def reason(answer):
    return answer.status, answer.json.get("decision"), answer.json.get("context", {}).get("reason")


def one_policy(check, world):
    """decisions: agents, grants, constraints, budgets and the end of an agent are those of the gateway's own calls"""
    with deciding(world, openapi=world.openapi) as gateway:
        agent = gateway.agent("create_transfer")
        pdp = Pdp(gateway)
        who = f"agent:{agent.id}"
        transfer = lambda amount: pdp.ask(who, "api.call", "capability:create_transfer", {"amount": amount})
        check("a small transfer may be made", reason(transfer(100))[1] is True)
        check("a large one may not", reason(transfer(101)) == (200, False, "unauthorized"))
        answer = pdp.ask(who, "api.call", "capability:get_account", {"id": "1"})
        check("nor what was not granted", reason(answer) == (200, False, "capability_not_granted"), answer)
        answer = pdp.ask("agent:agt_nobody", "api.call", "capability:create_transfer", {"amount": 1})
        check("nor by an agent that is not known", reason(answer) == (200, False, "agent_not_found"), answer)
        check("the agent itself makes one", gateway.call(agent, "/transfers", "POST", {"amount": 1}).status == 200)
        check("which the third decision is charged after", reason(transfer(1))[1] is True)
        answer = transfer(1)
        check("the fourth is over the budget", reason(answer) == (200, False, "rate_limited")
              and answer.json["context"]["retry_after"] > 0, answer)
        answer = gateway.call(agent, "/transfers", "POST", {"amount": 1})
        check("also for the agent itself", answer.status == 429, answer)
        world.run("gateway", "revoke", agent.id)
        check("an agent that ended may nothing", reason(transfer(1)) == (200, False, "agent_not_active"))
        page = lambda url: pdp.ask("user:alice", "http.request", f"url:{url}")
        check("a page is decided by its URL", reason(page("https://example.org/a"))[1] is True)
        check("in the one spelling", reason(page("HTTPS://Example.org/%61dmin/x"))[1] is False)
        for url in ["https://example.org/a/../admin/x", "https://example.org//admin/x", "https://example.org/a?b"]:
            check(f"{url} has no one meaning", page(url).status == 400)
        check("paths of other hosts are not decided", pdp.ask("user:alice", "file.read", "file:/etc/x").status == 400)
        answer = call(f"{pdp.url}/access/v1/search/subject", "POST", pdp.token, {})
        check("there is no search", answer.status == 501, answer)
        gateway.stop()
        judged = [(e["host"], e["enforced_by"]) for e in world.ledger("call")]
        check("decisions are in the ledger, with who asked", judged.count(("mesh", "authzen")) == 6, judged)
        check("beside the agent's own calls", [by for _, by in judged].count("gateway") == 2, judged)
        check("none of it reached the API but the agent's own call", world.api.paths() == ["POST /transfers"], world.api.paths())


def callers(check, world):
    """decisions: a token is for its use, until it is taken away; what is kept opens nothing"""
    with deciding(world) as gateway:
        pdp = Pdp(gateway)
        read = ("user:alice", "read", "record:1")
        check("with it", reason(pdp.ask(*read))[1] is True)
        agent = gateway.agent("read")
        other = world.run("gateway", "token", "add", "api", "--for", "introspect", "--name", gateway.name).stdout.strip()
        for name, token in [("nothing", ""), ("an agent's token", agent.token()), ("a token for something else", other)]:
            check(f"{name} is 401", Pdp(gateway, token=token or "x").ask(*read).status == 401)
        check("without a token it is 401", call(f"{pdp.url}/access/v1/evaluation", "POST", None, asked(*read)).status == 401)
        check("agents' paths are not here", call(f"{pdp.url}/agentwall/health", token=pdp.token).status == 404)
        answer = call(f"{gateway.url}/access/v1/evaluation", "POST", agent.token(), asked(*read))
        check("decisions are not there", answer.status == 403, answer)
        listed = json.loads(world.run("gateway", "token", "list", "--json", "--name", gateway.name).stdout)
        check("both are listed", [t["name"] for t in listed] == ["api", "mesh"], listed)
        kept = f"{world.state}/gateways/{gateway.name}/tokens.json"
        with open(kept) as file:
            text = file.read()
        check("neither is kept", pdp.token[4:] not in text and other[4:] not in text, text)
        check("the file is its owner's", os.stat(kept).st_mode & 0o077 == 0)
        gateway.stop()
        gateway.start()
        check("it is known after a restart", reason(pdp.ask(*read))[1] is True)
        world.run("gateway", "token", "remove", "mesh", "--name", gateway.name)
        check("it ends", pdp.ask(*read).status == 401)
        events = [(e["event"], e.get("agent")) for e in world.ledger("principal") if e["event"].startswith("token.")]
        check("all of it is in the ledger", events == [("token.added", "mesh"), ("token.added", "api"), ("token.removed", "mesh")],
              events)


def requests(check, world):
    """access requests: a denial can be asked about; a yes is for exactly that, for who asked, once"""
    with deciding(world) as gateway:
        pdp, other = Pdp(gateway), Pdp(gateway, "other")
        delete = asked("user:alice", "delete", "record:1", context={"ip": "::1"})
        ask = lambda question, by=pdp, **context: by.ask(
            "user:alice", "delete", question, context={"ip": "::1", **context})
        denial = ask("record:1")
        check("it is denied, and may be asked about", reason(denial) == (200, False, "approval_required")
              and "access_request" in denial.json["context"], denial)
        check("nobody was asked", gateway.pending() == [], gateway.pending())
        for name, changed in [("subject", asked("user:bob", "delete", "record:1", context={"ip": "::1"})),
                              ("resource", asked("user:alice", "delete", "record:2", context={"ip": "::1"})),
                              ("context", asked("user:alice", "delete", "record:1", context={"ip": "::2"}))]:
            answer = pdp.submit(changed, denial)
            check(f"another {name} is not what was denied", answer.status == 400 and
                  answer.json["type"].endswith(":invalid_denial_binding"), answer)
        answer = other.submit(delete, denial)
        check("nobody else asks about it", answer.json["type"].endswith(":invalid_denial_binding"), answer)
        check("nobody was asked", gateway.pending() == [], gateway.pending())
        key = {"Idempotency-Key": "k1"}
        why = {**delete, "context": {"ip": "::1", "business_justification": "cleaning up"}}
        task = pdp.submit(why, denial, key)
        check("a person is asked", task.status == 202 and task.json["task"]["status"] == "pending"
              and task.headers.get("location") == task.json["task"]["status_endpoint"], task)
        again = pdp.submit(why, denial, key)
        check("the same again is the same task", again.json == task.json, again)
        answer = pdp.submit(delete, denial, key)
        check("another request with the key is refused", answer.status == 409, answer)
        waits = gateway.pending()
        check("once, about what was asked, by whom", len(waits) == 1 and "record:1" in waits[0]["exe"]
              and "mesh" in waits[0]["exe"], waits)
        check("nobody else sees the task", other.task(task).status == 404)
        check("it waits", pdp.task(task).json["task"]["status"] == "pending")
        early = ask("record:1", approval={"id": task.json["task"]["id"]})
        check("before the yes it is denied", reason(early) == (200, False, "approval_unverifiable"), early)
        world.run("approve", waits[0]["id"])
        done = pdp.task(task).json
        check("the yes is told", done["task"]["status"] == "approved" and done["result"]["mode"] == "reevaluate", done)
        approval = done["result"]["approval"]
        check("without naming it: denied", reason(ask("record:1"))[1] is False)
        check("for something else: denied", reason(ask("record:2", approval=approval)) == (200, False, "out_of_scope"))
        check("for somebody else: denied", reason(ask("record:1", by=other, approval=approval))[2] == "approval_unverifiable")
        check("by a guess: denied", reason(ask("record:1", approval={"id": "x"}))[2] == "approval_unverifiable")
        answer = ask("record:1", approval=approval, time="later")
        check("with it: permitted", reason(answer)[1] is True and answer.json["context"]["approval"]["id"] == approval["id"], answer)
        answer = ask("record:1", approval=approval)
        check("once", reason(answer) == (200, False, "approval_expired") and answer.json["context"]["next_action"] == "request"
              and "access_request" in answer.json["context"], answer)
        check("the task stays approved", pdp.task(task).json["task"]["status"] == "approved")

        denial = ask("record:3")
        third = asked("user:alice", "delete", "record:3", context={"ip": "::1"})
        task = pdp.submit(third, denial)
        world.run("reject", gateway.pending()[0]["id"])
        check("a no is told", pdp.task(task).json["task"]["status"] == "denied")
        check("and leads to the same task", pdp.submit(third, denial).json["task"]["status"] == "denied")

        fourth = asked("user:alice", "delete", "record:4", context={"ip": "::1"})
        pdp.submit(fourth, ask("record:4"))
        allowed = pdp.ask("user:alice", "read", "record:4")
        answer = call(f"{pdp.url}/access/v1/requests", "POST", pdp.token, {**fourth, "denial": {"evaluation_id": allowed.json[
            "context"]["evaluation_id"], "expires_at": "2030-01-01T00:00:00Z"}})
        check("what was permitted cannot be asked about", answer.status == 400, answer)
        check("one question waits", len(gateway.pending()) == 1)
        world.run("gateway", "token", "remove", "mesh", "--name", gateway.name)
        check("it ends with who put it", gateway.pending() == [], gateway.pending())
        denial = ask("record:5", by=other)
        answer = other.submit(asked("user:alice", "delete", "record:5", context={"ip": "::1"}), denial)
        check("the other goes on", answer.status == 202, answer)
        time.sleep(1.2)
        check("also when ends are looked for", len(gateway.pending()) == 1)


def introspection(check, world):
    """introspection: a server learns whom a token belongs to and what it may do, with a token of its own, once"""
    with Gateway(world, openapi=world.openapi) as gateway:
        agent = gateway.agent("echo", "get_account")
        make = lambda name, what: world.run("gateway", "token", "add", name, "--for", what, "--name", gateway.name).stdout.strip()
        server, pep = make("server", "introspect"), make("pep", "decide")
        ask = lambda token, by=server: call(f"{gateway.url}/agentwall/agent/introspect", "POST", by, {"token": token})
        token = agent.token()
        for name, by in [("nothing", None), ("a token for decisions", pep), ("the agent's own", agent.token())]:
            answer = ask(token, by)
            check(f"with {name} it is 401", answer.status == 401 and "active" not in (answer.json or {}), answer)
        answer = ask(token)
        told = answer.json
        check("it is told who", told["active"] is True and told["agent_id"] == agent.id and told["mode"] == "delegated", told)
        check("and what", sorted(g["capability"] for g in told["agent_capability_grants"]) == ["echo", "get_account"], told)
        check("once", ask(token).json == {"active": False})
        check("the token is used up here, too", gateway.call(agent, "/echo", "POST", token=token).error() == "jti_replay")
        told = ask(agent.token(capabilities=["echo"])).json
        check("no more than the token has", [g["capability"] for g in told["agent_capability_grants"]] == ["echo"], told)
        signature = agent.token().split(".")[2]
        fresh = agent.token()
        forged = fresh.rsplit(".", 1)[0] + "." + signature
        check("a forged one is none", ask(forged).json == {"active": False})
        check("and uses nothing up", ask(fresh).json["active"] is True)
        check("nor is text", ask("x").json == {"active": False})
        world.run("gateway", "revoke", agent.id)
        check("nor one of an agent that ended", ask(agent.token()).json == {"active": False})


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def local(check, world):
    """decisions: a Unix socket needs no token and is its owner's; a socket of somebody else is left alone"""
    path = f"{world.dir}/pdp.sock"
    with Gateway(world, policy=POLICY, options=["--pdp", f"unix:{path}"]) as gateway:
        check("nobody else may open it", os.stat(path).st_mode & 0o077 == 0, oct(os.stat(path).st_mode))
        connection = UnixConnection(path)
        body = json.dumps(asked("user:alice", "read", "record:1"))
        connection.request("POST", "/access/v1/evaluation", body, {"Content-Type": "application/json"})
        answer = Answer(connection.getresponse())
        check("it decides", reason(answer)[1] is True, answer)
        connection.close()
        second = world.run("protect", world.api.url, "--listen", f"127.0.0.1:{free_port()}", "--name", "second",
                           "--pdp", f"unix:{path}", check=False)
        check("another gateway does not take it", second.returncode == 1 and "something is there" in second.stderr, second)
        gateway.stop()
        gateway.start()
        check("what a gateway left behind is replaced", os.path.exists(path))
    open_ = world.run("protect", world.api.url, "--listen", f"127.0.0.1:{free_port()}", "--name", "open", "--pdp", "0.0.0.0:0",
                      check=False)
    check("a port that others reach in clear is refused", open_.returncode == 1 and "--pdp-public" in open_.stderr, open_)


ALL = [one_policy, callers, requests, local, introspection]
