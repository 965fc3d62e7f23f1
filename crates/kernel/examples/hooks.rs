//! Holds the programs for `bench/rows_machine.py`: they are attached and taken away again while its probes run.
//!
//!     hooks PINS
//!
//! Loads them and answers lines on standard input with `done` or `error TEXT`; it ends with its input, and
//! nothing is attached any more.
//!
//!     attach
//!     detach
//!     govern PID VIEW POLICY      the policy in the file goes into the view, the process under it
//!     count                       runs and nanoseconds of each program, as JSON; counted where
//!                                 kernel.bpf_stats_enabled is set

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use agentwall_action::{Facts, Subject};
use agentwall_kernel::{Options, Wall};
use agentwall_policy::{Compiled, Layer, Source, Variables, load};
use libbpf_rs::query::{LinkTypeInfo, ProgInfoIter};
use libbpf_rs::{Link, ProgramType};
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(pins), None) = (arguments.next(), arguments.next()) else {
        return Err("usage: hooks PINS".into());
    };
    let pins = Path::new(&pins);
    let mut wall = Wall::load(&Options::default())?;
    wall.pin(pins)?;
    let hooks = Hooks::of(pins)?;
    drop(wall);
    // The same maps; no link of a hook is left but in `hooks`.
    let mut attached = Vec::new();
    println!("done {}", hooks.0.len());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let outcome = match words[..] {
            ["attach"] if !attached.is_empty() => Ok(String::new()),
            ["attach"] => hooks.attach().map(|links| {
                attached = links;
                String::new()
            }),
            ["detach"] => {
                attached.clear();
                Ok(String::new())
            }
            ["govern", pid, view, policy] => govern(pins, pid, view, policy),
            ["count"] => Ok(count()),
            _ => Err("no such request".into()),
        };
        match outcome {
            Ok(text) => println!("done {text}"),
            Err(e) => println!("error {}", e.to_string().replace('\n', " ")),
        }
        std::io::stdout().flush()?;
    }
    Ok(Wall::unpin(pins)?)
}

/// The programs of the hooks.
struct Hooks(Vec<OwnedFd>);

impl Hooks {
    /// Those whose links are pinned; the links go, the iterators' stay.
    fn of(pins: &Path) -> Outcome<Hooks> {
        let mut programs = Vec::new();
        for entry in fs::read_dir(pins.join("links"))? {
            let path = entry?.path();
            let link = Link::open(&path)?;
            let info = link.info()?;
            if !matches!(info.info, LinkTypeInfo::Tracing(_)) {
                continue;
            }
            // SAFETY: the call has no memory of ours to touch; it gives a new descriptor or a negative number.
            let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(info.prog_id) };
            if fd < 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            // SAFETY: the descriptor is new, and nobody else has it.
            programs.push(unsafe { OwnedFd::from_raw_fd(fd) });
            fs::remove_file(&path)?;
        }
        Ok(Hooks(programs))
    }

    fn attach(&self) -> Outcome<Vec<OwnedFd>> {
        let attached = self.0.iter().map(|program| {
            // SAFETY: without a name the call takes the hook that the program was loaded for; it touches no
            // memory of ours.
            let fd = unsafe {
                libbpf_sys::bpf_raw_tracepoint_open(std::ptr::null(), program.as_raw_fd())
            };
            match fd < 0 {
                true => Err(std::io::Error::last_os_error().into()),
                // SAFETY: the descriptor is new, and nobody else has it.
                false => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            }
        });
        attached.collect()
    }
}

fn govern(pins: &Path, pid: &str, view: &str, policy: &str) -> Outcome<String> {
    let (pid, view) = (pid.parse()?, view.parse()?);
    let source = Source::new(policy, fs::read(policy)?, Layer::User);
    let policy = load(&[source], &Variables::default()).map_err(|e| e.to_string())?;
    let compiled = Compiled::new(Arc::new(policy), &Subject::agent("a"), &Facts::default());
    let wall = Wall::open(pins)?.ok_or("nothing is pinned there")?;
    wall.tables()?.install(view, &compiled.table(), 1, 0)?;
    wall.adopt(pid, view, u64::from(pid))?;
    Ok(String::new())
}

fn count() -> String {
    let programs = ProgInfoIter::default().filter(|p| p.ty == ProgramType::Lsm);
    let cell = |p: libbpf_rs::query::ProgramInfo| {
        let name = p.name.to_string_lossy().into_owned();
        (name, json!([p.run_cnt, p.run_time_ns]))
    };
    serde_json::Value::Object(programs.map(cell).collect()).to_string()
}
