//! `agentwall policy explain` and `agentwall policy enforcement`.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Host, harmless};

const POLICY: &str = r#"agentwall: 1
require: { enforcement: race }
rules:
  - { id: keys, priority: 10, action: file.*, resource: label:secret, effect: deny, reason: "Keys\u001b stay." }
  - { id: frozen, priority: 50, action: file.*, resource: "${workspace}/vendor/**", effect: deny, reason: Not ours. }
  - { id: work, priority: 200, action: file.*, resource: "${workspace}/**", effect: isolate }
  - id: office
    priority: 20
    action: net.connect
    resource: cidr:private
    effect: deny
    unless: auth.method == "oauth"
  - { id: inside, priority: 300, action: net.connect, resource: "tcp://10.0.0.0/8:443", effect: allow }
  - { id: registry, action: net.connect, resource: "tcp://registry.npmjs.org:443", effect: allow }
"#;

fn host() -> Host {
    let host = Host::new();
    host.put("policy.yaml", POLICY);
    host.put("vendor/a.c", "x");
    host.put("a.c", "x");
    host
}

fn explain(host: &Host, args: &[&str]) -> String {
    let mut all = vec!["policy", "explain", "--policy", "policy.yaml"];
    all.extend(args);
    let text = host.call(&all).code(0).out;
    harmless(&text);
    text
}

fn explained(host: &Host, args: &[&str]) -> Value {
    serde_json::from_str(&explain(host, &[&["--json"], args].concat())).unwrap()
}

#[test]
fn the_short_form_shows_what_speaks_and_the_long_one_why_the_rest_does_not() {
    let host = host();
    let short = explain(&host, &["file.write", "vendor/a.c"]);
    assert!(
        short.contains("frozen") && short.contains("work"),
        "{short}"
    );
    assert!(!short.contains("registry"), "{short}");
    assert!(short.contains("4 rules for other actions"), "{short}");
    let long = explain(&host, &["--all", "file.write", "vendor/a.c"]);
    assert!(long.contains("another action"), "{long}");
    assert!(long.contains("it is not one of label:secret"), "{long}");
    let long = explain(
        &host,
        &["--all", "net.connect", "tcp://registry.npmjs.org:80"],
    );
    assert!(long.contains("and not the port '80' after it"), "{long}");
    // A condition shows its expression and what it read.
    let text = explain(&host, &["net.connect", "tcp://10.0.0.1:443"]);
    assert!(
        text.contains("unless auth.method == \"oauth\" is false (auth.method = \"\")"),
        "{text}"
    );
}

#[test]
fn what_would_make_it_allowed_is_told_and_can_be_pasted() {
    let host = host();
    let text = explain(&host, &["file.write", "vendor/a.c"]);
    let near = format!("instead  {}/a.c (isolate by work", host.work.display());
    assert!(text.contains(&near), "{text}");
    assert!(
        text.contains("warning: this overrules frozen (deny): Not ours."),
        "{text}"
    );
    let json = explained(&host, &["file.write", "vendor/a.c"]);
    let rule = json["advice"]["rules"][0]["yaml"].as_str().unwrap();
    let with = format!(
        "{POLICY}{}",
        rule.lines().map(|l| format!("  {l}\n")).collect::<String>()
    );
    host.put("policy.yaml", &with);
    let now = explain(&host, &["file.write", "vendor/a.c"]);
    assert!(now.starts_with("allow: "), "{now}");
    assert!(!now.contains("what would make it allowed"), "{now}");
    // The neighbour is as it was.
    let other = explain(&host, &["file.write", "vendor/b.c"]);
    assert!(other.starts_with("deny: "), "{other}");
    let text = explain(&host, &["net.connect", "tcp://10.0.0.1:443"]);
    assert!(
        text.contains("if       auth.method == \"oauth\" (allow by inside)"),
        "{text}"
    );
    // What can only be done to something that is there is suggested only where it is.
    assert!(!explain(&host, &["file.read", "vendor/gone.c"]).contains("instead"));
    let json = explained(&host, &["file.read", "vendor/gone.c"]);
    assert_eq!(json["advice"]["nearest"][0]["exists"], false, "{json}");
}

#[test]
fn keys_and_the_walls_own_state_are_not_proposed() {
    let host = host();
    fs::create_dir(host.home.join(".ssh")).unwrap();
    let key = host.home.join(".ssh/id");
    fs::write(&key, "x").unwrap();
    let config = host.home.join(".config/agentwall/policy.yaml");
    let state = host.state.join("ledger/key");
    for (path, never) in [(&key, "secret"), (&config, "state"), (&state, "state")] {
        let path = path.to_str().unwrap();
        let json = explained(&host, &["file.read", path]);
        assert_eq!(json["advice"]["never"], never, "{json}");
        assert_eq!(json["advice"]["rules"], json!([]));
        assert_eq!(json["advice"]["changes"], json!([]));
        let text = explain(&host, &["file.read", path]);
        assert!(text.contains("no rule is proposed"), "{text}");
    }
}

#[test]
fn the_keys_of_the_json_are_the_documented_ones() {
    let host = host();
    let keys = |value: &Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    let json = explained(&host, &["--enforcement", "file.write", "vendor/a.c"]);
    assert_eq!(
        keys(&json),
        "action advice decision enforcement resource rules subject"
    );
    assert_eq!(
        keys(&json["rules"][0]),
        "conditions effect id layer location nearest outcome priority"
    );
    let advice = &json["advice"];
    assert_eq!(keys(advice), "changes conditions nearest never rules");
    assert_eq!(
        keys(&advice["nearest"][0]),
        "distance effect exists pattern resource rule"
    );
    assert_eq!(
        keys(&advice["rules"][0]),
        "ignores_args layer overrides priority source yaml"
    );
    assert_eq!(
        keys(&advice["changes"][0]),
        "effect kind location member overrides rule"
    );
    let json = explained(&host, &["net.connect", "tcp://10.0.0.1:443"]);
    let met = &json["advice"]["conditions"][0];
    assert_eq!(keys(met), "condition effect facts rule");
    assert_eq!(keys(&met["facts"][0]), "fact now value");
    let office = json["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["id"] == "office");
    let condition = &office.unwrap()["conditions"][0];
    assert_eq!(keys(condition), "error expression facts key value");
    let inside = json["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["id"] == "registry");
    assert_eq!(
        keys(&inside.unwrap()["nearest"]),
        "matched part pattern rest"
    );
}

#[test]
fn a_wall_in_the_kernel_that_does_not_stand_enforces_nothing() {
    let host = host();
    let asked = [
        "policy",
        "enforcement",
        "--backend",
        "kernel",
        "--policy",
        "policy.yaml",
        "--json",
    ];
    let report = host.call(&asked).code(1).json();
    assert_eq!(report["backend"], "kernel");
    assert_eq!(report["stands"], false);
    assert!(report["reason"].is_string(), "{report}");
    let rules = report["rules"].as_array().unwrap();
    assert!(
        rules
            .iter()
            .all(|r| r["level"] == "none" || r["level"].is_null()),
        "{report}"
    );
    // Root may look, and then each rule says what the hooks would make of it.
    let root = rustix::process::geteuid().is_root();
    assert_eq!(report["probed"], root, "{report}");
    assert_eq!(rules.is_empty(), !root, "{report}");
}

#[test]
fn enforcement_is_that_of_the_plan() {
    let host = host();
    let call = host.call(&["policy", "enforcement", "--policy", "policy.yaml", "--json"]);
    let report = call.json();
    harmless(&call.out);
    assert_eq!(report["probed"], true, "{report}");
    assert_eq!(report["require"], "race");
    let rule = |id: &str| {
        let rules = report["rules"].as_array().unwrap();
        rules.iter().find(|r| r["id"] == id).unwrap().clone()
    };
    let placed = |id: &str, by: &str, place: &str| {
        let rule = rule(id);
        let mut placements = rule["placements"].as_array().unwrap().iter();
        placements
            .find(|p| p["by"] == by && p["places"].as_array().unwrap().contains(&json!(place)))
            .cloned()
            .unwrap_or_else(|| panic!("{id} {by} {place}: {rule}"))
    };
    let work = host.work.to_str().unwrap().to_owned();
    let vendor = format!("{work}/vendor");
    assert_eq!(placed("work", "overlay", &work)["fidelity"], "exact");
    assert_eq!(placed("frozen", "mask", &vendor)["fidelity"], "exact");
    let levels: Vec<Value> = report["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["level"].clone())
        .collect();
    if report["stands"] == true {
        assert_eq!(rule("work")["level"], "enforced");
        assert_eq!(rule("registry")["level"], "enforced");
    } else {
        // Where no wall stands, nothing of it holds.
        assert!(
            levels.iter().all(|l| *l == "none" || l.is_null()),
            "{report}"
        );
        assert!(report["reason"].is_string());
    }
    let weaker = report["weakest"] != "enforced" && report["weakest"] != "race";
    let bad = weaker || report["stands"] != true;
    assert_eq!(call.code, i32::from(bad), "{report}");
    // With explain: the rules about the action alone.
    let json = explained(&host, &["--enforcement", "file.write", "a.c"]);
    let ids: Vec<&str> = json["enforcement"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["work"]);
    let text = explain(&host, &["--enforcement", "--all", "file.write", "a.c"]);
    assert!(
        text.contains("registry: ") && text.contains("where it is enforced"),
        "{text}"
    );
    host.call(&[
        "policy",
        "explain",
        "--policy",
        "policy.yaml",
        "--enforcement",
        "--subject",
        "peer:x",
        "file.read",
        "/x",
    ])
    .code(2);
}

#[test]
fn what_run_refuses_the_report_refuses() {
    let host = host();
    host.put(
        "policy.yaml",
        "agentwall: 1\nproperties:\n  - { id: never, never: 'file.read(label:secret) then net.connect(not label:trusted)' }\n",
    );
    let report = host
        .call(&["policy", "enforcement", "--policy", "policy.yaml", "--json"])
        .code(1)
        .json();
    let refused = report["refused"].as_str().unwrap();
    assert!(refused.contains("property 'never'"), "{refused}");
    let run = host.call(&["run", "--policy", "policy.yaml", "--", "true"]);
    assert_ne!(run.code, 0);
    assert!(
        run.err.contains(refused.split(';').next().unwrap()),
        "{}",
        run.err
    );
}
