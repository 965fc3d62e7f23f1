//! Plans of real policies over a small tree, compared.

use std::fs;

use agentwall_policy::{Layer, Source, Variables, load};
use tempfile::TempDir;

use super::*;
use crate::plan::{PlanInput, REPLACED, plan};

/// A folder with a workspace, and what every policy of these tests begins with.
struct Tree {
    tmp: TempDir,
}

const WORK: &str = "  - { id: work, priority: 200, action: 'file.*', resource: '${workspace}/**', effect: isolate }\n";
const DIRECT: &str = "  - { id: work, priority: 200, action: [file.read, file.write, file.create, file.delete, file.rename, file.chmod], resource: '${workspace}/**', effect: allow }\n";
/// Makes the workspace a tree whose names are decided one by one, when read and when changed.
const GLOB: &str = "  - { id: glob, priority: 50, action: 'file.*', resource: '${workspace}/**/*.key', effect: deny }\n";

impl Tree {
    fn new() -> Tree {
        let tmp = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        fs::create_dir_all(tmp.path().join("w/sub")).unwrap();
        for name in ["a", "b", "sub/c"] {
            fs::write(tmp.path().join("w").join(name), "x").unwrap();
        }
        Tree { tmp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn policy(&self, rules: &str) -> Policy {
        let text = format!("agentwall: 1\ndefault: deny\nrules:\n{rules}");
        let variables = Variables {
            workspace: Some(self.path("w")),
            ..Variables::default()
        };
        load(&[Source::new("p.yaml", text, Layer::User)], &variables).unwrap()
    }

    fn view(&self, policy: &Policy) -> FileView {
        plan(&PlanInput {
            policy,
            subject: &Subject::agent("a"),
            facts: &Facts::default(),
            protected: &[],
            replaced: REPLACED,
            mounts: &["/".into()],
            learning: false,
        })
        .unwrap()
    }

    /// What a session under `old` cannot enforce of `new`.
    fn compare(&self, old: &str, new: &str) -> Vec<Difference> {
        let (old, new) = (self.policy(old), self.policy(new));
        differences(&Change {
            standing: &self.view(&old),
            planned: &self.view(&new),
            policy: &new,
            subject: &Subject::agent("a"),
            facts: &Facts::default(),
        })
    }

    fn accepts(&self, old: &str, new: &str) {
        let found = self.compare(old, new);
        assert!(found.is_empty(), "{found:?}\nfrom\n{old}to\n{new}");
    }

    fn refuses(&self, old: &str, new: &str, what: &str) {
        let found = self.compare(old, new);
        assert!(
            found.iter().any(|d| d.what.contains(what)),
            "expected '{what}', found {found:?}\nfrom\n{old}to\n{new}"
        );
    }
}

/// A rule about a name of the workspace.
fn rule(verbs: &str, name: &str, effect: &str) -> String {
    let id: String = (verbs.chars().chain(name.chars()))
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .collect();
    format!(
        "  - {{ id: r{id}-{effect}, priority: 40, action: {verbs}, \
         resource: '${{workspace}}/{name}', effect: {effect} }}\n"
    )
}

#[test]
fn a_policy_that_plans_alike_is_accepted() {
    let tree = Tree::new();
    for base in [WORK.to_owned(), DIRECT.to_owned(), format!("{GLOB}{WORK}")] {
        tree.accepts(&base, &base);
        let net =
            "  - { id: n, action: net.connect, resource: 'tcp://a.test:443', effect: allow }\n";
        tree.accepts(&base, &format!("{base}{net}"));
        tree.accepts(&format!("{base}{net}"), &base);
        let exec = "  - { id: x, priority: 10, action: process.exec, resource: /usr/bin/env, \
                    effect: ask }\n";
        let all = "  - { id: y, priority: 20, action: [process.exec, file.read, file.exec], \
                   resource: /usr/**, effect: allow }\n";
        tree.accepts(&format!("{base}{all}"), &format!("{base}{all}{exec}"));
    }
}

#[test]
fn names_in_a_tree_that_is_decided_name_by_name_change_freely() {
    let tree = Tree::new();
    let base = format!("{GLOB}{WORK}");
    for effect in ["deny", "ask", "isolate"] {
        // Loading a file as a program is for the mounts: 'file.exec' is not among these.
        let all = "[file.read, file.write, file.create, file.delete, file.rename, file.chmod]";
        for verbs in [all, "file.read", "file.write", "[file.write, file.create]"] {
            if effect == "ask" && verbs == all {
                // What a person allows is written in place where nothing is isolated.
                let asked = format!("{}{base}", rule(verbs, "a", effect));
                tree.refuses(&base, &asked, "is to be changed in place");
                continue;
            }
            // There on the host, not there, a folder.
            for name in ["a", "none", "sub/**", "sub/c", "**/*.pem"] {
                let more = rule(verbs, name, effect);
                tree.accepts(&base, &format!("{base}{more}"));
            }
            tree.accepts(&format!("{base}{}", rule(verbs, "**/*.pem", effect)), &base);
        }
    }
    // A hundred at once, and all gone again.
    let many: String = (0..100)
        .map(|n| {
            fs::write(tree.path("w").join(format!("f{n}")), "x").unwrap();
            rule("'file.*'", &format!("f{n}"), "deny")
        })
        .collect();
    tree.accepts(&base, &format!("{base}{many}"));
    // Those were hidden by mounts when the session began: they stay hidden.
    tree.refuses(
        &format!("{base}{many}"),
        &base,
        "is to be seen, and is hidden",
    );
}

#[test]
fn what_the_mounts_decide_needs_a_new_session() {
    let tree = Tree::new();
    let trapped = format!("{GLOB}{WORK}");
    // No call tells the broker when something is read.
    tree.refuses(WORK, &trapped, "when they are read");
    tree.refuses(
        WORK,
        &format!("{}{WORK}", rule("'file.*'", "a", "deny")),
        "is to be hidden",
    );
    tree.refuses(
        WORK,
        &format!("{}{WORK}", rule("file.write", "sub/**", "deny")),
        "as decided for each name",
    );
    // Another kind of tree.
    tree.refuses(WORK, DIRECT, "is to be changed in place");
    tree.refuses(DIRECT, WORK, "is to be isolated");
    let other = |effect: &str, verbs: &str| {
        let tmp = tree.path("");
        fs::create_dir_all(tree.path("o")).unwrap();
        format!(
            "  - {{ id: o, action: {verbs}, resource: '{}o/**', effect: {effect} }}\n",
            tmp.display()
        )
    };
    let shown = other("allow", "file.read");
    let changed = other("isolate", "'file.*'");
    for base in [WORK.to_owned(), trapped] {
        tree.refuses(&base, &format!("{base}{shown}"), "is to be seen");
        tree.refuses(
            &format!("{base}{shown}"),
            &format!("{base}{changed}"),
            "and is read-only",
        );
        let exec = other("allow", "[file.read, file.exec, process.exec]");
        tree.refuses(
            &format!("{base}{shown}"),
            &format!("{base}{exec}"),
            "is to hold programs",
        );
        tree.refuses(
            &format!("{base}{exec}"),
            &format!("{base}{shown}"),
            "is not to hold programs",
        );
    }
    // Without traps, hiding what is shown is the mounts' business; with them it is decided.
    tree.refuses(&format!("{WORK}{shown}"), WORK, "is to be hidden");
    tree.accepts(&format!("{GLOB}{WORK}{shown}"), &format!("{GLOB}{WORK}"));
}

/// In a tree that is written in place, a name to be isolated would be written in place, too.
#[test]
fn nothing_is_isolated_in_a_tree_that_is_written_in_place() {
    let tree = Tree::new();
    let base = format!("{GLOB}{DIRECT}");
    for name in ["a", "none", "sub/**", "**/*.pem"] {
        let more = rule("'file.*'", name, "isolate");
        let found = tree.compare(&base, &format!("{base}{more}"));
        assert!(!found.is_empty(), "{name} was accepted");
        let denied = rule("'file.*'", name, "deny");
        tree.accepts(&base, &format!("{base}{denied}"));
    }
    // Hidden as it is, but a name in it that is not there yet is to be isolated.
    let hidden = rule("'file.*'", "sub/**", "deny");
    let inside = "  - { id: in, priority: 30, action: 'file.*', resource: '${workspace}/sub/none', \
                  effect: isolate }\n";
    let found = tree.compare(&base, &format!("{base}{hidden}{inside}"));
    assert!(
        !found.is_empty(),
        "an isolated name below a hidden folder was accepted"
    );
}

#[test]
fn places_that_are_left_out_of_a_plan_are_named() {
    let tree = Tree::new();
    let more = rule("'file.*'", "none", "deny") + &rule("'file.*'", "a", "deny");
    let names = |base: &str| {
        let policy = tree.policy(&format!("{base}{more}"));
        let view = tree.view(&policy);
        left_out(&policy, &view, &Subject::agent("a"), &Facts::default())
    };
    assert_eq!(names(WORK), [tree.path("w/none")]);
    // Where reads are trapped, the name is decided on.
    assert!(names(&format!("{GLOB}{WORK}")).is_empty());
}

/// A folder that is not there is made in memory, whatever the policy says about reading in it.
#[test]
fn reads_in_a_folder_of_memory_are_looked_at() {
    let tree = Tree::new();
    let memory = |more: &str| {
        format!(
            "{more}  - {{ id: m, action: [file.read, file.write, file.create, file.delete, \
             file.rename, file.chmod], resource: '{}/**', effect: isolate }}\n",
            tree.path("memory").display()
        )
    };
    let deny = |verbs: &str, name: &str| {
        let place = tree.path("memory").join(name);
        format!(
            "  - {{ id: d, priority: 40, action: {verbs}, resource: '{}', effect: deny }}\n",
            place.display()
        )
    };
    let base = memory(WORK);
    assert!(
        tree.view(&tree.policy(&base))
            .nodes
            .iter()
            .any(|n| n.placement.writes == Writes::Private)
    );
    tree.accepts(&base, &base);
    let glob = format!("{}{base}", deny("file.read", "**/*.key"));
    tree.refuses(&base, &glob, "is read as a whole");
    // A name that is not there and cannot be made: the broker looks whether it was made before.
    let name = format!("{}{base}", deny("'file.*'", "none"));
    let refused = tree.compare(&base, &name);
    assert!(
        refused
            .iter()
            .all(|d| !d.what.contains("is read as a whole")),
        "{refused:?}"
    );
}

/// What comes of an action, by the mounts alone or by the broker's look at it.
#[derive(Debug, PartialEq)]
enum Outcome {
    Denied,
    Asked,
    Goes(Option<Writes>),
}

fn outcome(view: &FileView, policy: &Policy, verb: Verb, path: &Path) -> Outcome {
    let stands = view.placement(path).unwrap_or(&Placement::HIDDEN);
    let reads = verb == Verb::FileRead;
    if stands.hidden || !reads && stands.writes == Writes::None {
        return Outcome::Denied;
    }
    // A copy of a tree or of a file in memory: isolated either way.
    let goes = Outcome::Goes((!reads).then_some(match stands.writes {
        Writes::Private => Writes::Isolated,
        writes => writes,
    }));
    // Changes are always looked at; what is not there yet is read after it was made.
    if reads && !view.trap_reads && path.exists() {
        return goes;
    }
    let action = Action::new(Subject::agent("a"), verb, Resource::path(path));
    match policy.decide(&action).effect {
        Effect::Ask => Outcome::Asked,
        effect if effect.proceeds() => goes,
        _ => Outcome::Denied,
    }
}

/// Many pairs of policies: at every place, whichever the standing wall takes has the outcome that it asks
/// for, or is at most as strict as in a session of its own.
#[test]
fn what_is_accepted_is_enforced() {
    let tree = Tree::new();
    fs::write(tree.path("w/x.key"), "x").unwrap();
    let mut rules = vec![String::new(), GLOB.to_owned()];
    for (verbs, name) in [
        ("'file.*'", "a"),
        ("file.read", "a"),
        ("[file.write, file.create]", "sub/**"),
        ("'file.*'", "sub/**"),
        ("file.write", "**/*.key"),
        ("[file.create, file.delete]", "none"),
        ("'file.*'", "none"),
    ] {
        for effect in ["deny", "ask", "isolate"] {
            rules.push(rule(verbs, name, effect));
        }
    }
    let mut policies = Vec::new();
    for base in [WORK, DIRECT] {
        for (n, one) in rules.iter().enumerate() {
            for two in &rules[..n] {
                let text = format!("{one}{two}{base}");
                let policy = tree.policy(&text);
                policies.push((tree.view(&policy), policy, text));
            }
        }
    }
    // Not "sub" itself: a plan places a folder with what is in it, also in a session of its own.
    let places = ["a", "b", "sub/c", "sub/none", "none", "x.key"];
    let places = places.map(|name| tree.path("w").join(name));
    let verbs: Vec<Verb> = FILE_CHANGES.into_iter().chain([Verb::FileRead]).collect();
    let (mut accepted, mut compared) = (0, 0);
    // Each with some of the others; the stride has no divisor in common with the count.
    for (n, (standing, _, old)) in policies.iter().enumerate() {
        for (planned, policy, new) in policies.iter().cycle().skip(n).step_by(97).take(40) {
            compared += 1;
            let found = differences(&Change {
                standing,
                planned,
                policy,
                subject: &Subject::agent("a"),
                facts: &Facts::default(),
            });
            if !found.is_empty() {
                continue;
            }
            accepted += 1;
            for path in &places {
                for verb in &verbs {
                    let result = outcome(standing, policy, *verb, path);
                    let action = Action::new(Subject::agent("a"), *verb, Resource::path(path));
                    let said = match (&result, policy.decide(&action).effect) {
                        (Outcome::Goes(writes), Effect::Isolate) => *writes != Some(Writes::Direct),
                        (Outcome::Goes(_), effect) => effect == Effect::Allow,
                        (Outcome::Asked, effect) => effect == Effect::Ask,
                        (Outcome::Denied, effect) => effect == Effect::Deny,
                    };
                    let stricter = !matches!(result, Outcome::Goes(_));
                    assert!(
                        said || stricter && result == outcome(planned, policy, *verb, path),
                        "{verb} {}: {result:?} in a session of\n{old}under\n{new}",
                        path.display()
                    );
                    // A look at a change is a race where the mount is writable: then the mount alone
                    // has to be right in both, or in none.
                    let bound = |view: &FileView| view.placement(path).is_some_and(|p| p.brokered);
                    assert!(
                        !bound(planned) || bound(standing) || result == Outcome::Denied,
                        "{verb} {}: not bound in a session of\n{old}under\n{new}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(
        accepted > compared / 20 && accepted < compared,
        "{accepted} of {compared} accepted"
    );
}
