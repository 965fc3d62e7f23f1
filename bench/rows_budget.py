"""The rows of replay and budgets: an admission in memory, and one through Redis beside PING and SET NX PX.

crates/budget/examples/counters does the work against a redis-server of its own on a unix socket, without
persistence; what is compared takes turns. The peers are other algorithms for the same token, three windows
and reservation in one call: GCRA and two buckets, which are not exact, and the fields of a hash, which are.
"""

import json
import os
import statistics
import subprocess
import time

from measure import Unmeasured, mad, ratio_row, row

PEERS = (("gcra", "GCRA"), ("two_buckets", "two buckets"), ("fields", "sub-buckets as hash fields"))


def budget(bench):
    """Admissions in memory and through Redis."""
    program = build(bench)
    quick = 10 if bench.quick else 1
    yield from embedded(program, 200_000 // quick)
    with Server(bench) as url:
        yield from round_trips(program, url, 20_000 // quick)
        yield from server(program, url, 20_000 // quick)


def embedded(program, rounds):
    times = ask(program, "embedded", rounds)["three"]
    value = statistics.median(times) / 1e3
    yield row("admission in memory, token and 3 scopes", value, "us", 10, value / 10, "<= 10 us", value <= 10,
              len(times), mad(times) / 1e3, f"p50; p99 {p99(times) / 1e3:.1f} us; one thread")


def round_trips(program, url, rounds):
    told = ask(program, "redis", url, rounds)
    for name, key in (("1 scope", "one"), ("3 scopes", "three")):
        yield ratio_row(f"admission through Redis, {name} : PING", "us", 1e-3, told[key], told["ping"], None,
                        f"p50 of one round trip, in turns; p99 {p99(told[key]) / 1e3:.0f} us, of PING "
                        f"{p99(told['ping']) / 1e3:.0f} us")
        yield ratio_row(f"admission through Redis, {name} : SET NX PX", "us", 1e-3, told[key], told["set_nx"],
                        2.5 if key == "one" else None,
                        f"p50, the same turns; p99 of SET {p99(told['set_nx']) / 1e3:.0f} us")
    for key, name in PEERS:
        yield ratio_row(f"admission through Redis, 1 scope : {name}", "us", 1e-3, told["one"], told[key], None,
                        "p50, the same turns; three windows each")


def server(program, url, rounds):
    told = ask(program, "server", url, rounds)
    for key, name in (("set_nx", "SET NX PX"), *PEERS):
        limit = 0.5 if key == "fields" else None
        yield ratio_row(f"server's time for an admission, 1 scope : {name}", "us", 1e-3, told["one"], told[key],
                        limit, "50 at a time; the server's own statistics of the command")
    yield ratio_row("server's time for an admission, 3 scopes : 1 scope", "us", 1e-3, told["three"], told["one"],
                    None, "the same")


def p99(times):
    return sorted(times)[len(times) * 99 // 100]


def build(bench):
    done = subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "-p", "agentwall-budget",
                           "--example", "counters"], cwd=bench.root, check=False)
    if done.returncode != 0:
        raise Unmeasured(f"the measuring program does not build: exit {done.returncode}")
    target = os.environ.get("CARGO_TARGET_DIR", f"{bench.root}/target")
    return f"{target}/release/examples/counters"


def ask(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], check=False, text=True, capture_output=True)
    if done.returncode != 0:
        raise Unmeasured(f"counters {arguments[0]}: {done.stderr[-600:]}")
    return json.loads(done.stdout)


class Server:
    """A Redis of its own."""

    def __init__(self, bench):
        self.socket = f"{bench.folder}/redis"
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--save", "", "--appendonly", "no", "--loglevel", "warning",
             "--dir", bench.folder, "--unixsocket", self.socket], stdout=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(1000):
            if os.path.exists(self.socket):
                return f"unix://{self.socket}"
            time.sleep(0.01)
        raise Unmeasured("redis-server does not start")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


GROUPS = [budget]
