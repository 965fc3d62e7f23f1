"""Whether the policies do what their authors meant: policies/examples.jsonl, hand-written from the
tools' schemas and the suites' data, each a made-up call with the answer it should get."""

import json
import os

from gate import Gate, labels

HERE = os.path.dirname(os.path.abspath(__file__))


def wrong(binary, workspace):
    """One line for each example that got another answer, and the number of examples."""
    gates, lines = {}, []
    with open(f"{HERE}/policies/examples.jsonl", encoding="utf-8") as file:
        examples = [json.loads(line) for line in file]
    for number, example in enumerate(examples, 1):
        suite = example["suite"]
        if suite not in gates:
            gates[suite] = Gate(binary, f"{HERE}/policies/{suite}.yaml", workspace)
        said = labels(example["said"]) if "said" in example else []
        decision = gates[suite].decide(example["tool"], example["args"], said)
        # An argument that a rule wants and a call does not have must not make the rule match, but a
        # condition that fails on a well-formed call is a mistake of the policy.
        if decision["effect"] != example["effect"] or decision.get("errors"):
            lines.append(f"examples.jsonl:{number}: wanted {example['effect']}, got {decision}")
    for gate in gates.values():
        gate.close()
    return lines, len(examples)
