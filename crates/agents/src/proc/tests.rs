use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::*;
use crate::{Target, built_in, identify};

/// A folder that looks like `/proc`, and one that is the root of its processes.
struct Fake {
    tmp: tempfile::TempDir,
}

impl Fake {
    fn new() -> Fake {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("proc")).unwrap();
        fs::create_dir(tmp.path().join("root")).unwrap();
        fs::write(tmp.path().join("proc/stat"), "cpu 1\nbtime 1700000000\n").unwrap();
        Fake { tmp }
    }

    fn add(&self, pid: u32, parent: u32, exe: &str, args: &[&str]) -> PathBuf {
        let folder = self.tmp.path().join(format!("proc/{pid}"));
        fs::create_dir_all(folder.join("fd")).unwrap();
        fs::create_dir(folder.join("ns")).unwrap();
        fs::create_dir(folder.join("net")).unwrap();
        let stat = format!(
            "{pid} (x) S {parent} 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 {}00 1",
            pid
        );
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("status"), "Uid:\t1000\t1000\t1000\t1000\n").unwrap();
        fs::write(folder.join("cmdline"), args.join("\0") + "\0").unwrap();
        fs::write(
            folder.join("environ"),
            "PATH=/bin\0ANTHROPIC_API_KEY=very-secret\0",
        )
        .unwrap();
        symlink(exe, folder.join("exe")).unwrap();
        symlink("/w", folder.join("cwd")).unwrap();
        symlink(self.root(), folder.join("root")).unwrap();
        folder
    }

    fn root(&self) -> PathBuf {
        self.tmp.path().join("root")
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, to: &str) {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    fn shot(&self) -> Snapshot {
        ProcFs::at(self.tmp.path().join("proc")).snapshot().unwrap()
    }

    fn names(&self, pid: u32) -> Vec<String> {
        let shot = self.shot();
        let process = shot.processes.iter().find(|p| p.pid == pid).unwrap();
        process.packages().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn everything_that_is_wanted_is_read_and_no_value() {
    let fake = Fake::new();
    let folder = fake.add(20, 1, "/usr/bin/prog (deleted)", &["prog", "x"]);
    fs::write(folder.join("cgroup"), "0::/user.slice\n").unwrap();
    symlink("pipe:[7]", folder.join("fd/0")).unwrap();
    symlink("socket:[56]", folder.join("fd/3")).unwrap();
    symlink("/w/AGENTS.md", folder.join("fd/4")).unwrap();
    symlink("pid:[99]", folder.join("ns/pid")).unwrap();
    symlink("net:[98]", folder.join("ns/net")).unwrap();
    let tcp = "header\n 1: 0200000A:9C40 057100CB:01BB 01 0:0 0:0 0 1000 0 56 2\n";
    fs::write(folder.join("net/tcp"), tcp).unwrap();
    let shot = fake.shot();
    assert_eq!(
        (shot.processes.len(), shot.closed, shot.vanished),
        (1, 0, 0)
    );
    let process = &shot.processes[0];
    assert_eq!(
        (process.pid, process.parent, process.uid),
        (20, 1, Some(1000))
    );
    assert_eq!(process.exe.as_deref(), Some(b"/usr/bin/prog".as_slice()));
    assert_eq!(process.args, [b"prog".to_vec(), b"x".to_vec()]);
    assert_eq!(
        process.env,
        Some(vec![b"PATH".to_vec(), b"ANTHROPIC_API_KEY".to_vec()])
    );
    assert!(!format!("{shot:?}").contains("very-secret"));
    assert_eq!(process.pid_namespace, Some(99));
    assert_eq!(process.cgroup.as_deref(), Some(b"/user.slice".as_slice()));
    let targets: Vec<&Target> = process
        .descriptors
        .iter()
        .flatten()
        .map(|d| &d.target)
        .collect();
    assert_eq!(
        targets,
        [
            &Target::Pipe(7),
            &Target::Socket(56),
            &Target::Path(b"/w/AGENTS.md".to_vec())
        ]
    );
    if cfg!(target_endian = "little") {
        assert_eq!(process.connections, ["203.0.113.5:443".parse().unwrap()]);
    }
    assert_eq!(shot.started_ms(process), 1_700_000_020_000);
}

#[test]
fn a_package_is_found_behind_a_link_and_above_a_script() {
    let fake = Fake::new();
    let node = "/usr/bin/node";
    fake.file("/app/node_modules/@anthropic-ai/claude-code/cli.js", "");
    fake.link(
        "/usr/local/bin/claude",
        "../../../app/node_modules/@anthropic-ai/claude-code/cli.js",
    );
    fake.add(20, 1, node, &["node", "/usr/local/bin/claude"]);
    assert_eq!(fake.names(20), ["npm:@anthropic-ai/claude-code"]);
    // No node_modules in the path: a checkout, or a distribution's folder.
    fake.file("/opt/gemini/bundle/gemini.js", "");
    fake.file(
        "/opt/gemini/package.json",
        r#"{"name":"@google/gemini-cli"}"#,
    );
    fake.add(21, 1, node, &["node", "/opt/gemini/bundle/gemini.js"]);
    assert_eq!(fake.names(21), ["npm:@google/gemini-cli"]);
    fake.file(
        "/v/bin/aider",
        "#!/v/bin/python\nimport sys\nfrom aider.main import main\n",
    );
    fake.add(22, 1, "/usr/bin/python3.12", &["python", "/v/bin/aider"]);
    assert_eq!(fake.names(22), ["python:aider"]);
    let shot = fake.shot();
    let found = identify(&built_in().unwrap(), &shot.processes);
    let ids: Vec<(&str, u32)> = found
        .found
        .iter()
        .map(|f| (f.id.as_str(), f.root))
        .collect();
    assert_eq!(
        ids,
        [("claude-code", 20), ("gemini-cli", 21), ("aider", 22)]
    );
}

#[test]
fn files_outside_the_root_of_a_process_are_not_read() {
    let fake = Fake::new();
    let outside = fake.tmp.path().join("package.json");
    fs::write(&outside, r#"{"name":"outside"}"#).unwrap();
    fake.link("/a/package.json", outside.to_str().unwrap());
    fake.link("/b/package.json", "../../package.json");
    fs::create_dir_all(fake.root().join("c")).unwrap();
    let fifo = fake.root().join("c/package.json");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    fake.link("/d/package.json", "/proc/self/environ");
    for (pid, folder) in (20..).zip(["a", "b", "c", "d"]) {
        let script = format!("/{folder}/x.js");
        fake.file(&script, "");
        fake.add(pid, 1, "/usr/bin/node", &["node", &script]);
        assert_eq!(fake.names(pid), [""; 0], "{folder}");
    }
    // The neighbour is read.
    fake.file("/e/package.json", r#"{"name":"inside"}"#);
    fake.file("/e/x.js", "");
    fake.add(30, 1, "/usr/bin/node", &["node", "/e/x.js"]);
    assert_eq!(fake.names(30), ["npm:inside"]);
}

#[test]
fn what_ended_or_is_the_kernels_is_left_out() {
    let fake = Fake::new();
    fake.add(20, 1, "/bin/a", &["a"]);
    let zombie = fake.add(21, 1, "/bin/a", &["a"]);
    let stat = |folder: &Path| fs::read_to_string(folder.join("stat")).unwrap();
    fs::write(zombie.join("stat"), stat(&zombie).replace(") S ", ") Z ")).unwrap();
    let kernel = fake.add(22, 2, "/bin/a", &[]);
    fs::write(
        kernel.join("stat"),
        stat(&kernel).replace("-1 0 ", "-1 2097152 "),
    )
    .unwrap();
    fs::remove_file(fake.add(23, 1, "/bin/a", &["a"]).join("stat")).unwrap();
    let other = fake.add(24, 1, "/bin/a", &["a"]);
    // Its text is that of another process.
    fs::write(other.join("stat"), stat(&other).replacen("24", "25", 1)).unwrap();
    fs::create_dir(fake.tmp.path().join("proc/self")).unwrap();
    fs::create_dir(fake.tmp.path().join("proc/07")).unwrap();
    let shot = fake.shot();
    assert_eq!(
        shot.processes.iter().map(|p| p.pid).collect::<Vec<_>>(),
        [20]
    );
    assert_eq!(shot.vanished, 2);
}

#[test]
fn the_host_itself_can_be_read() {
    let shot = ProcFs::default().snapshot().unwrap();
    let own = shot
        .processes
        .iter()
        .find(|p| p.pid == std::process::id())
        .unwrap();
    let exe = std::env::current_exe().unwrap();
    assert_eq!(own.exe.as_deref(), Some(exe.as_os_str().as_encoded_bytes()));
    let path = b"PATH".to_vec();
    assert_eq!(
        own.env.as_ref().unwrap().contains(&path),
        std::env::var_os("PATH").is_some()
    );
    assert!(own.descriptors.as_ref().unwrap().len() >= 3);
    assert!(shot.boot > 1_500_000_000);
    let missing = ProcFs::at("/nowhere").snapshot().unwrap_err().to_string();
    assert!(missing.contains("/proc must be mounted"), "{missing}");
}
