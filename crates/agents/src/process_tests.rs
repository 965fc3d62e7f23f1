use super::*;

fn called(exe: &str, args: &[&str]) -> Process {
    Process {
        exe: Some(exe.into()),
        args: args.iter().map(|a| a.as_bytes().to_vec()).collect(),
        cwd: Some(b"/w".to_vec()),
        ..Process::default()
    }
}

fn script(exe: &str, args: &[&str]) -> Option<String> {
    let script = called(exe, args).script()?;
    Some(String::from_utf8(script).unwrap())
}

#[test]
fn the_script_of_an_interpreter_is_found_behind_its_options() {
    let node = "/usr/bin/node";
    for (args, wanted) in [
        (vec!["node", "/x/cli.js", "run"], Some("/x/cli.js")),
        (
            vec!["node", "--no-warnings", "-r", "ts", "./a/../cli.js"],
            Some("/w/cli.js"),
        ),
        (vec!["node", "--", "-odd.js"], Some("/w/-odd.js")),
        (vec!["node", "-e", "code", "/x/cli.js"], None),
        (vec!["node"], None),
    ] {
        assert_eq!(script(node, &args).as_deref(), wanted, "{args:?}");
    }
    assert_eq!(
        script("/opt/deno", &["deno", "run", "-A", "m.ts"]).as_deref(),
        Some("/w/m.ts")
    );
    assert_eq!(script("/usr/bin/git", &["git", "/x/cli.js"]), None);
    let module = called(
        "/usr/bin/python3.12",
        &["python", "-W", "ignore", "-m", "aider.main", "chat"],
    );
    assert_eq!(module.invocation().module, Some(b"aider.main".as_slice()));
    assert_eq!(module.invocation().subcommand, Some(b"chat".as_slice()));
    let serve = called("/usr/bin/ollama", &["ollama", "-v", "serve"]);
    assert_eq!(serve.invocation().subcommand, Some(b"serve".as_slice()));
}

#[test]
fn packages_are_told_from_paths() {
    let names = |exe: &str, args: &[&str]| -> Vec<String> {
        let all = called(exe, args).packages();
        all.iter().map(ToString::to_string).collect()
    };
    let node = "/usr/bin/node";
    assert_eq!(
        names(node, &["node", "/p/node_modules/@scope/pkg/cli.js"]),
        ["npm:@scope/pkg"]
    );
    // The innermost one, also in pnpm's store.
    assert_eq!(
        names(
            node,
            &["node", "/g/.pnpm/a@1/node_modules/b/node_modules/c/x.js"]
        ),
        ["npm:c"]
    );
    for none in [
        "/p/node_modules/.bin/claude",
        "/p/node_modules",
        "/p/node_modules/@a",
        "/p/x.js",
    ] {
        assert_eq!(names(node, &["node", none]), [""; 0], "{none}");
    }
    assert_eq!(
        names(
            "/u/.local/share/uv/python/cpython-3.12/bin/python3.12",
            &[
                "/u/.local/share/uv/tools/aider-chat/bin/python",
                "/u/.local/bin/aider"
            ]
        ),
        ["python:aider-chat"]
    );
    assert_eq!(
        names(
            "/usr/bin/python3",
            &["python3", "/u/pipx/venvs/aider-chat/bin/aider"]
        ),
        ["python:aider-chat"]
    );
    assert_eq!(
        names("/usr/bin/python3", &["python3", "-m", "a.b"]),
        ["python:a"]
    );
    assert_eq!(
        names("/usr/bin/python3", &["python3", "-m", "a\u{1b}"]),
        [""; 0]
    );
}

#[test]
fn shells_with_a_command_line_are_told_from_others() {
    for (exe, args, wanted) in [
        ("/bin/bash", vec!["bash", "-c", "ls"], true),
        ("/bin/bash", vec!["bash", "-lc", "ls"], true),
        ("/bin/bash", vec!["bash", "--norc", "-c", "ls"], true),
        ("/bin/bash", vec!["bash", "-e", "x.sh", "-c"], false),
        ("/bin/bash", vec!["-bash"], false),
        ("/bin/bash", vec!["bash", "-"], false),
        ("/usr/bin/git", vec!["git", "-c", "x=y"], false),
    ] {
        assert_eq!(called(exe, &args).is_command_line(), wanted, "{args:?}");
    }
}

#[test]
fn standard_input_and_output_have_a_word() {
    let with = |targets: [Target; 2]| Process {
        descriptors: Some(
            (0..)
                .zip(targets)
                .map(|(number, target)| Descriptor { number, target })
                .collect(),
        ),
        ..Process::default()
    };
    let pts = || Target::Path(b"/dev/pts/3".to_vec());
    assert_eq!(
        with([Target::Pipe(1), Target::Socket(2)]).stdio(),
        Some("piped")
    );
    assert_eq!(with([pts(), pts()]).stdio(), Some("terminal"));
    assert_eq!(with([pts(), Target::Pipe(1)]).stdio(), Some("other"));
    assert_eq!(Process::default().stdio(), None);
}
