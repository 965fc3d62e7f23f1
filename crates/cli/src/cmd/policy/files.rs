//! `agentwall policy check` and `agentwall policy test`: each file by itself.
//!
//! A table of cases is a file of its own: `--table` names some for every policy, and without it the
//! one beside a policy is taken, so that `policy test policies/*.yaml` runs everything there is.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentwall_policy::{
    Coverage, FileKind, Layer, LoadError, Policy, RuleCoverage, Source, Table, Variables, Warning,
    file_kind, load, load_table, load_with_warnings,
};
use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use crate::{
    args::policy::{CheckArgs, FilesArgs, TestArgs},
    cmd::policy::variables,
    output, policies,
    state::shown,
};

/// What became of one file: for `--json`, for people, and whether all is well.
struct Told {
    ok: bool,
    value: Value,
    text: String,
}

/// `agentwall policy check`.
pub fn check(args: &CheckArgs) -> Result<ExitCode> {
    each(&args.files, &args.files.files, |file, variables| {
        let source = policies::read_source(file, Layer::User)?;
        let told = match file_kind(&source) {
            FileKind::Table => load_table(&source, variables).map(|table| {
                let cases = table.cases.len();
                Told {
                    ok: true,
                    value: json!({ "ok": true, "cases": cases, "warnings": [] }),
                    text: format!("ok, {}", output::count(cases, "case")),
                }
            }),
            _ => load_with_warnings(&source, variables)
                .map(|(policy, warnings)| checked(&policy, &warnings, args.deny_warnings)),
        };
        Ok(told.unwrap_or_else(|error| refused(&error)))
    })
}

fn checked(policy: &Policy, warnings: &[Warning], deny: bool) -> Told {
    let rules = policy.rules().count();
    let ok = warnings.is_empty() || !deny;
    let mut text = String::new();
    for warning in warnings {
        text.push_str(&format!("{warning}\n"));
    }
    let (verdict, digest) = (if ok { "ok" } else { "not ok" }, policy.digest());
    let (rules_text, found) = (
        output::count(rules, "rule"),
        match warnings.len() {
            0 => String::new(),
            n => format!(", {}", output::count(n, "warning")),
        },
    );
    text.insert_str(
        0,
        &format!("{verdict}, {rules_text}, digest {digest}{found}\n"),
    );
    Told {
        ok,
        value: json!({ "ok": ok, "rules": rules, "digest": digest, "warnings": warnings }),
        text: text.trim_end().to_owned(),
    }
}

/// `agentwall policy test`.
pub fn test(args: &TestArgs) -> Result<ExitCode> {
    // `policies/*.yaml` names tables, too; each is run with its policy.
    let named = &args.files.files;
    let is_beside = |f: &Path| named.iter().any(|p| beside(p).as_deref() == Some(f));
    let files: Vec<PathBuf> = named.iter().filter(|f| !is_beside(f)).cloned().collect();
    each(&args.files, &files, |file, variables| {
        let source = policies::read_source(file, Layer::User)?;
        if file_kind(&source) == FileKind::Table {
            return Err(anyhow!(
                "{} is a table of cases; name the policy, and the table with --table",
                shown(file)
            ));
        }
        let policy = match load(&[source], variables) {
            Ok(policy) => policy,
            Err(error) => return Ok(refused(&error)),
        };
        let mut tables = Vec::new();
        let mut paths = args.tables.clone();
        if paths.is_empty() {
            paths.extend(beside(file).filter(|p| p.symlink_metadata().is_ok()));
        }
        for path in &paths {
            match load_table(&table_source(path)?, variables) {
                Ok(table) => tables.push(table),
                Err(error) => return Ok(refused(&error)),
            }
        }
        Ok(tested(&policy, &tables, args))
    })
}

/// `NAME.tests.yaml` for `NAME.yaml`.
fn beside(policy: &Path) -> Option<PathBuf> {
    let name = policy.file_name()?.to_str()?;
    let (stem, kind) = name.rsplit_once('.')?;
    let is_policy = matches!(kind, "yaml" | "yml") && !stem.ends_with(".tests");
    is_policy.then(|| policy.with_file_name(format!("{stem}.tests.{kind}")))
}

fn table_source(path: &Path) -> Result<Source> {
    let text = policies::read_file(path).map_err(|e| {
        anyhow!(
            "cannot read the table {}: {e}; name a YAML file of cases with --table",
            shown(path)
        )
    })?;
    Ok(Source::new(path.to_string_lossy(), text, Layer::User))
}

fn tested(policy: &Policy, tables: &[Table], args: &TestArgs) -> Told {
    let own = policy.run_tests();
    let mut ok = own.passed();
    let mut text = format!("{own}\n");
    let mut values = Vec::new();
    for table in tables {
        let report = policy.run_table(table);
        ok &= report.passed();
        let name = agentwall_action::escape_text(&table.name);
        text.push_str(&format!("{name}: {report}\n"));
        values.push(json!({
            "file": table.name,
            "run": report.run,
            "failures": report.failures,
        }));
    }
    let coverage = policy.coverage(tables);
    let percent = coverage.percent();
    let enough = args
        .min_coverage
        .is_none_or(|min| percent >= usize::from(min));
    text.push_str(&covered(&coverage, args.coverage));
    if let Some(min) = args.min_coverage.filter(|_| !enough) {
        text.push_str(&format!(
            "the coverage is below {min} %: add cases that the rules above decide\n"
        ));
    }
    ok &= enough;
    Told {
        ok,
        value: json!({
            "ok": ok,
            "run": own.run,
            "failures": own.failures,
            "tables": values,
            "coverage": {
                "rules": coverage.rules,
                "covered": coverage.covered(),
                "percent": percent,
            },
        }),
        text: text.trim_end().to_owned(),
    }
}

/// The coverage for people: a row for every rule, or for those that no test reaches.
fn covered(coverage: &Coverage, all: bool) -> String {
    let (rules, covered) = (coverage.rules.len(), coverage.covered());
    let mut text = format!(
        "{covered} of {} covered ({} %)\n",
        output::count(rules, "rule"),
        coverage.percent()
    );
    let shown = |r: &&RuleCoverage| all || !r.is_covered();
    let rows: Vec<Vec<String>> = coverage.rules.iter().filter(shown).map(row).collect();
    if !rows.is_empty() {
        text.push_str(&output::table(&rows));
    }
    text
}

fn row(rule: &RuleCoverage) -> Vec<String> {
    const MOST: usize = 6;
    let examples = |n: usize, what: &str| match n {
        0 => format!("no {what}"),
        n => format!("{n} {what}"),
    };
    let mut lines: Vec<String> = rule
        .decided_by
        .iter()
        .take(MOST)
        .map(ToString::to_string)
        .collect();
    if rule.decided > lines.len() {
        lines.push(format!("and {} more", rule.decided - lines.len()));
    }
    let by = match rule.decided {
        0 => "no test shows it deciding".to_owned(),
        _ => format!("decides {}", lines.join(", ")),
    };
    vec![
        format!("  {}", agentwall_action::escape_text(&rule.rule)),
        rule.location.to_string(),
        rule.effect.to_owned(),
        examples(rule.matches, "match"),
        examples(rule.not_matches, "not_match"),
        by,
    ]
}

fn refused(error: &LoadError) -> Told {
    Told {
        ok: false,
        value: json!({ "ok": false, "diagnostics": error.diagnostics() }),
        text: error.to_string(),
    }
}

/// Says of every file what `tell` finds, or why there is nothing to tell.
fn each(
    args: &FilesArgs,
    files: &[PathBuf],
    tell: impl Fn(&Path, &Variables) -> Result<Told>,
) -> Result<ExitCode> {
    let variables = variables(args.workspace.as_deref())?;
    let (mut fine, mut values) = (true, Vec::new());
    for file in files {
        let name = shown(file);
        let mut told = tell(file, &variables).unwrap_or_else(|e| {
            let text = format!("{e:#}");
            Told {
                ok: false,
                value: json!({ "ok": false, "error": text }),
                text,
            }
        });
        fine &= told.ok;
        if args.json {
            told.value["file"] = name.into();
            values.push(told.value);
        } else if told.ok {
            output::print(&format!("{name}: {}\n", told.text))?;
        } else {
            output::note(&format!("{name}:\n{}", told.text));
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
