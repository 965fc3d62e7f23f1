use std::path::PathBuf;

use agentwall_action::{
    Effect, Endpoint, ObjectKind, PathResource, Protocol, Resource, Session as SessionFacts,
    Subject, Verb,
};
use agentwall_ledger::entry::{
    Changes, Commit, Connect, DecisionRecord, Exec, Gap, Other, PolicyAnswer, PolicyVariables,
    SessionEnd,
};
use agentwall_policy::Layer;

use super::{tally::Class, *};

const OLD: &str = "agentwall: 1
default: deny
rules:
  - { id: read, priority: 100, action: file.read, resource: '${workspace}/**', effect: allow }
  - { id: write, priority: 100, action: file.write, resource: '${workspace}/**', effect: isolate }
  - { id: careful, priority: 50, action: file.write, resource: '${workspace}/ci/**', effect: ask }
  - { id: git, priority: 100, action: process.exec, resource: /opt/git, effect: allow }
  - { id: push, priority: 50, action: process.exec, resource: /opt/git, when: 'size(args) > 1 && args[1] == \"push\"', effect: ask }
  - { id: web, priority: 100, action: net.connect, resource: 'tcp://*.example.org:443', effect: allow }
  - { id: db, priority: 100, action: net.connect, resource: 'tcp://127.0.0.1:5432', effect: allow }
  - { id: night, priority: 60, action: file.commit, resource: '${workspace}/**', when: 'time % 2 == 0', effect: deny }
";

fn source(text: &str) -> Vec<Source> {
    vec![Source::new("p.yaml", text, Layer::User)]
}

fn values_of(workspace: &str) -> Variables {
    Variables {
        workspace: Some(workspace.into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: Some("/home/u/state".into()),
    }
}

fn started(id: &str, name: &str, workspace: &str) -> Entry {
    let text = |path: &Option<PathBuf>| path.as_deref().map(PolicyVariables::text);
    let values = values_of(workspace);
    let start = SessionStart {
        name: name.into(),
        workspace: workspace.into(),
        variables: Some(PolicyVariables {
            workspace: text(&values.workspace),
            home: text(&values.home),
            tmp: text(&values.tmp),
            state: text(&values.state),
        }),
        ..SessionStart::default()
    };
    Entry::now(id, 0, Record::SessionStart(start))
}

fn action(id: &str, name: &str, workspace: &str, verb: Verb, resource: Resource) -> Action {
    let mut action = Action::new(Subject::agent(name), verb, resource);
    action.facts.session = SessionFacts {
        id: id.into(),
        name: name.into(),
        workspace: workspace.into(),
        interactive: false,
    };
    action
}

/// What the supervisor writes about an action that `policy` decided.
fn recorded(policy: &Policy, action: &Action) -> Entry {
    let decision = policy.decide(action);
    let record = DecisionRecord::new(action, &decision, "broker")
        .said_by_policy(PolicyAnswer::of(&answer::of_policy(policy, action)));
    let record = match action.verb {
        Verb::ProcessExec => {
            let argv = action.facts.args.as_array().unwrap().iter();
            let argv: Vec<&str> = argv.map(|a| a.as_str().unwrap()).collect();
            Record::Exec(Exec::new(record, &argv))
        }
        Verb::NetConnect => {
            let mut connect = Connect::new(action, &decision, "egress");
            connect.decision = record;
            Record::Connect(connect)
        }
        _ => Record::Decision(record),
    };
    let entry = Entry::now(&action.facts.session.id, 1, record);
    Entry::from_bytes(&entry.to_bytes()).unwrap()
}

fn replayed(new: &str, sessions: &[&str], entries: &[Entry]) -> Result<Tally> {
    let sessions: Vec<String> = sessions.iter().map(|s| (*s).to_owned()).collect();
    let mut replay = Replay::new(source(new), &sessions);
    for (index, entry) in (0..).zip(entries) {
        replay.take(index, entry);
    }
    replay.finish()
}

fn path(path: &str, kind: ObjectKind) -> Resource {
    Resource::Path(PathResource {
        path: path.into(),
        kind,
    })
}

fn to(host: Option<&str>, ip: &str, port: u16) -> Resource {
    Resource::Endpoint(Endpoint {
        protocol: Protocol::Tcp,
        host: host.map(str::to_owned),
        ip: Some(ip.parse().unwrap()),
        port,
    })
}

const WORKSPACES: [&str; 2] = ["/w/one", "/w/tw*o"];

/// Some of everything, in two sessions with workspaces of their own.
fn actions() -> Vec<Action> {
    let mut all = Vec::new();
    for (id, name, workspace) in [
        ("20260102-0304-aaaa", "one", "/w/one"),
        ("20260102-0305-bbbb", "two", "/w/tw*o"),
    ] {
        let mut push = |verb, resource| all.push(action(id, name, workspace, verb, resource));
        for at in ["", "/a", "/ci/x", "-other/x"] {
            for verb in [Verb::FileRead, Verb::FileWrite, Verb::FileCommit] {
                for kind in [ObjectKind::Unknown, ObjectKind::Directory, ObjectKind::File] {
                    push(verb, path(&format!("{workspace}{at}"), kind));
                }
            }
        }
        push(Verb::FileRead, path("/proc/1/mem", ObjectKind::File));
        push(Verb::FileRead, path("/home/u/.ssh/id", ObjectKind::File));
        push(
            Verb::NetConnect,
            to(Some("www.example.org"), "198.51.100.1", 443),
        );
        push(Verb::NetConnect, to(None, "127.0.0.1", 5432));
        push(Verb::NetConnect, to(Some("evil.test"), "198.51.100.9", 80));
        push(Verb::DnsResolve, Resource::Host("www.example.org".into()));
        push(Verb::DnsResolve, Resource::Host("evil.test".into()));
        push(Verb::IpcConnect, Resource::Unix("/run/docker.sock".into()));
        for args in [vec!["git"], vec!["git", "push"], vec!["git", "a\\b\n"]] {
            let mut exec = action(
                id,
                name,
                workspace,
                Verb::ProcessExec,
                path("/opt/git", ObjectKind::File),
            );
            exec.facts.args = args.into();
            all.push(exec);
        }
    }
    for (n, action) in all.iter_mut().enumerate() {
        if action.verb == Verb::FileCommit {
            action.facts.time = 1_800_000_000 + n as i64;
        }
    }
    all
}

/// The entries of all actions under [`OLD`], each loaded for its own workspace.
fn log() -> (Vec<Entry>, Vec<Action>) {
    let actions = actions();
    let mut entries = vec![
        started("20260102-0304-aaaa", "one", "/w/one"),
        started("20260102-0305-bbbb", "two", "/w/tw*o"),
    ];
    let policies = BTreeMap::from(WORKSPACES.map(|w| (w, loaded(OLD, w))));
    for action in &actions {
        let policy = &policies[action.facts.session.workspace.as_str()];
        entries.push(recorded(policy, action));
    }
    (entries, actions)
}

fn loaded(text: &str, workspace: &str) -> Policy {
    let policy = policies::load(&source(text), &values_of(workspace)).unwrap();
    prepare::on_this_host(policy)
}

#[test]
fn under_the_same_policy_nothing_flips() {
    let (entries, actions) = log();
    let tally = replayed(OLD, &[], &entries).unwrap();
    assert_eq!(tally.replayed, actions.len() as u64, "{:?}", tally.unknown);
    assert_eq!(
        (tally.flips(), tally.other_rule, tally.not_replayed()),
        (0, 0, 0)
    );
    assert_eq!((tally.sessions, tally.open_sessions), (2, 2));
}

/// Against deciding again with the whole action in hand: the record loses nothing.
#[test]
fn flips_are_those_of_the_whole_actions() {
    let (entries, actions) = log();
    let edits: [(&str, &str); 9] = [
        ("default: deny", "default: allow"),
        ("/ci/**', effect: ask", "/ci/**', effect: deny"),
        ("effect: isolate", "effect: deny"),
        (
            "${workspace}/**', effect: allow",
            "${workspace}/ci/**', effect: allow",
        ),
        ("\"push\"", "\"a\\\\\\\\b\\\\n\""),
        ("time % 2 == 0", "time % 3 == 0"),
        ("*.example.org", "*.test"),
        ("'tcp://127.0.0.1:5432'", "'*'"),
        ("id: read", "id: reading"),
    ];
    for (from, with) in edits {
        let new = OLD.replace(from, with);
        assert_ne!(new, OLD, "{from}");
        let tally = replayed(&new, &[], &entries).unwrap();
        assert_eq!(tally.replayed, actions.len() as u64, "{:?}", tally.unknown);
        let both = |workspace| (loaded(OLD, workspace), loaded(&new, workspace));
        let policies = BTreeMap::from(WORKSPACES.map(|w| (w, both(w))));
        let changed = actions.iter().filter(|action| {
            let (old, new) = &policies[action.facts.session.workspace.as_str()];
            let old = answer::of_policy(old, action).effect;
            answer::is_own_loopback(new, action) || answer::of_policy(new, action).effect != old
        });
        assert_eq!(tally.flips(), changed.count() as u64, "{from} -> {with}");
        assert_eq!(tally.flips() > 0, with != "id: reading", "{from} -> {with}");
        assert!(tally.other_rule > 0 || with != "id: reading", "{tally:?}");
        let grouped: u64 = tally.groups.values().map(|g| g.count).sum();
        assert_eq!(grouped, tally.flips());
    }
}

#[test]
fn classes_tell_newly_denied_and_newly_allowed_apart() {
    let (entries, _) = log();
    let classes = |from: &str, with: &str| {
        replayed(&OLD.replace(from, with), &[], &entries)
            .unwrap()
            .classes
    };
    let only = |class, n: u64| BTreeMap::from([(class, n)]);
    let ask_to_deny = classes("/ci/**', effect: ask", "/ci/**', effect: deny");
    assert_eq!(
        ask_to_deny,
        only(Class::NewlyDenied, 6),
        "asked before: the person's answer does not count"
    );
    assert_eq!(
        classes("/ci/**', effect: ask", "/ci/**', effect: allow"),
        only(Class::NewlyAllowed, 6)
    );
    assert_eq!(
        classes("effect: isolate", "effect: ask"),
        only(Class::NewlyAsked, 8)
    );
    assert_eq!(
        classes("effect: isolate", "effect: allow"),
        only(Class::Otherwise, 8)
    );
    // The host's port is left to the agent's own network: out of reach, whatever `*` allows.
    let tally = replayed(&OLD.replace("'tcp://127.0.0.1:5432'", "'*'"), &[], &entries).unwrap();
    let own = tally
        .groups
        .iter()
        .filter(|((_, _, new), _)| new.effect.is_none());
    let own: Vec<_> = own.map(|((class, ..), g)| (*class, g.count)).collect();
    assert_eq!(own, [(Class::NewlyDenied, 2)]);
}

/// A person's answer, and refusals beside the policy, are not the policy's.
#[test]
fn the_policys_own_answer_is_compared() {
    let (mut entries, _) = log();
    let ask = PolicyAnswer {
        effect: "ask".into(),
        rule: Some("careful".into()),
    };
    let mut approved = action(
        "20260102-0304-aaaa",
        "one",
        "/w/one",
        Verb::FileWrite,
        path("/w/one/ci/y", ObjectKind::File),
    );
    approved.facts.session.interactive = true;
    let mut decision = loaded(OLD, "/w/one").decide(&approved);
    assert_eq!(decision.effect, Effect::Ask);
    decision.effect = Effect::Allow;
    let record = DecisionRecord::new(&approved, &decision, "broker").said_by_policy(ask);
    entries.truncate(2);
    entries.push(Entry::now(
        "20260102-0304-aaaa",
        1,
        Record::Decision(record),
    ));
    let tally = replayed(OLD, &[], &entries).unwrap();
    assert_eq!((tally.replayed, tally.flips()), (1, 0));
    let stricter = OLD.replace("/ci/**', effect: ask", "/ci/**', effect: deny");
    let tally = replayed(&stricter, &[], &entries).unwrap();
    let (_, old, new) = tally.groups.keys().next().unwrap();
    assert_eq!(
        (old.effect, new.effect),
        (Some(Effect::Ask), Some(Effect::Deny))
    );
}

#[test]
fn what_cannot_be_replayed_is_counted_with_its_reason_and_its_place() {
    let (mut entries, _) = log();
    let count = entries.len() as u64;
    let id = "20260102-0304-aaaa";
    // Format 1, a session that is not there, arguments that are not, another version's decision.
    let policy = loaded(OLD, "/w/one");
    let read = action(
        id,
        "one",
        "/w/one",
        Verb::FileRead,
        path("/w/one", ObjectKind::File),
    );
    let mut old = DecisionRecord::new(&read, &policy.decide(&read), "broker");
    old.facts = None;
    entries.push(Entry::now(id, 7, Record::Decision(old)));
    let mut stray = read.clone();
    stray.facts.session.id = "20260102-0306-cccc".into();
    entries.push(recorded(&policy, &stray));
    let mut long = action(
        id,
        "one",
        "/w/one",
        Verb::ProcessExec,
        path("/opt/git", ObjectKind::File),
    );
    long.facts.args = serde_json::json!(["git", "x".repeat(40_000)]);
    entries.push(recorded(&policy, &long));
    let other = |kind: &str| {
        let fields = serde_json::json!({"v": 9, "type": kind, "session": id});
        let fields = fields.as_object().unwrap().clone();
        let kind = kind.to_owned();
        Entry::now(id, 8, Record::Other(Other { kind, fields }))
    };
    entries.push(other("decision"));
    entries.push(other("mask"));
    entries.push(other("telepathy"));
    let tally = replayed(OLD, &[], &entries).unwrap();
    assert_eq!((tally.flips(), tally.not_replayed()), (0, 5));
    assert_eq!(tally.replayed, count - 2);
    let at = |why: Unknown| tally.unknown[&why].indices.clone();
    assert_eq!(at(NotRecallable::NoFacts.into()), [count]);
    assert_eq!(at(NotRecallable::NoStart.into()), [count + 1]);
    assert_eq!(at(Unknown::Arguments), [count + 2]);
    assert_eq!(at(Unknown::Form("decision".into())), [count + 3]);
    assert_eq!(at(Unknown::Form("telepathy".into())), [count + 5]);
    // A policy that does not look at the arguments can be asked without them.
    let blind = OLD.replace("size(args) > 1 && args[1] == \"push\"", "risk > 50");
    let tally = replayed(&blind, &[], &entries).unwrap();
    assert!(!tally.unknown.contains_key(&Unknown::Arguments));
    // One that cannot be loaded for a session.
    let mut start = started("20260102-0309-dddd", "four", "/w/four");
    if let Record::SessionStart(start) = &mut start.record {
        start.variables = Some(PolicyVariables::default());
    }
    let mut four = read.clone();
    four.facts.session.id = "20260102-0309-dddd".into();
    let tally = replayed(OLD, &[], &[start, recorded(&policy, &four)]).unwrap();
    let (why, reason) = tally.unknown.iter().next().unwrap();
    assert!(
        matches!(why, Unknown::Load(_)) && reason.indices == [1],
        "{why}"
    );
}

#[test]
fn what_the_ledger_does_not_have_one_by_one_is_told() {
    let id = "20260102-0304-aaaa";
    let end = SessionEnd {
        allowed: [("file.read".to_owned(), 70), ("file.write".to_owned(), 5)].into(),
        ..SessionEnd::default()
    };
    let part = |part| {
        Record::Commit(Commit {
            changes: Changes {
                part,
                parts: 2,
                ..Changes::default()
            },
            outcome: [("committed".to_owned(), 9)].into(),
            reviewed: None,
        })
    };
    let gap = Gap {
        lost: 4,
        ..Gap::default()
    };
    let entries = [
        started(id, "one", "/w/one"),
        started("20260102-0305-bbbb", "two", "/w/two"),
        Entry::now(id, 1, Record::SessionEnd(end)),
        Entry::now(id, 2, part(1)),
        Entry::now(id, 3, part(2)),
        Entry::now(id, 4, Record::Gap(gap)),
    ];
    let tally = replayed(OLD, &[], &entries).unwrap();
    assert_eq!(tally.plain["file.read"], 70);
    assert_eq!((tally.committed, tally.lost), (9, 4));
    assert_eq!((tally.sessions, tally.open_sessions), (2, 1));
}

#[test]
fn sessions_are_selected_by_id_beginning_end_and_name() {
    let (entries, actions) = log();
    let ours = |id: &str| {
        actions
            .iter()
            .filter(|a| a.facts.session.id.starts_with(id))
            .count() as u64
    };
    for (selectors, id) in [
        (vec!["20260102-0304-aaaa"], "20260102-0304"),
        (vec!["20260102-0305"], "20260102-0305"),
        (vec!["bbbb"], "20260102-0305"),
        (vec!["one"], "20260102-0304"),
        (vec!["one", "two"], "20260102"),
        (vec!["2026"], ""),
    ] {
        let tally = replayed(OLD, &selectors, &entries).unwrap();
        assert_eq!(tally.replayed, ours(id), "{selectors:?}");
    }
    for wrong in ["", "three", "aaa"] {
        let error = replayed(OLD, &["one", wrong], &entries).unwrap_err();
        assert!(error.downcast_ref::<UsageError>().is_some(), "{error}");
    }
}

/// A ledger of any length is held in bounded memory: groups, reasons and examples have limits.
#[test]
fn what_is_found_is_bounded_and_still_counted() {
    let id = "20260102-0304-aaaa";
    let mut replay = Replay::new(source("agentwall: 1\ndefault: deny\n"), &[]);
    replay.take(0, &started(id, "one", "/w/one"));
    let read = action(
        id,
        "one",
        "/w/one",
        Verb::FileRead,
        path("/x", ObjectKind::File),
    );
    let mut decision = loaded(OLD, "/w/one").decide(&read);
    decision.effect = Effect::Allow;
    for n in 1..=1500u64 {
        decision.rule = Some(format!("rule-{n}"));
        let record = DecisionRecord::new(&read, &decision, "broker");
        let entry = Entry::now(id, n, Record::Decision(record));
        assert!(replay.take(n, &entry).is_some());
    }
    let tally = replay.finish().unwrap();
    assert_eq!(
        (tally.flips(), tally.groups.len(), tally.ungrouped),
        (1500, 1000, 500)
    );
}
