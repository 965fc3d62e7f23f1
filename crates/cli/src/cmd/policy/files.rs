//! `agentwall policy check` and `agentwall policy test`: each file by itself.

use std::{path::Path, process::ExitCode};

use agentwall_policy::{Layer, LoadError, Policy, Variables, load};
use anyhow::Result;
use serde_json::{Value, json};

use crate::{args::policy::FilesArgs, cmd::policy::variables, output, policies, state};

/// `agentwall policy check`.
pub fn check(args: &FilesArgs) -> Result<ExitCode> {
    each(args, |policy| {
        let rules = policy.rules().count();
        let value = json!({ "ok": true, "rules": rules, "digest": policy.digest() });
        let text = format!(
            "ok, {}, digest {}",
            output::count(rules, "rule"),
            policy.digest()
        );
        (true, value, text)
    })
}

/// `agentwall policy test`.
pub fn test(args: &FilesArgs) -> Result<ExitCode> {
    each(args, |policy| {
        let report = policy.run_tests();
        let ok = report.passed();
        let value = json!({ "ok": ok, "run": report.run, "failures": report.failures });
        (ok, value, report.to_string())
    })
}

/// Loads every file by itself and says what `tell` finds, or everything that is wrong with it.
fn each(args: &FilesArgs, tell: impl Fn(&Policy) -> (bool, Value, String)) -> Result<ExitCode> {
    let variables = variables(args.workspace.as_deref())?;
    let (mut fine, mut values) = (true, Vec::new());
    for file in &args.files {
        let name = state::shown(file);
        let (ok, mut value, text) = match load_file(file, &variables) {
            Ok(Ok(policy)) => tell(&policy),
            Ok(Err(e)) => {
                let value = json!({ "ok": false, "diagnostics": e.diagnostics() });
                (false, value, e.to_string())
            }
            Err(e) => {
                let text = format!("{e:#}");
                (false, json!({ "ok": false, "error": text }), text)
            }
        };
        fine &= ok;
        if args.json {
            value["file"] = name.into();
            values.push(value);
        } else if ok {
            output::print(&format!("{name}: {text}\n"))?;
        } else {
            output::note(&format!("{name}:\n{text}"));
        }
    }
    if args.json {
        output::print_json(&values)?;
    }
    Ok(ExitCode::from(if fine {
        output::OK
    } else {
        output::FAILED
    }))
}

fn load_file(file: &Path, variables: &Variables) -> Result<Result<Policy, LoadError>> {
    let source = policies::read_source(file, Layer::User)?;
    Ok(load(&[source], variables))
}
