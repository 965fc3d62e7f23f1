//! `agentwall gc`: makes room by removing what nothing needs, and more when age or size ask for it.
//!
//! Each step is found first and then carried out, so that a dry run shows the very same list. Order:
//! what nothing needs; then, the oldest first, originals of an undo, checkpoints, sessions with nothing
//! left, and at last, only if that is asked for, sessions with changes that are not committed.
//!
//! Invariants: a running session is never touched; a session that cannot be read, or whose changes
//! cannot be told, counts as one with changes; nothing outside of the state folder and its sessions'
//! own layers is removed.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use agentwall_cow::{Checkpoint, Layer, checkpoints, clean};
use anyhow::{Result, anyhow, bail};
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
        let freed = gc.session(subject);
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

/// An ended session and what it holds.
struct Subject {
    session: Session,
    /// Nothing in its layers is left to commit.
    empty: bool,
    checkpoints: Vec<Checkpoint>,
    undo_since: Option<SystemTime>,
    /// Milliseconds since it last ended or ran.
    age: Duration,
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
                        let bytes = size_of(&session);
                        let act = || session.remove();
                        self.act(
                            Kind::Leftover,
                            &id,
                            "an ephemeral session".into(),
                            bytes,
                            act,
                        );
                    }
                }
                Ok(session) if layers::is_cut_off_import(&session) => {
                    let bytes = size_of(&session);
                    let act = || session.remove();
                    let what = "an import that was cut off; the archive still has it".into();
                    self.act(Kind::Leftover, &id, what, bytes, act);
                }
                Ok(_) => {}
                Err(_) if !dir.join("session.json").exists() => {
                    if !old_and_free(&dir) {
                        continue;
                    }
                    let bytes = blocks(&dir);
                    let act = || Ok(remove_tree(&dir)?);
                    self.act(
                        Kind::Leftover,
                        &id,
                        "a folder without a record".into(),
                        bytes,
                        act,
                    );
                }
                Err(e) => self
                    .failed
                    .push(format!("session {id} is left alone: {e:#}")),
            }
        }
        Ok(())
    }

    /// All ended sessions, the oldest first.
    fn subjects(&mut self) -> Result<Vec<Subject>> {
        let (sessions, _) = Session::list(self.state)?;
        let mut subjects = Vec::new();
        for session in sessions.into_iter().rev().filter(|s| !s.is_running()) {
            let layers = &session.record.layers;
            let cut_off = agentwall_cow::is_unfinished(layers).unwrap_or(true)
                || agentwall_cow::is_unreported(layers).unwrap_or(true)
                || agentwall_cow::is_rolling_back(layers);
            let begun = self.since(session.latest_ms());
            let making = session.record.ended_ms.is_none() && begun < BEING_MADE;
            if making || layers::is_half_imported(&session) {
                continue;
            }
            let empty = !cut_off && is_empty(&session);
            let undo_since = match agentwall_cow::can_undo(layers) {
                Ok(_) => agentwall_cow::kept_since(layers).ok().flatten(),
                Err(_) => None,
            };
            let ended = session.record.ended_ms.unwrap_or(session.latest_ms());
            subjects.push(Subject {
                empty,
                checkpoints: checkpoints(layers).unwrap_or_default(),
                undo_since,
                age: self.since(ended),
                session,
            });
        }
        Ok(subjects)
    }

    fn since(&self, ms: u64) -> Duration {
        Duration::from_millis(self.now.saturating_sub(ms))
    }

    /// What nothing needs of one session, and what is too old; returns the bytes.
    fn session(&mut self, mut subject: Subject) -> u64 {
        let before = self.freed();
        let max_age = self.args.max_age;
        let old = |age: Duration| max_age.is_some_and(|max| age > max);
        let expired = subject.undo_since.is_some_and(|since| {
            let age = since.elapsed().unwrap_or_default();
            age > KEPT_FOR || old(age)
        });
        if expired {
            self.undo(&subject);
            subject.undo_since = None;
        }
        let (now, empty) = (self.now, subject.empty);
        let stale = |c: &Checkpoint| {
            let age = Duration::from_millis(now.saturating_sub(c.at_ms));
            ((c.automatic || empty) && age > CHECKPOINT_FOR) || old(age)
        };
        let (stale, kept): (Vec<_>, Vec<_>) = subject.checkpoints.drain(..).partition(stale);
        for checkpoint in &stale {
            self.checkpoint(&subject, checkpoint);
        }
        subject.checkpoints = kept;
        let unneeded =
            subject.empty && subject.undo_since.is_none() && subject.checkpoints.is_empty();
        if unneeded {
            self.whole_session(&subject, Kind::Session);
        } else if old(subject.age) && !subject.empty && self.args.discard_uncommitted {
            self.whole_session(&subject, Kind::Uncommitted);
        }
        self.freed() - before
    }

    /// Removes what a session has of one kind, for the sake of the size.
    fn take(&mut self, subject: &Subject, kind: Kind) -> u64 {
        let before = self.freed();
        let gone = |gc: &Gc<'_>, kind: Kind| {
            gc.done
                .iter()
                .any(|d| d.kind == kind && d.session == subject.session.id())
        };
        // In a dry run it is still there.
        if gone(self, Kind::Session) || gone(self, Kind::Uncommitted) {
            return 0;
        }
        match kind {
            Kind::Undo if subject.undo_since.is_some() && !gone(self, Kind::Undo) => {
                self.undo(subject);
            }
            Kind::Checkpoint if !gone(self, Kind::Checkpoint) => {
                for checkpoint in &subject.checkpoints {
                    self.checkpoint(subject, checkpoint);
                }
            }
            Kind::Session if subject.empty => self.whole_session(subject, kind),
            Kind::Uncommitted if !subject.empty => self.whole_session(subject, kind),
            _ => {}
        }
        self.freed() - before
    }

    fn undo(&mut self, subject: &Subject) {
        let session = &subject.session;
        let trash: u64 = session
            .record
            .layers
            .iter()
            .map(|l| blocks(&beside(l, ".trash")))
            .sum();
        let id = session.id().to_owned();
        self.act(
            Kind::Undo,
            &id,
            "originals of its last commit".into(),
            trash,
            || {
                let _lock = session.hold_lock()?;
                let kept =
                    agentwall_cow::forget(&session.record.layers).map_err(|e| anyhow!("{e}"))?;
                for line in kept {
                    output::note(&format!("an original was kept: {line}"));
                }
                Ok(())
            },
        );
    }

    fn checkpoint(&mut self, subject: &Subject, checkpoint: &Checkpoint) {
        let session = &subject.session;
        let each = session.record.layers.iter();
        let size = each
            .map(|l| blocks(&beside(l, ".checkpoints").join(&checkpoint.name)))
            .sum();
        let (id, state) = (session.id().to_owned(), self.state);
        self.act(Kind::Checkpoint, &id, checkpoint.name.clone(), size, || {
            let _lock = session.hold_lock()?;
            clean(&session.record.layers);
            drop_checkpoint(state, session, &checkpoint.name).map(drop)
        });
    }

    fn whole_session(&mut self, subject: &Subject, kind: Kind) {
        let (session, state) = (&subject.session, self.state);
        let id = session.id().to_owned();
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
        self.act(kind, &id, what.into(), size, || {
            let _lock = session.hold_lock()?;
            let mut fresh = Session::load(state, session.id())?;
            finish_cut_off(state, &fresh)?;
            if kind == Kind::Uncommitted {
                discard_session(state, &mut fresh)?;
            } else if !is_empty(&fresh) {
                bail!("somebody has just worked in it");
            }
            fresh.remove_held()
        });
    }

    fn act(
        &mut self,
        kind: Kind,
        session: &str,
        what: String,
        bytes: u64,
        act: impl FnOnce() -> Result<()>,
    ) {
        if !self.args.dry_run
            && let Err(e) = act()
        {
            self.failed
                .push(format!("session {session}, {what}: {e:#}"));
            return;
        }
        self.done.push(Done {
            kind,
            session: session.to_owned(),
            what,
            bytes,
        });
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

/// Whether nothing is left to commit. False when that cannot be told.
fn is_empty(session: &Session) -> bool {
    session.record.layers.iter().all(Layer::is_untouched)
        || changes::scan(session, false).is_ok_and(|set| set.is_empty())
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

/// Whether a folder is not one that is just being made, nor one that somebody works in.
fn old_and_free(dir: &std::path::Path) -> bool {
    let changed = fs::symlink_metadata(dir).and_then(|m| m.modified());
    let old = changed.is_ok_and(|t| t.elapsed().is_ok_and(|age| age > BEING_MADE));
    let free = match fs::File::open(dir.join("lock")) {
        Ok(file) => file.try_lock().is_ok(),
        Err(_) => true,
    };
    old && free
}
