"""The conformance suite of the protocol, directly and through the gateway: what differs would be the gateway's doing.

The servers need not pass all of it - they have not all that the suite asks for - but each check has to come out the same.
"""

import json
import os
import re
import socket
import subprocess
import threading

from mcp_servers import NODE, NODE_MODULES, everything, module, node
from world import ROOT, Gateway

POLICY = """agentwall: 1
default: deny
rules:
  - { id: all, action: [api.call, tool.call], resource: "**", effect: allow }
"""



# What the gateway answers itself, and rightly where the server does not: names of hosts, and the session that is over.
MENDED = {"localhost-host-rebinding-rejected", "server-session-terminated-returns-404"}


class Adapter:
    """Adds a token of the agent to each request, and nothing else. One request for each connection."""

    def __init__(self, gateway, agent):
        self.gateway, self.agent = gateway, agent
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            with client, socket.create_connection(("127.0.0.1", self.gateway.port)) as gateway:
                data = b""
                while b"\r\n\r\n" not in data:
                    more = client.recv(65536)
                    if not more:
                        return
                    data += more
                head, body = data.split(b"\r\n\r\n", 1)
                first, *lines = head.split(b"\r\n")
                own = (b"127.0.0.1:%d" % self.port, b"localhost:%d" % self.port)
                lines = [line for line in lines if line.split(b":")[0].lower() not in (b"connection", b"authorization")]
                for name in own:
                    lines = [line.replace(name, b"127.0.0.1:%d" % self.gateway.port)
                             if line.split(b":")[0].lower() in (b"host", b"origin") else line for line in lines]
                lines += [b"Authorization: Bearer " + self.agent.token().encode(), b"Connection: close"]
                gateway.sendall(b"\r\n".join([first, *lines]) + b"\r\n\r\n" + body)
                # What is left of the request, while the answer comes; a client that goes away ends it for the gateway.
                threading.Thread(target=pipe, args=(client, gateway, True), daemon=True).start()
                pipe(gateway, client, False)
        except OSError:
            pass


def pipe(source, target, request):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        if request:
            target.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def suite(world, url, revision, name):
    """The suite's checks: their outcomes, by scenario and id."""
    folder = f"{world.dir}/{name}"
    command = [NODE, module("@modelcontextprotocol/conformance/dist/index.js"), "server", "--url", url,
               "--requirements", revision, "-o", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=world.dir)
    found = {}
    for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*", "", entry.removeprefix("server-"))
        with open(f"{folder}/{entry}/checks.json") as file:
            for number, one in enumerate(json.load(file)):
                found[f"{scenario} {number} {one['id']}"] = one["status"]
    if not found:
        raise AssertionError(f"the suite has no results: {done.stdout[-500:]}{done.stderr[-500:]}")
    return found


def compare(check, world, server, revision):
    with server as url:
        direct = suite(world, url, revision, "direct")
        with Gateway(world, name="srv", policy=POLICY, upstream=url, options=["--mcp"]) as gateway:
            adapter = Adapter(gateway, gateway.agent("mcp", "mcp.tools"))
            through = suite(world, adapter.url, revision, "through")
            adapter.listener.close()
    passed = [outcome for outcome in direct.values() if outcome == "SUCCESS"]
    check(f"the suite says something: {len(passed)} of {len(direct)} checks pass directly", len(passed) > 20, direct)
    differ = {name: (direct.get(name), through.get(name)) for name in direct.keys() | through.keys()
              if direct.get(name) != through.get(name)}
    mended = {name for name in differ if name.split()[-1] in MENDED and differ[name] == ("FAILURE", "SUCCESS")}
    check(f"through the gateway each comes out the same, but {len(mended)} that the gateway answers itself",
          differ.keys() == mended, json.dumps(differ, indent=1))


def stateless(check, world):
    """conformance: revision 2026-07-28, a server of the project's own library"""
    server = node(f"{ROOT}/tests/mcp/modern.mjs", environment={"MCP_MODULES": NODE_MODULES},
                  log=f"{world.dir}/modern.log") if module("@modelcontextprotocol/server") else None
    compare(check, world, server, "2026-07-28")


def with_sessions(check, world):
    """conformance: revision 2025-11-25, @modelcontextprotocol/server-everything"""
    compare(check, world, everything(), "2025-11-25")


ALL = [stateless, with_sessions]
