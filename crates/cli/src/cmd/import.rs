//! `agentwall import`: a session of an archive that another machine exported.
//!
//! Everything is checked before anything is made: the archive's form, its proof, who vouches for it, and
//! where its layers belong here. A session that does not come to be whole is removed again.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufReader, Seek as _, SeekFrom},
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentwall_action::escape_bytes;
use agentwall_cow::{
    Archive, ArchiveLimits, Difference, ImportOptions, Layer, Limits, Part, Place, Unpacked,
    base_timestamp, inspect, take, unpack,
};
use agentwall_ledger::{
    Record,
    entry::{Import, PolicyRecord, PolicySource, User},
    hash::sha256_hex,
};
use agentwall_policy::{Policy, Variables};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::portable::ImportArgs,
    bundles::{self, Trust},
    layers,
    output::{self, Style, paint},
    policies::{self, Chosen},
    proof::{self, Vouched},
    session::{NewSession, Session},
    state::{self, State, now_ms, shown},
};

/// Runs the command.
pub fn main(args: ImportArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let refused = || format!("the archive {} is refused", shown(&args.file));
    let mut file = open(&args.file)?;
    let limits = ArchiveLimits::default();
    let archive =
        inspect(&mut BufReader::new(&file), limits).map_err(|e| anyhow!("{}: {e}", refused()))?;
    let vouched = proof::check(archive.proof(), archive.manifest(), archive.digest())
        .with_context(refused)?;
    let trusted = is_trusted(&state, &vouched, &args).with_context(refused)?;
    let parts = roots(&archive, &workspace, args.all).with_context(refused)?;
    privileges(&archive, &parts, &args).with_context(refused)?;
    let here = Here {
        archive: &archive,
        vouched: &vouched,
        trusted,
        parts: &parts,
        workspace: &workspace,
    };
    if args.dry_run {
        let mut differences = Vec::new();
        for (n, (_, root)) in parts.iter().enumerate() {
            let found = archive.differences(n, root).with_context(refused)?;
            differences.extend(found);
        }
        here.print(None, &differences, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = policies::choose(args.policy.as_deref(), &[], &workspace)?;
    let variables = policies::variables(Some(&state), &workspace)?;
    let policy = policies::load(&chosen.sources, &variables)?;
    for bundle in &chosen.bundles {
        bundles::remember(&state, bundle)?;
    }
    // Held until it is whole or gone again, however long that takes.
    let (session, _lock) = Session::create(
        &state,
        NewSession {
            name: archive.manifest().name.clone(),
            workspace: workspace.clone(),
            command: vec![
                "agentwall".into(),
                "import".into(),
                escape_bytes(args.file.as_os_str().as_bytes()),
            ],
        },
    )?;
    if let Err(e) = layers::mark_importing(&session) {
        let _ = session.remove_held();
        return Err(e.context("nothing was imported"));
    }
    let made = fill(&state, &session, &mut file, &here, &args)
        .and_then(|done| seal(&state, &session, done, &here, (chosen, variables, policy)));
    match made {
        Ok(done) => {
            here.print(Some(&session), &done.differences, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Err((error, layers)) => {
            // What was made so far is nobody's; the session's own record does not name it yet.
            let mut session = session;
            session.record.layers = layers;
            let removed = session.remove_held();
            let error = error.context("nothing was imported");
            Err(match removed {
                Ok(()) => error,
                Err(e) => error.context(format!("{e:#}")),
            })
        }
    }
}

/// Layers that were filled.
struct Done {
    layers: Vec<Layer>,
    differences: Vec<Difference>,
    entries: u64,
}

/// An import that failed, and what has to be removed.
type Failed = (anyhow::Error, Vec<Layer>);

fn open(path: &Path) -> Result<File> {
    let what = || format!("cannot read the archive {}", shown(path));
    let file = File::open(path).with_context(what)?;
    if !file.metadata().with_context(what)?.is_file() {
        bail!(
            "{}: it is no regular file, and it is read twice; copy it to one first",
            what()
        );
    }
    Ok(file)
}

/// Whether the key of the proof is trusted.
///
/// # Errors
/// It is not, and `--any-key` was not given.
fn is_trusted(state: &State, vouched: &Vouched, args: &ImportArgs) -> Result<bool> {
    let key = vouched.key.to_string();
    let own = state.verifier().ok().map(|own| own.to_string());
    let given = Trust::of_logs(&args.trust)?;
    if own.as_ref() == Some(&key) || given.keys().iter().any(|k| k.to_string() == key) {
        return Ok(true);
    }
    if args.any_key {
        return Ok(false);
    }
    bail!(
        "its log has a key that is not trusted here:\n  {}\nask whoever sent it for the output of \
         'agentwall ledger key' there; if it is this key, import with --trust KEY, or put it into {}",
        output::tame(&key),
        state::policy_dir()
            .map(|dir| shown(&dir.join("trusted-logs")))
            .unwrap_or_else(|_| "/etc/agentwall/trusted-logs".into())
    )
}

/// Where each layer belongs here.
fn roots<'a>(
    archive: &'a Archive,
    workspace: &Path,
    all: bool,
) -> Result<Vec<(&'a Part, PathBuf)>> {
    let home = state::home().ok();
    let home = home.map(|home| fs::canonicalize(&home).unwrap_or(home));
    let mut out = Vec::new();
    let mut seen = HashSet::new();
    for part in &archive.manifest().layers {
        if part.place != Place::Workspace && !all {
            bail!(
                "it has changes outside of the workspace, for {}; take them with --all, or have it \
                 exported without",
                place_text(part)
            );
        }
        let folder = match part.place {
            Place::Workspace => workspace,
            Place::Home => home
                .as_deref()
                .context("HOME is not set, and it has changes for it")?,
            Place::Absolute => Path::new("/"),
        };
        // Joining nothing would add a slash.
        let root = match part.path.as_os_str().is_empty() {
            true => folder.to_owned(),
            false => folder.join(&part.path),
        };
        let real = fs::canonicalize(&root).map_err(|e| {
            anyhow!(
                "the folder {} cannot be used: {e}; make it first",
                shown(&root)
            )
        })?;
        if real != root || !real.is_dir() {
            bail!(
                "{} is reached by a link or is no folder, and its changes are for that folder itself",
                shown(&root)
            );
        }
        if !seen.insert(real.clone()) {
            bail!("two of its layers are for {}", shown(&real));
        }
        out.push((part, real));
    }
    if out.is_empty() {
        bail!("it has no layers");
    }
    Ok(out)
}

fn place_text(part: &Part) -> String {
    match part.place {
        Place::Workspace => format!("the workspace's {}", shown(&part.path)),
        Place::Home => format!("~/{}", shown(&part.path)),
        Place::Absolute => shown(&part.path),
    }
}

fn privileges(archive: &Archive, parts: &[(&Part, PathBuf)], args: &ImportArgs) -> Result<()> {
    let Some((part, rel)) = archive.privileged().next().filter(|_| !args.privileges) else {
        return Ok(());
    };
    let root = parts.get(part).map(|(_, root)| shown(root));
    bail!(
        "{}/{} has set-id bits or capabilities; if you want that in the session, import with \
         --privileges",
        root.unwrap_or_default(),
        escape_bytes(rel)
    )
}

/// What is imported, and what is known about it.
struct Here<'a> {
    archive: &'a Archive,
    vouched: &'a Vouched,
    trusted: bool,
    parts: &'a [(&'a Part, PathBuf)],
    workspace: &'a Path,
}

/// Makes the layers and fills them.
fn fill(
    state: &State,
    session: &Session,
    file: &mut File,
    here: &Here<'_>,
    args: &ImportArgs,
) -> Result<Done, Failed> {
    let mut layers = Vec::new();
    let filled = || -> Result<Unpacked> {
        // As at the start of a run: what changes from here on shows.
        let base = base_timestamp(state.root(), None)
            .context("cannot read the file clock in the state folder")?;
        for (n, (_, root)) in here.parts.iter().enumerate() {
            let dir = session.layers_dir().join(n.to_string());
            let (upper, work) = (dir.join("upper"), dir.join("work"));
            for made in [&dir, &upper, &work] {
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(made)
                    .with_context(|| format!("cannot make {}", shown(made)))?;
            }
            let layer = Layer::begin(root, upper, work, base)
                .with_context(|| format!("cannot examine {}", shown(root)))?;
            layers.push(layer.clone());
            if let Err(refusal) = take(&layer, Limits::default())? {
                output::note(&format!(
                    "no base manifest of {}: {refusal}; what others change there from now on is told \
                     by change times",
                    shown(root)
                ));
            }
        }
        file.seek(SeekFrom::Start(0))
            .context("cannot read the archive again")?;
        let mut options = ImportOptions::default();
        options.privileges = args.privileges;
        let all: Vec<Option<Layer>> = layers.iter().cloned().map(Some).collect();
        let done = unpack(&mut BufReader::new(file), here.archive, &all, options)?;
        for layer in &layers {
            // As in a run: it shows through as the mode of the tree's root.
            fs::metadata(&layer.root)
                .and_then(|meta| fs::set_permissions(&layer.upper, meta.permissions()))
                .with_context(|| format!("cannot set the mode of {}", shown(&layer.upper)))?;
        }
        Ok(done)
    }();
    match filled {
        Ok(Unpacked {
            differences,
            entries,
            ..
        }) => Ok(Done {
            layers,
            differences,
            entries,
        }),
        Err(error) => Err((error, layers)),
    }
}

/// Records the import, durably, then makes the session one.
fn seal(
    state: &State,
    session: &Session,
    done: Done,
    here: &Here<'_>,
    (chosen, variables, policy): (Chosen, Variables, Policy),
) -> Result<Done, Failed> {
    let sealed = || -> Result<()> {
        let sources = chosen.sources.iter().map(|s| PolicySource {
            name: escape_bytes(s.name.as_bytes()),
            sha256: sha256_hex(&s.text),
        });
        let manifest = here.archive.manifest();
        let records = vec![
            Record::Policy(PolicyRecord {
                digest: policy.digest().to_owned(),
                sources: sources.collect(),
                ..PolicyRecord::default()
            }),
            Record::Import(Import {
                archive: here.archive.digest().to_owned(),
                changes: escape_bytes(manifest.changes.as_bytes()),
                name: escape_bytes(manifest.name.as_bytes()),
                workspace: escape_bytes(here.workspace.as_os_str().as_bytes()),
                policy: policy.digest().to_owned(),
                from: escape_bytes(manifest.session.as_bytes()),
                key: here.vouched.key_text(),
                trusted: here.trusted,
                checkpoint: here.vouched.foreign(),
                layers: done.layers.len() as u64,
                entries: done.entries,
                differences: done.differences.len() as u64,
                user: User {
                    uid: rustix::process::getuid().as_raw(),
                    name: std::env::var("USER").unwrap_or_default(),
                },
            }),
        ];
        let mut session = session.clone();
        session.keep_policy(&chosen.sources, &variables, &policy)?;
        session.record.layers.clone_from(&done.layers);
        session.record.ended_ms = Some(now_ms());
        state.record(session.id(), records)?;
        session.save()?;
        session.sync()?;
        layers::unmark_importing(&session);
        Ok(())
    }();
    match sealed {
        Ok(()) => Ok(done),
        Err(error) => Err((error, done.layers)),
    }
}

impl Here<'_> {
    fn print(
        &self,
        session: Option<&Session>,
        differences: &[Difference],
        as_json: bool,
    ) -> Result<()> {
        let manifest = self.archive.manifest();
        if as_json {
            let differences: Vec<Value> = differences
                .iter()
                .map(|d| {
                    let mut value = serde_json::to_value(d)?;
                    value["text"] = d.found.as_str().into();
                    Ok(value)
                })
                .collect::<Result<_>>()?;
            let layers: Vec<Value> = self
                .parts
                .iter()
                .map(|(part, root)| json!({ "root": root.to_string_lossy(), "entries": part.entries }))
                .collect();
            return output::print_json(&json!({
                "session": session.map(Session::id),
                "from": manifest.session,
                "name": manifest.name,
                "key": self.vouched.key.to_string(),
                "trusted": self.trusted,
                "checkpoint": self.vouched.foreign(),
                "exported": self.vouched.exported,
                "start_proved": self.vouched.start.is_some(),
                "digest": self.archive.digest(),
                "layers": layers,
                "left_out": manifest.left_out,
                "differences": differences,
            }));
        }
        let rows: Vec<Vec<String>> = differences
            .iter()
            .map(|d| {
                let path = output::path_below(&d.path, self.workspace);
                vec![
                    paint(Style::Red, "conflict"),
                    path,
                    d.found.as_str().to_owned(),
                ]
            })
            .collect();
        let entries: u64 = manifest.layers.iter().map(|l| l.entries).sum();
        let trust = if self.trusted {
            ""
        } else {
            ", which nobody vouches for"
        };
        let mut text = output::table(&rows);
        text.push_str(&format!(
            "session {} of {}, exported {}, by the log {}{trust}\n",
            output::tame(&manifest.session),
            output::tame(&manifest.name),
            output::tame(&self.vouched.exported),
            output::tame(&self.vouched.key_text()),
        ));
        let objects = output::count(usize::try_from(entries).unwrap_or(usize::MAX), "object");
        let others = output::count(differences.len(), "original");
        match session {
            Some(session) => text.push_str(&format!(
                "imported as session {}: {objects}, {others} here differ\n",
                session.id()
            )),
            None => text.push_str(&format!(
                "can be imported: {objects}, {others} here differ\n"
            )),
        }
        output::print(&text)?;
        if let Some(session) = session {
            output::note(&format!(
                "next: agentwall diff {0}, agentwall commit {0}",
                session.suffix()
            ));
        }
        Ok(())
    }
}
