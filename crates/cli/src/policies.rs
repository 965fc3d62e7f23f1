//! Which policy a run is under, and the values of its variables.
//!
//! With `--policy FILE` that file alone. Otherwise the user's policy, tightened by the host's
//! (`/etc/agentwall/policy.yaml`, the organisation's layer) and by the workspace's own
//! `agentwall.yaml` (the repository's layer), where they exist. Layers only tighten. In the place of
//! each but the repository's a signed bundle may stand: see [`crate::bundles`].

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use agentwall_bundle::{MAX_BUNDLE, Opened, is_bundle};
use agentwall_policy::{Guard, Layer, MAX_FILE, Policy, Source, Variables, templates};
use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    bundles::{self, Trust},
    state::{self, State, shown},
};

/// The policy of the whole host.
pub const ORGANISATION: &str = "/etc/agentwall/policy.yaml";

/// The name of a repository's own policy.
pub const REPOSITORY: &str = "agentwall.yaml";

/// Where a run's policy is, so that it can be read again while the run goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The user's layer of a named template (`agentwall claude`).
    pub user: Option<PathBuf>,
    /// This file or bundle alone (`--policy`).
    pub policy: Option<PathBuf>,
    /// The keys of `--trust`.
    pub trust: Vec<OsString>,
}

impl Origin {
    /// The policy as it is now.
    pub fn choose(&self, workspace: &Path) -> Result<Chosen> {
        match &self.user {
            Some(file) => choose_with_user(file, workspace),
            None => choose(self.policy.as_deref(), &self.trust, workspace),
        }
    }

    /// The content of a file or bundle in its place, under the same keys.
    pub fn take(&self, file: &Path, text: Vec<u8>) -> Result<Chosen> {
        taken(file, text, Layer::User, &Trust::of_host(&self.trust)?)
    }
}

/// A policy that was chosen, and where it came from.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// What is loaded.
    pub sources: Vec<Source>,
    /// The files it was read from: what must be kept from the agent.
    pub files: Vec<PathBuf>,
    /// The bundles among them. Verified, and not older than what this host has used.
    pub bundles: Vec<Opened>,
}

impl Chosen {
    /// A policy that is in no file.
    pub fn built_in(source: Source) -> Chosen {
        Chosen {
            sources: vec![source],
            ..Chosen::default()
        }
    }

    fn extend(&mut self, other: Chosen) {
        self.sources.extend(other.sources);
        self.files.extend(other.files);
        self.bundles.extend(other.bundles);
    }
}

/// The policy of a run in `workspace`: `--policy` as given, or the layers that exist. `trust` has
/// the keys of `--trust`.
pub fn choose(policy: Option<&Path>, trust: &[OsString], workspace: &Path) -> Result<Chosen> {
    let trust = Trust::of_host(trust)?;
    let mut chosen = match policy {
        Some(path) => read(path, Layer::User, &trust)?,
        None => layers(&user_policy()?, &trust, workspace)?,
    };
    chosen.files.extend_from_slice(trust.given());
    Ok(chosen)
}

/// The policy of a run of a named template (`agentwall claude`), its user policy being `file`.
pub fn choose_with_user(file: &Path, workspace: &Path) -> Result<Chosen> {
    layers(file, &Trust::of_host(&[])?, workspace)
}

/// The sources of [`choose`], with the keys that the host trusts.
pub fn policy_sources(policy: Option<&Path>, workspace: &Path) -> Result<Vec<Source>> {
    Ok(choose(policy, &[], workspace)?.sources)
}

fn layers(user: &Path, trust: &Trust, workspace: &Path) -> Result<Chosen> {
    let mut chosen = Chosen::default();
    if let Some(organisation) = either(Path::new(ORGANISATION))? {
        chosen.extend(read(&organisation, Layer::Organisation, trust)?);
    }
    chosen.extend(read(user, Layer::User, trust)?);
    let repository = workspace.join(REPOSITORY);
    if exists(&repository)? {
        // Whoever wrote the repository is nobody's issuer; what it says only tightens.
        chosen
            .sources
            .push(read_source(&repository, Layer::Repository)?);
        chosen.files.push(repository);
    }
    Ok(chosen)
}

/// The policy file or the bundle beside it, whichever exists.
///
/// # Errors
/// Both do.
fn either(yaml: &Path) -> Result<Option<PathBuf>> {
    let bundle = yaml.with_extension("bundle");
    match (exists(yaml)?, exists(&bundle)?) {
        (false, false) => Ok(None),
        (true, false) => Ok(Some(yaml.to_owned())),
        (false, true) => Ok(Some(bundle)),
        (true, true) => bail!(
            "both {} and {} exist, and only one can be the policy; move one away",
            shown(yaml),
            shown(&bundle)
        ),
    }
}

/// Reads a policy file or a bundle.
fn read(path: &Path, layer: Layer, trust: &Trust) -> Result<Chosen> {
    taken(path, read_bytes(path)?, layer, trust)
}

/// What was read, if it may be used.
fn taken(path: &Path, text: Vec<u8>, layer: Layer, trust: &Trust) -> Result<Chosen> {
    let files = vec![path.to_owned()];
    if is_bundle(&text) {
        let name = name_of(path)?;
        let opened = bundles::open(path, &text, trust)?;
        let sources = opened.bundle.sources.iter().map(|s| Source {
            name: format!("{name}:{}", s.name),
            ..s.clone()
        });
        return Ok(Chosen {
            sources: sources.collect(),
            files,
            bundles: vec![opened],
        });
    }
    trust.unsigned_is_taken(path)?;
    Ok(Chosen {
        sources: vec![Source::new(name_of(path)?, text, layer)],
        files,
        bundles: Vec::new(),
    })
}

/// The user's policy: `policy.yaml`, else the newest one made from a template.
pub fn user_policy() -> Result<PathBuf> {
    let dir = state::policy_dir()?;
    if let Some(own) = either(&dir.join("policy.yaml"))? {
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

/// Reads one source; its name is the path. A bundle is refused: it is more than a source.
pub fn read_source(path: &Path, layer: Layer) -> Result<Source> {
    let text = read_bytes(path)?;
    if is_bundle(&text) {
        bail!(
            "{} is a signed bundle, and a policy file is expected; 'agentwall policy bundle inspect' \
             shows what is in it, --policy takes it",
            shown(path)
        );
    }
    Ok(Source::new(name_of(path)?, text, layer))
}

/// The name of a source: its path. By this name the file is kept out of the agent's reach.
pub fn name_of(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        anyhow!(
            "cannot use the policy {}: its path is not UTF-8, and what cannot be named exactly \
             cannot be kept from the agent; rename it",
            shown(path)
        )
    })
}

/// Reads a policy, a bundle or a table: what is no file is an error, and little more is read than a
/// loader takes.
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
    let mut file = file.take(MAX_FILE as u64 + 1);
    file.read_to_end(&mut text)?;
    if is_bundle(&text) {
        file.set_limit((MAX_BUNDLE - MAX_FILE) as u64);
        file.read_to_end(&mut text)?;
    }
    Ok(text)
}

/// The content of a policy file or bundle, and at most a little more than the longest one.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    read_file(path).map_err(|e| {
        let next = match e.kind() {
            io::ErrorKind::NotFound => "'agentwall init' writes one",
            io::ErrorKind::IsADirectory => "name the file",
            io::ErrorKind::PermissionDenied => "make it readable, or name another with --policy",
            _ => "name another with --policy",
        };
        anyhow!("cannot read the policy {}: {e}; {next}", shown(path))
    })
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

/// What is never proposed under these values: keys, metadata services, the wall's state and policies.
pub fn guard(variables: &Variables) -> Guard {
    let own: Vec<PathBuf> = state::policy_dir()
        .into_iter()
        .map(|dir| fs::canonicalize(&dir).unwrap_or(dir))
        .collect();
    Guard::new(variables, &own)
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
