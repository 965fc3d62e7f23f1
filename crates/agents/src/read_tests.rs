use agentwall_policy::Layer;

use super::*;

const GOOD: &str = "agentwall-agents: 1\nversion: 3\nsignatures:\n  - id: a\n    name: A\n    vendor: V\n    \
     homepage: https://a.example\n    kind: agent\n    any:\n      - basename: a\n    match:\n      - exe: /bin/a\n    \
     not_match:\n      - exe: /bin/b\n";

fn read(text: &str) -> Result<Signatures, LoadError> {
    load(&[Source::new("a.yaml", text, Layer::User)])
}

fn error(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

#[test]
fn the_built_in_data_load_and_pass_their_tests() {
    let all = crate::built_in().unwrap_or_else(|e| panic!("{e}"));
    let report = all.run_tests();
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(report.run > 80, "{}", report.run);
    for id in [
        "claude-code",
        "codex",
        "gemini-cli",
        "aider",
        "goose",
        "mcp-server",
        "ollama",
    ] {
        assert!(all.get(id).is_some(), "{id}");
    }
}

#[test]
fn a_file_is_read_and_its_tests_can_fail() {
    let all = read(GOOD).unwrap();
    assert_eq!((all.version, all.list().len()), (3, 1));
    assert!(all.run_tests().passed());
    let broken = read(&GOOD.replace("basename: a", "basename: z")).unwrap();
    let report = broken.run_tests();
    assert_eq!((report.run, report.failures.len()), (2, 1));
    assert_eq!(
        report.failures[0].to_string(),
        "a.yaml:12: the process should be a, and is unknown"
    );
    let greedy = read(&GOOD.replace("basename: a", "basename: \"*\"")).unwrap();
    assert!(!greedy.run_tests().failures[0].expected);
    // A signature that stands above and claims the same process is found by the test of the lower one.
    let twin = GOOD
        .split_once("signatures:\n")
        .unwrap()
        .1
        .replace("id: a", "id: twin");
    let both = read(&format!("{GOOD}{twin}")).unwrap();
    let failure = both.run_tests().failures[0].clone();
    assert_eq!(
        (failure.signature.as_str(), failure.found.as_deref()),
        ("twin", Some("a"))
    );
}

#[test]
fn errors_say_where_what_and_what_instead() {
    for (from, to, wanted) in [
        (
            "basename: a",
            "basenam: a",
            vec!["a.yaml:10:9", "did you mean 'basename'?"],
        ),
        (
            "kind: agent",
            "kind: agnt",
            vec!["unknown kind 'agnt'", "did you mean 'agent'?"],
        ),
        ("    vendor: V\n", "", vec!["a signature needs 'vendor'"]),
        (
            "basename: a",
            "exe: bin/a",
            vec!["begins with '/' or '**/'", "^^^^^"],
        ),
        (
            "basename: a",
            "package: left-pad",
            vec!["begins with 'npm:' or 'python:'"],
        ),
        (
            "basename: a",
            "stdio: pipe",
            vec!["'piped', 'terminal' or 'other'"],
        ),
        (
            "basename: a",
            "parent: claude",
            vec!["a kind, ':' and an id", "agent:*"],
        ),
        (
            "basename: a",
            "basename: \"[\"",
            vec!["a.yaml:10", "basename"],
        ),
        ("- basename: a", "- {}", vec!["would match every process"]),
        ("id: a", "id: A b", vec!["lower-case letters"]),
        ("version: 3", "version: 0", vec!["whole number from 1"]),
        ("https://a", "http://a", vec!["address with https"]),
        (
            "- exe: /bin/b",
            "- {}",
            vec!["needs something to be known by"],
        ),
        (
            "agentwall-agents: 1",
            "agentwall-agents: 2",
            vec!["version of the form"],
        ),
        ("exe: /bin/b", "exe: b", vec!["absolute path"]),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from}");
        let said = error(&text);
        for wanted in wanted {
            assert!(said.contains(wanted), "{to}: {said}");
        }
        assert!(said.contains("the signature file was not loaded"), "{said}");
    }
    assert!(error("").contains("begin with 'agentwall-agents: 1'"));
    let twice = format!("{GOOD}{}", GOOD.split_once("signatures:\n").unwrap().1);
    assert!(
        error(&twice).contains("already used at a.yaml:4"),
        "{}",
        error(&twice)
    );
}

#[test]
fn what_patterns_expand_to_is_bounded() {
    // 16 alternatives of some 4000 steps each.
    let wide = format!("\"{}{}\"", "{a,b,c,d}".repeat(2), "x".repeat(4000));
    let rows = format!("basename: [{}]", vec![wide; 200].join(", "));
    let said = error(&GOOD.replace("basename: a", &rows));
    assert!(said.contains("expand to more than 8388608 steps"), "{said}");
}
