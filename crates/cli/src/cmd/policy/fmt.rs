//! `agentwall policy fmt`: the one layout, in place.
//!
//! A file is replaced as a whole or not at all, keeps its mode, and is not replaced when somebody else
//! changed it in the meantime. Through a link the file it leads to is meant.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use agentwall_policy::{Layer, MAX_FILE, Source, Variables, file_kind, format};
use anyhow::{Context as _, Result, anyhow, bail};

use crate::{args::policy::FmtArgs, cmd::policy::variables, output, policies, state::shown};

/// Runs the command.
pub fn main(args: &FmtArgs) -> Result<ExitCode> {
    let variables = variables(args.workspace.as_deref())?;
    let mut fine = true;
    for file in &args.files {
        let done = match file.as_os_str() == "-" {
            true => standard(args.check, &variables),
            false => in_place(file, args.check, &variables),
        };
        fine &= done.unwrap_or_else(|error| {
            output::note(&format!("{}:\n{error:#}", shown(file)));
            false
        });
    }
    Ok(ExitCode::from(if fine {
        output::OK
    } else {
        output::FAILED
    }))
}

/// Lays out what comes in. The answer is whether nothing is to be complained about.
fn standard(check: bool, variables: &Variables) -> Result<bool> {
    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_FILE as u64 + 1)
        .read_to_end(&mut text)
        .context("cannot read standard input")?;
    let source = Source::new("standard input", text, Layer::User);
    let out = laid_out(&source, variables)?;
    if !check {
        output::print(&out)?;
        return Ok(true);
    }
    Ok(told(out.as_bytes() == source.text, "standard input"))
}

fn in_place(file: &Path, check: bool, variables: &Variables) -> Result<bool> {
    let source = policies::read_source(file, Layer::User)?;
    let out = laid_out(&source, variables)?;
    let same = out.as_bytes() == source.text;
    if check {
        return Ok(told(same, &shown(file)));
    }
    if !same {
        replace(file, &source.text, out.as_bytes())
            .with_context(|| format!("cannot write {}; it is as it was", shown(file)))?;
        output::print(&format!("laid out {}\n", shown(file)))?;
    }
    Ok(true)
}

fn told(same: bool, name: &str) -> bool {
    if !same {
        output::note(&format!(
            "{name}: another layout; 'agentwall policy fmt' mends it"
        ));
    }
    same
}

fn laid_out(source: &Source, variables: &Variables) -> Result<String> {
    format(source, file_kind(source), variables).map_err(|e| anyhow!("{e}"))
}

/// Puts a new content in the place of the one that was read, with its mode.
fn replace(file: &Path, was: &[u8], text: &[u8]) -> Result<()> {
    let path = fs::canonicalize(file)?;
    let about = fs::metadata(&path)?;
    if !about.is_file() {
        bail!("it is not a plain file; use 'agentwall policy fmt -'");
    }
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}.new", std::process::id()));
    // Only what is not there yet: a link that waits under this name is not followed.
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let mut write = || -> Result<()> {
        new.write_all(text)?;
        new.set_permissions(about.permissions())?;
        new.sync_all()?;
        if fs::read(&path)? != was {
            bail!("somebody changed it in the meantime; run the command again");
        }
        fs::rename(&temporary, &path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
