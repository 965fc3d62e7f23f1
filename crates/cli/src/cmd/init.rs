//! `agentwall init`: a starter policy for the agent that is found here.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentwall_policy::{Template, templates};
use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    args::{Agent, InitArgs},
    output,
    session::write_atomically,
    state::{self, shown},
};

/// Runs the command.
pub fn main(args: InitArgs) -> Result<ExitCode> {
    let agent = args.agent.unwrap_or_else(|| detect().to_owned());
    let template = template(&agent)?;
    if args.stdout {
        output::print(template.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if state::inside_wall() {
        bail!("this is inside the wall; policies are written outside of it");
    }
    let dir = match args.dir {
        Some(dir) => dir,
        None => state::policy_dir()?,
    };
    let path = dir.join(format!("{}.yaml", template.name));
    if !write(&path, template, args.force)? {
        bail!(
            "{} exists already; edit it, or give --force to write the starter policy over it",
            shown(&path)
        );
    }
    let run = match template.name {
        "claude-code" => "agentwall claude",
        "codex" => "agentwall codex",
        "gemini-cli" => "agentwall run -- gemini",
        _ => "agentwall run -- CMD",
    };
    output::print(&format!(
        "wrote {}\nnext: read it, then '{run}' in your project; 'agentwall policy check {}' after \
         you have edited it\n",
        shown(&path),
        shown(&path)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The policy of an agent in the user's policy folder, made from the starter policy when it is not
/// there.
pub fn ensure(agent: Agent) -> Result<PathBuf> {
    let path = state::policy_dir()?.join(format!("{}.yaml", agent.as_str()));
    if write(&path, template(agent.as_str())?, false)? {
        output::note(&format!(
            "wrote the starter policy {}; edit it there",
            shown(&path)
        ));
    }
    Ok(path)
}

/// Writes a starter policy; `false` when there is a file and it is not to be replaced.
fn write(path: &Path, template: &Template, force: bool) -> Result<bool> {
    let fail = || format!("cannot write the policy {}", shown(path));
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(fail)?;
    }
    if force {
        write_atomically(path, template.text.as_bytes()).with_context(fail)?;
        return Ok(true);
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match file {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        other => other.with_context(fail)?,
    };
    let written = file
        .write_all(template.text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a policy must not be found by the next run.
        let _ = fs::remove_file(path);
    }
    written.with_context(fail)?;
    Ok(true)
}

fn template(name: &str) -> Result<&'static Template> {
    templates()
        .iter()
        .find(|t| t.name == name)
        .ok_or_else(|| anyhow!("there is no starter policy for {name}"))
}

/// The template of an agent on the search path, else of one that left its folder at home, else the
/// one for any.
fn detect() -> &'static str {
    let known = [
        ("claude-code", "claude", ".claude"),
        ("codex", "codex", ".codex"),
        ("gemini-cli", "gemini", ".gemini"),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = |word: &str| {
        std::env::split_paths(&path).any(|dir| dir.is_absolute() && dir.join(word).is_file())
    };
    let home = state::home().ok();
    let at_home = |folder: &str| home.as_ref().is_some_and(|h| h.join(folder).is_dir());
    let found = known
        .iter()
        .find(|(_, word, _)| on_path(word))
        .or_else(|| known.iter().find(|(_, _, folder)| at_home(folder)));
    found.map_or("generic", |(name, _, _)| name)
}
