"""A console, beside the gateways and sessions of a world."""

import importlib.util
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [f"{ROOT}/tests/conformance/agent-auth"]


# It has the name of this module.
spec = importlib.util.spec_from_file_location("gateway_world", f"{ROOT}/tests/gateway/world.py")
gateways = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gateways)
BINARY, World, Gateway, free_port, call = (gateways.BINARY, gateways.World, gateways.Gateway, gateways.free_port,
                                           gateways.call)


class Console(gateways.Server):
    """`agentwall serve`, and its origin."""
    name, health, environment = "console", "/api/v1/health", {"USER": "ada"}

    def __init__(self, world):
        self.world, self.port = world, free_port()
        self.url = f"http://localhost:{self.port}"
        self.command = [BINARY, "serve", "--listen", f"127.0.0.1:{self.port}"]

    def link(self):
        """The link that the first start printed."""
        return re.search(r"http://localhost:\d+/enrol#\S+", self.said())[0]

    def token(self, role, name=None):
        name = name or f"{role}-{os.urandom(3).hex()}"
        return self.world.run("serve", "token", "create", name, "--role", role).stdout.strip()

    def call(self, path, method="GET", token=None, body=None, headers=None):
        head = {"Host": f"localhost:{self.port}", **(headers or {})}
        return call(f"http://127.0.0.1:{self.port}{path}", method, token, body, head)

    def acts(self):
        """What the ledger says was done by way of it: act, by, proof."""
        return [(e["act"], e["by"], e["proof"]) for e in self.world.ledger("console")]


class Session:
    """A real `agentwall run` whose command waits for a person, in a workspace of its own."""

    POLICY = """agentwall: 1
default: deny
rules:
  - { id: own, priority: 10, action: [file.read, file.exec, process.exec], resource: "/**", effect: allow }
  - { id: work, priority: 10, action: "file.*", resource: "${workspace}/**", effect: isolate }
  - { id: asked, priority: 5, action: [file.write, file.create], resource: "${workspace}/asked*", effect: ask,
      reason: "A person decides." }
"""

    def __init__(self, world, script):
        self.workspace = f"{world.dir}/work-{os.urandom(3).hex()}"
        os.makedirs(self.workspace)
        environment = {**os.environ, "AGENTWALL_STATE": world.state}
        command = [BINARY, "run", "--policy", world.policy(self.POLICY), "--name", "worker", "--commit", "--workspace",
                   self.workspace, "--", "/bin/sh", "-c", script]
        self.process = subprocess.Popen(command, env=environment, cwd=self.workspace, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self.process.stdout.close()

    def end(self):
        output, _ = self.process.communicate(timeout=60)
        return output
