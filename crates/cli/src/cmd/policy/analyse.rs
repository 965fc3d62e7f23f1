//! `agentwall policy analyse`: which rules never match, never decide, change nothing or conflict.
//!
//! Patterns are taken as they are written, not as this host's links would extend them, so that the
//! answer is the same everywhere.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use agentwall_action::escape_text;
use agentwall_policy::analyse::{FindingKind, Level, Limits, analyse};
use anyhow::{Result, anyhow};

use crate::{
    args::policy::AnalyseArgs,
    cmd::policy::variables,
    output::{self, Style, paint},
    policies,
};

/// Runs the command.
pub fn main(args: &AnalyseArgs) -> Result<ExitCode> {
    let workspace = policies::workspace(args.workspace.as_deref())?;
    let variables = variables(Some(&workspace))?;
    let sources = policies::policy_sources(args.policy.as_deref(), &workspace)?;
    let policy = policies::load(&sources, &variables)?;
    let mut progress = Progress::new("rules");
    let analysed = analyse(&policy, Limits::default(), &mut |done, of| {
        progress.tell(done, of)
    });
    drop(progress);
    let mut analysis = analysed.map_err(|e| anyhow!("{e}"))?;
    if args.warnings {
        analysis.findings.retain(|f| f.level == Level::Warning);
    }
    let code = ExitCode::from(if analysis.has_warnings() {
        output::FAILED
    } else {
        output::OK
    });
    if args.json {
        output::print_json(&analysis)?;
        return Ok(code);
    }
    let mut text = String::new();
    for finding in &analysis.findings {
        let level = match finding.level {
            Level::Warning => paint(Style::Red, "warning"),
            Level::Note => paint(Style::Dim, "note"),
        };
        text.push_str(&format!("{level}: {finding}\n"));
    }
    let count = |level| {
        analysis
            .findings
            .iter()
            .filter(|f| f.level == level)
            .count()
    };
    let undecided = analysis
        .findings
        .iter()
        .filter(|f| f.kind == FindingKind::Undecided);
    text.push_str(&output::count(analysis.rules, "rule"));
    text.push_str(&format!(
        ", {}",
        output::count(count(Level::Warning), "warning")
    ));
    if !args.warnings {
        text.push_str(&format!(", {}", output::count(count(Level::Note), "note")));
    }
    match undecided.count() {
        0 => text.push('\n'),
        n => text.push_str(&format!(", {n} of them not decided\n")),
    }
    if analysis.more {
        text.push_str("there are too many conflicts to list them all\n");
    }
    text.push_str(&free(&analysis.open_conditions));
    output::print(&text)?;
    Ok(code)
}

/// Says which conditions an answer takes to be open.
pub fn free(conditions: &[String]) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = conditions
        .iter()
        .map(|c| format!("'{}'", escape_text(c)))
        .collect();
    format!(
        "conditions are not looked into; each of these may hold, not hold or fail: {}\n",
        shown.join(", ")
    )
}

/// How far a long question is, on a terminal.
pub struct Progress {
    noun: &'static str,
    shown: bool,
    last: usize,
}

impl Progress {
    /// Nothing is shown before something is told.
    pub fn new(noun: &'static str) -> Progress {
        Progress {
            noun,
            shown: false,
            last: 0,
        }
    }

    /// Shows every hundredth part of a large number.
    pub fn tell(&mut self, done: usize, of: usize) {
        let step = (of / 100).max(1);
        if of < 500 || done / step == self.last || !io::stderr().is_terminal() {
            return;
        }
        self.last = done / step;
        self.shown = true;
        // Standard error may be closed; there is nobody to tell then.
        let _ = write!(io::stderr(), "\r{done} of {of} {}", self.noun);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
