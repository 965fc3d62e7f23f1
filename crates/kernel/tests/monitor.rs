//! The monitor on the kernel of this machine: what it tells of governed processes, what it does not see, and that
//! nothing is refused.
//!
//!     cargo test -p agentwall-kernel --test monitor [NAME …]
//!
//! Needs root. Where programs may not be loaded every case is counted as skipped, with the kernel's reason. Each
//! case loads a monitor of its own, which is gone with it.

use std::{
    cell::RefCell,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use agentwall_action::{Effect, Facts, Subject, Verb};
use agentwall_kernel::{
    Options, Programs, Wall,
    wire::{Event, Unseen, Why},
};
use agentwall_policy::{Compiled, Layer, Source, Variables, load};

/// Names and functions; a case that panics failed.
const CASES: &[(&str, fn())] = &[
    ("what_is_done_is_told", what_is_done_is_told),
    ("descendants_are_followed", descendants_are_followed),
    ("others_are_not_told_of", others_are_not_told_of),
    ("names_are_those_of_objects", names_are_those_of_objects),
    ("long_names_are_whole", long_names_are_whole),
    ("addresses_are_told", addresses_are_told),
    ("what_is_handed_over_is_told", what_is_handed_over_is_told),
    ("what_is_not_seen_is_said", what_is_not_seen_is_said),
    ("losses_are_counted", losses_are_counted),
    ("another_policy_takes_over", another_policy_takes_over),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let cases = CASES
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str())));
    // A kernel that may not be asked is no failure; programs that it does not take are.
    let refused = match Wall::load(&options()) {
        Err(e) if e.is_about_the_hooks() => Some(e.to_string()),
        _ => None,
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, case) in cases {
        if let Some(why) = refused.as_deref().and_then(|e| e.lines().next()) {
            println!("skip({why}) {name}");
            skipped += 1;
        } else if catch_unwind(AssertUnwindSafe(case)).is_ok() {
            println!("ok {name}");
            passed += 1;
        } else {
            println!("FAIL {name}");
            failed += 1;
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}

fn options() -> Options {
    Options {
        programs: Programs::Monitor,
        ..Options::default()
    }
}

const VIEW: u32 = 3;
const SESSION: u64 = 77;

/// A monitor, and a folder in which everything is denied but the folder `free`.
struct Watch {
    wall: Wall,
    folder: tempfile::TempDir,
}

impl Watch {
    fn new() -> Watch {
        Watch::with(&options())
    }

    fn with(options: &Options) -> Watch {
        let wall = Wall::load(options).expect("it loaded before");
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("free")).expect("a folder");
        fs::write(folder.path().join("secret"), "s").expect("a file");
        let watch = Watch { wall, folder };
        watch.install(1, "");
        watch
    }

    fn root(&self) -> String {
        let real = self.folder.path().canonicalize().expect("it is there");
        real.to_str().expect("a name of ours").to_owned()
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.root())
    }

    /// Everything may be read and started outside of the folder.
    fn install(&self, generation: u64, more: &str) {
        let text = format!(
            "agentwall: 1\ndefault: deny\nrules:\n  - {{id: see, priority: 5000, action: [file.read, \
             file.exec, process.exec, device.open], resource: '/**', effect: allow}}\n  - {{id: free, priority: 5, action: \
             'file.*', resource: '{0}/free/**', effect: allow}}\n  - {{id: own, priority: 10, action: \
             ['file.*', process.exec], resource: '{0}/**', effect: deny}}\n{more}",
            self.root()
        );
        let source = Source::new("p", text, Layer::User);
        let policy = load(&[source], &Variables::default()).expect("a policy");
        let compiled = Compiled::new(Arc::new(policy), &Subject::agent("a"), &Facts::default());
        let tables = self.wall.tables().expect("a map");
        tables
            .install(VIEW, &compiled.table(), generation, 0)
            .expect("a table");
    }

    /// Runs a command in the folder, governed from before its first instruction; what it said, and what was told.
    fn run(&self, command: &mut Command) -> (String, Vec<Event>) {
        let (ready, mut is_ready) = std::io::pipe().expect("a pipe");
        let (mut told_pid, tells_pid) = std::io::pipe().expect("a pipe");
        let wait = move || {
            (&tells_pid).write_all(&std::process::id().to_ne_bytes())?;
            (&ready).read_exact(&mut [0])
        };
        command
            .current_dir(self.root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: between fork and exec it reads and writes pipes.
        unsafe { command.pre_exec(wait) };
        std::thread::scope(|s| {
            let running = s.spawn(|| command.output().expect("it starts"));
            let mut pid = [0; 4];
            told_pid.read_exact(&mut pid).expect("it tells its number");
            let pid = u32::from_ne_bytes(pid);
            (self.wall.adopt(pid, VIEW, SESSION)).expect("it is there");
            is_ready.write_all(b"x").expect("it waits");
            let out = running.join().expect("no panic");
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            (said, self.events())
        })
    }

    fn sh(&self, text: &str) -> (String, Vec<Event>) {
        self.run(Command::new("/bin/sh").args(["-c", text]))
    }

    fn events(&self) -> Vec<Event> {
        let came = RefCell::new(Vec::new());
        let reader = (self.wall)
            .events(|e| came.borrow_mut().push(e.expect("a whole record")))
            .expect("a reader");
        reader
            .poll(Duration::from_millis(100))
            .expect("it is there");
        drop(reader);
        came.into_inner()
    }
}

/// The events of a verb, by the end of their names.
fn names(events: &[Event], verb: Verb) -> Vec<String> {
    events
        .iter()
        .filter(|e| e.verb == Some(verb))
        .filter_map(|e| e.text.as_deref())
        .map(|t| String::from_utf8_lossy(t).into_owned())
        .collect()
}

fn what_is_done_is_told() {
    let w = Watch::new();
    fs::write(w.path("victim"), "v").expect("a file");
    fs::write(w.path("script"), "#!/bin/sh\nexit 0\n").expect("a file");
    let (said, events) = w.sh(
        "cat secret; echo x > new; rm victim; mkdir d; rmdir d; mv new newer; ln -s a l; ln newer second; \
         chmod 755 script; ./script; truncate -s 0 newer; touch free/f; rm free/f",
    );
    // It happened.
    assert_eq!(said, "s");
    let there = |name: &str| Path::new(&w.path(name)).exists();
    assert!(there("newer") && there("second") && !there("victim") && !there("new"));
    for (verb, name) in [
        (Verb::FileRead, "secret"),
        (Verb::FileCreate, "new"),
        (Verb::FileDelete, "victim"),
        (Verb::FileCreate, "d"),
        (Verb::FileDelete, "d"),
        (Verb::FileRename, "new"),
        (Verb::FileRead, "new"),
        (Verb::FileCreate, "newer"),
        (Verb::FileCreate, "l"),
        (Verb::FileCreate, "second"),
        (Verb::FileWrite, "newer"),
        (Verb::FileChmod, "script"),
        (Verb::ProcessExec, "script"),
    ] {
        let told = names(&events, verb);
        assert!(told.contains(&w.path(name)), "{verb} {name}: {told:?}");
    }
    for event in &events {
        assert!(event.audit, "{event:?}");
        assert_eq!((event.view, event.session), (VIEW, SESSION));
        // What the kernel decided itself is told only where it would refuse.
        assert_ne!(event.effect, Some(Effect::Allow), "{event:?}");
    }
    // The allowed neighbour is counted, or left to user space as a name.
    assert!(!names(&events, Verb::FileCreate).contains(&w.path("free/f")));
    let allows = w.wall.allows(VIEW).expect("a map");
    assert!(allows.iter().any(|(v, n)| *v == Verb::FileCreate && *n > 0));
}

fn descendants_are_followed() {
    let w = Watch::new();
    let (said, events) = w.sh("(setsid sh -c 'sh -c \"cat secret\"; true' ); true");
    assert_eq!(said, "s");
    assert_eq!(names(&events, Verb::FileRead), [w.path("secret")]);
    // Threads, too.
    let program = "import threading; t = threading.Thread(target=lambda: print(open('secret').read())); \
                   t.start(); t.join()";
    let (said, events) = w.run(Command::new("/usr/bin/python3").args(["-I", "-c", program]));
    assert_eq!(said, "s\n");
    assert_eq!(names(&events, Verb::FileRead), [w.path("secret")]);
    let event = events.iter().find(|e| e.verb == Some(Verb::FileRead));
    assert!(event.is_some_and(|e| e.tid != e.pid));
}

fn others_are_not_told_of() {
    let w = Watch::new();
    let text = fs::read_to_string(w.path("secret")).expect("a file");
    fs::remove_file(w.path("secret")).expect("a file");
    assert_eq!((text.as_str(), w.events().len()), ("s", 0));
    // Also not of one that was released.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read x; cat secret"])
        .current_dir(w.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    w.wall
        .adopt(child.id(), VIEW, SESSION)
        .expect("it is there");
    w.wall.adopt(child.id(), 0, 0).expect("it is there");
    drop(child.stdin.take());
    child.wait().expect("it ends");
    assert_eq!(w.events(), []);
}

fn names_are_those_of_objects() {
    let w = Watch::new();
    fs::create_dir(w.path("dir")).expect("a folder");
    std::os::unix::fs::symlink(w.path("secret"), w.path("free/link")).expect("a link");
    // An open is told by what was opened, whatever it was called.
    let (said, events) =
        w.sh("cat free/link; cat /proc/self/root/$PWD/secret; cd dir; cat ../free/../secret");
    assert_eq!(said, "sss");
    assert_eq!(names(&events, Verb::FileRead), vec![w.path("secret"); 3]);
    // A removal by the folder and the name as they were given.
    let program = "import os\nd = os.open('dir', os.O_RDONLY)\nopen('dir/x', 'w').close()\n\
                   os.unlink('x', dir_fd=d)\nos.chdir('dir')\nos.mkdir('.././y/.')";
    let (_, events) = w.run(Command::new("/usr/bin/python3").args(["-I", "-c", program]));
    assert_eq!(names(&events, Verb::FileDelete), [w.path("dir/x")]);
}

fn long_names_are_whole() {
    let w = Watch::new();
    let deep = ["d".repeat(200), "e".repeat(200), "f".repeat(200)].join("/");
    fs::create_dir_all(w.path(&deep)).expect("folders");
    for name in [format!("{deep}/x"), format!("{deep}/{}", "y".repeat(255))] {
        fs::write(w.path(&name), "").expect("a file");
        let (_, events) = w.sh(&format!("rm {}", w.path(&name)));
        assert_eq!(names(&events, Verb::FileDelete), [w.path(&name)]);
        assert!(!Path::new(&w.path(&name)).exists());
        fs::write(w.path(&name), "").expect("a file");
        let (folder, last) = name.rsplit_once('/').expect("it has one");
        let (_, events) = w.sh(&format!("cd {folder}; rm {last}"));
        assert_eq!(names(&events, Verb::FileDelete), [w.path(&name)]);
    }
}

fn addresses_are_told() {
    let w = Watch::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let other = datagrams.local_addr().expect("bound").port();
    let program = format!(
        "import socket as s\nt = s.socket(); t.connect(('127.0.0.1', {port}))\n\
         u = s.socket(s.AF_INET, s.SOCK_DGRAM)\nu.sendto(b'1', ('127.0.0.1', {other}))\n\
         u.sendmsg([b'2'], [], 0, ('127.0.0.1', {other}))\nu.connect(('127.0.0.1', {other}))\n\
         l = s.socket(); l.bind(('0.0.0.0', 0)); l.listen(); own = l.getsockname()[1]\n\
         c = s.socket(); c.connect(('127.0.0.1', own))\n\
         a = s.socket(s.AF_UNIX); a.bind('free/s'); a.listen()\n\
         b = s.socket(s.AF_UNIX); b.connect('free/s')"
    );
    let (_, events) = w.run(Command::new("/usr/bin/python3").args(["-I", "-c", &program]));
    let ports = |verb| -> Vec<u32> {
        let of = events.iter().filter(|e| e.verb == Some(verb));
        of.map(|e| e.identity.port).collect()
    };
    let (port, other) = (u32::from(port), u32::from(other));
    // The session's own port and socket are not told.
    assert_eq!(ports(Verb::NetConnect), [port, other]);
    assert_eq!(ports(Verb::NetSend), [other, other]);
    assert_eq!(ports(Verb::NetListen).len(), 1);
    assert_eq!(names(&events, Verb::IpcConnect), Vec::<String>::new());
    // They went out.
    listener.accept().expect("it was connected to");
    let mut byte = [0];
    for sent in [b"1", b"2"] {
        datagrams.recv(&mut byte).expect("it was sent");
        assert_eq!(&byte, sent);
    }
    // Another's socket is told by its file.
    let _socket = std::os::unix::net::UnixListener::bind(w.path("theirs")).expect("a socket");
    let program = "import socket as s; s.socket(s.AF_UNIX).connect('theirs')";
    let (_, events) = w.run(Command::new("/usr/bin/python3").args(["-I", "-c", program]));
    assert_eq!(names(&events, Verb::IpcConnect), [w.path("theirs")]);
}

fn what_is_handed_over_is_told() {
    let w = Watch::new();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    // SAFETY: a flag of a descriptor of ours.
    unsafe { libc::fcntl(theirs.as_raw_fd(), libc::F_SETFD, 0) };
    let secret = fs::File::open(w.path("secret")).expect("a file");
    send_descriptor(&ours, secret.as_raw_fd());
    let program = format!(
        "import socket as s, os; c = s.socket(fileno={})\nfd = s.recv_fds(c, 1, 1)[1][0]\nprint(os.pread(fd, 1, 0))",
        theirs.as_raw_fd()
    );
    let (said, events) = w.run(Command::new("/usr/bin/python3").args(["-I", "-c", &program]));
    assert_eq!(said, "b's'\n");
    assert_eq!(names(&events, Verb::FileRead), [w.path("secret")]);
}

/// Sends a byte and a descriptor.
fn send_descriptor(socket: &std::os::unix::net::UnixStream, fd: i32) {
    let mut byte = 0u8;
    let mut vector = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 4];
    // SAFETY: all pointers are to what lives until the call is over, with their sizes; one control message of one
    // descriptor fits.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd);
        assert_eq!(libc::sendmsg(socket.as_raw_fd(), &raw const message, 0), 1);
    }
}

fn what_is_not_seen_is_said() {
    let w = Watch::new();
    // A ring of io_uring, made twice: told once.
    let program = "import ctypes; c = ctypes.CDLL(None); b = ctypes.create_string_buffer(120)\n\
                   print(min(c.syscall(425, 2, b), c.syscall(425, 2, b)) >= 0)";
    let (said, events) = w.run(Command::new("/usr/bin/python3").args(["-I", "-c", program]));
    let ways: Vec<Why> = events.iter().map(|e| e.why).collect();
    match said.trim() {
        "True" => assert_eq!(ways, [Why::Unseen(Unseen::Uring)]),
        // A kernel without it, or one that does not permit it.
        _ => assert_eq!(ways, []),
    }
    for event in &events {
        assert_eq!((event.verb, event.effect), (None, Some(Effect::Allow)));
    }
    // getpid as a 32-bit program calls it (mov $20, %eax; int $0x80; ret). A kernel without such calls kills it.
    if cfg!(target_arch = "x86_64") {
        let program = "import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7); \
                       m.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3'); \
                       a = ctypes.addressof(ctypes.c_char.from_buffer(m)); \
                       print(ctypes.CFUNCTYPE(ctypes.c_int)(a)() > 0)";
        let (said, events) = w.run(Command::new("/usr/bin/python3").args(["-I", "-c", program]));
        let ways: Vec<Why> = events.iter().map(|e| e.why).collect();
        match said.trim() {
            "True" => assert_eq!(ways, [Why::Unseen(Unseen::Calls)]),
            _ => assert_eq!(ways, []),
        }
    }
}

fn losses_are_counted() {
    let w = Watch::with(&Options {
        ring_bytes: 4096,
        ..options()
    });
    let (said, events) =
        w.sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat secret; done");
    // None of it was held back.
    assert_eq!(said, "s".repeat(16));
    let dropped = w.wall.counters().expect("a map").dropped;
    assert!(dropped > 0 && !events.is_empty());
    assert_eq!(events.len() as u64 + dropped, 16);
    // The holes in the numbers say the same.
    let (_, more) = w.sh("cat secret");
    assert_eq!(more[0].number, 16);
}

fn another_policy_takes_over() {
    let w = Watch::new();
    let secret = w.path("secret");
    let (_, events) = w.sh("cat secret");
    assert_eq!((events.len(), events[0].generation), (1, 1));
    w.install(
        2,
        &format!(
            "  - {{id: now, priority: 1, action: file.read, resource: '{secret}', effect: allow}}\n"
        ),
    );
    assert_eq!(w.sh("cat secret").1, []);
    w.install(
        3,
        &format!(
            "  - {{id: ask, priority: 1, action: file.read, resource: '{secret}', effect: ask}}\n"
        ),
    );
    let (said, events) = w.sh("cat secret");
    assert_eq!(said, "s");
    assert_eq!(
        (events[0].generation, events[0].effect),
        (3, Some(Effect::Ask))
    );
    // Without a table everything would be refused, and still is not.
    w.wall
        .tables()
        .expect("a map")
        .remove(VIEW)
        .expect("a table");
    let (said, events) = w.sh("cat secret");
    assert_eq!(said, "s");
    assert!(events.iter().any(|e| e.why == Why::NoTable && e.audit));
}
