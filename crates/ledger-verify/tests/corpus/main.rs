//! The forgery corpus: genuine logs and proofs, every way we know to forge them, and who sees it.
//!
//! One program makes it, from keys and entries that are the same in every run, and asks every verifier:
//! the ledger's own, the one of this crate, Go's (when `LEDGER_VERIFY_GO` names it), and the crates
//! `tlog_tiles` with `signed_note`, and `ct-merkle`, where they apply. All must accept what is genuine and
//! refuse what is not; what a verifier cannot see stands in the case with the reason, and is checked to
//! be so still. `LEDGER_CORPUS=DIR` keeps the corpus there, with a list for other verifiers in
//! `cases.tsv`. The table of all cases is FORGERIES.md; `UPDATE=1` writes it anew.

mod case;
mod genuine;
mod logs;
mod notes;
mod proofs;
mod rotations;
mod verifiers;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use case::{Case, Corpus, Verdict, Who};

#[test]
fn every_verifier_sees_every_forgery() {
    let temporary = tempfile::tempdir().expect("a folder");
    let root = env::var_os("LEDGER_CORPUS").map_or(temporary.path().join("corpus"), PathBuf::from);
    fs::create_dir_all(&root).expect("a folder");
    let go = env::var_os("LEDGER_VERIFY_GO").map(PathBuf::from);
    if go.is_none() {
        println!("skip Go: LEDGER_VERIFY_GO does not name its verifier; interop/run.sh builds it");
    }
    let cases = make(&root, &temporary.path().join("genuine"));
    let mut wrong = Vec::new();
    let mut asked = 0;
    for case in &cases {
        for who in Who::ALL {
            if !case.concerns(who) {
                continue;
            }
            let Some(answer) = verifiers::ask(who, case, go.as_deref()) else { continue };
            asked += 1;

            if let Some(what) = complaint(case, who, &answer) {
                wrong.push(format!("{}: {who:?} {what}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    println!("{} cases, {asked} verdicts", cases.len());
    write_list(&root, &cases);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("FORGERIES.md");
    let table = table(&cases);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &table).expect("written");
    }
    assert!(fs::read_to_string(&path).is_ok_and(|t| t == table), "FORGERIES.md is old: UPDATE=1");
}

/// What README.md promises to whoever audits: no more to read than this.
#[test]
fn it_stays_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = fs::read_dir(root.join("src")).expect("a folder");
    let text = |path: &Path| fs::read_to_string(path).expect("text");
    let lines: usize = sources.map(|f| text(&f.expect("a file").path()).lines().count()).sum();
    assert!(lines <= 600, "{lines} lines");
    let manifest = text(&root.join("Cargo.toml"));
    let own = manifest.split("[dependencies]\n").nth(1).and_then(|m| m.split("\n\n").next());
    let names: Vec<&str> = own
        .expect("dependencies")
        .lines()
        .map(|l| l.split(['.', ' ']).next().unwrap_or(l))
        .collect();
    assert_eq!(names, ["base64", "ed25519-dalek", "sha2"]);
}

/// Exit status 2: nothing was looked at, so nothing was shown.
#[test]
fn wrong_arguments_are_no_verdict() {
    let temporary = tempfile::tempdir().expect("a folder");
    let dir = genuine::log(temporary.path(), 3);
    let dir = dir.to_str().expect("a plain name");
    let key = genuine::signer(1).verifier().to_string();
    let [one, same] =
        [("w1.example", 11), ("w2.example", 11)].map(|(n, b)| genuine::Witness::new(n, b).vkey());
    let own = genuine::Witness::new("w3.example", 1).vkey();
    let broken = key.replace('+', "-");
    for arguments in [
        &[][..],
        &["log"],
        &["log", dir],
        &["log", dir, "--key"],
        &["log", dir, "--key", &broken],
        &["log", dir, "--key", &one],
        &["log", dir, "--key", &key, "--key", &key],
        &["log", dir, "--key", &key, "--entry", dir],
        &["proof", dir, "--key", &key],
        &["check", dir, "--key", &key],
        &["log", dir, "--key", &key, "--quorum", "1"],
        &["log", dir, "--key", &key, "--witness", &one],
        &["log", dir, "--key", &key, "--witness", &one, "--quorum", "0"],
        &["log", dir, "--key", &key, "--witness", &one, "--quorum", "2"],
        &["log", dir, "--key", &key, "--witness", &key, "--quorum", "1"],
        // One key under two names, and the log's own as a witness's, would count twice.
        &["log", dir, "--key", &key, "--witness", &one, "--witness", &same, "--quorum", "2"],
        &["log", dir, "--key", &key, "--witness", &own, "--quorum", "1"],
    ] {
        let program = env!("CARGO_BIN_EXE_agentwall-ledger-verify");
        let done = Command::new(program).args(arguments).output().expect("started");
        assert_eq!(done.status.code(), Some(2), "{arguments:?}");
        assert!(done.stdout.is_empty());
    }
    let program = env!("CARGO_BIN_EXE_agentwall-ledger-verify");
    let done = Command::new(program).args(["log", dir, "--key", &key]).output().expect("started");
    assert_eq!(done.status.code(), Some(0));
}

fn make(root: &Path, logs: &Path) -> Vec<Case> {
    logs::SIZES.into_iter().for_each(|size| drop(genuine::log(logs, size)));
    let mut corpus = Corpus { root: root.to_owned(), cases: Vec::new() };
    for part in [
        logs::genuine_cases,
        logs::entry_cases,
        logs::tile_cases,
        logs::file_cases,
        logs::pruned_cases,
        logs::past_cases,
        notes::spelling_cases,
        notes::witness_cases,
        proofs::genuine_cases,
        proofs::hash_cases,
        proofs::text_cases,
        proofs::signature_cases,
        rotations::cases,
    ] {
        part(&mut corpus, logs);
    }
    corpus.cases
}

/// What is wrong with an answer.
fn complaint(case: &Case, who: Who, answer: &verifiers::Answer) -> Option<String> {
    let lenient = case.lenient.iter().any(|(w, _)| *w == who);
    let accepted = matches!(case.verdict, Verdict::Verified | Verdict::Unseen(_)) || lenient;
    match (answer, accepted) {
        (Ok(()), false) => Some("accepts it".to_owned()),
        (Err(why), true) if lenient => Some(format!("refuses it, against what is said: {why}")),
        (Err(why), true) => Some(format!("refuses it: {why}")),
        (Err(why), false) => match &case.verdict {
            Verdict::Refused(file) if who == Who::Tiny => {
                let named =
                    why.strip_prefix("refused: ").is_some_and(|w| w.contains(&format!("{file}: ")));
                (!named).then(|| format!("does not name {file}: {why}"))
            }
            _ => None,
        },
        _ => None,
    }
}

/// For verifiers of others: name, `verified` or `refused`, arguments.
fn write_list(root: &Path, cases: &[Case]) {
    let mut text = String::new();
    for case in cases {
        let verdict = match case.verdict {
            Verdict::Refused(_) => "refused",
            Verdict::Verified | Verdict::Unseen(_) => "verified",
        };
        let prefix = format!("{}/", root.display());
        let arguments = case.arguments().join(" ").replace(&prefix, "");
        text.push_str(&format!("{}\t{verdict}\t{arguments}\t{}\n", case.name, case.what));
    }
    fs::write(root.join("cases.tsv"), text).expect("written");
}

fn table(cases: &[Case]) -> String {
    let (genuine, forged): (Vec<&Case>, Vec<&Case>) =
        cases.iter().partition(|c| c.verdict == Verdict::Verified);
    let unseen = |c: &&&Case| matches!(c.verdict, Verdict::Unseen(_));
    let mut out = format!(
        "# Forgeries\n\nWritten by `tests/corpus`, which makes them all and asks every verifier: {} forgeries, {} that \
         nobody can see, and {} genuine logs and proofs, which all accept.\n\n\
         L `agentwall ledger verify` and the ledger's library, V this crate, G `verify.go`, T the crates \
         tlog_tiles and signed_note, M the crate ct-merkle. A letter: refuses it. `-`: accepts it, see below. A dot: \
         not a question for it.\n\n\
         | forgery | what is wrong | |\n|---|---|---|\n",
        forged.len() - forged.iter().filter(unseen).count(),
        forged.iter().filter(unseen).count(),
        genuine.len()
    );
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for case in &forged {
        let mut marks = String::new();
        for (who, letter) in Who::ALL.into_iter().zip("LVGTM".chars()) {
            let why = match (&case.verdict, case.lenient.iter().find(|(w, _)| *w == who)) {
                (Verdict::Unseen(why), _) | (_, Some((_, why))) => Some(*why),
                _ => None,
            };
            marks.push(match why {
                _ if !case.concerns(who) => '.',
                Some(_) => '-',
                None => letter,
            });
            let Some(why) = why.filter(|_| case.concerns(who)) else { continue };
            match reasons.iter_mut().find(|(w, _)| *w == why) {
                Some((_, names)) if names.contains(&case.name) => {}
                Some((_, names)) => names.push(case.name.clone()),
                None => reasons.push((why, vec![case.name.clone()])),
            }
        }
        out.push_str(&format!("| {} | {} | `{marks}` |\n", case.name, case.what));
    }
    out.push_str("\n## Accepted, and why\n\n");
    for (why, names) in reasons {
        out.push_str(&format!("* {}: {why}.\n", names.join(", ")));
    }
    out
}
