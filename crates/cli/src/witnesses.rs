//! The witnesses of this host's log: which ones, how much they vouch for, and the newest checkpoint brought to
//! them beside everything else.
//!
//! What a witness has cosigned, the holder of the log's key cannot change any more. What it has not, they can; so
//! every report about the log says how far that goes. Nothing ever waits for a witness: a [`Courier`] works
//! on a thread of its own, and what fails is tried again a minute later.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use agentwall_ledger::{Cosigned, Reader, TrustPolicy, Verifier};
use agentwall_witness::{Outcome, PushError, Pushed};
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::{
    output,
    state::{State, rfc3339_of, shown},
};

/// How often a running session or daemon brings the newest checkpoint.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a witness may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long the end of a session waits for its last checkpoint to be brought.
const LAST: Duration = Duration::from_secs(2);

/// The folder of what belongs to the log's witnesses.
pub fn folder(state: &State) -> PathBuf {
    state.root().join("witnesses")
}

/// The policy of this host's log.
pub fn policy_path(state: &State) -> PathBuf {
    folder(state).join("policy")
}

/// The policy of this host's log, if one is set.
pub fn configured(state: &State) -> Result<Option<TrustPolicy>> {
    let path = policy_path(state);
    match path.symlink_metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => read_policy(&path).map(Some),
    }
}

/// Reads a trust policy.
pub fn read_policy(path: &Path) -> Result<TrustPolicy> {
    let bytes =
        fs::read(path).with_context(|| format!("cannot read the trust policy {}", shown(path)))?;
    TrustPolicy::parse(&bytes).map_err(|e| {
        anyhow!(
            "the trust policy {}: {}; see c2sp.org/tlog-policy",
            shown(path),
            output::tame(&e.to_string())
        )
    })
}

/// How much of a log witnesses vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Entries of the log.
    pub size: u64,
    /// So many of them, from the first one on, are witnessed as the policy wants.
    pub witnessed: u64,
    /// Who has cosigned that, by the policy's names; else who has cosigned at all.
    pub by: Vec<String>,
    /// How many witnesses the policy knows.
    pub known: usize,
    /// When the newest of these cosignatures was made, in milliseconds since the Unix epoch.
    pub time_ms: Option<u64>,
}

impl Standing {
    /// From what the log's folder says; `cosigned` was checked by `trust` against the log.
    pub fn of(size: u64, trust: &TrustPolicy, cosigned: Option<&Cosigned>) -> Standing {
        let witnessed = cosigned.and_then(|c| c.witnessed.as_ref());
        let names = witnessed.map(|w| w.by.iter().map(|(name, _)| name.clone()));
        let vouched = cosigned.map_or(0, Cosigned::size);
        Standing {
            // The log may have grown since it was opened, and been cosigned.
            size: size.max(vouched),
            witnessed: vouched,
            by: names.map_or_else(Vec::new, Iterator::collect),
            known: trust.witnesses().len(),
            time_ms: witnessed
                .and_then(|w| w.time())
                .map(|seconds| seconds.saturating_mul(1000)),
        }
    }

    /// Of a log that is being read.
    pub fn look(reader: &Reader, key: &Verifier, trust: &TrustPolicy) -> Result<Standing> {
        let cosigned = reader.cosigned(key, Some(trust)).map_err(|e| {
            anyhow!(
                "the log contradicts what witnesses have cosigned: {}",
                output::tame(&e.to_string())
            )
        })?;
        Ok(Standing::of(reader.size(), trust, cosigned.as_ref()))
    }

    /// One line for a person.
    pub fn sentence(&self) -> String {
        let who = format!("{} of {} witnesses", self.by.len(), self.known);
        let ago = self.time_ms.map(output::ago);
        match (self.witnessed, ago) {
            (0, _) => format!("witnessed: none of {} entries ({who})", self.size),
            (n, ago) => format!(
                "witnessed: the first {n} of {} entries ({who}), {}",
                self.size,
                ago.unwrap_or_default()
            ),
        }
    }

    /// The same for scripts.
    pub fn json(&self) -> Value {
        json!({
            "entries": self.witnessed,
            "of": self.size,
            "by": self.by,
            "witnesses": self.known,
            "time": self.time_ms.map(rfc3339_of),
        })
    }
}

/// How this host's log stands, `None` if no policy is set or there is no log.
pub fn standing(state: &State) -> Result<Option<Standing>> {
    let Some(trust) = configured(state)? else {
        return Ok(None);
    };
    if !state.ledger_dir().join("checkpoint").exists() {
        return Ok(None);
    }
    let reader = Reader::open(&state.ledger_dir()).context("cannot read the ledger")?;
    Standing::look(&reader, &state.verifier()?, &trust).map(Some)
}

/// Brings the newest checkpoint to the witnesses, `None` if no policy is set.
pub fn push(state: &State) -> Result<Option<Pushed>> {
    let Some(trust) = configured(state)? else {
        return Ok(None);
    };
    let key = state.verifier()?;
    let log = state.ledger_dir();
    let pushed = agentwall_witness::push(&log, &key, &trust, &folder(state), PATIENCE);
    match pushed {
        Ok(pushed) => Ok(Some(pushed)),
        Err(e @ PushError::Cosigned(_)) => Err(anyhow!(
            "the log contradicts what witnesses have cosigned: {}",
            output::tame(&e.to_string())
        )),
        Err(e) => Err(e).context("the log cannot be brought to its witnesses"),
    }
}

/// What became of a witness, for a person.
pub fn told(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Cosigned(time) => {
            format!(
                "has cosigned it, {}",
                output::ago(time.saturating_mul(1000))
            )
        }
        Outcome::NoUrl => "is nowhere: the policy has no URL for it".to_owned(),
        Outcome::Away(why) => format!("is away: {why}"),
        Outcome::Refused(status, why) => format!("refuses this log ({status}): {why}"),
        Outcome::Ahead(size) => format!(
            "has cosigned {size} entries of this log, and so many are not here: the log was put back, or \
             somebody else has its key"
        ),
        Outcome::OtherHistory(why) => format!(
            "has cosigned another history of this log ({why}): the log was rewritten, or somebody else has its \
             key"
        ),
    };
    output::tame(&text)
}

/// What of a push contradicts the log, one line for each witness.
fn alarms(pushed: &Pushed) -> Vec<String> {
    let bad = pushed.outcomes.iter().filter(|(_, o)| o.contradicts());
    bad.map(|(name, outcome)| format!("the witness {} {}", output::tame(name), told(outcome)))
        .collect()
}

/// Brings the newest checkpoint to the witnesses every minute, on a thread of its own.
#[derive(Debug)]
pub struct Courier {
    /// Dropped: the courier ends. A message: it goes once more, and answers.
    orders: Option<Sender<()>>,
    done: Receiver<Vec<String>>,
    state: State,
}

impl Courier {
    /// Begins, if the log has witnesses. After the last fork(2) of this process.
    /// What is wrong is told at the end, or, `aloud`, also as soon as it is known.
    pub fn begin(state: &State, aloud: bool) -> Option<Courier> {
        // A policy that cannot be read is told at the end.
        if matches!(configured(state), Ok(None)) {
            return None;
        }
        let (orders, due) = mpsc::channel();
        let (finished, done) = mpsc::channel();
        let round = Round {
            state: state.clone(),
            brought: Vec::new(),
            aloud,
        };
        let thread = std::thread::Builder::new().name("courier".into());
        thread.spawn(move || go(round, &due, &finished)).ok()?;
        Some(Courier {
            orders: Some(orders),
            done,
            state: state.clone(),
        })
    }

    /// Goes once more, but is not waited for longer than a moment; says how much is witnessed.
    pub fn end(mut self) {
        let asked = self
            .orders
            .take()
            .is_some_and(|orders| orders.send(()).is_ok());
        match self.done.recv_timeout(LAST) {
            Ok(alarms) if asked => alarms.iter().for_each(|alarm| output::note(alarm)),
            _ => output::note(
                "the witnesses have not answered yet; the next session goes on with it, or 'agentwall ledger \
                 witness push' does now",
            ),
        }
        match standing(&self.state) {
            Ok(Some(standing)) => output::note(&format!("ledger {}", standing.sentence())),
            Ok(None) => {}
            Err(e) => output::note(&format!("{e:#}")),
        }
    }
}

struct Round {
    state: State,
    /// The checkpoint that was brought last, to as many witnesses as are wanted.
    brought: Vec<u8>,
    aloud: bool,
}

impl Round {
    /// What is to be told to a person; empty if all is well.
    fn walk(&mut self) -> Vec<String> {
        let now = fs::read(self.state.ledger_dir().join("checkpoint")).unwrap_or_default();
        if now == self.brought {
            return Vec::new();
        }
        match push(&self.state) {
            Ok(None) => Vec::new(),
            Ok(Some(pushed)) => {
                let cosigned = |o: &Outcome| matches!(o, Outcome::Cosigned(_) | Outcome::NoUrl);
                if pushed.outcomes.iter().all(|(_, o)| cosigned(o)) {
                    self.brought = now;
                }
                alarms(&pushed)
            }
            Err(e) => match e.downcast_ref::<PushError>() {
                Some(PushError::Busy) => Vec::new(),
                _ => vec![format!("{e:#}")],
            },
        }
    }
}

fn go(mut round: Round, due: &Receiver<()>, finished: &Sender<Vec<String>>) {
    let mut alarms: Vec<String> = Vec::new();
    loop {
        let order = due.recv_timeout(INTERVAL);
        if order == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        for alarm in round.walk() {
            if !alarms.contains(&alarm) {
                if round.aloud {
                    output::note(&alarm);
                }
                alarms.push(alarm);
            }
        }
        if order.is_ok() {
            // Nobody may be waiting any more.
            let _ = finished.send(alarms);
            return;
        }
    }
}
