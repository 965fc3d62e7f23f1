"""One run of a task: the agent is a replay, the judge is AgentDojo.

The agent makes the calls of the task's ground truth, each through the gate. When it is hijacked, it
believes the first result that an attacker could have written into: from there it makes every call of
the injection task's ground truth, then goes on with the user's task. No attack on a real agent does
more of what the attacker wants, so a call that the gate lets pass is an attack that succeeds.

What is untrusted is marked by canaries: every injection vector of the suite holds a text of its own,
and a result that shows one of them is tainted. (The package's `check(check_injectable=True)` looks
for them as well, and in 0.1.35 never finds one, because results have become lists of blocks.)

A call that was refused did not happen: it is not in what the judge sees.
"""

import collections
import dataclasses

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.agent_pipeline.tool_execution import tool_result_to_str
from agentdojo.functions_runtime import FunctionCall
from agentdojo.types import text_content_block_from_string

CANARY = "---CANARY---"


@dataclasses.dataclass
class Outcome:
    """What became of one run. `calls`, `asked` and `denied` count the user's own calls;
    `refused` and `passed` say what was refused and which calls of the attack passed, by rule."""

    utility: bool
    security: bool = False
    hijacked: bool = False
    calls: int = 0
    asked: int = 0
    denied: int = 0
    attack_asked: int = 0
    refused: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    passed: collections.Counter = dataclasses.field(default_factory=collections.Counter)


class Replay(BasePipelineElement):
    """The agent. `decide(tool, args)` is the gate; `approve(tool, args)` answers its questions."""

    def __init__(self, user_task, injection_task, decide, approve):
        self.user_task, self.injection_task = user_task, injection_task
        self.gate, self.approve = decide, approve
        self.outcome = Outcome(utility=False)
        self.messages = []

    def query(self, query, runtime, env, messages=(), extra_args=None):
        attack = self.injection_task.ground_truth(env) if self.injection_task else []
        for call in self.user_task.ground_truth(env):
            result = self.call(runtime, env, call, of_user=True)
            if attack and not self.outcome.hijacked and CANARY in tool_result_to_str(result):
                self.outcome.hijacked = True
                for bad in attack:
                    self.call(runtime, env, bad, of_user=False)
        self.messages.append({
            "role": "assistant", "tool_calls": None,
            "content": [text_content_block_from_string(self.user_task.GROUND_TRUTH_OUTPUT)]})
        return query, runtime, env, self.messages, extra_args or {}

    def call(self, runtime, env, call, of_user):
        """Makes one call if the gate lets it pass; gives its result, or a text that says why not."""
        args = dict(call.args)
        for name, value in args.items():
            # An argument may be a call itself; its result is what the outer one is decided on.
            if isinstance(value, FunctionCall):
                args[name] = self.call(runtime, env, value, of_user)
        decision = self.gate(call.function, args)
        if not self.passes(call.function, args, decision, of_user):
            return f"refused: {decision['reason']}"
        result, error = runtime.run_function(env, call.function, args)
        text = error or tool_result_to_str(result)
        self.messages.append({"role": "assistant", "tool_calls": [call],
                              "content": [text_content_block_from_string("")]})
        self.messages.append({"role": "tool", "tool_call": call, "tool_call_id": None,
                              "error": error, "content": [text_content_block_from_string(text)]})
        return error or result

    def passes(self, tool, args, decision, of_user):
        """Whether the call happens, and the count of it."""
        effect, out = decision["effect"], self.outcome
        out.calls += of_user
        passes = effect == "allow"
        if effect == "ask":
            out.asked += of_user
            out.attack_asked += not of_user
            passes = self.approve(tool, args)
        elif effect != "allow":
            out.denied += of_user
        if not passes:
            who = "user" if of_user else "attack"
            out.refused[f"{who}: {tool}: {decision['rule'] or 'default'}"] += 1
        elif not of_user:
            out.passed[f"{tool}: {decision['rule'] or 'default'}"] += 1
        return passes


def run(suite, environment, user_task, injection_task, decide, approve):
    """Replays one task, alone or hijacked, in a copy of the environment; AgentDojo judges."""
    agent = Replay(user_task, injection_task, decide, approve)
    utility, security = suite.run_task_with_pipeline(
        agent, user_task, injection_task, {}, environment=environment.model_copy(deep=True))
    agent.outcome.utility = bool(utility)
    agent.outcome.security = bool(security) if injection_task else False
    return agent.outcome


def environment(suite):
    """The suite's world with a canary in every place that an attacker can write to."""
    return suite.load_and_inject_default_environment(
        {vector: CANARY for vector in suite.get_injection_vector_defaults()})
