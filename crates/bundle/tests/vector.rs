//! The test vector of `docs/bundle.md`: whoever reads the page can check an implementation with it.

#![allow(clippy::unwrap_used)]

use agentwall_bundle::{Bundle, open};
use agentwall_ledger::{Signer, Verifier};
use agentwall_policy::{Layer, Source};
use ed25519_dalek::SigningKey;

const PAGE: &str = include_str!("../../../docs/bundle.md");

/// The indented block after a line of the page.
fn block(after: &str) -> String {
    let (_, rest) = PAGE
        .split_once(after)
        .unwrap_or_else(|| panic!("no '{after}' in the page"));
    let lines =
        rest.lines()
            .skip_while(|l| l.is_empty())
            .map_while(|l| match l.strip_prefix("    ") {
                Some(line) => Some(line),
                None => l.is_empty().then_some(""),
            });
    let text: Vec<&str> = lines.collect();
    format!("{}\n", text.join("\n").trim_end())
}

#[test]
fn the_vector_of_the_page_is_what_is_written_and_read() {
    let signer = Signer::new(
        "example.com/policy",
        SigningKey::from_bytes(&std::array::from_fn(|n| n as u8)),
    )
    .unwrap();
    let bundle = Bundle {
        kind: agentwall_bundle::Kind::Policy,
        name: "team".into(),
        counter: 7,
        issued: 1_790_000_000,
        sources: vec![
            Source::new(
                "org.yaml",
                "agentwall: 1\ndefault: deny\n",
                Layer::Organisation,
            ),
            Source::new(
                "team.yaml",
                "agentwall: 1\nrules:\n  - { id: read, action: file.read, resource: \"/srv/**\", effect: allow }\n",
                Layer::User,
            ),
        ],
    };
    let text = bundle.sign(&signer).unwrap();
    let vkey = block("The public key of the vector:");
    assert_eq!(vkey.trim_end(), signer.verifier().to_string());
    assert_eq!(block("The vector:"), text, "the page should have:\n{text}");
    let key = Verifier::parse(vkey.trim_end()).unwrap();
    let opened = open(text.as_bytes(), &[key]).unwrap();
    assert_eq!(opened.bundle, bundle);
    assert_eq!(
        block("The digest of the vector:").trim_end(),
        bundle.digest()
    );
}
