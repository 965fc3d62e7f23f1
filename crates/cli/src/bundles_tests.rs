use std::os::unix::fs::PermissionsExt as _;

use agentwall_bundle::Bundle;
use agentwall_ledger::{Signer, key};
use agentwall_policy::{Layer, Source};

use super::*;

fn opened(signer: &Signer, counter: u64, text: &str) -> Opened {
    let bundle = Bundle {
        kind: agentwall_bundle::Kind::Policy,
        name: "team".into(),
        counter,
        issued: 0,
        sources: vec![Source::new("p.yaml", text, Layer::User)],
    };
    let bytes = bundle.sign(signer).unwrap();
    agentwall_bundle::open(bytes.as_bytes(), &[signer.verifier()]).unwrap()
}

#[test]
fn what_was_used_is_remembered_and_never_goes_down() {
    let tmp = tempfile::tempdir().unwrap();
    let state = State::open_at(tmp.path()).unwrap();
    let signer = key::generate("example.com/policy").unwrap();
    remember(&state, &opened(&signer, 5, "a")).unwrap();
    remember(&state, &opened(&signer, 5, "a")).unwrap();
    remember(&state, &opened(&signer, 7, "b")).unwrap();
    for (old, wanted) in [
        (opened(&signer, 6, "a"), "has used 7"),
        (opened(&signer, 7, "a"), "another digest"),
    ] {
        let error = remember(&state, &old).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(compare(&state, &old).is_err());
    }
    assert!(!compare(&state, &opened(&signer, 7, "b")).unwrap());
    // Another key has counters of its own.
    let rival = key::generate("example.com/policy").unwrap();
    remember(&state, &opened(&rival, 1, "a")).unwrap();
    let dir = folder(&state);
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    let path = memory(&state, &opened(&signer, 7, "b"));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    // A memory that says nothing is not taken for none.
    fs::write(&path, "").unwrap();
    let error = remember(&state, &opened(&signer, 9, "c")).unwrap_err();
    assert!(error.to_string().contains("remove that file"), "{error}");
}

#[test]
fn many_that_start_at_once_leave_the_newest() {
    let tmp = tempfile::tempdir().unwrap();
    let state = State::open_at(tmp.path()).unwrap();
    let signer = key::generate("example.com/policy").unwrap();
    let all: Vec<Opened> = (1..=16)
        .map(|n| opened(&signer, n * 7 % 17, "same"))
        .collect();
    std::thread::scope(|s| {
        for one in &all {
            let _ = s.spawn(|| remember(&state, one).is_ok());
        }
    });
    let newest = all.iter().max_by_key(|o| o.bundle.counter).unwrap();
    let text = fs::read_to_string(memory(&state, newest)).unwrap();
    assert_eq!(Seen::parse(&text, newest).unwrap().counter(), 16);
}

#[test]
fn trusted_keys_of_others_are_refused_and_both_files_count() {
    let tmp = tempfile::tempdir().unwrap();
    let (host, user) = (tmp.path().join("host"), tmp.path().join("user"));
    let files = [host.clone(), user.clone()];
    let key = |name: &str| key::generate(name).unwrap().verifier();
    let policy = Path::new("/p.yaml");
    let none = Trust::of(&files, &[]).unwrap();
    assert!(none.keys().is_empty());
    none.unsigned_is_taken(policy).unwrap();
    fs::write(&host, format!("require-signed\n{}\n", key("host"))).unwrap();
    fs::write(&user, format!("{}\n", key("user"))).unwrap();
    let given = [OsString::from(key("given").to_string())];
    let trust = Trust::of(&files, &given).unwrap();
    let names: Vec<&str> = trust.keys().iter().map(Verifier::name).collect();
    assert_eq!(names, ["host", "user", "given"]);
    let error = trust.unsigned_is_taken(policy).unwrap_err().to_string();
    assert!(
        error.contains("require-signed") && error.contains("/host"),
        "{error}"
    );
    for mode in [0o664, 0o646] {
        fs::set_permissions(&user, fs::Permissions::from_mode(mode)).unwrap();
        let error = Trust::of(&files, &[]).unwrap_err().to_string();
        assert!(error.contains("others can write"), "{error}");
    }
    fs::set_permissions(&user, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&user, "require-sigend\n").unwrap();
    let error = format!("{:#}", Trust::of(&files, &[]).unwrap_err());
    assert!(error.contains("line 1"), "{error}");
    fs::remove_file(&user).unwrap();
    fs::create_dir(&user).unwrap();
    assert!(Trust::of(&files, &[]).is_err());
}

#[test]
fn a_key_is_given_as_text_or_in_a_file() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("keys");
    let key = key::generate("k").unwrap().verifier();
    fs::write(&file, format!("# one\n{key}\n")).unwrap();
    let whole = |keys: &[Verifier]| keys == std::slice::from_ref(&key);
    let (keys, from) = given_keys(OsStr::new(&key.to_string())).unwrap();
    assert!(whole(&keys) && from.is_none());
    let (keys, from) = given_keys(file.as_os_str()).unwrap();
    assert!(whole(&keys) && from.as_ref() == Some(&file));
    let trust = Trust::of(&[], &[file.clone().into()]).unwrap();
    assert_eq!(trust.given(), std::slice::from_ref(&file));
    fs::write(&file, "# none\n").unwrap();
    for (given, wanted) in [
        (file.as_os_str(), "has no key"),
        (OsStr::new("a+b"), "bundle keygen"),
        (OsStr::new("nowhere"), "cannot read"),
    ] {
        let error = given_keys(given).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}
