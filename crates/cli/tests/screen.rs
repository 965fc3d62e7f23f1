//! The review on a real terminal: keys in, effect on the originals and on the terminal out.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    num::NonZero,
    os::fd::AsFd as _,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use agentwall_cow::{Layer, Limits, take};
use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use support::{Host, Made};

const ID: &str = "20261121-0259-k3f9";
const BASE: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
const AGENT: &str = "one\n2\n3\n4\n5\n6\n7\n8\n9\n10\neleven\n12\n";
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// The command on a terminal of its own.
struct Tty {
    master: File,
    slave: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    size: (u16, u16),
}

impl Tty {
    fn new(host: &Host, args: &[&str], (rows, columns): (u16, u16)) -> Tty {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOCTTY.bits().cast_signed())
            .open(name)
            .unwrap();
        let plain = host.command(&[]);
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", env!("CARGO_BIN_EXE_agentwall")])
            .args(args)
            .env_clear()
            .current_dir(&host.work);
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap());
        }
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = command
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid(1) is installed");
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (master.try_clone().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Tty {
            master,
            slave,
            child,
            seen,
            size: (rows, columns),
        }
    }

    /// What a person sees, the screen that is shown and nothing of another.
    fn screen(&self) -> String {
        let some = |n| NonZero::new(n).unwrap();
        let mut terminal = vt100::Parser::new(some(self.size.0), some(self.size.1), 0);
        terminal.process(&self.seen.lock().unwrap());
        terminal.screen().contents()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    fn wait(&self, what: impl Fn(&Tty) -> bool, name: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        while !what(self) {
            assert!(
                Instant::now() < end,
                "{name} did not come: {}",
                self.screen()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Until this is on the screen.
    fn shows(&self, text: &str) {
        self.wait(|tty| tty.screen().contains(text), text);
    }

    /// Until this was written.
    fn wrote(&self, text: &str, times: usize) {
        self.wait(|tty| tty.text().matches(text).count() >= times, text);
    }

    fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn ends(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end: {}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_sane(&self) -> bool {
        let modes = tcgetattr(self.slave.as_fd()).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The state of the process, as `proc_pid_stat(5)` tells it.
    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after = stat.rsplit_once(") ").unwrap().1;
        after.chars().next().unwrap()
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session that changed two places of `text`, made `new`, and deleted `gone`.
fn host() -> (Host, Made) {
    let host = Host::new();
    host.put("text", BASE);
    host.put("gone", "bye\n");
    let session = host.session(ID, "agent");
    session.write("text", AGENT);
    session.write("new", "\x1b]0;title\x07\u{202e}evil\n");
    session.delete("gone");
    (host, session)
}

#[test]
fn a_hunk_a_deletion_and_a_rejection() {
    let (host, session) = host();
    for size in [(24, 80), (8, 40)] {
        let mut tty = Tty::new(&host, &["review"], size);
        tty.shows("gone");
        tty.types("q");
        assert_eq!(tty.ends().code(), Some(0));
        tty.shows("nothing was done");
        assert!(tty.is_sane());
    }
    let mut tty = Tty::new(&host, &["review"], (24, 80));
    tty.shows("gone");
    // The deletion, the second hunk of the text, and not the addition.
    tty.types("a/text\r");
    tty.shows("hunk 1 of 2");
    tty.types("\tn ");
    tty.shows("1 in part");
    tty.types("\t/new\r");
    tty.types("rc");
    tty.shows("Commit 2 of 3");
    assert_eq!(
        host.read("text").unwrap(),
        BASE,
        "nothing before the answer"
    );
    tty.types("y");
    tty.shows("Drop 1?");
    tty.types("y");
    assert_eq!(tty.ends().code(), Some(0), "{}", tty.text());
    tty.shows("1 of 2 hunks; the rest stays in the session");
    tty.shows("1 change dropped");
    assert!(tty.is_sane());
    let seen = tty.text();
    assert!(
        !seen.contains("\x1b]0;") && !seen.contains('\u{202e}'),
        "{seen}"
    );
    assert_eq!(host.read("gone"), None);
    assert_eq!(host.read("new"), None);
    assert_eq!(host.read("text").unwrap(), BASE.replace("11", "eleven"));
    assert!(!session.upper.join("new").exists());

    // The rest is a change of what is there now, and no conflict.
    let json = host.call(&["diff", "--json"]).code(0).json();
    let changes = json["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{json}");
    assert_eq!(changes[0]["group"], "committed", "{json}");
    assert!(host.call(&["sessions"]).out.contains("partly"));
    host.call(&["ledger", "verify"]).code(0);
    host.call(&["undo"]).code(0);
    assert_eq!(host.read("text").unwrap(), BASE);
    assert_eq!(host.read("gone").unwrap(), "bye\n");
    host.call(&["commit"]).code(0);
    assert_eq!(host.read("text").unwrap(), AGENT);
}

#[test]
fn what_both_changed_is_merged_by_a_key() {
    let host = Host::new();
    host.put("text", BASE);
    std::thread::sleep(Duration::from_millis(30));
    for args in [&["init", "-q"][..], &["add", "."]] {
        let status = Command::new("git")
            .args(args)
            .current_dir(&host.work)
            .env("HOME", &host.home)
            .status()
            .unwrap();
        assert!(status.success());
    }
    let session = host.session(ID, "agent");
    let text = fs::read_to_string(session.dir.join("session.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layer: Layer = serde_json::from_value(record["layers"][0].clone()).unwrap();
    take(&layer, Limits::default()).unwrap().unwrap();
    session.write("text", AGENT);
    host.put("text", &BASE.replace('6', "six"));
    let mut tty = Tty::new(&host, &["review"], (30, 120));
    tty.shows("in conflict");
    tty.types("m");
    tty.shows("1 merged");
    tty.types("c");
    tty.shows("Commit 1 of 1");
    tty.types("y");
    assert_eq!(tty.ends().code(), Some(0), "{}", tty.text());
    assert_eq!(host.read("text").unwrap(), AGENT.replace('6', "six"));
}

#[test]
fn a_signal_ends_it_with_nothing_done_and_the_terminal_restored() {
    let (host, _session) = host();
    for signal in [Signal::TERM, Signal::HUP, Signal::QUIT, Signal::INT] {
        let mut tty = Tty::new(&host, &["review"], (24, 80));
        tty.shows("gone");
        tty.types("A");
        tty.shows("3 accepted");
        tty.signal(signal);
        let status = tty.ends();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status:?}");
        assert!(tty.is_sane());
        tty.wrote(LEAVE, 1);
        assert_eq!(host.read("text").unwrap(), BASE);
    }
    assert!(host.read("gone").is_some() && host.read("new").is_none());
}

#[test]
fn it_waits_on_ctrl_z_and_goes_on_with_its_marks() {
    let (host, _session) = host();
    for by_key in [true, false] {
        let mut tty = Tty::new(&host, &["review"], (24, 80));
        tty.shows("gone");
        tty.types("A");
        tty.shows("3 accepted");
        match by_key {
            true => tty.types("\x1a"),
            false => tty.signal(Signal::TSTP),
        }
        tty.wrote(LEAVE, 1);
        let end = Instant::now() + Duration::from_secs(30);
        while tty.state() != 'T' {
            assert!(Instant::now() < end, "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(tty.is_sane(), "the terminal is the shell's meanwhile");
        tty.signal(Signal::CONT);
        tty.wrote(ENTER, 2);
        tty.shows("3 accepted");
        assert!(!tty.is_sane());
        tty.types("Q");
        assert_eq!(tty.ends().code(), Some(0));
        assert!(tty.is_sane());
    }
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let (host, _session) = host();
    let said = host.call(&["review"]).code(2);
    for text in [
        "needs a terminal",
        "agentwall diff",
        "agentwall commit -- PATHS",
    ] {
        assert!(said.err.contains(text), "{text}: {}", said.err);
    }
    let mut tty = Tty::new(&host, &["review", "nobody"], (24, 80));
    assert_ne!(tty.ends().code(), Some(0));
    assert!(!tty.text().contains(ENTER));
}
