//! The agent's terminal: a relay between the user's terminal and the agent's own.
//!
//! The agent never holds the user's terminal, so it cannot push input into it or read what is typed
//! elsewhere. The user's terminal is raw while the agent runs; window size and job control are
//! passed on.

use std::{
    fs::File,
    io::{IsTerminal, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use agentwall_wall::wire::ToBroker;
use rustix::{
    event::{PollFd, PollFlags, poll},
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
    output: Option<std::thread::JoinHandle<()>>,
    ended: Arc<AtomicBool>,
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
        let ended = Arc::new(AtomicBool::new(false));
        let controller = controller.map(|fd| Arc::new(File::from(fd)));
        let mut relay = TerminalRelay {
            saved: None,
            controller: controller.clone(),
            output: None,
            ended,
        };
        if let Some(controller) = &controller {
            relay.copy_size();
            let terminals = standard_terminals();
            if terminals[0] {
                relay.saved = Some(tcgetattr(std::io::stdin())?);
                relay.raw();
                let to = Arc::clone(controller);
                let ended = Arc::clone(&relay.ended);
                std::thread::spawn(move || copy_input(&to, &ended));
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

    /// Waits until everything the agent wrote is shown, then gives the terminal back.
    pub fn finish(mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(output) = self.output.take() {
            let _ = output.join();
        }
        self.restore();
        self.saved = None;
    }
}

impl Drop for TerminalRelay {
    fn drop(&mut self) {
        self.restore();
    }
}

fn copy_size(controller: &File) {
    let size = tcgetwinsize(std::io::stdin()).or_else(|_| tcgetwinsize(std::io::stdout()));
    if let Ok(size) = size {
        let _ = tcsetwinsize(controller, size);
    }
}

fn copy_input(mut to: &File, ended: &AtomicBool) {
    let mut buf = [0u8; 4096];
    let mut stdin = std::io::stdin().lock();
    while !ended.load(Ordering::SeqCst) {
        match stdin.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => {
                if to.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
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
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // EIO: the agent's end is closed. It may be opened again while the agent lives.
            Err(_) if ended.load(Ordering::SeqCst) => return,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
}
