//! Which signatures of agents are in use: those that were installed, else the built-in ones.
//!
//! ```text
//! ROOT/agents.installed   the public key it was installed under, a newline, the bundle as it came
//! ```
//!
//! Invariants: an installed file is verified each time it is read, under the key beside it and against
//! the memory of what was used; one that cannot be used stops what needs it, and the built-in data
//! never take its place silently.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agentwall_agents::{Signatures, built_in};
use agentwall_bundle::{Kind, MAX_BUNDLE, Opened, open_kind};
use agentwall_ledger::Verifier;
use agentwall_policy::Source;
use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    bundles,
    session::write_atomically,
    state::{State, shown},
};

/// Signatures, and where they are from.
#[derive(Debug, Clone)]
pub struct Known {
    /// The signatures.
    pub signatures: Signatures,
    /// The bundle they were in; `None` for the built-in ones.
    pub bundle: Option<Opened>,
}

/// The signatures in use.
pub fn load(state: &State) -> Result<Known> {
    let path = place(state);
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Known {
            signatures: built_in().context("the built-in signatures are broken: a defect of this program")?,
            bundle: None,
        }),
        _ => installed(state, &path).map_err(|e| {
            anyhow!(
                "the installed signatures {} cannot be used: {}; install them again with 'agentwall \
                 agents update FILE', or go back to the built-in ones with 'agentwall agents update \
                 --built-in'",
                shown(&path),
                crate::output::explain(&e)
            )
        }),
    }
}

/// Loads signature files and runs their tests.
///
/// # Errors
/// Also a test that fails: what does not know its own examples finds nothing.
pub fn read(sources: &[Source]) -> Result<Signatures> {
    let signatures = agentwall_agents::load(sources)?;
    let report = signatures.run_tests();
    if let Some(first) = report.failures.first() {
        bail!(
            "{} of its {} tests fail, first {first}; 'agentwall agents test FILE' shows all",
            report.failures.len(),
            report.run
        );
    }
    Ok(signatures)
}

/// Installs a bundle that was opened, if its signatures can be used.
pub fn install(state: &State, opened: &Opened, bytes: &[u8]) -> Result<Signatures> {
    let signatures = read(&opened.bundle.sources).context("nothing was installed")?;
    let mut text = format!("{}\n", opened.key).into_bytes();
    text.extend_from_slice(bytes);
    let path = place(state);
    bundles::install(state, opened, || {
        write_atomically(&path, &text).with_context(|| format!("cannot write {}", shown(&path)))
    })?;
    Ok(signatures)
}

/// Removes what was installed. Whether there was something. The memory of it stays: an older bundle is
/// refused later, too.
pub fn remove(state: &State) -> Result<bool> {
    let path = place(state);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot remove {}", shown(&path))),
    }
}

fn place(state: &State) -> PathBuf {
    state.root().join("agents.installed")
}

fn installed(state: &State, path: &Path) -> Result<Known> {
    let meta = fs::symlink_metadata(path).context("it cannot be examined")?;
    if !meta.is_file() {
        bail!("it is not a regular file");
    }
    if meta.len() > (MAX_BUNDLE + 4096) as u64 {
        bail!("it has {} bytes, more than a bundle may have", meta.len());
    }
    let text = fs::read(path).context("it cannot be read")?;
    let end = text.iter().position(|b| *b == b'\n');
    let end = end.context("it does not begin with a public key")?;
    let key = std::str::from_utf8(&text[..end]).ok().map(Verifier::parse);
    let Some(Ok(key)) = key else {
        bail!("it does not begin with a public key");
    };
    let opened = open_kind(&text[end + 1..], &[key], Kind::Agents)?;
    bundles::compare(state, &opened)?;
    Ok(Known {
        signatures: agentwall_agents::load(&opened.bundle.sources)?,
        bundle: Some(opened),
    })
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
