"""What a server of the Agent Auth Protocol v1.0-draft must do. Each case is a function of a Server; its first line
is what it asks for. Nothing here knows whose server it is."""

import concurrent.futures
import time

from client import call
from tokens import Agent, Host, Key, b64, compact, jti


class Server:
    """A server under test: where it is, how a person lets an agent in, and one capability that takes any argument."""

    def __init__(self, url, approve, reject, capability, arguments):
        self.url, self.approve, self.reject = url, approve, reject
        self.capability, self.arguments = capability, arguments
        self.document = call(f"{url}/.well-known/agent-configuration").json or {}
        self.issuer = self.document.get("issuer", url)

    def at(self, endpoint):
        url = self.document["endpoints"][endpoint]
        return url if url.startswith("http") else self.issuer + url

    def register(self, host, capabilities=None, key=None, **others):
        key = key or Key()
        body = {"name": "tester", "capabilities": capabilities or [self.capability], **others}
        return key, call(self.at("register"), "POST", host.token(agent_key=key), body)

    def agent(self, host=None, capabilities=None):
        """An active agent."""
        host = host or Host(self.issuer)
        key, answer = self.register(host, capabilities)
        assert answer.status == 200, answer
        if answer.json["status"] == "pending" or "approval" in answer.json:
            self.approve(answer.json)
        return Agent(host, answer.json["agent_id"], key)

    def execute(self, agent, token=None, capability=None, arguments=None, **others):
        token = token or agent.token(aud=self.document.get("default_location", self.issuer), **others)
        body = {"capability": capability or self.capability, "arguments": arguments or self.arguments}
        return call(self.at("execute"), "POST", token, body)


def discovery(check, server):
    """discovery: the document is there for everybody, whole, and may be cached"""
    answer = call(f"{server.url}/.well-known/agent-configuration")
    check("it is there without a token", answer.status == 200, answer)
    needed = {"version", "provider_name", "description", "issuer", "algorithms", "modes", "approval_methods",
              "endpoints"}
    check("it has all required members", needed <= set(answer.json), answer)
    check("Ed25519 is the one algorithm", answer.json["algorithms"] == ["Ed25519"], answer)
    check("it may be cached for an hour", "max-age=3600" in answer.headers.get("cache-control", ""), answer.headers)
    check("it has a default location", "default_location" in answer.json, answer)
    other = call(f"{server.url}/.well-known/agent-configuration", headers={"X-Forwarded-Host": "evil.example"})
    check("no header changes what it says", other.json == answer.json, other)


def listing(check, server):
    """capabilities: the list is public, described, and unknown names are 404"""
    answer = call(server.at("capabilities"))
    names = [c["name"] for c in answer.json["capabilities"]]
    check("it is listed without a token", answer.status == 200 and server.capability in names, answer)
    describe = server.at("describe_capability")
    answer = call(f"{describe}?name={server.capability}")
    check("it is described", answer.status == 200 and answer.json["name"] == server.capability, answer)
    answer = call(f"{describe}?name=no_such")
    check("an unknown one is not found", (answer.status, answer.error()) == (404, "capability_not_found"), answer)
    agent = server.agent()
    answer = call(server.at("capabilities"), token=agent.token())
    status = {c["name"]: c.get("grant_status") for c in answer.json["capabilities"]}
    check("an agent sees what it has", status.get(server.capability) == "granted", answer)


def registration(check, server):
    """registration: an unknown host waits, is the same while it waits, and is active when a person says so"""
    host = Host(server.issuer)
    key, answer = server.register(host)
    check("it is taken", answer.status == 200, answer)
    check("it waits", answer.json.get("status") == "pending", answer)
    approval = answer.json.get("approval") or {}
    needed = {"method", "expires_in", "interval", "verification_uri", "user_code"}
    check("it says how it is approved", needed <= set(approval), answer)
    first = answer.json
    grants = first["agent_capability_grants"]
    check("its grant waits and tells nothing more", grants[0]["status"] == "pending" and "description" not in grants[0],
          answer)
    _, again = server.register(host, key=key)
    check("the same key is the same agent", again.json.get("agent_id") == first["agent_id"], again)
    agent = Agent(host, first["agent_id"], key)
    answer = server.execute(agent)
    check("it can do nothing yet", answer.status == 403 and answer.error() in ("agent_pending", "host_pending"), answer)
    status = f"{server.at('status')}?agent_id={agent.id}"
    answer = call(status, token=host.token())
    check("its host may ask how it stands", answer.status == 200 and answer.json["status"] == "pending", answer)
    server.approve(first)
    answer = call(status, token=host.token())
    check("it is active", answer.json.get("status") == "active", answer)
    grants = answer.json["agent_capability_grants"]
    check("its grant is active and has an id", grants[0]["status"] == "active" and grants[0]["id"], answer)
    answer = server.execute(agent)
    check("it can call", answer.status == 200 and "data" in answer.json, answer)
    _, again = server.register(host, key=key)
    check("its key is taken", (again.status, again.error()) == (409, "agent_exists"), again)


def rejection(check, server):
    """registration: who is rejected stays outside"""
    host = Host(server.issuer)
    key, answer = server.register(host)
    server.reject(answer.json)
    agent = Agent(host, answer.json["agent_id"], key)
    answer = server.execute(agent)
    check("the agent cannot call", answer.status == 403 and answer.error() in ("agent_rejected", "host_revoked"), answer)


def registration_errors(check, server):
    """registration: what is wrong with a request is told by its code"""
    host = Host(server.issuer)
    cases = [
        ("an unknown capability", {"capabilities": ["no_such"]}, 400, "invalid_capabilities"),
        ("an unknown mode", {"mode": "free"}, 400, "unsupported_mode"),
        ("an unknown operator", {"capabilities": [{"name": server.capability, "constraints": {"a": {"about": 1}}}]},
         400, "unknown_constraint_operator"),
        ("capabilities that are no list", {"capabilities": "all"}, 400, "invalid_request"),
    ]
    for what, others, status, code in cases:
        _, answer = server.register(host, **others)
        check(what, (answer.status, answer.error()) == (status, code), answer)
    answer = call(server.at("register"), "POST", host.token(agent_key=Key()), "{")
    check("a body that is no JSON", (answer.status, answer.error()) == (400, "invalid_request"), answer)
    answer = call(server.at("register"), "POST", host.token(agent_key=Key()), '{"name":"a","name":"b"}')
    check("a name twice in the body", (answer.status, answer.error()) == (400, "invalid_request"), answer)
    answer = call(server.at("register"), "POST", host.token(), {"name": "a"})
    check("a token without the agent's key", answer.status in (400, 401), answer)


def host_tokens(check, server):
    """host tokens: each rule of section 4.2"""
    now = int(time.time())
    stranger, agent_key = Key(), Key()
    host = Host(server.issuer)
    cases = [
        ("another type", {"header": {"typ": "agent+jwt"}}),
        ("no type", {"header": {"typ": "JWT"}}),
        ("algorithm none", {"header": {"alg": "none"}}),
        ("algorithm HS256", {"header": {"alg": "HS256"}}),
        ("an unknown critical header", {"header": {"crit": ["x"], "x": 1}}),
        ("a thumbprint that is not its key's", {"iss": stranger.thumbprint()}),
        ("another's signature", {"key": stranger}),
        ("for another audience", {"aud": "https://other.example"}),
        ("over", {"iat": now - 200, "exp": now - 140}),
        ("from the future", {"iat": now + 100, "exp": now + 150}),
        ("that lives too long", {"exp": now + 3600}),
        ("without jti", {"jti": None}),
        ("without exp", {"exp": None}),
        ("without the host's key", {"host_public_key": None}),
        ("with two ways to the host's key", {"host_jwks_url": "https://host.example/jwks"}),
        ("with a private key", {"host_public_key": {**host.key.jwk(), "d": b64(host.key.seed)}}),
        ("with a key of another kind", {"host_public_key": {"kty": "oct", "k": "AAAA"}}),
    ]
    for what, others in cases:
        token = host.token(agent_key=agent_key, **others)
        answer = call(server.at("register"), "POST", token, {"name": "a"})
        check(f"one {what} is refused", answer.status in (400, 401), answer)
    token = host.token(agent_key=agent_key)
    head, payload, signature = token.split(".")
    for what, other in [("without a signature", f"{head}.{payload}."), ("with padding", f"{head}.{payload}.{signature}=="),
                        ("with four parts", f"{token}.x"), ("that is no token", "x")]:
        answer = call(server.at("register"), "POST", other, {"name": "a"})
        check(f"one {what} is refused", answer.status == 401, answer)
    answer = call(server.at("register"), "POST", None, {"name": "a"})
    check("without a token it says how to get one",
          answer.status == 401 and "AgentAuth discovery=" in answer.headers.get("www-authenticate", ""), answer.headers)
    answer = call(server.at("register"), "POST", token, {"name": "a"})
    check("the neighbour without a mistake is taken", answer.status == 200, answer)
    answer = call(server.at("register"), "POST", token, {"name": "a"})
    check("and not twice", answer.status == 401, answer)


def agent_tokens(check, server):
    """agent tokens: each rule of section 4.3, and a mistake changes nothing"""
    now = int(time.time())
    agent, stranger = server.agent(), Key()
    location = server.document.get("default_location", server.issuer)
    cases = [
        ("another type", {"header": {"typ": "host+jwt"}}),
        ("algorithm none", {"header": {"alg": "none"}}),
        ("another host", {"iss": stranger.thumbprint()}),
        ("an unknown agent", {"sub": "agt_unknown"}),
        ("another's signature", {"key": stranger}),
        ("the host's signature", {"key": agent.host.key}),
        ("another audience", {"aud": "https://other.example"}),
        ("its time over", {"iat": now - 200, "exp": now - 140}),
        ("its time to come", {"iat": now + 100, "exp": now + 150}),
        ("a long life", {"exp": now + 3600}),
        ("no jti", {"jti": None}),
        ("capabilities that are no list", {"capabilities": "all"}),
    ]
    for what, others in cases:
        token = agent.token(**{"aud": location, **others})
        answer = server.execute(agent, token=token)
        check(f"one with {what} is refused", answer.status == 401 and answer.error() == "invalid_jwt", answer)
    one = jti()
    answer = server.execute(agent, jti=one, key=stranger)
    check("a forged token is refused", answer.status == 401, answer)
    answer = server.execute(agent, jti=one)
    check("and did not use up the identifier", answer.status == 200, answer)
    answer = server.execute(agent, jti=one)
    check("which is taken once", answer.status == 401, answer)
    answer = server.execute(agent, iat=now - 85, exp=now - 25)
    check("clocks may be 30 s apart", answer.status == 200, answer)


def replay_at_once(check, server):
    """agent tokens: of many calls with one token at once, one is made"""
    agent = server.agent()
    token = agent.token(aud=server.document.get("default_location", server.issuer))
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: server.execute(agent, token=token), range(64)))
    made = [a for a in answers if a.status == 200]
    check("one is", len(made) == 1, [a.status for a in answers])
    check("all others are refused as tokens", all(a.status == 401 for a in answers if a not in made), answers[:3])


def attenuation(check, server):
    """attenuation: the token's capabilities cap everything"""
    agent = server.agent()
    answer = server.execute(agent, capabilities=[server.capability])
    check("what it names can be called", answer.status == 200, answer)
    for what, names in [("nothing", []), ("something else", ["other"])]:
        answer = server.execute(agent, capabilities=names)
        check(f"a token for {what} calls nothing", (answer.status, answer.error()) == (403, "capability_not_granted"),
              answer)
    answer = server.execute(agent)
    check("and took nothing away", answer.status == 200, answer)


def constraints(check, server):
    """constraints: what was proposed at registration holds, and a violation says what is wrong"""
    rule = {"amount": {"max": 100}, "kind": {"in": ["a", "b"]}}
    agent = server.agent(capabilities=[{"name": server.capability, "constraints": rule}])
    within = {**server.arguments, "amount": 100, "kind": "a"}
    answer = server.execute(agent, arguments=within)
    check("what is within is called", answer.status == 200, answer)
    for what, arguments, field in [("more", {**within, "amount": 101}, "amount"),
                                   ("another", {**within, "kind": "c"}, "kind"),
                                   ("none", {k: v for k, v in within.items() if k != "amount"}, "amount"),
                                   ("text for a number", {**within, "amount": "1"}, "amount")]:
        answer = server.execute(agent, arguments=arguments)
        fields = [v.get("field") for v in (answer.json or {}).get("violations", [])]
        check(f"{what} is refused, with the field", (answer.status, answer.error()) == (403, "constraint_violated")
              and field in fields, answer)


def more_capabilities(check, server):
    """request-capability: what is there already is said, the unknown is refused, the new waits"""
    agent = server.agent()
    url = server.at("request_capability")
    answer = call(url, "POST", agent.token(), {"capabilities": [server.capability]})
    check("what it has is there already", (answer.status, answer.error()) == (409, "already_granted"), answer)
    answer = call(url, "POST", agent.token(), {"capabilities": ["no_such"]})
    check("what is not there", (answer.status, answer.error()) == (400, "invalid_capabilities"), answer)
    others = [c["name"] for c in call(server.at("capabilities")).json["capabilities"] if c["name"] != server.capability]
    answer = call(url, "POST", agent.token(), {"capabilities": [others[0]], "reason": "more"})
    grants = answer.json.get("agent_capability_grants", [])
    check("what is new waits", answer.status == 200 and answer.json.get("status") == "pending"
          and [g["capability"] for g in grants] == [others[0]], answer)
    server.approve(answer.json)
    answer = call(f"{server.at('status')}?agent_id={agent.id}", token=agent.host.token())
    have = {g["capability"]: g["status"] for g in answer.json["agent_capability_grants"]}
    check("and is granted", have.get(others[0]) == "active", answer)


def unknown_capability(check, server):
    """execute: an unknown capability is not found, a missing one is a bad request"""
    agent = server.agent()
    answer = server.execute(agent, capability="no_such")
    check("unknown", answer.status in (403, 404) and answer.error() in ("capability_not_found", "capability_not_granted"),
          answer)
    token = agent.token(aud=server.document.get("default_location", server.issuer))
    answer = call(server.at("execute"), "POST", token, {"arguments": {}})
    check("missing", (answer.status, answer.error()) == (400, "invalid_request"), answer)


def agent_keys(check, server):
    """rotate-key: the old key is dead at once, the new one is the agent's, another host's agent is out of reach"""
    agent = server.agent()
    new = Key()
    answer = call(server.at("rotate_key"), "POST", Host(server.issuer).token(),
                  {"agent_id": agent.id, "public_key": new.jwk()})
    check("an unknown host cannot", answer.status in (401, 403, 404), answer)
    other = server.agent()
    answer = call(server.at("rotate_key"), "POST", other.host.token(), {"agent_id": agent.id, "public_key": new.jwk()})
    check("another host cannot", (answer.status, answer.error()) == (404, "agent_not_found"), answer)
    answer = call(server.at("rotate_key"), "POST", agent.host.token(), {"agent_id": agent.id, "public_key": new.jwk()})
    check("its host can", answer.status == 200, answer)
    answer = server.execute(agent)
    check("the old key is dead", answer.status == 401, answer)
    answer = server.execute(Agent(agent.host, agent.id, new))
    check("the new one is the agent's", answer.status == 200, answer)
    answer = call(server.at("rotate_key"), "POST", agent.token(key=new), {"agent_id": agent.id, "public_key": Key().jwk()})
    check("an agent cannot by itself", answer.status == 401, answer)


def host_keys(check, server):
    """rotate-host-key: the old key is dead at once, for the host and as the issuer of its agents"""
    agent = server.agent()
    old, new = agent.host.key, Key()
    answer = call(server.at("rotate_host_key"), "POST", agent.host.token(), {"public_key": new.jwk()})
    check("it is taken", answer.status == 200, answer)
    answer = server.execute(agent)
    check("the agent's old issuer is dead", answer.status == 401, answer)
    status = f"{server.at('status')}?agent_id={agent.id}"
    answer = call(status, token=agent.host.token())
    check("the host's old key is dead", answer.status == 401, answer)
    _, answer = server.register(agent.host)
    check("also for registering", answer.status == 401, answer)
    agent.host.key = new
    check("the new one is the host's", call(status, token=agent.host.token()).status == 200)
    check("and its agent goes on", server.execute(agent).status == 200)
    answer = call(server.at("rotate_host_key"), "POST", agent.host.token(), {"public_key": old.jwk()})
    check("the old one never comes back", answer.status >= 400, answer)


def agent_revocation(check, server):
    """revoke: an agent ends, says so each time it is asked, and its sister goes on"""
    agent = server.agent()
    sister_key, answer = server.register(agent.host)
    if answer.json["status"] == "pending":
        server.approve(answer.json)
    sister = Agent(agent.host, answer.json["agent_id"], sister_key)
    other = server.agent()
    answer = call(server.at("revoke"), "POST", other.host.token(), {"agent_id": agent.id})
    check("another host cannot end it", (answer.status, answer.error()) == (404, "agent_not_found"), answer)
    check("so it goes on", server.execute(agent).status == 200)
    for time_ in ("once", "again"):
        answer = call(server.at("revoke"), "POST", agent.host.token(), {"agent_id": agent.id})
        check(f"its host ends it {time_}", answer.status == 200 and answer.json["status"] == "revoked", answer)
    answer = server.execute(agent)
    check("it has ended", (answer.status, answer.error()) == (403, "agent_revoked"), answer)
    check("its sister goes on", server.execute(sister).status == 200)
    answer = call(server.at("reactivate"), "POST", agent.host.token(), {"agent_id": agent.id})
    check("nothing brings it back", answer.status >= 400, answer)


def host_revocation(check, server):
    """revoke-host: all agents of a host end with it, and no other host's"""
    agent, other = server.agent(), server.agent()
    sister_key, answer = server.register(agent.host)
    if answer.json["status"] == "pending":
        server.approve(answer.json)
    sister = Agent(agent.host, answer.json["agent_id"], sister_key)
    answer = call(server.at("revoke_host"), "POST", agent.host.token())
    check("it ends with its agents", answer.status == 200 and answer.json.get("agents_revoked") == 2, answer)
    for one in (agent, sister):
        answer = server.execute(one)
        check("an agent of it has ended", answer.status == 403 and answer.error() in ("host_revoked", "agent_revoked"),
              answer)
    _, answer = server.register(agent.host)
    check("it cannot register again", answer.status == 403 and answer.error() == "host_revoked", answer)
    check("another host's agent goes on", server.execute(other).status == 200)


def reactivation(check, server):
    """reactivate: an active agent stays as it is"""
    agent = server.agent()
    answer = call(server.at("reactivate"), "POST", agent.host.token(), {"agent_id": agent.id})
    check("it stays active", answer.status == 200 and answer.json["status"] == "active", answer)


def other_hosts(check, server):
    """status: a host sees its own agents alone"""
    agent, other = server.agent(), server.agent()
    answer = call(f"{server.at('status')}?agent_id={agent.id}", token=other.host.token())
    check("another's is not there", (answer.status, answer.error()) == (404, "agent_not_found"), answer)
    answer = call(f"{server.at('status')}?agent_id={agent.id}", token=agent.token())
    check("and not with an agent's token", answer.status == 401, answer)


def bodies(check, server):
    """errors: one body is a problem (RFC 9457) and an error of the protocol"""
    answer = call(server.at("execute"), "POST", "x", {"capability": server.capability})
    check("it has error and message", answer.error() == "invalid_jwt" and answer.json.get("message"), answer)
    answer = call(server.at("execute"), "DELETE")
    check("another method is not allowed", answer.status in (404, 405), answer)


def thumbprints(check, server):
    """thumbprints: the key of RFC 8037 has the thumbprint of RFC 8037"""
    key = Key(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    check("made by this suite", key.thumbprint() == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", key.thumbprint())
    # A JWK with more members has the same one.
    host = Host(server.issuer)
    host.key = key
    token = host.token(agent_key=Key(), host_public_key={**key.jwk(), "kid": "x", "use": "sig"})
    answer = call(server.at("register"), "POST", token, {"name": "a"})
    check("and by the server, whatever else the JWK has", answer.status in (200, 403), answer)
    token = host.token(agent_key=Key(), host_public_key={**key.jwk(), "x": key.x + "="})
    answer = call(server.at("register"), "POST", token, {"name": "a"})
    check("another spelling of the key is refused", answer.status in (400, 401), answer)
    assert compact({}) == b"{}"


ALL = [discovery, listing, registration, rejection, registration_errors, host_tokens, agent_tokens, replay_at_once,
       attenuation, constraints, more_capabilities, unknown_capability, agent_keys, host_keys, agent_revocation,
       host_revocation, reactivation, other_hosts, bodies, thumbprints]
