"""The `agentwall` command line as the tests use it, for one account, and the policies they write."""

import json
import os
import re


class Wall:
    """Runs `agentwall` as an account. Every method returns what the command said."""

    def __init__(self, account):
        self.account = account
        self.program = f"{account.world.stage}/bin/agentwall"

    def run_arguments(self, policy, command, *options):
        """The argument list of `agentwall run` with this policy and command."""
        policy = ["--policy", policy] if policy else []
        return [self.program, "run", *policy, "--workspace", self.account.workspace,
                *options, "--", *command]

    def run(self, policy, command, *options, **how):
        return self.account.run(self.run_arguments(policy, command, *options), **how)

    def call(self, *arguments, **how):
        """Any other command, in the workspace."""
        return self.account.run([self.program, *arguments], **how)

    def json(self, *arguments):
        """A command with --json: one value, or one value per line. Raises with what it said."""
        result = self.call(*arguments, "--json")
        if result.returncode != 0:
            raise WallError(f"{' '.join(arguments)} --json: exit {result.returncode}: "
                            f"{result.stderr.strip()[-400:]}")
        try:
            return json.loads(result.stdout)
        except ValueError:
            return [json.loads(line) for line in result.stdout.splitlines() if line.strip()]


class WallError(Exception):
    """A command of the wall failed where the test expected it to work."""


def texts(value):
    """Every string anywhere in a JSON value: tests look for objects, not for a layout."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def policy_from_template(root, name, extra, path, account):
    """A full policy file: the project's template with more rules in front. `run --policy FILE`
    uses exactly this file, so what the scripted model server needs must be in it."""
    with open(f"{root}/policies/{name}.yaml", encoding="utf-8") as file:
        text = file.read()
    rules = "".join(rule(**one) for one in extra)
    text, count = re.subn(r"(?m)^rules:[ \t]*\n", lambda _: "rules:\n" + rules, text, count=1)
    if count != 1:
        raise WallError(f"policies/{name}.yaml has no 'rules:' line to put rules after")
    account.write(os.path.relpath(path, account.home), text)
    return path


def rule(**fields):
    """One rule as YAML; JSON values are YAML values."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]
    return "  - " + "\n    ".join(lines) + "\n\n"


def extra_rules(account, port):
    """What the test world adds to a template: the scripted model server, the staged programs, and
    one allowed host."""
    stage = account.world.stage
    return [
        {"id": "e2e-model", "priority": 1, "action": "net.connect",
         "resource": f"tcp://127.0.0.1:{port}", "effect": "allow"},
        {"id": "e2e-allowed-host", "priority": 1, "action": "net.connect",
         "resource": "tcp://allowed.test:80", "effect": "allow"},
        {"id": "e2e-allowed-name", "priority": 1, "action": "dns.resolve",
         "resource": "dns:allowed.test", "effect": "allow"},
        {"id": "e2e-programs", "priority": 1, "action": ["file.read", "file.exec", "process.exec"],
         "resource": [stage, f"{stage}/**"], "effect": "allow"},
        # Agents run commands in a login shell, which takes PATH from here.
        {"id": "e2e-login-shell", "priority": 1, "action": "file.read",
         "resource": "~/.profile", "effect": "allow"},
    ]
