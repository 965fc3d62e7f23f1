//! `agentwall completions` and `agentwall man`: both come from the definition of the command line.

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;

use crate::{
    args::{Cli, CompletionsArgs, ManArgs},
    output,
    state::shown,
};

/// Prints a completion script.
pub fn completions(args: CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "agentwall", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the main page, or writes all pages.
pub fn man(args: ManArgs) -> Result<ExitCode> {
    let Some(dir) = args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        output::print(&String::from_utf8_lossy(&page))?;
        return Ok(ExitCode::SUCCESS);
    };
    let fail = || format!("cannot write the manual to {}", shown(&dir));
    fs::create_dir_all(&dir).with_context(fail)?;
    clap_mangen::generate_to(Cli::command(), &dir).with_context(fail)?;
    output::note(&format!(
        "wrote the manual to {0}; 'man {0}/agentwall.1' shows it",
        shown(&dir)
    ));
    Ok(ExitCode::SUCCESS)
}
