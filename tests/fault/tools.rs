//! The host's side of a fault: sessions in the background, signals, small disks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentwall_tests::{World, case::brief};

use crate::kit::{PATIENCE, Said, Verdict, need, session_args, wait, wall};

/// A session in the background; killed when dropped.
#[derive(Debug)]
pub struct Running {
    /// The supervisor.
    pub child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Starts one and waits until its agent has said `word`.
    pub fn start(w: &World, name: &str, script: &str, word: &str) -> Result<Running, String> {
        Running::fed(w, name, script, word, Stdio::null())
    }

    /// The same, with something on its standard input.
    pub fn fed(
        w: &World,
        name: &str,
        script: &str,
        word: &str,
        input: Stdio,
    ) -> Result<Running, String> {
        let file = |kind: &str| {
            let path = w.path("run").join(format!("{name}.{kind}"));
            let file = fs::File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok::<_, String>((path, file))
        };
        let ((out, out_file), (err, err_file)) = (file("out")?, file("err")?);
        let child = wall(w, session_args(w, script))
            .stdin(input)
            .stdout(out_file)
            .stderr(err_file)
            .spawn()
            .map_err(|e| format!("the session: {e}"))?;
        let mut running = Running { child, out, err };
        running.until(word)?;
        Ok(running)
    }

    /// Waits until the agent has said `word`.
    pub fn until(&mut self, word: &str) -> Verdict {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.said().0.contains(word) {
                return Ok(());
            }
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let (out, err) = self.said();
        Err(format!(
            "the session never said '{word}': {}",
            brief(&(err + &out))
        ))
    }

    /// What it said so far: output, errors.
    pub fn said(&self) -> (String, String) {
        let text =
            |p: &Path| String::from_utf8_lossy(&fs::read(p).unwrap_or_default()).into_owned();
        (text(&self.out), text(&self.err))
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<Said, String> {
        let status = wait(&mut self.child).ok_or("the session did not end")?;
        let (out, err) = self.said();
        Ok(Said {
            status,
            out: out.into_bytes(),
            err: err.into_bytes(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The direct children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = |p: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{p}/stat")).ok()?;
        stat.rsplit(')')
            .next()?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|p| parent(*p) == Some(pid))
        .collect()
}

/// Sends a signal.
pub fn signal(pid: u32, name: &str) -> Verdict {
    let sent = Command::new("/bin/kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()
        .map_err(|e| format!("kill: {e}"))?;
    need(sent.success(), format!("kill -{name} {pid} failed"))
}

/// Runs a command of the harness itself.
pub fn host(program: &str, args: &[&str]) -> Verdict {
    let out = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    let err = String::from_utf8_lossy(&out.stderr);
    need(
        out.status.success(),
        format!("{program} {args:?}: {}", brief(&err)),
    )
}

/// Mounts an empty file system over a folder of the world, for this case alone; the user owns it.
pub fn mount(w: &World, kind: &str, options: &str, name: &str) -> Verdict {
    let path = w.path(name);
    let at = path.to_string_lossy();
    host("mount", &["-t", kind, "-o", options, "agentwall-test", &at])?;
    w.own(&path);
    host("chmod", &["700", &at])
}

/// Makes a mount of [`mount`] read-only, or writable again.
pub fn remount(w: &World, how: &str, name: &str) -> Verdict {
    let options = format!("remount,{how}");
    host("mount", &["-o", &options, &w.path(name).to_string_lossy()])
}

/// Removes a tree; overlayfs leaves folders in it that their own owner may not enter.
pub fn remove(path: &Path) -> Verdict {
    let path = path.to_string_lossy();
    host("chmod", &["-R", "u+rwx", &path])?;
    host("rm", &["-r", &path])
}

/// Fills a disk to its last byte with a file, but for `free` bytes.
pub fn fill_disk(file: &Path, free: u64) -> Verdict {
    use std::io::Write as _;
    let mut out = fs::File::create(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let block = [0u8; 4096];
    let mut written = 0;
    while let Ok(n @ 1..) = out.write(&block) {
        written += n as u64;
    }
    out.set_len(written.saturating_sub(free))
        .map_err(|e| format!("{}: {e}", file.display()))
}
