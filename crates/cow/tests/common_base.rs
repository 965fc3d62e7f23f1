//! Where the base of a session is what both sides of a change were made of, and where it is not.

#![allow(clippy::unwrap_used)]

mod common;

use agentwall_cow::{CommonBases, Disposition, NoCommonBase, copy_layer};
use common::Session;

fn lacks(s: &Session, rel: &str) -> Option<NoCommonBase> {
    CommonBases::of(&s.layer).unwrap().lacks(rel.as_bytes())
}

#[test]
fn a_path_that_was_committed_has_none_until_that_is_undone() {
    let s = Session::new("mkdir d g; for f in a b d/c g/x m; do echo old >$f; done");
    s.agent("echo A >a; echo C >d/c; rm -r g; chmod 600 m; echo n >n");
    let set = s.scan();
    s.commit_with(&set, |c| match c.path.ends_with("a") {
        true => Disposition::Hold,
        false => Disposition::Commit,
    });
    let done = Some(NoCommonBase::Committed);
    for (path, expected) in [
        ("a", None),
        ("b", None),
        ("d", None),
        ("d/c", done),
        ("d/other", None),
        ("g", done),
        // It may be there again by now.
        ("g/x", done),
        ("m", done),
        ("n", done),
    ] {
        assert_eq!(lacks(&s, path), expected, "{path}");
    }
    // A session that begins with a copy knows it as well.
    let at = |name: &str| s.tmp.path().join(name);
    std::fs::create_dir(at("copy-work")).unwrap();
    let (copy, _) = copy_layer(&s.layer, at("copy"), at("copy-work")).unwrap();
    let known = CommonBases::of(&copy).unwrap();
    assert_eq!((known.lacks(b"d/c"), known.lacks(b"a")), (done, None));
    assert!(s.undo().is_complete());
    for path in ["a", "d/c", "g", "g/x", "m", "n"] {
        assert_eq!(lacks(&s, path), None, "{path}");
    }
}
