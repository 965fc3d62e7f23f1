//! Writes a log as a session would, of any length, to measure what reads logs:
//!
//!     cargo run --release -p agentwall-ledger --example session_log -- STATE 1000000
//!
//! STATE becomes a state folder with the log in `ledger/` and its key in `keys/`; the entries are the
//! starts of programs and refused reads, a session per thousand.

use std::{error::Error, fs, path::Path};

use agentwall_action::{
    Action, Decision, Effect, ObjectKind, PathResource, Resource, Subject, Verb,
};
use agentwall_ledger::{
    Entry, Log, LogOptions, Record,
    entry::{DecisionRecord, Exec, PolicyVariables, SessionEnd, SessionStart},
    key,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(state), Some(count)) = (args.next(), args.next()) else {
        return Err("usage: session_log STATE COUNT".into());
    };
    let (state, count): (&Path, u64) = (state.as_ref(), count.parse()?);
    fs::create_dir_all(state.join("keys"))?;
    let signer = key::load_or_create(&state.join("keys/ledger.key"), "agentwall.local/measured")?;
    let options = LogOptions {
        head: Some(state.join("keys/ledger.head")),
    };
    let log = Log::open_with(&state.join("ledger"), signer, options)?;
    let mut batch = Vec::new();
    for n in 0..count {
        let id = format!("20260101-0000-{:06}", n / 1000);
        let record = match n % 1000 {
            0 => start(),
            999 => Record::SessionEnd(SessionEnd::default()),
            _ => decided(n),
        };
        batch.push(Entry::now(&id, n % 1000, record).to_bytes());
        if batch.len() == 4096 || n + 1 == count {
            let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
            log.append_batch(&slices)?;
            batch.clear();
        }
    }
    log.close()?;
    Ok(())
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
