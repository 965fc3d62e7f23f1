//! `agentwall ledger prune`: old entries are removed, as a written policy says; the log still proves all others.
//!
//! The policy is `retention.yaml` in the state folder:
//!
//! ```yaml
//! agentwall-retention: 1
//! keep_days: 400               # what is younger is never removed
//! reason: SOC 2, one year      # for who asks why
//! ```
//!
//! Without it nothing is removed: tlog-tiles asks for a written policy, and an entry that is gone does not come back.
//! Bundles of 256 go, from the first one on, up to the first entry that is younger, or that belongs to a session
//! which still has a folder: its changes may be committed, and the numbers of its entries go on.

use std::{collections::BTreeSet, fs, io, process::ExitCode, time::Duration};

use agentwall_ledger::{
    Entry, Reader, Record,
    entry::{Prune, User},
    hash::sha256_hex,
    prune,
};
use agentwall_policy::{
    Layer, Source,
    strict::{self, Node, Reading},
};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::has_log;
use crate::{
    args::ledger::PruneArgs,
    output::{self, UsageError},
    session::{Session, minute_of},
    state::{PATIENCE, State, now_ms, random_text, rfc3339_of, shown},
};

/// How a retention policy begins.
const BEGIN: &str = "agentwall-retention: 1";
/// How long can be asked for, in days.
const DAYS: (i64, i64) = (1, 36_500);

/// What the state folder says about keeping.
struct Retention {
    keep: Duration,
    /// SHA-256 of the file.
    digest: String,
}

/// What is to go.
struct Plan {
    /// The first entry that is there.
    first: u64,
    /// The minimum index afterwards.
    minimum: u64,
    /// What a record in the log allows already.
    allowed: u64,
    before: OffsetDateTime,
}

/// Runs the command.
pub fn main(args: &PruneArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let retention = Retention::read(&state)?;
    if !has_log(&state.ledger_dir()) {
        bail!("there is no ledger yet; 'agentwall run -- CMD' begins one");
    }
    let latest = OffsetDateTime::now_utc() - retention.keep;
    let before = match (args.before, args.keep) {
        (Some(before), _) => before,
        (None, Some(keep)) => OffsetDateTime::now_utc() - keep,
        (None, None) => latest,
    };
    if before > latest {
        return Err(UsageError(format!(
            "the retention policy keeps what is younger than {} days: nothing from {} on is removed",
            retention.keep.as_secs() / 86_400,
            latest.date()
        ))
        .into());
    }
    let plan = Plan::make(&state, before)?;
    let entries = plan.minimum - plan.first;
    let remove = args.yes && !args.dry_run;
    if remove && entries > 0 {
        plan.carry_out(&state, &retention)?;
    }
    if args.json {
        output::print_json(&json!({
            "minimum": plan.minimum,
            "entries": entries,
            "removed": remove && entries > 0,
            "before": text(plan.before),
            "policy": retention.digest,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&match (entries, remove) {
        (0, _) => format!(
            "nothing to remove: entries go in bundles of 256, when all of one are from before {} and their \
             sessions are gone ('agentwall gc')\n",
            plan.before.date()
        ),
        (_, true) => format!(
            "{entries} entries removed, below {}; their hashes stay, and 'agentwall ledger verify' covers them\n",
            plan.minimum
        ),
        (_, false) => format!(
            "{entries} entries would be removed for good, below {}; --yes removes them\n",
            plan.minimum
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(moment: OffsetDateTime) -> String {
    let ms = moment.unix_timestamp_nanos() / 1_000_000;
    rfc3339_of(u64::try_from(ms).unwrap_or(0))
}

impl Plan {
    fn make(state: &State, before: OffsetDateTime) -> Result<Plan> {
        state.settle(PATIENCE)?;
        let reader = Reader::open_signed(&state.ledger_dir(), &state.verifier()?)
            .context("cannot read the ledger")?;
        let (first, allowed) = (reader.first()?, reader.minimum()?);
        let (sessions, damaged) = Session::list(state)?;
        if let Some(error) = damaged.into_iter().next() {
            return Err(error.context("nothing was removed: entries of this session may be needed"));
        }
        let needed: BTreeSet<&str> = sessions.iter().map(Session::id).collect();
        let mut end = first;
        for item in reader.entries(first..reader.size()) {
            let (index, bytes) =
                item.context("cannot read the ledger; 'agentwall ledger verify' tells more")?;
            let entry = Entry::from_bytes(&bytes)
                .with_context(|| format!("cannot read entry {index} of the ledger"))?;
            // What has no time is not known to be old.
            let old = OffsetDateTime::parse(&entry.time, &Rfc3339).is_ok_and(|t| t < before);
            if !old || needed.contains(entry.session.as_str()) {
                break;
            }
            end = index + 1;
        }
        Ok(Plan {
            first,
            // What was allowed before and is still there goes, too: a removal was cut off.
            minimum: (end / 256 * 256).max(allowed).max(first),
            allowed,
            before,
        })
    }

    /// The record first, durable and under a checkpoint; then the files.
    fn carry_out(&self, state: &State, retention: &Retention) -> Result<()> {
        if self.minimum > self.allowed {
            let record = Record::Prune(Prune {
                minimum: self.minimum,
                before: text(self.before),
                policy: retention.digest.clone(),
                user: User {
                    uid: rustix::process::getuid().as_raw(),
                    name: std::env::var("USER").unwrap_or_default(),
                },
            });
            let id = format!("{}-{}", minute_of(now_ms()), random_text(4)?);
            let log = state.open_log()?;
            log.append(&Entry::now(&id, 0, record).to_bytes())
                .and_then(|_| log.close())
                .context("the removal cannot be recorded; nothing was removed")?;
        }
        prune(&state.ledger_dir(), Some(&state.text()), self.minimum)
            .map(drop)
            .context("not all of it was removed; the same command goes on with it")
    }
}

impl Retention {
    fn read(state: &State) -> Result<Retention> {
        let path = state.root().join("retention.yaml");
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => bail!(
                "nothing is removed without a written retention policy: {} does not exist (docs/ledger.md, \
                 \"Keeping\")",
                shown(&path)
            ),
            other => other.with_context(|| format!("cannot read {}", shown(&path)))?,
        };
        let digest = sha256_hex(&text);
        let source = Source::new(shown(&path), text, Layer::User);
        let days =
            strict::read(&source, "retention policy", BEGIN, policy).map_err(|e| anyhow!("{e}"))?;
        Ok(Retention {
            keep: Duration::from_secs(days.unsigned_abs() * 86_400),
            digest,
        })
    }
}

/// How many days entries are kept.
fn policy(reading: &mut Reading<'_>, root: &Node) -> Option<i64> {
    const WHAT: &str = "a retention policy";
    let fields = reading.mapping(root, WHAT, &["agentwall-retention", "keep_days", "reason"])?;
    reading
        .needed(&fields, WHAT, "agentwall-retention", BEGIN)
        .and_then(|n| reading.integer(n, "agentwall-retention, the version of the form,", 1, 1))?;
    let days = reading
        .needed(&fields, WHAT, "keep_days", "keep_days: 400")
        .and_then(|n| reading.integer(n, "keep_days", DAYS.0, DAYS.1));
    let reason = reading
        .needed(&fields, WHAT, "reason", "reason: one year, SOC 2")
        .and_then(|n| reading.text(n, "reason").map(str::to_owned));
    reason.and(days)
}
