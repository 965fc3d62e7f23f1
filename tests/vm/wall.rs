//! The wall that the cases share. Loading its programs takes longer here than most cases, so they are loaded once,
//! and one daemon serves them all, with no more capabilities than its unit leaves it.
//!
//! A case begins with [`Daemon::begin`]: the daemon reads the case's own configuration and policy. What a case does to
//! the daemon (kill it, start it as an audit, unload) is undone by the next one's beginning. Ledger, counters and questions
//! go on over all cases; what is looked for in them names the case's folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use agentwall_tests::said::{Said, Verdict, need, run};

use crate::case::command;

/// Where the wall is pinned.
pub const PINS: &str = "/sys/fs/bpf/agentwall";
/// What the daemon that is served says.
const LOG: &str = "/var/tmp/agentwall-vm-daemon.log";
/// How long something may take that happens by itself; nothing here waits for it unless it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// A daemon that serves, and with which options it was started.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    options: Vec<String>,
}

static SERVING: Mutex<Option<Serving>> = Mutex::new(None);

fn serving() -> std::sync::MutexGuard<'static, Option<Serving>> {
    SERVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The daemon, with the configuration of one case.
#[derive(Debug)]
pub struct Daemon<'f> {
    folder: &'f Path,
}

impl<'f> Daemon<'f> {
    /// The wall stands, the daemon serves, and the entry `builder` is the policy of [`write_policy`] without more rules.
    /// The folder has `secret` (refused), `asked` (asked), `free` (may be read) and `work` (everything goes).
    pub fn begin(folder: &'f Path) -> Result<Daemon<'f>, String> {
        Daemon::begin_with(folder, &[], binary())
    }

    /// The same with options of `daemon run`, and another program of it.
    pub fn begin_with(
        folder: &'f Path,
        options: &[&str],
        binary: PathBuf,
    ) -> Result<Daemon<'f>, String> {
        make_folder(folder)?;
        write_policy(folder, "")?;
        let config = format!(
            "agentwall-daemon: 1\nring_bytes: 65536\ngovern:\n  - {{name: builder, exe: '{}/agent-*', policy: \
             /etc/agentwall/vm.yaml}}\n",
            folder.display()
        );
        fs::write("/etc/agentwall/daemon.yaml", config).map_err(say("daemon.yaml"))?;
        let mut serving = serving();
        let as_wanted = serving.as_mut().is_some_and(|s| {
            s.options == options
                && matches!(s.child.try_wait(), Ok(None))
                && is_same(&s.child, &binary)
        });
        if as_wanted {
            done(&["daemon", "reload"])?.ended(0)?;
        } else {
            end(serving.take());
            *serving = Some(start(options, &binary)?);
        }
        Ok(Daemon { folder })
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        serving().as_ref().map_or(0, |s| s.child.id())
    }

    /// Nobody is told: the process is gone.
    pub fn kill(&self) -> Verdict {
        if let Some(mut former) = serving().take() {
            former.child.kill().map_err(say("kill"))?;
            former.child.wait().map_err(say("wait"))?;
        }
        Ok(())
    }

    /// Another one.
    pub fn again(&self) -> Verdict {
        *serving() = Some(start(&[], &binary())?);
        Ok(())
    }

    /// The wall is taken away.
    pub fn unload(&self) -> Verdict {
        done(&["daemon", "stop", "--unload", "-y"])?.ended(0)?;
        end(serving().take());
        Ok(())
    }

    /// A shell text, governed, to its end.
    pub fn governed(&self, text: &str) -> Result<Said, String> {
        run(&mut self.command(text))
    }

    /// A shell text, governed, as a command.
    pub fn command(&self, text: &str) -> Command {
        let mut cmd = agentwall(&[
            "daemon", "exec", "--policy", "builder", "--", "sh", "-c", text,
        ]);
        cmd.current_dir(self.folder);
        cmd
    }

    /// A shell text, governed, that goes on; killed when it is dropped.
    pub fn spawn(&self, text: &str) -> Result<Governed, String> {
        let child = self
            .command(text)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(say("governed"))?;
        Ok(Governed(Some(child)))
    }

    /// Waits until the session is there that began with this process.
    pub fn wait_for_session(&self, pid: u32) -> Verdict {
        wait_for("the session", || {
            status().is_ok_and(|(_, s)| {
                s["sessions"]
                    .as_array()
                    .is_some_and(|l| l.iter().any(|s| s["pid"] == pid))
            })
        })
    }

    /// Another policy, for those who are governed already, too: the one of [`write_policy`] with these rules.
    pub fn swap(&self, more: &str) -> Verdict {
        write_policy(self.folder, more)?;
        done(&["daemon", "reload"])?.ended(0).map(drop)
    }

    /// What the daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(LOG).unwrap_or_default()
    }

    /// A path in the case's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// How many lines of the ledger name the case's folder and have this text.
    pub fn recorded(&self, text: &str) -> Result<usize, String> {
        let folder = self.folder.display().to_string();
        let entries = ledger()?;
        let ours = |l: &&str| l.contains(&folder) && l.contains(text);
        Ok(entries.lines().filter(ours).count())
    }
}

/// A governed process that goes on.
#[derive(Debug)]
pub struct Governed(Option<Child>);

impl Governed {
    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Waits for its end; what it wrote on its standard output.
    pub fn out(mut self) -> Result<String, String> {
        let child = self.0.take().ok_or("it has ended")?;
        let said = child.wait_with_output().map_err(say("governed"))?;
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }
}

impl Drop for Governed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ends the daemon when the suite ends; the wall is left standing.
pub fn leave() {
    end(serving().take());
}

/// The program under test.
pub fn binary() -> PathBuf {
    std::env::var_os("AGENTWALL_BIN").map_or_else(|| "agentwall".into(), PathBuf::from)
}

/// A command line of it.
pub fn agentwall(args: &[&str]) -> Command {
    let mut cmd = command(binary());
    cmd.args(args);
    cmd
}

/// Runs one to its end.
pub fn done(args: &[&str]) -> Result<Said, String> {
    run(&mut agentwall(args))
}

/// What went wrong with something.
pub fn say(what: &str) -> impl Fn(std::io::Error) -> String {
    move |e| format!("{what}: {e}")
}

/// Waits until `is_so`, which is looked at now and then.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> Verdict {
    let begin = Instant::now();
    while !is_so() {
        need(begin.elapsed() < PATIENCE, format!("{what} did not happen"))?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Verdict {
    fs::create_dir_all("/etc/agentwall").map_err(say("/etc/agentwall"))?;
    // Where others can write, nothing is believed that lies there.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(say("folder"))?;
    fs::create_dir_all(folder.join("work")).map_err(say("work"))?;
    fs::set_permissions(folder.join("work"), fs::Permissions::from_mode(0o777))
        .map_err(say("work"))?;
    for name in ["secret", "asked", "free"] {
        fs::write(folder.join(name), format!("{name}\n")).map_err(say(name))?;
    }
    Ok(())
}

/// Writes the policy of the entry `builder`, with `more` rules, as items of the list.
pub fn write_policy(folder: &Path, more: &str) -> Verdict {
    let at = folder.display();
    let text = format!(
        "agentwall: 1\ndefault: deny\nrules:\n  \
         - {{id: see, priority: 5000, action: [file.read, file.exec, process.exec], resource: '/**', effect: allow}}\n  \
         - {{id: work, action: file.*, resource: '{at}/work/**', effect: allow}}\n  \
         - {{id: secret, action: file.read, resource: '{at}/secret', effect: deny, reason: it is secret}}\n  \
         - {{id: asked, action: file.read, resource: '{at}/asked', effect: ask}}\n{more}"
    );
    fs::write("/etc/agentwall/vm.yaml", text).map_err(say("vm.yaml"))
}

/// The capabilities that the unit leaves to the daemon, as setpriv(1) wants them.
pub fn capabilities() -> Result<&'static str, String> {
    static NAMES: OnceLock<Result<String, String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let unit = done(&["daemon", "install", "--print"])?.out();
        let named = unit
            .lines()
            .find_map(|l| l.strip_prefix("CapabilityBoundingSet="));
        let names = named
            .unwrap_or_default()
            .to_lowercase()
            .replace("cap_", "+")
            .replace(' ', ",");
        need(names.contains("+bpf") && !names.contains("module"), &names)?;
        Ok(names)
    });
    names.as_deref().map_err(Clone::clone)
}

/// Starts the daemon as its unit does, and waits until it answers.
pub fn start(options: &[&str], binary: &Path) -> Result<Serving, String> {
    let log = fs::File::create(LOG).map_err(say(LOG))?;
    let bounds = format!("-all,{}", capabilities()?);
    let mut child = command("setpriv")
        .args(["--bounding-set", &bounds, "--no-new-privs", "--"])
        .arg(binary)
        .args(["daemon", "run"])
        .args(options)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(say("daemon"))?;
    let read = || fs::read_to_string(LOG).unwrap_or_default();
    let waited = wait_for("the start of the daemon", || {
        read().contains("is served") || child.try_wait().is_ok_and(|s| s.is_some())
    });
    let options = options.iter().map(|o| (*o).to_owned()).collect();
    let begun = Serving { child, options };
    match waited {
        Ok(()) if read().contains("is served") => Ok(begun),
        _ => {
            end(Some(begun));
            Err(format!("the daemon does not start: {}", read()))
        }
    }
}

fn is_same(child: &Child, binary: &Path) -> bool {
    let runs = fs::read_link(format!("/proc/{}/exe", child.id()));
    runs.is_ok_and(|r| binary.canonicalize().is_ok_and(|b| b == r))
}

/// Ends a daemon as a service manager does.
fn end(daemon: Option<Serving>) {
    let Some(mut daemon) = daemon else { return };
    let pid = daemon.child.id().to_string();
    let _ = command("kill").arg(pid).stderr(Stdio::null()).status();
    let ended = wait_for("the end of the daemon", || {
        daemon.child.try_wait().is_ok_and(|s| s.is_some())
    });
    if ended.is_err() {
        let _ = daemon.child.kill();
    }
    let _ = daemon.child.wait();
}

/// What `daemon status` says, and its exit status.
pub fn status() -> Result<(i32, serde_json::Value), String> {
    let said = done(&["daemon", "status", "--json"])?;
    let value = serde_json::from_slice(&said.out).map_err(|e| format!("{e}: {}", said.brief()))?;
    Ok((said.status, value))
}

/// One of the programs' counters.
pub fn counted(name: &str) -> Result<u64, String> {
    let (_, told) = status()?;
    told["counters"][name]
        .as_u64()
        .ok_or_else(|| format!("no counter {name}: {told}"))
}

/// The lines of the daemon's ledger, of all cases.
pub fn ledger() -> Result<String, String> {
    let said =
        run(agentwall(&["ledger", "show", "--json"]).env("AGENTWALL_STATE", "/var/lib/agentwall"))?;
    said.ended(0)?;
    Ok(said.out())
}

/// The question that waits about something in the case's folder.
pub fn pending(folder: &Path) -> Result<Option<String>, String> {
    let asks = done(&["pending", "--json"])?.json()?;
    let asks = asks.as_array().map(Vec::as_slice).unwrap_or_default();
    let folder = folder.display().to_string();
    let ours = asks.iter().find(|a| a.to_string().contains(&folder));
    Ok(ours.and_then(|a| a["id"].as_str()).map(str::to_owned))
}
