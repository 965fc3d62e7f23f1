//! `agentwall policy bundle`: keys, signing, verifying, looking.
//!
//! What is signed is loaded first: a bundle that no wall could use is not made. What is shown without
//! a verified signature says so.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
    process::ExitCode,
};

use agentwall_action::escape_text;
use agentwall_bundle::{Bundle, Kind, inspect};
use agentwall_ledger::{hash::sha256_hex, key};
use agentwall_policy::{Layer, Source};
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::policy::{BundleCommand, BundleVerifyArgs, InspectArgs, KeygenArgs, SignArgs},
    bundles::{self, Trust},
    cmd::policy::variables,
    known,
    output::{self, Style, UsageError, paint},
    policies,
    session::write_atomically,
    state::{now_ms, rfc3339_of, shown},
};

/// Runs the command.
pub fn main(command: BundleCommand) -> Result<ExitCode> {
    match command {
        BundleCommand::Keygen(args) => keygen(&args),
        BundleCommand::Sign(args) => sign(&args),
        BundleCommand::Verify(args) => verify(&args),
        BundleCommand::Inspect(args) => look(&args),
    }
}

fn keygen(args: &KeygenArgs) -> Result<ExitCode> {
    let signer = key::create_new(&args.file, &args.name).context("no key was made")?;
    output::print(&format!("{}\n", signer.verifier()))?;
    output::note(&format!(
        "the private key is in {}; keep it from others. The line above is the public key: it goes into \
         trusted-keys where bundles of this key are to be used",
        shown(&args.file)
    ));
    Ok(ExitCode::SUCCESS)
}

fn sign(args: &SignArgs) -> Result<ExitCode> {
    let signer = key::load(&args.key).context("cannot use the signing key")?;
    let sources = args.sources.iter().map(|s| source(s));
    let bundle = Bundle {
        kind: args.kind.into(),
        name: args.name.clone(),
        counter: args.counter,
        issued: args.issued.unwrap_or_else(|| now_ms() / 1000),
        sources: sources.collect::<Result<_>>()?,
    };
    match bundle.kind {
        Kind::Policy => policies::load(&bundle.sources, &variables(None)?).map(drop),
        Kind::Agents => known::read(&bundle.sources).map(drop),
    }
    .context("nothing was signed")?;
    let text = bundle
        .sign(&signer)
        .map_err(|e| anyhow!("nothing was signed: {e}"))?;
    let Some(out) = &args.out else {
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    replaces(out, &bundle, signer.name())?;
    write_atomically(out, text.as_bytes())
        // It is for others to read.
        .and_then(|()| fs::set_permissions(out, fs::Permissions::from_mode(0o644)))
        .with_context(|| format!("cannot write {}", shown(out)))?;
    output::print(&format!(
        "{} {}\n{}",
        paint(Style::Green, "signed"),
        shown(out),
        facts(&bundle)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// `[LAYER=]FILE`.
fn source(given: &OsStr) -> Result<Source> {
    let bytes = given.as_bytes();
    let layers = [Layer::Organisation, Layer::User, Layer::Repository];
    let named = layers.iter().find_map(|layer| {
        let rest = bytes.strip_prefix(layer.as_str().as_bytes())?;
        Some((*layer, OsStr::from_bytes(rest.strip_prefix(b"=")?)))
    });
    let (layer, path) = named.unwrap_or((Layer::User, given));
    let path = Path::new(path);
    let name = path.file_name().and_then(OsStr::to_str).ok_or_else(|| {
        UsageError(format!(
            "{} has no name in UTF-8 that a source could have in a bundle",
            shown(path)
        ))
    })?;
    let mut source = policies::read_source(path, layer)?;
    name.clone_into(&mut source.name);
    Ok(source)
}

/// Fails unless nothing is at `out`, or an older bundle of the same key and name.
fn replaces(out: &Path, bundle: &Bundle, signer: &str) -> Result<()> {
    let there = match fs::symlink_metadata(out) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot examine {}", shown(out))),
        Ok(_) => policies::read_bytes(out)?,
    };
    let old = inspect(&there)
        .ok()
        .filter(|old| old.bundle.name == bundle.name && old.signer.0 == signer)
        .filter(|old| old.bundle.kind == bundle.kind);
    match old {
        None => bail!(
            "{} exists and is no bundle of this key, name and kind; name another file with --out",
            shown(out)
        ),
        Some(old) if old.bundle.counter >= bundle.counter => bail!(
            "{} has the counter {}, and the new bundle {}: hosts that have used it would refuse the new \
             one; give a higher --counter",
            shown(out),
            old.bundle.counter,
            bundle.counter
        ),
        Some(_) => Ok(()),
    }
}

fn verify(args: &BundleVerifyArgs) -> Result<ExitCode> {
    let opened = policies::read_bytes(&args.file).and_then(|bytes| {
        // Whatever it is for: only its signature is asked about.
        let kind = inspect(&bytes).map_or(Kind::Policy, |seen| seen.bundle.kind);
        bundles::open_kind(&args.file, &bytes, &Trust::of_host(&args.trust)?, kind)
    });
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) if error.downcast_ref::<UsageError>().is_some() => return Err(error),
        Err(error) => {
            if args.json {
                let error = output::explain(&error);
                output::print_json(&json!({ "ok": false, "error": error }))?;
            }
            return Err(error);
        }
    };
    let key = bundles::recorded(&opened).key;
    if args.json {
        let mut value = described(&opened.bundle, false);
        value["ok"] = true.into();
        value["key"] = key.into();
        output::print_json(&value)?;
    } else {
        output::print(&format!(
            "{} {}\n  signed by {}\n{}",
            paint(Style::Green, "verified"),
            shown(&args.file),
            escape_text(&key),
            facts(&opened.bundle)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn look(args: &InspectArgs) -> Result<ExitCode> {
    let bytes = policies::read_bytes(&args.file)?;
    let seen = inspect(&bytes).map_err(|e| anyhow!("{}: {e}", shown(&args.file)))?;
    let bundle = &seen.bundle;
    if let Some(name) = &args.source {
        let source = bundle.sources.iter().find(|s| s.name == *name);
        let source = source.ok_or_else(|| {
            let names: Vec<&str> = bundle.sources.iter().map(|s| s.name.as_str()).collect();
            UsageError(format!(
                "there is no source '{}' in it; there are {}",
                escape_text(name),
                names.join(", ")
            ))
        })?;
        let lines = source.text.split_inclusive(|b| *b == b'\n');
        let shown = lines.map(|line| match line.strip_suffix(b"\n") {
            Some(line) => format!("{}\n", output::tame(&String::from_utf8_lossy(line))),
            None => output::tame(&String::from_utf8_lossy(line)),
        });
        output::print(&shown.collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let signer = format!("{}+{:08x}", seen.signer.0, seen.signer.1);
    if args.json {
        let mut value = described(bundle, true);
        value["verified"] = false.into();
        value["key"] = signer.into();
        output::print_json(&value)?;
    } else {
        output::print(&format!(
            "{} {}\n  says it is signed by {}\n{}",
            paint(Style::Yellow, "not verified"),
            shown(&args.file),
            escape_text(&signer),
            facts(bundle)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn issued(bundle: &Bundle) -> String {
    rfc3339_of(bundle.issued.saturating_mul(1000))
}

fn facts(bundle: &Bundle) -> String {
    let name = match bundle.name.as_str() {
        "" => "-",
        name => name,
    };
    let rows = bundle.sources.iter().map(|s| {
        let layer = match bundle.kind {
            Kind::Policy => s.layer.as_str(),
            Kind::Agents => bundle.kind.as_str(),
        };
        vec![
            format!("  {layer}"),
            escape_text(&s.name),
            format!("{} bytes", s.text.len()),
            sha256_hex(&s.text)[..12].to_owned(),
        ]
    });
    format!(
        "  name      {name}\n  kind      {}\n  counter   {}\n  issued    {}\n  digest    {}\n{}",
        bundle.kind.as_str(),
        bundle.counter,
        issued(bundle),
        bundle.digest(),
        output::table(&rows.collect::<Vec<_>>())
    )
}

fn described(bundle: &Bundle, texts: bool) -> Value {
    let source = |s: &Source| {
        let mut value = json!({
            "layer": (bundle.kind == Kind::Policy).then_some(s.layer),
            "name": s.name,
            "sha256": sha256_hex(&s.text),
            "bytes": s.text.len(),
        });
        if texts {
            value["text"] = String::from_utf8_lossy(&s.text).into();
        }
        value
    };
    json!({
        "name": bundle.name,
        "kind": bundle.kind,
        "counter": bundle.counter,
        "issued": issued(bundle),
        "digest": bundle.digest(),
        "sources": bundle.sources.iter().map(source).collect::<Vec<_>>(),
    })
}
