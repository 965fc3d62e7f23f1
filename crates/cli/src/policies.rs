//! Which policy a run is under, and the values of its variables.
//!
//! With `--policy FILE` that file alone. Otherwise the user's policy, tightened by the host's
//! (`/etc/agentwall/policy.yaml`, the organisation's layer) and by the workspace's own
//! `agentwall.yaml` (the repository's layer), where they exist. Layers only tighten.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agentwall_policy::{Layer, MAX_FILE, Policy, Source, Variables, templates};
use anyhow::{Context as _, Result, anyhow, bail};

use crate::state::{self, State, shown};

/// The policy of the whole host.
pub const ORGANISATION: &str = "/etc/agentwall/policy.yaml";

/// The name of a repository's own policy.
pub const REPOSITORY: &str = "agentwall.yaml";

/// The sources for a run in `workspace`: `--policy` as given, or the layers that exist.
pub fn policy_sources(policy: Option<&Path>, workspace: &Path) -> Result<Vec<Source>> {
    if let Some(path) = policy {
        return Ok(vec![read_source(path, Layer::User)?]);
    }
    let mut sources = Vec::new();
    sources.extend(read_if_there(Path::new(ORGANISATION), Layer::Organisation)?);
    sources.push(read_source(&user_policy()?, Layer::User)?);
    sources.extend(read_if_there(
        &workspace.join(REPOSITORY),
        Layer::Repository,
    )?);
    Ok(sources)
}

/// The sources for a run of a named template (`agentwall claude`), its user policy being `file`.
pub fn sources_with_user(file: &Path, workspace: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    sources.extend(read_if_there(Path::new(ORGANISATION), Layer::Organisation)?);
    sources.push(read_source(file, Layer::User)?);
    sources.extend(read_if_there(
        &workspace.join(REPOSITORY),
        Layer::Repository,
    )?);
    Ok(sources)
}

/// The user's policy: `policy.yaml`, else the newest one made from a template.
pub fn user_policy() -> Result<PathBuf> {
    let dir = state::policy_dir()?;
    let own = dir.join("policy.yaml");
    if exists(&own)? {
        return Ok(own);
    }
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for template in templates() {
        let path = dir.join(format!("{}.yaml", template.name));
        if exists(&path)? {
            let time = fs::metadata(&path)
                .and_then(|m| m.modified())
                .with_context(|| format!("cannot examine {}", shown(&path)))?;
            if newest.as_ref().is_none_or(|(t, _)| time > *t) {
                newest = Some((time, path));
            }
        }
    }
    newest.map(|(_, path)| path).ok_or_else(|| {
        anyhow!(
            "there is no policy in {}; write one with 'agentwall init', or name one with --policy FILE",
            shown(&dir)
        )
    })
}

/// Reads a policy or a table: what is no file is an error, and no more is read than a loader takes.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    // A FIFO that nobody writes into must not hold the caller up for ever; one that somebody
    // writes into (a shell's process substitution) is read to its end.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    rustix::io::ioctl_fionbio(&file, false)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut text = Vec::new();
    // One byte more than the loader takes, so that it complains.
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Reads one source; its name is the path.
pub fn read_source(path: &Path, layer: Layer) -> Result<Source> {
    let text = read_file(path).map_err(|e| {
        let next = match e.kind() {
            io::ErrorKind::NotFound => "'agentwall init' writes one",
            io::ErrorKind::IsADirectory => "name the file",
            io::ErrorKind::PermissionDenied => "make it readable, or name another with --policy",
            _ => "name another with --policy",
        };
        anyhow!("cannot read the policy {}: {e}; {next}", shown(path))
    })?;
    // By this name the file is found again and kept out of the agent's reach.
    let Some(name) = path.to_str() else {
        bail!(
            "cannot use the policy {}: its path is not UTF-8, and what cannot be named exactly \
             cannot be kept from the agent; rename it",
            shown(path)
        );
    };
    Ok(Source::new(name.to_owned(), text, layer))
}

/// The variables of a run: canonical workspace, home, temporary folder and state folder.
pub fn variables(state: Option<&State>, workspace: &Path) -> Result<Variables> {
    let canonical = |path: PathBuf| fs::canonicalize(&path).unwrap_or(path);
    let tmp = std::env::var_os("TMPDIR")
        .map(PathBuf::from)
        .filter(|t| t.is_absolute());
    Ok(Variables {
        workspace: Some(workspace.to_owned()),
        home: state::home().ok().map(canonical),
        tmp: Some(canonical(tmp.unwrap_or_else(|| "/tmp".into()))),
        state: state.map(|s| s.root().to_owned()),
    })
}

/// The workspace folder: `--workspace`, else the current folder; canonical.
pub fn workspace(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_dir()
            .context("cannot tell the current folder; name one with --workspace")?,
    };
    let canonical = fs::canonicalize(&path).map_err(|e| {
        anyhow!(
            "cannot use the workspace {}: {e}; name a folder with --workspace",
            shown(&path)
        )
    })?;
    if !canonical.is_dir() {
        bail!(
            "the workspace {} is not a folder; name one with --workspace",
            shown(&canonical)
        );
    }
    Ok(canonical)
}

/// Loads sources; the error is the complete report.
pub fn load(sources: &[Source], variables: &Variables) -> Result<Policy> {
    agentwall_policy::load(sources, variables).map_err(|e| anyhow!("{e}"))
}

fn read_if_there(path: &Path, layer: Layer) -> Result<Option<Source>> {
    if exists(path)? {
        read_source(path, layer).map(Some)
    } else {
        Ok(None)
    }
}

/// Whether something is there; a place that cannot be examined is an error, not an absence.
fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(e) => Err(e).with_context(|| format!("cannot examine {}", shown(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    /// What is no file is refused at once; what a shell's process substitution gives is read.
    #[test]
    fn a_policy_that_is_no_file_is_refused_and_a_pipe_is_read_to_its_end() {
        let tmp = tempfile::tempdir().unwrap();
        let fifo = tmp.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        // Nobody writes into it.
        assert!(read_source(&fifo, Layer::User).unwrap().text.is_empty());
        let path = fifo.clone();
        let (opened, wait) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            use std::io::Write as _;
            // Read and write: opening does not wait for a reader.
            let options = fs::OpenOptions::new().read(true).write(true).open(&path);
            let mut both = options.unwrap();
            opened.send(()).unwrap();
            for part in ["agentwall: 1\n", "default: deny\n"] {
                std::thread::sleep(std::time::Duration::from_millis(20));
                both.write_all(part.as_bytes()).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        });
        wait.recv().unwrap();
        let read = read_source(&fifo, Layer::User).unwrap();
        writer.join().unwrap();
        assert_eq!(read.text, b"agentwall: 1\ndefault: deny\n");
        let odd = std::ffi::OsStr::from_bytes(b"\xff.yaml");
        fs::write(tmp.path().join(odd), "agentwall: 1\n").unwrap();
        for (path, next) in [
            (tmp.path().to_owned(), "name the file"),
            (tmp.path().join("nothing"), "agentwall init"),
            (tmp.path().join(odd), "rename it"),
        ] {
            let error = read_source(&path, Layer::User).unwrap_err().to_string();
            assert!(
                error.contains("the policy") && error.contains(next),
                "{error}"
            );
        }
    }
}
