//! What trees become.

use super::*;

#[test]
fn mountinfo_escapes_are_undone() {
    assert_eq!(unescape_octal(b"/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    assert_eq!(unescape_octal(b"/plain\\"), PathBuf::from("/plain\\"));
}

/// A learning session sees every open; what is denied stays as absent as without.
#[test]
fn learning_traps_what_may_go_ahead_and_opens_nothing() {
    let text = "agentwall: 1\nrules:\n  - {id: etc, action: file.read, resource: /etc/**, effect: allow}\n  \
                - {id: no, priority: 1, action: file.*, resource: [/etc/ssl/**, /usr/**], effect: deny}\n";
    let source = agentwall_policy::Source::new("t", text, agentwall_policy::Layer::User);
    let policy = agentwall_policy::load(&[source], &Default::default()).expect("it loads");
    let view = |learning| {
        let input = PlanInput {
            policy: &policy,
            subject: &Subject::agent("a"),
            facts: &Facts::default(),
            protected: &[],
            replaced: REPLACED,
            mounts: &[],
            learning,
        };
        plan(&input).expect("this host can be looked at")
    };
    let (plain, learning) = (view(false), view(true));
    assert!(!plain.trap_reads && learning.trap_reads);
    let hidden = |v: &FileView| -> Vec<PathBuf> {
        let nodes = v.nodes.iter().filter(|n| n.placement.hidden);
        nodes.map(|n| n.path.clone()).collect()
    };
    assert!(hidden(&plain).contains(&PathBuf::from("/usr")));
    assert_eq!(hidden(&plain), hidden(&learning));
}

/// Folders on the way to a mount get a copy layer of what lies directly in them; all others a whole
/// one.
#[test]
fn a_tree_that_holds_mounts_is_split_on_the_way_to_them() {
    let tmp = tempfile::tempdir().expect("a folder");
    let root = tmp.path().canonicalize().expect("its name");
    for dir in [
        "tree/a/b/mount",
        "tree/a/c/d",
        "tree/e/f",
        "plain/x",
        "shown/mount",
    ] {
        fs::create_dir_all(root.join(dir)).expect("folders");
    }
    fs::write(root.join("tree/file"), "").expect("a file");
    let text = "agentwall: 1\nrules:\n  - {id: iso, priority: 2, action: file.*, resource: [W/tree/**, W/plain/**], effect: isolate}\n  \
                - {id: hook, priority: 1, action: file.write, resource: 'W/tree/a/*.hook', effect: deny}\n  \
                - {id: read, priority: 3, action: file.read, resource: W/**, effect: allow}\n"
        .replace('W', &root.to_string_lossy());
    let source = agentwall_policy::Source::new("t", text, agentwall_policy::Layer::User);
    let policy = agentwall_policy::load(&[source], &Default::default()).expect("it loads");
    let view = plan(&PlanInput {
        policy: &policy,
        subject: &Subject::agent("a"),
        facts: &Facts::default(),
        protected: &[],
        replaced: REPLACED,
        mounts: &["tree/a/b/mount", "shown/mount"].map(|m| root.join(m)),
        learning: false,
    })
    .expect("this host can be looked at");
    let at = |name: &str| {
        let path = root.join(name);
        let node = view.nodes.iter().find(|n| n.path == path);
        node.map(|n| {
            let p = &n.placement;
            (p.writes, p.surface, p.brokered)
        })
    };
    for (name, surface, brokered) in [
        ("tree", true, false),
        ("tree/a", true, true),
        ("tree/a/b", true, false),
        ("tree/a/b/mount", false, false),
        ("tree/a/c", false, false),
        ("tree/e", false, false),
        ("plain", false, false),
    ] {
        assert_eq!(
            at(name),
            Some((Writes::Isolated, surface, brokered)),
            "{name}"
        );
    }
    assert_eq!(at("shown/mount"), Some((Writes::None, false, false)));
    for name in ["tree/file", "tree/a/c/d", "tree/e/f", "plain/x"] {
        assert_eq!(at(name), None, "{name}");
    }
    assert!(view.has_surfaces());
}
