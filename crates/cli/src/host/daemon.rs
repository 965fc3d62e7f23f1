//! The daemon: which policies are in the kernel, who is under which, and what stands in the ledger of it.
//!
//! One lock holds all of it. What changes anything goes in this order: the ledger, the kernel, the book. So
//! what is enforced was recorded before, and a daemon that was killed in between finds in the kernel what it
//! has to know, or tells what it does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agentwall_action::Verb;
use agentwall_kernel::{
    Holds, Notes, Programs,
    abi::{TABLE_AUDIT, TABLE_NAMES},
    wire::{Governed as Task, SELECTOR, STARTED_HERE, VIEWS},
};
use agentwall_ledger::{
    Entry, Log, Reader, Record,
    entry::{Canary, Heartbeat, KernelWall, Selftest},
};
use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    Places,
    book::{Book, GrantNote, SessionNote},
    boot_ns,
    canary::Proof,
    config::{self, Config},
    gaps::Gaps,
    holds::Hold,
    kernel::{Grant, Kernel},
    meant::Meant,
    names::Doors,
    policy::{self, Mode, OwnFiles, Ready},
    questions::Questions,
    session::{Session, View},
};
use crate::{
    clock::Clock,
    policies::Chosen,
    session::minute_of,
    state::{State, now_ms, random_text},
    supervisor::lock,
};

/// The view of the canaries: no session is ever put under it.
pub const CANARY_VIEW: u32 = VIEWS - 1;

/// How often the daemon says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(300);

/// What was found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the programs were loaded.
    Nothing,
    /// The same programs, and the book of who loaded them if there is one.
    Same(Option<Book>),
    /// Programs of another version, which were replaced.
    Other(Option<Book>),
}

/// With what a daemon begins.
#[derive(Debug)]
pub struct Opening {
    /// Where.
    pub places: Places,
    /// What is out of reach for all.
    pub own: OwnFiles,
    /// What was found.
    pub found: Found,
    /// What the administrator wants.
    pub config: Config,
    /// What holds for all policies. The monitor never refuses anything.
    pub mode: Mode,
    /// SHA-256 of the programs.
    pub programs: String,
    /// That they refuse; of the monitor, that it sees.
    pub proof: Proof,
    /// What can hold starts; `None`: nothing can.
    pub holds: Option<Holds>,
    /// Why it is the monitor that stands, and no wall.
    pub no_wall: Option<String>,
}

/// The daemon.
pub struct Daemon {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) places: Places,
    pub(super) own: OwnFiles,
    pub(super) state: State,
    pub(super) mode: Mode,
    pub(super) doors: Doors,
    pub(super) programs: String,
    pub(super) proved_ms: u64,
    pub(super) no_wall: Option<String>,
    log: Log,
    began: Instant,
    /// The session of the ledger that entries about the wall itself belong to.
    run: String,
    pub(super) inner: Mutex<Inner>,
    failed: AtomicBool,
    pub(super) ending: Mutex<Option<Ending>>,
    pub(super) holds: Option<Holds>,
    /// Entries, with their ranks, whose policy depends on who starts what they mean. Not behind the lock of all the
    /// rest: every start of a marked file looks here.
    pub(super) open_entries: Mutex<Vec<(u32, config::Entry)>>,
}

/// How the daemon is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The enforcement ends, too.
    pub unload: bool,
    /// Who wants it; `None`: the service manager.
    pub by: Option<u32>,
}

/// What changes.
#[derive(Debug)]
pub(super) struct Inner {
    pub config: Config,
    pub views: BTreeMap<u32, View>,
    pub sessions: BTreeMap<u64, Session>,
    pub grants: Vec<Grant>,
    pub questions: Questions,
    pub holds: Vec<Hold>,
    pub gaps: Gaps,
    pub lost: u64,
    pub dropped: u64,
    pub unfollowed: u64,
    pub missed: u64,
    pub next_session: u64,
    pub generation: u64,
    pub trouble: BTreeSet<String>,
    /// Processes that fit an entry and could not be governed: number and time of start.
    pub given_up: BTreeSet<(u32, u64)>,
    /// What stands ready for starts that the configuration means.
    pub meant: Meant,
    /// Views in the kernel that no book knows.
    pub unknown: BTreeSet<u32>,
    run_seq: u64,
    clock: Clock,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Daemon {
    /// Takes over what stands, and says in the ledger that it does.
    pub fn start(kernel: Arc<dyn Kernel>, opening: Opening) -> Result<Daemon> {
        let state = State::open_at(&opening.places.state)?;
        let log = state.keep_log()?;
        let (outcome, book) = match opening.found {
            Found::Nothing => ("loaded", Some(Book::fresh())),
            Found::Same(book) => ("opened", book),
            Found::Other(book) => ("replaced", book),
        };
        let known = book.is_some();
        let book = book.unwrap_or_default();
        let now = now_ms();
        let inner = Inner {
            config: opening.config,
            views: BTreeMap::new(),
            sessions: BTreeMap::new(),
            grants: book.grants.iter().filter_map(GrantNote::grant).collect(),
            questions: Questions::new(book.next_question.max(1)),
            holds: Vec::new(),
            gaps: Gaps::new(book.next_event, book.dropped, boot_ns()),
            lost: book.lost,
            dropped: book.dropped,
            unfollowed: book.unfollowed,
            missed: book.missed,
            next_session: book.next_session.max(1),
            generation: book.generation,
            trouble: BTreeSet::new(),
            given_up: BTreeSet::new(),
            meant: Meant::left(kernel.prepared()?),
            unknown: BTreeSet::new(),
            run_seq: 0,
            clock: Clock::now(),
        };
        let daemon = Daemon {
            kernel,
            places: opening.places,
            own: opening.own,
            state,
            mode: Mode {
                audit: opening.mode.audit || opening.no_wall.is_some(),
                ..opening.mode
            },
            doors: Doors::default(),
            programs: opening.programs,
            proved_ms: now,
            no_wall: opening.no_wall,
            log,
            began: Instant::now(),
            run: format!("{}-{}", minute_of(now), random_text(4)?),
            inner: Mutex::new(inner),
            failed: AtomicBool::new(false),
            ending: Mutex::new(None),
            holds: opening.holds,
            open_entries: Mutex::default(),
        };
        let mut inner = lock(&daemon.inner);
        daemon.seal(&mut inner, None, daemon.wall(outcome, None))?;
        daemon.seal(
            &mut inner,
            None,
            of_proof(&opening.proof, daemon.kernel.kind()),
        )?;
        daemon.restore(&mut inner, &book, known)?;
        daemon.select(&mut inner)?;
        daemon.save(&inner)?;
        drop(inner);
        Ok(daemon)
    }

    /// Views and sessions of a book; what the kernel has beyond that goes on unknown.
    fn restore(&self, inner: &mut Inner, book: &Book, known: bool) -> Result<()> {
        let tasks = self.kernel.governed()?;
        for note in &book.views {
            let chosen = Chosen {
                sources: note.sources.iter().map(|s| s.source()).collect(),
                ..Chosen::default()
            };
            let variables = note.variables(self.state.root());
            let mode = self.mode_with(note.audit);
            let ready = match policy::ready(chosen, &note.name, &variables, &self.own, mode) {
                Ok(ready) => ready,
                Err(e) => {
                    inner.unknown.insert(note.view);
                    inner.trouble.insert(format!(
                        "the policy of {} goes on as it stands, but cannot be read again: {e:#}",
                        note.name
                    ));
                    continue;
                }
            };
            let mut view = View::new(note.view, &note.name, note.policy.clone(), ready);
            view.audit = note.audit;
            view.generation = note.generation;
            view.told = by_verb(&note.told);
            view.allowed = by_verb(&note.allowed);
            // The same text can lead elsewhere by now, and another version has other rules of its own.
            view.installed = book.sessions.iter().any(|s| s.view == note.view)
                || tasks.iter().any(|t| t.view == note.view)
                || inner.meant.needs(note.view);
            if view.installed && (view.ready.digest() != note.digest || book.mode() != self.mode) {
                view.generation = inner.next_generation();
                self.install(&mut view)?;
            }
            inner.views.insert(note.view, view);
        }
        let ids: Vec<&str> = book.sessions.iter().map(|s| s.id.as_str()).collect();
        let next = next_numbers(&self.state, &ids)?;
        for note in &book.sessions {
            let seq = next.get(&note.id).copied().unwrap_or(0);
            let note = note.clone();
            (inner.sessions).insert(note.number, Session::new(note, seq));
        }
        let strangers = tasks
            .iter()
            .filter(|t| t.view != 0 && t.view != CANARY_VIEW);
        for task in strangers {
            if !inner.views.contains_key(&task.view) && inner.unknown.insert(task.view) && !known {
                inner.trouble.insert(format!(
                    "view {} stands and nothing is known of its policy: the book of the former daemon is \
                     gone; 'agentwall daemon release {}' takes it away",
                    task.view, task.pid
                ));
            }
            if task.session < STARTED_HERE {
                inner.next_session = inner.next_session.max(task.session + 1);
            }
        }
        // Views that stand ready and that nobody knows hold until the entries are read again.
        let left = (1..SELECTOR).filter(|v| inner.meant.needs(*v) && !inner.views.contains_key(v));
        inner.unknown.extend(left);
        Ok(())
    }

    /// The record of what became of the wall.
    pub(super) fn wall(&self, outcome: &str, by: Option<u32>) -> Record {
        Record::KernelWall(KernelWall {
            outcome: outcome.to_owned(),
            programs: self.programs.clone(),
            hooks: self.kernel.hooks() as u64,
            audit: self.mode.audit,
            monitor: self.no_wall.clone(),
            by: by.map(|uid| format!("uid:{uid}")),
        })
    }

    /// The view of a policy: one that has it, or a free one, into which it is put.
    pub(super) fn view_for(
        &self,
        inner: &mut Inner,
        name: &str,
        from: &Path,
        ready: Ready,
        audit: bool,
    ) -> Result<u32> {
        let same = |v: &&View| {
            v.name == name
                && v.audit == audit
                && v.policy == from
                && v.ready.digest() == ready.digest()
                && v.ready.variables == ready.variables
        };
        if let Some(number) = inner.views.values().find(same).map(|v| v.number) {
            if let Some(view) = inner.views.get_mut(&number).filter(|v| !v.installed) {
                self.install(view)?;
                self.mark_files(inner, false);
            }
            return Ok(number);
        }
        let number = self.free_view(inner)?;
        let mut view = View::new(number, name, from.to_owned(), ready);
        view.audit = audit;
        view.generation = inner.next_generation();
        view.told = self.kernel.allows(number)?.into_iter().collect();
        self.install(&mut view)?;
        inner.views.insert(number, view);
        self.mark_files(inner, false);
        Ok(number)
    }

    fn free_view(&self, inner: &mut Inner) -> Result<u32> {
        let free = |inner: &Inner| {
            (1..SELECTOR).find(|v| !inner.views.contains_key(v) && !inner.unknown.contains(v))
        };
        if let Some(view) = free(inner) {
            return Ok(view);
        }
        self.retire(inner)?;
        inner.views.retain(|_, view| view.installed);
        free(inner).ok_or_else(|| {
            anyhow!(
                "all {} policies that the kernel holds at a time are in use",
                SELECTOR - 1
            )
        })
    }

    /// Puts a view's policy into the kernel.
    pub(super) fn install(&self, view: &mut View) -> Result<()> {
        let ready = &view.ready;
        let mut flags = 0;
        if self.mode_with(view.audit).audit {
            flags |= TABLE_AUDIT;
        }
        if ready.names {
            flags |= TABLE_NAMES;
        }
        let noted = Notes::of(ready.policy(), &ready.subject, &ready.facts);
        for (path, note) in &noted.notes {
            // What is gone since has no other name.
            if path.symlink_metadata().is_ok() {
                self.kernel
                    .note(path, note)
                    .with_context(|| format!("cannot note {}", crate::state::shown(path)))?;
            }
        }
        self.kernel
            .install(view.number, &view.ready.table(), view.generation, flags)
            .with_context(|| format!("cannot put the policy of {} into the kernel", view.name))?;
        view.installed = true;
        Ok(())
    }

    /// How a policy is kept here whose entry says that it is an audit, or not.
    pub(super) fn mode_with(&self, audit: bool) -> Mode {
        Mode {
            audit: audit || self.mode.audit,
            ..self.mode
        }
    }

    /// Takes the tables of views that nobody is under out of the kernel: each has 4 MiB.
    pub(super) fn retire(&self, inner: &mut Inner) -> Result<()> {
        let tasks = self.kernel.governed()?;
        let awaited: BTreeSet<u32> = inner.sessions.values().map(|s| s.note.view).collect();
        for view in inner.views.values_mut().filter(|v| v.installed) {
            let needed = awaited.contains(&view.number) || inner.meant.needs(view.number);
            if !needed && !tasks.iter().any(|t| t.view == view.number) {
                self.kernel.remove(view.number)?;
                view.installed = false;
            }
        }
        Ok(())
    }

    /// Appends a record that must be durable before anything goes on: of a session, or of the wall.
    pub(super) fn seal(
        &self,
        inner: &mut Inner,
        session: Option<u64>,
        record: Record,
    ) -> Result<()> {
        self.look_at_clock(inner);
        let entry = inner.entry(&self.run, session, record);
        self.log
            .append(&entry)
            .map(drop)
            .context("cannot write the ledger")
    }

    /// Appends a record of something that has happened; durable within a bounded moment.
    pub(super) fn note(&self, inner: &mut Inner, session: Option<u64>, record: Record) {
        self.look_at_clock(inner);
        self.queue(inner, session, record);
    }

    fn look_at_clock(&self, inner: &mut Inner) {
        if let Some(jump) = inner.clock.look() {
            self.queue(inner, None, Record::Clock(jump));
        }
    }

    /// Says that this daemon lives, and how the log stands.
    pub fn heartbeat(&self) {
        // After a failed commit nobody knows; the failure is told elsewhere.
        let Some(checkpoint) = self.log.checkpoint() else {
            return;
        };
        let beat = Heartbeat {
            every_s: HEARTBEAT.as_secs(),
            uptime_s: self.began.elapsed().as_secs(),
            size: checkpoint.size,
            root: checkpoint.root.to_base64(),
        };
        self.note(&mut lock(&self.inner), None, Record::Heartbeat(beat));
    }

    fn queue(&self, inner: &mut Inner, session: Option<u64>, record: Record) {
        let entry = inner.entry(&self.run, session, record);
        if let Err(e) = self.log.append_later(&entry)
            && !self.failed.swap(true, Ordering::SeqCst)
        {
            crate::output::note(&format!("the ledger cannot be written: {e}"));
        }
    }

    /// Whether the ledger could not be written: without one the daemon does not go on.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Why it is the monitor that stands, and no wall.
    pub fn no_wall(&self) -> Option<&str> {
        self.no_wall.as_deref()
    }

    /// How it is to end, if it is.
    pub fn ending(&self) -> Option<Ending> {
        *lock(&self.ending)
    }

    /// The last entries: the wall is left standing, or was removed.
    pub fn close(&self, outcome: &str, by: Option<u32>) -> Result<()> {
        self.tally();
        let mut inner = lock(&self.inner);
        self.seal(&mut inner, None, self.wall(outcome, by))?;
        self.save(&inner)?;
        self.log.flush().context("cannot write the ledger")
    }

    /// Writes the book.
    pub(super) fn save(&self, inner: &Inner) -> Result<()> {
        let book = Book {
            v: 0,
            programs: self.programs.clone(),
            hooks: self.kernel.hooks(),
            audit: self.mode.audit,
            names: self.mode.names,
            proved_ms: Some(self.proved_ms),
            next_event: inner.gaps.next(),
            lost: inner.lost,
            dropped: inner.dropped,
            unfollowed: inner.unfollowed,
            missed: inner.missed,
            no_wall: self.no_wall.clone(),
            next_session: inner.next_session,
            next_question: inner.questions.next(),
            generation: inner.generation,
            views: inner.views.values().map(View::note).collect(),
            sessions: (inner.sessions.values())
                .map(|s| SessionNote {
                    names: (self.doors)
                        .next_name(s.note.number)
                        .unwrap_or(s.note.names),
                    ..s.note.clone()
                })
                .collect(),
            grants: inner.grants.iter().map(GrantNote::from).collect(),
        };
        book.write(&self.places.book())
    }

    /// The tasks of a session.
    pub(super) fn tasks_of(&self, session: u64) -> Result<Vec<Task>> {
        let mut tasks = self.kernel.governed()?;
        tasks.retain(|t| t.session == session && t.view != 0);
        Ok(tasks)
    }
}

fn by_verb(counts: &[(String, u64)]) -> BTreeMap<Verb, u64> {
    let known = counts
        .iter()
        .filter_map(|(v, n)| Some((v.parse().ok()?, *n)));
    known.collect()
}

impl Inner {
    /// A generation that no view ever had, also if the book was lost: the kernel's cache of decisions
    /// knows policies by it.
    pub fn next_generation(&mut self) -> u64 {
        self.generation = (self.generation + 1).max(now_ms());
        self.generation
    }

    fn entry(&mut self, run: &str, session: Option<u64>, record: Record) -> Vec<u8> {
        let session = session.and_then(|number| self.sessions.get_mut(&number));
        let (id, seq) = match session {
            Some(session) => (session.note.id.as_str(), &mut session.seq),
            None => (run, &mut self.run_seq),
        };
        let bytes = Entry::now(id, *seq, record).to_bytes();
        *seq += 1;
        bytes
    }
}

impl Book {
    /// Of programs that were just loaded: their first event has the number 0.
    fn fresh() -> Book {
        Book {
            next_event: Some(0),
            ..Book::default()
        }
    }
}

fn of_proof(proof: &Proof, programs: Programs) -> Record {
    let by = match programs {
        Programs::Wall => "kernel",
        Programs::Monitor => "monitor",
    };
    let canaries = proof.results.iter().map(|r| Canary {
        name: format!("{by} {}", r.what),
        result: r.said.clone(),
        ok: r.held,
    });
    Record::Selftest(Selftest {
        ok: proof.holds(),
        canaries: canaries.collect(),
        ..Selftest::default()
    })
}

/// The numbers of the next entries of sessions, by one walk through the ledger from its end.
fn next_numbers(state: &State, ids: &[&str]) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    if ids.is_empty() || !state.ledger_dir().join("checkpoint").exists() {
        return Ok(found);
    }
    let reader = Reader::open(&state.ledger_dir()).context("cannot read the ledger")?;
    let first = reader.first().context("cannot read the ledger")?;
    for index in (first..reader.size()).rev() {
        if found.len() == ids.len() {
            break;
        }
        let bytes = reader.entry(index).context("cannot read the ledger")?;
        let entry = Entry::from_bytes(&bytes).context("cannot read the ledger")?;
        if ids.contains(&entry.session.as_str()) {
            found.entry(entry.session).or_insert(entry.seq + 1);
        }
    }
    Ok(found)
}

/// Holds the daemon's lock: one at a time.
pub fn hold_lock(places: &Places) -> Result<std::fs::File> {
    use rustix::fs::{FlockOperation, flock};
    let path = places.lock();
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", crate::state::shown(&path)))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("a daemon runs already; 'agentwall daemon status' tells more");
    }
    Ok(file)
}

/// How long a moment is, for what happens now and then.
#[derive(Debug, Clone, Copy)]
pub struct Every {
    period: std::time::Duration,
    last: Instant,
}

impl Every {
    /// So often, not yet.
    pub fn new(period: std::time::Duration, now: Instant) -> Every {
        Every { period, last: now }
    }

    /// Whether it is time again.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.last) >= self.period;
        if due {
            self.last = now;
        }
        due
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
pub(crate) mod tests;
