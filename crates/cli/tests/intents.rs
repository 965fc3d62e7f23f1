//! Intents behind a real wall: sealed before anything is done, linked to what was done, and found out where
//! the two do not fit.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::Value;

use support::wall::Wall;

const TOOL: &str = "/dev/agentwall/bin/agentwall";

/// The entries of the ledger with their numbers, in their order.
fn entries(wall: &Wall) -> Vec<Value> {
    let said = wall.host.call(&["ledger", "show", "--json"]).code(0).out;
    let all: Vec<Value> = said
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let mut seqs: Vec<u64> = all.iter().filter_map(|e| e["seq"].as_u64()).collect();
    seqs.sort_unstable();
    let whole: Vec<u64> = (0..all.len() as u64).collect();
    assert_eq!(seqs, whole, "a number is missing, or there twice");
    all
}

/// Those of one action; each names the one before it.
fn of_action<'a>(all: &'a [Value], id: &str) -> Vec<&'a Value> {
    let own: Vec<&Value> = all.iter().filter(|e| e["action_id"] == id).collect();
    let mut last = None;
    for entry in own
        .iter()
        .filter(|e| !e["previous"].is_null() || e["type"] == "intent")
    {
        assert_eq!(entry["previous"].as_u64(), last, "{entry}");
        last = entry["seq"].as_u64();
    }
    own
}

fn types(entries: &[&Value]) -> Vec<String> {
    let each = entries
        .iter()
        .map(|e| e["type"].as_str().unwrap().to_owned());
    each.collect()
}

/// The only intent that was told from inside.
fn told(all: &[Value]) -> &Value {
    let mut found = all
        .iter()
        .filter(|e| e["type"] == "intent" && !e["process"].is_null());
    let intent = found.next().unwrap();
    assert!(found.next().is_none());
    intent
}

#[test]
fn the_sessions_command_is_sealed_with_its_start() {
    let wall = Wall::new();
    wall.run(&["--keep", "--name", "coder"], "true").code(0);
    let all = entries(&wall);
    let kinds: Vec<&str> = all
        .iter()
        .take(3)
        .map(|e| e["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["policy", "session_start", "intent"]);
    assert_eq!(
        (&all[2]["source"], &all[2]["agent"]),
        (&"command".into(), &"coder".into())
    );
    // The refusal of a canary may be told late, and stand before it.
    let starts = |e: &&Value| e["type"] == "exec" && e["effect"] == "allow";
    let exec = all.iter().find(starts).unwrap();
    assert_eq!(exec["action_id"], all[2]["action_id"]);
    assert_eq!(exec["attribution"], "lineage+argv");
    assert_eq!(exec["argv_sha256"], all[2]["claims"][0]["argv_sha256"]);
    // Nobody told anything else: nothing else is linked, and nothing is a finding.
    assert!(all.iter().all(|e| e["type"] != "finding"));
}

#[test]
fn an_act_is_sealed_linked_and_summed_up() {
    let wall = Wall::new();
    let script = format!(
        "{TOOL} act --why 'to see' --tool lister -- /bin/sh -c 'ls / >/dev/null; exit 3'; echo status=$?"
    );
    let said = wall.run(&["--keep"], &script).code(0);
    assert!(said.out.contains("status=3"), "{}", said.all());
    let all = entries(&wall);
    let intent = told(&all);
    let id = intent["action_id"].as_str().unwrap();
    let own = of_action(&all, id);
    assert_eq!(
        types(&own),
        [
            "intent",
            "action_start",
            "exec",
            "exec",
            "kernel_summary",
            "action_end"
        ]
    );
    assert_eq!(intent["why"], "to see");
    let by: Vec<&Value> = own
        .iter()
        .filter(|e| e["type"] == "exec")
        .map(|e| &e["attribution"])
        .collect();
    assert_eq!(by, ["lineage+argv", "lineage"]);
    let start = own[1]["intent"].as_u64().unwrap();
    assert_eq!(
        all[usize::try_from(start).unwrap()]["action_id"],
        id,
        "the number in the log"
    );
    let summary = own[4];
    assert_eq!(
        (&summary["events"], &summary["lost"]),
        (&2.into(), &0.into())
    );
    assert_eq!(summary["counts"]["process.exec allow"], 2);
    assert_eq!(
        (&own[5]["outcome"], &own[5]["exit"]),
        (&"failed".into(), &3.into())
    );
    // The root is over the entries themselves: who has the log can make it again.
    assert_eq!(summary["root"], root_over(&wall, &all, id));
    wall.host.call(&["ledger", "verify"]).code(0);
    // Reading.
    let shown = wall
        .host
        .call(&["ledger", "show", "--intent", id])
        .code(0)
        .out;
    assert_eq!(shown.lines().count(), own.len(), "{shown}");
    let shown = wall
        .host
        .call(&["ledger", "show", "--intent", "LISTER", "--type", "intent"])
        .code(0)
        .out;
    assert!(shown.contains(id), "by a word: {shown}");
    let story = wall
        .host
        .call(&["ledger", "timeline", "--json"])
        .code(0)
        .json();
    assert!(story["counts"]["intents"].as_u64().unwrap() >= 4, "{story}");
}

/// Root over the leaf hashes of the events of an action, from the log's files alone.
fn root_over(wall: &Wall, all: &[Value], id: &str) -> String {
    use agentwall_ledger::{Reader, hash};
    let reader = Reader::open(&wall.host.state.join("ledger")).unwrap();
    let events = ["decision", "exec", "connect"];
    let leaves: Vec<_> = all
        .iter()
        .zip(0..)
        .filter(|(e, _)| e["action_id"] == id && events.contains(&e["type"].as_str().unwrap()))
        .map(|(_, index)| hash::leaf_hash(&reader.entry(index).unwrap()))
        .collect();
    hash::tree_hash(&leaves).to_base64()
}

#[test]
fn what_the_policy_refuses_is_not_started_and_its_neighbour_is() {
    let wall = Wall::new();
    wall.policy(
        "refuse.yaml",
        "  - { id: no-copies, priority: 10, action: process.exec, resource: '/usr/bin/cp', effect: deny, reason: 'No copies.' }",
    );
    let policy = wall.host.home.join("refuse.yaml");
    let script = format!(
        "{TOOL} act --why x -- cp /etc/passwd copied; echo status=$?; {TOOL} act --why y -- touch made; echo status=$?; {TOOL} why"
    );
    let said = wall
        .run(&["--keep", "--policy", policy.to_str().unwrap()], &script)
        .code(0);
    assert!(
        said.out.contains("status=1") && said.out.contains("status=0"),
        "{}",
        said.all()
    );
    assert!(said.all().contains("No copies."), "{}", said.all());
    let changes: Vec<String> = wall.changes(&wall.id()).into_iter().map(|c| c.0).collect();
    assert_eq!(changes, ["made"]);
    let all = entries(&wall);
    let refused = all
        .iter()
        .find(|e| e["type"] == "intent" && e["why"] == "x")
        .unwrap();
    let own = of_action(&all, refused["action_id"].as_str().unwrap());
    assert!(!types(&own).contains(&"action_start".into()), "{own:?}");
    assert_eq!(own.last().unwrap()["outcome"], "denied");
    let decision = own.iter().find(|e| e["effect"] == "deny").unwrap();
    assert_eq!(
        (&decision["rule"], &decision["enforced_by"]),
        (&"no-copies".into(), &"intent".into())
    );
}

#[test]
fn a_finding_raises_the_risk_and_a_rule_asks_by_it() {
    let wall = Wall::new();
    wall.policy(
        "risk.yaml",
        "  - { id: careful, priority: 10, action: file.create, resource: '${workspace}/later', effect: deny, when: 'risk >= 20', reason: 'Too much went unsaid.' }",
    );
    let policy = wall.host.home.join("risk.yaml");
    let options = ["--keep", "--policy", policy.to_str().unwrap()];
    let tries = "for n in $(seq 100); do rm -f later; touch later 2>/dev/null || { echo REFUSED; break; }; sleep 0.05; done";
    // Everything is told: nothing is found, and the rule stays silent.
    let said = wall
        .run(
            &options,
            &format!("{TOOL} act --why x -- /bin/sh -c 'touch later && echo MADE'"),
        )
        .code(0);
    assert!(said.out.contains("MADE"), "{}", said.all());
    assert!(entries(&wall).iter().all(|e| e["type"] != "finding"));
    // 'id' was not told.
    let wall2 = Wall::new();
    fs::copy(&policy, wall2.host.home.join("risk.yaml")).unwrap();
    let policy = wall2.host.home.join("risk.yaml");
    let options = ["--keep", "--policy", policy.to_str().unwrap()];
    let script = format!("{TOOL} act --why x -- true; id >/dev/null; {tries}");
    let said = wall2.run(&options, &script).code(0);
    assert!(said.out.contains("REFUSED"), "{}", said.all());
    let all = entries(&wall2);
    let found = all.iter().find(|e| e["type"] == "finding").unwrap();
    assert_eq!(
        (&found["kind"], &found["resource"]),
        (&"action-without-intent".into(), &"/usr/bin/id".into())
    );
    assert!(found["risk"].as_u64().unwrap() >= 20, "{found}");
    let refused = all.iter().find(|e| e["rule"] == "careful").unwrap();
    assert!(
        refused["facts"]["risk"].as_u64().unwrap() >= 20,
        "{refused}"
    );
}

#[test]
fn a_session_that_is_to_tell_its_intents_and_does_not_is_found_out() {
    let wall = Wall::new();
    wall.run(&["--keep", "--intents"], "id >/dev/null").code(0);
    let all = entries(&wall);
    let found: Vec<&Value> = all.iter().filter(|e| e["type"] == "finding").collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["resource"], "/usr/bin/id");
    let about = found[0]["entry"].as_u64().unwrap();
    assert_eq!(
        all[usize::try_from(about).unwrap()]["attribution"],
        "unattributed"
    );
}

#[test]
fn a_hook_seals_refuses_and_ends() {
    let wall = Wall::new();
    wall.host.put("t.jsonl", concat!(
        r#"{"type":"assistant","message":{"content":[{"type":"text","text":"I will look first."}]}}"#, "\n",
        r#"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"toolu_1","name":"Bash"}]}}"#, "\n",
    ));
    let work = wall.host.work.display().to_string();
    let event = |name: &str, tool: &str, input: &str| {
        format!(
            r#"{{"session_id":"s","transcript_path":"{work}/t.jsonl","cwd":"{work}","hook_event_name":"{name}","tool_name":"{tool}","tool_input":{input},"tool_use_id":"toolu_1"}}"#
        )
    };
    wall.host.put(
        "pre",
        &event("PreToolUse", "Bash", r#"{"command":"ls / | wc -l"}"#),
    );
    wall.host.put(
        "post",
        &event("PostToolUse", "Bash", r#"{"command":"ls / | wc -l"}"#),
    );
    wall.host.put(
        "shadow",
        &event("PreToolUse", "Write", r#"{"file_path":"/etc/shadow"}"#),
    );
    // As an agent does it: hooks by a shell, the tool by another with more around the line.
    wall.host.call(&["hook", "install", "claude-code"]).code(0);
    let settings = fs::read_to_string(wall.host.home.join(".claude/settings.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    let hook = settings["hooks"]["PreToolUse"][0]["hooks"][0]["command"]
        .as_str()
        .unwrap();
    wall.host.put("hook", hook);
    let script = "hook=$(cat hook); sh -c \"$hook\" < pre; echo pre=$?; bash -c 'eval \"ls / | wc -l\" && true'; \
         sh -c \"$hook\" < post; echo post=$?; sh -c \"$hook\" < shadow; echo shadow=$?; \
         echo '{' | sh -c \"$hook\"; echo nonsense=$?";
    let said = wall.run(&["--keep"], script).code(0);
    for wanted in [
        "pre=0",
        "post=0",
        "shadow=0",
        "nonsense=2",
        r#""permissionDecision":"deny""#,
        "/etc/shadow",
    ] {
        assert!(
            said.out.replace(": \"", ":\"").contains(wanted),
            "{wanted}: {}",
            said.all()
        );
    }
    let all = entries(&wall);
    let intent = all.iter().find(|e| e["tool"] == "Bash").unwrap();
    assert_eq!(intent["why"], "I will look first.");
    assert_eq!(
        (&intent["source"], &intent["call"]),
        (&"claude-code".into(), &"toolu_1".into())
    );
    let own = of_action(&all, intent["action_id"].as_str().unwrap());
    let execs: Vec<&&Value> = own.iter().filter(|e| e["type"] == "exec").collect();
    assert_eq!(execs.len(), 3, "{own:?}");
    assert_eq!(execs[0]["attribution"], "lineage+argv");
    assert!(
        execs[1..].iter().all(|e| e["attribution"] == "lineage"),
        "{execs:?}"
    );
    assert_eq!(own.last().unwrap()["outcome"], "done");
    let refused = all.iter().find(|e| e["tool"] == "Write").unwrap();
    let own = of_action(&all, refused["action_id"].as_str().unwrap());
    assert_eq!(own.last().unwrap()["outcome"], "denied");
}

#[test]
fn outside_a_session_a_hook_blocks_and_act_does_nothing() {
    let wall = Wall::new();
    wall.host.put(
        "pre",
        r#"{"hook_event_name":"PreToolUse","tool_name":"Read","tool_input":{"file_path":"/x"}}"#,
    );
    let mut hook = wall.host.command(&["hook", "claude-code"]);
    hook.stdin(fs::File::open(wall.host.work.join("pre")).unwrap());
    let said = support::said(&mut hook).code(2);
    assert!(
        said.all().contains("not inside a session"),
        "{}",
        said.all()
    );
    let said = wall
        .host
        .call(&["act", "--why", "x", "--", "touch", "made"])
        .code(1);
    assert!(
        said.all().contains("not inside a session"),
        "{}",
        said.all()
    );
    assert_eq!(wall.host.read("made"), None);
}

#[test]
fn the_socket_speaks_http_and_bounds_what_it_hears() {
    let wall = Wall::new();
    let script = r#"
import json, socket
def ask(raw):
    s = socket.socket(socket.AF_UNIX); s.connect("/dev/agentwall/intent"); s.sendall(raw)
    out = b""
    while True:
        part = s.recv(65536)
        if not part: break
        out += part
    head, _, body = out.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)
def post(path, body):
    data = json.dumps(body).encode()
    return ask(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
status, said = post("/v1/intent", {"why": "to look", "call": "c1", "does": [{"verb": "file.read", "resource": "/etc/hosts"}]})
assert status == 200 and said["decision"]["effect"] == "allow", (status, said)
assert post("/v1/intent/%s/end" % said["id"], {})[0] == 200
assert post("/v1/intent/c1/end", {})[0] == 404
assert post("/v1/intent", {"does": [{"verb": "file.read", "resource": "/home/nobody/x"}]})[0] == 403
assert post("/v1/intent", {"does": [{"verb": "file.fly", "resource": "/x"}]})[0] == 400
assert post("/v1/intent", {"source": "root"})[0] == 400
assert post("/v1/intent", {"unknown": 1})[0] == 400
assert post("/v1/other", {})[0] == 404
assert ask(b"GET /v1/intent HTTP/1.1\r\n\r\n")[0] == 405
assert ask(b"POST /v1/intent HTTP/1.1\r\ncontent-length: 9999999\r\n\r\n")[0] == 413
assert ask(b"nonsense\r\n\r\n")[0] == 400
print("ALL")
"#;
    wall.host.put("ask.py", script);
    let said = wall.run(&["--keep"], "python3 ask.py").code(0);
    assert!(said.out.contains("ALL"), "{}", said.all());
    let all = entries(&wall);
    let intents: Vec<&Value> = all.iter().filter(|e| e["source"] == "api").collect();
    assert_eq!(
        intents.len(),
        2,
        "what was refused as a request left nothing: {intents:?}"
    );
}

#[test]
fn nothing_is_let_go_on_that_cannot_be_sealed() {
    let wall = Wall::new();
    let go = wall.host.home.join("go");
    let script = format!(
        "{TOOL} act --why x -- touch before; echo READY; until [ -e {} ]; do :; done; \
         {TOOL} act --why y -- touch after",
        go.display()
    );
    let running = wall.start(&["--keep"], &script);
    let ledger = wall.host.state.join("ledger");
    let away = wall.host.state.join("away");
    fs::rename(&ledger, &away).unwrap();
    fs::write(&ledger, "").unwrap();
    fs::write(&go, "").unwrap();
    assert_ne!(running.end(), 0);
    fs::remove_file(&ledger).unwrap();
    fs::rename(&away, &ledger).unwrap();
    let changes: Vec<String> = wall.changes(&wall.id()).into_iter().map(|c| c.0).collect();
    assert_eq!(changes, ["before"]);
    wall.host.call(&["ledger", "verify"]).code(0);
}

/// The Python module that own agents use (sdk/python), against the real socket.
#[test]
fn an_agent_in_python_tells_what_it_does() {
    let wall = Wall::new();
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/python/agentwall.py");
    let work = wall.host.work.clone();
    fs::copy(module, work.join("agentwall.py")).unwrap();
    fs::write(
        work.join("agent.py"),
        "import subprocess, agentwall\n\
         with agentwall.intent('lister', why='to see', parameters={'n': 1}, call='c1',\n\
         \x20                     does=[agentwall.exec('/usr/bin/true', 'true')]) as action:\n\
         \x20   subprocess.run(['/usr/bin/true'])\n\
         try:\n\
         \x20   with agentwall.intent('breaks'):\n\
         \x20       raise KeyError('x')\n\
         except KeyError:\n\
         \x20   print('broke', action.index > 0)\n\
         try:\n\
         \x20   agentwall.intent('x', does=[agentwall.does('no.verb', 'y')])\n\
         except agentwall.NotSealed as error:\n\
         \x20   print('wrong')\n\
         except agentwall.Error as error:\n\
         \x20   print('error', error)\n\
         try:\n\
         \x20   agentwall.intent('x', path='/nowhere')\n\
         except agentwall.NotSealed as error:\n\
         \x20   print('not sealed')\n",
    )
    .unwrap();
    let said = wall.run(&["--keep"], "python3 agent.py").code(0);
    for part in ["broke True", "error ", "not sealed"] {
        assert!(said.out.contains(part), "{part}: {}", said.all());
    }
    let all = entries(&wall);
    let intents: Vec<&Value> = all
        .iter()
        .filter(|e| e["type"] == "intent" && e["source"] == "api")
        .collect();
    assert_eq!(intents.len(), 2, "{intents:?}");
    let first = of_action(&all, intents[0]["action_id"].as_str().unwrap());
    assert_eq!(intents[0]["parameters"], "{\"n\":1}");
    assert!(types(&first).contains(&"exec".to_owned()), "{first:?}");
    let outcome = |e: &Value| {
        let own = of_action(&all, e["action_id"].as_str().unwrap());
        own.last().unwrap()["outcome"].clone()
    };
    assert_eq!(outcome(intents[0]), "done");
    assert_eq!(outcome(intents[1]), "failed");
}
