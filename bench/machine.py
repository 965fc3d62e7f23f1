#!/usr/bin/env python3
"""What rows_machine.py has measured in the virtual machine: operations with the programs attached and without.

    machine.py HOOKS PROBE ROUNDS RESULT [work]

One probe has no policy, the others have one of a number of rules each. In every round all of them do the same with
the programs detached and attached, in an order of its own, so that each is compared with itself. With `work`
also a real clone and build, detached and with a thousand rules. Root, in the machine alone.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from statistics import median

sys.dont_write_bytecode = True
from measure import Probe

RULES = (1, 100, 1000, 10000)
WORK_RULES = 1000
PLACE = "/root/bench"
PINS = "/sys/fs/bpf/bench"
PORT = 7070
# What is asked of a probe, and how many operations that is.
ASKED = {
    "open, read, close of one file": (f"open {PLACE}/one 2000", 2000),
    "open, read, close of 500 files": (f"walkread {PLACE}/many 500", 500),
    "rename": (f"rename {PLACE}/two 500", 1000),
    "connect": (f"connect 127.0.0.1 {PORT} 200", 200),
    "exec": ("spawn 10", 10),
}
# A hook that returns at once: what the kernel's statistics cost themselves, the reading of its clock.
STATISTICS = 9
AT_ONCE = {"mprotect": ("protect 2000", 2000)}


class Hooks:
    """The example `hooks`, which holds the programs."""

    def __init__(self, program):
        self.process = subprocess.Popen([program, PINS], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.count = int(self.answer())

    def answer(self):
        line = self.process.stdout.readline()
        if not line.startswith("done"):
            sys.exit(f"hooks: {line!r}")
        return line[4:].strip()

    def ask(self, request):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.answer()


def policy(rules):
    """A policy with so many rules: what is measured is allowed by the last of them."""
    path = f"{PLACE}/policy-{rules}.yaml"
    kinds = ("/srv/app{}/**", "**/*.ext{}", "**/secret{}/*.pem", "/srv/app{}/**/*.tmp")
    with open(path, "w", encoding="utf-8") as file:
        file.write("agentwall: 1\nrules:\n")
        for number in range(rules - 1):
            place = kinds[number % len(kinds)].format(number)
            file.write(f"  - {{id: r{number}, priority: 1, action: 'file.*', resource: '{place}', "
                       "effect: deny}\n")
        file.write("  - {id: all, priority: 2, action: '*', resource: '*', effect: allow}\n")
    return path


def serve():
    """Takes connections and lets them go."""
    server = socket.create_server(("127.0.0.1", PORT), backlog=4096)

    def accept():
        while True:
            server.accept()[0].close()
    threading.Thread(target=accept, daemon=True).start()


def prepare():
    """The files that the probes work on; off the overlay."""
    os.makedirs(f"{PLACE}/many")
    for number in range(500):
        with open(f"{PLACE}/many/{number}", "w", encoding="utf-8") as file:
            file.write("x" * 100)
    for name in ("one", "two"):
        with open(f"{PLACE}/{name}", "w", encoding="utf-8") as file:
            file.write("x" * 1000)
    os.chmod(PLACE, 0o700)


def rounds(hooks, probes, count):
    """{what: {subject: [[detached ns, attached ns], …]}} for one operation each."""
    found = {what: {name: [] for name in probes} for what in ASKED}
    for turn in range(count + 1):
        states = ["detach", "attach"]
        random.shuffle(states)
        values = {}
        for state in states:
            hooks.ask(state)
            asked = [(what, name) for what in ASKED for name in probes]
            random.shuffle(asked)
            for what, name in asked:
                request, many = ASKED[what]
                values[what, name, state] = probes[name].ask(request) / many
        if turn:
            for (what, name, state), value in values.items():
                if state == "detach":
                    found[what][name].append([value, values[what, name, "attach"]])
        print(f"round {turn} of {count}", flush=True)
    hooks.ask("detach")
    return found


def project():
    """A git repository and a crate, to be cloned and built."""
    crate = f"{PLACE}/crate"
    os.makedirs(f"{crate}/src")
    with open(f"{crate}/Cargo.toml", "w", encoding="utf-8") as file:
        file.write('[package]\nname = "built"\nversion = "0.1.0"\nedition = "2021"\n')
    modules = range(24)
    with open(f"{crate}/src/main.rs", "w", encoding="utf-8") as file:
        file.write("".join(f"mod m{n};\n" for n in modules) + "fn main() {\n"
                   + "".join(f"    m{n}::run();\n" for n in modules) + "}\n")
    for n in modules:
        with open(f"{crate}/src/m{n}.rs", "w", encoding="utf-8") as file:
            file.write("use std::collections::BTreeMap;\npub fn run() {\n"
                       f"    let mut map: BTreeMap<String, u32> = BTreeMap::new();\n"
                       f"    for n in 0..{n + 1}u32 {{ *map.entry(format!(\"{{n}}\")).or_default() += n; }}\n"
                       "    println!(\"{map:?}\");\n}\n")
    source = f"{PLACE}/source"
    shutil.copytree(crate, source)
    for number in range(300):
        os.makedirs(f"{source}/d{number % 20}", exist_ok=True)
        with open(f"{source}/d{number % 20}/f{number}", "w", encoding="utf-8") as file:
            file.write(f"{number}\n" * 50)
    git = ["git", "-C", source, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run(["git", "init", "-q", source], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    return {
        "git clone": f"sh rm -rf {PLACE}/clone; git clone -q --no-local {source} {PLACE}/clone",
        "cargo build": f"sh cd {crate} && rm -rf target && cargo build -q --offline",
    }


def work(hooks, probe, count):
    """The same for real work."""
    asked = project()
    found = {what: [] for what in asked}
    for turn in range(count + 1):
        for what, request in asked.items():
            pair = {}
            states = ["detach", "attach"]
            random.shuffle(states)
            for state in states:
                hooks.ask(state)
                pair[state] = probe.ask(request)
            if turn:
                found[what].append([pair["detach"], pair["attach"]])
        print(f"work {turn} of {count}", flush=True)
    hooks.ask("detach")
    return found


def counted(hooks, probes):
    """What one operation of each probe runs: {what: {subject: {program: [runs, ns of a run]}}}, medians."""
    found = {}
    with open("/proc/sys/kernel/bpf_stats_enabled", "w", encoding="ascii") as file:
        file.write("1")
    hooks.ask("attach")
    asked = [(what, name) for what in (ASKED | AT_ONCE) for name in probes] * STATISTICS
    random.shuffle(asked)
    for what, name in asked:
        request, many = (ASKED | AT_ONCE)[what]
        before = json.loads(hooks.ask("count"))
        probes[name].ask(request)
        cells = found.setdefault(what, {}).setdefault(name, {})
        for program, (runs, ns) in json.loads(hooks.ask("count")).items():
            runs -= before.get(program, [0, 0])[0]
            ns -= before.get(program, [0, 0])[1]
            # The question itself makes runs of two programs, too.
            if runs > 0.4 * many and program not in ("aw_bpf", "aw_capable"):
                cells.setdefault(program, []).append([runs / many, ns / runs])
    hooks.ask("detach")
    with open("/proc/sys/kernel/bpf_stats_enabled", "w", encoding="ascii") as file:
        file.write("0")
    return {what: {name: {program: [median(each) for each in zip(*values)]
                          for program, values in cells.items()}
                   for name, cells in subjects.items()}
            for what, subjects in found.items()}


def main(program, probe, count, result, *more):
    program, probe = os.path.abspath(program), os.path.abspath(probe)
    os.mkdir(PLACE)
    prepare()
    serve()
    start = time.monotonic()
    hooks = Hooks(program)
    print(f"{hooks.count} programs in {time.monotonic() - start:.1f} s", flush=True)
    probes = {"no policy": Probe([probe], PLACE)}
    hooks.ask("attach")
    for view, rules in enumerate(RULES, 1):
        probes[str(rules)] = Probe([probe], PLACE)
        hooks.ask(f"govern {probes[str(rules)].process.pid} {view} {policy(rules)}")
    told = {"programs": hooks.count, "rounds": rounds(hooks, probes, int(count)),
            "counted": counted(hooks, probes)}
    if "work" in more:
        told["work"] = work(hooks, probes[str(WORK_RULES)], max(3, int(count) // 3))
    with open(result, "w", encoding="utf-8") as file:
        json.dump(told, file)
    for each in probes.values():
        each.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
