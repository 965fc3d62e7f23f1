//! What a ledger says of past sessions: read only after it has verified.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use agentwall_action::unescape_bytes;
use agentwall_ledger::{
    Entry, Reader,
    entry::{PolicyVariables, clip::is_cut},
    verify,
};
use agentwall_policy::Variables;
use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    cmd::ledger,
    output::tame,
    state::{State, shown},
};

/// A ledger that has verified, up to the size it had then.
pub(super) struct Verified {
    dir: PathBuf,
    reader: Reader,
    /// What is before it was removed, as the log's retention policy says.
    first: u64,
    size: u64,
}

impl Verified {
    /// Verifies a ledger, this user's own by default, with the key given or this user's own.
    ///
    /// # Errors
    /// There is none, it does not verify, or it was exchanged meanwhile.
    pub(super) fn open(dir: Option<&Path>, key: Option<&OsStr>) -> Result<Verified> {
        let (dir, options) = ledger::what(dir, key)?;
        let refused = || refused(&dir);
        let report = verify(&dir, &options)
            .map_err(|e| anyhow!("{}", tame(&e.to_string())))
            .with_context(refused)?;
        let reader = Reader::open_signed(&dir, &options.key).with_context(refused)?;
        let reader = State::with_own_text(reader, &dir);
        if reader.size() < report.size || reader.root_at(report.size)? != report.root {
            bail!("{}: it was exchanged while it was read", refused());
        }
        let (first, size) = (report.pruned, report.size);
        Ok(Verified {
            dir,
            reader,
            first,
            size,
        })
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// All entries that are there, with their indices.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<(u64, Entry)>> {
        (self.first..self.size).map(|index| {
            let refused = || refused(&self.dir);
            Ok((index, self.reader.told(index).with_context(refused)?.entry))
        })
    }
}

fn refused(dir: &Path) -> String {
    format!("the ledger {} does not verify", shown(dir))
}

/// Whether a person's text means a session, as for 'ledger show'.
pub(super) fn means(text: &str, id: &str, name: Option<&str>) -> bool {
    !text.is_empty()
        && (id.starts_with(text) || id.rsplit('-').next() == Some(text) || name == Some(text))
}

/// The recorded variables as paths; `None` if one of them is not what was written.
pub(super) fn values(texts: &PolicyVariables) -> Option<Variables> {
    let path = |text: &Option<String>| -> Option<Option<PathBuf>> {
        let Some(text) = text else {
            return Some(None);
        };
        if is_cut(text) {
            return None;
        }
        Some(Some(OsString::from_vec(unescape_bytes(text)?).into()))
    };
    Some(Variables {
        workspace: path(&texts.workspace)?,
        home: path(&texts.home)?,
        tmp: path(&texts.tmp)?,
        state: path(&texts.state)?,
    })
}
