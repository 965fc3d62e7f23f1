use agentwall_action::{Action, Decision, Effect, Hint, Resource, Subject, Verb, VerbFamily};
use agentwall_ledger::{
    entry::{Claim, Intent},
    hash::{leaf_hash, tree_hash},
};
use agentwall_wall::wire::{Actor, Binding};
use serde_json::json;

use super::*;

/// The session's command, the agent below it, and the moment of the intent.
const TOP: Process = (10, 100);
const AGENT: Process = (20, 200);
const SINCE: u64 = 1000;

fn event(verb: Verb, resource: Resource, argv: &[&str], line: &[Process]) -> Event {
    let mut action = Action::new(Subject::agent("a"), verb, resource);
    action.facts.args = json!(argv);
    Event {
        action,
        decision: Decision {
            effect: Effect::Allow,
            rule: None,
            reason: String::new(),
            hint: Hint::default(),
            monitors: vec![],
            errors: vec![],
            policy: String::new(),
        },
        actor: Actor {
            pid: line.first().map_or(0, |p| p.0),
            exe: String::new(),
            lineage: line.to_vec(),
        },
        binding: Binding::default(),
        enforced_by: "test".into(),
    }
}

fn exec(argv: &[&str], line: &[Process]) -> Event {
    let program = format!("/usr/bin/{}", argv[0]);
    event(Verb::ProcessExec, Resource::path(program), argv, line)
}

fn connect(host: &str, line: &[Process]) -> Event {
    let to = Resource::parse(VerbFamily::Net, &format!("tcp://{host}:443")).unwrap();
    event(Verb::NetConnect, to, &[], line)
}

/// An intent to run a shell line.
fn shell(id: &str, line: &str) -> Begun {
    let argv = ["bash", "-c", line];
    Begun {
        intent: Intent {
            action_id: id.into(),
            call: Some(format!("call-{id}")),
            parameters: format!("{{\"command\":\"{line}\"}}"),
            claims: vec![Claim {
                verb: "process.exec".into(),
                resource: "/usr/bin/bash".into(),
                argv_sha256: Some(argv_sha256(&argv)),
            }],
            ..Intent::default()
        },
        agent: Some(AGENT),
        own: None,
        since: SINCE,
        line: Some(line.into()),
        previous: 7,
    }
}

fn belongs(linker: &mut Linker, event: &Event) -> (Option<String>, Option<&'static str>) {
    let link = linker.link(event);
    (link.action, link.attribution.map(Attribution::as_str))
}

fn to(id: &str, how: &'static str) -> (Option<String>, Option<&'static str>) {
    (Some(id.into()), Some(how))
}

const NOBODY: (Option<String>, Option<&'static str>) = (None, Some("unattributed"));

#[test]
fn the_process_that_was_told_and_all_below_it() {
    let mut linker = Linker::default();
    linker.begin(shell("a", "make test"));
    linker.begin(shell("b", "make"));
    let bash = (30, 1000);
    let told = exec(
        &["bash", "-c", "eval 'make test' && pwd"],
        &[bash, AGENT, TOP],
    );
    assert_eq!(
        belongs(&mut linker, &told),
        to("a", "lineage+argv"),
        "the longest line fits"
    );
    let below = exec(&["cc"], &[(32, 1002), (31, 1001), bash, AGENT, TOP]);
    assert_eq!(belongs(&mut linker, &below), to("a", "lineage"));
    // The number again, another process: two are open, and only the time tells.
    let other = exec(&["cc"], &[(30, 1500), AGENT, TOP]);
    assert_eq!(belongs(&mut linker, &other), to("b", "window"));
    // What it left running is still its own when it has ended.
    linker.end("a", "done", Some(0)).unwrap();
    linker.end("b", "done", None).unwrap();
    let late = connect("example.org", &[(31, 1001), bash, AGENT, TOP]);
    assert_eq!(belongs(&mut linker, &late), to("a", "lineage"));
    assert_eq!(belongs(&mut linker, &other), NOBODY);
}

#[test]
fn what_is_older_than_the_intent_or_beside_the_agent_is_linked_by_time_alone() {
    let mut linker = Linker::default();
    linker.begin(shell("a", "make"));
    let young = connect("example.org", &[(30, SINCE), AGENT, TOP]);
    assert_eq!(
        belongs(&mut linker, &young),
        to("a", "lineage"),
        "the only one that is open"
    );
    let old = [(30, SINCE - 1), AGENT, TOP];
    assert_eq!(
        belongs(&mut linker, &connect("example.org", &old)),
        to("a", "window")
    );
    let beside = [(40, 2000), TOP];
    assert_eq!(
        belongs(&mut linker, &connect("example.org", &beside)),
        to("a", "window")
    );
    let agent = [AGENT, TOP];
    assert_eq!(
        belongs(&mut linker, &connect("example.org", &agent)),
        to("a", "window")
    );
    // Another process with the agent's number.
    let again = [(50, 3000), (AGENT.0, 2500), TOP];
    assert_eq!(
        belongs(&mut linker, &connect("example.org", &again)),
        to("a", "window")
    );
}

#[test]
fn nothing_is_linked_in_a_session_that_tells_no_intents() {
    let mut linker = Linker::default();
    let command = Intent {
        action_id: "c".into(),
        claims: vec![Claim {
            argv_sha256: Some(argv_sha256(&["claude"])),
            ..Claim::default()
        }],
        ..Intent::default()
    };
    linker.command(&command);
    let mut canary = exec(&["canary"], &[]);
    canary.decision.effect = Effect::Deny;
    assert_eq!(belongs(&mut linker, &canary), (None, None));
    assert_eq!(
        belongs(&mut linker, &exec(&["claude"], &[])),
        to("c", "lineage+argv")
    );
    assert_eq!(
        belongs(&mut linker, &exec(&["claude"], &[])),
        (None, None),
        "once"
    );
    let event = exec(&["sh"], &[TOP]);
    let link = linker.link(&event);
    assert_eq!(link, Link::default());
    assert_eq!(
        linker.recorded(&link, &event, 1, Some(leaf_hash(b""))),
        None
    );
}

#[test]
fn an_action_without_an_intent_is_told_once() {
    let mut linker = Linker::default();
    linker.capture();
    let mut found = |event: &Event| {
        let link = linker.link(event);
        let finding = linker.recorded(&link, event, 9, Some(leaf_hash(b"x")));
        finding.map(|f| (f.kind, f.verb, f.resource, f.entry))
    };
    let kind = "action-without-intent".to_owned();
    let curl = exec(&["curl"], &[(30, 1), AGENT, TOP]);
    let wanted = (
        kind.clone(),
        "process.exec".into(),
        "/usr/bin/curl".into(),
        Some(9),
    );
    assert_eq!(found(&curl), Some(wanted));
    assert_eq!(found(&curl), None);
    let connected = connect("evil.test", &[(30, 1), AGENT, TOP]);
    assert_eq!(found(&connected).map(|f| f.0), Some(kind));
    let hook = crate::intent::hook_line("claude-code");
    // The wall's own tools are no action of the agent; a line that only ends like one is.
    assert_eq!(found(&exec(&["sh", "-c", &hook], &[(31, 1)])), None);
    let forged = exec(&["sh", "-c", &format!("evil; {hook}")], &[(31, 1)]);
    assert!(found(&forged).is_some());
}

#[test]
fn the_agents_own_connections_are_not_findings_but_its_programs_are() {
    let mut linker = Linker::default();
    linker.begin(shell("a", "make"));
    linker.end("a", "done", None);
    let mut found = |event: &Event| {
        let link = linker.link(event);
        assert_eq!(link.attribution, Some(Attribution::Unattributed));
        linker
            .recorded(&link, event, 9, Some(leaf_hash(b"x")))
            .is_some()
    };
    assert!(!found(&connect("api.test", &[AGENT, TOP])));
    assert!(found(&connect("api.test", &[(21, 300), AGENT, TOP])));
    assert!(found(&exec(&["evil"], &[AGENT, TOP])));
}

#[test]
fn what_goes_beyond_the_intent_is_told() {
    let mut linker = Linker::default();
    linker.begin(shell("a", "curl https://good.test/x"));
    let bash = (30, 1000);
    let line = [bash, AGENT, TOP];
    let mut found = |event: &Event| {
        let link = linker.link(event);
        linker.recorded(&link, event, 9, Some(leaf_hash(b"x")))
    };
    let told = exec(&["bash", "-c", "curl https://good.test/x"], &line);
    assert_eq!(found(&told), None);
    assert_eq!(
        found(&exec(&["curl"], &line)),
        None,
        "a command brings its programs"
    );
    assert_eq!(found(&connect("good.test", &line)), None, "it was named");
    let evil = found(&connect("evil.test", &line)).unwrap();
    assert_eq!(evil.kind, "action-broader-than-intent");
    assert_eq!(
        (evil.action_id.as_deref(), evil.previous),
        (Some("a"), Some(7))
    );
    assert!(
        found(&connect("ood.test", &line)).is_some(),
        "a part of a name is no name"
    );
    // What only the time links may be another's.
    assert_eq!(found(&connect("other.test", &[AGENT, TOP])), None);
    // An intent to read a file covers no program.
    let mut linker = Linker::default();
    let mut read = shell("r", "");
    (read.line, read.intent.claims[0]) = (
        None,
        Claim {
            verb: "file.read".into(),
            resource: "/w/a".into(),
            argv_sha256: None,
        },
    );
    linker.begin(read);
    let event = exec(&["cat"], &line);
    let link = linker.link(&event);
    assert_eq!(link.attribution, Some(Attribution::Lineage));
    let finding = linker
        .recorded(&link, &event, 3, Some(leaf_hash(b"y")))
        .unwrap();
    assert_eq!(
        (finding.kind.as_str(), finding.entry),
        ("action-broader-than-intent", Some(3))
    );
}

#[test]
fn an_end_sums_up_what_was_seen() {
    let mut linker = Linker::default();
    linker.begin(shell("a", "make"));
    let line = [(30, 1000), AGENT, TOP];
    let mut leaves = Vec::new();
    for (number, event) in [
        exec(&["bash", "-c", "make"], &line),
        exec(&["cc"], &line),
        connect("x.test", &[AGENT, TOP]),
    ]
    .iter()
    .enumerate()
    {
        let leaf = leaf_hash(&[number as u8]);
        let link = linker.link(event);
        linker.recorded(&link, event, 10 + number as u64, Some(leaf));
        leaves.push(leaf);
    }
    // One that the ledger could not take is counted, and is in no tree.
    let lost = exec(&["ld"], &line);
    let link = linker.link(&lost);
    linker.recorded(&link, &lost, 13, None);
    linker.wrote("a", 12);
    assert_eq!(linker.find("call-a").as_deref(), Some("a"));
    let ended = linker.end("a", "failed", Some(2)).unwrap();
    assert_eq!(ended.previous, 12);
    assert_eq!(ended.finding, None);
    let summary = ended.summary;
    assert_eq!(
        (summary.events, summary.lost, summary.root),
        (3, 1, tree_hash(&leaves).to_base64())
    );
    let counts = [
        ("net.connect allow".to_owned(), 1),
        ("process.exec allow".to_owned(), 3),
    ];
    assert_eq!(summary.counts, counts.into());
    let strengths = [("lineage", 2), ("lineage+argv", 1), ("window", 1)];
    assert_eq!(
        summary.attribution,
        strengths.map(|(k, n)| (k.to_owned(), n)).into()
    );
    assert_eq!(
        (ended.end.outcome.as_str(), ended.end.exit),
        ("failed", Some(2))
    );
    assert_eq!(linker.find("a"), None);
    assert!(linker.end("a", "done", None).is_none(), "once");
}

#[test]
fn what_was_told_and_not_done_is_told_unless_it_was_denied() {
    let end = |outcome: &str| {
        let mut linker = Linker::default();
        linker.begin(shell("a", "make"));
        let ended = linker.end("a", outcome, None).unwrap();
        ended.finding.map(|f| f.kind)
    };
    assert_eq!(end("done").as_deref(), Some("intent-without-action"));
    assert_eq!(end("denied"), None);
    // The agent tells it itself from here on.
    assert_eq!(end("told"), None);
}

#[test]
fn the_oldest_is_given_up_for_one_more() {
    let mut linker = Linker::default();
    for n in 0..MAX_OPEN {
        assert_eq!(linker.begin(shell(&n.to_string(), "x")), None);
    }
    assert_eq!(linker.begin(shell("more", "x")).as_deref(), Some("0"));
}

#[test]
fn what_the_model_said_is_found_by_its_call() {
    let mut linker = Linker::default();
    let of = |source: &str, id: &str| {
        let mut begun = shell(id, "make");
        begun.intent.source = source.into();
        begun.intent.call = Some("toolu_1".into());
        begun
    };
    linker.begin(of("claude-code", "a"));
    assert_eq!(linker.find_of("model", "toolu_1"), None);
    linker.begin(of("model", "b"));
    assert_eq!(linker.find_of("model", "toolu_1").as_deref(), Some("b"));
    assert_eq!(linker.find_of("model", "toolu_2"), None);
    let open = linker.open_of("model");
    assert_eq!(open, [("b".to_owned(), Some("toolu_1".to_owned()))]);
}
