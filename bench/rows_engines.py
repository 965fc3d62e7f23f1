"""The rows of the policy engine beside Cedar and regorus, from the programs of bench/engines.

The engines take turns on the same rule sets and requests in one process; see bench/engines/README.md
for what is asked. A ratio and its spread come from the rounds of one run.
"""

import json
import os
import statistics
import subprocess

from measure import Unmeasured, mad, ratio_row, row

# The sets all engines are measured on; the others split `paths` by kind of pattern.
PEERS = ["paths", "hosts", "tools", "calls"]
SIZES = [10, 100, 1_000, 10_000]
OURS, SLICE = "agentwall", "cedar, one policy"
MIB = 1 << 20


def engines(bench):
    """Time per decision and per compilation, memory, and decisions while policies are exchanged."""
    race = {(c["mix"], c["rules"], c["engine"]): c for c in run(bench, "race")}
    mixes = list(dict.fromkeys(mix for mix, _, _ in race))
    for mix in mixes:
        yield from times(race, mix)
    for mix in PEERS:
        for rules in SIZES:
            yield from beside(race, mix, rules)
    yield from memory(bench, mixes)
    yield exchange(bench)


def times(race, mix):
    """Percentiles of our own, the growth from 10 to 10,000 rules, and the time to compile."""
    few, many = race[mix, SIZES[0], OURS], race[mix, SIZES[-1], OURS]
    for name, key, limit in (("p50", "p50", 150), ("p99", "p99", 500)):
        yield at_most(f"decision, {mix}, {SIZES[-1]} rules, {name}", "ns", many[key], limit,
                      "60-byte objects, hits early and late and misses; batches of 30 us or more"
                      if key == "p50" else "single decisions, less two readings of the clock")
    yield ratio_row(f"decision, {mix}, {SIZES[-1]} : {SIZES[0]} rules", "ns", 1, many["p50"],
                    few["p50"], 1.3, "p50 of the larger set over that of the smaller")
    yield at_most(f"compile, {mix}, {SIZES[-1]} rules", "ms", many["took_ms"][-1:], 1000,
                  "rules that are read, to a table; once")


def beside(race, mix, rules):
    """How many times faster than each peer, the better of regorus's two ways."""
    ours = race[mix, rules, OURS]["p50"]
    slice_, cedar = race[mix, rules, SLICE]["p50"], race[mix, rules, "cedar"]["p50"]
    rego = min((race[mix, rules, e]["p50"] for e in ("regorus vm", "regorus")
                if (mix, rules, e) in race), key=statistics.median)
    for name, peer, limit in (("Cedar with the one policy that decides", slice_, 20),
                              ("Cedar", cedar, None), ("regorus", rego, 10)):
        yield ratio_row(f"{name} : ours, {mix}, {rules} rules", "ns", 1, peer, ours, limit,
                        "p50 of the peer over ours, turn by turn", at_least=True)


def memory(bench, mixes):
    cells = {(c["mix"], c["rules"], c["engine"]): c for c in run(bench, "memory")}
    for mix in mixes:
        cell = cells[mix, max(r for _, r, _ in cells), "agentwall, compiled"]
        yield at_most(f"compile, {mix}, {cell['rules']} rules, peak", "MiB", [cell["peak"] / MIB],
                      64, f"counted by the allocator; {cell['kept'] / MIB:.1f} MiB are kept")
    for mix in PEERS:
        for engine in ("cedar", "regorus"):
            rules = max(r for _, r, _ in cells)
            ours = sum(cells[mix, rules, e]["kept"]
                       for e in ("agentwall, read", "agentwall, compiled"))
            yield ratio_row(f"memory of {engine} : ours, {mix}, {rules} rules", "MiB", 1 / MIB,
                            [cells[mix, rules, engine]["kept"]], [ours], None,
                            "kept, counted by the allocator; ours with the rules it was read from")


def exchange(bench):
    decides = 2_000_000 if bench.quick else 100_000_000
    told = run(bench, "swap", "--decides", str(decides))
    return row("wrong decisions while policies are exchanged", told["wrong"], "", told["decided"],
               0, "none", told["wrong"] == 0 and told["exchanges"] > 1, 1, 0,
               f"baseline: decisions; {told['threads']} deciding threads, {told['exchanges']} "
               "exchanges")


def at_most(name, unit, values, limit, method):
    """A row whose target is an absolute number."""
    value = statistics.median(values)
    target = "none, to know" if limit is None else f"<= {limit} {unit}"
    return row(name, value, unit, limit or value, value / limit if limit else 1, target,
               limit is None or value <= limit, len(values), mad(values), method)


def run(bench, name, *arguments):
    """Runs a program of bench/engines, which prints its own table; gives what it wrote."""
    path = f"{bench.folder}/{name}.json"
    quick = ["--quick"] if bench.quick and name == "race" else []
    done = subprocess.run([f"{bench.root}/scripts/engines", name, "--json", path, *quick,
                           *arguments], check=False)
    if done.returncode != 0 or not os.path.exists(path):
        raise Unmeasured(f"scripts/engines {name}: exit {done.returncode}")
    with open(path, encoding="utf-8") as file:
        return json.load(file)


GROUPS = [engines]
