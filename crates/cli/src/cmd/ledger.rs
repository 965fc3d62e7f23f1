//! `agentwall ledger`: show what was recorded, verify that it is what was signed.

mod audit;
mod erase;
mod export;
mod filter;
mod intents;
mod picture;
mod prove;
mod prune;
mod rotate;
mod serve;
mod timeline;
mod timestamp;
mod verify;
mod witness;

use std::{fs, path::Path, process::ExitCode, time::Duration};

use agentwall_ledger::{
    Entry, Reader, Record, Told,
    entry::{ChangedFile, Changes, Committed, DecisionRecord, PolicyBundle, Redaction, User},
};
use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    access,
    args::{LedgerCommand, LedgerShowArgs},
    host::told,
    output::{self, Style, paint, tame},
    state::{PATIENCE, State},
    witnesses::{self, Standing},
};
use filter::Filter;

pub use serve::{allowed, place};
pub use verify::{given_key, what};

/// How often `--follow` looks.
const INTERVAL: Duration = Duration::from_millis(300);

/// Runs the command.
pub fn main(command: LedgerCommand) -> Result<ExitCode> {
    match command {
        LedgerCommand::Show(args) => show(&args, "show"),
        LedgerCommand::Tail(mut args) => {
            args.last = args.last.or(Some(10));
            show(&args, "tail")
        }
        LedgerCommand::Timeline(args) => timeline::main(&args),
        LedgerCommand::Verify(args) => verify::main(&args),
        LedgerCommand::Prove(args) => prove::main(&args),
        LedgerCommand::Witness(args) => witness::main(args),
        LedgerCommand::Serve(args) => serve::main(args),
        LedgerCommand::Export(args) => export::main(&args),
        LedgerCommand::Prune(args) => prune::main(&args),
        LedgerCommand::Erase(args) => erase::main(&args),
        LedgerCommand::Timestamp(args) => timestamp::main(&args),
        LedgerCommand::RotateKey(args) => rotate::main(&args),
        LedgerCommand::Key => {
            output::print(&format!("{}\n", State::for_reading()?.verifier()?))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A reason in brackets, where one was given.
fn because(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    }
}

/// Before reading this user's own log: what is durable in the journal alone is brought in. Where that cannot be,
/// it is said, and what is published is read.
pub fn settle(state: &State) {
    if let Err(e) = state.settle(PATIENCE) {
        output::note(&tame(&format!(
            "{e:#}; the newest entries are not in what follows"
        )));
    }
}

/// `word` is the command that it was asked for by.
fn show(args: &LedgerShowArgs, word: &str) -> Result<ExitCode> {
    let state = State::for_reading()?;
    let mut filter = Filter::new(&state, &args.filter)?;
    let trust = witnesses::configured(&state)?;
    let mut next = 0;
    let mut first = true;
    let mut handed = 0;
    loop {
        if first {
            settle(&state);
        } else {
            // Whoever writes at this moment publishes, too, and the next look comes soon.
            let _ = state.settle(Duration::ZERO);
        }
        if !has_log(&state.ledger_dir()) {
            if !args.follow {
                output::note(
                    "the ledger is empty; 'agentwall run -- CMD' writes the first entries",
                );
                return Ok(ExitCode::SUCCESS);
            }
        } else {
            let reader = state.reader().context("cannot read the ledger")?;
            if first {
                next = first_of(&reader)?;
            }
            let found = read(&reader, next, &mut filter)?;
            let skip = match args.last {
                Some(last) if first => found.len().saturating_sub(last),
                _ => 0,
            };
            let standing = match &trust {
                Some(trust) => Some(Standing::look(&reader, &state.verifier()?, trust)),
                None => None,
            };
            // What contradicts the witnesses is witnessed by nobody.
            let vouched = |s: &Result<Standing>| s.as_ref().map_or(0, |s| s.witnessed);
            let witnessed = standing.as_ref().map(vouched);
            for (index, told) in found.into_iter().skip(skip) {
                handed += 1;
                if args.json {
                    let mut value = fields(&told)?;
                    value["index"] = index.into();
                    if let Some(witnessed) = witnessed {
                        value["witnessed"] = (index < witnessed).into();
                    }
                    output::print_json_line(&value)?;
                } else {
                    output::print(&line(index, &told.entry))?;
                }
            }
            match standing {
                Some(Ok(standing)) if !args.follow => output::note(&standing.sentence()),
                Some(Err(e)) if first => output::note(&format!("{e:#}")),
                _ => {}
            }
            next = reader.size();
            if first {
                access::record(&state, word, handed, args.follow);
            }
            first = false;
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The first entry that is there; says so if some were removed.
fn first_of(reader: &Reader) -> Result<u64> {
    let first = reader.first().context("cannot read the ledger")?;
    if first > 0 {
        output::note(&format!(
            "the entries below {first} were removed, as the retention policy says"
        ));
    }
    Ok(first)
}

fn read(reader: &Reader, from: u64, filter: &mut Filter) -> Result<Vec<(u64, Told)>> {
    let mut found = Vec::new();
    for index in from..reader.size() {
        let told = told(reader, index)?;
        if filter.passes(&told.entry) {
            found.push((index, told));
        }
    }
    Ok(found)
}

/// An entry, with its text where that is to be had.
fn told(reader: &Reader, index: u64) -> Result<Told> {
    reader.told(index).with_context(|| {
        format!("cannot read entry {index} of the ledger; 'agentwall ledger verify' tells more")
    })
}

/// An entry as JSON, with the reason where its text is not known.
fn fields(told: &Told) -> Result<Value> {
    let mut value: Value = serde_json::from_slice(&told.bytes)?;
    if let Some(why) = told.withheld() {
        value["withheld"] = why.to_string().into();
    }
    Ok(value)
}

/// One entry for a person. Text in entries is escaped already; it is not trusted to be.
fn line(index: u64, entry: &Entry) -> String {
    let session = entry.session.rsplit('-').next().unwrap_or_default();
    let mut kind = entry.record.type_name().to_owned();
    if let Some(decision) = entry.record.decision() {
        kind.clone_from(&decision.effect);
    }
    let style = match kind.as_str() {
        "deny" | "gap" => Style::Red,
        "ask" | "rate_limit" | "approval" | "finding" => Style::Yellow,
        _ => Style::Bold,
    };
    let kind = paint(style, &format!("{:<13}", tame(&kind)));
    let time = paint(Style::Dim, &tame(&entry.time));
    format!(
        "{index:>6}  {time}  {:<4}  {kind}  {}\n",
        tame(session),
        tame(&summary(&entry.record))
    )
}

fn summary(record: &Record) -> String {
    match record {
        Record::SessionStart(start) => {
            let mut how = String::new();
            if start.resumes {
                how.push_str(", goes on");
            }
            if let Some(from) = &start.from {
                how.push_str(&format!(", with a copy of {from}"));
            }
            if start.ephemeral {
                how.push_str(", ephemeral");
            }
            format!(
                "{} in {}: {} (policy {}{}{how})",
                start.name,
                start.workspace,
                start.command.join(" "),
                start.policy.get(..12).unwrap_or(&start.policy),
                signed(&start.bundles)
            )
        }
        Record::SessionEnd(end) => {
            let how = match (end.exit, end.signal) {
                (Some(code), _) => format!("exit {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "cut off".to_owned(),
            };
            let allowed: u64 = end.allowed.values().sum();
            format!("{how}; {allowed} plain allows; {}", counts(&end.decisions))
        }
        Record::Decision(decision) => decided(decision),
        Record::Exec(exec) => format!(
            "{}; arguments {}",
            decided(&exec.decision),
            exec.argv.join(" ")
        ),
        Record::Connect(connect) => {
            let ip = connect
                .ip
                .as_deref()
                .map(|ip| format!(" at {ip}"))
                .unwrap_or_default();
            format!("{}{ip}", decided(&connect.decision))
        }
        Record::Approval(approval) => format!(
            "{} {} for {}{} by {}",
            approval.ask,
            approval.verdict,
            approval.scope,
            approval
                .pattern
                .as_deref()
                .map(|p| format!(" {p}"))
                .unwrap_or_default(),
            approval.by
        ),
        Record::Policy(policy) => {
            let names: Vec<&str> = policy.sources.iter().map(|s| s.name.as_str()).collect();
            let change = match (&policy.replaces, &policy.by) {
                (None, None) => String::new(),
                (old, by) => format!(
                    ", in place of {} by {}",
                    old.as_deref().unwrap_or("another"),
                    by.as_deref().unwrap_or("somebody")
                ),
            };
            if policy.digest.is_empty() {
                return format!("no policy any more{change}");
            }
            format!(
                "{} from {}{change}{}",
                policy.digest,
                names.join(", "),
                signed(&policy.bundles)
            )
        }
        Record::Commit(commit) => {
            format!("{}: {}", counts(&commit.outcome), changed(&commit.changes))
        }
        Record::Undo(undo) => format!(
            "undo, {}: {}",
            counts(&undo.outcome),
            changed(&undo.changes)
        ),
        Record::Discard(discard) => format!(
            "dropped {}: {}",
            counts(&discard.changes.counts),
            changed(&discard.changes)
        ),
        Record::Checkpoint(checkpoint) => format!(
            "checkpoint {} {}, {}",
            checkpoint.name,
            checkpoint.outcome,
            output::count(
                usize::try_from(checkpoint.objects).unwrap_or(usize::MAX),
                "object"
            )
        ),
        Record::Rollback(rollback) => format!(
            "rollback to {} {}; {} is what was there before",
            rollback.checkpoint, rollback.outcome, rollback.before
        ),
        Record::Export(export) => format!(
            "{} of {} to an archive, digest {}",
            output::count(export.entries as usize, "object"),
            output::count(export.layers as usize, "layer"),
            export.archive
        ),
        Record::Import(import) => format!(
            "session {} of log {} into {}: {}, {} differ here, digest {}",
            import.from,
            import.key,
            import.workspace,
            output::count(import.entries as usize, "object"),
            output::count(import.differences as usize, "original"),
            import.archive
        ),
        Record::Mask(mask) => {
            format!(
                "{} hidden by {}",
                mask.path,
                mask.rule.as_deref().unwrap_or("the default")
            )
        }
        Record::Selftest(selftest) => {
            let failed: Vec<&str> = selftest
                .canaries
                .iter()
                .filter(|c| !c.ok)
                .map(|c| c.name.as_str())
                .collect();
            match failed.is_empty() {
                true => format!("passed, {} canaries", selftest.canaries.len()),
                false => format!("FAILED: {}", failed.join(", ")),
            }
        }
        // Of what is not seen at all nobody counts records.
        Record::Gap(gap) if gap.lost == 0 => gap.reason.clone(),
        Record::Gap(gap) => {
            let between = match (&gap.from, &gap.to) {
                (Some(from), Some(to)) => format!(" between {from} and {to}"),
                _ => String::new(),
            };
            format!("{} records lost{between}: {}", gap.lost, gap.reason)
        }
        Record::Clock(clock) => format!(
            "the clock was set {} by {} s; without that it would be {}",
            if clock.jump_ms < 0 { "back" } else { "forward" },
            clock.jump_ms.unsigned_abs() / 1000,
            clock.expected
        ),
        Record::Heartbeat(beat) => format!(
            "the daemon has been up for {} s; {} entries, root {}; the next within {} s",
            beat.uptime_s, beat.size, beat.root, beat.every_s
        ),
        Record::Prune(prune) => format!(
            "entries below {} from before {} removed by {} ({})",
            prune.minimum, prune.before, prune.user.name, prune.user.uid
        ),
        Record::KeyRotation(rotation) => format!(
            "the log's key was replaced by {} ({}){}: {} follows {}",
            rotation.user.name,
            rotation.user.uid,
            because(&rotation.reason),
            rotation.new,
            rotation.old
        ),
        Record::BaselineChange(change) => format!(
            "the baseline of {} was {} by {} ({}){}: {}",
            change.agent,
            change.outcome,
            change.user.name,
            change.user.uid,
            because(&change.reason),
            match change.baseline.as_str() {
                "" => "none counts".to_owned(),
                digest => format!(
                    "{digest}, of {}",
                    output::count(change.actions as usize, "action")
                ),
            }
        ),
        Record::Access(access) => format!(
            "{} ({}) read {} by '{}'{}",
            access.user.name,
            access.user.uid,
            match access.entries {
                1 => "1 entry".to_owned(),
                n => format!("{n} entries"),
            },
            std::iter::once(&access.command)
                .chain(&access.filter)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" "),
            if access.follows {
                ", and what came"
            } else {
                ""
            }
        ),
        Record::Tally(tally) => {
            let counts = tally.allowed.iter().map(|(verb, n)| format!("{verb} {n}"));
            let counts: Vec<String> = counts.collect();
            format!("{} was allowed {}", tally.subject, counts.join(", "))
        }
        Record::KernelWall(wall) => format!(
            "the {} is {}, {}{}",
            match wall.monitor {
                Some(_) => "monitor",
                None => "kernel wall",
            },
            wall.outcome,
            output::count(wall.hooks as usize, "hook"),
            if wall.audit { ", audit only" } else { "" }
        ),
        Record::Intent(_)
        | Record::ActionStart(_)
        | Record::KernelSummary(_)
        | Record::ActionEnd(_)
        | Record::Finding(_) => intents::summary(record),
        Record::Redaction(redaction) => redacted(redaction),
        Record::Gateway(gateway) => format!(
            "gateway {} {}: {} before {}",
            gateway.name, gateway.outcome, gateway.public, gateway.upstream
        ),
        Record::Principal(event) => {
            let about = event.agent.as_deref().unwrap_or(&event.host);
            let what = event
                .capability
                .as_deref()
                .map_or_else(String::new, |c| format!(" {c}"));
            format!("{} {about}{what} by {}", event.event, event.by)
        }
        Record::Console(act) => format!("{} {} by {} ({})", act.act, act.object, act.by, act.proof),
        Record::Call(call) => format!(
            "{} {} by {}, risk {}: {}",
            call.decision.effect, call.target, call.agent, call.risk, call.decision.reason
        ),
        Record::CallEnd(end) => match (&end.status, &end.error) {
            (Some(status), _) => format!(
                "call {} answered {status} after {} us",
                end.call, end.took_us
            ),
            (None, error) => format!(
                "call {} failed: {}",
                end.call,
                error.as_deref().unwrap_or("no answer")
            ),
        },
        Record::Committed(committed) => bare(committed),
        Record::Other(other) => serde_json::to_string(&other.fields).unwrap_or_default(),
        other => format!("{other:?}"),
    }
}

fn redacted(redaction: &Redaction) -> String {
    let entries = redaction.entries.iter().map(|n| format!("entry {n}"));
    let sessions = redaction.sessions.iter().map(|s| format!("session {s}"));
    let what: Vec<String> = sessions.chain(entries).collect();
    let basis = match redaction.basis.as_str() {
        "" => String::new(),
        basis => format!(": {basis}"),
    };
    let User { uid, name } = &redaction.by;
    format!(
        "the text of {} erased by {name} (uid {uid}){basis}",
        what.join(", ")
    )
}

/// What the leaf of an entry tells without its text.
fn bare(committed: &Committed) -> String {
    let text = |pointer: &str| {
        let mut value = committed.fields.get(pointer.split('/').next()?)?;
        for key in pointer.split('/').skip(1) {
            value = value.get(key)?;
        }
        value.as_str()
    };
    let known: Vec<&str> = ["effect", "action/verb", "rule", "verdict"]
        .into_iter()
        .filter_map(text)
        .collect();
    let known = match known.is_empty() {
        true => String::new(),
        false => format!("{}; ", known.join(" ")),
    };
    format!("{known}{}", committed.withheld)
}

/// The bundles that a policy came in.
fn signed(bundles: &[PolicyBundle]) -> String {
    let each = bundles.iter().map(|b| {
        let name = match b.name.as_str() {
            "" => "bundle",
            name => name,
        };
        format!(", {name} {} signed by {}", b.counter, b.key)
    });
    each.collect()
}

/// The first files of a set with the beginnings of their digests, and of the digest of the set.
fn changed(changes: &Changes) -> String {
    let short = |digest: &String| digest.get(..12).unwrap_or(digest).to_owned();
    let file = |f: &ChangedFile| {
        let new = f.sha256.as_ref().or(f.blocks_sha256.as_ref()).map(short);
        let old = f.old_sha256.as_ref().or(f.old_blocks_sha256.as_ref());
        let content = match (old.map(short), new) {
            (None, None) => String::new(),
            (None, Some(new)) => format!(" ({new})"),
            (Some(old), None) => format!(" ({old} gone)"),
            (Some(old), Some(new)) => format!(" ({old} to {new})"),
        };
        format!("{} {}{content}", f.change, f.path)
    };
    let mut parts: Vec<String> = changes.files.iter().take(5).map(file).collect();
    let more = changes.files.len().saturating_sub(5) as u64 + changes.files_cut;
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    if changes.parts > 0 {
        parts.push(format!("part {} of {}", changes.part, changes.parts));
    }
    format!("{}; digest {}", parts.join(", "), short(&changes.digest))
}

fn decided(decision: &DecisionRecord) -> String {
    let rule = decision.rule.as_deref().unwrap_or("default");
    let exe = decision
        .exe
        .as_deref()
        .map(|e| format!(" by {e}"))
        .unwrap_or_default();
    let watched = match decision.monitors.is_empty() {
        true => String::new(),
        false => format!(" watched by {}", decision.monitors.join(", ")),
    };
    // What would have been refused was done.
    let done = match told::is_only_told(&decision.enforced_by) {
        true => ", audit only",
        false => "",
    };
    let action = match (&decision.action_id, &decision.attribution) {
        (Some(id), Some(by)) => format!("; of {id} by {by}"),
        (Some(id), None) => format!("; of {id}"),
        (None, Some(by)) => format!("; {by}"),
        (None, None) => String::new(),
    };
    format!(
        "{} {}{exe} (rule {rule}{watched}{done}: {}){action}",
        decision.action.verb, decision.action.resource, decision.reason
    )
}

fn counts(map: &std::collections::BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = map.iter().map(|(k, n)| format!("{n} {k}")).collect();
    parts.join(", ")
}

fn has_log(dir: &Path) -> bool {
    fs::symlink_metadata(dir.join("checkpoint")).is_ok()
}
