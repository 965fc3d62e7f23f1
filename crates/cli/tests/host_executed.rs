//! What a commit would let run on the host later, under a policy that allows every commit of the
//! workspace: it waits for the person's word, whatever way it comes.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use support::{Host, Made, Said};

const PATH: &str = "/usr/bin:/bin";

fn session(host: &Host) -> Made {
    host.session("20261121-0259-k3f9", "agent")
}

/// Commits with folders of the workspace in `PATH`.
fn commit(host: &Host, programs: &[&str], options: &[&str]) -> Said {
    let mut command = host.command(&["commit", "--json"]);
    let dirs = programs
        .iter()
        .map(|p| host.work.join(p).display().to_string());
    let path = dirs.chain([PATH.to_owned()]).collect::<Vec<_>>().join(":");
    support::said(command.args(options).env("PATH", path))
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| m.is_dir())
}

/// What became of each path, but new folders.
fn became(host: &Host, said: Said) -> Vec<(String, String)> {
    let json = said.code(0).json();
    let each = json["changes"].as_array().unwrap().iter().map(|line| {
        let path = Path::new(line["path"].as_str().unwrap());
        let name = path.strip_prefix(&host.work).unwrap().to_str().unwrap();
        (name.to_owned(), line["became"].as_str().unwrap().to_owned())
    });
    let mut all: Vec<_> = each
        .filter(|(name, became)| became != "committed" || !is_folder(&host.work.join(name)))
        .collect();
    all.sort();
    all
}

fn held(host: &Host, programs: &[&str]) -> Vec<String> {
    let all = became(host, commit(host, programs, &[]));
    let held = all.into_iter().filter(|(_, became)| became == "held");
    held.map(|(name, _)| name).collect()
}

#[test]
fn what_runs_on_the_host_later_waits_until_it_is_named() {
    let host = Host::new();
    fs::create_dir(host.work.join("tools")).unwrap();
    let session = session(&host);
    let held = [
        "Makefile",
        ".git/hooks/post-checkout",
        ".envrc",
        "a/conftest.py",
        "tools/ls",
        "outwards",
        "climbs",
        "raised",
    ];
    for name in &held[..5] {
        session.write(name, "EVIL\n");
    }
    symlink("/etc/passwd", session.upper.join("outwards")).unwrap();
    symlink("tools/../../x", session.upper.join("climbs")).unwrap();
    session.write("raised", "SETUID\n");
    fs::set_permissions(
        session.upper.join("raised"),
        fs::Permissions::from_mode(0o4755),
    )
    .unwrap();
    // Their neighbours: no name of the class, a folder that is not on PATH, a link that stays inside.
    session.write("src/makefile.txt", "GOOD\n");
    session.write("other/ls", "GOOD\n");
    symlink("src/makefile.txt", session.upper.join("inwards")).unwrap();

    let call = |args: &[&str]| {
        let mut command = host.command(args);
        let path = format!("{}:/usr/bin:/bin", host.work.join("tools").display());
        support::said(command.env("PATH", path))
    };
    let said = call(&["commit", "--json"]).code(0).json();
    for line in said["changes"].as_array().unwrap() {
        let name = std::path::Path::new(line["path"].as_str().unwrap());
        let name = name.strip_prefix(&host.work).unwrap().to_str().unwrap();
        let waits = held.contains(&name) || name == ".git/hooks";
        let became = if waits { "held" } else { "committed" };
        assert!(
            line["became"] == became || host.work.join(name).is_dir(),
            "{name}: {line}"
        );
        assert_eq!(
            host.work.join(name).symlink_metadata().is_err(),
            waits,
            "{name}"
        );
    }
    assert_eq!(host.read("other/ls").unwrap(), "GOOD\n");
    assert!(host.work.join("inwards").is_symlink());
    let policy = session.dir.join("policy.yaml");
    let policy = policy.to_string_lossy();
    let explained = host
        .call(&[
            "policy",
            "explain",
            "--policy",
            &policy,
            "file.commit",
            "Makefile",
        ])
        .all();
    assert!(explained.contains("built-in-host-executed"), "{explained}");

    call(&["commit", "--", "Makefile", "outwards", "raised"]).code(0);
    assert_eq!(host.read("Makefile").unwrap(), "EVIL\n");
    assert!(host.work.join("outwards").is_symlink());
    let mode = fs::metadata(host.work.join("raised"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o4755);
    assert!(host.read(".envrc").is_none() && host.read("tools/ls").is_none());
}

/// A link where a folder of the class is, or would be, chooses what is in it under names that say nothing.
#[test]
fn a_link_in_the_place_of_such_a_folder_waits() {
    let host = Host::new();
    host.put(".git/hooks/pre-commit", "OLD\n");
    host.put("bin/tool", "OLD\n");
    let session = session(&host);
    session.write("tools/pre-commit", "EVIL\n");
    let links = [
        ".cargo", ".config", ".github", ".husky", ".vscode", "a/.git", "bin", "nb",
    ];
    for name in links {
        let link = session.upper.join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(name.matches('/').count());
        symlink(format!("{up}tools"), link).unwrap();
    }
    fs::create_dir_all(session.upper.join(".git")).unwrap();
    symlink("../tools", session.upper.join(".git/hooks")).unwrap();
    symlink("tools", session.upper.join("plain")).unwrap();

    let held = held(&host, &["bin", "nb"]);
    assert_eq!(
        held,
        [
            ".cargo",
            ".config",
            ".git/hooks",
            ".github",
            ".husky",
            ".vscode",
            "a/.git",
            "bin",
            "nb"
        ]
    );
    assert_eq!(host.read(".git/hooks/pre-commit").unwrap(), "OLD\n");
    assert_eq!(host.read("bin/tool").unwrap(), "OLD\n");
    assert_eq!(host.read("plain/pre-commit").unwrap(), "EVIL\n");
    let rest = became(&host, commit(&host, &["bin", "nb"], &["--", ".husky"]));
    assert_eq!(rest, [(".husky".into(), "committed".into())]);
    assert!(host.work.join(".husky").is_symlink());
}

/// Git obeys more files than those of `.git`: what stands for it, and any folder that looks like it.
#[test]
fn what_makes_git_look_elsewhere_waits() {
    let host = Host::new();
    host.put("old/HEAD", "ref: refs/heads/main\n");
    host.put("sub/f", "f\n");
    let session = session(&host);
    let evil = [
        ".git/commondir",
        ".git/modules/m/commondir",
        ".git/worktrees/w/config.worktree",
        "bare/HEAD",
        "bare/config",
        "bare/hooks/post-update",
        "old/config",
        "sub/.git",
    ];
    for name in evil {
        session.write(name, "EVIL\n");
    }
    for name in ["app/config", "hooks/x", ".git/HEAD", "y/HEAD", "x/.gitkeep"] {
        session.write(name, "GOOD\n");
    }
    let held: Vec<String> = held(&host, &[]);
    let files: Vec<&String> = held.iter().filter(|name| *name != "bare/hooks").collect();
    assert_eq!(files, evil.iter().collect::<Vec<_>>());
    for name in evil {
        assert_eq!(host.read(name), None, "{name}");
    }
    for name in ["app/config", ".git/HEAD", "y/HEAD", "x/.gitkeep"] {
        assert_eq!(host.read(name).unwrap(), "GOOD\n");
    }
}

/// Where commands are looked for need not exist yet.
#[test]
fn a_program_in_a_folder_of_path_that_is_not_there_yet_waits() {
    let host = Host::new();
    let session = session(&host);
    session.write("nb/ls", "EVIL\n");
    session.write("n/ls", "GOOD\n");
    assert_eq!(held(&host, &["nb"]), ["nb/ls"]);
    assert!(host.read("nb/ls").is_none());
    assert_eq!(host.read("n/ls").unwrap(), "GOOD\n");
}

/// `..` after a name means what the name is then: another link can move it out of the tree.
#[test]
fn a_link_that_climbs_behind_another_link_waits() {
    let host = Host::new();
    let session = session(&host);
    fs::create_dir_all(session.upper.join("d/e")).unwrap();
    symlink("..", session.upper.join("d/up")).unwrap();
    symlink(
        "d/up/d/up/d/up/../../../../../../etc/passwd",
        session.upper.join("climb"),
    )
    .unwrap();
    symlink("d/../f", session.upper.join("around")).unwrap();
    symlink("../../f", session.upper.join("d/e/f")).unwrap();
    session.write("f", "f\n");
    assert_eq!(held(&host, &[]), ["around", "climb"]);
    assert!(host.work.join("climb").symlink_metadata().is_err());
    assert_eq!(host.read("d/e/f").unwrap(), "f\n");
}

/// A folder that goes takes what is in it along: each is asked about.
#[test]
fn a_folder_that_goes_takes_nothing_along_that_may_not_go() {
    let host = Host::new();
    for name in [
        "a/keep/hooks/f",
        "hooks/f",
        ".github/workflows/ci.yml",
        "b/c/f",
        "t/Makefile",
        "u/x",
    ] {
        host.put(name, "OLD\n");
    }
    let session = session(&host);
    // `deny` for ${workspace}/hooks/** of the policy, and the built-in question.
    for name in ["hooks", ".github", "b", "t"] {
        session.delete(name);
    }
    session.write("u", "a file now\n");
    let all = became(&host, commit(&host, &[], &[]));
    let expected = [
        (".github", "held"),
        ("b", "committed"),
        ("hooks", "refused"),
        ("t", "held"),
        ("u", "committed"),
    ];
    assert_eq!(all, expected.map(|(n, b)| (n.to_owned(), b.to_owned())));
    assert_eq!(host.read(".github/workflows/ci.yml").unwrap(), "OLD\n");
    assert_eq!(host.read("t/Makefile").unwrap(), "OLD\n");
    assert!(host.read("hooks/f").is_some() && !host.work.join("b").exists());
    assert_eq!(host.read("u").unwrap(), "a file now\n");

    // The report names what the folder is held for.
    let shown = host.call(&["diff"]).code(0).out;
    assert!(
        shown.contains("this is about") && shown.contains("t/Makefile"),
        "{shown}"
    );
    let rest = became(&host, commit(&host, &[], &["--", "t"]));
    assert_eq!(rest, [("t".into(), "committed".into())]);
    assert!(!host.work.join("t").exists());
}

/// A folder that is named narrows the commit; it answers no question about what is in it.
#[test]
fn naming_a_folder_answers_no_question_about_what_it_holds() {
    let host = Host::new();
    let session = session(&host);
    session.write("src/Makefile", "EVIL\n");
    session.write("src/main.rs", "GOOD\n");
    let all = became(&host, commit(&host, &[], &["--", "src"]));
    let expected = [("src/Makefile", "held"), ("src/main.rs", "committed")];
    assert_eq!(all, expected.map(|(n, b)| (n.to_owned(), b.to_owned())));
    assert_eq!(host.read("src/Makefile"), None);
    let all = became(&host, commit(&host, &[], &["--held", "--", "src"]));
    assert_eq!(all, [("src/Makefile".into(), "committed".into())]);
    assert_eq!(host.read("src/Makefile").unwrap(), "EVIL\n");
}

/// One file has the agent's login and the commands of its tool servers: what changed in it decides.
#[test]
fn settings_that_name_other_commands_wait_and_a_login_does_not() {
    let server = |command: &str, login: u8| {
        format!(r#"{{"login":{login},"mcpServers":{{"a":{{"command":"{command}"}}}}}}"#)
    };
    let host = Host::new();
    host.put(".claude.json", &server("old", 1));
    let session = session(&host);
    session.write(".claude.json", &server("old", 2));
    session.write("x/.claude.json", &server("evil", 1));
    assert_eq!(held(&host, &[]), ["x/.claude.json"]);
    assert_eq!(host.read(".claude.json").unwrap(), server("old", 2));
    assert_eq!(host.read("x/.claude.json"), None);
    session.write(".claude.json", &server("evil", 2));
    assert_eq!(held(&host, &[]), [".claude.json", "x/.claude.json"]);
    assert_eq!(host.read(".claude.json").unwrap(), server("old", 2));
}
