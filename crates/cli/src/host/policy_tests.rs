use super::*;
use agentwall_action::{Action, Resource};

fn own() -> OwnFiles {
    let places = Places {
        config: "/etc/agentwall/daemon.yaml".into(),
        pins: "/sys/fs/bpf/agentwall".into(),
        state: "/var/lib/agent[wall".into(),
        run: "/run/agentwall".into(),
    };
    OwnFiles::of(&places, "/usr/bin/agentwall".into())
}

fn chosen(text: &str) -> Chosen {
    Chosen::built_in(Source::new("p.yaml", text, Layer::User))
}

fn variables() -> Variables {
    Variables {
        workspace: Some("/w".into()),
        home: Some("/home/u".into()),
        tmp: Some("/tmp".into()),
        state: None,
    }
}

const AUDIT: Mode = Mode {
    audit: true,
    names: false,
};

fn make(text: &str) -> Result<Ready> {
    ready(chosen(text), "a", &variables(), &own(), Mode::default())
}

/// What the kernel would do: the table's own answer.
fn answer(ready: &Ready, verb: Verb, resource: Resource) -> Effect {
    let action = Action {
        facts: ready.facts.clone(),
        ..Action::new(ready.subject.clone(), verb, resource)
    };
    ready.table().answer(&action).unwrap().effect
}

#[test]
fn the_walls_own_files_are_out_of_reach_whatever_the_policy_allows() {
    let open = "agentwall: 1\ndefault: allow\nrules:\n  - {id: all, priority: -1000000, action: '*', \
                resource: '*', effect: allow}\n";
    let closed = "agentwall: 1\ndefault: deny\n";
    for (text, else_) in [(open, Effect::Allow), (closed, Effect::Deny)] {
        let ready = make(text).unwrap();
        let asked = |verb, path: &str| answer(&ready, verb, Resource::path(path));
        for path in [
            "/var/lib/agent[wall/keys/ledger.key",
            "/var/lib/agent[wall",
            "/run/agentwall/book.json",
            "/sys/fs/bpf/agentwall/maps/tables",
            "/etc/agentwall/daemon.yaml",
            "/etc/systemd/system/agentwall.service",
        ] {
            for verb in [Verb::FileRead, Verb::FileWrite, Verb::FileDelete] {
                assert_eq!(asked(verb, path), Effect::Deny, "{verb} {path}");
            }
        }
        assert_eq!(asked(Verb::FileWrite, "/usr/bin/agentwall"), Effect::Deny);
        assert_eq!(
            asked(Verb::ProcessExec, "/usr/bin/agentwall"),
            Effect::Allow
        );
        // Their neighbours are the policy's.
        for path in ["/var/lib/agentw", "/run/agentwall2/x", "/etc/agentwalls"] {
            assert_eq!(asked(Verb::FileRead, path), else_, "{path}");
        }
        let socket = |path: &str| answer(&ready, Verb::IpcConnect, Resource::Unix(path.into()));
        assert_eq!(socket("/run/agentwall/control"), Effect::Deny);
        assert_eq!(socket("/run/agentwall/why"), Effect::Allow);
        assert_eq!(socket("/run/other"), else_);
    }
}

#[test]
fn why_can_be_asked_and_files_stay_hidden_under_several_layers() {
    let mut chosen = chosen("agentwall: 1\ndefault: deny\n");
    chosen.sources.push(Source::new(
        "org.yaml",
        "agentwall: 1\ndefault: allow\n",
        Layer::Organisation,
    ));
    let ready = ready(chosen, "a", &variables(), &own(), Mode::default()).unwrap();
    let asked = |verb, path: &str| answer(&ready, verb, Resource::path(path));
    assert_eq!(
        asked(Verb::ProcessExec, "/usr/bin/agentwall"),
        Effect::Allow
    );
    assert_eq!(
        asked(Verb::FileRead, "/run/agentwall/book.json"),
        Effect::Deny
    );
    assert_eq!(asked(Verb::FileRead, "/w/x"), Effect::Deny);
}

fn rule(action: &str, resource: &str, effect: &str) -> String {
    format!(
        "agentwall: 1\ndefault: deny\nrules:\n  - {{id: r, action: {action}, resource: {resource}, \
         effect: {effect}}}\n"
    )
}

#[test]
fn what_would_go_through_against_the_policy_is_refused() {
    for (text, part) in [
        (
            rule("net.connect", "'tcp://evil.example:443'", "deny"),
            "does not refuse by it",
        ),
        (
            rule(
                "net.connect",
                "['tcp://*:443', '!tcp://evil.example:443']",
                "allow",
            ),
            "what '!' excepts is allowed",
        ),
        (rule("dns.resolve", "'dns:*.example'", "deny"), "no hook"),
        (rule("tool.call", "'*'", "ask"), "no hook"),
    ] {
        let error = make(&text).unwrap_err().to_string();
        assert!(error.contains("rule r") && error.contains(part), "{error}");
        assert!(error.contains("agentwall run"), "{error}");
        let accepted = format!("{text}require: {{enforcement: audit}}\n");
        assert!(make(&accepted).unwrap().lacks.iter().any(|l| l.open));
        assert!(ready(chosen(&text), "a", &variables(), &own(), AUDIT).is_ok());
    }
}

#[test]
fn where_names_lead_to_the_daemon_rules_about_them_hold() {
    let mode = Mode {
        audit: false,
        names: true,
    };
    let make = |text: &str| ready(chosen(text), "a", &variables(), &own(), mode);
    for text in [
        rule("net.connect", "'tcp://evil.example:443'", "deny"),
        rule(
            "net.connect",
            "['tcp://*:443', '!tcp://evil.example:443']",
            "allow",
        ),
        rule("net.connect", "'tcp://good.example:443'", "allow"),
        rule("dns.resolve", "'dns:*.example'", "deny"),
        rule("dns.resolve", "'*'", "deny"),
    ] {
        let ready = make(&text).unwrap();
        assert!(ready.names, "{text}");
        assert_eq!(ready.lacks(), Vec::<String>::new(), "{text}");
    }
    // A name has one source alone, whatever the policy allows of the host's.
    let open = rule("ipc.connect", "'unix:*'", "allow")
        + "  - {id: n, action: net.connect, resource: 'tcp://good.example:443', effect: allow}\n";
    let socket = |ready: &Ready| {
        let path = "/run/systemd/resolve/io.systemd.Resolve".into();
        answer(ready, Verb::IpcConnect, Resource::Unix(path))
    };
    assert_eq!(socket(&make(&open).unwrap()), Effect::Deny);
    assert_eq!(
        socket(&super::ready(chosen(&open), "a", &variables(), &own(), Mode::default()).unwrap()),
        Effect::Allow
    );
    // What speaks of no name is left to the addresses; and who only watches leads nobody anywhere.
    for text in [
        rule("net.connect", "'tcp://192.0.2.1:443'", "allow"),
        rule("'*'", "'*'", "allow"),
        rule("'*'", "'*'", "deny"),
    ] {
        assert!(!make(&text).unwrap().names, "{text}");
    }
    let named = rule("net.connect", "'tcp://good.example:443'", "allow");
    let both = Mode {
        audit: true,
        ..mode
    };
    let watched = ready(chosen(&named), "a", &variables(), &own(), both).unwrap();
    assert!(!watched.names && watched.lacks[0].what.contains("does not allow"));
    let datagrams = rule("net.send", "'udp://good.example:443'", "allow");
    let lacks = make(&datagrams).unwrap().lacks();
    assert!(lacks[0].contains("datagrams"), "{lacks:?}");
    let label = rule("net.connect", "label:mine", "deny");
    assert!(make(&label).unwrap_err().to_string().contains("label"));
    let tool = rule("tool.call", "'*'", "ask");
    assert!(make(&tool).unwrap_err().to_string().contains("no hook"));
}

#[test]
fn what_is_only_stricter_is_told() {
    for (text, part) in [
        (
            rule("net.connect", "'tcp://good.example:443'", "allow"),
            "does not allow",
        ),
        (rule("file.write", "/w/**", "isolate"), "no copies"),
        (rule("file.read", "/w/**", "ask"), "until a person approves"),
        (rule("process.exec", "/w/t", "ask"), "waits for a person"),
    ] {
        let lacks = make(&text).unwrap().lacks();
        assert_eq!(lacks.len(), 1, "{lacks:?}");
        assert!(lacks[0].contains(part), "{lacks:?}");
    }
    for plain in [
        rule("net.connect", "'tcp://192.0.2.1:443'", "deny"),
        rule("file.commit", "/w/**", "deny"),
        rule("dns.resolve", "'dns:*'", "allow"),
        rule("'*'", "'*'", "deny"),
    ] {
        assert_eq!(
            make(&plain).unwrap().lacks(),
            Vec::<String>::new(),
            "{plain}"
        );
    }
}

#[test]
fn a_policy_that_requires_enforcement_is_not_only_watched() {
    let text = "agentwall: 1\ndefault: deny\nrequire: {enforcement: enforced}\n";
    assert!(make(text).is_ok());
    let error = ready(chosen(text), "a", &variables(), &own(), AUDIT).unwrap_err();
    assert!(
        error.to_string().contains("requires enforcement"),
        "{error}"
    );
}

#[test]
fn what_others_can_change_is_not_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("daemon.yaml");
    assert_eq!(configuration(&file).unwrap(), Config::default());
    std::fs::write(&file, "agentwall-daemon: 1\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = configuration(&file).unwrap_err().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    configuration(&file).unwrap();
    std::fs::set_permissions(tmp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = configuration(&file).unwrap_err().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
}

#[test]
fn labels_that_are_places_are_refused_by_their_places() {
    let secret = rule("'file.*'", "label:secret", "deny");
    let ready = make(&secret).unwrap();
    assert_eq!(ready.lacks(), Vec::<String>::new());
    let read = |path| answer(&ready, Verb::FileRead, Resource::path(path));
    assert_eq!(read("/home/u/.ssh/id_ed25519"), Effect::Deny);
    // The default of the rule's policy, whatever it is, holds beside it.
    assert_eq!(read("/home/u/notes"), read("/home/u/other"));
    let other = rule("'file.*'", "label:mine", "deny");
    assert!(make(&other).unwrap_err().to_string().contains("label"));
}

#[test]
fn the_coding_templates_are_taken() {
    for name in ["generic", "claude-code", "codex", "gemini-cli", "ci-agent"] {
        let template = agentwall_policy::templates()
            .iter()
            .find(|t| t.name == name)
            .unwrap();
        let variables = Variables {
            state: Some("/var/lib/agentwall".into()),
            ..variables()
        };
        if let Err(error) = ready(
            chosen(template.text),
            "a",
            &variables,
            &own(),
            Mode::default(),
        ) {
            panic!("{name}: {error:#}");
        }
    }
}

#[test]
fn every_rule_lands_at_the_hooks_or_says_why_not() {
    let text = "agentwall: 1\nrules:\n\
                \x20 - {id: tree, action: [file.read, tool.call], resource: '/w/**', effect: allow}\n\
                \x20 - {id: copy, action: file.write, resource: '/w/**', effect: isolate}\n\
                \x20 - {id: commit, action: file.commit, resource: '/w/**', effect: allow}\n\
                \x20 - {id: other, subject: agent:other, action: file.read, resource: '/o', effect: deny}\n";
    let policy = completed(
        &chosen(text).sources,
        &variables(),
        &own(),
        &Subject::agent("a"),
        false,
    )
    .unwrap();
    let of = |verbs: &[Verb]| {
        let found = landings(&policy, &Subject::agent("a"), verbs, false);
        let one = |l: Landing| (l.rule, l.verb, l.by, l.fidelity, l.note.is_some());
        found.into_iter().map(one).collect::<Vec<_>>()
    };
    let (hook, nothing) = (Mechanism::KernelHook, Mechanism::NotEnforceable);
    assert_eq!(
        of(Verb::ALL),
        [
            (
                "copy".to_owned(),
                Verb::FileWrite,
                hook,
                Fidelity::Stricter,
                true
            ),
            (
                "tree".to_owned(),
                Verb::FileRead,
                hook,
                Fidelity::Exact,
                false
            ),
            (
                "tree".to_owned(),
                Verb::ToolCall,
                nothing,
                Fidelity::Unenforced,
                true
            ),
        ]
    );
    assert_eq!(of(&[Verb::FileDelete]), []);
}
