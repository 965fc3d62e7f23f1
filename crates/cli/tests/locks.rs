//! Who holds a session's lock, and when: a session that is being made, runs or ends is nobody else's, so
//! that no other command works on what is half done or on a record that is about to change.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs::{self, File, TryLockError},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use rustix::fs::inotify;
use serde_json::Value;
use support::{Host, POLICY, wall::Wall};

/// Looks, again and again, at the sessions of a host while something makes one.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<String>)>,
}

impl Watch {
    fn of(host: &Host) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let (end, dir) = (Arc::clone(&over), host.state.join("sessions"));
        let thread = std::thread::spawn(move || {
            let (mut seen, mut free) = (0, Vec::new());
            while !end.load(Ordering::SeqCst) {
                for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                    let dir = entry.path();
                    // Unfinished before and after the look at the lock: unfinished at the look.
                    if unfinished(&dir) {
                        let is_free = is_free(&dir);
                        if unfinished(&dir) {
                            seen += 1;
                            free.extend(is_free.then(|| dir.display().to_string()));
                        }
                    }
                }
            }
            (seen, free)
        });
        Watch { over, thread }
    }

    /// Fails unless a session was seen that was not finished, and each time its lock was held.
    fn was_always_locked(self) {
        self.over.store(true, Ordering::SeqCst);
        let (seen, free) = self.thread.join().unwrap();
        assert!(seen > 0, "no session was seen while it was being made");
        assert_eq!(free.len(), 0, "of {seen} looks: {:?}", free.first());
    }
}

fn unfinished(dir: &Path) -> bool {
    fs::read(dir.join("session.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        .is_some_and(|record| record["ended_ms"].is_null())
}

fn is_free(dir: &Path) -> bool {
    match File::open(dir.join("lock")) {
        Ok(lock) => !matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => true,
    }
}

/// How often a file is opened from now on (inotify(7)).
struct Opened(OwnedFd);

impl Opened {
    fn watch(file: &Path) -> Opened {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&fd, file, inotify::WatchFlags::OPEN).unwrap();
        Opened(fd)
    }

    fn times(&self) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut opened = 0;
        while let Ok(event) = events.next() {
            opened += usize::from(event.events().contains(inotify::ReadFlags::OPEN));
        }
        opened
    }
}

/// Fills a folder with this many small files.
fn many(dir: &Path, files: usize) {
    fs::create_dir_all(dir).unwrap();
    for n in 0..files {
        fs::write(dir.join(n.to_string()), n.to_string()).unwrap();
    }
}

#[test]
fn a_session_that_is_being_imported_is_locked() {
    let (from, to) = (Host::new(), Host::new());
    let session = from.session("20261121-0259-k3f9", "agent");
    many(&session.upper.join("new"), 500);
    let file = from.tmp.path().join("layer.tar");
    let file = file.to_str().unwrap();
    from.call(&["export", "k3f9", "-o", file]).code(0);
    let config = to.home.join(".config/agentwall");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("policy.yaml"), POLICY).unwrap();
    let watch = Watch::of(&to);
    to.call(&["import", file, "--any-key"]).code(0);
    watch.was_always_locked();
    // Then it is free.
    to.call(&["discard", "-y"]).code(0);
}

#[test]
fn a_session_that_begins_with_a_copy_is_locked_while_it_is_copied() {
    let wall = Wall::new();
    let made = "mkdir new; i=0; while test $i -lt 500; do echo $i > new/$i; i=$((i+1)); done";
    wall.run(&["--keep"], made).code(0);
    let id = wall.id();
    let watch = Watch::of(&wall.host);
    let said = wall.run(&["--keep", "--from", &id], "cat new/499").code(0);
    watch.was_always_locked();
    assert_eq!(said.out, "499\n");
}

#[test]
fn a_run_keeps_its_lock_until_its_end_is_over() {
    let wall = Wall::new();
    let host = &wall.host;
    for ending in ["--keep", "--commit", "--discard", "--ephemeral"] {
        let _ = fs::remove_file(host.home.join("stop"));
        let script = "echo one > made; echo READY; until test -e $HOME/stop; do sleep 0.02; done";
        let running = wall.start(&[ending], script);
        let dir = host.state.join("sessions").join(wall.id());
        // Nobody else looks at it: whoever opens the lock now is the run itself, which has let go of
        // it in between.
        let opened = Opened::watch(&dir.join("lock"));
        fs::write(host.home.join("stop"), "").unwrap();
        assert_eq!(running.end(), 0, "{ending}");
        assert_eq!(opened.times(), 0, "{ending}");
        assert_eq!(dir.exists(), ending != "--ephemeral");
        assert_eq!(host.read("made").is_some(), ending == "--commit");
        let _ = fs::remove_file(host.work.join("made"));
    }
}

#[test]
fn whoever_waits_for_the_end_of_a_run_finds_what_it_ended_with() {
    let wall = Wall::new();
    let host = &wall.host;
    let script = "echo one > first; echo READY; until test -e $HOME/stop; do sleep 0.02; done";
    let running = wall.start(&["--commit"], script);
    let id = wall.id();
    let (on, stop) = (["--on", &id, "--commit"], host.home.join("stop"));
    let others: Vec<_> = (0..2)
        .map(|n| {
            let mut command = wall.command(&on, &format!("cat first; echo two > other-{n}"));
            std::thread::spawn(move || {
                // It waits for a second only; the run may take longer to end.
                let mut tries = (0..60).map(|_| support::said(&mut command));
                tries.find(|said| !said.err.contains("is running"))
            })
        })
        .collect();
    fs::write(stop, "").unwrap();
    assert_eq!(running.end(), 0);
    for other in others {
        let said = other.join().unwrap().unwrap().code(0);
        assert_eq!(said.out, "one\n");
    }
    assert_eq!(host.read("first").unwrap(), "one\n");
    assert_eq!(host.read("other-0").unwrap(), "two\n");
    assert_eq!(host.read("other-1").unwrap(), "two\n");
    assert_eq!(wall.changes(&id), []);
    host.call(&["ledger", "verify"]).code(0);
}
