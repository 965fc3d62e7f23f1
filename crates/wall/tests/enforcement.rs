//! Where rules land: the report about a plan says what the plan does.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use agentwall_action::{Facts, Subject, Verb};
use agentwall_policy::{Enforcement, Layer, Source, Variables, load};
use agentwall_wall::{
    enforcement::{Fidelity, Landing, Mechanism, Question, landings},
    plan::{PlanInput, REPLACED, host_mounts, plan},
};

/// A made-up tree, planned for with the rules; `W` stands for its path.
struct Planned {
    _tmp: tempfile::TempDir,
    root: PathBuf,
    landings: Vec<Landing>,
}

fn planned(rules: &str) -> Planned {
    let tmp = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(tmp.path()).unwrap();
    for dir in [
        "work/src",
        "fine",
        "secret",
        "shown",
        "direct",
        "bin",
        "noexec",
        "split/mount",
    ] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for file in ["secret/key", "shown/a.txt", "shown/a.pem", "bin/tool"] {
        fs::write(root.join(file), "x").unwrap();
    }
    let w = root.to_str().unwrap();
    let text = format!("agentwall: 1\nrules:\n{}", rules.replace('W', w));
    let policy = match load(
        &[Source::new("p.yaml", text, Layer::User)],
        &Variables::default(),
    ) {
        Ok(policy) => policy,
        Err(e) => panic!("{e}"),
    };
    let (subject, facts) = (Subject::agent("a"), Facts::default());
    let mut mounts = host_mounts().unwrap();
    mounts.push(root.join("split/mount"));
    let view = plan(&PlanInput {
        learning: false,
        policy: &policy,
        subject: &subject,
        facts: &facts,
        protected: &[],
        replaced: REPLACED,
        mounts: &mounts,
    })
    .unwrap();
    let landings = landings(&Question {
        policy: &policy,
        subject: &subject,
        facts: &facts,
        view: &view,
        no_trace: false,
        verbs: Verb::ALL,
    });
    Planned {
        _tmp: tmp,
        root,
        landings,
    }
}

impl Planned {
    /// By what and how well a rule is enforced in a tree.
    #[track_caller]
    fn at(&self, rule: &str, verb: Verb, tree: Option<&str>) -> (Mechanism, Fidelity) {
        let tree = tree.map(|t| match t.starts_with('/') {
            true => PathBuf::from(t),
            false => self.root.join(t),
        });
        let mut found = self
            .landings
            .iter()
            .filter(|l| l.rule == rule && l.verb == verb && l.tree == tree);
        let one = found
            .next()
            .unwrap_or_else(|| panic!("{rule} {verb}: {:#?}", self.landings));
        assert!(found.next().is_none(), "{rule} {verb}");
        (one.by, one.fidelity)
    }
}

const RULES: &str = r#"
  - { id: secret, priority: 10, action: "file.*", resource: "W/secret/**", effect: deny }
  - { id: hooks, priority: 20, action: [file.write, file.create], resource: "W/fine/**/*.hook", effect: deny }
  - { id: fine, priority: 30, action: "file.*", resource: "W/fine/**", effect: isolate }
  - { id: later, priority: 20, action: "file.*", resource: "W/work/not-yet", effect: deny }
  - { id: work, priority: 30, action: "file.*", resource: "W/work/**", effect: isolate }
  - { id: pem, priority: 20, action: file.read, resource: "W/shown/*.pem", effect: deny }
  - { id: shown, priority: 30, action: file.read, resource: "W/shown/**", effect: allow }
  - { id: frozen, priority: 30, action: [file.write, file.create, file.delete, file.rename, file.chmod], resource: "W/shown/**", effect: deny }
  - { id: direct, priority: 30, action: [file.read, file.write, file.create, file.delete, file.rename, file.chmod], resource: "W/direct/**", effect: allow }
  - { id: tools, priority: 30, action: [file.read, file.exec, process.exec], resource: "W/bin/**", effect: allow }
  - { id: no-map, priority: 20, action: file.exec, resource: "W/bin/*.so", effect: deny }
  - { id: no-start, priority: 20, action: process.exec, resource: "W/bin/*.sh", effect: ask }
  - { id: split, priority: 30, action: "file.*", resource: "W/split/**", effect: isolate }
  - { id: still, priority: 30, action: [process.exec, file.exec], resource: "W/work/**", effect: deny }
  - { id: hosts, action: net.connect, resource: "tcp://example.org:443", effect: allow }
  - { id: udp, action: net.connect, resource: "udp://example.org:53", effect: allow }
  - { id: names, action: dns.resolve, resource: "dns:example.org", effect: deny }
  - { id: commits, action: file.commit, resource: "W/work/**", effect: ask }
  - { id: calls, action: tool.call, resource: pay, effect: deny }
  - { id: asked, action: http.request, resource: "https://x/**", effect: monitor }
  - { id: sockets, action: ipc.connect, resource: "unix:/run/x", effect: deny }
  - { id: signals, action: process.signal, resource: "W/bin/**", effect: deny }
  - { id: disk, action: device.open, resource: "/dev/sd*", effect: deny }
  - { id: full, action: device.open, resource: "/dev/f*", effect: deny }
"#;

#[test]
fn each_rule_lands_where_the_plan_put_it() {
    use Fidelity::{Exact, Race, Stricter, Unenforced};
    let p = planned(RULES);
    let write = Verb::FileWrite;
    assert_eq!(
        p.at("split", write, Some("split")),
        (Mechanism::Overlay, Stricter)
    );
    assert_eq!(
        p.at("split", write, Some("split/mount")),
        (Mechanism::Overlay, Exact)
    );
    assert_eq!(
        p.at("secret", Verb::FileRead, Some("secret")),
        (Mechanism::Mask, Exact)
    );
    assert_eq!(
        p.at("secret", write, Some("secret")),
        (Mechanism::Mask, Exact)
    );
    // The devices that every session has are there whatever a rule says.
    for (rule, fidelity) in [("disk", Exact), ("full", Race)] {
        let found = p.at(rule, Verb::DeviceOpen, None);
        assert_eq!(found, (Mechanism::DeviceFolder, fidelity));
    }
    // A glob inside a tree makes the broker write, and that is exact.
    assert_eq!(
        p.at("hooks", write, Some("fine")),
        (Mechanism::SeccompBroker, Exact)
    );
    assert_eq!(
        p.at("fine", write, Some("fine")),
        (Mechanism::SeccompBroker, Exact)
    );
    assert_eq!(
        p.at("work", write, Some("work")),
        (Mechanism::Overlay, Exact)
    );
    // What is not there yet is decided by name in the copy: a race, which the commit bounds.
    assert_eq!(
        p.at("later", Verb::FileCreate, Some("work")),
        (Mechanism::SeccompBroker, Race)
    );
    assert_eq!(
        p.at("shown", Verb::FileRead, Some("shown")),
        (Mechanism::Shown, Exact)
    );
    assert_eq!(
        p.at("frozen", write, Some("shown")),
        (Mechanism::ReadOnlyBind, Exact)
    );
    // The file that matches now has its own mask; one that appears later has none.
    assert_eq!(
        p.at("pem", Verb::FileRead, Some("shown/a.pem")),
        (Mechanism::Mask, Exact)
    );
    assert_eq!(
        p.at("pem", Verb::FileRead, Some("shown")),
        (Mechanism::Mask, Race)
    );
    assert_eq!(
        p.at("direct", write, Some("direct")),
        (Mechanism::WritableBind, Exact)
    );
    assert_eq!(
        p.at("tools", Verb::ProcessExec, Some("bin")),
        (Mechanism::SeccompBroker, Exact)
    );
    assert_eq!(
        p.at("no-start", Verb::ProcessExec, Some("bin")),
        (Mechanism::SeccompBroker, Exact)
    );
    assert_eq!(
        p.at("no-map", Verb::FileExec, Some("bin")),
        (Mechanism::NotEnforceable, Unenforced)
    );
    assert_eq!(
        p.at("still", Verb::ProcessExec, Some("work")),
        (Mechanism::NoexecMount, Exact)
    );
    assert_eq!(
        p.at("hosts", Verb::NetConnect, None),
        (Mechanism::EgressProxy, Exact)
    );
    assert_eq!(
        p.at("udp", Verb::NetConnect, None),
        (Mechanism::Namespace, Stricter)
    );
    assert_eq!(
        p.at("names", Verb::DnsResolve, None),
        (Mechanism::DnsResolver, Exact)
    );
    assert_eq!(
        p.at("commits", Verb::FileCommit, None),
        (Mechanism::CommitCheck, Exact)
    );
    assert_eq!(
        p.at("calls", Verb::ToolCall, None),
        (Mechanism::NotEnforceable, Unenforced)
    );
    assert_eq!(
        p.at("asked", Verb::HttpRequest, None),
        (Mechanism::NotEnforceable, Unenforced)
    );
    assert_eq!(
        p.at("sockets", Verb::IpcConnect, None),
        (Mechanism::SeccompBroker, Exact)
    );
    assert_eq!(
        p.at("signals", Verb::ProcessSignal, Some("bin")),
        (Mechanism::NotEnforceable, Unenforced)
    );
    // Landlock repeats what bounds changes and starts, and nothing about reading.
    for l in &p.landings {
        let bounds = matches!(
            l.by,
            Mechanism::Mask | Mechanism::ReadOnlyBind | Mechanism::NoexecMount
        );
        assert_eq!(l.landlock, bounds && l.verb != Verb::FileRead, "{l:?}");
        // What falls short of exact says why.
        assert_eq!(l.note.is_none(), l.fidelity == Exact, "{l:?}");
    }
}

#[test]
fn a_rule_about_reading_moves_all_reading_to_the_broker() {
    let p = planned(
        r#"
  - { id: glob, priority: 10, action: file.read, resource: "W/work/**/*.key", effect: deny }
  - { id: work, priority: 20, action: "file.*", resource: "W/work/**", effect: isolate }
  - { id: shown, priority: 20, action: file.read, resource: "W/shown/**", effect: allow }
  - { id: proc, priority: 20, action: file.read, resource: "/proc/keys", effect: deny }
"#,
    );
    let read = Verb::FileRead;
    let broker = (Mechanism::SeccompBroker, Fidelity::Exact);
    assert_eq!(p.at("glob", read, Some("work")), broker);
    assert_eq!(p.at("shown", read, Some("shown")), broker);
    assert_eq!(p.at("proc", read, Some("/proc")), broker);
    // Without a reason to trap reading, the same rule is without effect there.
    let p = planned(
        "  - { id: proc, action: file.read, resource: \"/proc/keys\", effect: deny }\n  - { id: shown, action: file.read, resource: \"W/shown/**\", effect: allow }\n",
    );
    let (by, fidelity) = p.at("proc", read, Some("/proc"));
    assert_eq!(
        (by, fidelity),
        (Mechanism::NotEnforceable, Fidelity::Unenforced)
    );
    assert_eq!(fidelity.level(), Enforcement::None);
    assert_eq!(Fidelity::Stricter.level(), Enforcement::Enforced);
    assert_eq!(Fidelity::Race.level(), Enforcement::Race);
}
