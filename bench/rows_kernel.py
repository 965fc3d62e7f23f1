"""The rows of the kernel wall: one decision of the core that its programs have in them.

It runs natively, through `BPF_PROG_TEST_RUN`, on kernels too that do not let LSM programs in; see
crates/kernel/examples/decide.rs. Needs root.
"""

import json
import os
import statistics
import subprocess

from measure import Unmeasured, mad, ratio_row, row

OBJECTS = "512 objects of 64 bytes, hits early and late and misses"


def kernel(bench):
    """Time per decision with 10 to 10,000 rules, and that the programs ran."""
    told = run(bench)
    sets = {s["rules"]: s for s in told["sets"]}
    few, many = sets[min(sets)], sets[max(sets)]
    for rules, cell in sets.items():
        for name, limit in (("p50", 400), ("p99", 1000)):
            yield at_most(f"decision in BPF, {rules} rules, {name}", cell[name], limit,
                          f"{OBJECTS}; single decisions, less a reading of the clock; {cell['words']} "
                          "words of table")
    yield ratio_row(f"decision in BPF, {many['rules']} : {few['rules']} rules", "ns", 1, many["p50"],
                    few["p50"], 1.2, f"p50; {OBJECTS}, all different: what is asked of the larger "
                    "table is in no near cache")
    yield ratio_row(f"decision in BPF, {many['rules']} : {few['rules']} rules, again", "ns", 1,
                    many["again"], few["again"], 1.2,
                    f"the same with {told['again']} of the objects, in turn")
    yield row("runs of the decision core that the kernel counted", told["runs"], "", told["decisions"],
              told["runs"] / told["decisions"], "as many as were asked for", told["runs"] > 0, 1, 0,
              "run_cnt with BPF statistics; baseline: decisions in them; the program fails if it is another "
              "number than it started")


def at_most(name, values, limit, method):
    value = statistics.median(values)
    return row(name, value, "ns", limit, value / limit, f"<= {limit} ns", value <= limit, len(values),
               mad(values), method)


def run(bench):
    """Builds and runs the example; what it wrote."""
    path = f"{bench.folder}/decide.json"
    quick = ["--quick"] if bench.quick else []
    done = subprocess.run(["cargo", "run", "--quiet", "--locked", "--release", "-p", "agentwall-kernel",
                           "--example", "decide", "--", "--json", path, *quick], cwd=bench.root,
                          check=False)
    if done.returncode != 0 or not os.path.exists(path):
        raise Unmeasured(f"the example decide: exit {done.returncode}")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


GROUPS = [kernel]
