//! Layers that travel: exported, imported over a copy of the originals, committed.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentwall_cow::{ExportError, Piece};
use common::ops::{SETUP, operation, script};
use common::{
    Session, exact, exported, imported, link_groups, read_archive, sh, status, summary, tree, whole,
};
use proptest::prelude::*;

/// Originals, a copy of them for the other machine, and an agent's work.
fn work(setup: &str, agent: &str) -> (Session, PathBuf) {
    let s = Session::new(setup);
    sh(s.tmp.path(), "cp -a root other");
    s.agent(agent);
    let other = s.tmp.path().join("other");
    (s, other)
}

const CHANGES: &str = "echo new >f; rm x; mv c/h a/renamed; mkdir -p n/m; echo n >n/m/o; ln n/m/o n/p
     ln -sf gone l; rm -rf e; mkdir e; echo e >e/e; chmod 700 a/b; mkfifo pipe; python3 -c 'import os; os.setxattr(\"s1\", \"user.k\", b\"\\n1=\")'
     truncate -s 9000000 hole; printf end >>hole; touch -d @-5.25 old; : >'sp ace'; printf x >\"$(printf 'n\\nl\\377')\"";

#[test]
fn a_layer_commits_elsewhere_to_the_same_tree() {
    let (s, other) = work(SETUP, CHANGES);
    let (archive, done) = exported(whole(&s.layer)).unwrap();
    assert_eq!(done.bytes, archive.len() as u64);
    assert!(
        archive.len() < 200_000,
        "holes are not stored: {}",
        archive.len()
    );
    let (again, _) = exported(whole(&s.layer)).unwrap();
    assert_eq!(archive, again, "the same layer gives the same bytes");
    let (there, found) = imported(&archive, &other, ":");
    assert_eq!(found.differences, []);
    assert_eq!(
        summary(&there.scan(), there.root()),
        summary(&s.scan(), s.root())
    );
    s.commit_all();
    there.commit_all();
    let times_of_directories = |mut tree: std::collections::BTreeMap<PathBuf, String>| {
        for text in tree.values_mut().filter(|t| t.starts_with("dir ")) {
            *text = text.split(" (").next().unwrap().to_owned();
        }
        tree
    };
    assert_eq!(
        times_of_directories(exact(there.root(), false)),
        times_of_directories(exact(s.root(), false))
    );
    assert_eq!(link_groups(there.root()), link_groups(s.root()));
    use std::os::unix::fs::MetadataExt as _;
    assert!(
        std::fs::metadata(there.root().join("hole"))
            .unwrap()
            .blocks()
            < 1000
    );
}

/// A symlink with two names is two symlinks, at home and elsewhere.
#[test]
fn a_second_name_of_a_symlink_is_a_symlink_of_its_own() {
    let (s, other) = work(SETUP, "ln -f -P -T l f");
    let (archive, _) = exported(whole(&s.layer)).unwrap();
    let (there, _) = imported(&archive, &other, ":");
    assert_eq!(summary(&s.scan(), s.root()), ["Replace f"]);
    assert_eq!(summary(&there.scan(), there.root()), ["Replace f"]);
    s.commit_all();
    there.commit_all();
    assert_eq!(tree(there.root()), tree(s.root()));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("AGENTWALL_MODEL_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(60),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_work_commits_elsewhere_to_the_same_tree(ops in prop::collection::vec(operation(), 1..25)) {
        let (s, other) = work(SETUP, &script(&ops));
        let archive = match exported(whole(&s.layer)) {
            Ok((archive, _)) => archive,
            Err(ExportError::Nothing) => {
                prop_assert!(s.scan().is_empty());
                return Ok(());
            }
            Err(e) => panic!("{e}"),
        };
        prop_assert_eq!(&archive, &exported(whole(&s.layer)).unwrap().0);
        let (there, found) = imported(&archive, &other, ":");
        prop_assert_eq!(found.differences, vec![]);
        let set = there.scan();
        prop_assert_eq!(summary(&set, there.root()), summary(&s.scan(), s.root()));
        let report = there.commit(&set);
        prop_assert!(report.is_complete(), "{:#?}", report);
        s.commit_all();
        prop_assert_eq!(tree(there.root()), tree(s.root()));
        prop_assert_eq!(link_groups(there.root()), link_groups(s.root()));
        let again = there.scan();
        prop_assert!(again.is_empty(), "{:#?}", again);
        there.no_litter();
    }
}

/// What the session did, what lies there, and what a scan there says.
const CONFLICTS: &[(&str, &str, &str, &[&str])] = &[
    (
        "modify: other content",
        "echo n >f",
        "echo other >f",
        &["Modify f !changed"],
    ),
    (
        "modify: other length",
        "echo n >f",
        "echo longer than one >f",
        &["Modify f !changed"],
    ),
    ("modify: missing", "echo n >f", "rm f", &["Add f !vanished"]),
    (
        "replaced file: missing",
        "rm f; echo n >f",
        "rm f",
        &["Add f !vanished"],
    ),
    (
        "modify: a folder",
        "echo n >f",
        "rm f; mkdir f",
        &["Replace f !changed"],
    ),
    (
        "modify: a link",
        "echo n >f",
        "rm f; ln -s x f",
        &["Replace f !changed"],
    ),
    (
        "modify: below what is a link",
        "echo n >a/f",
        "mv a q; ln -s q a",
        &["Replace a !changed", "Add a/f !parent_not_directory"],
    ),
    (
        "modify: below what is missing",
        "echo n >a/f",
        "rm -r a",
        &["Add a !vanished", "Add a/f !parent_vanished"],
    ),
    (
        "modify: other mode, not the session's",
        "echo n >f",
        "chmod 600 f",
        &["Modify f"],
    ),
    (
        "mode: other mode",
        "chmod 700 f",
        "chmod 640 f",
        &["Meta f !changed"],
    ),
    ("mode: the same mode", "chmod 700 f", "chmod 700 f", &[]),
    (
        "mode: other content",
        "chmod 700 f",
        "echo q >f",
        &["Modify f !changed"],
    ),
    (
        "add: something else",
        "echo n >new",
        "echo q >new",
        &["Modify new !changed"],
    ),
    (
        "add: the same",
        "echo n >new; chmod 644 new",
        "echo n >new; chmod 644 new",
        &[],
    ),
    (
        "add folder: with something in it",
        "mkdir new; echo n >new/o",
        "mkdir new; echo q >new/q",
        &["Add new/o"],
    ),
    (
        "delete: other content",
        "rm f",
        "echo q >f",
        &["Delete f !changed"],
    ),
    ("delete: missing", "rm f", "rm f", &[]),
    (
        "delete: a folder",
        "rm f",
        "rm f; mkdir f; echo q >f/q",
        &["Delete f !changed"],
    ),
    (
        "delete folder: something more in it",
        "rm -r a",
        "echo q >a/b/q",
        &["Delete a !changed_below"],
    ),
    (
        "delete folder: other content in it",
        "rm -r a",
        "echo q >a/b/g",
        &["Delete a !changed_below"],
    ),
    (
        "delete folder: less in it",
        "rm -r a",
        "rm a/b/g",
        &["Delete a"],
    ),
    (
        "empty folder anew: something more",
        "rm -r c; mkdir c",
        "echo q >c/q",
        &["Delete c/h", "Delete c/q !changed"],
    ),
    (
        "link: other target",
        "ln -sfn n l",
        "ln -sfn q l",
        &["Modify l !changed"],
    ),
    (
        "unchanged copies",
        "exec 3<>f; exec 3>&-; chmod 600 x; chmod 755 x; echo n >s1",
        "echo q >f; echo q >x",
        &["Modify s1"],
    ),
];

#[test]
fn what_is_another_original_here_is_a_conflict() {
    for (name, agent, arrange, expected) in CONFLICTS {
        let (s, other) = work(SETUP, agent);
        let (archive, _) = exported(whole(&s.layer)).unwrap();
        let (there, found) = imported(&archive, &other, arrange);
        let set = there.scan();
        let found_here = summary(&set, there.root());
        assert_eq!(&found_here, expected, "{name}: {:?}", found.differences);
        // Nothing here is lost, whatever is committed.
        let before = tree(there.root());
        let report = there.commit(&set);
        for change in set.changes.iter().filter(|c| c.conflict.is_some()) {
            let rel = change.path.strip_prefix(there.root()).unwrap();
            assert_eq!(before.get(rel), tree(there.root()).get(rel), "{name}");
            let said = status(&report, rel.to_str().unwrap());
            assert!(
                matches!(said, agentwall_cow::Status::Conflict { .. }),
                "{name}: {said:?}"
            );
        }
        // It stays a conflict, whoever asks again.
        let kept = |set: &agentwall_cow::ChangeSet| {
            set.changes.iter().filter(|c| c.conflict.is_some()).count()
        };
        assert_eq!(kept(&there.scan()), kept(&set), "{name}");
    }
}

#[test]
fn an_original_that_changes_after_the_import_is_a_conflict_as_ever() {
    let (s, other) = work(SETUP, "echo n >f; rm x");
    let (archive, _) = exported(whole(&s.layer)).unwrap();
    let (there, _) = imported(&archive, &other, ":");
    there.user("echo user >f; rm x");
    let conflicts = summary(&there.scan(), there.root());
    assert_eq!(conflicts, ["Modify f !changed"]);
}

#[test]
fn an_original_that_changed_before_the_export_is_a_conflict_everywhere() {
    let (s, other) = work(SETUP, "echo n >f; echo n >x");
    s.user("echo user >f");
    let (archive, done) = exported(whole(&s.layer)).unwrap();
    assert_eq!(done.unknown, 1);
    for arrange in [":", "echo user >f"] {
        let (there, _) = imported(&archive, &other, arrange);
        let found = summary(&there.scan(), there.root());
        assert_eq!(found, ["Modify f !changed", "Modify x"]);
    }
}

#[test]
fn work_goes_on_in_an_imported_layer() {
    let (s, other) = work(SETUP, "echo n >f; rm -r a; echo n >new");
    let (archive, _) = exported(whole(&s.layer)).unwrap();
    let (there, _) = imported(&archive, &other, "echo q >f; echo q >new");
    there.agent("cat f; [ ! -e a ]; echo more >>f; rm new; echo more >x");
    let found = summary(&there.scan(), there.root());
    assert_eq!(
        found,
        [
            "Delete a",
            "Modify f !changed",
            "Delete new !changed",
            "Modify x"
        ]
    );
}

#[test]
fn what_no_archive_holds_is_refused_or_told() {
    let refused = |agent: &str| {
        let (s, _) = work(SETUP, agent);
        exported(whole(&s.layer)).unwrap_err().to_string()
    };
    let error = refused("echo n >.wh.f");
    assert!(
        error.contains(".wh.f") && error.contains("rename or drop"),
        "{error}"
    );
    let error = refused("echo n >tool; chmod 4755 tool");
    assert!(error.contains("--privileges"), "{error}");
    let s = Session::new(SETUP);
    let mark = "import os; os.mkdir('d'); os.setxattr('d', 'user.overlay.redirect', b'/x')";
    sh(s.upper(), &format!("python3 -c \"{mark}\""));
    let error = exported(whole(&s.layer)).unwrap_err().to_string();
    assert!(error.contains("overlay attributes"), "{error}");
    let (s, _) = work(SETUP, "echo n >f");
    let _socket = std::os::unix::net::UnixListener::bind(s.upper().join("sock")).unwrap();
    let (archive, done) = exported(whole(&s.layer)).unwrap();
    assert!(done.manifest.left_out[0].path.ends_with("sock"), "{done:?}");
    assert_eq!(read_archive(&archive).manifest(), &done.manifest);
}

#[test]
fn other_programs_read_it() {
    let (s, _) = work(
        SETUP,
        &format!(
            "{CHANGES}; cd n; mkdir -p $(printf 'd%.0s' $(seq 120))/e; cd d*/e; echo long >f; cd ../../.."
        ),
    );
    let (archive, _) = exported(whole(&s.layer)).unwrap();
    let file = s.tmp.path().join("layer.tar");
    std::fs::write(&file, &archive).unwrap();
    let listed = Command::new("tar").arg("tvf").arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.status.success() && listed.stderr.is_empty(),
        "{listed:?}"
    );
    for name in [
        "layer/0/.wh.x",
        "layer/0/e/.wh..wh..opq",
        "layer/0/f",
        "originals.jsonl",
        " 9000003 ",
    ] {
        assert!(text.contains(name), "{name}: {text}");
    }
    sh(s.tmp.path(), "mkdir out; tar xf layer.tar -C out --xattrs");
    let out = s.tmp.path().join("out/layer/0");
    for name in ["f", "n/m/o", "n/p", "hole", "e/e", "old", "l", "a/renamed"] {
        let (mine, theirs) = (s.upper().join(name), out.join(name));
        assert_eq!(
            std::fs::read(&mine).ok(),
            std::fs::read(&theirs).ok(),
            "{name}"
        );
        let time = |p: &Path| std::fs::symlink_metadata(p).unwrap().modified().unwrap();
        assert_eq!(time(&mine), time(&theirs), "{name}");
    }
    let python = "import sys, tarfile
t = tarfile.open(sys.argv[1])
names = {m.name: m for m in t.getmembers()}
assert t.extractfile('layer/0/f').read() == b'new\\n'
assert names['layer/0/hole'].size == 9000003, names['layer/0/hole'].size
assert t.extractfile('layer/0/hole').read().endswith(b'end')
assert names['layer/0/n/p'].islnk() and names['layer/0/l'].linkname == 'gone'
assert abs(float(names['layer/0/old'].mtime) + 5.25) < 1e-6
assert not any(m.uname or m.gname for m in names.values())
assert list(names)[0] == 'agentwall-layer.json' and list(names)[-1] == 'proof.json'
print(len(names))";
    let out = Command::new("python3")
        .args(["-c", python])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// The archive of one folder of a layer.
fn of_folder(s: &Session, below: &str) -> Result<Vec<u8>, ExportError> {
    let piece = Piece {
        below: below.into(),
        ..whole(&s.layer)
    };
    Ok(exported(piece)?.0)
}

#[test]
fn a_folder_of_a_layer_travels_alone() {
    let setup = "mkdir -p w/p/d o; echo one >w/p/f; echo two >w/p/d/g; echo q >o/q; echo q >w/q";
    let agent =
        "echo new >w/p/f; rm -r w/p/d; mkdir w/p/d; echo n >w/p/n; echo x >o/q; mknod o/pipe p";
    let (s, other) = work(setup, agent);
    s.user("echo user >w/q");
    let archive = of_folder(&s, "w/p").unwrap();
    let (there, found) = imported(&archive, &other.join("w/p"), ":");
    assert_eq!(found.differences, []);
    let expected = ["Delete d/g", "Modify f", "Add n"];
    assert_eq!(summary(&there.scan(), there.root()), expected);
    there.commit_all();
    assert_eq!(there.read("f"), "new\n");
    // What happens elsewhere in the layer changes nothing.
    s.agent("echo more >>o/q");
    s.user("echo user >>w/q");
    assert!(archive == of_folder(&s, "w/p").unwrap());
    // An original in it that changed is one here, too.
    s.user("echo user >w/p/f");
    let archive = of_folder(&s, "w/p").unwrap();
    let (there, _) = imported(&archive, &other.join("w/p"), ":");
    assert!(summary(&there.scan(), there.root()).contains(&"Modify f !changed".to_owned()));
    let error = of_folder(&s, "e").unwrap_err();
    assert!(matches!(error, ExportError::Nothing), "{error}");
    s.agent("rm -r w; mkdir -p w/p; echo n >w/p/f");
    let error = of_folder(&s, "w/p").unwrap_err();
    assert!(matches!(error, ExportError::Anew { .. }), "{error}");
    s.agent("rm -r w; ln -s /etc w");
    let error = of_folder(&s, "w/p").unwrap_err();
    assert!(matches!(error, ExportError::Anew { .. }), "{error}");
}

#[test]
fn a_new_time_travels_and_one_that_nobody_gave_does_not() {
    let setup = "echo a >touched; echo b >mode; echo c >both; ln both linked; chmod 640 mode
         touch -d @1000000000.123456789 touched mode both";
    let agent = "touch -d @900000000.987654321 touched; chmod 600 mode; ln linked third";
    let (s, other) = work(setup, agent);
    assert_eq!(
        summary(&s.scan(), s.root()),
        ["Meta mode", "Add third", "Meta touched"]
    );
    let (archive, _) = exported(whole(&s.layer)).unwrap();
    // A checkout there has times of its own.
    let checkout = "touch -d @1100000000 touched mode both";
    let (there, found) = imported(&archive, &other, checkout);
    assert_eq!(found.differences, []);
    let set = there.scan();
    let times: Vec<(&str, bool)> = set
        .changes
        .iter()
        .map(|c| (c.path.file_name().unwrap().to_str().unwrap(), c.new_time))
        .collect();
    assert_eq!(
        times,
        [("mode", false), ("third", false), ("touched", true)]
    );
    there.commit_all();
    let time = |name: &str| {
        let meta = std::fs::metadata(there.root().join(name)).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(time("touched"), (900_000_000, 987_654_321));
    assert_eq!(time("mode"), (1_100_000_000, 0));
    assert_eq!(time("both"), (1_100_000_000, 0));
}
