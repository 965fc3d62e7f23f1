"""The rows of the rootless wall: start-up, files, programs, real work, network.

Everything is measured against the same thing outside the wall in the same run, turn by turn;
start-up is also measured against bubblewrap with the same isolation.
"""

import os
import subprocess
import sys
import time

from measure import Probe, Unmeasured, extra_row, interleave, ratio_row

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
from wall import rule  # the writer of policy rules is the tests' own

GIB = 1 << 30
FILES = 20_000
TRAPS = [{"id": "bench-trap", "priority": 2, "action": "file.read",
          "resource": "${workspace}/**/*.pem", "effect": "deny"}]


class Bench:
    """A folder with everything the rows work on, and the two probes."""

    def __init__(self, root, binary, folder, quick):
        self.root, self.binary, self.folder, self.quick = root, binary, folder, quick
        self.workspace = f"{folder}/workspace"
        os.makedirs(f"{self.workspace}/deep/er")
        self.probe = f"{folder}/probe"
        subprocess.run(["cc", "-O2", "-o", self.probe, f"{root}/bench/probe.c"], check=True)
        for path in (f"{self.workspace}/deep/er/file.txt", f"{folder}/allowed.txt"):
            with open(path, "w", encoding="utf-8") as file:
                file.write("x" * 1000)
        self.env = {**os.environ, "AGENTWALL_STATE": f"{folder}/state", "CARGO_TERM_QUIET": "true"}
        # A build that is already there elsewhere would be no build.
        self.env.pop("CARGO_TARGET_DIR", None)
        self.server = subprocess.Popen([self.probe, "serve", str(GIB)], stdout=subprocess.PIPE,
                                       text=True)
        self.port = int(self.server.stdout.readline())
        self.policy = self.write_policy("plain", [])
        self.trapping = self.write_policy("trapping", TRAPS)

    def close(self):
        self.server.kill()

    def runs(self, many):
        return max(3, many // 5) if self.quick else many

    def write_policy(self, name, extra):
        """The template that users get, what the bench itself needs, and more rules."""
        rules = extra + [
            {"id": "bench-server", "priority": 1, "action": "net.connect",
             "resource": f"tcp://127.0.0.1:{self.port}", "effect": "allow"},
            {"id": "bench-programs", "priority": 3,
             "action": ["file.read", "file.exec", "process.exec"],
             "resource": [self.folder, f"{self.folder}/**", f"{cargo_home()}/**",
                          f"{sysroot()}/**"], "effect": "allow"},
        ]
        with open(f"{self.root}/policies/claude-code.yaml", encoding="utf-8") as file:
            text = file.read()
        path = f"{self.folder}/policy-{name}.yaml"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("\nrules:\n", "\nrules:\n" + "".join(
                rule(**r) for r in rules), 1))
        return path

    def wall(self, command, policy=None):
        return [self.binary, "run", "--policy", policy or self.policy, "--workspace",
                self.workspace, "--discard", "--", *command]

    def probe_of(self, command, cpu=None):
        """A started probe; with all it starts, on one CPU if that is named."""
        on = [] if cpu is None else ["taskset", "-c", str(cpu)]
        return Probe(on + command, self.workspace, self.env)

    def pair(self, policy=None, cpu=None):
        """A probe behind the wall and a native one."""
        return (self.probe_of(self.wall([self.probe], policy), cpu),
                self.probe_of([self.probe], cpu))

    def compare(self, request, runs, policy=None, before=None, cpu=None):
        """Nanoseconds of a request, behind the wall and native, turn by turn."""
        wall, native = self.pair(policy, cpu)
        try:
            def ask(probe):
                if before:
                    probe.ask(before)
                return probe.ask(request)
            return interleave([lambda: ask(wall), lambda: ask(native)], self.runs(runs))
        finally:
            wall.close()
            native.close()


def cargo_home():
    return os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))


def sysroot():
    return subprocess.run(["rustc", "--print", "sysroot"], check=True, text=True,
                          capture_output=True).stdout.strip()


def startup(bench):
    """`run -- true` against bubblewrap with every namespace, a read-only root, /proc and /dev."""
    def timed(command):
        def once():
            start = time.monotonic_ns()
            done = subprocess.run(command, cwd=bench.workspace, env=bench.env,
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode != 0:
                raise Unmeasured(f"{command[0]}: exit {done.returncode}: {done.stderr[-600:]}")
            return time.monotonic_ns() - start
        return once
    wall, bwrap = interleave([
        timed(bench.wall(["/bin/true"])),
        timed(["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/",
               "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"])], bench.runs(60), warm=3)
    yield ratio_row("start-up of run -- true", "ms", 1e-6, wall, bwrap, 4.0,
                    "bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev; interleaved")


def files(bench):
    """Allowed files at native speed; files of the copy; a trapped open."""
    count = 20_000
    allowed, path = f"{bench.folder}/allowed.txt", f"{bench.workspace}/deep/er/file.txt"
    for place, file, limit in (("an allowed file", allowed, 1.10),
                               ("a file of the copy", path, None)):
        for name, verb in (("open/read/close of", "open"), ("stat of", "stat")):
            wall, native = bench.compare(f"{verb} {file} {count}", 40)
            yield ratio_row(f"{name} {place}", "us", 1e-3 / count, wall, native, limit,
                            f"{count} per turn, interleaved with native")
    count = 4_000
    cpu = max(os.sched_getaffinity(0))
    for name, verb in (("trapped open for reading", "open"),
                       ("trapped open for writing", "write")):
        request = f"{verb} {path} {count}"
        wall, native = bench.compare(request, 40, bench.trapping, cpu=cpu)
        yield extra_row(name, "us", 1e-3 / count, wall, native, 6.0,
                        f"{count} per turn with a glob deny on the tree, interleaved with native; "
                        "agent and broker on one CPU, so that no idle CPU has to be woken")
        wall, native = bench.compare(request, 20, bench.trapping)
        yield extra_row(f"{name}, on any CPU", "us", 1e-3 / count, wall, native, None,
                        "the same as the scheduler places them: where the other CPU is idle, it is "
                        "woken for each answer (see the next rows for what that costs here)")
    for place, one in (("one CPU", cpu), ("any CPU", None)):
        probe = bench.probe_of([bench.probe], one)
        times = [probe.ask(f"wake {count}") for _ in range(bench.runs(20))]
        probe.close()
        yield ratio_row(f"two wake-ups between processes, {place}", "us", 1e-3 / count, times, times,
                        None, "native round trip of a byte over two pipes")


def programs(bench):
    wall, native = bench.compare("spawn 200", 30)
    yield ratio_row("spawn of /bin/true", "us", 1e-3 / 200, wall, native, 1.25,
                    "posix_spawn and wait, 200 per turn, interleaved with native")


def real_work(bench):
    """A build of a crate of the registry, and git in a large tree."""
    crate = f"{bench.workspace}/crate"
    os.makedirs(f"{crate}/src")
    with open(f"{crate}/Cargo.toml", "w", encoding="utf-8") as file:
        file.write('[package]\nname = "user"\nversion = "0.1.0"\nedition = "2021"\n\n'
                   '[dependencies]\nserde_json = "1"\nserde = { version = "1", '
                   'features = ["derive"] }\n\n[workspace]\n')
    with open(f"{crate}/src/main.rs", "w", encoding="utf-8") as file:
        file.write('#[derive(serde::Serialize)]\nstruct A { b: u32 }\n\nfn main() {\n'
                   '    println!("{}", serde_json::to_string(&A { b: 1 }).unwrap());\n}\n')
    subprocess.run(["cargo", "fetch", "--quiet"], cwd=crate, check=True)
    cargo = f"{sysroot()}/bin/cargo"
    wall, native = bench.compare(
        f"sh cd {crate} && RUSTC={sysroot()}/bin/rustc {cargo} build --offline --quiet "
        ">/dev/null 2>&1", 7, before=f"sh rm -rf {crate}/target")
    yield ratio_row("cargo build of serde_json and a user", "s", 1e-9, wall, native, 1.05,
                    "from an empty target folder, offline, interleaved with native")

    tree = f"{bench.workspace}/tree"
    for index in range(FILES):
        folder = f"{tree}/d{index // 1000:02}/e{index // 50 % 20:02}"
        if index % 50 == 0:
            os.makedirs(folder)
        with open(f"{folder}/f{index}.txt", "w", encoding="utf-8") as file:
            file.write(f"{index}\n")
    subprocess.run(f"git init -q . && git add -A && git -c user.name=b -c user.email=b@example.org "
                   f"commit -qm tree", shell=True, cwd=tree, check=True)
    time.sleep(1.1)  # so that no entry of the index is racily clean
    wall, native = bench.compare(f"sh cd {tree} && git status --porcelain >/dev/null", 25)
    yield ratio_row(f"git status of {FILES} files", "ms", 1e-6, wall, native, 1.05,
                    "a clean tree, interleaved with native")


def network(bench):
    wall, native = bench.compare(f"recv 127.0.0.1 {bench.port} {GIB}", 9)
    speed = [[GIB / (ns * 1e-9) for ns in series] for series in (wall, native)]
    yield ratio_row("1 GiB through the captured network", "MiB/s", 1 / (1 << 20), *speed, 0.70,
                    "one TCP stream from a loopback server, interleaved with direct loopback",
                    at_least=True)


GROUPS = [startup, files, programs, real_work, network]
