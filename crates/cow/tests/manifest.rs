//! What a base manifest decides that change times cannot, each with the same session judged by
//! change times alone.
//!
//! Nothing but the kernel sets a change time. A clock that was set back is therefore played by a base
//! that lies an hour ahead, in the session and in its manifest: what anybody changes from now on has
//! a stamp from before the session began.

#![allow(clippy::unwrap_used)]

mod common;
use common::{Session, sh, status, summary};

use std::path::PathBuf;

use agentwall_cow::{
    AtBase, Conflict, Layer, Limits, Manifest, ScanError, Status, Taker, UndoStatus, scan,
};
use sha2::{Digest as _, Sha256};

/// Where the base is in the head of a manifest.
const SECONDS: std::ops::Range<usize> = 20..28;

fn manifest(s: &Session) -> PathBuf {
    let mut name = s.upper().as_os_str().to_owned();
    name.push(".manifest");
    name.into()
}

/// Changes the bytes of a session's manifest and corrects its checksum.
fn forge(s: &Session, change: impl FnOnce(&mut [u8])) {
    let mut bytes = std::fs::read(manifest(s)).unwrap();
    let body = bytes.len() - 32;
    change(&mut bytes[..body]);
    let sum = Sha256::digest(&bytes[..body]);
    bytes[body..].copy_from_slice(&sum);
    std::fs::write(manifest(s), bytes).unwrap();
}

/// The clock goes back by an hour: stamps from now on are before the session's beginning.
fn clock_goes_back(mut s: Session) -> Session {
    s.layer.base.sec += 3600;
    let sec = s.layer.base.sec;
    if manifest(&s).exists() {
        forge(&s, |bytes| {
            bytes[SECONDS].copy_from_slice(&sec.to_le_bytes());
        });
    }
    s
}

/// What both ways of telling say: (setup, agent, user, by the manifest, by change times).
type Row<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], &'a [&'a str]);

fn check(rows: &[Row<'_>], arrange: impl Fn(Session) -> Session) {
    for (setup, agent, user, exact, by_times) in rows {
        let sessions = [Session::new(setup), Session::by_change_times(setup)];
        for (s, expected) in sessions.into_iter().zip([exact, by_times]) {
            s.agent(agent);
            let s = arrange(s);
            s.user(user);
            assert_eq!(summary(&s.scan(), s.root()), **expected, "{agent} | {user}");
        }
    }
}

#[test]
fn a_clock_that_was_set_back_hides_nothing() {
    let rows: &[Row<'_>] = &[
        (
            "echo a >a",
            "echo b >a",
            "true",
            &["Modify a"],
            &["Modify a"],
        ),
        (
            "echo a >a",
            "echo b >a",
            "echo c >a",
            &["Modify a !changed"],
            &["Modify a"],
        ),
        // Another file, with size and time of the old one.
        (
            "echo a >a; touch -d 2001-01-01 a",
            "echo b >a",
            "echo c >t; touch -r a t; mv t a",
            &["Modify a !changed"],
            &["Modify a"],
        ),
        // The same file, its time put back.
        (
            "echo a >a; touch -d 2001-01-01 a",
            "rm a",
            "echo c >a; touch -d 2001-01-01 a",
            &["Delete a !changed"],
            &["Delete a"],
        ),
        // Written through another name, and given another name.
        (
            "mkdir d; echo a >a; ln a d/b",
            "echo b >a",
            "echo c >d/b",
            &["Modify a !changed"],
            &["Modify a"],
        ),
        (
            "echo a >a",
            "echo b >a",
            "ln a z",
            &["Modify a !changed"],
            &["Modify a"],
        ),
        (
            "mkdir -p d/e; echo a >d/e/a",
            "rm -r d",
            "echo c >d/e/a",
            &["Delete d !changed_below"],
            &["Delete d"],
        ),
        (
            "mkdir d; echo a >d/a",
            "rm -r d; mkdir d",
            "echo n >d/n",
            &["Delete d/a", "Delete d/n !changed"],
            &["Delete d/a", "Delete d/n"],
        ),
        (
            "echo a >a",
            "echo b >a",
            "rm a",
            &["Add a !vanished"],
            &["Add a"],
        ),
        (
            "echo a >a",
            "echo b >a",
            "chmod 600 a",
            &["Modify a !changed"],
            &["Modify a"],
        ),
    ];
    check(rows, clock_goes_back);
}

#[test]
fn after_a_clock_went_back_what_nobody_touched_is_committed() {
    let s = Session::new("echo a >a; echo a >b; mkdir d; echo x >d/x");
    s.agent("echo b >a; echo b >b; rm -r d");
    let s = clock_goes_back(s);
    s.user("echo c >b");
    let report = s.commit(&s.scan());
    assert_eq!(*status(&report, "a"), Status::Committed);
    assert_eq!(*status(&report, "d"), Status::Committed);
    assert!(matches!(status(&report, "b"), Status::Conflict { .. }));
    assert_eq!((s.read("a"), s.read("b")), ("b\n".into(), "c\n".into()));
    assert!(!s.exists("d") && report.kept.is_empty(), "{report:#?}");
    s.no_litter();
}

#[test]
fn a_directory_that_somebody_moved_is_told_from_one_that_changed() {
    let rows: &[Row<'_>] = &[
        // Files are saved in the directory and in the one that holds it: it is the same directory.
        (
            "mkdir d; echo a >d/a",
            "echo b >d/a",
            "echo m >d/m; echo r >r",
            &["Modify d/a"],
            &["Modify d/a !directory_maybe_moved"],
        ),
        (
            "mkdir -p d/e; echo a >d/e/a",
            "echo b >d/e/a; chmod 700 d/e",
            "echo m >d/m; echo r >r",
            &["Meta d/e", "Modify d/e/a"],
            &[
                "Meta d/e !directory_maybe_moved",
                "Modify d/e/a !directory_maybe_moved",
            ],
        ),
        // Another directory comes in its place, with a file of the same name that nobody wrote to.
        (
            "mkdir d e; echo a >d/a; echo e >e/a",
            "echo b >d/a",
            "mv d z; mv e d",
            &["Modify d/a !directory_replaced"],
            &["Modify d/a !directory_maybe_moved"],
        ),
        // Away and back: nothing happened but to the directory's own stamp.
        (
            "mkdir d; echo a >d/a",
            "echo b >d/a",
            "mv d z; mv z d",
            &["Modify d/a"],
            &["Modify d/a !directory_maybe_moved"],
        ),
        (
            "mkdir d; echo a >d/a",
            "mv d z; echo b >>z/a",
            "echo r >r",
            &["Delete d", "Add z", "Add z/a"],
            &["Delete d", "Add z", "Add z/a"],
        ),
    ];
    check(rows, |s| s);
}

#[test]
fn what_the_manifest_knows_of_a_directory_is_not_overruled() {
    let s = Session::new("mkdir d e; echo a >d/a; echo e >e/a");
    s.agent("echo b >d/a");
    s.user("mv d z; mv e d");
    let set = s.scan_trusting();
    assert_eq!(summary(&set, s.root()), ["Modify d/a !directory_replaced"]);
    let path = s.root().join("d");
    let conflict = set.changes[0].conflict.clone();
    assert_eq!(conflict, Some(Conflict::DirectoryReplaced { path }));
}

#[test]
fn whether_there_was_an_original_is_known() {
    let rows: &[Row<'_>] = &[
        // The session moved a file here and wrote to it; somebody saved another one beside it.
        (
            "mkdir d; echo a >d/a",
            "echo b >>d/a; mv d/a d/b",
            "echo n >d/n",
            &["Delete d/a", "Add d/b"],
            &["Delete d/a", "Add d/b !vanished"],
        ),
        // The session moved a file over another, which somebody then deleted.
        (
            "mkdir d; echo long enough >d/p; echo q >d/q",
            "mv d/p d/q",
            "rm d/q",
            &["Delete d/p", "Add d/q !vanished"],
            &["Delete d/p", "Add d/q"],
        ),
        (
            "mkdir d; echo a >d/a",
            "echo b >d/a",
            "mv d/a z",
            &["Add d/a !vanished"],
            &["Add d/a !vanished"],
        ),
    ];
    check(rows, |s| s);
}

#[test]
fn what_was_changed_before_it_was_recorded_is_still_a_conflict() {
    let s = Session::by_change_times("echo a >a; echo a >b; mkdir d; echo a >d/c");
    // The agent is faster than the walk, and so is somebody else.
    s.agent("echo b >a; echo b >b; echo b >d/c");
    s.user("echo c >b; cp d/c t; mv t d/c; echo n >d/n");
    s.take_manifest();
    let expected = ["Modify a", "Modify b !changed", "Modify d/c !changed"];
    assert_eq!(summary(&s.scan(), s.root()), expected);
    let s = clock_goes_back(s);
    assert_eq!(summary(&s.scan(), s.root()), expected);
}

#[test]
fn a_manifest_that_cannot_be_believed_stops_until_somebody_moves_it_away() {
    let s = Session::new("echo a >a");
    s.agent("echo b >a");
    let whole = std::fs::read(manifest(&s)).unwrap();
    let mut damaged = whole.clone();
    damaged[60] ^= 1;
    let mut foreign = s.layer.clone();
    foreign.base.sec += 1;
    let layers = |layer: &Layer| scan(std::slice::from_ref(layer)).unwrap_err();
    for (bytes, layer, why) in [
        (&whole[..0], &s.layer, "cut off"),
        (&whole[..whole.len() - 1], &s.layer, "checksum"),
        (&damaged[..], &s.layer, "checksum"),
        (b"{\"json\": 1}", &s.layer, "does not begin"),
        (&whole[..], &foreign, "is of the tree"),
    ] {
        std::fs::write(manifest(&s), bytes).unwrap();
        let error = layers(layer);
        assert!(matches!(error, ScanError::Manifest(_)), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(why) && text.contains("move it away"),
            "{text}"
        );
    }
    std::fs::remove_file(manifest(&s)).unwrap();
    assert_eq!(summary(&s.scan(), s.root()), ["Modify a"]);
    std::fs::write(manifest(&s), whole).unwrap();
    s.commit_all();
}

#[test]
fn the_manifest_goes_with_the_session() {
    let s = Session::new("echo a >a");
    s.agent("echo b >a");
    std::fs::write(format!("{}.new", manifest(&s).display()), "cut off").unwrap();
    agentwall_cow::discard_all(std::slice::from_ref(&s.layer)).unwrap();
    let left: Vec<_> = std::fs::read_dir(s.tmp.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("upper"))
        .collect();
    assert_eq!(left, ["upper"]);
}

#[test]
fn it_is_taken_while_the_agent_works() {
    let s = Session::by_change_times("mkdir d; for n in $(seq 300); do echo a >d/$n; done");
    let taker = Taker::start(vec![s.layer.clone()], Limits::default());
    s.agent("rm d/1; echo b >d/2; mv d/3 x; ln d/4 y");
    sh(s.root(), "echo c >d/5");
    assert!(!s.layer.is_untouched());
    let taken = taker.finish();
    assert!(matches!(taken[0].manifest, Ok(Ok(302))), "{taken:?}");
    let expected = ["Delete d/1", "Modify d/2", "Delete d/3", "Add x", "Add y"];
    assert_eq!(summary(&s.scan(), s.root()), expected);
    s.commit_all();
}

/// The overlay of a surface has an empty folder where the original has a full one: that is nobody's
/// deletion. What the agent did not see is a conflict, and nothing below is recorded.
#[test]
fn a_surface_is_of_what_lies_directly_in_the_tree() {
    let mut s =
        Session::by_change_times("echo a >a; echo b >b; echo c >c; mkdir -p d/e; echo f >d/e/f");
    s.layer.surface = true;
    s.take_manifest();
    let manifest = Manifest::of(&s.layer).unwrap().unwrap();
    assert_eq!(manifest.len(), 5);
    assert!(matches!(manifest.at(b"d"), AtBase::There(_)));
    assert_eq!(manifest.at(b"d/e"), AtBase::Unread);
    let script = "mkdir lower; cp -p root/a root/b root/c lower; mkdir lower/d
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged
        cd merged; echo x >>a; rm b; echo x >>c; echo n >n; mkdir -p new/x; echo y >both; cd ..; umount merged";
    common::in_namespace(s.tmp.path(), script);
    s.user("echo u >>c; echo u >both; echo g >d/g");
    let expected = [
        "Modify a",
        "Delete b",
        "Modify both !changed",
        "Modify c !changed",
        "Add n",
        "Add new",
        "Add new/x",
    ];
    assert_eq!(summary(&s.scan(), s.root()), expected);
    s.commit(&s.scan());
    assert_eq!(
        (s.read("a"), s.read("both"), s.read("c")),
        ("a\nx\n".into(), "u\n".into(), "c\nu\n".into())
    );
    assert!(!s.exists("b") && s.exists("new/x"));
    assert_eq!(
        (s.read("d/e/f"), s.read("d/g")),
        ("f\n".into(), "g\n".into())
    );
    assert!(
        s.undo()
            .outcomes
            .iter()
            .all(|o| o.status == UndoStatus::Undone)
    );
    assert_eq!((s.read("a"), s.read("b")), ("a\n".into(), "b\n".into()));
    assert_eq!(summary(&s.scan(), s.root()), expected);
}
