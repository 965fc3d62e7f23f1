"""A real agent whose model is read by the wall: no hook, the agent only has another base URL.

The model's server speaks TLS alone, under a name that its certificate has. What it tells the agent to do is sealed before the
agent does it. A server that cannot show who it is is not spoken to.
"""

import os
import ssl
import subprocess

import account as accounts
from model_server import ModelServer
from wall import Wall, extra_rules, policy_from_template
from world import ALLOWED

HOST = "model.allowed.test"
WHY = "I want to know the prime factors."
REQUEST = """[req]
distinguished_name = name
x509_extensions = all
prompt = no
[name]
CN = {host}
[all]
subjectAltName = DNS:{host}
basicConstraints = critical, CA:FALSE
"""


def certified(folder, host):
    """A server's context with a certificate for the host, and the certificate's file."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/request", "w", encoding="utf-8") as file:
        file.write(REQUEST.format(host=host))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-days", "2", "-config", f"{folder}/request", "-keyout", f"{folder}/key",
                    "-out", f"{folder}/certificate"], check=True, capture_output=True)
    os.chmod(folder, 0o755)
    os.chmod(f"{folder}/certificate", 0o644)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/certificate", f"{folder}/key")
    return context, f"{folder}/certificate"


def read(report, world, agent, user):
    if agent.name != "claude-code":
        return
    if not report.case(f"the model of {agent.name} is read, as {user[0]}"):
        return
    account = accounts.Account(world, *user, f"model-{agent.name}")
    wall = Wall(account)
    tls, certificate = certified(f"{world.base}/model-{user[0]}", HOST)
    env = agent.prepare(account, 443)
    env["ANTHROPIC_BASE_URL"] = f"https://{HOST}"
    policy = policy_from_template(world.root, agent.template, rules(account), f"{account.home}/policy.yaml", account)
    with open(policy, "a", encoding="utf-8") as file:
        file.write(f"\ninspect: [{HOST}]\n")
    script = [{"name": "told", "why": WHY, "run": "factor 8051; echo status=$?"}, {"text": "Done."}]
    plain = world.hit(ALLOWED)

    with ModelServer(script, port=443, host=ALLOWED, tls=tls) as server:
        result = wall.run(policy, [agent.word, *agent.arguments("Factor.")], "--keep",
                          env={**env, "SSL_CERT_FILE": certificate}, timeout=180)
        transcript = server.transcript
    report.check("the agent ran to its end", result.returncode == 0 and "Done." in result.stdout,
                 result.stdout + result.stderr)
    report.check("the command ran", "83 97" in (transcript.text_of("told") or ""), transcript.text_of("told"))
    report.check("nothing went to the host in plain HTTP", world.hit(ALLOWED) == plain)
    check_ledger(report, wall)

    before = len(transcript.requests)
    with ModelServer(script, port=443, host=ALLOWED, tls=tls) as server:
        result = wall.run(policy, [agent.word, *agent.arguments("Factor.")], "--keep",
                          env={**env, "CLAUDE_CODE_MAX_RETRIES": "0"}, timeout=180)
        asked = server.transcript.requests
    report.check("a server that nobody vouches for is told nothing", before > 0 and not asked, asked)
    refused = [e for e in wall.json("ledger", "show") if HOST in str(e) and e.get("effect") == "deny"]
    report.check("the ledger says why", any("could not be read" in e["reason"] and "ertificate" in e["reason"]
                                            for e in refused), refused)


def rules(account):
    return extra_rules(account, 443) + [
        {"id": "e2e-model-host", "priority": 1, "action": "net.connect",
         "resource": f"tcp://{HOST}:443", "effect": "allow"}]


def check_ledger(report, wall):
    entries = wall.json("ledger", "show")
    intents = [e for e in entries if e["type"] == "intent" and e["source"] == "model"]
    report.check("the tool call is an intent", len(intents) == 1, intents)
    if len(intents) != 1:
        return
    intent = intents[0]
    report.check("with its reason, tool and parameters",
                 intent["why"].endswith(WHY) and intent["tool"] == "Bash" and "factor 8051" in intent["parameters"], intent)
    of = [e for e in entries if e.get("action_id") == intent["action_id"]]
    kinds = [e["type"] for e in of]
    report.check("sealed, begun, done, summed up, ended, in this order",
                 kinds[:2] == ["intent", "action_start"] and "exec" in kinds
                 and kinds[-2:] == ["kernel_summary", "action_end"], kinds)
    execs = [e for e in of if e["type"] == "exec" and e["action"]["resource"].endswith("/factor")]
    report.check("the program is linked to it", len(execs) == 1 and execs[0]["attribution"].startswith("lineage"), execs)
    report.check("it ended when the agent told its model the result", of[-1].get("outcome") == "done", of[-1:])
    connects = [e for e in entries if e["type"] == "connect" and e.get("host") == HOST]
    report.check("the connection is recorded as what it is, port 443",
                 connects and all(e["port"] == 443 and e["effect"] == "allow" for e in connects), connects)
    result = wall.call("ledger", "verify")
    report.check("ledger verify passes", result.returncode == 0, result.stdout + result.stderr)
