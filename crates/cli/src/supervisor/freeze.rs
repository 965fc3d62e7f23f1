//! Stopping everything behind one wall for a moment, so that its layers can be copied as they are.
//!
//! There is no freezer: an ordinary user has no cgroup of their own on many hosts. So every process
//! below the broker gets SIGSTOP, which none can refuse, through descriptors of processes and not
//! through numbers that may be another's. First the agent's init, so that it does not take this for the
//! agent being stopped by a person; then all others until two looks in a row find none that runs; at
//! last the broker, which acts on their behalf.
//!
//! A process in an uninterruptible wait is not stopped. One that waits for a person's answer stays so
//! and does nothing, since only the broker could go on with it. Any other has a moment to get out of
//! there; if it does not, everything goes on and the caller hears why.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A parent between vfork(2) and its child's execve(2) cannot be stopped; the next attempt finds it
/// elsewhere.
const ATTEMPTS: usize = 4;

/// Processes that are stopped; they go on when this is dropped.
#[derive(Debug, Default)]
pub struct Stopped {
    /// In the order in which they were stopped, with the time of their start.
    held: Vec<(u32, u64, OwnedFd)>,
    broker: Option<OwnedFd>,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // The broker answers, then children before the parents that might take notice.
        for fd in self
            .broker
            .iter()
            .chain(self.held.iter().rev().map(|(.., fd)| fd))
        {
            let _ = pidfd_send_signal(fd, Signal::CONT);
        }
    }
}

/// Why not everything could be stopped. Everything goes on.
#[derive(Debug)]
pub enum FreezeError {
    /// The wall is gone.
    Gone,
    /// A process did not stop.
    Busy {
        /// Its number on the host.
        pid: u32,
        /// Its name, escaped.
        name: String,
    },
    /// It cannot be signalled.
    Signal {
        /// Its number on the host.
        pid: u32,
        /// The system's answer.
        source: rustix::io::Errno,
    },
}

impl std::error::Error for FreezeError {}

impl fmt::Display for FreezeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreezeError::Gone => f.write_str("the session has just ended"),
            FreezeError::Busy { pid, name } => write!(
                f,
                "process {pid} ({name}) of the session cannot be stopped now: it waits in the kernel, \
                 perhaps for a slow disk, or for a child that waits for an answer ('agentwall \
                 pending'); try again later, or when the session has ended"
            ),
            FreezeError::Signal { pid, source } => {
                write!(f, "cannot stop process {pid} of the session: {source}")
            }
        }
    }
}

/// Stops everything below the broker, and the broker. `waiting` tells which processes wait for a
/// person's answer.
pub fn freeze(broker: u32, waiting: impl Fn() -> HashSet<u32>) -> Result<Stopped, FreezeError> {
    let mut last = FreezeError::Gone;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        match attempt_to(broker, &waiting) {
            Err(busy @ FreezeError::Busy { .. }) => last = busy,
            other => return other,
        }
    }
    Err(last)
}

fn attempt_to(broker: u32, waiting: &impl Fn() -> HashSet<u32>) -> Result<Stopped, FreezeError> {
    let end = Instant::now() + PATIENCE;
    let mut stopped = Stopped::default();
    let start = read(broker).ok_or(FreezeError::Gone)?.start;
    let mut asking = waiting();
    let mut settled_before = HashSet::new();
    loop {
        let all = below(broker);
        let Some(init) = all.first() else {
            return Err(FreezeError::Gone);
        };
        asking.extend(waiting());
        let init = (init.pid, init.start);
        let mut settled = HashSet::new();
        let mut busy = None;
        for process in &all {
            let key = (process.pid, process.start);
            // Nothing else before init has stopped.
            if key != init && !settled.contains(&init) {
                break;
            }
            let known = stopped
                .held
                .iter()
                .any(|(pid, start, _)| (*pid, *start) == key);
            if is_settled(process.pid, &asking) {
                settled.insert(key);
            } else if known {
                busy = Some(process.pid);
            } else {
                stopped.stop(process)?;
                busy = Some(process.pid);
            }
        }
        if settled.len() == all.len() && settled == settled_before {
            break;
        }
        settled_before = settled;
        if Instant::now() > end {
            let pid = busy.unwrap_or(init.0);
            return Err(FreezeError::Busy {
                pid,
                name: name(pid),
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let fd = open(broker, start)?.ok_or(FreezeError::Gone)?;
    send(&fd, broker, Signal::STOP)?;
    stopped.broker = Some(fd);
    let calm = || is_settled(broker, &HashSet::new());
    // What the broker had in hand has come back to its caller, which then stops.
    while !calm() || !below(broker).iter().all(|p| is_settled(p.pid, &asking)) {
        if Instant::now() > end + PATIENCE {
            return Err(FreezeError::Busy {
                pid: broker,
                name: name(broker),
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(stopped)
}

impl Stopped {
    fn stop(&mut self, process: &Process) -> Result<(), FreezeError> {
        // One that has ended meanwhile is none.
        if let Some(fd) = open(process.pid, process.start)? {
            send(&fd, process.pid, Signal::STOP)?;
            self.held.push((process.pid, process.start, fd));
        }
        Ok(())
    }
}

/// A descriptor of the process that began at `start`; `None` when it has ended.
fn open(pid: u32, start: u64) -> Result<Option<OwnedFd>, FreezeError> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    match pidfd_open(number, PidfdFlags::empty()) {
        // The number may have gone to another process in between; then the start is another.
        Ok(fd) => Ok(read(pid).filter(|p| p.start == start).map(|_| fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(source) => Err(FreezeError::Signal { pid, source }),
    }
}

fn send(fd: &OwnedFd, pid: u32, signal: Signal) -> Result<(), FreezeError> {
    match pidfd_send_signal(fd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(source) => Err(FreezeError::Signal { pid, source }),
    }
}

/// Whether no thread of a process runs or will run by itself.
fn is_settled(pid: u32, asking: &HashSet<u32>) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    tasks.flatten().all(|task| {
        let text = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((state, ..)) = fields(&text) else {
            return true;
        };
        let tid = task.file_name().to_string_lossy().parse().unwrap_or(0);
        match state {
            'T' | 't' | 'Z' | 'X' => true,
            'D' => asking.contains(&pid) || asking.contains(&tid),
            _ => false,
        }
    })
}

/// A process: number, and when it began (clock ticks since boot).
#[derive(Debug, Clone, Copy)]
struct Process {
    pid: u32,
    parent: u32,
    start: u64,
}

fn read(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, parent, start) = fields(&text)?;
    Some(Process { pid, parent, start })
}

/// State, parent and start of a `stat` line, proc_pid_stat(5). The name before them may hold anything.
fn fields(text: &str) -> Option<(char, u32, u64)> {
    let rest = text.rsplit_once(')')?.1;
    let mut words = rest.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    let parent = words.next()?.parse().ok()?;
    let start = words.nth(17)?.parse().ok()?;
    Some((state, parent, start))
}

/// All descendants of a process, parents first.
fn below(root: u32) -> Vec<Process> {
    let mut children: HashMap<u32, BTreeMap<u32, Process>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    for process in pids.filter_map(read) {
        let of = children.entry(process.parent).or_default();
        of.insert(process.pid, process);
    }
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for (pid, process) in children.remove(&parent).unwrap_or_default() {
            found.push(process);
            parents.push(pid);
        }
    }
    found
}

fn name(pid: u32) -> String {
    let text = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    agentwall_action::escape_bytes(text.trim_ascii_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A "broker" whose first child is the shell `script`.
    fn family(script: &str) -> Child {
        let inner = format!("sh -c '{script}' & wait");
        let mut command = Command::new("sh");
        command.args(["-c", &inner]).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    fn end(mut child: Child) {
        for process in below(child.id()) {
            if let Ok(Some(fd)) = open(process.pid, process.start) {
                let _ = pidfd_send_signal(&fd, Signal::KILL);
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    #[test]
    fn everything_stops_and_goes_on_again_also_what_forks_all_the_time() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("n");
        let script = format!(
            "sleep 100 & while :; do (echo x >> {0}) & true; done",
            file.display()
        );
        let child = family(&script);
        let size = || fs::metadata(&file).map_or(0, |m| m.len());
        while size() < 20 {
            std::thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..3 {
            let stopped = freeze(child.id(), HashSet::new).unwrap();
            let before = size();
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(size(), before, "something ran on");
            assert!(
                below(child.id())
                    .iter()
                    .all(|p| is_settled(p.pid, &HashSet::new()))
            );
            drop(stopped);
            while size() == before {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        end(child);
    }

    #[test]
    fn what_was_stopped_already_stays_so() {
        let child = family("sleep 100 & kill -STOP $!; wait");
        let state = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            fields(&text).map(|f| f.0)
        };
        let sleeper = loop {
            let all = below(child.id());
            let found = all.iter().find(|p| state(p.pid) == Some('T'));
            if let Some(found) = found {
                break found.pid;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        drop(freeze(child.id(), HashSet::new).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(state(sleeper), Some('T'));
        end(child);
    }

    #[test]
    fn a_wall_that_is_gone_is_told() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let error = freeze(pid, HashSet::new).unwrap_err();
        assert!(matches!(error, FreezeError::Gone), "{error}");
    }

    #[test]
    fn a_name_with_parentheses_is_read() {
        let mut text = "12 (a) b (c) S 7 ".to_owned();
        text += &(1..=17)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        text += " 4711 0 0";
        assert_eq!(fields(&text), Some(('S', 7, 4711)));
    }
}
