"""How each real agent is started against the scripted model server, and what it needs for it. Both
run commands in a login shell, so PATH comes from /etc/profile and ~/.profile, not from the caller.

Claude Code  ANTHROPIC_BASE_URL and any ANTHROPIC_API_KEY; nothing in the home folder. It writes
             ~/.claude.json and ~/.claude/. Without a person it needs --dangerously-skip-permissions
             (its own questions are off, the wall decides), which it refuses to root unless
             IS_SANDBOX=1 says that something else is the sandbox.
             For its full-screen mode ~/.claude.json must say that the welcome is over, that the
             workspace is trusted and that the API key may be used (its last 20 characters), and
             ~/.claude/settings.json that the warning about skipped permissions was read.
Codex        ~/.codex/config.toml with a model provider whose wire_api is "responses". It writes
             sessions and a database below ~/.codex. Its own sandbox is switched off by
             --dangerously-bypass-approvals-and-sandbox: the wall is the sandbox.
"""

import json

API_KEY = "scripted-model-no-real-key"


class Claude:
    name = "claude-code"
    template = "claude-code"
    word = "claude"

    @staticmethod
    def prepare(account, port):
        config = {"hasCompletedOnboarding": True, "theme": "dark", "numStartups": 3,
                  "customApiKeyResponses": {"approved": [API_KEY[-20:]], "rejected": []},
                  "projects": {account.workspace: {"hasTrustDialogAccepted": True,
                                                   "hasCompletedProjectOnboarding": True}}}
        account.write(".claude.json", json.dumps(config))
        account.write(".claude/settings.json", '{"skipDangerousModePermissionPrompt": true}')
        return {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}", "ANTHROPIC_API_KEY": API_KEY,
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
                "IS_SANDBOX": "1"}

    @staticmethod
    def arguments(prompt):
        return ["-p", prompt, "--dangerously-skip-permissions"]

    # Its hooks run without a question.
    hooked = arguments


class Codex:
    name = "codex"
    template = "codex"
    word = "codex"

    @staticmethod
    def prepare(account, port):
        account.write(".codex/config.toml", (
            'model = "gpt-5-codex"\nmodel_provider = "scripted"\n\n'
            '[model_providers.scripted]\nname = "scripted"\n'
            f'base_url = "http://127.0.0.1:{port}/v1"\nwire_api = "responses"\n\n'
            f'[projects."{account.workspace}"]\ntrust_level = "trusted"\n'))
        return {}

    @staticmethod
    def arguments(prompt):
        return ["exec", "--dangerously-bypass-approvals-and-sandbox", prompt]

    @classmethod
    def hooked(cls, prompt):
        """With hooks: nobody is there to be asked whether they are trusted."""
        command, *rest = cls.arguments(prompt)
        return [command, "--dangerously-bypass-hook-trust", *rest]


AGENTS = [Claude, Codex]
