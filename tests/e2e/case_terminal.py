"""Full-screen agents: the real terminal programs inside tmux, behind the wall.

They draw, take keys, run a tool, follow a change of the window size, and leave with their own exit
status and a sane terminal. And a person at the same terminal afterwards, who reviews the changes.
"""

import re
import time

import account as accounts
from model_server import ModelServer
from wall import Wall, extra_rules, policy_from_template

FLAG = {"claude": "--dangerously-skip-permissions",
        "codex": "--dangerously-bypass-approvals-and-sandbox"}
DRAWN = {"claude": "Claude Code", "codex": "OpenAI Codex"}
READY = {"claude": r"bypass permissions on|Esc to cancel", "codex": r"gpt-5-codex\S* default"}
ANSWER = "An answer from the script."


class Screen:
    """A tmux session of one account."""

    def __init__(self, account, command, env, size=(120, 40)):
        self.account = account
        # A server that was told to end may still take a new session with it: each has its own.
        socket = f"{account.home}/tmux-{time.monotonic_ns()}.sock"
        self.tmux = ["tmux", "-S", socket, "-f", "/dev/null"]
        self.account.run([*self.tmux, "new-session", "-d", "-s", "s", "-x", str(size[0]),
                          "-y", str(size[1]), command], env=env)

    def text(self):
        return self.account.run([*self.tmux, "capture-pane", "-p", "-t", "s"]).stdout

    def wait(self, pattern, seconds=40):
        """Until the screen shows the pattern; whether it did."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if re.search(pattern, self.text()):
                return True
            time.sleep(0.2)
        return False

    def type(self, text):
        self.account.run([*self.tmux, "send-keys", "-t", "s", "-l", text])
        time.sleep(0.7)  # the programs take a fast Enter for a pasted line
        self.key("Enter")

    def key(self, name):
        self.account.run([*self.tmux, "send-keys", "-t", "s", name])

    def resize(self, columns, rows):
        self.account.run([*self.tmux, "resize-window", "-t", "s", "-x", str(columns),
                          "-y", str(rows)])

    def close(self):
        self.account.run([*self.tmux, "kill-server"])


def terminal(report, world, agent, user):
    if not report.case(f"{agent.name} full screen, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"tui-{user[0]}-{agent.name}")
    wall = Wall(account)
    steps = [{"name": "size", "run": "echo made-in-the-terminal > tui.txt; cat tui.txt"},
             {"text": ANSWER}]
    with ModelServer(steps) as server:
        env = agent.prepare(account, server.port)
        policy = policy_from_template(world.root, agent.template,
                                      extra_rules(account, server.port),
                                      f"{account.home}/policy.yaml", account)
        command = " ".join(wall.run_arguments(policy, [agent.word, FLAG[agent.word]], "--keep"))
        screen = Screen(account, f"sh -c '{command}; echo left=$?; stty -a; sleep 300'", env)
        try:
            report.check("it draws", screen.wait(DRAWN[agent.word]), screen.text())
            screen.wait(READY[agent.word])
            time.sleep(1)
            if "Esc to cancel" in screen.text():  # an offer of a new feature
                screen.key("Escape")
                time.sleep(1)
            screen.type("do it")
            report.check("it takes keys, runs a tool and answers", screen.wait(ANSWER),
                         screen.text())
            text = server.transcript.text_of("size") or ""
            report.check("the tool ran behind the wall", "made-in-the-terminal" in text, text)
            screen.resize(90, 30)
            time.sleep(1.5)
            report.check("it follows the window size",
                         max(map(len, screen.text().splitlines()), default=0) <= 90
                         and screen.wait(ANSWER, 10), screen.text())
            screen.type("/exit")
            report.check("it leaves with its own status", screen.wait("left=0", 20),
                         screen.text())
            report.check("the terminal is sane again", screen.wait(r"(?<!-)\bicanon", 5)
                         and screen.wait(r"(?<!-)\becho\b", 5), screen.text())
        finally:
            screen.close()
    report.check("the real project did not change", not
                 accounts.read(f"{account.workspace}/tui.txt"))


def shell_job_control(report, world, user):
    """An interactive shell behind the wall: Ctrl-C, Ctrl-Z, fg, exit status."""
    if not report.case(f"interactive shell, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"shell-{user[0]}")
    wall = Wall(account)
    policy = policy_from_template(world.root, "claude-code", extra_rules(account, 1),
                                  f"{account.home}/policy.yaml", account)
    command = " ".join(wall.run_arguments(policy, ["bash", "--norc", "-i"], "--keep"))
    screen = Screen(account, f"sh -c '{command}; echo left=$?; sleep 300'", {"PS1": "ready> "})
    try:
        report.check("a prompt appears", screen.wait(r"(?m)[$#>] *$"), screen.text())
        screen.type("sleep 200")
        time.sleep(0.5)
        screen.key("C-c")
        screen.type("echo after=$?")
        report.check("Ctrl-C interrupts", screen.wait("after=130", 10), screen.text())
        screen.type("sleep 201")
        time.sleep(0.5)
        screen.key("C-z")
        report.check("Ctrl-Z stops", screen.wait("Stopped", 10), screen.text())
        screen.type("kill %1; wait; clear; stty size")
        report.check("the window size is known", screen.wait("40 120", 10), screen.text())
        screen.type("exit 7")
        report.check("the exit status passes through", screen.wait("left=7", 15), screen.text())
    finally:
        screen.close()


def review(report, world, user):
    """The review after the run: the first line typed to it is its first answer, and a line typed
    ahead, while the agent ran, is none."""
    if not report.case(f"review on a terminal, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"review-{user[0]}")
    wall = Wall(account)
    policy = policy_from_template(world.root, "claude-code", extra_rules(account, 1),
                                  f"{account.home}/policy.yaml", account)

    def start(script):
        words = wall.run_arguments(policy, ["sh", "-c", f'"{script}"'], "--review")
        return Screen(account, f"sh -c '{' '.join(words)}; echo left=$?; sleep 300'", {})

    made = f"{account.workspace}/r"
    screen = start("echo x > r")
    try:
        report.check("it asks", screen.wait(r"\[k\]eep"), screen.text())
        screen.type("k")
        report.check("the first answer is taken", screen.wait("left=0", 10)
                     and "kept; " in screen.text(), screen.text())
    finally:
        screen.close()
    report.check("what is kept is not committed", not accounts.read(made))
    screen = start("echo x > r; echo working; read line")
    try:
        report.check("the agent reads", screen.wait("working"), screen.text())
        # In one go: the agent ends at the first line, the second is left over.
        screen.type("go\nc\n")
        report.check("it asks again", screen.wait(r"\[k\]eep"), screen.text())
        screen.type("p")
        report.check("a line typed ahead is no answer", screen.wait(r"\+x", 10)
                     and not accounts.read(made), screen.text())
        screen.type("c")
        report.check("the answer to the question is", screen.wait("left=0", 10)
                     and accounts.read(made) == b"x\n", screen.text())
    finally:
        screen.close()


def whole_screen(report, world, user):
    """`agentwall review`: a person marks files on the whole screen, and the terminal is theirs again
    after it, also when it is left without an answer."""
    if not report.case(f"review on the whole screen, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"screen-{user[0]}")
    wall = Wall(account)
    policy = policy_from_template(world.root, "claude-code", extra_rules(account, 1),
                                  f"{account.home}/policy.yaml", account)
    ran = wall.run(policy, ["sh", "-c", "echo x > a-in; echo y > b-out; echo z > c-later"], "--keep")
    report.check("a session with three changes", ran.returncode == 0, ran.stderr)

    def start():
        command = f"cd {account.workspace}; stty -a > before; {wall.program} review; echo left=$?"
        return Screen(account, f"sh -c '{command}; stty -a > after; echo asleep; sleep 300'", {})

    def sane(screen):
        same = f"cmp {account.workspace}/before {account.workspace}/after"
        return screen.wait("asleep") and account.run(same.split()).returncode == 0

    made = [f"{account.workspace}/{name}" for name in ("a-in", "b-out", "c-later")]
    screen = start()
    try:
        report.check("it lists the changes", screen.wait("c-later"), screen.text())
        screen.key("a")
        screen.key("Q")
        report.check("left without a commit, it commits nothing", screen.wait("left=")
                     and not any(accounts.read(path) for path in made), screen.text())
        report.check("and gives the terminal back", sane(screen), screen.text())
    finally:
        screen.close()
    screen = start()
    try:
        report.check("it lists them again", screen.wait("c-later"), screen.text())
        for key in ("a", "Down", "r", "c", "y", "y"):
            screen.key(key)
            time.sleep(0.3)
        report.check("what was accepted is committed", screen.wait("left=0", 20)
                     and accounts.read(made[0]) == b"x\n", screen.text())
        report.check("the terminal is as before", sane(screen), screen.text())
    finally:
        screen.close()
    report.check("what was rejected, or not marked, is not", not any(map(accounts.read, made[1:])))
    left = [change["path"] for change in wall.json("diff")["changes"]]
    report.check("only what was not marked is left", left == [made[2]], str(left))
