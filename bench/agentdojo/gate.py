"""The gate: tool calls as actions through `agentwall policy decide`, kept running as a co-process.

No rule is checked here. What a call is to the policy: the verb `tool.call`, the object `tool:NAME`,
the arguments as they are, and the labels of the session. With the user's words known, the labels are
`prompt` and `said:TEXT` for each run of up to five words, as written and in lower case, with the
punctuation around words taken off. A face that sees the user's message before the agent starts can
make the same labels; nothing of the task but its prompt goes in.
"""

import datetime
import enum
import json
import subprocess

LONGEST_RUN = 5
AROUND_WORDS = "'\"`.,;:!?()[]{}<>*"


def bare(word):
    """A word without the punctuation around it."""
    return word.strip(AROUND_WORDS)


def labels(prompt):
    """What the user's words give: `prompt`, and `said:` with each run of words."""
    words = [word for word in map(bare, prompt.split()) if word]
    runs = {" ".join(words[start:start + length])
            for length in range(1, LONGEST_RUN + 1)
            for start in range(len(words) - length + 1)}
    return sorted({"prompt"} | {f"said:{form}" for run in runs for form in (run, run.lower())})


class Gate:
    """One policy. `decide` gives the decision as `agentwall policy decide` wrote it."""

    def __init__(self, binary, policy, workspace):
        self.policy = policy
        self.process = subprocess.Popen(
            [binary, "policy", "decide", "--policy", policy, "--workspace", workspace],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def decide(self, tool, args, session_labels):
        action = {"subject": "agent:agentdojo", "action": "tool.call", "resource": f"tool:{tool}",
                  "args": args, "labels": session_labels}
        self.process.stdin.write(json.dumps(action, default=plain) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.policy}: `agentwall policy decide` ended")
        answer = json.loads(line)
        if "effect" not in answer:
            raise RuntimeError(f"{self.policy}: {answer.get('error', line)}")
        return answer

    def close(self):
        """Ends the co-process; its exit status says whether every line was understood."""
        self.process.stdin.close()
        if self.process.wait(20) != 0:
            raise RuntimeError(f"{self.policy}: `agentwall policy decide` failed")


def plain(value):
    """Arguments that are not JSON: enumerations, times and records of the suites."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat(sep=" ") if isinstance(value, datetime.datetime) else str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"an argument of the type {type(value).__name__} is not JSON")
