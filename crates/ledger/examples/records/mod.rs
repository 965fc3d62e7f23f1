//! What sessions log, for the programs that measure.

use std::path::Path;

use agentwall_action::{
    Action, Decision, Effect, ObjectKind, PathResource, Resource, Subject, Verb,
};
use agentwall_ledger::{
    Entry, Record,
    entry::{DecisionRecord, Exec, PolicyVariables, SessionEnd, SessionStart},
};

/// Entry `n`: the starts of programs and refused reads, a session per thousand.
pub fn entry(n: u64) -> Vec<u8> {
    let id = format!("20260101-0000-{:06}", n / 1000);
    let record = match n % 1000 {
        0 => start(),
        999 => Record::SessionEnd(SessionEnd::default()),
        _ => decided(n),
    };
    Entry::now(&id, n % 1000, record).to_bytes()
}

fn start() -> Record {
    let text = |path: &str| Some(PolicyVariables::text(Path::new(path)));
    Record::SessionStart(SessionStart {
        name: "coder".into(),
        workspace: "/home/u/project".into(),
        variables: Some(PolicyVariables {
            workspace: text("/home/u/project"),
            home: text("/home/u"),
            tmp: text("/tmp"),
            state: text("/home/u/.local/state/agentwall"),
        }),
        ..SessionStart::default()
    })
}

fn decided(n: u64) -> Record {
    let program = n.is_multiple_of(2);
    let (verb, path) = match program {
        true => (Verb::ProcessExec, format!("/usr/bin/tool-{}", n % 97)),
        false => (
            Verb::FileRead,
            format!("/home/u/.config/app-{}/{n}", n % 31),
        ),
    };
    let resource = Resource::Path(PathResource {
        path: path.into(),
        kind: ObjectKind::File,
    });
    let mut action = Action::new(Subject::agent("coder"), verb, resource);
    let argv = ["tool".to_owned(), format!("--number={n}")];
    if program {
        action.facts.args = argv.to_vec().into();
    }
    let decision = Decision {
        effect: if program { Effect::Allow } else { Effect::Deny },
        rule: program.then(|| "programs".to_owned()),
        reason: "measured".into(),
        hint: Default::default(),
        monitors: Vec::new(),
        errors: Vec::new(),
        policy: "00".repeat(32),
    };
    let record = DecisionRecord::new(&action, &decision, "broker");
    match program {
        true => Record::Exec(Exec::new(record, &argv)),
        false => Record::Decision(record),
    }
}
