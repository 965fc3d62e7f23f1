use agentwall_bundle::Bundle;
use agentwall_ledger::{Signer, key};
use agentwall_policy::Layer;

use super::*;

const DATA: &str = "agentwall-agents: 1\nversion: 9\nsignatures:\n  - id: own\n    name: Own\n    vendor: V\n    \
     homepage: https://own.example\n    kind: agent\n    any:\n      - basename: own\n    match:\n      \
     - exe: /bin/own\n    not_match:\n      - exe: /bin/b\n";

fn bundle(signer: &Signer, counter: u64, text: &str) -> (Opened, Vec<u8>) {
    let bundle = Bundle {
        kind: Kind::Agents,
        name: "agents".into(),
        counter,
        issued: 0,
        sources: vec![Source::new("a.yaml", text, Layer::User)],
    };
    let bytes = bundle.sign(signer).unwrap().into_bytes();
    let opened = open_kind(&bytes, &[signer.verifier()], Kind::Agents).unwrap();
    (opened, bytes)
}

#[test]
fn what_is_installed_is_used_until_it_is_removed_and_older_data_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let state = State::open_at(tmp.path()).unwrap();
    assert!(load(&state).unwrap().bundle.is_none());
    let signer = key::generate("example.com/agents").unwrap();
    let (first, bytes) = bundle(&signer, 5, DATA);
    install(&state, &first, &bytes).unwrap();
    let known = load(&state).unwrap();
    assert_eq!(
        (known.signatures.version, known.signatures.list().len()),
        (9, 1)
    );
    assert_eq!(known.bundle.unwrap(), first);
    let (older, old) = bundle(&signer, 4, DATA);
    let error = format!("{:#}", install(&state, &older, &old).unwrap_err());
    assert!(error.contains("has used 5"), "{error}");
    assert_eq!(load(&state).unwrap().bundle.unwrap().bundle.counter, 5);
    // Put there by hand, it is refused as well.
    let mut text = format!("{}\n", older.key).into_bytes();
    text.extend(&old);
    fs::write(place(&state), text).unwrap();
    assert!(load(&state).unwrap_err().to_string().contains("has used 5"));
    assert!(remove(&state).unwrap() && !remove(&state).unwrap());
    assert!(load(&state).unwrap().bundle.is_none());
}

#[test]
fn a_broken_installed_file_is_never_ignored() {
    let tmp = tempfile::tempdir().unwrap();
    let state = State::open_at(tmp.path()).unwrap();
    let signer = key::generate("example.com/agents").unwrap();
    let (opened, bytes) = bundle(&signer, 1, DATA);
    install(&state, &opened, &bytes).unwrap();
    let good = fs::read(place(&state)).unwrap();
    let refused = |text: &[u8]| {
        fs::write(place(&state), text).unwrap();
        let error = load(&state).unwrap_err().to_string();
        assert!(error.contains("--built-in"), "{error}");
        error
    };
    let changed = String::from_utf8(good.clone())
        .unwrap()
        .replace("basename: own", "basename: sh");
    assert!(refused(changed.as_bytes()).contains("signature"));
    assert!(refused(b"").contains("public key"));
    assert!(refused(&good[..good.len() / 2]).contains("damaged"));
    let rival = key::generate("example.com/agents").unwrap();
    let (_, theirs) = bundle(&rival, 2, DATA);
    let mut text = format!("{}\n", opened.key).into_bytes();
    text.extend(theirs);
    refused(&text);
    fs::write(place(&state), &good).unwrap();
    assert!(load(&state).is_ok());
    fs::remove_file(place(&state)).unwrap();
    fs::create_dir(place(&state)).unwrap();
    assert!(
        load(&state)
            .unwrap_err()
            .to_string()
            .contains("not a regular file")
    );
}

#[test]
fn data_that_fail_their_own_tests_are_not_installed() {
    let tmp = tempfile::tempdir().unwrap();
    let state = State::open_at(tmp.path()).unwrap();
    let signer = key::generate("example.com/agents").unwrap();
    let (opened, bytes) = bundle(
        &signer,
        1,
        &DATA.replace("basename: own", "basename: other"),
    );
    let error = format!("{:#}", install(&state, &opened, &bytes).unwrap_err());
    assert!(error.contains("1 of its 2 tests fail"), "{error}");
    assert!(load(&state).unwrap().bundle.is_none());
}
