"""Questions: the agent's command waits until a person answers in another terminal.

Three commands of one session ask; one is approved, one rejected, one never answered. The person is
this test, outside the wall, as the same user. What the agent prints shows what really ran: only the
approved command's answer may appear.
"""

import json
import threading
import time

import account as accounts
from model_server import ModelServer
from wall import Wall, WallError, extra_rules, policy_from_template, texts

# factor(1) prints the prime factors, which the agent cannot know before it ran.
APPROVED, REJECTED, IGNORED = "8051", "10403", "11021"
ANSWERS = {APPROVED: "83 97", REJECTED: "101 103", IGNORED: "103 107"}


def asks(report, world, agent, user):
    if not report.case(f"{agent.name} asks, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"asks-{user[0]}-{agent.name}")
    wall = Wall(account)
    script = [{"name": n, "run": f"factor {n} 2>&1; echo status=$?"}
              for n in (APPROVED, REJECTED, IGNORED)]
    person = Person(wall)
    with ModelServer([*script, {"text": "Done."}]) as server:
        env = agent.prepare(account, server.port)
        policy = policy_from_template(
            world.root, agent.template,
            [*extra_rules(account, server.port),
             {"id": "e2e-ask", "priority": 1, "action": "process.exec",
              "resource": "/usr/bin/factor", "effect": "ask",
              "reason": "Numbers are a private matter."}],
            f"{account.home}/policy.yaml", account)
        with person:
            result = wall.run(policy, [agent.word, *agent.arguments("Factor.")], "--keep",
                              "--ask-timeout", "4s", env=env, timeout=120)
        transcript = server.transcript
    report.check("the agent ran to its end", result.returncode == 0, result.stderr)
    report.check("three questions came", len(person.seen) == 3, json.dumps(person.seen)[:900])
    report.check("a question names the program, the arguments and the reason",
                 all(any(wanted in t for t in texts(person.seen.get(APPROVED, {})))
                     for wanted in ("/usr/bin/factor", APPROVED, "private matter")),
                 person.seen.get(APPROVED))
    for number, ran in ((APPROVED, True), (REJECTED, False), (IGNORED, False)):
        text = transcript.text_of(number) or ""
        word = {APPROVED: "approved", REJECTED: "rejected", IGNORED: "unanswered"}[number]
        report.check(f"the {word} command {'ran' if ran else 'did not run'}",
                     (ANSWERS[number] in text) == ran and "status=" in text, text)
    report.check("the answers worked", not person.trouble, "\n".join(person.trouble))
    report.check("nothing is left waiting", not list(questions(wall)))
    held = "\n".join(texts(wall.json("ledger", "show")))
    report.check("the ledger holds the questions", "e2e-ask" in held, held[-600:])


class Person:
    """Watches for questions in the background and answers by what is asked."""

    def __init__(self, wall):
        self.wall, self.seen, self.trouble = wall, {}, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.2):
            try:
                for question in questions(self.wall):
                    self._answer(question)
            except (WallError, ValueError):
                continue  # the session has not begun, or is just over

    def _answer(self, question):
        number = next((n for n in ANSWERS if any(n in t for t in texts(question))), None)
        if number is None or number in self.seen:
            return
        self.seen[number] = question
        ident = str(question["id"])
        time.sleep(0.3)  # a person is not instant; the command really waits
        if number == APPROVED:
            said = self.wall.call("approve", ident, "--for", "once")
        elif number == REJECTED:
            said = self.wall.call("reject", ident)
        else:
            return
        if said.returncode != 0:
            self.trouble.append(f"answering {ident}: {said.stderr}")


def questions(wall):
    """The pending questions: a list, or a mapping that holds the list."""
    value = wall.json("pending")
    if isinstance(value, dict):
        value = value.get("pending", [value] if "id" in value else [])
    return [q for q in value if isinstance(q, dict) and "id" in q]
