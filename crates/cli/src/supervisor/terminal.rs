//! The agent's terminal: a relay between the user's terminal and the agent's own.
//!
//! The agent never holds the user's terminal, so it cannot push input into it or read what is typed
//! elsewhere. The user's terminal is raw while the agent runs; window size and job control are
//! passed on.
//!
//! The thread that reads what is typed ends with the agent: it waits for input and for the end at once,
//! and holds neither the lock nor the buffer of standard input, so the next reader gets every byte typed
//! from then on. What was taken before and not read by the agent ends with the agent's terminal: it was
//! typed to the agent.

use std::{
    fs::File,
    io::{ErrorKind, IsTerminal, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use agentwall_wall::wire::ToBroker;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::{Errno, ioctl_fionbio},
    process::Signal,
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};
use signal_hook::{consts::signal, iterator::Signals};

use super::Supervisor;

/// Restores the user's terminal when it goes away.
#[derive(Debug)]
pub struct TerminalRelay {
    saved: Option<Termios>,
    controller: Option<Arc<File>>,
    input: Option<std::thread::JoinHandle<()>>,
    output: Option<std::thread::JoinHandle<()>>,
    ended: Arc<AtomicBool>,
    /// Readable from the end on: never read, so it wakes whoever polls it.
    end: Arc<OwnedFd>,
}

/// Which of standard input, output and error are terminals.
pub fn standard_terminals() -> [bool; 3] {
    [
        std::io::stdin().is_terminal(),
        std::io::stdout().is_terminal(),
        std::io::stderr().is_terminal(),
    ]
}

impl TerminalRelay {
    /// Starts the relay (if the agent has a terminal) and the forwarding of signals.
    pub fn start(
        supervisor: &Arc<Supervisor>,
        controller: Option<OwnedFd>,
    ) -> std::io::Result<TerminalRelay> {
        let controller = controller.map(|fd| Arc::new(File::from(fd)));
        let mut relay = TerminalRelay {
            saved: None,
            controller: controller.clone(),
            input: None,
            output: None,
            ended: Arc::new(AtomicBool::new(false)),
            end: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
        };
        if let Some(controller) = &controller {
            // An agent that does not read must not hold up the end.
            ioctl_fionbio(controller, true)?;
            relay.copy_size();
            let terminals = standard_terminals();
            if terminals[0] {
                relay.saved = Some(tcgetattr(std::io::stdin())?);
                relay.raw();
                let to = Arc::clone(controller);
                let end = Arc::clone(&relay.end);
                relay.input = Some(std::thread::spawn(move || {
                    copy_input(std::io::stdin(), &to, &end);
                }));
            }
            let from = Arc::clone(controller);
            let ended = Arc::clone(&relay.ended);
            let to_stdout = terminals[1];
            relay.output = Some(std::thread::spawn(move || {
                copy_output(&from, to_stdout, &ended)
            }));
        }
        let mut signals = Signals::new([
            signal::SIGINT,
            signal::SIGTERM,
            signal::SIGHUP,
            signal::SIGQUIT,
            signal::SIGWINCH,
            signal::SIGUSR1,
            signal::SIGUSR2,
        ])?;
        let me = Arc::clone(supervisor);
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if signal == signal::SIGWINCH {
                    if let Some(controller) = &controller {
                        copy_size(controller);
                    }
                } else {
                    me.send(&ToBroker::Signal(signal));
                }
            }
        });
        Ok(relay)
    }

    fn raw(&self) {
        if let Some(saved) = &self.saved {
            let mut raw = saved.clone();
            raw.make_raw();
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        }
    }

    fn restore(&self) {
        if let Some(saved) = &self.saved {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, saved);
        }
    }

    fn copy_size(&self) {
        if let Some(controller) = &self.controller {
            copy_size(controller);
        }
    }

    /// The agent was stopped: stop as well, and on return let it go on.
    pub fn stopped(&self, supervisor: &Supervisor) {
        self.restore();
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
        self.raw();
        self.copy_size();
        supervisor.send(&ToBroker::Signal(signal::SIGCONT));
    }

    /// Takes no more input, waits until everything the agent wrote is shown, then gives the terminal
    /// back. Every byte typed after this is the next reader's.
    pub fn finish(mut self) {
        self.end_input();
        self.ended.store(true, Ordering::SeqCst);
        if let Some(output) = self.output.take() {
            let _ = output.join();
        }
        self.restore();
        self.saved = None;
    }

    fn end_input(&mut self) {
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
        if let Some(input) = self.input.take() {
            let _ = input.join();
        }
    }
}

impl Drop for TerminalRelay {
    fn drop(&mut self) {
        self.end_input();
        self.restore();
    }
}

fn copy_size(controller: &File) {
    let size = tcgetwinsize(std::io::stdin()).or_else(|_| tcgetwinsize(std::io::stdout()));
    if let Ok(size) = size {
        let _ = tcsetwinsize(controller, size);
    }
}

/// Copies what is typed until `end` is readable or either side is gone. `to` does not block.
fn copy_input(from: impl AsFd, mut to: &File, end: &OwnedFd) {
    let mut buf = [0u8; 4096];
    while ready(&from, PollFlags::IN, end) {
        let count = match rustix::io::read(&from, &mut buf) {
            Ok(0) => return,
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(_) => return,
        };
        let mut rest = &buf[..count];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if !ready(to, PollFlags::OUT, end) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// Waits until `fd` is ready, hung up or broken, as the next call on it will tell; false at the end.
fn ready(fd: &impl AsFd, wanted: PollFlags, end: &OwnedFd) -> bool {
    loop {
        let mut fds = [PollFd::new(fd, wanted), PollFd::new(end, PollFlags::IN)];
        match poll(&mut fds, None) {
            _ if !fds[1].revents().is_empty() => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn copy_output(mut from: &File, to_stdout: bool, ended: &AtomicBool) {
    let mut buf = [0u8; 16 * 1024];
    loop {
        let mut fds = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
        let patience = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        match poll(&mut fds, Some(&patience)) {
            // Nothing more to show, and nobody left who could write.
            Ok(0) if ended.load(Ordering::SeqCst) => return,
            Ok(0) => continue,
            _ => {}
        }
        match from.read(&mut buf) {
            Ok(0) => return,
            Ok(n) => {
                let shown = if to_stdout {
                    let mut out = std::io::stdout().lock();
                    out.write_all(&buf[..n]).and_then(|()| out.flush())
                } else {
                    std::io::stderr().lock().write_all(&buf[..n])
                };
                if shown.is_err() {
                    return;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // EIO: the agent's end is closed. It may be opened again while the agent lives.
            Err(_) if ended.load(Ordering::SeqCst) => return,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Shutdown, os::unix::net::UnixStream, thread};

    fn file(stream: UnixStream) -> File {
        File::from(OwnedFd::from(stream))
    }

    fn eventfd_for_the_end() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    fn at_the_end(end: &OwnedFd) {
        rustix::io::write(end, &1u64.to_ne_bytes()).unwrap();
    }

    #[test]
    fn what_is_typed_after_the_end_is_the_next_readers() {
        let (mut person, terminal) = UnixStream::pair().unwrap();
        let (mut agent, controller) = UnixStream::pair().unwrap();
        let (controller, end) = (file(controller), eventfd_for_the_end());
        thread::scope(|s| {
            let relay = s.spawn(|| copy_input(&terminal, &controller, &end));
            person.write_all(b"to the agent").unwrap();
            let mut read = [0; 12];
            agent.read_exact(&mut read).unwrap();
            assert_eq!(&read, b"to the agent");
            // The relay waits for input now, or will.
            at_the_end(&end);
            relay.join().unwrap();
        });
        person.write_all(b"k\n").unwrap();
        person.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        (&terminal).read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "k\n");
    }

    #[test]
    fn the_end_comes_also_when_the_agent_does_not_read() {
        let (person, terminal) = UnixStream::pair().unwrap();
        let (_agent, controller) = UnixStream::pair().unwrap();
        controller.set_nonblocking(true).unwrap();
        person.set_nonblocking(true).unwrap();
        let (controller, end) = (file(controller), eventfd_for_the_end());
        thread::scope(|s| {
            let relay = s.spawn(|| copy_input(&terminal, &controller, &end));
            // Until the way to the agent is full; how much that is the kernel knows.
            let mut to = &controller;
            while to.write(&[b'x'; 4096]).is_ok() {}
            let mut from = &person;
            from.write_all(b"more").unwrap();
            at_the_end(&end);
            relay.join().unwrap();
        });
    }

    #[test]
    fn input_that_ends_ends_the_relay() {
        let (person, terminal) = UnixStream::pair().unwrap();
        let (_agent, controller) = UnixStream::pair().unwrap();
        drop(person);
        copy_input(&terminal, &file(controller), &eventfd_for_the_end());
    }
}
