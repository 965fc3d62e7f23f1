"""The rows of the base manifest: what a session records of 100,000 files beside its start.

The program is crates/cow/examples/manifest.rs, built when the rows are measured. The baseline is `find`,
which prints the same numbers of the same tree: it walks on one thread, and keeps nothing.
"""

import json
import os
import statistics
import subprocess
import time

from measure import Unmeasured, interleave, mad, ratio_row, row

FOLDERS, EACH = 1000, 100
LIMIT_S = 0.5
SAME = "%D %i %s %T@ %C@ %m %U %G %n %P\\n"


def program(bench):
    """The example, built as the binary is."""
    done = subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "agentwall-cow",
                           "--example", "manifest", "--message-format", "json"],
                          cwd=bench.root, capture_output=True, text=True, check=False)
    built = [message["executable"] for message in map(json.loads, done.stdout.splitlines())
             if message.get("executable")]
    if done.returncode != 0 or not built:
        raise Unmeasured(f"the example manifest: {done.stderr[-600:]}")
    return built[-1]


def fill(root):
    for n in range(FOLDERS):
        folder = f"{root}/{n % 10}/folder-{n}"
        os.makedirs(folder)
        for m in range(EACH):
            with open(f"{folder}/source-file-{m}.rs", "w", encoding="utf-8") as file:
                file.write("x" * (n + m))


def manifest(bench):
    """Time to take and to read the manifest of 100,000 files, and its size."""
    taker = program(bench)
    root, folder = f"{bench.folder}/hundred-thousand", f"{bench.folder}/manifest"
    fill(root)
    os.makedirs(folder)
    answers = []

    def take():
        done = subprocess.run([taker, root, folder], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unmeasured(f"the example manifest: {done.stderr[-600:]}")
        answers.append(json.loads(done.stdout))
        return answers[-1]["take_ns"]

    def find():
        start = time.monotonic_ns()
        subprocess.run(["find", root, "-xdev", "-printf", SAME], stdout=subprocess.DEVNULL,
                       check=True)
        return time.monotonic_ns() - start

    ours, native = interleave([take, find], bench.runs(10))
    objects = FOLDERS * EACH + FOLDERS + 10 + 1
    if any(a["objects"] != objects for a in answers):
        raise Unmeasured(f"{answers[-1]['objects']} objects recorded of {objects}")
    name = f"base manifest of {FOLDERS * EACH} files"
    value = statistics.median(ours) * 1e-9
    base = statistics.median(native) * 1e-9
    yield row(name, value, "s", base, value / base, f"<= {LIMIT_S} s", value <= LIMIT_S, len(ours),
              mad([o / n for o, n in zip(ours, native)]),
              "walked on two threads, written and durable; baseline: find printing the same")
    read = [a["read_ns"] for a in answers[1:]]
    yield ratio_row(f"{name}, read", "ms", 1e-6, read, native, None,
                    "read and checked, before a diff or a commit")
    size = answers[-1]["bytes"] / objects
    yield row(f"{name}, size", size, "bytes", size, 1, "none, to know", True, 1, 0,
              "of the file, per object")


GROUPS = [manifest]
