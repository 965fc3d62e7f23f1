//! What is signed is read back; whatever is changed, by whomever, is refused.

#![allow(clippy::unwrap_used)]

use agentwall_bundle::{
    Bundle, BundleError, Kind, MAGIC, MAX_COUNTER, MAX_SOURCES, Opened, RollbackError, Seen,
    TrustedKeys, inspect, is_bundle, open, open_kind,
};
use agentwall_ledger::{Note, Signer, Verifier};
use agentwall_policy::{Layer, Source};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

fn signer(name: &str, byte: u8) -> Signer {
    Signer::new(name, SigningKey::from_bytes(&[byte; 32])).unwrap()
}

fn team() -> Signer {
    signer("example.com/policy", 7)
}

fn keys() -> [Verifier; 1] {
    [team().verifier()]
}

fn bundle(counter: u64) -> Bundle {
    Bundle {
        kind: Kind::Policy,
        name: "team".into(),
        counter,
        issued: 1_790_000_000,
        sources: vec![
            Source::new(
                "org.yaml",
                "agentwall: 1\ndefault: ask\n",
                Layer::Organisation,
            ),
            Source::new(
                "team.yaml",
                "agentwall: 1\t# tabs, \"quotes\", \\ and \u{202e}\r\n",
                Layer::User,
            ),
        ],
    }
}

/// A note with any text, signed by the trusted key.
fn signed(text: &str) -> Vec<u8> {
    team().sign(text).unwrap().into_bytes()
}

fn refused(bytes: &[u8]) -> BundleError {
    assert!(inspect(bytes).is_err(), "an unverified look is as strict");
    open(bytes, &keys()).unwrap_err()
}

#[test]
fn what_is_signed_is_read_back() {
    let text = bundle(3).sign(&team()).unwrap();
    assert!(is_bundle(text.as_bytes()));
    let opened = open(text.as_bytes(), &keys()).unwrap();
    assert_eq!(opened.bundle, bundle(3));
    assert_eq!(opened.key, team().verifier());
    let other = signer("example.com/policy", 8).verifier();
    let many = [other.clone(), team().verifier()];
    assert_eq!(open(text.as_bytes(), &many).unwrap(), opened);
    let shown = inspect(text.as_bytes()).unwrap();
    assert_eq!(shown.bundle, opened.bundle);
    assert_eq!(
        shown.signer,
        ("example.com/policy".to_owned(), team().verifier().id())
    );
    for keys in [vec![], vec![other], vec![signer("x", 7).verifier()]] {
        let error = open(text.as_bytes(), &keys).unwrap_err();
        assert!(matches!(error, BundleError::NotTrusted { .. }), "{error}");
        assert!(error.to_string().contains("--trust"), "{error}");
    }
    let unnamed = Bundle {
        name: String::new(),
        ..bundle(1)
    };
    let text = unnamed.sign(&team()).unwrap();
    assert!(!text.contains("\"name\":\"\""), "{text}");
    assert_eq!(open(text.as_bytes(), &keys()).unwrap().bundle, unnamed);
}

#[test]
fn the_digest_is_of_layers_names_and_contents_in_order() {
    let digest = bundle(1).digest();
    assert_eq!(digest, bundle(2).digest());
    let change = |with: &dyn Fn(&mut Bundle)| {
        let mut other = bundle(1);
        with(&mut other);
        other.digest()
    };
    assert_eq!(digest, change(&|b| b.issued = 1));
    for other in [
        change(&|b| b.sources[0].text.push(b'\n')),
        change(&|b| b.sources[0].layer = Layer::Repository),
        change(&|b| b.sources[0].name.push('x')),
        change(&|b| b.sources.reverse()),
        change(&|b| drop(b.sources.pop())),
    ] {
        assert_ne!(digest, other);
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let text = bundle(3).sign(&team()).unwrap().into_bytes();
    for at in 0..text.len() {
        let mut bad = text.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(open(&bad, &keys()).is_err(), "byte {at}");
        assert!(open(&text[..at], &keys()).is_err(), "cut at {at}");
    }
}

#[test]
fn trailing_and_doubled_data_is_refused() {
    let text = bundle(3).sign(&team()).unwrap();
    let line = text.lines().last().unwrap().to_owned();
    let other = bundle(3).sign(&signer("other", 9)).unwrap();
    let other = other.lines().last().unwrap().to_owned();
    for tail in [
        "\n",
        " ",
        "x",
        "\0",
        &format!("{line}\n"),
        &format!("{other}\n"),
    ] {
        let bad = format!("{text}{tail}");
        assert!(open(bad.as_bytes(), &keys()).is_err(), "{tail:?}");
    }
    let both = format!("{text}{other}\n");
    assert_eq!(refused(both.as_bytes()), BundleError::Signatures(2));
    assert!(open(format!("{text}{text}").as_bytes(), &keys()).is_err());
    assert!(matches!(
        refused(b"agentwall: 1\n"),
        BundleError::NotABundle
    ));
    assert!(matches!(
        refused(&vec![b'x'; agentwall_bundle::MAX_BUNDLE + 1]),
        BundleError::TooLong(_)
    ));
}

/// Even what a trusted key has signed has to be a bundle, in its one spelling.
#[test]
fn a_signed_text_that_is_no_bundle_is_refused() {
    let good = bundle(3).sign(&team()).unwrap();
    let note = Note::parse(good.as_bytes()).unwrap();
    let text = note.text().to_owned();
    assert_eq!(open(&signed(&text), &keys()).unwrap().bundle, bundle(3));
    let cases = [
        (text.replace("\"counter\":3", "\"counter\": 3"), "canonical"),
        (
            text.replace("\"counter\":3,", "\"counter\":3,\"counter\":3,"),
            "duplicate",
        ),
        (
            text.replace("\"counter\":3", "\"counter\":3.0"),
            "version 1",
        ),
        (text.replace("\"counter\":3", "\"counter\":0"), "counter"),
        (
            text.replace("\"counter\":3", "\"counter\":9007199254740992"),
            "counter",
        ),
        (text.replace("\"counter\":3", "\"counter\":-3"), "version 1"),
        (text.replace("1790000000", "253402300800"), "9999"),
        (
            text.replace("\"name\":\"team\"", "\"name\":\"a b\""),
            "name",
        ),
        (
            text.replace("\"name\":\"team\"", "\"name\":\"\""),
            "canonical",
        ),
        (
            text.replace("\"name\":\"team\",", "\"nick\":\"team\","),
            "unknown field",
        ),
        (
            text.replace("\"layer\":\"user\"", "\"layer\":\"root\""),
            "unknown variant",
        ),
        (
            text.replace("default: ask", "default: any"),
            "digest of org.yaml",
        ),
        (
            text.replace("\"name\":\"org.yaml\"", "\"name\":\"orgs.yaml\""),
            "digest of all",
        ),
        (text.replace("org.yaml", "team.yaml"), "same name"),
        (text.replace("org.yaml", "a\\u0000b"), "control"),
        (text.replace("org.yaml", "\\u006frg.yaml"), "canonical"),
        (text.replace("\"issued\":1790000000,", ""), "issued"),
        (format!("{text}{{}}\n"), "version 1"),
        (format!("{text}\n"), "canonical"),
        (format!("{MAGIC}\n"), "begins with"),
        (format!("{MAGIC}\n\n"), "version 1"),
        (format!("{MAGIC}\n[]\n"), "version 1"),
        (format!("{MAGIC}\n{}\n", "[".repeat(100_000)), "version 1"),
    ];
    for (text, wanted) in cases {
        let error = refused(&signed(&text)).to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    // A note of another kind by the same key, for example a log's checkpoint.
    let error = refused(&signed("example.com/policy\n4\nAAAA\n"));
    assert_eq!(error, BundleError::NotABundle);
}

#[test]
fn what_no_bundle_may_hold_is_not_signed() {
    let wrong = |with: &dyn Fn(&mut Bundle)| {
        let mut bundle = bundle(1);
        with(&mut bundle);
        bundle.sign(&team()).unwrap_err().to_string()
    };
    for (error, wanted) in [
        (wrong(&|b| b.counter = 0), "found 0"),
        (wrong(&|b| b.counter = MAX_COUNTER + 1), "9007199254740991"),
        (wrong(&|b| b.name = "a\nb".into()), "a\\nb"),
        (wrong(&|b| b.name = "x".repeat(129)), "at most 128"),
        (wrong(&|b| b.sources.clear()), "found 0"),
        (
            wrong(&|b| {
                b.sources = (0..=MAX_SOURCES)
                    .map(|n| Source::new(n.to_string(), n.to_string(), Layer::User))
                    .collect();
            }),
            "found 65",
        ),
        (wrong(&|b| b.sources[0].name = "\x1b[2J".into()), "\\u{1b}"),
        (
            wrong(&|b| b.sources[0].text = b"a\xff".to_vec()),
            "UTF-8 from byte 1",
        ),
        (
            wrong(&|b| b.sources[0].text = vec![b' '; (4 << 20) + 1]),
            "4194304",
        ),
        (
            wrong(&|b| b.sources[1].name = "org.yaml".into()),
            "same name",
        ),
        (
            wrong(&|b| {
                let mut twin = b.sources[0].clone();
                twin.name = "twin.yaml".into();
                b.sources.push(twin);
            }),
            "same layer and content",
        ),
    ] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    // Six bytes for each control character: only what is written shows its length.
    let mut huge = bundle(1);
    huge.sources[0].text = vec![1; 4 << 20];
    assert!(matches!(huge.sign(&team()), Err(BundleError::TooLong(_))));
}

#[test]
fn a_host_never_goes_back() {
    let opened = |bundle: &Bundle| -> Opened {
        open(bundle.sign(&team()).unwrap().as_bytes(), &keys()).unwrap()
    };
    let five = opened(&bundle(5));
    let seen = Seen::of(&five);
    assert_eq!(seen.admits(&five), Ok(false));
    assert_eq!(seen.admits(&opened(&bundle(6))), Ok(true));
    let error = seen.admits(&opened(&bundle(4))).unwrap_err();
    assert!(matches!(
        error,
        RollbackError::Older {
            found: 4,
            seen: 5,
            ..
        }
    ));
    let text = error.to_string();
    for wanted in ["is 4", "used 5", "team", "at least 6"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let mut other = bundle(5);
    other.sources.pop();
    let error = seen.admits(&opened(&other)).unwrap_err();
    assert!(
        matches!(error, RollbackError::Twice { counter: 5, .. }),
        "{error}"
    );
    let mut later = bundle(5);
    later.issued += 1;
    assert_eq!(seen.admits(&opened(&later)), Ok(false), "the same policy");
}

#[test]
fn the_memory_is_read_in_one_form_and_for_its_own_bundle_only() {
    let five = open(bundle(5).sign(&team()).unwrap().as_bytes(), &keys()).unwrap();
    let text = Seen::of(&five).to_text();
    assert_eq!(Seen::parse(&text, &five).unwrap(), Seen::of(&five));
    let mut named = bundle(5);
    named.name = "other".into();
    let named = open(named.sign(&team()).unwrap().as_bytes(), &keys()).unwrap();
    assert!(Seen::parse(&text, &named).is_err());
    assert_ne!(Seen::file_name(&five), Seen::file_name(&named));
    let rival = signer("example.com/policy", 8);
    let foreign = open(
        bundle(5).sign(&rival).unwrap().as_bytes(),
        &[rival.verifier()],
    )
    .unwrap();
    assert!(Seen::parse(&text, &foreign).is_err());
    assert_ne!(Seen::file_name(&five), Seen::file_name(&foreign));
    for at in 0..text.len() {
        assert!(Seen::parse(&text[..at], &five).is_err(), "cut at {at}");
    }
    for wrong in [
        text.replace("\"v\":1", "\"v\":2"),
        format!("{text}\n"),
        String::new(),
    ] {
        assert!(Seen::parse(&wrong, &five).is_err(), "{wrong}");
    }
}

/// The same name, counter and text as another kind of bundle.
fn agents(counter: u64) -> Bundle {
    Bundle {
        kind: Kind::Agents,
        sources: vec![Source::new("a.yaml", "agentwall-agents: 1\n", Layer::User)],
        ..bundle(counter)
    }
}

#[test]
fn a_bundle_is_used_for_what_it_was_signed_for() {
    let policy = bundle(3).sign(&team()).unwrap();
    let data = agents(3).sign(&team()).unwrap();
    assert!(data.contains(r#""kind":"agents","counter":3"#) && !data.contains("layer"));
    assert!(!policy.contains("kind"));
    let opened = open_kind(data.as_bytes(), &keys(), Kind::Agents).unwrap();
    assert_eq!(opened.bundle, agents(3));
    assert_eq!(inspect(data.as_bytes()).unwrap().bundle.kind, Kind::Agents);
    for (text, kind, wanted) in [
        (&data, Kind::Policy, "'agentwall agents update' takes it"),
        (&policy, Kind::Agents, "--policy takes it"),
    ] {
        let error = open_kind(text.as_bytes(), &keys(), kind).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert!(open(data.as_bytes(), &keys()).is_err());
    // The same sources are never the same digest.
    let as_policy = Bundle {
        kind: Kind::Policy,
        ..agents(3)
    };
    assert_ne!(as_policy.digest(), agents(3).digest());
    // Each kind counts for itself.
    let of_policy = open(policy.as_bytes(), &keys()).unwrap();
    assert_ne!(Seen::file_name(&opened), Seen::file_name(&of_policy));
    let memory = Seen::of(&opened).to_text();
    assert!(Seen::parse(&memory, &opened).is_ok());
    assert!(Seen::parse(&memory, &of_policy).is_err());
    assert!(Seen::parse(&Seen::of(&of_policy).to_text(), &opened).is_err());
}

#[test]
fn a_kind_has_one_spelling_and_its_own_sources() {
    let text = |bundle: &Bundle| {
        let signed = bundle.sign(&team()).unwrap();
        Note::parse(signed.as_bytes()).unwrap().text().to_owned()
    };
    for (from, to) in [
        (r#""name":"team","#, r#""name":"team","kind":"policy","#),
        (r#""name":"team","#, r#""name":"team","kind":"other","#),
        (r#""layer":"user","#, ""),
    ] {
        let bad = text(&bundle(3)).replace(from, to);
        assert!(open(&signed(&bad), &keys()).is_err(), "{to}");
    }
    let good = text(&agents(3));
    let layered = good.replace(r#"{"name":"a.yaml""#, r#"{"layer":"user","name":"a.yaml""#);
    assert_ne!(good, layered);
    let error = open_kind(&signed(&layered), &keys(), Kind::Agents).unwrap_err();
    assert!(matches!(error, BundleError::Layer { .. }), "{error}");
    let mut wrong = agents(3);
    wrong.sources[0].layer = Layer::Organisation;
    let error = wrong.sign(&team()).unwrap_err();
    assert!(
        error.to_string().contains("has no use for a layer"),
        "{error}"
    );
}

#[test]
fn trusted_keys_are_read_strictly() {
    let key = team().verifier();
    let text = format!("# ours\n\n  {key}  \n");
    let trusted = TrustedKeys::parse(&text).unwrap();
    assert_eq!((trusted.keys.len(), trusted.require_signed), (1, false));
    let mut all = TrustedKeys::parse("require-signed\n").unwrap();
    assert!(all.require_signed && all.keys.is_empty());
    all.extend(trusted);
    assert!(all.require_signed && all.keys == [key.clone()]);
    let odd = key.to_string().replacen('+', "+\x1b\u{202e}", 1);
    for wrong in [
        &odd,
        "require-sign",
        "example.com",
        &format!("{key} x"),
        "\x1b[2J",
    ] {
        let error = TrustedKeys::parse(&format!("\n{wrong}\n"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && !error.contains(['\x1b', '\u{202e}']),
            "{error}"
        );
    }
}

proptest! {
    /// Any sources that may be signed come back; the same with any change of any bytes do not.
    #[test]
    fn any_policy_survives_and_no_change_does(
        name in "[a-zA-Z0-9._/-]{0,12}",
        counter in 1..=MAX_COUNTER,
        texts in proptest::collection::hash_set(any::<String>(), 1..5),
        at in any::<proptest::sample::Index>(),
        with in proptest::collection::vec(any::<u8>(), 0..6),
        gone in 0usize..6,
    ) {
        let sources = texts.into_iter().enumerate().map(|(n, text)| {
            let layer = [Layer::Organisation, Layer::User, Layer::Repository][n % 3];
            Source::new(format!("{n}.yaml"), text, layer)
        });
        let bundle = Bundle { name, kind: Kind::Policy, counter, issued: 0, sources: sources.collect() };
        let text = bundle.sign(&team()).unwrap().into_bytes();
        prop_assert_eq!(&open(&text, &keys()).unwrap().bundle, &bundle);
        let at = at.index(text.len() + 1);
        let mut bad = text.clone();
        bad.splice(at..(at + gone).min(text.len()), with);
        if bad != text {
            prop_assert!(open(&bad, &keys()).is_err());
        }
    }
}
