"""A world for gateways: an API that tells what reached it, a state folder, gateways, and what speaks to them."""

import contextlib
import glob
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{ROOT}/tests/conformance/agent-auth")

from client import call
from tokens import Agent, Host, Key

BINARY = os.environ.get("AGENTWALL_BIN", f"{ROOT}/target/release/agentwall")


class Api(http.server.ThreadingHTTPServer):
    """Answers with what it was sent, and remembers it. /slow waits, /stream goes on until it is told to stop."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen, self.lock, self.stop, self.pause = [], threading.Lock(), threading.Event(), threading.Event()
        self.broken = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def paths(self):
        with self.lock:
            return [f"{r['method']} {r['path']}" for r in self.seen]

    def handle_error(self, request, address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode("utf-8", "replace")
        told = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
        with self.server.lock:
            self.server.seen.append(told)
        if self.path.startswith("/slow"):
            self.server.pause.wait(5)
        if self.path.startswith("/stream"):
            return self.stream()
        out = json.dumps(told).encode()
        self.send_response(404 if self.path.startswith("/missing") else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(out)))
        self.send_header("AgentWall-Decision", "forged")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(out)

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for number in range(600):
                data = f"data: {number}\n\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
                if self.server.stop.wait(0.05):
                    break
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.broken.append(self.path)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer

    def log_message(self, *_):
        pass


OPENAPI = {
    "openapi": "3.1.0",
    "paths": {
        "/echo": {"post": {"operationId": "echo", "summary": "Tells what it was sent",
                           "x-agentwall-sensitivity": "low"}},
        "/accounts/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {"operationId": "getAccount"},
            "delete": {"operationId": "closeAccount"},
        },
        "/transfers": {"post": {"operationId": "createTransfer"}},
        "/stream": {"get": {"operationId": "stream"}},
        "/slow": {"get": {"operationId": "slow"}},
    },
}


class World:
    """An API, and a folder for everything."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="agentwall-gateway-")
        self.state = f"{self.dir}/state"
        self.openapi = f"{self.dir}/api.json"
        with open(self.openapi, "w") as file:
            json.dump(OPENAPI, file)
        self.api = Api()
        return self

    def __exit__(self, *_):
        self.api.stop.set()
        self.api.pause.set()
        self.api.shutdown()
        shutil.rmtree(self.dir, ignore_errors=True)

    def policy(self, text):
        path = tempfile.mktemp(dir=self.dir, suffix=".yaml")
        with open(path, "w") as file:
            file.write(text)
        return path

    def run(self, *arguments, check=True, state=None):
        environment = {**os.environ, "AGENTWALL_STATE": state or self.state}
        done = subprocess.run([BINARY, *arguments], env=environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise AssertionError(f"agentwall {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def ledger(self, kind=None):
        """The entries, the newest last."""
        lines = self.run("ledger", "export", "--format", "jsonl").stdout.splitlines()
        entries = [json.loads(line) for line in lines]
        return [e for e in entries if kind in (None, e.get("type"))]


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Redis:
    """A Redis without a disk."""

    def __enter__(self):
        self.port = free_port()
        self.process = subprocess.Popen(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Postgres:
    """A PostgreSQL of its own, with a password, on loopback. Its programs do not run as root."""
    PASSWORD = "s3cret-of-the-test"

    def __init__(self, folder):
        self.folder, self.port = f"{folder}/postgres", free_port()
        self.url = f"postgres://agentwall:{self.PASSWORD}@127.0.0.1:{self.port}/postgres"
        versions = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        self.programs = versions[-1]

    def run(self, program, *arguments):
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        subprocess.run([*user, f"{self.programs}/{program}", "-D", self.folder, *arguments], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/")

    def __enter__(self):
        os.mkdir(self.folder, 0o700)
        password = f"{self.folder}.password"
        with open(password, "w") as file:
            file.write(self.PASSWORD)
        if os.getuid() == 0:
            os.chmod(os.path.dirname(self.folder), 0o755)
            for path in (self.folder, password):
                shutil.chown(path, "postgres", "postgres")
        self.run("initdb", "-U", "agentwall", "-A", "scram-sha-256", f"--pwfile={password}")
        self.start()
        return self

    def start(self):
        # The log is a file: who reads standard output would wait for the server.
        self.run("pg_ctl", "-w", "-l", f"{self.folder}/log", "-o",
                 f"-p {self.port} -h 127.0.0.1 -k {self.folder}", "start")

    def stop(self):
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")

    def __exit__(self, *_):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()

    def query(self, text):
        environment = {**os.environ, "PGPASSWORD": self.PASSWORD}
        subprocess.run([f"{self.programs}/psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "agentwall", "-c", text, "postgres"],
                       check=True, env=environment, stdout=subprocess.DEVNULL)


class Server:
    """A process of the binary, which serves once it answers at `health`."""
    environment = {}

    def __enter__(self):
        self.start()
        return self

    def start(self):
        environment = {**os.environ, "AGENTWALL_STATE": self.world.state, **self.environment}
        self.log = open(f"{self.world.dir}/{self.name}.log", "a+")
        self.process = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended: {self.said()}")
            with contextlib.suppress(OSError):
                if call(f"{self.url}{self.health}", timeout=2).status == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{self.name} does not answer: {self.said()}")

    def said(self):
        self.log.flush()
        with open(self.log.name) as file:
            return file.read()

    def __exit__(self, *_):
        self.stop()

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Gateway(Server):
    """A gateway in front of a world's API."""
    health = "/agentwall/health"

    def __init__(self, world, name=None, policy=None, openapi=None, options=(), upstream=None):
        self.world, self.name = world, name or f"g{os.urandom(4).hex()}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [BINARY, "protect", upstream or world.api.url, "--listen", f"127.0.0.1:{self.port}",
                        "--name", self.name, *options]
        if policy:
            self.policy_file = world.policy(policy)
            self.command += ["--policy", self.policy_file]
        if openapi:
            self.command += ["--openapi", openapi]

    def answer(self, verb, question, *options):
        return self.world.run(verb, f"{self.name}:{question}", *options)

    def approve(self, registered):
        self.answer("approve", registered["approval"]["user_code"])

    def reject(self, registered):
        self.answer("reject", registered["approval"]["user_code"])

    def pending(self):
        asks = json.loads(self.world.run("pending", "--json").stdout)
        return [a for a in asks if a["id"].startswith(f"{self.name}:")]

    def agent(self, *capabilities, host=None, name="tester"):
        """An agent that was let in."""
        host = host or Host(self.url)
        key = Key()
        body = {"name": name, "capabilities": list(capabilities)}
        answer = call(f"{self.url}/agentwall/agent/register", "POST", host.token(agent_key=key), body)
        assert answer.status == 200, answer
        if "approval" in answer.json:
            self.approve(answer.json)
        return Agent(host, answer.json["agent_id"], key)

    def call(self, agent, path, method="GET", body=None, headers=None, token=None, **others):
        return call(f"{self.url}{path}", method, token or agent.token(**others), body, headers)
