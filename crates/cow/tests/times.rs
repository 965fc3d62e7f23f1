//! A modification time alone: what is a change of it, what is not, and that it is committed and undone.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, exact, summary};

use std::os::unix::fs::MetadataExt as _;

use agentwall_cow::{Amendments, CommitOptions, Disposition, Sides, Status, commit_amended};

const SETUP: &str = "echo a >a; echo m >m; echo h >h; ln h h2; mkdir d
     touch -d '2001-02-03 04:05:06.123456789' a m h d";
const TOUCH: &str = "touch -d '2010-11-12 13:14:15.987654321'";

fn time(s: &Session, name: &str) -> (i64, i64) {
    let meta = std::fs::symlink_metadata(s.root().join(name)).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

#[test]
fn a_new_time_alone_arrives_and_is_undone() {
    let s = Session::new(SETUP);
    let before = exact(s.root(), true);
    s.agent(&format!("{TOUCH} a; chmod 600 m; {TOUCH} m"));
    let touched = s.scan();
    assert_eq!(summary(&touched, s.root()), ["Meta a", "Meta m"]);
    assert!(touched.changes.iter().all(|c| c.new_time));
    let digest = touched.digest;
    s.commit_all();
    for name in ["a", "m"] {
        assert_eq!(time(&s, name), (1_289_567_655, 987_654_321), "{name}");
    }
    let now = exact(s.root(), true);
    let changed = before
        .iter()
        .filter(|(path, was)| now.get(*path) != Some(was));
    assert_eq!(changed.count(), 2, "nothing else changed: {now:#?}");
    assert!(s.undo().is_complete());
    assert_eq!(exact(s.root(), true), before);
    // The session has its changes again, and they can be committed once more.
    let again = s.scan();
    assert_eq!(summary(&again, s.root()), ["Meta a", "Meta m"]);
    assert!(again.changes.iter().all(|c| c.new_time));
    assert_ne!(again.digest, digest, "the originals have new change times");
    s.commit_all();
    assert_eq!(exact(s.root(), true), now);
}

#[test]
fn what_only_looks_like_a_new_time_is_none() {
    let cases = [
        (
            "a copy that nobody wrote to",
            "exec 3<>a; exec 3>&-",
            "true",
        ),
        ("a mode and back", "chmod 600 a; chmod 644 a", "true"),
        (
            "a time and back",
            "touch -r a /tmp/.t$$; touch a; touch -r /tmp/.t$$ a; rm /tmp/.t$$",
            "true",
        ),
        ("the same file made anew", "rm a; echo a >a", "true"),
        (
            "the time of a folder",
            "touch d; echo x >d/x; rm d/x",
            "true",
        ),
        ("a file with other names", "touch h", "true"),
        (
            "an original with a new time",
            "touch a",
            "touch -d 2005-05-05 a",
        ),
        ("an original written again", "touch a", "echo a >a"),
        (
            "an original with another mode and back",
            "touch a",
            "chmod 600 a; chmod 644 a",
        ),
        (
            "another original of the same content",
            "touch a",
            "cp -p a t; mv t a",
        ),
        (
            "a time that a coarser file system rounds",
            "touch -d '2001-02-03 04:05:06.123' a",
            "true",
        ),
    ];
    for (name, agent, user) in cases {
        for known in [true, false] {
            let s = match known {
                true => Session::new(SETUP),
                false => Session::by_change_times(SETUP),
            };
            s.agent(agent);
            s.user(user);
            let set = s.scan();
            assert!(set.is_empty(), "{name}: {set:#?}");
        }
    }
}

#[test]
fn a_mode_is_a_conflict_and_its_time_is_not_told() {
    let s = Session::new(SETUP);
    s.agent(&format!("chmod 600 a; {TOUCH} a"));
    s.user("chmod 640 a");
    let set = s.scan();
    assert_eq!(summary(&set, s.root()), ["Meta a !changed"]);
    assert!(!set.changes[0].new_time);
}

#[test]
fn after_some_hunks_no_time_is_left_over() {
    let s = Session::new("seq 100 >a; touch -d 2001-01-01 a");
    s.agent("sed -i s/^5$/five/ a");
    let layers = std::slice::from_ref(&s.layer);
    let set = s.scan();
    let sides = Sides::read(layers, &set.changes[0], 1 << 20).unwrap();
    let mut amendments = Amendments::default();
    // All of it, as hunks: the copy stays, and equals what is committed.
    let all = sides.part(sides.copy.clone());
    amendments.insert(&set.changes[0], all);
    let set = amendments.apply(&set);
    let options = CommitOptions::new(s.tmp.path().join("locks"));
    let decide = |_: &_| Disposition::Commit;
    let report = commit_amended(layers, &set, &amendments, decide, &options).unwrap();
    assert_eq!(report.outcomes[0].status, Status::Committed);
    assert!(s.upper().join("a").exists());
    let left = s.scan();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn the_patch_says_that_a_time_is_new() {
    let s = Session::new(SETUP);
    s.agent(&format!("{TOUCH} a"));
    let mut out = Vec::new();
    let layers = std::slice::from_ref(&s.layer);
    agentwall_cow::write_patch(&mut out, layers, &s.scan(), &Default::default()).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "# a: modification time 981173106.123456789 -> 1289567655.987654321\n"
    );
}
