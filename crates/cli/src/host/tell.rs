//! What stands, for a person.

use agentwall_kernel::wire::Governed as Task;
use anyhow::Result;

use super::{book::SessionNote, daemon::Daemon, session::View};
use crate::{
    control::{HostSession, HostStatus, ViewStatus},
    state::shown,
    supervisor::lock,
};

impl Daemon {
    /// What stands.
    pub fn status(&self) -> Result<HostStatus> {
        let tasks = self.kernel.governed()?;
        let counters = self.kernel.counters()?;
        let inner = lock(&self.inner);
        let under = |view: u32| tasks.iter().filter(|t| t.view == view).count();
        Ok(HostStatus {
            standing: true,
            enforcing: !self.mode.audit,
            audit: self.mode.audit,
            no_wall: self.no_wall.clone(),
            daemon: true,
            kernel: release_of_kernel(),
            programs: self.programs.clone(),
            hooks: self.kernel.hooks(),
            proved_ms: Some(self.proved_ms),
            names: self.mode.names,
            views: (inner.views.values().filter(|v| v.installed))
                .map(|view| of_view(view, under(view.number), self.mode.audit))
                .collect(),
            sessions: inner
                .sessions
                .values()
                .map(|s| of_session(&s.note, &tasks))
                .collect(),
            counters: of_counters(&counters),
            lost: inner.lost,
            pending: inner.questions.len(),
            trouble: inner.trouble.iter().cloned().collect(),
        })
    }
}

fn of_view(view: &View, processes: usize, audit: bool) -> ViewStatus {
    ViewStatus {
        view: view.number,
        subject: format!("agent:{}", view.name),
        policy: shown(&view.policy),
        digest: view.ready.digest().to_owned(),
        generation: view.generation,
        audit: view.audit || audit,
        processes,
        lacks: view.ready.lacks(),
    }
}

/// A session with the processes it has now.
pub fn of_session(note: &SessionNote, tasks: &[Task]) -> HostSession {
    let own = tasks
        .iter()
        .filter(|t| t.session == note.number && t.view != 0);
    HostSession {
        id: note.id.clone(),
        view: note.view,
        pid: note.pid,
        uid: note.uid,
        exe: note.exe.clone(),
        processes: own.map(|t| t.pid).collect(),
    }
}

/// Counters by name.
pub fn of_counters(
    counters: &agentwall_kernel::Counters,
) -> std::collections::BTreeMap<String, u64> {
    [
        ("decisions", counters.decisions),
        ("cached", counters.cached),
        ("refused", counters.refused),
        ("dropped", counters.dropped),
        ("undecided", counters.undecided),
        ("no_memory", counters.no_memory),
        ("granted", counters.granted),
        ("missed", counters.missed),
    ]
    .map(|(name, n)| (name.to_owned(), n))
    .into()
}

/// The kernel's release.
pub fn release_of_kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
}
