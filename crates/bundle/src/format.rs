//! The text of a bundle: one canonical JSON object on one line.
//!
//! `{"name":…,"kind":…,"counter":…,"issued":…,"digest":…,"sources":[{"layer":…,"name":…,"sha256":…,"text":…}]}`
//! without white space, keys in this order, `name` left out when it is empty, `kind` when it is `policy`;
//! sources of another kind have no `layer`. Reading writes it again
//! and compares, so that one bundle has one spelling.

use std::collections::HashMap;

use agentwall_action::escape_text;
use agentwall_ledger::hash::sha256_hex;
use agentwall_policy::{Layer, MAX_FILE, Source};
use serde::{Deserialize, Serialize};

use crate::{
    Bundle, BundleError, Kind, MAGIC, MAX_COUNTER, MAX_ISSUED, MAX_NAME, MAX_SOURCE_NAME,
    MAX_SOURCES,
};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "Kind::is_policy")]
    kind: Kind,
    counter: u64,
    issued: u64,
    digest: String,
    sources: Vec<WireSource>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSource {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<Layer>,
    name: String,
    sha256: String,
    text: String,
}

/// The JSON line of a bundle, without its newline.
pub(crate) fn write(bundle: &Bundle) -> Result<String, BundleError> {
    check(bundle)?;
    let source = |source: &Source| {
        let text = String::from_utf8(source.text.clone()).map_err(|e| BundleError::SourceText {
            name: source.name.clone(),
            what: format!("is not UTF-8 from byte {} on", e.utf8_error().valid_up_to()),
        })?;
        Ok(WireSource {
            layer: bundle.kind.is_policy().then_some(source.layer),
            name: source.name.clone(),
            sha256: sha256_hex(&source.text),
            text,
        })
    };
    let wire = Wire {
        name: bundle.name.clone(),
        kind: bundle.kind,
        counter: bundle.counter,
        issued: bundle.issued,
        digest: bundle.digest(),
        sources: bundle
            .sources
            .iter()
            .map(source)
            .collect::<Result<_, BundleError>>()?,
    };
    serde_json::to_string(&wire).map_err(|e| BundleError::Json(e.to_string()))
}

/// Reads the signed text.
pub(crate) fn read(text: &str) -> Result<Bundle, BundleError> {
    let line = text
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.strip_prefix('\n'))
        .and_then(|rest| rest.strip_suffix('\n'))
        .ok_or(BundleError::NotABundle)?;
    // The parser's words may quote the text.
    let wire: Wire =
        serde_json::from_str(line).map_err(|e| BundleError::Json(escape_text(&e.to_string())))?;
    let digests: Vec<String> = wire.sources.iter().map(|s| s.sha256.clone()).collect();
    let digest = wire.digest;
    let layers = wire.sources.iter().map(|s| s.layer.is_some());
    if let Some(at) = layers
        .zip(0..)
        .find_map(|(has, n)| (has != wire.kind.is_policy()).then_some(n))
    {
        return Err(BundleError::Layer {
            source_name: escape_text(&wire.sources[at].name),
            kind: wire.kind,
        });
    }
    let bundle = Bundle {
        name: wire.name,
        kind: wire.kind,
        counter: wire.counter,
        issued: wire.issued,
        sources: wire
            .sources
            .into_iter()
            .map(|s| Source::new(s.name, s.text, s.layer.unwrap_or(Layer::User)))
            .collect(),
    };
    check(&bundle)?;
    for (source, found) in bundle.sources.iter().zip(digests) {
        agrees(&source.name, found, sha256_hex(&source.text))?;
    }
    agrees("all sources", digest, bundle.digest())?;
    match write(&bundle)? == line {
        true => Ok(bundle),
        false => Err(BundleError::NotCanonical),
    }
}

fn agrees(of: &str, found: String, expected: String) -> Result<(), BundleError> {
    if found == expected {
        return Ok(());
    }
    Err(BundleError::Digest {
        of: of.to_owned(),
        found: escape_text(&found),
        expected,
    })
}

fn check(bundle: &Bundle) -> Result<(), BundleError> {
    if !is_name(&bundle.name) {
        return Err(BundleError::Name(escape_text(&bundle.name)));
    }
    if !(1..=MAX_COUNTER).contains(&bundle.counter) {
        return Err(BundleError::Counter(bundle.counter));
    }
    if bundle.issued > MAX_ISSUED {
        return Err(BundleError::Issued(bundle.issued));
    }
    if bundle.sources.is_empty() || bundle.sources.len() > MAX_SOURCES {
        return Err(BundleError::Sources(bundle.sources.len()));
    }
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut texts: HashMap<(Layer, &[u8]), &str> = HashMap::new();
    for source in &bundle.sources {
        let name = source.name.as_str();
        // What escaping leaves alone can be shown anywhere as it is.
        if name.is_empty() || name.len() > MAX_SOURCE_NAME || escape_text(name) != name {
            return Err(BundleError::SourceName(escape_text(name)));
        }
        if !bundle.kind.is_policy() && source.layer != Layer::User {
            return Err(BundleError::Layer {
                source_name: name.to_owned(),
                kind: bundle.kind,
            });
        }
        if source.text.len() > MAX_FILE {
            return Err(BundleError::SourceText {
                name: name.to_owned(),
                what: format!(
                    "has {} bytes, more than the {MAX_FILE} of a policy file",
                    source.text.len()
                ),
            });
        }
        let same = |what, first: Option<&str>| match first {
            None => Ok(()),
            Some(first) => Err(BundleError::Duplicate {
                first: first.to_owned(),
                second: name.to_owned(),
                what,
            }),
        };
        same("name", names.insert(name, name))?;
        same(
            "layer and content",
            texts.insert((source.layer, &source.text), name),
        )?;
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
}
