//! The command line of `agentwall review`, and what `commit` takes from a review.

use clap::{Args, ValueEnum};

use super::Selection;

/// `agentwall review`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  agentwall review\n  agentwall review k3f9 -- src\n\n\
    Marks each change, or each hunk of a file, to be accepted, rejected or left, shows what that \
    comes to, and asks before anything is done. Accepted changes are committed, rejected ones dropped, \
    the rest stays in the session. Key ? tells the keys. NO_COLOR is respected.\n\n\
    It needs a terminal. Without one: 'agentwall diff' shows the changes, 'agentwall commit -- PATHS' \
    commits them.\n\n\
    Exit status: 0 done, also when nothing was accepted; 1 failed; 2 wrong usage; 3 conflicts."
)]
pub struct ReviewArgs {
    /// Which session and which paths.
    #[command(flatten)]
    pub selection: Selection,
    /// No folder of the original was moved since the session began (see a conflict that says so)
    #[arg(long)]
    pub trust_directories: bool,
}

/// `commit --merge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Merge {
    /// What does not overlap
    Clean,
    /// Also what overlaps, with conflict markers in the text
    Markers,
}

/// A digest: 64 hexadecimal digits.
pub fn digest(text: &str) -> Result<String, String> {
    match text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("expected the 64 hexadecimal digits that 'agentwall diff' shows".into()),
    }
}
