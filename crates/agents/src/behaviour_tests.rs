use super::*;
use crate::{Descriptor, built_in, identify};

struct Scene(Vec<Process>);

impl Scene {
    fn new() -> Scene {
        let mut scene = Scene(Vec::new());
        scene.add(1, 0, "/sbin/init", &["init"]);
        scene
    }

    fn add(&mut self, pid: u32, parent: u32, exe: &str, args: &[&str]) -> &mut Process {
        self.0.push(Process {
            pid,
            parent,
            started: u64::from(pid),
            exe: Some(exe.into()),
            args: args.iter().map(|a| a.as_bytes().to_vec()).collect(),
            env: Some(vec![b"PATH".to_vec()]),
            descriptors: Some(vec![terminal(0), terminal(1)]),
            ..Process::default()
        });
        self.0.last_mut().unwrap()
    }

    fn suspects(&self) -> Vec<Suspect> {
        suspects(&self.0, &identify(&built_in().unwrap(), &self.0))
    }

    #[track_caller]
    fn nobody(&self) {
        assert_eq!(self.suspects(), []);
    }
}

fn terminal(number: u32) -> Descriptor {
    Descriptor {
        number,
        target: Target::Path(b"/dev/pts/0".to_vec()),
    }
}

fn pipe(number: u32, inode: u64) -> Descriptor {
    Descriptor {
        number,
        target: Target::Pipe(inode),
    }
}

fn key(process: &mut Process, name: &str) {
    process.env.get_or_insert_default().push(name.into());
}

fn https(process: &mut Process) {
    process.connections.push("203.0.113.5:443".parse().unwrap());
}

const SHELL_ARGS: &[&str] = &["bash", "-c", "ls"];

/// A script in Python that asks a model and runs what it says.
fn home_made(scene: &mut Scene) {
    scene.add(10, 1, "/bin/bash", &["-bash"]);
    let agent = scene.add(20, 10, "/usr/bin/python3", &["python3", "/w/agent.py"]);
    key(agent, "OPENAI_API_KEY");
    https(agent);
    scene.add(30, 20, "/bin/bash", SHELL_ARGS).descriptors = Some(vec![pipe(0, 7), pipe(1, 8)]);
}

#[test]
fn ordinary_work_stays_below_the_threshold() {
    const { assert!(MAX_ORDINARY < THRESHOLD) };
    // What speaks for a model alone is not enough either: without a shell or tools nothing is done.
    const { assert!(OWN_KEY + AGENT_FILE < THRESHOLD) };
}

#[test]
fn a_home_made_agent_is_reported_with_its_reasons() {
    let mut scene = Scene::new();
    home_made(&mut scene);
    let found = scene.suspects();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].pid, found[0].points), (20, 65));
    let facts: Vec<&str> = found[0].findings.iter().map(|f| f.fact.as_str()).collect();
    assert!(facts[0].contains("OPENAI_API_KEY"), "{facts:?}");
    assert!(facts.iter().any(|f| f.contains("port 443")), "{facts:?}");
    assert_eq!(found[0].findings.iter().map(|f| f.points).sum::<u32>(), 65);
}

#[test]
fn one_that_uses_tools_and_a_local_model_is_reported_without_a_key() {
    let mut scene = Scene::new();
    scene
        .add(5, 1, "/usr/local/bin/ollama", &["ollama", "serve"])
        .listening = vec![11434];
    scene.add(20, 1, "/opt/own/agent", &["agent"]).connections =
        vec!["127.0.0.1:11434".parse().unwrap()];
    scene.add(30, 20, "/usr/local/bin/mcp-server-git", &["mcp-server-git"]);
    let found = scene.suspects();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].pid, found[0].points),
        (20, TOOL_SERVER + MODEL_SERVER)
    );
    assert!(found[0].findings[1].fact.contains("Ollama, port 11434"));
}

#[test]
fn what_is_known_or_below_a_suspect_is_not_reported_again() {
    let mut scene = Scene::new();
    let claude = "/usr/lib/node_modules/@anthropic-ai/claude-code/cli.js";
    let known = scene.add(20, 1, "/usr/bin/node", &["node", claude]);
    key(known, "ANTHROPIC_API_KEY");
    https(known);
    for pid in [30, 31] {
        scene.add(pid, 20, "/bin/bash", SHELL_ARGS);
    }
    scene.nobody();
    let mut scene = Scene::new();
    home_made(&mut scene);
    // Its own tool does the same.
    let inner = scene.add(40, 30, "/usr/bin/python3", &["python3", "/w/tool.py"]);
    key(inner, "OPENAI_API_KEY");
    https(inner);
    for pid in [50, 51] {
        scene.add(pid, 40, "/bin/bash", SHELL_ARGS).descriptors = Some(vec![pipe(1, 9)]);
    }
    assert_eq!(
        scene.suspects().iter().map(|s| s.pid).collect::<Vec<_>>(),
        [20]
    );
}

#[test]
fn make_with_an_exported_key_is_not_reported() {
    let mut scene = Scene::new();
    key(scene.add(10, 1, "/bin/bash", &["-bash"]), "OPENAI_API_KEY");
    let make = scene.add(20, 10, "/usr/bin/make", &["make", "-j8"]);
    key(make, "OPENAI_API_KEY");
    https(make);
    for pid in 30..38 {
        let shell = scene.add(pid, 20, "/bin/sh", &["sh", "-c", "cc x.c"]);
        key(shell, "OPENAI_API_KEY");
        shell.descriptors = Some(vec![terminal(0), pipe(1, u64::from(pid))]);
    }
    scene.nobody();
}

#[test]
fn a_language_server_is_not_reported() {
    let mut scene = Scene::new();
    scene.add(10, 1, "/usr/share/code/code", &["code"]);
    let server = scene.add(
        20,
        10,
        "/usr/bin/node",
        &["node", "/x/tsserver.js", "--stdio"],
    );
    key(server, "ANTHROPIC_API_KEY");
    https(server);
    server.descriptors = Some(vec![pipe(0, 1), pipe(1, 2)]);
    scene.nobody();
}

#[test]
fn a_ci_runner_is_not_reported() {
    let mut scene = Scene::new();
    let runner = scene.add(10, 1, "/usr/bin/node", &["node", "/runner/index.js"]);
    https(runner);
    for pid in [20, 21] {
        scene
            .add(pid, 10, "/bin/bash", &["bash", "-lc", "make test"])
            .descriptors = Some(vec![pipe(0, 1), pipe(1, 2)]);
    }
    // Everything that is ordinary, at once.
    let known = identify(&built_in().unwrap(), &scene.0);
    assert!(known.found.is_empty());
    scene.nobody();
}

#[test]
fn shells_and_a_web_server_are_not_reported() {
    let mut scene = Scene::new();
    key(scene.add(10, 1, "/usr/sbin/sshd", &["sshd"]), "X");
    key(scene.add(11, 10, "/bin/bash", &["-bash"]), "OPENAI_API_KEY");
    for pid in [12, 13] {
        key(
            scene.add(pid, 11, "/bin/bash", SHELL_ARGS),
            "OPENAI_API_KEY",
        );
    }
    let web = scene.add(20, 1, "/usr/bin/python3", &["python3", "-m", "gunicorn"]);
    key(web, "OPENAI_API_KEY");
    https(web);
    web.listening = vec![8000];
    for pid in 30..34 {
        let worker = scene.add(pid, 20, "/usr/bin/python3", &["python3", "-m", "gunicorn"]);
        key(worker, "OPENAI_API_KEY");
        https(worker);
    }
    scene.nobody();
}

#[test]
fn a_pipe_that_is_only_passed_on_is_none_of_its_own() {
    let mut scene = Scene::new();
    home_made(&mut scene);
    let out = |p: &mut Process| p.descriptors = Some(vec![terminal(0), pipe(1, 8)]);
    // Both write to the same place, as under `agent.py | tee log`.
    scene.0.iter_mut().filter(|p| p.pid >= 20).for_each(out);
    assert_eq!(scene.suspects(), []);
}

#[test]
fn the_findings_of_one_process_are_those_it_is_reported_with() {
    let mut scene = Scene::new();
    home_made(&mut scene);
    scene.0[2].descriptors = Some(vec![Descriptor {
        number: 3,
        target: Target::Path(b"/w/AGENTS.md".to_vec()),
    }]);
    let known = identify(&built_in().unwrap(), &scene.0);
    let suspect = scene.suspects().remove(0);
    assert!(
        suspect
            .findings
            .iter()
            .any(|f| f.fact == "has /w/AGENTS.md open")
    );
    assert_eq!(findings(&scene.0, &known, 20), suspect.findings);
    assert_eq!(findings(&scene.0, &known, 10), []);
    assert_eq!(findings(&scene.0, &known, 99), []);
}
