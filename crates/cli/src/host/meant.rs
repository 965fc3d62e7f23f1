//! Processes that the configuration means: what stands ready in the kernel for their starts, and the sessions that
//! begin there.
//!
//! The entries become a table of their own, the *selector*: rules about `/USER/path/of/program`, in the order of the
//! configuration, compiled as policies are. A program in the kernel asks it at each start of a process that
//! nobody governs (`bpf/meant.h`); the rank of the answer names the entry, and the entry's policy has to stand ready in a view.
//! Where it depends on who starts it and where (`${home}`, `${workspace}`), it is made when such a start was
//! refused for want of it.
//!
//! Invariant: what is in [`Meant::ready`] is in the kernel, and its views are not taken away.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwall_action::{Facts, Subject, escape_bytes};
use agentwall_kernel::{
    Programs,
    wire::{Event, MAX_FOLDER, SELECTOR, STARTED_HERE, Start},
};
use agentwall_policy::{Compiled, CompiledTable, Layer, Source, Variables, glob_escape, load};
use anyhow::{Result, anyhow, bail};

use super::{
    book::{SessionNote, variables},
    config::{Config, Entry},
    daemon::{CANARY_VIEW, Daemon, Inner},
    policy::Ready,
    proc,
    requests::of_policy,
    session::Session,
};
use crate::{
    output,
    session::minute_of,
    state::{now_ms, random_text},
    supervisor::lock,
};

/// How many policies of single folders stand ready at a time: each has 4 MiB in the kernel.
const MAX_FOLDERS: usize = 32;

/// What stands ready.
#[derive(Debug, Default)]
pub(super) struct Meant {
    /// The generation of the selector.
    generation: u64,
    /// Its entries, by rank.
    entries: BTreeMap<u32, Entry>,
    /// For which starts, and under which view; the oldest first.
    ready: VecDeque<(Start, Option<u32>)>,
}

impl Meant {
    /// What a former daemon left in the kernel.
    pub fn left(ready: Vec<(Start, Option<u32>)>) -> Meant {
        Meant {
            ready: ready.into(),
            ..Meant::default()
        }
    }

    /// Whether a view is to stay.
    pub fn needs(&self, view: u32) -> bool {
        self.ready.iter().any(|(_, v)| *v == Some(view))
    }
}

/// The table whose refusals name entries, and the entries by rank; `None`: no entry means anybody.
pub(super) fn selector(
    config: &Config,
    own: &Path,
) -> Result<Option<(CompiledTable, BTreeMap<u32, Entry>)>> {
    let meaning: Vec<&Entry> = config.govern.iter().filter(|e| e.means()).collect();
    if meaning.is_empty() {
        return Ok(None);
    }
    let rule = |id: String, priority: usize, resource: String, effect: &str| {
        serde_json::json!({"id": id, "priority": priority, "action": "process.exec",
            "resource": resource, "effect": effect})
    };
    // The wall's own program, started by root, is what changes the configuration: no entry locks it out.
    let own = format!("/0{}", glob_escape(own.as_os_str().as_bytes()));
    let mut rules = vec![rule("own".into(), 0, own, "allow")];
    for (n, entry) in meaning.iter().enumerate() {
        rules.push(rule(n.to_string(), n + 1, entry.pattern(), "deny"));
    }
    let text = serde_json::json!({"agentwall": 1, "default": "allow", "rules": rules});
    let source = Source::new("(entries)", text.to_string(), Layer::User);
    let policy = load(&[source], &Variables::default()).map_err(|e| anyhow!("{e}"))?;
    let compiled = Compiled::new(
        Arc::new(policy),
        &Subject::agent("start"),
        &Facts::default(),
    );
    let ids = (0..).map_while(|rank| Some((rank, &compiled.ranked(0, rank)?.id)));
    let entries = ids.filter_map(|(rank, id)| {
        let entry = meaning.get(id.parse::<usize>().ok()?)?;
        Some((rank, (*entry).clone()))
    });
    let entries: BTreeMap<u32, Entry> = entries.collect();
    if entries.len() != meaning.len() {
        bail!("the entries of the configuration cannot be told apart in the kernel");
    }
    Ok(Some((compiled.table(), entries)))
}

impl Daemon {
    /// Puts into the kernel what the configuration in force means. Until the new selector is there, the former one
    /// holds, with what stands ready for it.
    pub(super) fn select(&self, inner: &mut Inner) -> Result<()> {
        // The monitor sees a start when it is over: what an entry means is found among what runs.
        if self.kernel.kind() == Programs::Monitor {
            return Ok(());
        }
        let generation = inner.next_generation();
        let made = selector(&inner.config, &self.own.binary)?;
        let mut open = Vec::new();
        for (rank, entry) in made.iter().flat_map(|(_, entries)| entries) {
            let start = Start {
                generation,
                rank: *rank,
                of: None,
            };
            let view = match self.fixed(entry)? {
                Some(ready) => {
                    Some(self.view_for(inner, &entry.name, &entry.policy, ready, entry.audit)?)
                }
                // What refuses nothing does not refuse a start either.
                None if self.mode_with(entry.audit).audit => None,
                None => {
                    open.push((*rank, entry.clone()));
                    continue;
                }
            };
            self.kernel.prepare(&start, view)?;
            inner.meant.ready.push_back((start, view));
        }
        let entries = match made {
            Some((table, entries)) => {
                self.kernel.install(SELECTOR, &table, generation, 0)?;
                entries
            }
            None => {
                self.kernel.remove(SELECTOR)?;
                BTreeMap::new()
            }
        };
        inner.meant.generation = generation;
        inner.meant.entries = entries;
        *lock(&self.open_entries) = open;
        for (start, _) in self.kernel.prepared()? {
            if start.generation != generation {
                self.kernel.unprepare(&start)?;
            }
        }
        inner
            .meant
            .ready
            .retain(|(s, _)| s.generation == generation);
        let tasks = self.kernel.governed()?;
        for view in std::mem::take(&mut inner.unknown) {
            match tasks.iter().any(|t| t.view == view) {
                true => drop(inner.unknown.insert(view)),
                false => self.kernel.remove(view)?,
            }
        }
        self.retire(inner)?;
        // The policies may say something else by now: whoever waits is decided on anew.
        inner.let_on(|_| true);
        self.mark_files(inner, true);
        Ok(())
    }

    /// The policy of an entry, if it is the same whoever starts a process and wherever.
    fn fixed(&self, entry: &Entry) -> Result<Option<Ready>> {
        let home = entry.home();
        let workspace =
            (entry.workspace.clone()).or_else(|| home.clone().filter(|_| entry.exe.is_none()));
        let of = |workspace: Option<&Path>, home: Option<&Path>| {
            let values = variables(workspace, home, self.state.root());
            self.read(&entry.policy, &entry.name, &values, entry.audit)
        };
        let (workspace, home) = (workspace.as_deref(), home.as_deref());
        if workspace.is_some() && home.is_some() {
            return of(workspace, home).map(Some);
        }
        // Without a value: an error, if the policy needs it.
        let Ok(without) = of(workspace, home) else {
            return Ok(None);
        };
        let any = Some(Path::new("/nowhere/at/all"));
        let with = of(workspace.or(any), home.or(any))?;
        Ok((without.table().words() == with.table().words()).then_some(without))
    }

    /// A start that the configuration means was refused, since no policy stands ready for it: from now on one does.
    pub(super) fn unprepared(&self, inner: &mut Inner, event: &Event) {
        let Some((_, rank)) = event
            .rule
            .filter(|_| event.generation == inner.meant.generation)
        else {
            return;
        };
        let user = u32::try_from(event.identity.inode).unwrap_or(u32::MAX);
        let folder = event.text.clone().unwrap_or_default();
        if let Err(e) = self.stand_ready(inner, rank, user, &folder) {
            let text = format!(
                "starts in {} that the configuration means are refused: {e:#}",
                escape_bytes(&folder)
            );
            output::note(&text);
            inner.trouble.insert(text);
        }
    }

    /// Puts the policy of an entry in place for a user's starts in a folder.
    pub(super) fn stand_ready(
        &self,
        inner: &mut Inner,
        rank: u32,
        user: u32,
        folder: &[u8],
    ) -> Result<()> {
        let start = Start {
            generation: inner.meant.generation,
            rank,
            of: Some((user, folder.to_vec())),
        };
        if inner.meant.ready.iter().any(|(s, _)| *s == start) {
            return Ok(());
        }
        let Some(entry) = inner.meant.entries.get(&rank).cloned() else {
            return Ok(());
        };
        if folder.is_empty() || folder.len() > MAX_FOLDER {
            bail!(
                "the folder has no name of at most {MAX_FOLDER} bytes; give the entry '{}' a workspace",
                entry.name
            );
        }
        let path = PathBuf::from(OsStr::from_bytes(folder));
        let workspace = entry.workspace.clone().unwrap_or(path);
        let home = proc::home_of(user);
        let values = variables(Some(&workspace), home.as_deref(), self.state.root());
        let ready = self.read(&entry.policy, &entry.name, &values, entry.audit)?;
        let of_folders = inner.meant.ready.iter().filter(|(s, _)| s.of.is_some());
        if of_folders.count() >= MAX_FOLDERS
            && let Some(at) = inner.meant.ready.iter().position(|(s, _)| s.of.is_some())
            && let Some((oldest, _)) = inner.meant.ready.remove(at)
        {
            self.kernel.unprepare(&oldest)?;
            self.retire(inner)?;
        }
        let view = self.view_for(inner, &entry.name, &entry.policy, ready, entry.audit)?;
        self.kernel.prepare(&start, Some(view))?;
        inner.meant.ready.push_back((start, Some(view)));
        self.save(inner)
    }

    /// A session began in the kernel: from here on it is like any other.
    pub(super) fn started(&self, inner: &mut Inner, event: &Event) {
        let uid = u32::try_from(event.identity.inode).unwrap_or(event.uid);
        let program = event.text.as_deref().unwrap_or(b"?");
        if let Err(e) = self.begun(inner, event.session, event.view, (event.pid, uid), program) {
            inner.trouble.insert(format!("{e:#}"));
        }
    }

    /// The sessions that began in the kernel and whose event was lost, or came when no daemon was there.
    pub(super) fn take_over(&self, inner: &mut Inner) {
        for task in self.kernel.governed().unwrap_or_default() {
            let known = inner.sessions.contains_key(&task.session);
            if known || task.session < STARTED_HERE || matches!(task.view, 0 | CANARY_VIEW) {
                continue;
            }
            let uid = proc::process(task.pid).map_or(u32::MAX, |p| p.uid);
            let program = proc::program(task.pid, b"?");
            let of = (task.pid, uid);
            if let Err(e) = self.begun(inner, task.session, task.view, of, program.as_bytes()) {
                inner.trouble.insert(format!("{e:#}"));
            }
        }
    }

    /// Makes the session of a process that is governed already.
    fn begun(
        &self,
        inner: &mut Inner,
        number: u64,
        view: u32,
        (pid, uid): (u32, u32),
        program: &[u8],
    ) -> Result<()> {
        let Some(under) = inner.views.get(&view) else {
            return Ok(());
        };
        if inner.sessions.contains_key(&number) {
            return Ok(());
        }
        let now = now_ms();
        let exe = escape_bytes(program);
        // The old program's arguments stand there until the new one has begun.
        let command = match proc::program(pid, b"") == exe {
            true => proc::command_of(pid),
            false => vec![exe.clone()],
        };
        let note = SessionNote {
            number,
            id: format!("{}-{}", minute_of(now), random_text(4)?),
            view,
            pid,
            uid,
            exe,
            decisions: Default::default(),
            names: 0,
        };
        let names = under.ready.names;
        let records = [
            of_policy(&under.ready, None, None),
            self.of_start(&note, command, &under.name, under.audit, &under.ready),
        ];
        inner.sessions.insert(number, Session::new(note, 0));
        // It has happened: nothing waits for the ledger, nor for the book, which is written every second.
        for record in records {
            self.note(inner, Some(number), record);
        }
        match names && self.doors.are_served() {
            true => self.open_door(number, 0),
            false => Ok(()),
        }
    }
}

/// The words for a start that was refused.
pub(super) fn refusal(event: &Event, meant: &Meant) -> String {
    let entry = event.rule.and_then(|(_, rank)| meant.entries.get(&rank));
    let name = entry.map_or("an entry", |e| e.name.as_str());
    format!(
        "the configuration means a program started here ({name}), and its policy did not stand ready: start it again"
    )
}
