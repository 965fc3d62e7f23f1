//! What somebody does between gc's list and its lock: gc takes nothing of a session that is not what it
//! was listed as, and all of one that still is.

use std::fs::FileTimes;

use agentwall_cow::base_timestamp;
use agentwall_policy::{Layer as PolicyLayer, Source, Variables, load};
use tempfile::TempDir;

use super::*;
use crate::{
    cmd::{
        commit::{self, commit_session},
        undo::give_up,
    },
    session::NewSession,
};

const POLICY: &str = "agentwall: 1
default: deny
rules:
  - { id: commit, priority: 100, action: file.commit, resource: '${workspace}/**', effect: allow }
";

const DAY: u64 = 24 * 3600 * 1000;

/// A session that ended ten days ago.
struct Old {
    tmp: TempDir,
    state: State,
    session: Session,
}

impl Old {
    fn new() -> Old {
        let tmp = tempfile::tempdir().unwrap();
        let at = fs::canonicalize(tmp.path()).unwrap();
        let (work, state) = (at.join("work"), State::open_at(&at.join("state")).unwrap());
        fs::create_dir(&work).unwrap();
        fs::write(work.join("a"), "base\n").unwrap();
        let new = NewSession {
            workspace: work.clone(),
            ..NewSession::default()
        };
        let (mut session, _lock) = Session::create(&state, new).unwrap();
        let sources = [Source::new("policy.yaml", POLICY, PolicyLayer::User)];
        let variables = Variables {
            workspace: Some(work.clone()),
            ..Variables::default()
        };
        let policy = load(&sources, &variables).unwrap();
        session.keep_policy(&sources, &variables, &policy).unwrap();
        let (upper, under) = (
            session.layers_dir().join("upper"),
            session.layers_dir().join("work"),
        );
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&under).unwrap();
        let base = base_timestamp(&at, None).unwrap();
        session.record.layers = vec![Layer::begin(&work, &upper, &under, base).unwrap()];
        session.record.started_ms -= 10 * DAY;
        session.record.ended_ms = Some(session.record.started_ms + 1000);
        session.save().unwrap();
        Old {
            tmp,
            state,
            session,
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.tmp.path().join("work").join(name)).ok()
    }

    fn upper(&self, name: &str) -> PathBuf {
        self.session.record.layers[0].upper.join(name)
    }

    /// It ran once more, and wrote a file.
    fn runs(&mut self, text: &str) {
        fs::write(self.upper("a"), text).unwrap();
        self.session.record.resumed_ms = Some(now_ms() - 1000);
        self.session.record.ended_ms = Some(now_ms());
        self.session.save().unwrap();
    }

    fn commits(&mut self) {
        let options = commit::Options::default();
        let report = commit_session(&self.state, &mut self.session, &options).unwrap();
        assert_eq!(report.status(), 0);
    }

    /// Its last commit was as long ago as itself.
    fn ages(&self) {
        let kept = self.session.layers_dir().join("upper.undo");
        let ago = SystemTime::now() - Duration::from_millis(10 * DAY);
        let times = FileTimes::new().set_modified(ago);
        File::options()
            .write(true)
            .open(kept)
            .unwrap()
            .set_times(times)
            .unwrap();
    }

    fn can_undo(&self) -> bool {
        agentwall_cow::can_undo(&self.session.record.layers).is_ok()
    }
}

/// Lists the sessions, does something in between, and goes on with what was listed; what is removed,
/// and what is left alone.
fn collect(
    old: &mut Old,
    args: &GcArgs,
    kind: Option<Kind>,
    between: impl FnOnce(&mut Old),
) -> (Vec<Kind>, Vec<String>) {
    let state = State::open_at(old.state.root()).unwrap();
    let mut gc = Gc {
        state: &state,
        args,
        done: Vec::new(),
        failed: Vec::new(),
        now: now_ms(),
    };
    let subjects = gc.subjects().unwrap();
    assert_eq!(subjects.len(), 1);
    between(old);
    match kind {
        None => gc.session(&subjects[0]),
        Some(kind) => gc.take(&subjects[0], kind),
    };
    let removed = gc.done.iter().map(|d| d.kind).collect();
    (removed, gc.failed)
}

fn args(max_age: Option<u64>) -> GcArgs {
    GcArgs {
        dry_run: false,
        max_age: max_age.map(|days| Duration::from_millis(days * DAY)),
        max_size: Some(0),
        discard_uncommitted: true,
        json: false,
    }
}

/// Nothing was removed, and it is said why.
fn left_alone((removed, failed): (Vec<Kind>, Vec<String>), old: &Old) {
    assert_eq!(removed, []);
    assert!(
        failed.len() == 1 && failed[0].contains("somebody has just worked in it"),
        "{failed:?}"
    );
    assert!(old.session.dir().join("session.json").exists());
}

#[test]
fn a_session_that_ran_after_it_was_listed_keeps_its_new_work() {
    for kind in [None, Some(Kind::Uncommitted)] {
        let mut old = Old::new();
        fs::write(old.upper("a"), "one\n").unwrap();
        let what = collect(&mut old, &args(Some(7)), kind, |old| old.runs("two\n"));
        left_alone(what, &old);
        assert_eq!(fs::read_to_string(old.upper("a")).unwrap(), "two\n");
        // Nobody came in between: it goes.
        let mut old = Old::new();
        fs::write(old.upper("a"), "one\n").unwrap();
        let (removed, failed) = collect(&mut old, &args(Some(7)), kind, |_| {});
        assert_eq!((removed, failed), (vec![Kind::Uncommitted], vec![]));
        assert!(!old.session.dir().exists());
        assert_eq!(old.read("a").unwrap(), "base\n");
    }
}

#[test]
fn an_empty_session_that_ran_after_it_was_listed_keeps_its_new_work() {
    for kind in [None, Some(Kind::Session)] {
        let mut old = Old::new();
        let what = collect(&mut old, &args(None), kind, |old| old.runs("two\n"));
        left_alone(what, &old);
        assert_eq!(fs::read_to_string(old.upper("a")).unwrap(), "two\n");
        let mut old = Old::new();
        let (removed, failed) = collect(&mut old, &args(None), kind, |_| {});
        assert_eq!((removed, failed), (vec![Kind::Session], vec![]));
        assert!(!old.session.dir().exists());
    }
}

#[test]
fn a_checkpoint_made_after_the_list_keeps_its_session() {
    let make = |old: &mut Old| {
        let new = agentwall_cow::NewCheckpoint {
            name: "c1".into(),
            at_ms: now_ms(),
        };
        agentwall_cow::checkpoint(&old.session.record.layers, &new).unwrap();
    };
    for kind in [None, Some(Kind::Session)] {
        let mut old = Old::new();
        let what = collect(&mut old, &args(None), kind, make);
        left_alone(what, &old);
        assert_eq!(checkpoints(&old.session.record.layers).unwrap().len(), 1);
    }
}

#[test]
fn the_originals_of_a_commit_after_the_list_can_be_put_back() {
    for kind in [None, Some(Kind::Undo)] {
        let mut old = Old::new();
        old.runs("one\n");
        old.commits();
        old.ages();
        let what = collect(&mut old, &args(None), kind, |old| {
            old.runs("two\n");
            old.commits();
        });
        left_alone(what, &old);
        assert!(old.can_undo());
        old.ages();
        let (removed, failed) = collect(&mut old, &args(None), kind, |_| {});
        assert_eq!(
            (removed.first(), failed),
            (Some(&Kind::Undo), vec![]),
            "nobody came in between"
        );
    }
}

#[test]
fn what_expires_is_what_is_kept_when_the_lock_is_held() {
    let mut old = Old::new();
    old.runs("one\n");
    old.commits();
    old.ages();
    let before = SystemTime::now() - KEPT_FOR;
    let seen = old.session.clone();
    old.runs("two\n");
    old.commits();
    give_up(&old.state, &seen, before);
    assert!(old.can_undo());
    old.ages();
    give_up(&old.state, &seen, before);
    assert!(!old.can_undo());
}
