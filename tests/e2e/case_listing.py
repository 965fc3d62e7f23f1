"""The list of agents: a real agent that works is found on the host, outside the wall without a policy
and behind it with its session, and is gone when it has ended.
"""

import os
import signal
import time

import account as accounts
from model_server import ModelServer
from wall import Wall, extra_rules, policy_from_template

WAIT = 120
# Agents may refuse a plain 'sleep'.
BUSY = "python3 -c 'import time; time.sleep(100)'"


def listed(report, world, agent, user):
    """One agent, first without the wall and then behind it."""
    if not report.case(f"{agent.name} in the list of agents as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"list-{user[0]}-{agent.name}")
    wall = Wall(account)
    policy = f"{account.home}/policy-{agent.name}.yaml"
    for where in ("without the wall", "behind the wall"):
        with ModelServer([{"name": "busy", "run": BUSY}, {"text": "Done."}]) as server:
            env = agent.prepare(account, server.port)
            command = [agent.word, *agent.arguments("Wait.")]
            if where == "behind the wall":
                policy_from_template(world.root, agent.template,
                                     extra_rules(account, server.port), policy, account)
                command = wall.run_arguments(policy, command, "--name", "listed")
            process = account.start(command, env=env)
            try:
                found = wait_for(lambda: with_children(wall, account, agent))
            finally:
                end(process)
        if not report.check(f"found {where}, with what it started", found,
                            wall.call("agents").stdout):
            continue
        by = found["policy"]["by"]
        if where == "behind the wall":
            sessions = wall.json("sessions", "--all")
            report.check("its policy is that of its session", by == "session" and
                         found["policy"]["id"] in [s["id"] for s in sessions], found["policy"])
        else:
            report.check("no policy governs it", by == "none", found["policy"])
        report.check(f"a reason is given {where}", found["reasons"][0]["evidence"], found)
        gone = wait_for(lambda: not mine(wall, account, agent))
        report.check(f"not in the list any more when it has ended {where}", gone,
                     wall.call("agents").stdout)


def mine(wall, account, agent):
    """This account's instances of the agent, the outermost alone."""
    return [a for a in wall.json("agents")["agents"] if a["agent"] == agent.name
            and a["folder"] == account.workspace and not a["left_behind"]]


def with_children(wall, account, agent):
    """The agent, once it runs the command that the model asked for."""
    return next((a for a in mine(wall, account, agent) if a["children"] > 0), None)


def wait_for(look):
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        if seen := look():
            return seen
        time.sleep(0.5)
    return None


def end(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=20)
        except Exception:  # it takes its time: the next signal cannot be ignored
            continue
