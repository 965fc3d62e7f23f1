use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};

use agentwall_action::{Decision, Hint};
use proptest::prelude::*;

use super::*;
use crate::entry::{Connect, PolicyAnswer, PolicyVariables};

fn decision(effect: Effect) -> Decision {
    Decision {
        effect,
        rule: Some("r".into()),
        reason: "because".into(),
        hint: Hint::default(),
        monitors: vec![],
        errors: vec![],
        policy: "ab".repeat(32),
    }
}

fn start() -> SessionStart {
    SessionStart {
        name: "coder".into(),
        workspace: agentwall_action::escape_text("/w/a\\b"),
        variables: Some(PolicyVariables::default()),
        ..SessionStart::default()
    }
}

/// The record in the form that the supervisor gives it, through its bytes.
fn through(action: &Action, said: Option<PolicyAnswer>) -> Entry {
    let mut decided = DecisionRecord::new(action, &decision(Effect::Deny), "broker");
    if let Some(said) = said {
        decided = decided.said_by_policy(said);
    }
    let record = match action.verb {
        Verb::ProcessExec => {
            let argv: Vec<String> = action
                .facts
                .args
                .as_array()
                .map(|a| a.iter().map(|v| v.as_str().unwrap_or_default().to_owned()))
                .map(Iterator::collect)
                .unwrap_or_default();
            Record::Exec(Exec::new(decided, &argv))
        }
        Verb::NetConnect => {
            let mut connect = Connect::new(action, &decision(Effect::Deny), "egress");
            connect.decision = decided;
            Record::Connect(connect)
        }
        _ => Record::Decision(decided),
    };
    let entry = Entry::now("20260102-0304-k3f9", 4, record);
    Entry::from_bytes(&entry.to_bytes()).expect("an entry of our own")
}

fn action(verb: Verb, resource: Resource) -> Action {
    let mut action = Action::new(Subject::agent("coder"), verb, resource);
    action.facts.session = SessionFacts {
        id: "20260102-0304-k3f9".into(),
        name: "coder".into(),
        workspace: "/w/a\\b".into(),
        interactive: false,
    };
    action
}

fn path(bytes: &[u8], kind: ObjectKind) -> Resource {
    Resource::Path(PathResource {
        path: OsStr::from_bytes(bytes).into(),
        kind,
    })
}

fn recalled(entry: &Entry) -> Result<Recalled, NotRecallable> {
    entry.recall(Some(&start())).expect("a decision")
}

#[test]
fn every_shape_of_object_comes_back() {
    let address = |t: &str| Resource::parse(VerbFamily::Net, t).expect("an endpoint");
    let both = Resource::Endpoint(Endpoint {
        protocol: Protocol::Tcp,
        host: Some("example.org".into()),
        ip: Some("2001:db8::1".parse().expect("an address")),
        port: 443,
    });
    for (verb, resource) in [
        (Verb::FileRead, path(b"/h/\xff\x1b[2J", ObjectKind::File)),
        (Verb::FileWrite, path(b"/h/a\\n", ObjectKind::Unknown)),
        (Verb::FileDelete, path(b"/", ObjectKind::Directory)),
        (Verb::DeviceOpen, path(b"/dev/kvm", ObjectKind::File)),
        (Verb::NetConnect, both),
        (Verb::NetConnect, address("tcp://[::1]:80")),
        (Verb::NetConnect, address("tcp://example.org:80")),
        (Verb::NetListen, address("udp://10.0.0.1:53")),
        (Verb::NetListen, address("udp://[::1]:53")),
        (Verb::DnsResolve, Resource::Host("a\u{202e}b".into())),
        (Verb::IpcConnect, Resource::Unix("/run/x y".into())),
        (Verb::IpcConnect, Resource::Unix("@abstract".into())),
        (Verb::ToolCall, Resource::Named("tool\n\\x".into())),
    ] {
        let action = action(verb, resource);
        let back = recalled(&through(&action, None)).expect("all of it is recorded");
        assert_eq!(back.action, action);
        assert_eq!(
            (back.effect, back.rule.as_deref()),
            (Effect::Deny, Some("r"))
        );
        assert!(back.args);
    }
}

#[test]
fn facts_and_arguments_come_back() {
    let mut exec = action(Verb::ProcessExec, path(b"/usr/bin/git", ObjectKind::File));
    exec.facts.args = serde_json::json!(["git", "", "a\\b\n", "\u{202e}"]);
    exec.facts.session.interactive = true;
    exec.facts.auth.method = "jwt\u{7}".into();
    exec.facts.labels = ["x\\".to_owned(), "trusted".to_owned()].into();
    exec.facts.risk = 70;
    exec.facts.time = 1_800_000_000;
    let back = recalled(&through(&exec, None)).expect("all of it is recorded");
    assert!(back.args);
    assert_eq!(back.action, exec);
    // Arguments that did not fit are not known; nothing else is lost.
    exec.facts.args = serde_json::json!(["git", "x".repeat(30_000)]);
    let back = recalled(&through(&exec, None)).expect("the rest is recorded");
    assert!(!back.args && back.action.facts.args.is_null());
    // Those of a tool are in no entry.
    let mut tool = action(Verb::ToolCall, Resource::Named("mail".into()));
    tool.facts.args = serde_json::json!({"password": "hunter2"});
    let entry = through(&tool, None);
    assert!(!String::from_utf8_lossy(&entry.to_bytes()).contains("hunter2"));
    assert!(!recalled(&entry).expect("the rest is recorded").args);
}

#[test]
fn the_policys_answer_is_told_apart_from_what_was_carried_out() {
    let read = action(Verb::FileRead, path(b"/x", ObjectKind::File));
    let ask = PolicyAnswer {
        effect: "ask".into(),
        rule: Some("careful".into()),
    };
    let back = recalled(&through(&read, Some(ask))).expect("recorded");
    assert_eq!(
        (back.effect, back.rule.as_deref()),
        (Effect::Ask, Some("careful"))
    );
    let same = PolicyAnswer::of(&decision(Effect::Deny));
    let entry = through(&read, Some(same));
    assert!(entry.record.decision().expect("one").said.is_none());
    let unknown = through(&read, Some(PolicyAnswer::default()));
    assert_eq!(recalled(&unknown), Err(NotRecallable::NoAnswer));
}

#[test]
fn what_is_not_known_is_an_error_and_never_a_guess() {
    let read = action(Verb::FileRead, path(b"/x", ObjectKind::File));
    let good = through(&read, None);
    assert_eq!(good.recall(None), Some(Err(NotRecallable::NoStart)));
    let old = SessionStart {
        variables: None,
        ..start()
    };
    assert_eq!(good.recall(Some(&old)), Some(Err(NotRecallable::NoStart)));
    let with = |change: &dyn Fn(&mut DecisionRecord)| {
        let mut entry = good.clone();
        if let Record::Decision(decision) = &mut entry.record {
            change(decision);
        }
        recalled(&entry)
    };
    assert_eq!(with(&|d| d.facts = None), Err(NotRecallable::NoFacts));
    let cut = "/x\u{2026}[5 bytes cut]";
    assert_eq!(
        with(&|d| d.action.resource = cut.into()),
        Err(NotRecallable::Cut)
    );
    for wrong in ["/a\nb", "/a\\", "/a\\u{61}"] {
        assert_eq!(
            with(&|d| d.action.resource = wrong.into()),
            Err(NotRecallable::Shape),
            "{wrong}"
        );
    }
    assert_eq!(
        with(&|d| d.action.bytes = Some("L3k=".into())),
        Err(NotRecallable::Shape)
    );
    assert_eq!(
        with(&|d| d.action.verb = "file.fold".into()),
        Err(NotRecallable::Vocabulary)
    );
    assert_eq!(
        with(&|d| d.effect = "permit".into()),
        Err(NotRecallable::Vocabulary)
    );
    let long = action(
        Verb::FileRead,
        path(&[b'/', b'a'].repeat(9000), ObjectKind::File),
    );
    assert_eq!(recalled(&through(&long, None)), Err(NotRecallable::Cut));
    let named = action(
        Verb::NetListen,
        Resource::parse(VerbFamily::Net, "tcp://example.org:80").expect("an endpoint"),
    );
    assert_eq!(
        recalled(&through(&named, None)),
        Err(NotRecallable::NoAddress)
    );
    assert_eq!(
        Entry::now("s", 0, Record::Gap(Default::default())).recall(None),
        None
    );
}

proptest! {
    /// Any path, any arguments: the same action, or an error, never another action.
    #[test]
    fn an_action_comes_back_as_it_was_or_not_at_all(
        bytes in proptest::collection::vec(any::<u8>().prop_filter("no NUL", |b| *b != 0), 0..40),
        args in proptest::collection::vec(any::<String>(), 0..4),
        labels in proptest::collection::btree_set(any::<String>(), 0..3),
        subject in any::<String>(),
        time in any::<i64>(),
    ) {
        let mut full = vec![b'/'];
        full.extend(bytes);
        let mut exec = action(Verb::ProcessExec, path(&full, ObjectKind::File));
        exec.subject = Subject(subject);
        exec.facts.args = args.into();
        exec.facts.labels = labels;
        exec.facts.time = time;
        if let Ok(back) = recalled(&through(&exec, None)) {
            if back.args {
                prop_assert_eq!(back.action, exec);
            } else {
                exec.facts.args = Value::Null;
                prop_assert_eq!(back.action, exec);
            }
        }
    }
}
