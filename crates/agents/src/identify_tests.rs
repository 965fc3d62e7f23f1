use super::*;
use crate::{Descriptor, Target, built_in};

fn process(pid: u32, parent: u32, exe: &str, args: &[&str]) -> Process {
    Process {
        pid,
        parent,
        started: u64::from(pid),
        exe: Some(exe.into()),
        args: args.iter().map(|a| a.as_bytes().to_vec()).collect(),
        cwd: Some(b"/w".to_vec()),
        env: Some(Vec::new()),
        ..Process::default()
    }
}

const NODE: &str = "/usr/bin/node";
const CLAUDE: &str = "/usr/lib/node_modules/@anthropic-ai/claude-code/cli.js";
const WRAPPER: &str = "/usr/lib/node_modules/@openai/codex/bin/codex.js";
const NATIVE: &str = "/p/node_modules/@openai/codex-linux-x64/vendor/x/bin/codex";

fn piped(mut process: Process) -> Process {
    let pipe = |number| Descriptor {
        number,
        target: Target::Pipe(u64::from(number)),
    };
    process.descriptors = Some(vec![pipe(0), pipe(1)]);
    process
}

fn find(processes: &[Process]) -> Identification {
    identify(&built_in().unwrap(), processes)
}

#[test]
fn a_tree_belongs_to_its_topmost_process() {
    // Given out of order, as the list of a reader may be.
    let found = find(&[
        process(40, 30, "/usr/bin/cargo", &["cargo", "test"]),
        process(30, 20, "/bin/bash", &["bash", "-c", "cargo test"]),
        process(20, 10, NODE, &["node", CLAUDE]),
        process(10, 1, "/bin/bash", &["-bash"]),
        process(1, 0, "/sbin/init", &["init"]),
    ]);
    assert_eq!(found.found.len(), 1);
    let claude = &found.found[0];
    assert_eq!((claude.id.as_str(), claude.root), ("claude-code", 20));
    assert_eq!(claude.members, [20, 30, 40]);
    assert_eq!(
        claude.reasons[0].evidence[0].value,
        "npm:@anthropic-ai/claude-code"
    );
    assert!(found.of(10).is_none());
    assert_eq!(found.of(40).unwrap().root, 20);
}

#[test]
fn a_wrapper_and_its_program_are_one_and_an_agent_in_an_agent_is_two() {
    let found = find(&[
        process(20, 1, NODE, &["node", CLAUDE]),
        process(30, 20, "/bin/bash", &["bash", "-c", "codex exec"]),
        process(40, 30, NODE, &["node", WRAPPER, "exec"]),
        process(50, 40, NATIVE, &["codex", "exec"]),
        process(60, 50, "/bin/sh", &["sh", "-c", "ls"]),
    ]);
    let roots: Vec<(&str, u32, Option<u32>, usize)> = found
        .found
        .iter()
        .map(|f| (f.id.as_str(), f.root, f.within, f.members.len()))
        .collect();
    assert_eq!(
        roots,
        [("claude-code", 20, None, 2), ("codex", 40, Some(20), 3)]
    );
    assert_eq!(found.of(60).unwrap().id, "codex");
}

#[test]
fn what_an_agent_talks_to_on_pipes_is_a_server_and_its_shell_is_not() {
    let found = find(&[
        process(20, 1, NODE, &["node", CLAUDE]),
        piped(process(30, 20, NODE, &["node", "/w/tools.js"])),
        piped(process(31, 20, "/bin/bash", &["bash", "-c", "node x.js"])),
        piped(process(32, 31, NODE, &["node", "/w/x.js"])),
        // The same without an agent above it.
        piped(process(40, 1, NODE, &["node", "/w/tools.js"])),
    ]);
    let servers: Vec<u32> = found
        .found
        .iter()
        .filter(|f| f.kind == Kind::McpServer)
        .map(|f| f.root)
        .collect();
    assert_eq!(servers, [30]);
    assert_eq!(found.of(30).unwrap().within, Some(20));
    assert_eq!(found.of(32).unwrap().id, "claude-code");
    assert!(found.of(40).is_none());
}

#[test]
fn what_lost_its_agent_is_told_by_its_environment() {
    let marked = |mut p: Process| {
        p.env = Some(vec![b"CLAUDECODE".to_vec(), b"PATH".to_vec()]);
        p
    };
    let found = find(&[
        process(1, 0, "/sbin/init", &["init"]),
        marked(process(
            20,
            1,
            "/usr/bin/python3",
            &["python3", "-m", "http.server"],
        )),
        marked(process(30, 20, "/bin/cat", &["cat"])),
        process(40, 1, "/usr/bin/python3", &["python3", "-m", "http.server"]),
    ]);
    assert_eq!(found.found.len(), 1);
    let left = &found.found[0];
    assert!(left.left_behind && left.kind == Kind::Helper);
    assert_eq!(
        (left.id.as_str(), left.members.as_slice()),
        ("claude-code", [20, 30].as_slice())
    );
    assert_eq!(left.reasons[0].matcher, 0);
}

#[test]
fn circles_and_borrowed_numbers_end() {
    let mut younger = process(5, 9, "/bin/a", &["a"]);
    younger.started = 1;
    let circle = [
        process(2, 3, "/bin/a", &["a"]),
        process(3, 2, "/bin/a", &["a"]),
        process(4, 4, "/bin/a", &["a"]),
        younger,
        // Its number was the parent's of a process that is older than it.
        process(9, 1, NODE, &["node", CLAUDE]),
    ];
    let order = from_the_top(&circle);
    assert_eq!(order.len(), 5);
    let found = find(&circle);
    assert_eq!(found.found[0].members, [9]);
    assert!(found.of(5).is_none());
}
