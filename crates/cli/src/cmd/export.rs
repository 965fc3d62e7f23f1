//! `agentwall export`: a session's changes as one file for another machine.

use std::{
    fs::{self, OpenOptions},
    io::{BufWriter, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentwall_cow::{ExportError, ExportOptions, Exported, LeftOut, Piece, Place, What, export};
use anyhow::{Context as _, Result, anyhow};
use serde_json::json;

use crate::{
    args::portable::ExportArgs,
    cmd::commit::finish_cut_off,
    output::{self, UsageError},
    proof,
    session::Session,
    state::{self, State, shown},
};

/// Runs the command.
pub fn main(args: ExportArgs) -> Result<ExitCode> {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(UsageError(
            "an archive is nothing for a terminal; write it to a file with -o FILE, or redirect it"
                .into(),
        )
        .into());
    }
    let state = State::open()?;
    let session = Session::resolve(&state, args.session.as_deref())?;
    let (mut session, _lock) = session.hold(&state).context("cannot export")?;
    finish_cut_off(&state, &mut session)?;
    let chosen = Chosen::of(&session, args.all);
    let mut options = ExportOptions::default();
    options.privileges = args.privileges;
    let done = match &args.output {
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            write(&state, &session, &chosen, &options, &mut out)?
        }
        Some(path) => to_file(path, |out| write(&state, &session, &chosen, &options, out))?,
    };
    for left in &done.manifest.left_out {
        output::note(&format!(
            "not in the archive: {} ({})",
            output::path_below(&left.path, &session.record.workspace),
            output::tame(&left.why)
        ));
    }
    if done.unknown > 0 {
        output::note(&format!(
            "{} changed since the session began: wherever this is imported they are conflicts",
            output::count(
                usize::try_from(done.unknown).unwrap_or(usize::MAX),
                "original"
            )
        ));
    }
    if let Some(path) = &args.output {
        report(&session, path, &done, args.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(session: &Session, path: &Path, done: &Exported, as_json: bool) -> Result<()> {
    if as_json {
        return output::print_json(&json!({
            "session": session.id(),
            "file": path.to_string_lossy(),
            "bytes": done.bytes,
            "digest": done.digest,
            "unknown_originals": done.unknown,
            "manifest": done.manifest,
        }));
    }
    let entries: u64 = done.manifest.layers.iter().map(|l| l.entries).sum();
    output::print(&format!(
        "session {}: {} in {} ({} bytes)\ndigest {}\n",
        session.id(),
        output::count(usize::try_from(entries).unwrap_or(usize::MAX), "object"),
        shown(path),
        done.bytes,
        done.digest
    ))
}

/// What goes into the archive.
struct Chosen<'a> {
    pieces: Vec<Piece<'a>>,
    left_out: Vec<LeftOut>,
}

impl Chosen<'_> {
    fn of(session: &Session, all: bool) -> Chosen<'_> {
        let mut chosen = Chosen {
            pieces: Vec::new(),
            left_out: Vec::new(),
        };
        let home = state::home().ok();
        let home = home.map(|home| fs::canonicalize(&home).unwrap_or(home));
        let workspace = &session.record.workspace;
        for layer in &session.record.layers {
            if layer.is_untouched() {
                continue;
            }
            let piece = |place, path| Piece {
                layer,
                below: PathBuf::new(),
                place,
                path,
            };
            let below = |folder: &Path| layer.root.strip_prefix(folder).ok().map(Path::to_owned);
            if let Some(path) = below(workspace) {
                chosen.pieces.push(piece(Place::Workspace, path));
                continue;
            }
            if all {
                chosen.pieces.push(match home.as_deref().and_then(below) {
                    Some(path) => piece(Place::Home, path),
                    None => piece(Place::Absolute, layer.root.clone()),
                });
                continue;
            }
            chosen.left_out.push(LeftOut {
                path: layer.root.clone(),
                why: "outside of the workspace, and --all was not given".into(),
            });
            // A layer around the workspace: the folder of it that is the workspace.
            if let Ok(path) = workspace.strip_prefix(&layer.root) {
                chosen.pieces.push(Piece {
                    below: path.to_owned(),
                    ..piece(Place::Workspace, PathBuf::new())
                });
            }
        }
        chosen
    }
}

fn write(
    state: &State,
    session: &Session,
    chosen: &Chosen<'_>,
    options: &ExportOptions,
    out: &mut dyn Write,
) -> Result<Exported> {
    let what = What {
        session: session.id(),
        name: &session.record.name,
        pieces: &chosen.pieces,
        left_out: chosen.left_out.clone(),
    };
    let seal = &mut |sealed: &agentwall_cow::Sealed<'_>| {
        proof::seal(state, session, sealed).map_err(|e| format!("{e:#}").into())
    };
    export(out, &what, options, seal).map_err(|e| match e {
        // As an error of the system, so that a reader who went away is known as one.
        ExportError::Write(e) => anyhow::Error::new(e).context("cannot write the archive"),
        ExportError::Nothing => {
            let hint = match chosen.left_out.is_empty() {
                true => "",
                false => "; it wrote outside of its workspace, which --all exports",
            };
            anyhow!("session {} has no changes to export{hint}", session.id())
        }
        e => anyhow!("cannot export session {}: {e}", session.id()),
    })
}

/// Writes a file that appears as a whole or not at all; durable on return.
pub fn to_file<T>(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let name = path
        .file_name()
        .ok_or_else(|| UsageError(format!("--output {} names no file", shown(path))))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let what = || format!("cannot write {}", shown(path));
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(what)?;
    let written = || {
        let mut out = BufWriter::new(file);
        let done = write(&mut out)?;
        out.into_inner()
            .map_err(|e| e.into_error())
            .and_then(|file| file.sync_all())
            .with_context(what)?;
        fs::rename(&temporary, path).with_context(what)?;
        Ok(done)
    };
    let result = written();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}
