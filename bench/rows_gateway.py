"""Rows of the gateway: what it adds to a call with all checks and the ledger on, beside the API alone and, where it is installed,
nginx as a plain proxy. The load's times are from when a call was due, so that a call that waits for another one counts as slow.

Everything - load, gateway, API, Redis - runs on the same cores, which is what the ratios and differences are of.
"""

import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
import urllib.error
import urllib.request

from measure import Unmeasured, interleave, mad, row
from rows_budget import Server

RATE = 1000
POLICY = """agentwall: 1
default: deny
rules:
  - { id: calls, action: http.request, resource: "**", effect: allow, reason: "Calls." }
budgets:
  - { action: http.request, resource: "**", minute: 100000000, hour: 100000000, day: 100000000 }
"""


def gateway(bench):
    """Added latency at 1,000 calls a second, throughput against verifications, revocation."""
    load = build(bench)
    with Api(load) as api:
        with Gateway(bench, api, "plain") as plain, Server(bench) as redis, Gateway(
                bench, api, "redis", "--redis", redis, "--redis-timeout", "1000") as shared:
            yield from latencies(bench, load, api, plain, shared)
            yield from throughput(bench, load, api, plain)
        yield from revocation(bench, api)


def latencies(bench, load, api, plain, shared):
    count = RATE * (1 if bench.quick else 4)
    peers = [("direct", lambda: calls(load, api.url, None, RATE, count)),
             ("embedded", lambda: calls(load, plain.url, plain, RATE, count)),
             ("redis", lambda: calls(load, shared.url, shared, RATE, count))]
    nginx = Nginx(bench, api) if shutil.which("nginx") else None
    if nginx:
        peers.append(("nginx", lambda: calls(load, nginx.url, None, RATE, count)))
    try:
        told = dict(zip([n for n, _ in peers], interleave([f for _, f in peers], bench.runs(10))))
    finally:
        if nginx:
            nginx.close()
    for name, what, limits in [("embedded", "counters in memory", (0.3, 1.5)), ("redis", "Redis on loopback", (0.3, 1.5)),
                               ("nginx", "nginx as a plain proxy", (None, None))]:
        if name not in told:
            continue
        for part, limit in zip(("p50", "p99"), limits):
            added = [(a[part] - b[part]) / 1e6 for a, b in zip(told[name], told["direct"])]
            base = statistics.median(b[part] for b in told["direct"]) / 1e6
            value = statistics.median(added)
            subject = "added by nginx as a plain proxy" if name == "nginx" else f"added by the gateway, {what}"
            yield row(f"{subject}, {part}", value, "ms", base, (base + value) / base,
                      "none, to know" if limit is None else f"<= {limit} ms", limit is None or value <= limit,
                      len(added), mad(added), f"{RATE} calls/s, 16 connections, {part} minus that of the API alone in turns")


def throughput(bench, load, api, plain):
    count = 4000 if bench.quick else 20000
    def most(url, gateway=None):
        told = calls(load, url, gateway, 0, count, 32)
        return told["answered"] / told["seconds"]
    def verified():
        done = subprocess.run([load, "verify", "1", str(os.cpu_count())], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)["per_second"]
    nginx = Nginx(bench, api) if shutil.which("nginx") else None
    try:
        peer = [lambda: most(nginx.url)] if nginx else []
        many, limit, *others = interleave([lambda: most(plain.url, plain), verified, *peer], bench.runs(5))
    finally:
        if nginx:
            nginx.close()
    value, base = statistics.median(many), statistics.median(limit)
    yield row("calls through the gateway : verifications", value, "1/s", base, value / base, "ratio >= 0.6",
              value / base >= 0.6, len(many), mad([m / v for m, v in zip(many, limit)]),
              "32 connections one call after the other; one Ed25519 verification a token on all cores. Load and API use the same "
              "cores as the gateway, the verifications have them alone")
    for other in others:
        base = statistics.median(other)
        yield row("calls through the gateway : through nginx", value, "1/s", base, value / base, "none, to know", True, len(many),
                  mad([m / o for m, o in zip(many, other)]), "the same turns; nginx as a plain proxy without any check")


def revocation(bench, api):
    times = []
    for _ in range(bench.runs(10)):
        with Gateway(bench, api, "revoked") as one:
            times.append(one.revoked_after())
    value = statistics.median(times)
    yield row("revoked agent's next call is refused after", value, "ms", 100, value / 100, "<= 100 ms", value <= 100, len(times),
              mad(times), "from the start of 'agentwall gateway revoke', the start of the program with it, to the first refused call; one instance")


def calls(load, url, gateway, rate, count, connections=16):
    agent, host = (gateway.agent, gateway.host) if gateway else ("-", "-")
    done = subprocess.run([load, "calls", f"{url}/x", agent, host, str(rate), str(count), str(connections)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unmeasured(f"load: {done.stderr[-400:]}")
    told = json.loads(done.stdout)
    if told["wrong"] or told["answered"] != count:
        raise Unmeasured(f"{told['wrong']} of {count} calls were refused or broke off: {told}")
    return told


def build(bench):
    done = subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "-p", "agentwall-gateway", "--example",
                           "load"], cwd=bench.root, check=False)
    if done.returncode:
        raise Unmeasured(f"the load does not build: exit {done.returncode}")
    return f"{os.environ.get('CARGO_TARGET_DIR', f'{bench.root}/target')}/release/examples/load"


class Api:
    def __init__(self, load):
        self.process = subprocess.Popen([load, "serve"], stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Gateway:
    """A gateway with one agent that was let in."""

    def __init__(self, bench, api, name, *options):
        self.bench, self.name = bench, name
        self.state = f"{bench.folder}/gateway-{name}-{time.monotonic_ns()}"
        self.env = {**os.environ, "AGENTWALL_STATE": self.state}
        policy = f"{bench.folder}/gateway.yaml"
        with open(policy, "w", encoding="utf-8") as file:
            file.write(POLICY)
        self.process = subprocess.Popen([bench.binary, "protect", api.url, "--listen", "127.0.0.1:0", "--name", name,
                                         "--policy", policy, *options], env=self.env, stderr=subprocess.PIPE, text=True)
        first = self.process.stderr.readline()
        if " stands before " not in first:
            raise Unmeasured(f"the gateway does not start: {first}{self.process.stderr.read()}")
        self.url = first.split()[1]
        self.run("identity", "enrol", self.url)
        asked = json.loads(self.run("pending", "--json"))
        self.run("approve", asked[0]["id"])
        folder = f"{self.state}/identity/agents"
        self.agent, self.host = f"{folder}/{os.listdir(folder)[0]}", f"{self.state}/identity/host.json"

    def run(self, *arguments):
        done = subprocess.run([self.bench.binary, *arguments], env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unmeasured(f"agentwall {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def status(self, token):
        request = urllib.request.Request(f"{self.url}/x", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except (OSError, http.client.HTTPException):
            # The answer was cut when the agent was revoked.
            return 0

    def revoked_after(self):
        """In milliseconds."""
        with open(self.agent, encoding="utf-8") as file:
            agent = json.load(file)["agent"]
        tokens = [self.run("identity", "token", self.url).strip() for _ in range(40)]
        if self.status(tokens.pop()) != 200:
            raise Unmeasured("the agent is refused before it is revoked")
        start = time.monotonic()
        revoking = subprocess.Popen([self.bench.binary, "gateway", "revoke", agent], env=self.env, stdout=subprocess.DEVNULL)
        while tokens and self.status(tokens.pop()) == 200:
            time.sleep(0.002)
        taken = (time.monotonic() - start) * 1e3
        revoking.wait()
        if not tokens:
            raise Unmeasured("the agent was not refused in time")
        return taken

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        shutil.rmtree(self.state, ignore_errors=True)


class Nginx:
    """nginx as a proxy without any check."""

    def __init__(self, bench, api):
        folder = f"{bench.folder}/nginx"
        os.makedirs(folder, exist_ok=True)
        self.url = "http://127.0.0.1:18787"
        with open(f"{folder}/nginx.conf", "w", encoding="utf-8") as file:
            file.write(f"""daemon off; pid {folder}/pid; worker_processes 2; error_log {folder}/error;
events {{ worker_connections 512; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream api {{ server {api.url[7:]}; keepalive 32; }}
  server {{ listen 127.0.0.1:18787; location / {{ proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
""")
        self.process = subprocess.Popen(["nginx", "-p", folder, "-c", f"{folder}/nginx.conf"], stderr=subprocess.DEVNULL)
        time.sleep(0.5)

    def close(self):
        self.process.terminate()
        self.process.wait()


GROUPS = [gateway]
