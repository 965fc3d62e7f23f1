//! The function library, filled in: the widths of the windows are written in one place.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use crate::{Window, window::Counter};

const SOURCE: &str = include_str!("budget.lua");

/// The library as one version of it is loaded. Functions have the name of their library in theirs: Redis
/// keeps one name space for all of them.
#[derive(Debug)]
pub(super) struct Library {
    pub source: String,
    pub admit: String,
    pub settle: String,
}

/// The library of this version. Its name has a digest of its text, so that instances of two versions can use
/// one server while they are exchanged.
pub(super) static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let windows = Window::ALL.map(|w| format!("{{ {}, {} }}", w.bucket_ms(), w.buckets()));
    // One sub-bucket more than a strict window needs, for windows that count a spare one.
    let life = Counter::LIFE + Window::Day.bucket_ms();
    let text = SOURCE
        .replace("@WINDOWS@", &format!("{{ {} }}", windows.join(", ")))
        .replace("@LIFE@", &life.to_string());
    let digest = Sha256::digest(text.as_bytes());
    let name = format!(
        "agentwall_budget_1_{:02x}{:02x}{:02x}{:02x}",
        digest[0], digest[1], digest[2], digest[3]
    );
    Library {
        admit: format!("{name}_admit"),
        settle: format!("{name}_settle"),
        source: text.replace("@NAME@", &name),
    }
});

#[cfg(test)]
#[path = "library_tests.rs"]
mod tests;
