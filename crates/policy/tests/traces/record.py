#!/usr/bin/env python3
"""Records the traces that `recommend_traces.rs` measures on: ordinary tasks behind the wall.

    crates/policy/tests/traces/record.py BINARY [--base DIR] [--sessions N] [--seed TEXT] [TASK ...]

Each task runs in N sessions (10), every one in a workspace of its own, with other file names, dates and
contents: `agentwall run --learn` under the template `generic`. What the ledger then holds of a session
is written to `TASK.txt` beside this file, each distinct action once:

    # sessions N
    BITS VERB EFFECT OBJECT

BITS is a hexadecimal set of the sessions that did it (bit 0 is the first). In OBJECT the session's
workspace, home folder and temporary folder stand as ${workspace}, ${home} and ${tmp}.

Needs git, python3, node, a Rust toolchain (hard-linked into the recorded home folder) and a folder
outside /tmp and of every real home folder. Names are drawn from a seed; what the tools draw by
themselves (temporary names, hashes) differs from one recording to the next.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
POLICY = os.path.join(HERE, "../../../../policies/generic.yaml")
WORDS = """amber basin cedar delta ember fjord grove heath inlet jetty knoll lagoon meadow nectar orchard
prairie quarry ridge summit thicket upland valley willow yarrow zephyr arbor bramble copse dune estuary
fallow glade hollow islet juniper kelp lichen marsh nook oasis pebble quartz reed spruce tundra umber
vista wharf yonder acorn birch clover drift elm fern gorse hazel ivy""".split()


def write(root, path, text):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as file:
        file.write(text)


def sh(root, *lines, env=None):
    subprocess.run(["sh", "-e", "-c", "\n".join(lines)], cwd=root, check=True, env=env,
                   stdout=subprocess.DEVNULL)


def git_setup(root, rng, env):
    for name in ["README.md", "src/main.py", "src/core.py", "src/util.py", "docs/guide.md", "tests/test_core.py"]:
        write(root, name, f"# {name}\n" + "".join(f"{rng.choice(WORDS)}\n" for _ in range(9)))
    sh(root, "git init -q -b main --template=", "git add .", "git commit -qm start", env=env)


def git(root, rng, env):
    """A change on a branch: edit, add files, commit, look, merge, stash."""
    git_setup(root, rng, env)
    branch = f"feature/{rng.choice(WORDS)}-{rng.randint(10, 999)}"
    edited = rng.sample(["README.md", "src/main.py", "src/core.py", "src/util.py", "docs/guide.md"], 2)
    added = [f"src/{rng.choice(WORDS)}.py", f"docs/{rng.choice(WORDS)}-{rng.choice(WORDS)}.md",
             f"tests/test_{rng.choice(WORDS)}.py"]
    lines = [f"git checkout -q -b {branch}", "git status --short"]
    lines += [f"echo '{rng.random()}' >> {name}" for name in edited]
    lines += [f"echo '{rng.random()}' > {name}" for name in added]
    lines += ["git diff --stat", "git add -A", f"git commit -qm 'add {rng.choice(WORDS)}'",
              "git log --oneline -n 3 | cat", "git show --stat HEAD | cat"]
    lines += [f"echo '{rng.random()}' >> {edited[0]}", "git stash -q", "git stash pop -q",
              "git checkout -q -- .", "git checkout -q main", f"git merge -q --no-ff -m merge {branch}",
              f"git branch -d {branch}", f"git tag v0.{rng.randint(1, 20)}.{rng.randint(0, 9)}",
              "grep -rn " + rng.choice(WORDS) + " src docs | head -n 3 || true"]
    return lines


def cargo(root, rng, env):
    """A small crate: a new module, build and test."""
    module = rng.choice(WORDS)
    write(root, "Cargo.toml", '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n')
    write(root, "src/main.rs", "use small::double;\nfn main() { println!(\"{}\", double(2)); }\n")
    write(root, "src/lib.rs", "pub mod shapes;\npub fn double(n: u64) -> u64 { 2 * n }\n")
    write(root, "src/shapes.rs", "pub fn area(a: u64, b: u64) -> u64 { a * b }\n")
    write(root, "tests/whole.rs", "#[test]\nfn doubles() { assert_eq!(small::double(3), 6); }\n")
    # As after a first build on the host.
    sh(root, "cargo build -q --offline", env=env)
    return [f"printf 'pub fn {module}() -> u64 {{ {rng.randint(1, 99)} }}\\n' > src/{module}.rs",
            f"printf 'pub mod {module};\\n' >> src/lib.rs",
            "cargo build --offline -q", "cargo test --offline -q > test.log 2>&1",
            "cargo run --offline -q", "cat test.log", "cargo build --offline -q --release"]


def python(root, rng, env):
    """Data files of some days into a report; unit tests; temporary files."""
    write(root, "report.py", """\
import csv, datetime, glob, json, os, sys, tempfile
import stats
day = sys.argv[1]
rows = []
for name in sorted(glob.glob('data/*.csv')):
    with open(name) as file:
        rows += list(csv.DictReader(file))
with tempfile.NamedTemporaryFile('w', suffix='.json', delete=False) as out:
    json.dump({'day': day, 'mean': stats.mean([float(r['value']) for r in rows])}, out)
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, 'scratch.txt'), 'w') as file:
        file.write(day)
os.makedirs('out', exist_ok=True)
with open(out.name) as file, open(f'out/report-{day}.json', 'w') as target:
    target.write(file.read())
os.unlink(out.name)
with open('out/latest.log', 'a') as log:
    log.write(day + chr(10))
""")
    write(root, "stats.py", "def mean(values):\n    return sum(values) / len(values)\n")
    write(root, "test_stats.py", "import unittest, stats\nclass T(unittest.TestCase):\n"
          "    def test_mean(self):\n        self.assertEqual(stats.mean([1, 3]), 2)\n")
    days = [f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}" for _ in range(5)]
    for day in days:
        write(root, f"data/{day}.csv", "value\n" + "".join(f"{rng.randint(1, 9)}\n" for _ in range(5)))
    return [f"python3 report.py {days[0]}", "python3 -m unittest -q 2>&1 | tail -n 1",
            f"python3 report.py {days[1]}", f"cat out/report-{days[1]}.json", "ls out data"]


def packages(root, rng, env):
    """A package manager's file traffic with a content-addressed cache: node fills node_modules."""
    names = sorted(rng.sample(WORDS, 6))
    table = {n: f"{rng.randint(0, 4)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}" for n in names}
    write(root, "package.json", json.dumps({"name": "app", "version": "1.0.0", "dependencies": table}))
    write(root, "index.js", "".join(f"require('{n}');\n" for n in names))
    write(root, "tools/install.js", """\
const fs = require('fs'), path = require('path'), os = require('os'), crypto = require('crypto');
const wanted = JSON.parse(fs.readFileSync('package.json')).dependencies;
const cache = path.join(os.homedir(), '.npm/_cacache');
for (const [name, version] of Object.entries(wanted)) {
  const text = `module.exports = '${name} ${version}';\\n`;
  const hash = crypto.createHash('sha512').update(text).digest('hex');
  const file = path.join(cache, 'content-v2/sha512', hash.slice(0, 2), hash.slice(2, 4), hash.slice(4));
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const fresh = path.join(cache, 'tmp', crypto.randomBytes(4).toString('hex'));
  fs.mkdirSync(path.dirname(fresh), { recursive: true });
  fs.writeFileSync(fresh, text);
  fs.renameSync(fresh, file);
  const folder = path.join('node_modules', name);
  fs.mkdirSync(path.join(folder, 'lib'), { recursive: true });
  fs.writeFileSync(path.join(folder, 'package.json'), JSON.stringify({ name, version, main: 'lib/index.js' }));
  fs.writeFileSync(path.join(folder, 'lib/index.js'), fs.readFileSync(file));
  fs.writeFileSync(path.join(folder, 'README.md'), `# ${name}\\n`);
}
fs.writeFileSync('package-lock.json', JSON.stringify(wanted));
const log = path.join(os.homedir(), '.npm/_logs');
fs.mkdirSync(log, { recursive: true });
fs.writeFileSync(path.join(log, new Date().toISOString().replace(/[:.]/g, '_') + '-debug-0.log'), 'done');
""")
    return ["node tools/install.js", "node index.js", "cat package-lock.json", "ls node_modules"]


def shell(root, rng, env):
    """Text tools over logs, with scratch folders."""
    days = sorted(f"202611{rng.randint(1, 28):02}" for _ in range(4))
    for day in days:
        for part in range(rng.randint(1, 3)):
            write(root, f"logs/app-{day}.{part}.log",
                  "".join(f"{rng.choice(WORDS)} {rng.randint(1, 500)}\n" for _ in range(40)))
    who = rng.choice(WORDS)
    return ["d=$(mktemp -d)", 'sort logs/*.log > "$d/all"', 'uniq -c "$d/all" | sort -rn > "$d/top.txt"',
            f'head -n 5 "$d/top.txt" > summary-{who}.txt', f"grep -h {who} logs/*.log > {who}.out || true",
            f"sed -i s/a/A/ summary-{who}.txt", "t=$(mktemp)", f'tar -czf "$t" logs && mv "$t" backup-{days[0]}.tar.gz',
            "find . -name '*.log' -newer summary-" + who + ".txt | xargs -r wc -l", 'rm -r "$d"', "wc -l *.txt"]


TASKS = {"git": git, "cargo": cargo, "python": python, "packages": packages, "shell": shell}


class Recorder:
    def __init__(self, binary, base, seed):
        self.binary, self.base, self.seed = binary, base, seed
        self.state = os.path.join(base, "state")

    def home(self, task):
        home = os.path.join(self.base, "home")
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        write(home, ".gitconfig", "[user]\n\tname = Ada\n\temail = ada@example.org\n")
        for folder in [".npm", ".cache", ".cargo"]:
            os.makedirs(os.path.join(home, folder))
        if task == "cargo":
            root = subprocess.run(["rustc", "--print", "sysroot"], check=True, text=True,
                                  capture_output=True).stdout.strip()
            place = os.path.join(home, ".rustup/toolchains/stable")
            os.makedirs(os.path.dirname(place))
            subprocess.run(["cp", "-al", root, place], check=True)
        return home

    def environment(self, home):
        return {"HOME": home, "AGENTWALL_STATE": self.state, "LANG": "C.UTF-8", "USER": "ada",
                "PATH": f"{home}/.rustup/toolchains/stable/bin:/usr/local/bin:/usr/bin:/bin",
                "PYTHONDONTWRITEBYTECODE": "", "PYTHONNOUSERSITE": "1"}

    def session(self, task, number, home):
        rng = random.Random(f"{self.seed} {task} {number}")
        root = os.path.join(self.base, "work", f"{rng.choice(WORDS)}-{number}")
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(root)
        env = self.environment(home)
        lines = TASKS[task](root, rng, env)
        done = subprocess.run(
            [self.binary, "run", "--learn", "--policy", POLICY, "--workspace", root, "--name", task,
             "--keep", "--", "sh", "-c", "\n".join(["set -e"] + lines)],
            cwd=root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{task} {number} failed:\n{done.stdout}\n{done.stderr}")
        shown = subprocess.run([self.binary, "ledger", "show", "--json"], env=env, check=True,
                               capture_output=True, text=True).stdout
        entries = [json.loads(line) for line in shown.splitlines()]
        last = entries[-1]["session"]
        roots = [(root, "${workspace}"), (home, "${home}"), ("/tmp", "${tmp}")]
        actions = set()
        for entry in entries:
            if entry["session"] != last or "action" not in entry:
                continue
            verb, thing = entry["action"]["verb"], entry["action"]["resource"]
            for value, name in roots:
                if thing == value or thing.startswith(value + "/"):
                    thing = name + thing[len(value):]
                    break
            # What a host has in its own interpreter's start-up is no part of the task.
            if re.search(r"/(dist|site)-packages/.*\.pth$|sitecustomize|/dist-packages/_", thing):
                continue
            actions.add((verb, entry["effect"], thing))
        return actions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--base", default="/srv/agentwall-traces")
    parser.add_argument("--out", default=HERE)
    parser.add_argument("--sessions", type=int, default=10)
    parser.add_argument("--seed", default="2")
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK")
    args = parser.parse_args()
    args.base = os.path.realpath(args.base)
    for task in args.tasks or TASKS:
        recorder = Recorder(os.path.abspath(args.binary), args.base, args.seed)
        home = recorder.home(task)
        seen = {}
        for number in range(args.sessions):
            actions = recorder.session(task, number, home)
            for action in actions:
                seen[action] = seen.get(action, 0) | 1 << number
            print(f"{task} {number}: {len(actions)} distinct actions", flush=True)
        with open(os.path.join(args.out, f"{task}.txt"), "w", encoding="utf-8") as file:
            file.write(f"# sessions {args.sessions}\n")
            for (verb, effect, thing), bits in sorted(seen.items(), key=lambda i: (i[0][0], i[0][2])):
                file.write(f"{bits:x} {verb} {effect} {thing}\n")
        shutil.rmtree(args.base, ignore_errors=True)


if __name__ == "__main__":
    main()
