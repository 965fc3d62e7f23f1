"""The rows of `policy apply`: a change of a hundred rules in a running session.

Measured from the moment the command is given, its start as a process included, to the first call of the
agent that the new policy decides: the agent opens one file again and again, which every second policy
denies. The clock is CLOCK_MONOTONIC on both sides of the wall.
"""

import errno
import json
import os
import statistics
import subprocess
import time

from measure import Unmeasured, mad, row

RULES = 100
LIMIT_MS = 50.0
STEPS = ("planned", "prepared", "recorded", "acknowledged")


def policy_of(bench, turn):
    """The template and a hundred rules, none of which the other turn has."""
    rules = [{"id": f"bench-{turn}-{n}-{action[:3]}", "priority": 2, "action": action,
              "resource": resource, "effect": "deny"}
             for n in range(RULES // 2)
             for action, resource in (
                 ("file.*", f"${{workspace}}/{turn}/**/secret-{n}-*"),
                 ("net.connect", f"tcp://{turn}-{n}.example.org:443"))]
    trap = {"id": "bench-trap", "priority": 2, "action": "file.read",
            "resource": "${workspace}/**/*.pem", "effect": "deny"}
    return bench.write_policy(f"apply-{turn}", [trap] + rules)


def one(bench, agent, policy, until):
    """One change: milliseconds to the first decision, to the end of the command, and of its steps."""
    agent.tell(until)
    # The agent is at it when the command is given; it says so if not.
    time.sleep(0.01)
    start = time.monotonic_ns()
    done = subprocess.run([bench.binary, "policy", "apply", "--policy", policy, "--json"],
                          cwd=bench.workspace, env=bench.env, capture_output=True, text=True)
    whole = time.monotonic_ns() - start
    answer = json.loads(done.stdout) if done.returncode == 0 else {}
    if not answer.get("applied"):
        raise Unmeasured(f"policy apply: {done.stdout[-300:]}{done.stderr[-600:]}")
    first = agent.hear(until) - start
    return [first * 1e-6, whole * 1e-6] + [answer[f"{step}_us"] * 1e-3 for step in STEPS]


def apply(bench):
    """Two policies in turns: every rule of the hundred changes."""
    policies = [policy_of(bench, turn) for turn in ("one", "two")]
    file = f"{bench.workspace}/two/in/secret-0-file"
    os.makedirs(os.path.dirname(file))
    with open(file, "w", encoding="utf-8") as text:
        text.write("x")
    agent = bench.probe_of(bench.wall([bench.probe], policies[0]))
    measured = []
    try:
        for run in range(bench.runs(200) + 2):
            second = (run + 1) % 2
            until = f"until {file} {errno.EACCES if second else 0}"
            measured.append(one(bench, agent, policies[second], until))
    finally:
        agent.close()
    first, whole, *steps = zip(*measured[2:])
    medians = ", ".join(f"{name} at {statistics.median(values):.1f}"
                        for name, values in zip(STEPS, steps))
    since = "from the start of the command"
    for name, value, values, limit, method in (
            ("", statistics.median(first), first, LIMIT_MS,
             f"{since} to the agent's first call that the new policy decides; medians in ms since "
             f"the session had the request: {medians}"),
            (", the slowest", max(first), first, None, f"{since}, the longest of all runs"),
            (", to the command's end", statistics.median(whole), whole, None,
             f"{since} to its end: the session's own files are durable, too")):
        yield row(f"policy apply of {RULES} changed rules{name}", value, "ms", limit or value,
                  value / (limit or value), f"<= {limit} ms" if limit else "none, to know",
                  not limit or value <= limit, len(values), mad(values), method)


GROUPS = [apply]
