//! Starts of programs that wait: for a person's answer, or for a policy that has to stand ready.
//!
//! The kernel holds the process where it opens the program ([`agentwall_kernel::Holds`]); the programs decide behind that.
//! So whoever is let on without an answer is refused there, and a daemon that dies lets on everybody. A question
//! of a start that is held is the same as one of a start that was refused.
//!
//! Only files that can be named beforehand are marked: those that a rule asks about, and those that an entry means
//! whose policy depends on who starts them. Whoever else starts one of them is let on at once, without
//! waiting for anything the daemon is at.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    time::{Duration, Instant},
};

use agentwall_action::{Action, Effect, Resource, Verb};
use agentwall_kernel::{
    Held, Programs,
    wire::{Event, Governed as Task, Kind, Why},
};
use agentwall_policy::{By, Glob, Layer, RuleEffect, Source, Variables, load};

use super::{
    boot_ns,
    daemon::{Daemon, Inner},
    kernel::Grant,
    policy::Ready,
    proc,
    questions::{Asked, PREFIX},
    told::told,
};
use crate::{output, supervisor::lock};

/// How long a start is held if the configuration says nothing.
pub const DEFAULT: Duration = Duration::from_secs(30);
/// How many are held at a time; more are refused at once and asked about, as without this.
const MAX_HOLDS: usize = 64;
/// How many entries of folders are looked at for files to mark.
const MAX_LOOKED_AT: usize = 20_000;
/// How long one wait is; nothing depends on it.
const TURN: Duration = Duration::from_secs(1);

/// A start that waits for a person.
#[derive(Debug)]
pub(super) struct Hold {
    held: Held,
    grant: Grant,
    until: Instant,
}

impl Daemon {
    /// Nothing can hold a start here: what a rule asks about is refused, and asked about, at once.
    pub fn cannot_hold(&self, why: &std::io::Error) {
        let text = format!("starts that a rule asks about are refused at once, not held: {why}");
        output::note(&text);
        lock(&self.inner).trouble.insert(text);
    }

    /// Answers what is held, as long as the daemon lives.
    pub fn hold_starts(self: &Arc<Daemon>) {
        let (keep, kept) = mpsc::sync_channel(MAX_HOLDS);
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            while let Some(holds) = &daemon.holds {
                match holds.wait(TURN) {
                    Ok(all) => all.into_iter().for_each(|held| daemon.sort(held, &keep)),
                    Err(e) => return daemon.cannot_hold(&e),
                }
            }
        });
        // Behind the lock, where compiling a policy may take a while.
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            for (held, task) in kept {
                match task {
                    Some(task) => daemon.ask_first(held, &task),
                    None => daemon.ready_first(&held),
                }
            }
        });
    }

    /// A marked program is about to be started. Who is not to be kept is let on here and now.
    fn sort(&self, held: Held, keep: &SyncSender<(Held, Option<Task>)>) {
        let tasks = self.kernel.governed().unwrap_or_default();
        let task = tasks.into_iter().find(|t| t.pid == held.pid());
        let is_kept = match &task {
            Some(task) => task.view != 0,
            None => self.open_entry(&held).is_some(),
        };
        if is_kept {
            // More than are held at a time are let on, too.
            let _ = keep.try_send((held, task));
        }
    }

    /// Asks about a start by somebody who is governed, where a rule does, and keeps it.
    fn ask_first(&self, held: Held, task: &Task) {
        let mut inner = lock(&self.inner);
        let now = Instant::now();
        let patience = inner.config.hold.unwrap_or(DEFAULT);
        let view = inner
            .views
            .get(&task.view)
            .filter(|v| !self.mode_with(v.audit).audit);
        let Some((event, told)) = view.and_then(|view| {
            let event = event(&held, task, view.generation, &view.ready)?;
            let told = told(&event, Some(&view.ready), Programs::Wall);
            Some((event, told))
        }) else {
            return;
        };
        let grant = Grant {
            session: task.session,
            identity: event.identity,
            verb: Verb::ProcessExec,
        };
        let full = patience.is_zero() || inner.holds.len() >= MAX_HOLDS;
        if full || self.kernel.granted(&grant).unwrap_or(true) {
            return;
        }
        match inner.questions.ask(grant, event.view, &told, now) {
            Asked::New(number) => output::note(&format!(
                "held until you answer: {} {} (agentwall approve {PREFIX}-{number} | agentwall reject \
                 {PREFIX}-{number})",
                told.action.verb, told.action.resource
            )),
            Asked::Again => {}
            Asked::TooMany => return,
        }
        inner.holds.push(Hold {
            held,
            grant,
            until: now + patience,
        });
    }

    /// The entry that means a start by somebody whom nobody governs, if its policy depends on user and folder.
    fn open_entry(&self, held: &Held) -> Option<(u32, proc::Process)> {
        let entries = lock(&self.open_entries);
        if entries.is_empty() {
            return None;
        }
        let process = proc::Process {
            exe: held.program().ok()?,
            ..proc::process(held.pid()).ok()?
        };
        let (rank, _) = entries.iter().find(|(_, e)| e.fits(&process))?;
        Some((*rank, process))
    }

    /// Such a start goes on when its policy stands ready.
    fn ready_first(&self, held: &Held) {
        let folder = proc::folder_of(held.pid());
        if let (Some((rank, process)), Some(folder)) = (self.open_entry(held), folder) {
            let mut inner = lock(&self.inner);
            let folder = folder.as_os_str().as_bytes();
            // If not, it is refused where it is decided, and told.
            let _ = self.stand_ready(&mut inner, rank, process.uid, folder);
        }
    }

    /// Marks the files whose starts are held; `anew`: and takes the marks of others away.
    pub(super) fn mark_files(&self, inner: &Inner, anew: bool) {
        let Some(holds) = &self.holds else { return };
        if anew && let Err(e) = holds.clear() {
            output::note(&format!("marks of files cannot be taken away: {e}"));
        }
        let mut left = MAX_LOOKED_AT;
        let mark = |file: &Path| {
            // What cannot be marked is not held, and refused until somebody approves.
            if file != self.own.binary {
                let _ = holds.mark(file);
            }
        };
        if inner.config.hold != Some(Duration::ZERO) {
            let views = inner.views.values().filter(|v| v.installed && !v.audit);
            for view in views.filter(|v| asks_about_starts(&v.ready)) {
                for place in view.ready.policy().anchors() {
                    look(&place, &mut left, &mut |file| {
                        if is_asked(&view.ready, file) {
                            mark(file);
                        }
                    });
                }
            }
        }
        for (_, entry) in lock(&self.open_entries).iter() {
            for place in entry.exe.iter().flat_map(places_of) {
                look(&place, &mut left, &mut |file| {
                    let name = file.as_os_str().as_bytes();
                    if entry.exe.as_ref().is_some_and(|e| e.matches(name, false)) {
                        mark(file);
                    }
                });
            }
        }
    }
}

impl Inner {
    /// Lets on those that wait for this answer, to where it is decided. How many there were.
    pub(super) fn let_on(&mut self, which: impl Fn(&Grant) -> bool) -> usize {
        let before = self.holds.len();
        self.holds.retain(|h| !which(&h.grant));
        before - self.holds.len()
    }

    /// Those that wait for this answer do not start.
    pub(super) fn turn_away(&mut self, grant: &Grant) {
        for hold in std::mem::take(&mut self.holds) {
            match hold.grant == *grant {
                true => hold.held.refuse(),
                false => self.holds.push(hold),
            }
        }
    }

    /// Lets on those that waited long enough.
    pub(super) fn end_holds(&mut self, now: Instant) {
        self.holds.retain(|h| h.until > now);
    }
}

/// What the programs would tell of it, if a rule asks; the table says that as it does in the kernel.
fn event(held: &Held, task: &Task, generation: u64, ready: &Ready) -> Option<Event> {
    let program = held.program().ok()?;
    let answer = ready.table().answer(&start_of(ready, &program))?;
    let By::Rule { layer, rank } = answer.by else {
        return None;
    };
    if answer.effect != Effect::Ask {
        return None;
    }
    Some(Event {
        number: 0,
        time: boot_ns(),
        session: task.session,
        generation,
        identity: held.identity().ok()?,
        view: task.view,
        pid: task.pid,
        tid: task.pid,
        uid: proc::process(task.pid).ok()?.uid,
        verb: Some(Verb::ProcessExec),
        kind: Kind::Path,
        directory: false,
        effect: Some(Effect::Ask),
        rule: Some((u32::try_from(layer).ok()?, rank)),
        why: Why::Rule,
        audit: false,
        marks: 0,
        address: None,
        comm: Vec::new(),
        text: Some(program.as_os_str().as_bytes().to_vec()),
    })
}

fn start_of(ready: &Ready, program: &Path) -> Action {
    Action {
        subject: ready.subject.clone(),
        verb: Verb::ProcessExec,
        resource: Resource::path(program),
        facts: ready.facts.clone(),
    }
}

fn asks_about_starts(ready: &Ready) -> bool {
    let asks = RuleEffect::Decide(Effect::Ask);
    let rules = ready.policy().rules();
    rules
        .into_iter()
        .any(|r| r.effect == asks && r.verbs.contains(&Verb::ProcessExec))
}

fn is_asked(ready: &Ready, program: &Path) -> bool {
    let answer = ready.table().answer(&start_of(ready, program));
    answer.is_some_and(|a| a.effect == Effect::Ask && matches!(a.by, By::Rule { .. }))
}

/// Where a pattern hangs.
fn places_of(exe: &Glob) -> Vec<PathBuf> {
    let text = serde_json::json!({"agentwall": 1, "rules": [{"id": "exe", "action": "process.exec",
        "resource": exe.as_str(), "effect": "deny"}]});
    let source = Source::new("(exe)", text.to_string(), Layer::User);
    load(&[source], &Variables::default()).map_or_else(|_| Vec::new(), |policy| policy.anchors())
}

/// The programs at a place and below it. A pattern without a fixed front hangs on the root folder: it has no place.
fn look(place: &Path, left: &mut usize, each: &mut dyn FnMut(&Path)) {
    if place.parent().is_none() || *left == 0 {
        return;
    }
    *left -= 1;
    let Ok(meta) = fs::symlink_metadata(place) else {
        return;
    };
    if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
        each(place);
    }
    if meta.is_dir() {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            look(&entry.path(), left, each);
        }
    }
}
