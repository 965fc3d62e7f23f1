use super::*;
use std::net::IpAddr;

use crate::host::{
    Places,
    policy::{Mode, OwnFiles, ready},
};
use crate::policies::Chosen;
use agentwall_kernel::wire::{Identity, Never};
use agentwall_policy::{Layer, Source, Variables};

const TEXT: &str = "agentwall: 1\ndefault: deny\nrules:\n  \
    - {id: keys, action: file.read, resource: /k/**, effect: deny, reason: keys stay here, hint: {next: ask-user}}\n  \
    - {id: copy, action: file.write, resource: /w/**, effect: isolate}\n  \
    - {id: late, action: file.read, resource: /t/**, effect: deny, when: 'risk > 5'}\n  \
    - {id: rest, priority: 9000, action: file.read, resource: '/**', effect: allow}\n  \
    - {id: see, action: file.read, resource: /w/m, effect: monitor}\n";

pub(crate) fn policy(text: &str) -> Ready {
    let chosen = Chosen::built_in(Source::new("p.yaml", text, Layer::User));
    ready(
        chosen,
        "a",
        &Variables::default(),
        &OwnFiles::of(&Places::default(), "/usr/bin/agentwall".into()),
        Mode {
            audit: true,
            names: false,
        },
    )
    .unwrap()
}

pub(crate) fn event(verb: Verb, path: &str) -> Event {
    Event {
        number: 0,
        time: 1,
        session: 3,
        generation: 1,
        identity: Identity {
            inode: 5,
            device: 8 << 20 | 1,
            ..Identity::default()
        },
        view: 1,
        pid: u32::MAX,
        tid: u32::MAX,
        uid: 0,
        verb: Some(verb),
        kind: Kind::Path,
        directory: false,
        effect: Some(Effect::Deny),
        rule: None,
        why: Why::Rule,
        audit: false,
        marks: 0,
        address: None,
        comm: b"sh\x1b".to_vec(),
        text: Some(path.as_bytes().to_vec()),
    }
}

/// The event that the programs would make of the table's answer.
pub(crate) fn answered(policy: &Ready, mut event: Event) -> Event {
    let action = action(&event, Some(policy));
    let answer = policy.table().answer(&action).unwrap();
    event.effect = Some(answer.effect);
    event.rule = match answer.by {
        agentwall_policy::By::Rule { layer, rank } => Some((layer as u32, rank)),
        agentwall_policy::By::Default { .. } => None,
    };
    event.marks = answer.marks.len() as u32;
    event
}

#[test]
fn where_the_policy_says_the_same_its_words_are_used() {
    let policy = policy(TEXT);
    for (verb, path) in [
        (Verb::FileRead, "/k/id"),
        (Verb::FileRead, "/w/m"),
        (Verb::FileDelete, "/w/x"),
    ] {
        let told = told(
            &answered(&policy, event(verb, path)),
            Some(&policy),
            Programs::Wall,
        );
        assert_eq!(
            told.decision,
            policy.policy().decide(&told.action),
            "{path}"
        );
        assert_eq!(told.enforced_by, "kernel");
        assert_eq!(told.actor.exe, "(sh\\u{1b})");
        assert_eq!((told.binding.device, told.binding.inode), (8 << 20 | 1, 5));
    }
}

#[test]
fn where_the_kernel_is_stricter_it_says_why() {
    let policy = policy(TEXT);
    let told_of = |verb, path| {
        told(
            &answered(&policy, event(verb, path)),
            Some(&policy),
            Programs::Wall,
        )
        .decision
    };
    let copy = told_of(Verb::FileWrite, "/w/x");
    assert_eq!(
        (copy.effect, copy.rule.as_deref()),
        (Effect::Deny, Some("copy"))
    );
    assert!(copy.reason.contains("makes no copy"), "{}", copy.reason);
    let late = told_of(Verb::FileRead, "/t/x");
    assert_eq!(
        (late.effect, late.rule.as_deref()),
        (Effect::Deny, Some("late"))
    );
    assert!(late.reason.contains("no conditions"), "{}", late.reason);
}

#[test]
fn what_no_rule_decided_is_told_as_what_it_is() {
    let policy = policy(TEXT);
    let never = Event {
        verb: None,
        text: None,
        why: Why::Never(Never::Mount),
        ..event(Verb::FileRead, "")
    };
    let told_never = told(&never, Some(&policy), Programs::Wall);
    assert_eq!(
        told_never.action.resource,
        Resource::Named("kernel:mount".into())
    );
    assert_eq!(told_never.decision.rule, None);
    assert!(
        told_never
            .decision
            .reason
            .contains("mounts cannot be changed")
    );
    let foreign = Event {
        why: Why::Foreign,
        text: None,
        ..event(Verb::ProcessSignal, "/bin/sh")
    };
    assert!(
        told(&foreign, Some(&policy), Programs::Wall)
            .decision
            .reason
            .contains("not of this session")
    );
    let unknown = told(&event(Verb::FileRead, "/k"), None, Programs::Wall).decision;
    assert_eq!(unknown.effect, Effect::Deny);
    assert!(unknown.reason.contains("does not know"));
    let granted = Event {
        effect: Some(Effect::Allow),
        why: Why::Grant,
        audit: true,
        ..event(Verb::FileRead, "/k/id")
    };
    let granted = told(&granted, Some(&policy), Programs::Wall);
    assert_eq!(granted.decision.effect, Effect::Allow);
    assert_eq!(
        granted.decision.rule, None,
        "no rule of the policy says yes"
    );
    assert_eq!(granted.enforced_by, "kernel-audit");
}

#[test]
fn objects_of_every_kind_are_read() {
    let at = |kind, address: Option<&str>, text: Option<&[u8]>| {
        let mut event = event(Verb::NetConnect, "");
        event.kind = kind;
        event.identity.protocol = 17;
        event.identity.port = 53;
        event.address = address.map(|a| a.parse::<IpAddr>().unwrap());
        event.text = text.map(<[u8]>::to_vec);
        resource(&event).to_string()
    };
    assert_eq!(
        at(Kind::Endpoint, Some("::ffff:10.0.0.1"), None),
        "udp://10.0.0.1:53"
    );
    assert_eq!(at(Kind::Endpoint, None, None), "udp://?:53");
    assert_eq!(
        at(Kind::Socket, None, Some(b"/run/\xff")),
        "unix:/run/\\xff"
    );
    assert_eq!(at(Kind::Abstract, None, Some(b"@x\0")), "unix:@x\\u{0}");
    assert_eq!(at(Kind::Path, None, Some(b"/a\n")), "/a\\n");
    assert_eq!(at(Kind::Path, None, None), "/(without a name)");
}
