//! The command line of reading the ledger: which entries, and a session's timeline.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use time::{Date, OffsetDateTime, Time, format_description::well_known::Rfc3339};

use super::layers::age;

/// Which entries. All that is given must hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which entries")]
pub struct FilterArgs {
    /// Only entries of this session (id, prefix, or name)
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
    /// Only entries of sessions of this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// Only entries of this type, for example decision, exec, connect, commit
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Only decisions with this effect
    #[arg(long, value_name = "EFFECT")]
    pub effect: Option<String>,
    /// Only decisions by this rule
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
    /// Only what is about this path or something below it; a pattern as in policies
    #[arg(long, value_name = "PATH|GLOB", value_hint = ValueHint::AnyPath)]
    pub path: Option<String>,
    /// Only actions with this id, or whose intent has these words, with all that belongs to them
    #[arg(long, value_name = "TEXT|ID")]
    pub intent: Option<String>,
    /// Only from this moment on: RFC 3339, a date, or an age such as 90s, 15min, 2h, 3d
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub since: Option<OffsetDateTime>,
    /// Only before this moment
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub until: Option<OffsetDateTime>,
}

/// `agentwall ledger timeline`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  agentwall ledger timeline\n  \
    agentwall ledger timeline k3f9 --html session.html\n  \
    agentwall ledger timeline k3f9 --json | jq -r '.events[] | select(.lane == \"network\") | .text'")]
pub struct TimelineArgs {
    /// The session (id, prefix, or name; of several the newest) [default: the newest]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// Write a page with a picture to this file; - is standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "json")]
    pub html: Option<PathBuf>,
    /// Write the picture alone to this file; - is standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["json", "html"])]
    pub svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall ledger export`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Each line tells the number of its entry and the name of the log. A collector that keeps the \
    greatest number goes on with --from.\n\nExamples:\n  \
    agentwall ledger export --format ocsf --since 1d > day.ocsf.jsonl\n  \
    agentwall ledger export --format cef --effect deny --follow | logger --tag agentwall\n  \
    agentwall ledger export --bundle audit.tar --since 2026-10-01 --until 2027-01-01\n\n\
    'agentwall ledger verify audit.tar --key VKEY' checks such an archive; what narrows its text leaves the log in it whole."
)]
pub struct ExportArgs {
    /// The form of the lines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub format: Format,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Begin with this entry
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from: u64,
    /// Stay and write new entries as they come
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// Write an archive for an auditor to this file: the whole log as it is signed, and the text of the entries that are picked
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["format", "from", "follow"])]
    pub bundle: Option<PathBuf>,
    /// In that archive, no text at all
    #[arg(long, requires = "bundle")]
    pub without_text: bool,
}

/// `agentwall ledger prune`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall ledger prune              what would be removed\n  \
    agentwall ledger prune --yes\n\n\
    What may go is written in retention.yaml in the state folder:\n\n  \
    agentwall-retention: 1\n  keep_days: 400\n  reason: one year, SOC 2\n\n\
    Entries go in bundles of 256, the oldest first. Their hashes stay: the log, and proofs of entries that \
    somebody kept, verify as before."
)]
pub struct PruneArgs {
    /// Only what is from before this moment: RFC 3339, a date, or an age [default: as the policy says]
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub before: Option<OffsetDateTime>,
    /// The same, as an age: what is younger stays, for example 400d
    #[arg(long, value_name = "AGE", value_parser = age, conflicts_with = "before")]
    pub keep: Option<std::time::Duration>,
    /// Remove it; without this the command only tells
    #[arg(long)]
    pub yes: bool,
    /// Only tell, which is the default
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall ledger timestamp`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall ledger timestamp --tsa https://tsa.example/ --ca tsa-root.pem\n\n\
    The authority is sent the SHA-256 of the newest signed checkpoint, and nothing else. Its answer is kept in timestamps/ in \
    the state folder, with the checkpoint and the certificates of --ca; 'agentwall ledger verify' tells what it says. Without --ca \
    the answer is kept, and nobody has checked who signed it.\n\n\
    By other means: openssl ts -verify -data FILE.checkpoint -in FILE.tsr -CAfile FILE.pem"
)]
pub struct TimestampArgs {
    /// The authority's URL
    #[arg(long, value_name = "URL")]
    pub tsa: String,
    /// Certificates that lead to the authority's, in PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall ledger rotate-key`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall ledger rotate-key --reason 'once a year'\n\n\
    An entry names both keys; the checkpoint that it is the last one of has the signatures of both, all later ones that of \
    the new key alone. The proof of that stays in the log: whoever has pinned the old key, or the new one, verifies as \
    before. Witnesses take the new key only when they are told it. The old key is destroyed; copies of it elsewhere are \
    not reached. What was cut off is finished by the next command that writes the ledger."
)]
pub struct RotateKeyArgs {
    /// Why; kept with the record
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall ledger erase`.
#[derive(Debug, Clone, Args)]
#[command(
    group(clap::ArgGroup::new("what").required(true).multiple(false)),
    after_help = "Examples:\n  agentwall ledger erase --session k3f9 --dry-run\n  \
    agentwall ledger erase --user alice --basis 'asked for it, ticket 812'\n  \
    agentwall ledger erase --entry 41 --yes\n\n\
    The entries stay, with what is plain in them and with commitments to what was not; all proofs hold. First a \
    'redaction' is in the ledger, then the keys are destroyed. A session that runs is refused. Copies of the state \
    folder elsewhere are not reached.\n\n\
    Exit status: 0 erased, or nothing to erase; 1 not erased, 2 wrong usage."
)]
pub struct EraseArgs {
    /// All entries of this session (id, prefix, or last part)
    #[arg(long, value_name = "SESSION", group = "what")]
    pub session: Option<String>,
    /// All sessions of this agent
    #[arg(long, value_name = "NAME", group = "what")]
    pub agent: Option<String>,
    /// All sessions that this user (name or uid) started
    #[arg(long, value_name = "NAME", group = "what")]
    pub user: Option<String>,
    /// This entry; may be given several times
    #[arg(long, value_name = "N", group = "what")]
    pub entry: Vec<u64>,
    /// On what grounds; kept with the record of the erasure
    #[arg(long, value_name = "TEXT")]
    pub basis: Option<String>,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Tell what would be erased, and erase nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// In which form entries leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The entries as they are, with their numbers
    #[default]
    Jsonl,
    /// Open Cybersecurity Schema Framework 1.3.0
    Ocsf,
    /// OpenTelemetry log records, in the JSON of OTLP
    Otel,
    /// Common Event Format
    Cef,
}

/// A moment in the spellings of the help.
fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(moment);
    }
    let day = time::macros::format_description!("[year]-[month]-[day]");
    if let Ok(date) = Date::parse(text, day) {
        return Ok(date.with_time(Time::MIDNIGHT).assume_utc());
    }
    // A bare number would be days, which is no moment that anybody means.
    let unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    let ago = age(text).ok().filter(|_| unit);
    ago.and_then(|ago| OffsetDateTime::now_utc().checked_sub(ago.try_into().ok()?))
        .ok_or_else(|| {
            "expected RFC 3339 (2026-01-31T09:00:00Z), a date (2026-01-31) or an age (15min, 2h, 3d)"
                .to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_three_spellings() {
        let at = |text: &str| moment(text).map(OffsetDateTime::unix_timestamp);
        assert_eq!(at("1970-01-02"), Ok(86_400));
        assert_eq!(at("1970-01-01T01:00:00Z"), Ok(3600));
        assert_eq!(at("1970-01-01T01:00:00+01:00"), Ok(0));
        let ago = OffsetDateTime::now_utc().unix_timestamp() - at("2h").unwrap();
        assert!((7200..7260).contains(&ago), "{ago}");
        for wrong in [
            "",
            "2",
            "yesterday",
            "1970-13-01",
            "99999999999999999999d",
            "-2h",
        ] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
