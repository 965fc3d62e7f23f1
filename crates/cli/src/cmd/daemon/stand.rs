//! What is to stand: the kernel wall, or where a kernel has none the monitor; loaded or found, and proved.
//!
//! The monitor is no second best that is slid into. It stands only where the kernel itself says that there are no LSM
//! hooks for programs, or takes the programs and never calls them; every other failure is one.

use std::{cell::RefCell, fs, path::Path, sync::Arc, time::Duration};

use agentwall_kernel::{
    Options, Programs, Wall, WallError, object,
    wire::{Event, WireError},
};
use agentwall_ledger::hash::sha256_hex;
use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    host::{
        Places,
        book::Book,
        canary::{self, Proof},
        config::Config,
        daemon::Found,
        kernel::Kernel as _,
    },
    state::shown,
};

/// How long the events of the canaries are waited for at most, each time that some came.
const TURN: Duration = Duration::from_millis(200);

/// What the kernel says of security modules, where somebody asks it.
const MODULES: &str = "/sys/kernel/security/lsm";

/// Why there is no wall where the programs can be loaded.
pub const NEVER_CALLED: &str =
    "the kernel takes the programs and calls none: bpf is not among its security modules";

/// What stands, and with what.
pub struct Standing {
    /// The programs.
    pub wall: Arc<Wall>,
    /// What was there before.
    pub found: Found,
    /// That they do what they should.
    pub proof: Proof,
    /// Why it is the monitor.
    pub no_wall: Option<String>,
    /// Events that were read for the proof: whoever reads on begins with them.
    pub events: Vec<Result<Event, WireError>>,
}

/// The programs that this binary brings, by their SHA-256; those for host names belong to the wall.
pub fn digest(programs: Programs) -> String {
    match programs {
        Programs::Wall => sha256_hex(&[object::WALL, object::NAMES].concat()),
        Programs::Monitor => sha256_hex(object::MONITOR),
    }
}

/// Makes the wall stand, or the monitor.
pub fn stand(places: &Places, config: &Config, book: Option<Book>) -> Result<Standing> {
    let mut options = Options::default();
    if let Some(bytes) = config.ring_bytes {
        options.ring_bytes = bytes;
    }
    let (wall, found) = match load(places, &options, book.as_ref()) {
        Ok(stands) => stands,
        Err(Failure::NoHooks(why)) => return monitor(places, options, book, why),
        Err(Failure::Other(e)) => return Err(e),
    };
    let fresh = found == Before::Nothing;
    let wall = Arc::new(wall);
    let proof = canary::prove(&*wall, &places.run.join("canary"));
    let wrong = match proof {
        Ok(proof) if proof.holds() => {
            return Ok(Standing {
                wall,
                found: found.with(book),
                proof,
                no_wall: None,
                events: Vec::new(),
            });
        }
        Ok(proof) if fresh && is_never_called(&wall, &proof)? => {
            Wall::unpin(&places.pins)?;
            drop(wall);
            return monitor(places, options, book, NEVER_CALLED.to_owned());
        }
        Ok(proof) => proof.failures(),
        Err(e) => format!("{e:#}"),
    };
    if fresh {
        Wall::unpin(&places.pins)?;
    }
    bail!("the kernel wall does not refuse what it should, so it must not be relied on: {wrong}")
}

/// What was pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Same,
    Other,
}

impl Before {
    fn with(self, book: Option<Book>) -> Found {
        match self {
            Before::Nothing => Found::Nothing,
            Before::Same => Found::Same(book),
            Before::Other => Found::Other(book),
        }
    }
}

/// Why no wall could be loaded.
enum Failure {
    /// The kernel has no hooks for it.
    NoHooks(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Failure {
        Failure::Other(e)
    }
}

/// The wall that is pinned, if it is what this binary brings, else a new one in its place, or in that of a monitor.
fn load(
    places: &Places,
    options: &Options,
    book: Option<&Book>,
) -> Result<(Wall, Before), Failure> {
    let pinned = Wall::open(&places.pins).map_err(cannot)?;
    let was = pinned.as_ref().map(Wall::kind);
    let (loaded, before) = match pinned {
        Some(wall) if was == Some(Programs::Wall) && is_whole(&wall, book) => {
            return Ok((wall, Before::Same));
        }
        Some(wall) => (wall.replace(options), Before::Other),
        None => (Wall::load(options), Before::Nothing),
    };
    let mut wall = loaded.map_err(|e| {
        // Where a wall stands there are hooks.
        match e.is_about_the_hooks() && was != Some(Programs::Wall) {
            true => Failure::NoHooks(first_line(&e)),
            false => Failure::Other(cannot(e)),
        }
    })?;
    pin(&mut wall, places)?;
    Ok((wall, before))
}

/// The monitor, in the same way.
fn monitor(
    places: &Places,
    mut options: Options,
    book: Option<Book>,
    why: String,
) -> Result<Standing> {
    options.programs = Programs::Monitor;
    let opened = Wall::open(&places.pins).map_err(cannot)?;
    let (mut wall, before) = match opened {
        Some(wall) if wall.kind() == Programs::Monitor && is_whole(&wall, book.as_ref()) => {
            (wall, Before::Same)
        }
        Some(wall) => (
            wall.replace(&options).map_err(|e| neither(&why, &e))?,
            Before::Other,
        ),
        None => (
            Wall::load(&options).map_err(|e| neither(&why, &e))?,
            Before::Nothing,
        ),
    };
    if before != Before::Same {
        pin(&mut wall, places)?;
    }
    let (proof, events) = watch(&wall, &places.run.join("canary"))?;
    if !proof.holds() {
        if before == Before::Nothing {
            Wall::unpin(&places.pins)?;
        }
        bail!(
            "the monitor does not see what it should, so it must not be relied on: {}",
            proof.failures()
        );
    }
    Ok(Standing {
        wall: Arc::new(wall),
        found: before.with(book),
        proof,
        no_wall: Some(why),
        events,
    })
}

/// The proof of a monitor, and all events that were read for it.
pub fn watch(wall: &Wall, folder: &Path) -> Result<(Proof, Vec<Result<Event, WireError>>)> {
    let came = RefCell::new(Vec::new());
    let reader = wall.events(|event| came.borrow_mut().push(event))?;
    let mut read = || -> Result<Vec<Event>> {
        // What the canary did was told before it answered.
        let mut before = usize::MAX;
        while came.borrow().len() != before {
            before = came.borrow().len();
            reader.poll(TURN)?;
        }
        Ok((came.borrow().iter())
            .filter_map(|e| e.as_ref().ok().cloned())
            .collect())
    };
    let proof = canary::watch(wall, folder, &mut read)?;
    drop(reader);
    Ok((proof, came.into_inner()))
}

/// Whether it is what this binary brings, with all its programs.
fn is_whole(wall: &Wall, book: Option<&Book>) -> bool {
    book.is_some_and(|b| b.programs == digest(wall.kind()) && b.hooks == wall.hooks())
}

fn pin(wall: &mut Wall, places: &Places) -> Result<()> {
    wall.pin(&places.pins).with_context(|| {
        format!(
            "the programs cannot be pinned to {}; it must lie in a BPF file system: 'mount -t bpf bpf \
             /sys/fs/bpf'",
            shown(&places.pins)
        )
    })
}

/// Whether no program was called at all: the hooks are there, and nobody goes through them. A kernel that says it has
/// bpf among its modules is not believed to have none.
pub fn is_never_called(wall: &Wall, proof: &Proof) -> Result<bool> {
    let counters = wall.counters()?;
    let listed = fs::read_to_string(MODULES).unwrap_or_default();
    let has_bpf = listed.trim().split(',').any(|name| name == "bpf");
    Ok(proof.is_all_done() && counters.decisions + counters.refused == 0 && !has_bpf)
}

/// What went wrong, without the loader's own messages.
pub fn first_line(e: &WallError) -> String {
    let text = e.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

fn neither(why: &str, e: &WallError) -> anyhow::Error {
    anyhow!(
        "neither the kernel wall stands here ({why}) nor the monitor: {e}\nnothing is governed. 'agentwall run' \
         guards what it starts, on this kernel, too; 'agentwall doctor' tells what this host offers"
    )
}

fn cannot(e: WallError) -> anyhow::Error {
    anyhow!(
        "the kernel wall cannot stand here: {e}\nnothing is governed. 'agentwall run' guards what it starts \
         without it, on this kernel, too; 'agentwall doctor' tells what this host offers"
    )
}
