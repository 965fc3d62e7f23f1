"""The rows of the kernel wall in the virtual machine, whose kernel lets its programs in: operations with them
attached and without, in the same machine and round (bench/machine.py).

The machine is emulated (TCG), so that nanoseconds in it mean nothing by themselves. Ratios compare like with
like. A time per hook is what the kernel's statistics counted, times what the decision core costs natively over what
it costs in the machine, both measured in this run: an estimate, and its rows say so.
"""

import json
import os
import random
import shutil
import statistics
import subprocess

from measure import Unmeasured, mad, row
from rows_kernel import run as decide

ROUNDS = 20
GOVERNED = ("1", "100", "1000", "10000")
WORK_LIMIT = 1.05


def machine(bench):
    """Open, exec, connect, rename and real work with hooks attached : detached, and the cost of a hook."""
    told, core = measured(bench)
    for what, subjects in told["rounds"].items():
        for name, pairs in subjects.items():
            subject = f"{name} rules" if name in GOVERNED else "no policy"
            yield compared(f"kernel hooks: {what}, {subject}", pairs, None)
    for what, pairs in told["work"].items():
        yield compared(f"kernel hooks: {what}, 1000 rules", pairs, WORK_LIMIT)
    native = decide(bench)
    scale = statistics.median(of(native)) / statistics.median(of(core))
    counted = told["counted"]["open, read, close of one file"]
    # A name of a program has 15 characters at most.
    empty = told["counted"]["mprotect"]["1000"]["aw_file_mprotec"][1]
    for name, subject, limit in (("no policy", "a process without a policy", 50),
                                 ("1000", "a repeated open, 1000 rules", 100)):
        counts = counted[name]["aw_file_open"][1]
        value = (counts - empty) * scale
        yield row(f"kernel hooks: file_open, {subject}, estimate", value, "ns", limit, value / limit,
                  f"<= {limit} ns", value <= limit, 1, 0,
                  f"{counts:.0f} ns in the machine by the kernel's statistics, less {empty:.0f} of a hook that returns at "
                  f"once, times {scale:.3f}: the decision core natively : in the machine")


def of(core):
    """The medians of the decision core with the fewest rules."""
    return min(core["sets"], key=lambda s: s["rules"])["again"]


def compared(name, pairs, limit):
    """A row of [detached, attached] pairs, with the interval of its median ratio."""
    ratios = [attached / detached for detached, attached in pairs]
    low, high = interval(ratios)
    ratio = statistics.median(ratios)
    base = statistics.median(p[0] for p in pairs)
    return row(name, statistics.median(p[1] for p in pairs) / 1e3, "us", base / 1e3, ratio,
               "none, to know" if limit is None else f"ratio <= {limit}", limit is None or ratio <= limit,
               len(pairs), mad(ratios),
               f"Debian's kernel, emulated; baseline: the same process, hooks detached; median of the ratios of the "
               f"pairs, 95 % interval {low:.3f} to {high:.3f} (bootstrap)")


def interval(values, times=2000):
    """The 95 % bootstrap interval of the median."""
    source = random.Random(1)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(times))
    return medians[int(times * 0.025)], medians[int(times * 0.975)]


def measured(bench):
    """Boots the machine; what it measured, and the decision core in it."""
    made = subprocess.run(["cargo", "build", "--quiet", "--locked", "--release", "-p", "agentwall-kernel",
                           "--example", "hooks", "--example", "decide"], cwd=bench.root, check=False)
    if made.returncode != 0:
        raise Unmeasured("the examples cannot be built")
    target = os.environ.get("CARGO_TARGET_DIR", f"{bench.root}/target")
    out = f"{bench.folder}/machine"
    given = [f"{target}/release/examples/hooks", f"{target}/release/examples/decide", bench.probe]
    tools = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True)
    rounds = 3 if bench.quick else ROUNDS
    # The home of the machine is a fresh one; the host's is below /vm/host.
    text = (f"export PATH=/vm/host{tools.stdout.strip()}/bin:$PATH && "
            f"cd $AGENTWALL_VM_IN && ./decide --quick --json $AGENTWALL_VM_OUT/core.json && "
            f"python3 {bench.root}/bench/machine.py ./hooks ./{os.path.basename(bench.probe)} {rounds} "
            "$AGENTWALL_VM_OUT/told.json work")
    command = [f"{bench.root}/tests/vm/run", "--out", out, "--limit", "3600", "--command", text]
    for path in given:
        command += ["--in", path]
    done = subprocess.run(command, cwd=bench.root, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not os.path.exists(f"{out}/told.json"):
        raise Unmeasured(f"the machine: {done.stdout[-800:]}{done.stderr[-400:]}")
    found = []
    for name in ("told", "core"):
        with open(f"{out}/{name}.json", encoding="utf-8") as file:
            found.append(json.load(file))
    shutil.rmtree(out)
    return found


GROUPS = [machine]
