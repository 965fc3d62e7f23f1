//! The review driven by typed answers: what is asked, and what then becomes of originals and copies.

use std::{
    fs,
    io::{Cursor, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use agentwall_cow::{Layer, base_timestamp};
use agentwall_ledger::Reader;
use agentwall_policy::{Layer as PolicyLayer, Source, Variables, load};
use tempfile::TempDir;

use super::*;
use crate::session::{NewSession, Outcome};

const POLICY: &str = "agentwall: 1
default: deny
rules:
  - id: commit-work
    priority: 100
    action: file.commit
    resource: ${workspace}/**
    effect: allow
";

/// A session that changed `old.txt`, made `new/a.txt` and `new/b.txt`, and deleted `gone.txt`.
struct Table {
    _tmp: TempDir,
    state: State,
    session: Session,
    work: PathBuf,
}

/// What a person saw.
struct Seen {
    said: String,
    shown: String,
}

impl Table {
    fn new() -> Table {
        let tmp = tempfile::tempdir().unwrap();
        let at = fs::canonicalize(tmp.path()).unwrap();
        let (work, home) = (at.join("work"), at.join("home"));
        for dir in [&work, &home] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(work.join("old.txt"), "one\n").unwrap();
        fs::write(work.join("gone.txt"), "bye\n").unwrap();
        let state = State::open_at(&at.join("state")).unwrap();
        let (mut session, _) = Session::create(
            &state,
            NewSession {
                name: "agent".into(),
                workspace: work.clone(),
                command: vec!["agent".into()],
            },
        )
        .unwrap();
        let variables = Variables {
            workspace: Some(work.clone()),
            home: Some(home),
            tmp: Some("/tmp".into()),
            state: Some(state.root().to_owned()),
        };
        let sources = [Source::new("policy.yaml", POLICY, PolicyLayer::User)];
        let policy = load(&sources, &variables).unwrap();
        session.keep_policy(&sources, &variables, &policy).unwrap();
        let layers = session.layers_dir();
        let (upper, under) = (layers.join("upper"), layers.join("work"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&under).unwrap();
        let base = base_timestamp(&at, None).unwrap();
        session.record.layers = vec![Layer::begin(&work, &upper, &under, base).unwrap()];
        session.save().unwrap();
        fs::create_dir(upper.join("new")).unwrap();
        for (name, text) in [
            ("old.txt", "two\x1b[2J\n"),
            ("new/a.txt", "a\n"),
            ("new/b.txt", "b\n"),
        ] {
            fs::write(upper.join(name), text).unwrap();
        }
        let (kind, mode) = (
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
        );
        rustix::fs::mknodat(rustix::fs::CWD, upper.join("gone.txt"), kind, mode, 0).unwrap();
        Table {
            _tmp: tmp,
            state,
            session,
            work,
        }
    }

    /// The person types this; the input ends after it.
    fn type_in(&mut self, answers: &str) -> Seen {
        let (mut said, mut shown) = (Vec::new(), Vec::new());
        Desk {
            forget: &|| {},
            answers: &mut Cursor::new(answers.as_bytes().to_vec()),
            says: &mut said,
            shows: &mut shown,
        }
        .review(&self.state, &mut self.session)
        .unwrap();
        Seen {
            said: String::from_utf8(said).unwrap(),
            shown: String::from_utf8(shown).unwrap(),
        }
    }

    /// The original, if there is one.
    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.work.join(name)).ok()
    }

    /// The changes that are left, as `letter path`.
    fn left(&self) -> Vec<String> {
        let set = changes::scan(&self.session, false).unwrap();
        let line = |c: &Change| {
            let path = output::path_below(&c.path, &self.work);
            format!("{} {path}", changes::kind_text(c.kind).0)
        };
        set.changes.iter().map(line).collect()
    }

    fn untouched(&self) -> bool {
        self.read("old.txt").as_deref() == Some("one\n")
            && self.read("gone.txt").as_deref() == Some("bye\n")
            && self.read("new/a.txt").is_none()
    }

    /// The types of the ledger's entries.
    fn recorded(&self) -> Vec<String> {
        if !self.state.ledger_dir().join("checkpoint").exists() {
            return Vec::new();
        }
        let reader = Reader::open(&self.state.ledger_dir()).unwrap();
        let entry = |n| agentwall_ledger::Entry::from_bytes(&reader.entry(n).unwrap()).unwrap();
        (0..reader.size())
            .map(|n| entry(n).record.type_name().to_owned())
            .collect()
    }
}

const ALL: [&str; 5] = [
    "D gone.txt",
    "A new",
    "A new/a.txt",
    "A new/b.txt",
    "M old.txt",
];

#[test]
fn commit_carries_everything_over() {
    for answer in ["c\n", "commit\n", "  C \n", "c"] {
        let mut table = Table::new();
        let seen = table.type_in(answer);
        assert!(
            seen.said.contains("5 changes") && seen.said.contains(MENU),
            "{}",
            seen.said
        );
        assert!(seen.shown.contains("5 committed"), "{}", seen.shown);
        assert_eq!(table.read("old.txt").unwrap(), "two\x1b[2J\n");
        assert_eq!(table.read("new/b.txt").unwrap(), "b\n");
        assert_eq!(table.read("gone.txt"), None);
        assert!(table.left().is_empty());
        assert_eq!(table.session.record.outcome, Outcome::Committed);
        assert_eq!(
            table.recorded(),
            ["commit", "commit"],
            "the plan and the outcome"
        );
    }
}

#[test]
fn discard_asks_once_more_and_only_yes_drops() {
    let mut table = Table::new();
    let seen = table.type_in("d\nn\nd\n\nd\nwhat\nk\n");
    assert_eq!(seen.said.matches("This cannot be undone. [y/N]").count(), 3);
    assert_eq!(table.left(), ALL);
    assert!(table.recorded().is_empty());
    let seen = table.type_in("d\ny\n");
    assert!(seen.said.ends_with("agentwall: dropped\n"), "{}", seen.said);
    assert!(table.untouched() && table.left().is_empty());
    assert_eq!(table.session.record.outcome, Outcome::Discarded);
    assert_eq!(table.recorded(), ["discard"]);
}

#[test]
fn keep_and_the_end_of_input_keep_everything() {
    for answer in ["k\n", "keep\n", "", "d\n", "s\n", "s\nd\n"] {
        let mut table = Table::new();
        let seen = table.type_in(answer);
        assert!(
            seen.said.contains("agentwall: kept; 'agentwall diff"),
            "{answer:?} {}",
            seen.said
        );
        // An end of input in the middle of the files: what was said before it is done.
        let expected: &[&str] = if answer == "s\nd\n" { &ALL[1..] } else { &ALL };
        assert_eq!(table.left(), expected, "{answer:?}");
        assert!(table.untouched(), "{answer:?}");
    }
}

#[test]
fn the_patch_is_shown_safely_and_asked_again() {
    let mut table = Table::new();
    let seen = table.type_in("p\npatch\nk\n");
    assert_eq!(seen.shown.matches("-one\n").count(), 2, "{}", seen.shown);
    assert!(
        seen.shown.contains("+two\\u{1b}[2J\n") && !seen.shown.contains('\x1b'),
        "{}",
        seen.shown
    );
    assert_eq!(seen.said.matches(MENU).count(), 3);
    assert_eq!(table.left(), ALL);
}

#[test]
fn nonsense_is_asked_again_and_does_nothing() {
    let mut table = Table::new();
    let nonsense = [
        "",
        "x",
        "cc",
        "commit all",
        "yes",
        "y",
        "\x1b[A",
        "\u{0}",
        "c;d",
        "K E",
    ];
    let seen = table.type_in(&(nonsense.join("\n") + "\n"));
    assert_eq!(seen.said.matches(MENU).count(), nonsense.len() + 1);
    assert_eq!(table.left(), ALL);
    assert!(table.untouched() && table.recorded().is_empty());
}

#[test]
fn files_one_by_one_become_what_was_said_of_each() {
    let mut table = Table::new();
    // gone.txt, new, new/a.txt, new/b.txt, old.txt; then the rest is asked about again.
    let seen = table.type_in("s\nnonsense\nd\nc\nc\nk\nk\nk\n");
    assert_eq!(
        seen.said.matches("D gone.txt: [c]ommit").count(),
        2,
        "{}",
        seen.said
    );
    assert_eq!(table.left(), ["A new/b.txt", "M old.txt"]);
    assert_eq!(table.read("gone.txt").unwrap(), "bye\n");
    assert_eq!(table.read("new/a.txt").unwrap(), "a\n");
    assert_eq!(table.session.record.outcome, Outcome::Partly);
}

#[test]
fn a_folder_that_is_committed_does_not_bring_the_files_that_are_kept() {
    let mut table = Table::new();
    table.type_in("s\nk\nc\nk\nk\nk\nk\n");
    assert_eq!(
        table.left(),
        ["D gone.txt", "A new/a.txt", "A new/b.txt", "M old.txt"]
    );
    assert!(table.work.join("new").is_dir() && table.read("new/a.txt").is_none());
}

#[test]
fn a_folder_that_is_dropped_does_not_take_the_files_that_are_kept() {
    let mut table = Table::new();
    let seen = table.type_in("s\nk\nd\nd\nk\nk\nk\n");
    assert!(
        seen.said.contains("new is kept, for what you keep in it"),
        "{}",
        seen.said
    );
    assert_eq!(
        table.left(),
        ["D gone.txt", "A new", "A new/b.txt", "M old.txt"]
    );
    // With nothing left in it that is kept, it goes.
    table.type_in("s\nk\nd\nd\nk\nk\n");
    assert_eq!(table.left(), ["D gone.txt", "M old.txt"]);
}

#[test]
fn quitting_the_files_does_what_was_said_so_far() {
    let mut table = Table::new();
    table.type_in("s\nc\nq\nk\n");
    assert_eq!(table.left(), &ALL[1..]);
    assert_eq!(table.read("gone.txt"), None);
}

#[test]
fn a_line_typed_before_the_first_question_is_no_answer_to_it() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let mut t = Table::new();
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let terminal = ptsname(&person, Vec::new()).unwrap();
    let terminal = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed())
        .open(terminal.to_str().unwrap())
        .unwrap();
    let person = fs::File::from(person);
    // The terminal echoes a line when it has taken it in.
    let types = |line: &[u8]| {
        (&person).write_all(line).unwrap();
        let mut echo = [0; 3];
        (&person).read_exact(&mut echo).unwrap();
    };
    types(b"c\n");
    let (mut said, mut shown) = (Vec::new(), Vec::new());
    Desk {
        forget: &|| {
            forget(&terminal);
            types(b"k\n");
        },
        answers: &mut std::io::BufReader::new(terminal.try_clone().unwrap()),
        says: &mut said,
        shows: &mut shown,
    }
    .review(&t.state, &mut t.session)
    .unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("kept; "), "{said}");
    assert!(t.untouched());
    assert_eq!(t.left(), ALL);
}
