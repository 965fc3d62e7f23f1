"""Starting and ending: the one-word forms with a fresh home, `init`, a supervisor that is killed, a
session that is discarded."""

import os
import signal
import subprocess
import time

import account as accounts
from case_agents import PROMPT
from model_server import ModelServer
from wall import Wall, extra_rules, policy_from_template, rule


def one_word(report, world, agent, user):
    """`agentwall claude …` in a home without any policy: it creates one and runs under it. The
    template knows nothing of the scripted model, so the run shows the wall at work: the agent
    starts, and its connection to a loopback port that no rule names is refused. Then the rule is
    added by hand, as a user would, and the same words work."""
    if not report.case(f"agentwall {agent.word}, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"word-{user[0]}-{agent.name}")
    wall = Wall(account)
    with ModelServer([{"name": "made", "run": "echo by-one-word > made.txt; echo status=$?"},
                      {"text": "Done."}]) as server:
        env = agent.prepare(account, server.port)
        command = [wall.program, agent.word, *agent.arguments(PROMPT)]
        env_once = {**env, "ANTHROPIC_MAX_RETRIES": "0", "CLAUDE_CODE_MAX_RETRIES": "0"}
        first = account.run(command, env=env_once, timeout=90)
        policies = find_policies(account)
        report.check("the first use creates a policy", len(policies) == 1,
                     f"{policies}\n{first.stderr}")
        report.check("a loopback port without a rule is out of reach",
                     not server.transcript.requests, server.transcript.requests[:1])
        if not policies:
            return
        with open(policies[0], encoding="utf-8") as file:
            text = file.read()
        added = "".join(rule(**one) for one in extra_rules(account, server.port))
        account.write(os.path.relpath(policies[0], account.home),
                      text.replace("rules:\n", "rules:\n" + added, 1))
        second = account.run(command, env=env, timeout=120)
        report.check("with a rule for it the same words work",
                     second.returncode == 0 and
                     "status=0" in (server.transcript.text_of("made") or ""),
                     second.stdout + second.stderr)
        report.check("the policy is kept, not written again",
                     "e2e-model" in open(policies[0], encoding="utf-8").read())
    report.check("the work is in the diff", "made.txt" in wall.call("diff", "--stat").stdout,
                 wall.call("diff", "--stat").stdout)
    report.check("and not in the project", not os.path.exists(f"{account.workspace}/made.txt"))


def find_policies(account):
    """Policy files below the home folder that this test did not write."""
    found = []
    for folder, _, names in os.walk(f"{account.home}/.config"):
        found += [os.path.join(folder, n) for n in names if n.endswith((".yaml", ".yml"))]
    return found


def init(report, world, user):
    """`agentwall init --agent X` writes a policy that `policy check` or `run` accepts."""
    if not report.case(f"agentwall init, as {user[0]}"):
        return
    for kind in ("claude-code", "codex", "generic"):
        account = accounts.Account(world, *user, f"init-{user[0]}-{kind}")
        wall = Wall(account)
        first = wall.call("init", "--agent", kind)
        written = find_policies(account) + [
            f"{account.workspace}/{n}" for n in os.listdir(account.workspace)
            if n.endswith((".yaml", ".yml"))]
        if not report.check(f"{kind}: writes one policy", first.returncode == 0
                            and len(written) == 1, f"{written}\n{first.stderr}"):
            continue
        again = wall.call("init", "--agent", kind)
        report.check(f"{kind}: does not overwrite it", again.returncode != 0, again.stdout)
        result = wall.run(written[0], ["sh", "-c", "echo hi > made.txt; cat made.txt; "
                                       "cat ~/.ssh/id_ed25519"], "--keep")
        report.check(f"{kind}: works on a copy and masks secrets",
                     "hi" in result.stdout and accounts.KEY_MARK not in result.stdout
                     and not os.path.exists(f"{account.workspace}/made.txt"),
                     result.stdout + result.stderr)


def killed(report, world, agent, user):
    """The supervisor is killed while the agent works: nothing of the agent survives it, and what
    it had written is neither lost nor on the original."""
    if not report.case(f"{agent.name} with the wall killed, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"killed-{user[0]}-{agent.name}")
    wall = Wall(account)
    beat = "i=0; while :; do i=$((i+1)); echo $i > beat; sleep 0.1; done"
    with ModelServer([{"name": "beat", "run": beat}, {"text": "Done."}]) as server:
        env = agent.prepare(account, server.port)
        policy = policy_from_template(world.root, agent.template,
                                      extra_rules(account, server.port),
                                      f"{account.home}/policy.yaml", account)
        process = account.start(
            wall.run_arguments(policy, [agent.word, *agent.arguments(PROMPT)], "--keep"), env=env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Its command line is there long before its first write: a login shell reads its files first.
        written = eventually(lambda: copies(account, "beat"), 60)
        report.check("the agent is at work", written and processes(account, "echo $i > beat"),
                     written)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

        def alive():
            return [p for mark in ("beat", agent.word) for p in processes(account, mark)]
        report.check("nothing of the agent survives", eventually(lambda: not alive(), 10), alive())
        left = alive()
        for pid, _ in left:
            os.kill(pid, signal.SIGKILL)
    report.check("the original is untouched", not os.path.exists(f"{account.workspace}/beat"))
    listed = wall.call("sessions")
    report.check("sessions still works", listed.returncode == 0, listed.stderr)
    report.check("the ledger still verifies", wall.call("ledger", "verify").returncode == 0,
                 wall.call("ledger", "verify").stderr)
    diff = wall.call("diff", "--stat")
    report.check("its copy is still there to look at", "beat" in diff.stdout,
                 diff.stdout + diff.stderr)


def wreck(report, world, agent, user):
    """The agent deletes all it can reach, the project included. On the host nothing is missing, and
    one `discard` ends it."""
    if not report.case(f"{agent.name} deletes everything, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"wreck-{user[0]}-{agent.name}")
    wall = Wall(account)
    delete = ("case $HOME in */agentwall-e2e-*/*) find ~ -mindepth 1 -delete;; esac; "
              "ls -A . | wc -l")
    with ModelServer([{"name": "delete", "run": delete}, {"text": "Done."}]) as server:
        env = agent.prepare(account, server.port)
        policy = policy_from_template(world.root, agent.template,
                                      extra_rules(account, server.port),
                                      f"{account.home}/policy.yaml", account)
        result = wall.run(policy, [agent.word, *agent.arguments(PROMPT)], "--keep", env=env,
                          timeout=120)
        text = server.transcript.text_of("delete") or result.stderr
    report.check("the agent believes the project is gone",
                 text.strip().splitlines()[-1:] == ["0"], text)
    report.check("nothing is missing on the host", account.snapshot() == account.before)
    diff = wall.call("diff", "--stat")
    report.check("the diff shows the deletions", "Cargo.toml" in diff.stdout, diff.stdout)
    gone = wall.call("discard", "--yes")
    report.check("discard drops them", gone.returncode == 0, gone.stderr)
    report.check("still nothing is missing", account.snapshot() == account.before)
    again = wall.call("commit", "--yes")
    report.check("there is nothing left to commit", "nothing" in again.stdout + again.stderr
                 and account.snapshot() == account.before, again.stdout + again.stderr)


def eventually(fact, seconds):
    """Waits for a fact; what it is in the end."""
    end = time.monotonic() + seconds
    while not (now := fact()) and time.monotonic() < end:
        time.sleep(0.05)
    return now


def copies(account, name):
    """Files of this name with content in the copy layers of the account's sessions."""
    return [f"{folder}/{name}" for folder, _, names in os.walk(f"{account.state}/sessions")
            if name in names and accounts.read(f"{folder}/{name}")]


def processes(account, text):
    """(pid, command line) of this account's processes whose command line has the text. The runner
    itself and zombies are not counted."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in (1, os.getpid()):
            continue
        try:
            line = accounts.read(f"/proc/{entry}/cmdline").replace(b"\0", b" ").decode()
            home = f"HOME={account.home}".encode()
            if text in line and home in accounts.read(f"/proc/{entry}/environ"):
                found.append((int(entry), line[:120]))
        except (OSError, AttributeError):
            continue
    return found
