//! Signed policy bundles: what is read is written back to the byte, what is refused can be shown.

use agentwall_bundle::{Bundle, Kind, MAGIC, Opened, Seen, TrustedKeys, inspect, open_kind};
use agentwall_ledger::{Note, Signer};
use agentwall_policy::{Layer, Source};
use ed25519_dalek::SigningKey;

use crate::input::{assert_shown, parts};

fn signer() -> Signer {
    Signer::new("agentwall.example/fuzz", SigningKey::from_bytes(&[7; 32])).expect("a valid name")
}

/// A bundle, or its text alone, which is then signed: a signature must not make a bundle of what is
/// none. After a line `%%`, a memory of what was used; after another, a file of trusted keys.
pub fn bundle(data: &[u8]) {
    let parts = parts(data);
    read(parts[0]);
    let opened = std::str::from_utf8(parts[0]).ok().and_then(|text| {
        let text = text.strip_prefix(MAGIC).map_or(text, str::trim_start);
        let signed = signer().sign(&format!("{MAGIC}\n{text}\n")).ok()?;
        read(signed.as_bytes())
    });
    let text = |n: usize| parts.get(n).and_then(|p| std::str::from_utf8(p).ok());
    if let (Some(opened), Some(memory)) = (opened, text(1)) {
        remembered(&opened, &format!("{memory}\n"));
    }
    made(&parts);
    if let Some(text) = text(2) {
        match TrustedKeys::parse(text) {
            Ok(trusted) => assert!(trusted.keys.len() <= text.lines().count()),
            Err(error) => assert_shown(&error.to_string()),
        }
    }
}

/// The parts as sources: what can be signed comes back as it was.
fn made(parts: &[&[u8]]) {
    let layers = [Layer::Organisation, Layer::User, Layer::Repository];
    let source =
        |(n, text): (usize, &&[u8])| Source::new(format!("{n}.yaml"), *text, layers[n % 3]);
    let bundle = Bundle {
        kind: Kind::Policy,
        name: String::new(),
        counter: parts.len() as u64,
        issued: 0,
        sources: parts.iter().enumerate().map(source).collect(),
    };
    match bundle.sign(&signer()) {
        Ok(text) => {
            let opened = read(text.as_bytes()).expect("a bundle of our own");
            assert_eq!(opened.bundle, bundle);
        }
        Err(error) => assert_shown(&error.to_string()),
    }
}

/// A bundle that our key has signed; else nobody.
fn read(bytes: &[u8]) -> Option<Opened> {
    let keys = [signer().verifier()];
    let shown = inspect(bytes);
    let kind = shown.as_ref().map(|s| s.bundle.kind).unwrap_or_default();
    let opened = open_kind(bytes, &keys, kind);
    // What it was signed for is all that it is used for.
    for other in [Kind::Policy, Kind::Agents] {
        assert!(other == kind || open_kind(bytes, &keys, other).is_err());
    }
    let shown = match shown {
        Ok(shown) => shown,
        Err(error) => {
            assert_shown(&error.to_string());
            assert!(opened.is_err(), "opened, but not to be looked at");
            return None;
        }
    };
    // It has one spelling: whoever signs the same signs the same bytes.
    let again = shown.bundle.sign(&signer()).expect("it was a bundle");
    let text = |bytes: &[u8]| Note::parse(bytes).expect("a note").text().to_owned();
    assert_eq!(text(again.as_bytes()), text(bytes));
    match opened {
        Err(error) => {
            assert_shown(&error.to_string());
            assert_ne!(again.as_bytes(), bytes, "our own signature");
            None
        }
        Ok(opened) => {
            assert_eq!(again.as_bytes(), bytes);
            assert_eq!(opened.bundle, shown.bundle);
            assert_eq!(Seen::of(&opened).admits(&opened), Ok(false));
            Some(opened)
        }
    }
}

fn remembered(opened: &Opened, memory: &str) {
    let own = Seen::of(opened);
    assert_eq!(Seen::parse(&own.to_text(), opened), Ok(own));
    if let Ok(seen) = Seen::parse(memory, opened) {
        assert_eq!(seen.to_text(), memory);
        match seen.admits(opened) {
            Ok(newer) => assert_eq!(newer, opened.bundle.counter > seen.counter()),
            Err(_) => assert!(opened.bundle.counter <= seen.counter()),
        }
    }
}
