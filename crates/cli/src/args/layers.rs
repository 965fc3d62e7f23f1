//! The command line of what a session's layers go through beside diff, commit and discard: beginning
//! where another session is, checkpoints, and making room.

use std::time::Duration;

use clap::{Args, ValueHint};

/// Where a run begins, and whether anything of it stays.
#[derive(Debug, Clone, Default, Args)]
pub struct Beginning {
    /// Go on in this ended session, in its own layers: id, unique prefix or name
    #[arg(long, value_name = "SESSION", value_hint = ValueHint::Other,
          conflicts_with_all = ["from", "name", "ephemeral"])]
    pub on: Option<String>,
    /// Begin a new session with a copy of this ended session's layers
    #[arg(long, value_name = "SESSION", value_hint = ValueHint::Other)]
    pub from: Option<String>,
    /// Leave nothing: changes are dropped at the end, and the session is not listed any more. The
    /// ledger keeps what was decided
    #[arg(long, conflicts_with = "ending")]
    pub ephemeral: bool,
}

/// `agentwall checkpoint`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall checkpoint\n  agentwall checkpoint k3f9 --name before-refactoring\n  \
    agentwall checkpoint --list\n  agentwall checkpoint k3f9 --delete before-refactoring\n\n\
    Keeps what a session's layers are now; 'agentwall rollback' goes back there. The originals have \
    no part in it. A session that runs is stopped for the moment of the copy and then goes on; one \
    that cannot be stopped is refused. Contents are shared where the file system can, else copied.\n\n\
    Exit status: 0 done; 1 refused or failed; 2 wrong usage."
)]
pub struct CheckpointArgs {
    /// Session: id, unique prefix or name [default: the newest of this workspace]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// Its name: letters, digits, '-' and '_' [default: c1, c2, …]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["list", "delete"])]
    pub name: Option<String>,
    /// List the session's checkpoints
    #[arg(long, short = 'l', conflicts_with = "delete")]
    pub list: bool,
    /// Remove a checkpoint
    #[arg(long, value_name = "NAME")]
    pub delete: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall rollback`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall rollback\n  agentwall rollback k3f9 before-refactoring\n  \
    agentwall rollback before-1      go back to what was there before a rollback\n\n\
    Puts an ended session's layers back to a checkpoint, exactly. What is there now becomes a \
    checkpoint of its own first (before-1, before-2, …), so a rollback can be taken back. A single \
    word is a checkpoint of the newest session of this workspace, else a session; without a \
    checkpoint it is the newest one that a person made.\n\n\
    The originals are not touched. What was committed since the checkpoint stays committed: where the \
    session has the same now there is no change, elsewhere the next commit would carry the older \
    state over.\n\n\
    Exit status: 0 done; 1 refused or failed; 2 wrong usage."
)]
pub struct RollbackArgs {
    /// Session: id, unique prefix or name [default: the newest of this workspace]
    #[arg(value_name = "SESSION")]
    pub session: Option<String>,
    /// The checkpoint's name [default: the newest that a person made]
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: Option<String>,
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `agentwall gc`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall gc --dry-run\n  agentwall gc --max-age 30d\n  \
    agentwall gc --max-size 2G --discard-uncommitted\n\n\
    Without options it removes what nothing needs: ended sessions with nothing left in their layers, \
    no commit to undo and no checkpoint; originals kept for an undo for more than 7 days; checkpoints \
    that rollbacks made more than 7 days ago; what ephemeral or cut-off sessions left.\n\n\
    --max-age also takes undo, checkpoints and sessions with nothing left that are older; --max-size \
    the same, the oldest first, until the state folder is no larger (sizes are blocks on disk; the \
    ledger counts and stays). Changes that are not committed are never dropped, unless \
    --discard-uncommitted says so; a running session is never touched.\n\n\
    Exit status: 0 done; 1 something could not be removed, or the size is still above; 2 wrong usage."
)]
pub struct GcArgs {
    /// Show what would be removed, remove nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Remove what is older, for example 12h, 30d or 4w
    #[arg(long, value_name = "DURATION", value_parser = age)]
    pub max_age: Option<Duration>,
    /// Make the state folder no larger than this, for example 500M or 2G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Also drop changes that are not committed, where age or size ask for it
    #[arg(long)]
    pub discard_uncommitted: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl GcArgs {
    /// Why the options make no sense together.
    pub fn wrong(&self) -> Option<&'static str> {
        let unbounded = self.max_age.is_none() && self.max_size.is_none();
        (self.discard_uncommitted && unbounded)
            .then_some("--discard-uncommitted needs --max-age or --max-size: which changes?")
    }
}

/// A number with a unit, as unit of the first table entry.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let (_, factor) = units
        .iter()
        .find(|(name, _)| unit.eq_ignore_ascii_case(name))?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Days, or a number with `s`, `min`, `h`, `d` or `w`.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let units = [
        ("", 86_400),
        ("s", 1),
        ("min", 60),
        ("h", 3600),
        ("d", 86_400),
        ("w", 7 * 86_400),
    ];
    scaled(text, &units)
        .map(Duration::from_secs)
        .ok_or_else(|| "expected an age such as 12h, 30d or 4w".into())
}

/// Bytes, or a number with `K`, `M`, `G` or `T` (powers of 1024).
fn size(text: &str) -> Result<u64, String> {
    let units = [
        ("", 1),
        ("K", 1 << 10),
        ("M", 1 << 20),
        ("G", 1 << 30),
        ("T", 1 << 40),
    ];
    scaled(text, &units).ok_or_else(|| "expected a size such as 500M or 2G".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes() {
        for (text, seconds) in [
            ("2", 172_800),
            ("90min", 5400),
            ("12h", 43_200),
            ("1w", 604_800),
        ] {
            assert_eq!(age(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for (text, bytes) in [("7", 7), ("2k", 2048), ("3G", 3 << 30)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for wrong in ["", "-1", "1.5G", "G", "1x", "99999999999999999T", "\u{fc}"] {
            assert!(size(wrong).is_err() && age(wrong).is_err(), "{wrong}");
        }
    }
}
