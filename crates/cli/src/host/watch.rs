//! What happens by itself: events are read, losses counted, tallies written, sessions end, and processes that the
//! configuration means are found.

use std::{collections::BTreeMap, time::Instant};

use agentwall_action::Effect;
use agentwall_kernel::{
    Counters, Programs,
    wire::{Event, Unseen, Why, WireError},
};
use agentwall_ledger::{
    Record,
    entry::{Gap, PolicyAnswer, Tally},
};
use agentwall_wall::wire::Event as Told;

use super::{
    boot_ns,
    daemon::{CANARY_VIEW, Daemon, Inner},
    gaps::Lost,
    kernel::Grant,
    meant,
    policy::Ready,
    proc,
    questions::{Asked, PREFIX},
    told::{self, told},
    trail, unix_ms,
};
use crate::{
    answer,
    control::HostPolicy,
    output,
    state::rfc3339_of,
    supervisor::{lock, recorded_as, refusal},
};

impl Daemon {
    /// Something that the programs told.
    pub fn event(&self, event: Result<Event, WireError>) {
        let mut inner = lock(&self.inner);
        let event = match event {
            Ok(event) => event,
            Err(e) => {
                let text = format!("an event of the kernel cannot be read: {e}");
                // Its number is missing and will be counted as lost.
                if inner.trouble.insert(text.clone()) {
                    output::note(&text);
                }
                return;
            }
        };
        inner.gaps.came(event.number, event.time, Instant::now());
        if event.view == CANARY_VIEW {
            return;
        }
        match event.why {
            Why::Meant => return self.started(&mut inner, &event),
            // It goes on without a policy, and is found with all others that run.
            Why::Unprepared if event.effect == Some(Effect::Allow) => return,
            Why::Unseen(way) => return self.note_unseen(&mut inner, event.session, way),
            _ => {}
        }
        let view = inner.views.get(&event.view);
        let ready = view.and_then(|v| v.of(event.generation)).cloned();
        let mut told = told(&event, ready.as_ref(), self.kernel.kind());
        if event.why == Why::Unprepared {
            told.decision.reason = meant::refusal(&event, &inner.meant);
            self.unprepared(&mut inner, &event);
        }
        // Decided here and not in the kernel, which counts its own.
        if event.effect.is_none()
            && told.decision.effect == Effect::Allow
            && told.decision.monitors.is_empty()
            && let Some(view) = inner.views.get_mut(&event.view)
        {
            *view.allowed.entry(told.action.verb).or_default() += 1;
            return;
        }
        let grant = Grant {
            session: event.session,
            identity: event.identity,
            verb: told.action.verb,
        };
        self.take_down(&mut inner, grant, event.view, told, ready.as_ref());
    }

    /// What was decided, by a program or by name, under a view's policy: a question if it asks, and an entry.
    pub(super) fn take_down(
        &self,
        inner: &mut Inner,
        grant: Grant,
        view: u32,
        mut told: Told,
        ready: Option<&Ready>,
    ) {
        let refused = !told::is_only_told(&told.enforced_by);
        if told.decision.effect == Effect::Ask && refused {
            match inner.questions.ask(grant, view, &told, Instant::now()) {
                Asked::New(number) => output::note(&format!(
                    "waiting for you: {} {} (agentwall approve {PREFIX}-{number} | agentwall reject \
                     {PREFIX}-{number})",
                    told.action.verb, told.action.resource
                )),
                Asked::Again => {}
                Asked::TooMany => {
                    told.decision = refusal(&told.decision, "too many questions wait already");
                }
            }
        }
        if let Some(session) = inner.sessions.get_mut(&grant.session) {
            let effect = told.decision.effect.as_str().to_owned();
            *session.note.decisions.entry(effect).or_default() += 1;
        }
        let of_session = inner.sessions.contains_key(&grant.session);
        if told.decision.effect != Effect::Allow && refused && of_session {
            // It stands in the ledger all the same.
            let _ = trail::note(&self.places, grant.session, &told);
        }
        let said = match ready {
            Some(ready) => PolicyAnswer::of(&answer::of_policy(ready.policy(), &told.action)),
            None => PolicyAnswer::default(),
        };
        // The kernel does not tell arguments, without which a start is no start.
        let record = match recorded_as(&told, said) {
            Record::Exec(exec) => Record::Decision(exec.decision),
            other => other,
        };
        self.note(inner, Some(grant.session), record);
    }

    /// What is not seen of a session stands in the ledger once.
    fn note_unseen(&self, inner: &mut Inner, session: u64, way: Unseen) {
        let known = inner.sessions.get_mut(&session);
        if known.is_some_and(|s| !s.unseen.insert(way)) {
            return;
        }
        let record = Record::Gap(Gap {
            reason: format!("from now on {}", told::unseen(way)),
            ..Gap::default()
        });
        self.note(inner, Some(session), record);
    }

    /// What stands, for the service manager.
    pub fn in_a_line(&self) -> String {
        let inner = lock(&self.inner);
        let mode = match (&self.no_wall, self.mode.audit) {
            (Some(_), _) => "audit only (monitor)",
            (None, true) => "audit only",
            (None, false) => "enforcing",
        };
        let (sessions, waiting) = (inner.sessions.len(), inner.questions.len());
        let mut text = format!("{mode}, {}", output::count(sessions, "session"));
        if waiting > 0 {
            text.push_str(&format!(", {} waiting", output::count(waiting, "question")));
        }
        if inner.lost > 0 {
            text.push_str(&format!(", {} events lost", inner.lost));
        }
        if !inner.trouble.is_empty() {
            text.push_str("; see 'agentwall daemon status'");
        }
        text
    }

    /// Every second or so; `quiet` says that all events there are were read.
    pub fn tick(&self, quiet: bool) {
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        match self.kernel.counters() {
            Ok(counters) => {
                if let Some(lost) = inner.gaps.settle(counters.dropped, quiet, now, boot_ns()) {
                    inner.lost += lost.count;
                    let record = of_loss(&lost);
                    self.note(&mut inner, None, record);
                }
                inner.dropped = counters.dropped;
                self.note_blind(&mut inner, &counters);
            }
            Err(e) => {
                inner
                    .trouble
                    .insert(format!("the counters cannot be read: {e}"));
            }
        }
        self.end_what_is_gone(&mut inner);
        inner.end_holds(now);
        self.expire(&mut inner, |question| question.is_over(now));
        if let Err(e) = self.save(&inner) {
            inner.trouble.insert(format!("{e:#}"));
        }
    }

    /// What the monitor itself could not do: nobody knows what it would have seen.
    fn note_blind(&self, inner: &mut Inner, counters: &Counters) {
        if self.kernel.kind() != Programs::Monitor {
            return;
        }
        let (unfollowed, missed) = (inner.unfollowed, inner.missed);
        inner.unfollowed = counters.no_memory;
        // Of programs that were replaced meanwhile it began anew.
        inner.missed = counters.missed;
        for (count, what) in [
            (
                counters.no_memory.saturating_sub(unfollowed),
                "new processes could not be followed for want of memory: what they do is not seen",
            ),
            (
                counters.missed.saturating_sub(missed),
                "runs of the monitor were left out by the kernel: what they would have seen is not known",
            ),
        ] {
            if count > 0 {
                let record = Record::Gap(Gap {
                    lost: count,
                    reason: what.to_owned(),
                    ..Gap::default()
                });
                self.note(inner, None, record);
            }
        }
    }

    /// Sessions without a process have ended.
    fn end_what_is_gone(&self, inner: &mut Inner) {
        let Ok(tasks) = self.kernel.governed() else {
            return;
        };
        let there = |session: u64| tasks.iter().any(|t| t.session == session && t.view != 0);
        let gone: Vec<u64> = inner
            .sessions
            .keys()
            .copied()
            .filter(|s| !there(*s))
            .collect();
        if gone.is_empty() {
            return;
        }
        let ended = gone
            .into_iter()
            .try_for_each(|session| self.end(inner, session));
        if let Err(e) = ended.and_then(|()| self.retire(inner)) {
            inner.trouble.insert(format!("{e:#}"));
        }
    }

    /// What went through without an entry of its own, into the ledger.
    pub fn tally(&self) {
        let mut inner = lock(&self.inner);
        // Programs that came to their places since, or were replaced there.
        self.mark_files(&inner, false);
        let mut records = Vec::new();
        for view in inner.views.values_mut() {
            let Ok(counts) = self.kernel.allows(view.number) else {
                continue;
            };
            let mut allowed = BTreeMap::new();
            for (verb, count) in counts {
                let told = view.told.insert(verb, count).unwrap_or(0);
                // A counter below what was told began anew.
                let fresh = if count < told { count } else { count - told };
                *view.allowed.entry(verb).or_default() += fresh;
            }
            for (verb, count) in std::mem::take(&mut view.allowed) {
                if count > 0 {
                    allowed.insert(verb.as_str().to_owned(), count);
                }
            }
            if !allowed.is_empty() {
                records.push(Record::Tally(Tally {
                    subject: format!("agent:{}", view.name),
                    policy: view.ready.digest().to_owned(),
                    allowed,
                }));
            }
        }
        for record in records {
            self.note(&mut inner, None, record);
        }
    }

    /// Governs the processes that the configuration means and that are not governed yet.
    pub fn look_around(&self) {
        let mut inner = lock(&self.inner);
        self.take_over(&mut inner);
        let config = inner.config.clone();
        drop(inner);
        if !config.govern.iter().any(|e| e.means()) {
            return;
        }
        let (Ok(tasks), Ok(processes)) = (self.kernel.governed(), proc::processes()) else {
            return;
        };
        let own = proc::line_of(std::process::id());
        for process in processes {
            let known = tasks.iter().any(|t| t.pid == process.pid) || own.contains(&process.pid);
            let Some(entry) = config.govern.iter().find(|e| !known && e.fits(&process)) else {
                continue;
            };
            let key = (process.pid, process.started);
            let inner = lock(&self.inner);
            if inner.given_up.contains(&key) {
                continue;
            }
            drop(inner);
            let wanted = HostPolicy::Named(entry.name.clone());
            if let Err(e) = self.govern(process.pid, &wanted, None) {
                // Governed meanwhile, as a child of one that was found before it, or gone.
                let now = self.kernel.governed().unwrap_or_default();
                let gone = proc::process(process.pid).is_err();
                if gone || now.iter().any(|t| t.pid == process.pid) {
                    continue;
                }
                let text = format!(
                    "process {} is meant by '{}' and is not governed: {e:#}",
                    process.pid, entry.name
                );
                output::note(&text);
                let mut inner = lock(&self.inner);
                inner.given_up.insert(key);
                inner.trouble.insert(text);
            }
        }
    }
}

fn of_loss(lost: &Lost) -> Record {
    Record::Gap(Gap {
        lost: lost.count,
        reason: "events of the kernel wall found no room, or no daemon read them".to_owned(),
        from: Some(rfc3339_of(unix_ms(lost.from))),
        to: Some(rfc3339_of(unix_ms(lost.to))),
    })
}
