"""A server over standard input and output, behind `agentwall mcp`."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading

from mcp_servers import NODE, module, tool
from world import BINARY, ROOT

POLICY = """agentwall: 1
default: deny
rules:
  - { id: speak, action: api.call, resource: "capability:mcp", effect: allow }
  - { id: echo, subject: "agent:local/client", action: tool.call, resource: "mcp:files/{echo,read_text_file,list_allowed_directories}",
      effect: allow }
  - { id: ask, action: tool.call, resource: "mcp:files/write_file", effect: ask, reason: "A person looks." }
"""


class Wrapped:
    """`agentwall mcp` with a server, and what a client says to it."""

    def __init__(self, world, *command, policy=POLICY, options=()):
        self.world, self.next, self.answers = world, 0, queue.Queue()
        environment = {**os.environ, "AGENTWALL_STATE": world.state}
        command = [BINARY, "mcp", "--name", "files", "--policy", world.policy(policy), *options, "--", *command]
        self.log = open(f"{world.dir}/stdio.log", "a+")
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, cwd=world.dir)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.end()
        self.log.close()

    def end(self):
        self.process.stdin.close()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def line(self, line):
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.answers.get(timeout=20)
        if line is None:
            self.log.flush()
            raise AssertionError("it ended: " + open(self.log.name).read())
        return json.loads(line)

    def ask(self, method, params=None):
        self.next += 1
        self.line(json.dumps({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params or {}}).encode())
        return self.answer()

    def use(self, name, arguments=None):
        return self.ask("tools/call", {"name": name, "arguments": arguments or {}})["result"]

    def begin(self):
        answer = self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {},
                                         "clientInfo": {"name": "t", "version": "1"}})
        self.line(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return answer

    def tools(self):
        return [t["name"] for t in self.ask("tools/list")["result"]["tools"]]


def scripted(world, tools, **others):
    listed = f"{world.dir}/tools.json"
    with open(listed, "w") as file:
        json.dump(tools, file)
    return Wrapped(world, sys.executable, f"{ROOT}/tests/mcp/stdio_server.py", f"{world.dir}/seen", listed, **others)


def seen(world):
    with open(f"{world.dir}/seen", "rb") as file:
        return file.read()


def lines(check, world):
    """stdio: each line is decided; what is denied, or can be read in two ways, does not reach the server"""
    with scripted(world, [tool("echo"), tool("wipe")]) as server:
        server.begin()
        check("an allowed tool is called", server.use("echo")["content"][0]["text"] == "did echo")
        result = server.use("wipe")
        check("a denied one is not", result.get("isError") and result["content"][0]["text"].startswith("Not called: "), result)
        check("nor listed", server.tools() == ["echo"])
        inner = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"wipe"}}'
        for what, line in [
            ("a message in another's lines", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":[\r' + inner + b'\r]}}'),
            ("a batch", b"[" + inner + b"]"),
            ("a name twice", inner.replace(b'"name":"wipe"', b'"name":"echo","name":"wipe"')),
            ("a method twice", inner.replace(b'"method"', b'"method":"ping","method"')),
            ("no JSON", b"wipe"),
            ("an unknown method", b'{"jsonrpc":"2.0","id":1,"method":"wipe"}'),
        ]:
            server.line(line)
            answer = server.answer()
            check(f"{what} is refused", answer["error"]["code"] in (-32700, -32600, -32601), answer)
        check("nothing of it reached the server", b"wipe" not in seen(world), seen(world))
        raw = b'{"jsonrpc":"2.0", "id":"x","method":"tools/call","params":{"name":"echo","arguments":{"n":1.50},"later":[1]}}'
        server.line(raw)
        check("a line goes on byte for byte", server.answer()["id"] == "x" and seen(world).endswith(raw + b"\n"), seen(world))
        check("it ends with the server's status", server.end() == 7)
    calls = [e for e in world.ledger("call") if e["action"]["verb"] == "tool.call"]
    found = [(e["host"], e["agent"], e["action"]["resource"]) for e in calls]
    check("the ledger has the calls", found[:2] == [("local", "client", "mcp:files/echo"), ("local", "client", "mcp:files/wipe")], found)
    check("and their ends", len(world.ledger("call_end")) > 3)
    check("and that it began and ended", [e["outcome"] for e in world.ledger("gateway")] == ["started", "ended"])


def changed(check, world):
    """stdio: a definition that changes between two runs is withheld; two clients share what is known"""
    with scripted(world, [tool("echo"), tool("read_text_file")]) as server:
        server.begin()
        check("it is listed", server.tools() == ["echo", "read_text_file"])
        with scripted(world, [tool("echo", "does something else"), tool("read_text_file")]) as other:
            other.begin()
            check("another one is not", other.tools() == ["read_text_file"])
            check("nor called", other.use("echo").get("isError"))
            check("nor by the first client, from then on", server.use("echo").get("isError"))
            check("its neighbour is", not other.use("read_text_file").get("isError"))
            world.run("gateway", "tools", "--name", "files", "--accept", "echo")
            check("a person accepts it", not other.use("echo").get("isError") and other.tools() == ["echo", "read_text_file"])


def asked(check, world):
    """stdio: a call waits for a person and is made once"""
    with scripted(world, [tool("write_file")]) as server:
        server.begin()
        text = server.use("write_file", {"path": "a"})["content"][0]["text"]
        check("it waits, and says who answers", "agentwall pending" in text and "status_url" not in text, text)
        asks = json.loads(world.run("pending", "--json").stdout)
        check("a person sees it", [a["action"]["facts"]["args"] for a in asks] == [{"path": "a"}], asks)
        check("nothing was called", b"write_file" not in seen(world))
        world.run("approve", asks[0]["id"])
        check("another call is not", server.use("write_file", {"path": "b"}).get("isError"))
        check("the call is made", not server.use("write_file", {"path": "a"}).get("isError"))
        check("once", server.use("write_file", {"path": "a"}).get("isError") and seen(world).count(b"write_file") == 1)


FREE = """agentwall: 1
default: deny
rules:
  - { id: all, action: [api.call, tool.call], resource: "**", effect: allow }
"""


def answered(check, world):
    """stdio: a call ends once, with an answer that was looked at"""
    with scripted(world, [tool("echo")], policy=FREE) as server:
        server.begin()
        answer = server.ask("tools/call", {"name": "twice"})
        check("one that has two meanings is withheld, and said to be", answer["error"]["code"] == -32603, answer)
        waits = b'{"jsonrpc":"2.0","id":"w","method":"tools/call","params":{"name":"silent"}}'
        server.line(waits)
        server.line(waits.replace(b"silent", b"echo"))
        answer = server.answer()
        check("a second call with the id of one that waits is refused", answer["error"]["code"] == -32600, answer)
        check("and does not reach the server", seen(world).count(b'"id":"w"') == 1)
        server.line(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"w"}}')
        server.line(waits.replace(b"silent", b"echo"))
        check("until that is cancelled", "result" in server.answer())
        server.line(waits.replace(b"silent", b"long"))
        check("a line without an end ends both, with a failure", server.process.wait(20) == 125)
    check("which is recorded", [e["outcome"] for e in world.ledger("gateway")] == ["started", "ended"])


def signals(check, world):
    """stdio: who ends the wrapper ends the server, and the ledger has it"""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before = len(world.ledger("gateway"))
        with scripted(world, [tool("echo")], policy=FREE) as server:
            server.begin()
            server.line(b'{"jsonrpc":"2.0","id":"w","method":"tools/call","params":{"name":"silent"}}')
            check("it answers", server.tools() == ["echo"])
            server.process.send_signal(number)
            status = server.process.wait(20)
            # The server is a program in Python, which makes an exception of SIGINT.
            check(f"signal {number} reaches the server, and its status is handed on", status in (128 + number, 1), status)
        check("it ended in order", [e["outcome"] for e in world.ledger("gateway")][before:] == ["started", "ended"])
    ends = [e for e in world.ledger("call_end") if "before it answered" in json.dumps(e)]
    check("the calls without an answer, too", len(ends) == 3, ends)


def filesystem(check, world):
    """stdio: the reference server @modelcontextprotocol/server-filesystem, on real files"""
    command = [NODE, module("@modelcontextprotocol/server-filesystem/dist/index.js")]
    folder = os.path.realpath(world.dir) + "/files"
    os.mkdir(folder)
    with open(f"{folder}/a.txt", "w") as file:
        file.write("what it says")
    with Wrapped(world, *command, folder) as server:
        answer = server.begin()
        check("it begins", answer["result"]["serverInfo"]["name"], answer)
        names = server.tools()
        check("what may be called is listed", sorted(names) == ["list_allowed_directories", "read_text_file", "write_file"], names)
        result = server.use("read_text_file", {"path": f"{folder}/a.txt"})
        check("a file is read", "what it says" in result["content"][0]["text"], result)
        result = server.use("move_file", {"source": f"{folder}/a.txt", "destination": f"{folder}/b.txt"})
        check("it is not moved", result.get("isError") and os.listdir(folder) == ["a.txt"], result)
        server.use("write_file", {"path": f"{folder}/c.txt", "content": "new"})
        check("nor is one written", os.listdir(folder) == ["a.txt"])
        world.run("approve", json.loads(world.run("pending", "--json").stdout)[0]["id"])
        result = server.use("write_file", {"path": f"{folder}/c.txt", "content": "new"})
        check("until a person says yes", not result.get("isError") and open(f"{folder}/c.txt").read() == "new", result)


def fails(check, world):
    """stdio: without a policy or a program nothing starts"""
    run = lambda *words: world.run("mcp", "--name", "files", *words, check=False)
    done = run("--policy", f"{world.dir}/none.yaml", "--", "touch", f"{world.dir}/started")
    check("no policy", done.returncode == 125 and not os.path.exists(f"{world.dir}/started"), done)
    done = run("--policy", world.policy(POLICY), "--", f"{world.dir}/nothing")
    check("no program", done.returncode == 127, done)
    done = run("--policy", world.policy(POLICY), "--", "touch", f"{world.dir}/started")
    check("its neighbour starts", done.returncode == 0 and os.path.exists(f"{world.dir}/started"), done)


ALL = [lines, changed, asked, answered, signals, filesystem, fails]
