//! `agentwall gc`: makes room by removing what nothing needs, and more when age or size ask for it.
//!
//! Each step is found first and then carried out, so that a dry run shows the very same list. Order:
//! what nothing needs; then, the oldest first, originals of an undo, checkpoints, sessions with nothing
//! left, and at last, only if that is asked for, sessions with changes that are not committed.
//!
//! Invariants: a running session is never touched; what is removed was found to be removable under the
//! session's lock, and the session was the same when it was listed; a session that cannot be read, or
//! whose changes cannot be told, counts as one with changes; nothing outside of the state folder and its
//! sessions' own layers is removed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use agentwall_cow::{Checkpoint, Layer, checkpoints, clean};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::layers::GcArgs,
    changes,
    cmd::{
        checkpoint::drop_checkpoint, commit::finish_cut_off, discard::discard_session,
        undo::KEPT_FOR,
    },
    layers::{self, BEING_MADE, blocks, bytes, size_of},
    output::{self, UsageError},
    session::{Session, ids, is_ephemeral, remove_tree},
    state::{State, now_ms},
};

/// How long what a roll-back kept, and a checkpoint of a session with nothing left, is kept.
const CHECKPOINT_FOR: Duration = KEPT_FOR;

/// Runs the command.
pub fn main(args: GcArgs) -> Result<ExitCode> {
    if let Some(wrong) = args.wrong() {
        return Err(UsageError(wrong.into()).into());
    }
    let state = State::open()?;
    let before = whole(&state)?;
    let mut gc = Gc {
        state: &state,
        args: &args,
        done: Vec::new(),
        failed: Vec::new(),
        now: now_ms(),
    };
    gc.leftovers()?;
    let subjects = gc.subjects()?;
    let mut size = before.saturating_sub(gc.freed());
    for subject in subjects {
        let freed = gc.session(&subject);
        size = size.saturating_sub(freed);
    }
    // By size, kind by kind: what is cheapest to lose goes first.
    for kind in [
        Kind::Undo,
        Kind::Checkpoint,
        Kind::Session,
        Kind::Uncommitted,
    ] {
        let above = |size: u64| args.max_size.is_some_and(|max| size > max);
        if !above(size) || (kind == Kind::Uncommitted && !args.discard_uncommitted) {
            continue;
        }
        for subject in gc.subjects()? {
            if above(size) {
                let freed = gc.take(&subject, kind);
                size = size.saturating_sub(freed);
            }
        }
    }
    let after = match args.dry_run {
        true => size,
        false => whole(&state)?,
    };
    gc.report(before, after)
}

/// What can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leftover,
    Undo,
    Checkpoint,
    Session,
    Uncommitted,
}

impl Kind {
    const fn text(self) -> &'static str {
        match self {
            Kind::Leftover => "leftover",
            Kind::Undo => "undo",
            Kind::Checkpoint => "checkpoint",
            Kind::Session => "session",
            Kind::Uncommitted => "uncommitted",
        }
    }
}

/// One thing that was removed, or would be.
struct Done {
    kind: Kind,
    session: String,
    what: String,
    bytes: u64,
}

/// An ended session with everything that a verdict about it rests on. Two looks at a session in which
/// nobody worked in between are equal.
#[derive(Debug, PartialEq)]
struct Subject {
    session: Session,
    /// Nothing in its layers is left to commit.
    empty: bool,
    /// What they would change; `None` when nothing was written or it cannot be told.
    digest: Option<String>,
    checkpoints: Vec<Checkpoint>,
    undo_since: Option<SystemTime>,
    /// Milliseconds since it last ended or ran.
    age: Duration,
}

/// Something to remove of a session.
#[derive(Debug)]
enum Step {
    /// The originals that its last commit kept.
    Undo,
    Checkpoint(Checkpoint),
    /// All of it.
    Whole(Kind),
}

struct Gc<'a> {
    state: &'a State,
    args: &'a GcArgs,
    done: Vec<Done>,
    failed: Vec<String>,
    now: u64,
}

impl Gc<'_> {
    fn freed(&self) -> u64 {
        self.done.iter().map(|d| d.bytes).sum()
    }

    /// What ephemeral sessions and sessions that never came to be have left.
    fn leftovers(&mut self) -> Result<()> {
        for id in ids(self.state)? {
            let dir = self.state.sessions_dir().join(&id);
            match Session::load(self.state, &id) {
                Ok(session) if is_ephemeral(&dir) => {
                    if !session.is_running() {
                        let (bytes, state) = (size_of(&session), self.state);
                        let act = || match session.hold(state) {
                            Ok((session, _lock)) => session.remove_held(),
                            // Its supervisor, or somebody who lists sessions, was faster.
                            Err(_) if !dir.exists() => Ok(()),
                            Err(e) => Err(e),
                        };
                        let what = "an ephemeral session";
                        self.act(Kind::Leftover, &id, what.into(), bytes, act);
                    }
                }
                Ok(session) if layers::is_cut_off_import(&session) => {
                    let (bytes, state) = (size_of(&session), self.state);
                    let act = || match session.hold(state) {
                        Ok((session, _lock)) if layers::is_half_imported(&session) => {
                            session.remove_held()
                        }
                        Ok(_) => Ok(()),
                        Err(_) if !dir.exists() => Ok(()),
                        Err(e) => Err(e),
                    };
                    let what = "an import that was cut off; the archive still has it";
                    self.act(Kind::Leftover, &id, what.into(), bytes, act);
                }
                Ok(_) => {}
                Err(_) if !dir.join("session.json").exists() => {
                    if !is_old(&dir) || !is_free(&dir) {
                        continue;
                    }
                    let bytes = blocks(&dir);
                    let what = "a folder without a record";
                    let act = || remove_without_record(&dir);
                    self.act(Kind::Leftover, &id, what.into(), bytes, act);
                }
                Err(e) => self
                    .failed
                    .push(format!("session {id} is left alone: {e:#}")),
            }
        }
        Ok(())
    }

    /// All ended sessions, the oldest first.
    fn subjects(&self) -> Result<Vec<Subject>> {
        let (sessions, _) = Session::list(self.state)?;
        let ended = sessions.into_iter().rev().filter(|s| !s.is_running());
        Ok(ended.filter_map(|s| self.look(s)).collect())
    }

    /// What a session holds now, unless it may be one that is just being made.
    fn look(&self, session: Session) -> Option<Subject> {
        let begun = self.since(session.latest_ms());
        let making = session.record.ended_ms.is_none() && begun < BEING_MADE;
        if making || layers::is_half_imported(&session) {
            return None;
        }
        let layers = &session.record.layers;
        let cut_off = agentwall_cow::is_unfinished(layers).unwrap_or(true)
            || agentwall_cow::is_unreported(layers).unwrap_or(true)
            || agentwall_cow::is_rolling_back(layers);
        let (untouched, digest) = match layers.iter().all(Layer::is_untouched) {
            true => (true, None),
            false => match changes::scan(&session, false) {
                Ok(set) => (set.is_empty(), Some(set.digest)),
                Err(_) => (false, None),
            },
        };
        let undo_since = match agentwall_cow::can_undo(layers) {
            Ok(_) => agentwall_cow::kept_since(layers).ok().flatten(),
            Err(_) => None,
        };
        let ended = session.record.ended_ms.unwrap_or(session.latest_ms());
        Some(Subject {
            empty: untouched && !cut_off,
            digest,
            checkpoints: checkpoints(layers).unwrap_or_default(),
            undo_since,
            age: self.since(ended),
            session,
        })
    }

    fn since(&self, ms: u64) -> Duration {
        Duration::from_millis(self.now.saturating_sub(ms))
    }

    /// What nothing needs of one session, and what is too old; returns the bytes.
    fn session(&mut self, subject: &Subject) -> u64 {
        let old = |age: Duration| self.args.max_age.is_some_and(|max| age > max);
        let expired = subject.undo_since.is_some_and(|since| {
            let age = since.elapsed().unwrap_or_default();
            age > KEPT_FOR || old(age)
        });
        let stale = |c: &&Checkpoint| {
            let age = self.since(c.at_ms);
            ((c.automatic || subject.empty) && age > CHECKPOINT_FOR) || old(age)
        };
        let stale: Vec<Checkpoint> = subject.checkpoints.iter().filter(stale).cloned().collect();
        let undone = subject.undo_since.is_none() || expired;
        let unneeded = subject.empty && undone && stale.len() == subject.checkpoints.len();
        let dropped =
            !subject.empty && old(subject.age) && self.args.discard_uncommitted && !unneeded;
        let mut steps = Vec::new();
        steps.extend(expired.then_some(Step::Undo));
        steps.extend(stale.into_iter().map(Step::Checkpoint));
        steps.extend(unneeded.then_some(Step::Whole(Kind::Session)));
        steps.extend(dropped.then_some(Step::Whole(Kind::Uncommitted)));
        self.carry_out(subject, steps)
    }

    /// Removes what a session has of one kind, for the sake of the size; returns the bytes.
    fn take(&mut self, subject: &Subject, kind: Kind) -> u64 {
        let gone = |kind: Kind| {
            let mut done = self.done.iter();
            done.any(|d| d.kind == kind && d.session == subject.session.id())
        };
        // In a dry run it is still there.
        if gone(Kind::Session) || gone(Kind::Uncommitted) {
            return 0;
        }
        let steps = match kind {
            Kind::Undo if subject.undo_since.is_some() && !gone(Kind::Undo) => vec![Step::Undo],
            Kind::Checkpoint if !gone(Kind::Checkpoint) => {
                let all = subject.checkpoints.iter().cloned();
                all.map(Step::Checkpoint).collect()
            }
            Kind::Session if subject.empty => vec![Step::Whole(kind)],
            Kind::Uncommitted if !subject.empty => vec![Step::Whole(kind)],
            _ => Vec::new(),
        };
        self.carry_out(subject, steps)
    }

    /// Removes all of this of a session, under one lock, if the session is still what it was when that
    /// was decided; returns the bytes.
    fn carry_out(&mut self, subject: &Subject, steps: Vec<Step>) -> u64 {
        let before = self.freed();
        if steps.is_empty() {
            return 0;
        }
        let id = subject.session.id();
        let _lock = match self.args.dry_run {
            true => None,
            false => match self.hold(subject) {
                Ok(lock) => Some(lock),
                Err(e) => {
                    self.failed.push(format!("session {id}: {e:#}"));
                    return 0;
                }
            },
        };
        for step in steps {
            let done = match step {
                Step::Undo => self.undo(&subject.session),
                Step::Checkpoint(checkpoint) => self.checkpoint(&subject.session, &checkpoint),
                Step::Whole(kind) => self.whole_session(&subject.session, kind),
            };
            // What was decided of the rest took for granted that this is gone.
            if !done {
                break;
            }
        }
        self.freed() - before
    }

    /// The lock of a session in which nobody has worked since the look at it.
    fn hold(&self, subject: &Subject) -> Result<File> {
        let (session, lock) = subject.session.hold(self.state)?;
        if self.look(session).as_ref() != Some(subject) {
            bail!("somebody has just worked in it; the next 'agentwall gc' looks at it again");
        }
        Ok(lock)
    }

    fn undo(&mut self, session: &Session) -> bool {
        let layers = &session.record.layers;
        let trash = layers.iter().map(|l| blocks(&beside(l, ".trash"))).sum();
        let what = "originals of its last commit";
        self.act(Kind::Undo, session.id(), what.into(), trash, || {
            let kept = agentwall_cow::forget(layers).map_err(|e| anyhow!("{e}"))?;
            for line in kept {
                output::note(&format!("an original was kept: {line}"));
            }
            Ok(())
        })
    }

    fn checkpoint(&mut self, session: &Session, checkpoint: &Checkpoint) -> bool {
        let each = session.record.layers.iter();
        let size = each
            .map(|l| blocks(&beside(l, ".checkpoints").join(&checkpoint.name)))
            .sum();
        let (state, what) = (self.state, checkpoint.name.clone());
        self.act(Kind::Checkpoint, session.id(), what, size, || {
            clean(&session.record.layers);
            drop_checkpoint(state, session, &checkpoint.name).map(drop)
        })
    }

    fn whole_session(&mut self, session: &Session, kind: Kind) -> bool {
        let (id, state) = (session.id(), self.state);
        let taken = |d: &&Done| d.session == id;
        let counted: u64 = match self.args.dry_run {
            true => self.done.iter().filter(taken).map(|d| d.bytes).sum(),
            false => 0,
        };
        let size = size_of(session).saturating_sub(counted);
        let what = match kind {
            Kind::Uncommitted => "with changes that are not committed",
            _ => "nothing is left in it",
        };
        // What was cut off is finished first, which a dry run does not do.
        if self.args.dry_run
            && agentwall_cow::is_unfinished(&session.record.layers).is_ok_and(|cut_off| !cut_off)
            && let Err(e) = session.holds_nothing_of_others()
        {
            self.failed.push(format!("session {id}, {what}: {e:#}"));
            return false;
        }
        self.act(kind, id, what.into(), size, || {
            let mut session = session.clone();
            finish_cut_off(state, &mut session)?;
            session.holds_nothing_of_others()?;
            if kind == Kind::Uncommitted {
                discard_session(state, &mut session)?;
            }
            session.remove_held()
        })
    }

    /// Does it, unless this is a dry run, and notes what came of it. Whether it is done.
    fn act(
        &mut self,
        kind: Kind,
        session: &str,
        what: String,
        bytes: u64,
        act: impl FnOnce() -> Result<()>,
    ) -> bool {
        if !self.args.dry_run
            && let Err(e) = act()
        {
            self.failed
                .push(format!("session {session}, {what}: {e:#}"));
            return false;
        }
        self.done.push(Done {
            kind,
            session: session.to_owned(),
            what,
            bytes,
        });
        true
    }

    fn report(&self, before: u64, after: u64) -> Result<ExitCode> {
        let above = self.args.max_size.filter(|max| after > *max);
        if self.args.json {
            let removed = self.done.iter().map(|d| {
                json!({ "kind": d.kind.text(), "session": d.session, "what": d.what, "bytes": d.bytes })
            });
            output::print_json(&json!({
                "dry_run": self.args.dry_run,
                "removed": removed.collect::<Vec<Value>>(),
                "failed": self.failed,
                "before": before,
                "after": after,
            }))?;
        } else {
            let rows = self.done.iter().map(|d| {
                vec![
                    d.kind.text().to_owned(),
                    d.session.clone(),
                    bytes(d.bytes),
                    d.what.clone(),
                ]
            });
            let verb = if self.args.dry_run { "would be" } else { "was" };
            output::print(&format!(
                "{}{} {verb} removed; the state folder has {}\n",
                output::table(&rows.collect::<Vec<_>>()),
                bytes(self.freed()),
                bytes(after),
            ))?;
            for line in &self.failed {
                output::note(line);
            }
        }
        if let Some(max) = above {
            let kept = match self.args.discard_uncommitted {
                true => "what is left runs, or is the ledger",
                false => {
                    "the rest runs, is the ledger, or holds changes that are not committed \
                          (--discard-uncommitted drops those)"
                }
            };
            output::note(&format!("still more than {}: {kept}", bytes(max)));
        }
        Ok(ExitCode::from(
            match self.failed.is_empty() && above.is_none() {
                true => output::OK,
                false => output::FAILED,
            },
        ))
    }
}

fn beside(layer: &Layer, suffix: &str) -> PathBuf {
    let mut name = layer.upper.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The state folder and all layers elsewhere.
fn whole(state: &State) -> Result<u64> {
    let (sessions, _) = Session::list(state)?;
    let outside = sessions.iter().flat_map(Session::folders_outside);
    Ok(blocks(state.root()) + outside.map(|f| blocks(&f)).sum::<u64>())
}

/// Whether nothing in a folder was made or removed for so long that nobody is making it a session.
fn is_old(dir: &Path) -> bool {
    let changed = fs::symlink_metadata(dir).and_then(|m| m.modified());
    changed.is_ok_and(|t| t.elapsed().is_ok_and(|age| age > BEING_MADE))
}

fn is_free(dir: &Path) -> bool {
    match File::open(dir.join("lock")) {
        Ok(file) => file.try_lock().is_ok(),
        Err(_) => true,
    }
}

/// Removes a folder that never got a record, under its lock.
fn remove_without_record(dir: &Path) -> Result<()> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))?;
    lock.try_lock().context("somebody holds its lock")?;
    if dir.join("session.json").exists() {
        bail!("it has just got a record");
    }
    Ok(remove_tree(dir)?)
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
