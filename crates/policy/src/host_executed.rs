//! `label:host-executed`: what runs on the host later, outside the wall, without anybody starting it
//! on purpose; and the built-in rule that asks before such a change is committed.
//!
//! An agent that may not run a command can still leave one behind: a hook, a build script, an editor's
//! task, a start-up file. The list errs on the side of being long; a policy that has a rule about the
//! label decides itself, with its own exceptions. What a path cannot tell (a new program on `PATH`, a link
//! out of the tree, a set-id bit) the commit marks with the label as a fact of the action.
//!
//! The rule is a layer below all others, so it can only tighten; [`Policy::with_commit_rule`] adds it
//! where commits are decided. Where files are only read and written it would cost and say nothing.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use agentwall_action::Verb;

use crate::{
    glob::{Glob, GlobKind},
    load::{Source, load},
    pattern::ResourcePattern,
    policy::Policy,
    rule::{Layer, Rule, RuleEffect},
    vars::Variables,
};

/// The label's name, after `label:`.
pub const HOST_EXECUTED: &str = "host-executed";

/// The places, as globs, by who runs them.
const PLACES: &[&str] = &[
    // Version control.
    "**/.git/{hooks/**,config,config.worktree,commondir,gitdir,info/**}",
    "**/.git/{modules/**,worktrees/*}/{hooks/**,config,config.worktree,commondir,gitdir,info/**}",
    "**/{.gitattributes,.gitmodules,.gitconfig,.githooks/**,.husky/**}",
    "**/.config/git/{config,attributes}",
    "**/{.pre-commit-config.yaml,.pre-commit-hooks.yaml,lefthook.yml,lefthook.yaml}",
    "**/{.hg/hgrc,.hgrc,.svn/hooks/**,.jj/repo/config.toml}",
    // Continuous integration.
    "**/.github/{workflows,actions}/**",
    "**/{.gitlab-ci.yml,.travis.yml,.drone.yml,azure-pipelines.yml,Jenkinsfile}",
    "**/{.circleci,.buildkite,.woodpecker,.forgejo,.gitea}/**",
    // Editors and agents.
    "**/{.vscode,.idea,.devcontainer,.zed,.nvim}/**",
    "**/{*.code-workspace,.nvimrc,.exrc,.vimrc,.gvimrc,.dir-locals.el,.emacs}",
    "**/.config/{nvim,vim,emacs,helix,Code/User}/**",
    "**/{.vim,.emacs.d}/**",
    "**/{.claude,.codex,.cursor,.gemini}/**",
    "**/{.mcp.json,CLAUDE.md,AGENTS.md,GEMINI.md,agentwall.yaml,agentwall.yml}",
    // Shells and sessions.
    "**/{.envrc,.env,.tool-versions,mise.toml,.mise.toml}",
    "**/.{bashrc,bash_profile,bash_login,bash_logout,bash_aliases,profile,login,cshrc,tcshrc,kshrc,inputrc}",
    "**/.{zshrc,zshenv,zprofile,zlogin,zlogout,xinitrc,xprofile,xsession,xsessionrc,pam_environment}",
    "**/.config/{fish,autostart,systemd,environment.d,plasma-workspace}/**",
    "**/{.ssh,.local/bin,.config/direnv,.oh-my-zsh}/**",
    "/etc/**",
    "/{bin,sbin,lib,lib64}/**",
    "/usr/{bin,sbin,lib,lib64,libexec,local}/**",
    "/var/spool/cron/**",
    // Build tools and package managers.
    "**/{package.json,.npmrc,.yarnrc,.yarnrc.yml,.pnpmfile.cjs,.pnp.cjs,binding.gyp}",
    "**/{Makefile,makefile,GNUmakefile,*.mk,justfile,Justfile,Taskfile.yml,Rakefile,Gemfile}",
    "**/{build.rs,.cargo/**,rust-toolchain,rust-toolchain.toml,clippy.toml}",
    "**/{conftest.py,setup.py,noxfile.py,tox.ini,sitecustomize.py,usercustomize.py,*.pth}",
    "**/{*.pyc,*.pyo,*.so,*.dylib,*.dll,*.node}",
    "**/{build.gradle,build.gradle.kts,settings.gradle,settings.gradle.kts,gradlew,pom.xml}",
    "**/{gradle/wrapper,.mvn}/**",
    "**/{Dockerfile,Dockerfile.*,docker-compose.yml,docker-compose.yaml,compose.yml,compose.yaml}",
    "**/{flake.nix,shell.nix,default.nix,CMakeLists.txt,configure,autogen.sh}",
];

const RULE: &str = r#"agentwall: 1
rules:
  - id: built-in-host-executed
    action: file.commit
    resource: label:host-executed
    effect: ask
    reason: This runs on the host later, outside the wall, or is obeyed there.
    hint:
      next: ask-user
      text: "Show the change to the user; 'agentwall commit -- PATH' commits what is named."
    tests:
      match: [file.commit /w/.git/hooks/pre-commit, file.commit /w/Makefile]
      not_match: [file.commit /w/src/main.rs, file.write /w/Makefile]
"#;

/// The built-in rule, loaded once.
static LAYER: LazyLock<Policy> = LazyLock::new(|| {
    let source = Source::new("built in", RULE, Layer::BuiltIn);
    // The text is a constant that a test loads.
    #[allow(clippy::expect_used)]
    load(&[source], &Variables::default()).expect("the built-in rule is a policy")
});

/// The places of the label as globs. They do not depend on variables.
pub fn host_executed_globs() -> Arc<[Glob]> {
    static GLOBS: LazyLock<Arc<[Glob]>> = LazyLock::new(|| {
        // Constants without glob errors, which a test proves by counting.
        let globs = PLACES.iter().map(|p| Glob::new(p, GlobKind::Path));
        globs.filter_map(Result::ok).collect()
    });
    GLOBS.clone()
}

/// The folders on the way to these places, as globs: who makes one of them a link chooses what is in it,
/// under names that say nothing.
pub fn host_executed_folders() -> Arc<[Glob]> {
    static GLOBS: LazyLock<Arc<[Glob]>> = LazyLock::new(|| {
        let all: BTreeSet<String> = PLACES.iter().flat_map(|p| folders(p)).collect();
        let globs = all.iter().map(|p| Glob::new(p, GlobKind::Path));
        globs.filter_map(Result::ok).collect()
    });
    GLOBS.clone()
}

/// Every proper prefix of a place that ends in a name. The constants nest no braces.
fn folders(place: &str) -> Vec<String> {
    if let Some((head, rest)) = place.split_once('{')
        && let Some((options, tail)) = rest.split_once('}')
    {
        let each = options.split(',');
        return each
            .flat_map(|o| folders(&format!("{head}{o}{tail}")))
            .collect();
    }
    let ends = place.match_indices('/').map(|(at, _)| &place[..at]);
    let named = |prefix: &&str| !prefix.is_empty() && !prefix.ends_with("**");
    ends.filter(named).map(str::to_owned).collect()
}

impl Policy {
    /// The policy as commits are decided by it: with the built-in rule that asks about
    /// `label:host-executed`, unless the organisation or the user has a rule about the label that holds
    /// for every subject and without conditions.
    /// The digest stays: it is that of what was written.
    #[must_use]
    pub fn with_commit_rule(mut self) -> Policy {
        if !self.rules().any(decides_about_the_class) {
            self.layers.extend(LAYER.layers.iter().cloned());
        }
        self
    }
}

/// A repository's own file does not count: it comes from whoever wrote the repository.
fn decides_about_the_class(rule: &Rule) -> bool {
    let names =
        |p: &ResourcePattern| matches!(p, ResourcePattern::Label(l) if l.name == HOST_EXECUTED);
    rule.layer < Layer::Repository
        && matches!(rule.effect, RuleEffect::Decide(_))
        && !rule.is_conditional()
        && rule.subject.is_any()
        && rule.verbs.contains(&Verb::FileCommit)
        && rule.resource.positive.iter().any(names)
}

#[cfg(test)]
mod tests {
    use agentwall_action::{Action, Effect, Facts, ObjectKind, PathResource, Resource, Subject};

    use super::*;

    fn policy(user: &str, repository: Option<&str>) -> Policy {
        let text = |rules: &str| format!("agentwall: 1\nrules:\n{rules}");
        let mut sources = vec![Source::new("u", text(user), Layer::User)];
        sources.extend(repository.map(|r| Source::new("r", text(r), Layer::Repository)));
        load(&sources, &Variables::default()).unwrap()
    }

    fn commit(policy: &Policy, path: &str, labels: &[&str]) -> (Effect, Option<String>) {
        let mut action = Action {
            facts: Facts::default(),
            ..Action::new(
                Subject::agent("a"),
                Verb::FileCommit,
                Resource::Path(PathResource {
                    path: path.into(),
                    kind: ObjectKind::File,
                }),
            )
        };
        action.facts.labels = labels.iter().map(ToString::to_string).collect();
        let decision = policy.decide(&action);
        (decision.effect, decision.rule)
    }

    const ALL: &str = "  - { id: all, action: file.commit, resource: '**', effect: allow }\n";

    #[test]
    fn the_list_is_complete_and_exact() {
        let globs = host_executed_globs();
        assert_eq!(globs.len(), PLACES.len());
        let runs = |p: &str| globs.iter().any(|g| g.matches(p.as_bytes(), false));
        for path in [
            "/w/.git/hooks/pre-commit",
            "/w/sub/.git/config",
            "/w/.git/commondir",
            "/w/.git/modules/m/commondir",
            "/w/.git/modules/a/b/config.worktree",
            "/w/.git/worktrees/w/config.worktree",
            "/w/.git/worktrees/w/gitdir",
            "/w/.envrc",
            "/w/.github/workflows/ci.yml",
            "/w/.vscode/tasks.json",
            "/w/package.json",
            "/w/a/b/Makefile",
            "/w/tests/conftest.py",
            "/w/x/__pycache__/y.cpython-312.pyc",
            "/home/u/.bashrc",
            "/home/u/.config/systemd/user/x.service",
            "/home/u/.local/bin/tool",
            "/usr/local/bin/tool",
            "/etc/profile.d/x.sh",
        ] {
            assert!(runs(path), "{path}");
        }
        for path in [
            "/w/src/main.rs",
            "/w/.git/objects/ab/cd",
            "/w/.git/HEAD",
            "/w/.git/worktrees/w/index",
            "/w/README.md",
            "/w/makefiles/x",
            "/w/profile",
            "/usr/share/doc/x",
        ] {
            assert!(!runs(path), "{path}");
        }
    }

    #[test]
    fn the_folders_on_the_way_are_complete_and_exact() {
        let globs = host_executed_folders();
        let on_the_way = |p: &str| globs.iter().any(|g| g.matches(p.as_bytes(), true));
        for path in [
            "/w/.git",
            "/w/.git/hooks",
            "/w/.git/modules/a/b/info",
            "/w/.github",
            "/w/.github/workflows",
            "/w/a/.vscode",
            "/home/u/.config",
            "/home/u/.config/systemd",
            "/home/u/.local",
            "/home/u/.local/bin",
            "/usr/local",
            "/etc",
        ] {
            assert!(on_the_way(path), "{path}");
        }
        for path in [
            "/",
            "/w",
            "/w/tools",
            "/w/git/hooks",
            "/w/Makefile",
            "/w/.envrc",
        ] {
            assert!(!on_the_way(path), "{path}");
        }
        for place in PLACES {
            let depth = place.bytes().fold((0i32, 0i32), |(now, most), b| {
                let now = now + i32::from(b == b'{') - i32::from(b == b'}');
                (now, most.max(now))
            });
            assert_eq!(
                (depth.0, depth.1.min(1)),
                (0, depth.1),
                "{place} nests braces"
            );
        }
    }

    #[test]
    fn a_general_allow_does_not_commit_what_runs_on_the_host() {
        let p = policy(ALL, None).with_commit_rule();
        let (effect, rule) = commit(&p, "/w/Makefile", &[]);
        assert_eq!(effect, Effect::Ask);
        assert_eq!(rule.as_deref(), Some("built-in-host-executed"));
        assert_eq!(commit(&p, "/w/src/x.rs", &[]).0, Effect::Allow);
        assert_eq!(commit(&p, "/w/tool", &[HOST_EXECUTED]).0, Effect::Ask);
    }

    #[test]
    fn only_a_whole_rule_of_the_user_about_the_label_takes_it_over() {
        let named =
            "  - { id: mine, action: file.commit, resource: label:host-executed, effect: allow }\n";
        let p = policy(&format!("{ALL}{named}"), None).with_commit_rule();
        assert_eq!(commit(&p, "/w/Makefile", &[]).0, Effect::Allow);
        let p = policy(ALL, Some(named)).with_commit_rule();
        assert_eq!(commit(&p, "/w/Makefile", &[]).0, Effect::Ask);
        for part in [
            "when: 'risk > 50'",
            "unless: 'risk > 50'",
            "subject: 'agent:b'",
        ] {
            let some = named.replace(" }", &format!(", {part} }}"));
            let p = policy(&format!("{ALL}{some}"), None).with_commit_rule();
            assert_eq!(commit(&p, "/w/Makefile", &[]).0, Effect::Ask, "{part}");
        }
        let own = "  - { id: own, priority: 1, action: file.commit, resource: /w/Makefile, effect: allow }\n";
        let p =
            policy(&format!("{own}{}", named.replace("allow", "deny")), None).with_commit_rule();
        assert_eq!(commit(&p, "/w/Makefile", &[]).0, Effect::Allow);
        assert_eq!(commit(&p, "/w/x/Makefile", &[]).0, Effect::Deny);
        let other =
            "  - { id: w, action: file.write, resource: label:host-executed, effect: allow }\n";
        let p = policy(&format!("{ALL}{other}"), None).with_commit_rule();
        assert_eq!(commit(&p, "/w/Makefile", &[]).0, Effect::Ask);
    }

    #[test]
    fn a_stricter_rule_stays_and_the_tests_of_the_rule_hold() {
        let deny = "  - { id: no, action: file.commit, resource: '**/Makefile', effect: deny }\n";
        let p = policy(deny, None).with_commit_rule();
        assert_eq!(commit(&p, "/w/Makefile", &[]).0, Effect::Deny);
        assert!(p.run_tests().passed());
        assert_eq!(p.digest(), policy(deny, None).digest());
    }
}
