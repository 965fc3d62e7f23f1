//! Many lists of operations in one session, each in a folder of its own; the same natively; the first
//! difference of each.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agentwall_tests::{Case, Who, World, case::brief, world::Shared};

use crate::{
    look::{Looked, look},
    operations::ORIGINAL,
};

/// Everything may be read and started; the workspace is a copy.
const POLICY: &str = r#"agentwall: 1
default: deny
rules:
  - { id: own-processes, priority: 10, action: [process.exec, process.signal], effect: allow }
  - { id: commit, priority: 20, action: file.commit, resource: "${workspace}/**", effect: allow }
  - { id: copies, priority: 30, action: "file.*", resource: ["${workspace}/**", "/tmp/**"], effect: isolate }
  - { id: devices, priority: 40, action: [file.read, file.write, device.open], resource: ["/dev", "/dev/{null,zero,tty}"], effect: allow }
  - { id: readable, priority: 50, action: [file.read, file.exec], effect: allow }
"#;

/// How long one session, or one command, may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// What both sides work with.
pub struct Stage {
    world: World,
    player: PathBuf,
}

impl Stage {
    /// Compiles the player and makes the original tree.
    pub fn new(shared: &Shared, who: Who) -> Result<Self, String> {
        let mut case = Case::new("model", "issue 4, model test");
        case.policy = Some(POLICY.to_owned());
        let world = World::new(shared, &case, who)?;
        let player = shared.root.join("bin/play");
        if !player.exists() {
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/model/play.c");
            let done = Command::new("gcc")
                .args(["-O1", "-w", "-o"])
                .arg(&player)
                .arg(source)
                .output()
                .map_err(|e| format!("gcc: {e}"))?;
            if !done.status.success() {
                return Err(format!("gcc: {}", String::from_utf8_lossy(&done.stderr)));
            }
        }
        world.put("original.ops", ORIGINAL);
        let stage = Stage { world, player };
        let said = stage.outside(&format!(
            "rm -rf original; mkdir original; cd original; {play} ../original.ops; {play} --age",
            play = stage.player.display()
        ))?;
        let failed: Vec<&str> = said.lines().filter(|l| *l != "0").collect();
        if failed.is_empty() {
            Ok(stage)
        } else {
            Err(format!("the original tree cannot be made: {failed:?}"))
        }
    }

    /// Removes everything.
    pub fn clean(&self) {
        self.world.clean();
    }

    /// Runs a shell script natively as the user of the case, in the world's folder, without the
    /// capabilities that an agent does not have either.
    fn outside(&self, script: &str) -> Result<String, String> {
        let mut cmd = self.world.as_user("/usr/bin/setpriv");
        cmd.args(["--inh-caps=-all", "--no-new-privs"]);
        if self.world.who == Who::Root {
            cmd.arg("--bounding-set=-all");
        }
        let done = cmd
            .args(["/bin/sh", "-ec", script])
            .current_dir(&self.world.dir)
            .output()
            .map_err(|e| format!("setpriv: {e}"))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(format!("{} of '{}': {said}", done.status, brief(script)));
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// A folder of ours as if it had never been used. The superuser removes what modes protect.
    fn empty(&self, name: &str) -> Result<(), String> {
        let path = self.world.path(name);
        let _ = Command::new("/bin/chmod")
            .args(["-R", "u+rwx"])
            .arg(&path)
            .output();
        let _ = Command::new("/bin/rm").arg("-rf").arg(&path).output();
        fs::create_dir_all(&path).map_err(|e| format!("{name}: {e}"))?;
        self.world.own(&path);
        Ok(())
    }

    /// Plays every list behind the wall and natively. For each: what differs first.
    pub fn play(&self, lists: &[Vec<String>]) -> Result<Vec<Option<String>>, String> {
        for folder in ["work", "native", "lists"] {
            self.empty(folder)?;
        }
        for (i, list) in lists.iter().enumerate() {
            self.world
                .put(&format!("lists/{i}"), &(list.join("\n") + "\n"));
        }
        let n = lists.len();
        self.outside(&format!(
            "for i in $(seq 0 {}); do cp -a original work/$i; cp -a original native/$i; done; sync .",
            n - 1
        ))?;
        let begun = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(|e| e.to_string())?;
        let untouched: Vec<Looked> = (0..n)
            .map(|i| look(&self.world.path(&format!("native/{i}"))))
            .collect::<Result<_, _>>()?;
        let inside = self.session(n)?;
        self.commit()?;
        for (i, answers) in inside.iter().enumerate() {
            self.world.put(&format!("lists/{i}.answers"), answers);
        }
        let script = self.script(n, "native", ".answers");
        let outside = sections(&self.outside(&script)?, n)?;
        let original = look(&self.world.path("original"))?;
        let mut found = Vec::new();
        for (i, list) in lists.iter().enumerate() {
            let answers = first_answer(list, &inside[i], &outside[i]);
            let native = look(&self.world.path(&format!("native/{i}")))?;
            let here = look(&self.world.path(&format!("work/{i}")))?;
            found.push(answers.or_else(|| {
                here.differs_from(&native, &untouched[i], &original, begun.as_secs() as i64)
            }));
        }
        Ok(found)
    }

    fn script(&self, n: usize, folder: &str, answers: &str) -> String {
        let (play, dir) = (self.player.display(), self.world.dir.display());
        let beside = match answers {
            "" => String::new(),
            suffix => format!(" {dir}/lists/$i{suffix}"),
        };
        format!(
            "for i in $(seq 0 {}); do echo \"== $i\"; cd {dir}/{folder}/$i; {play} {dir}/lists/$i{beside} || echo \"status $?\"; done",
            n - 1
        )
    }

    /// One session of the wall; what the player answered in each folder.
    fn session(&self, n: usize) -> Result<Vec<String>, String> {
        let case = Case::new("model", "");
        let argv = self
            .world
            .session_argv(&case, &self.script(n, "work", ""), true);
        let said = self.world.session(&argv, PATIENCE)?;
        if said.timed_out || said.status != 0 {
            return Err(format!(
                "the session: status {}: {}",
                said.status,
                brief(&said.stderr)
            ));
        }
        sections(&said.stdout, n)
    }

    /// Commits everything; nothing may be held, refused, or left over.
    fn commit(&self) -> Result<(), String> {
        let (status, out, err) = self.world.wall(&["commit", "--yes", "--json"]);
        if status != 0 {
            return Err(format!(
                "commit: status {status}: {}{}",
                brief(&err),
                brief(&out)
            ));
        }
        let (status, out, err) = self.world.wall(&["diff", "--json"]);
        let left: serde_json::Value = serde_json::from_str(&out)
            .map_err(|e| format!("diff: status {status}: {e}: {}", brief(&err)))?;
        match left["changes"].as_array() {
            Some(changes) if changes.is_empty() => Ok(()),
            _ => Err(format!("not everything was committed: {}", brief(&out))),
        }
    }
}

/// What was printed between the marks.
fn sections(text: &str, n: usize) -> Result<Vec<String>, String> {
    let parts: Vec<String> = text
        .split("== ")
        .skip(1)
        .map(|part| part.split_once('\n').map_or("", |p| p.1).to_owned())
        .collect();
    if parts.len() == n {
        Ok(parts)
    } else {
        Err(format!(
            "{} folders of {n} answered: {}",
            parts.len(),
            brief(text)
        ))
    }
}

/// The first operation that was answered differently, or was not done at all.
fn first_answer(list: &[String], inside: &str, outside: &str) -> Option<String> {
    let (mut here, mut there) = (inside.lines(), outside.lines());
    for op in list {
        let pair = (here.next(), there.next());
        match pair {
            (Some(a), Some(b)) if a == b && a.parse::<i32>().is_ok() => {}
            _ => {
                return Some(format!(
                    "'{op}' was answered {pair:?} (behind the wall, natively)"
                ));
            }
        }
    }
    let more = (here.next(), there.next());
    (more != (None, None)).then(|| format!("more answers than operations: {more:?}"))
}
