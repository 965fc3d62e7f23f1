//! `agentwall daemon` on a host where no daemon runs, and perhaps none can: nothing pretends.
//!
//! What needs a kernel that loads LSM programs is in tests/vm/daemon.rs.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::{Command, Output},
};

fn agentwall(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agentwall"))
        .args(args)
        .output()
        .unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A command that would leave a mark is not started when nobody confirms its policy.
#[test]
fn without_a_confirmation_nothing_is_started() {
    let tmp = tempfile::tempdir().unwrap();
    let mark = tmp.path().join("mark");
    let marks = mark.to_str().unwrap();
    let said = agentwall(&[
        "daemon",
        "exec",
        "--policy",
        "no-such-entry",
        "--",
        "touch",
        marks,
    ]);
    assert_eq!(said.status.code(), Some(125), "{}", err(&said));
    assert!(err(&said).contains("nothing was started"), "{}", err(&said));
    assert!(!mark.exists());
    let missing = agentwall(&[
        "daemon",
        "exec",
        "--policy",
        "/no/such.yaml",
        "--",
        "touch",
        marks,
    ]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(!mark.exists());
}

#[test]
fn wrong_usage_has_its_own_status() {
    for args in [
        &["daemon"][..],
        &["daemon", "govern"],
        &["daemon", "govern", "x"],
        &["daemon", "exec"],
        &["daemon", "release", "-1"],
    ] {
        assert_eq!(agentwall(args).status.code(), Some(2), "{args:?}");
    }
    let said = agentwall(&["daemon", "stop", "--unload"]);
    assert_eq!(said.status.code(), Some(2), "{}", err(&said));
    assert!(err(&said).contains("-y"), "{}", err(&said));
}

#[test]
fn the_unit_is_shown_with_this_program() {
    let said = agentwall(&["daemon", "install", "--print"]);
    assert_eq!(said.status.code(), Some(0), "{}", err(&said));
    let text = String::from_utf8_lossy(&said.stdout);
    let program = Path::new(env!("CARGO_BIN_EXE_agentwall"))
        .canonicalize()
        .unwrap();
    let line = format!("ExecStart={} daemon run", program.display());
    assert!(text.lines().any(|l| l == line), "{text}");
}

/// A configuration that is wrong is named before anything is loaded.
#[test]
fn a_wrong_configuration_loads_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let config = tmp.path().join("daemon.yaml");
    std::fs::write(&config, "agentwall-daemon: 1\ngovren: []\n").unwrap();
    let at = |name: &str| tmp.path().join(name).to_str().unwrap().to_owned();
    let (config, pins, state) = (at("daemon.yaml"), at("pins"), at("state"));
    let args = [
        "daemon", "run", "--config", &config, "--pins", &pins, "--state", &state,
    ];
    let said = agentwall(&args);
    assert_eq!(said.status.code(), Some(1), "{}", err(&said));
    // An ordinary user is told to become root; root is told what is wrong (or that one runs already).
    let text = err(&said);
    let told = ["run it as root", "unknown key 'govren'", "runs already"];
    assert!(told.iter().any(|t| text.contains(t)), "{text}");
    assert!(!Path::new(&pins).exists());
}
