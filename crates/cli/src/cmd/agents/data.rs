//! The signatures: which are in use, their tests, and their updates.

use std::{path::Path, process::ExitCode};

use agentwall_action::escape_text;
use agentwall_agents::{BUILT_IN, Signatures, built_in};
use agentwall_bundle::{Kind, inspect, is_bundle};
use agentwall_policy::{Layer, Source};
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::{
    args::agents::{SignaturesArgs, TestArgs, UpdateArgs},
    bundles::{self, Trust},
    known::{self, Known},
    output::{self, Style, UsageError, paint},
    policies,
    state::{State, rfc3339_of, shown},
};

/// `agentwall agents signatures`.
pub fn signatures(args: &SignaturesArgs) -> Result<ExitCode> {
    let known = known::load(&State::for_reading()?)?;
    let list = known.signatures.list();
    if args.json {
        let mut value = described(&known);
        let one = |s: &agentwall_agents::Signature| {
            json!({
                "id": s.id, "name": s.name, "vendor": s.vendor, "homepage": s.homepage,
                "kind": s.kind, "source": s.source, "line": s.line,
            })
        };
        value["list"] = list.iter().map(one).collect();
        output::print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![
        ["ID", "KIND", "NAME", "VENDOR", "HOMEPAGE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(list.iter().map(|s| {
        vec![
            s.id.clone(),
            s.kind.as_str().to_owned(),
            escape_text(&s.name),
            escape_text(&s.vendor),
            escape_text(&s.homepage),
        ]
    }));
    output::print(&format!("{}\n\n{}", told(&known), output::table(&rows)))?;
    if let Some(newer) = newer_built_in(&known.signatures) {
        output::note(&format!(
            "the built-in signatures are newer (version {newer}); 'agentwall agents update --built-in' \
             goes back to them"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Which signatures are in use, for a program.
pub fn described(known: &Known) -> Value {
    let mut value = json!({
        "from": if known.bundle.is_some() { "bundle" } else { BUILT_IN },
        "version": known.signatures.version,
        "signatures": known.signatures.list().len(),
    });
    if let Some(opened) = &known.bundle {
        let recorded = bundles::recorded(opened);
        value["bundle"] = json!({
            "key": recorded.key,
            "name": recorded.name,
            "counter": recorded.counter,
            "digest": recorded.digest,
            "issued": rfc3339_of(opened.bundle.issued.saturating_mul(1000)),
        });
    }
    value
}

fn told(known: &Known) -> String {
    let data = format!(
        "version {}, {}",
        known.signatures.version,
        output::count(known.signatures.list().len(), "signature")
    );
    match &known.bundle {
        None => format!("built-in signatures, {data}"),
        Some(opened) => {
            let recorded = bundles::recorded(opened);
            let name = match recorded.name.as_str() {
                "" => String::new(),
                name => format!(" ({name})"),
            };
            format!(
                "installed signatures, {data}\n  signed by {}{name}, counter {}, issued {}",
                escape_text(&recorded.key),
                recorded.counter,
                rfc3339_of(opened.bundle.issued.saturating_mul(1000))
            )
        }
    }
}

/// The version of the built-in signatures, if those in use are older.
fn newer_built_in(used: &Signatures) -> Option<u64> {
    let version = built_in().ok()?.version;
    (version > used.version).then_some(version)
}

/// `agentwall agents test`.
pub fn test(args: &TestArgs) -> Result<ExitCode> {
    let signatures = match args.files.as_slice() {
        [] => known::load(&State::for_reading()?)?.signatures,
        files => {
            let mut sources = Vec::new();
            for file in files {
                sources.extend(sources_of(file)?);
            }
            agentwall_agents::load(&sources)?
        }
    };
    let report = signatures.run_tests();
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["passed"] = report.passed().into();
        value["signatures"] = signatures.list().len().into();
        output::print_json(&value)?;
    } else {
        let failures = report.failures.iter().map(|f| format!("{f}\n"));
        output::print(&format!(
            "{}{} of {}, {} failed\n",
            failures.collect::<String>(),
            output::count(report.run, "test"),
            output::count(signatures.list().len(), "signature"),
            report.failures.len()
        ))?;
    }
    Ok(ExitCode::from(match report.passed() {
        true => output::OK,
        false => output::FAILED,
    }))
}

/// A file, or what is in a bundle, whoever signed it: it is only tested.
fn sources_of(file: &Path) -> Result<Vec<Source>> {
    let bytes = policies::read_bytes(file)?;
    if !is_bundle(&bytes) {
        return Ok(vec![Source::new(shown(file), bytes, Layer::User)]);
    }
    let bundle = inspect(&bytes)
        .map_err(|e| anyhow!("{}: {e}", shown(file)))?
        .bundle;
    if bundle.kind != Kind::Agents {
        return Err(UsageError(format!(
            "{} is a bundle of the kind '{}', not of signatures",
            shown(file),
            bundle.kind.as_str()
        ))
        .into());
    }
    Ok(bundle.sources)
}

/// `agentwall agents update`.
pub fn update(args: &UpdateArgs) -> Result<ExitCode> {
    let state = State::open()?;
    let Some(file) = &args.file else {
        let text = match known::remove(&state)? {
            true => "removed the installed signatures; the built-in ones are in use\n",
            false => "no signatures were installed; the built-in ones are in use\n",
        };
        output::print(text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let bytes = policies::read_bytes(file)?;
    let trust = Trust::of_host(&args.trust)?;
    let opened = bundles::open_kind(file, &bytes, &trust, Kind::Agents)?;
    let signatures = known::install(&state, &opened, &bytes)
        .with_context(|| format!("the signatures in {} are refused", shown(file)))?;
    let newer = newer_built_in(&signatures);
    let known = Known {
        signatures,
        bundle: Some(opened),
    };
    output::print(&format!(
        "{} {}\n",
        paint(Style::Green, "installed"),
        told(&known)
    ))?;
    if let Some(newer) = newer {
        output::note(&format!(
            "the built-in signatures are newer (version {newer})"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
