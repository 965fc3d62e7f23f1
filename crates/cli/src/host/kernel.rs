//! What the daemon needs of the programs in the kernel, so that what it does can be tried without them.

use agentwall_action::Verb;
use agentwall_kernel::{
    Arrival, Captured, Counters, Door, Note, Programs, Wall, WallError,
    wire::{Governed, Identity, Start},
};
use agentwall_policy::CompiledTable;
use std::{net::SocketAddr, path::Path};

/// The programs in the kernel.
pub trait Kernel: Send + Sync {
    /// Puts a process and all that descends from it under a view; 0 takes it away.
    fn adopt(&self, pid: u32, view: u32, session: u64) -> Result<Vec<u32>, WallError>;
    /// Takes it away, and lets the configuration give them none.
    fn release(&self, pid: u32) -> Result<Vec<u32>, WallError>;
    /// Puts a view in place for starts that the configuration means; `None`: they go on without.
    fn prepare(&self, start: &Start, view: Option<u32>) -> Result<(), WallError>;
    /// Takes it back.
    fn unprepare(&self, start: &Start) -> Result<(), WallError>;
    /// All that is in place for starts.
    fn prepared(&self) -> Result<Vec<(Start, Option<u32>)>, WallError>;
    /// Every governed process.
    fn governed(&self) -> Result<Vec<Governed>, WallError>;
    /// Puts a table into a view.
    fn install(
        &self,
        view: u32,
        table: &CompiledTable,
        generation: u64,
        flags: u32,
    ) -> Result<(), WallError>;
    /// Empties a view.
    fn remove(&self, view: u32) -> Result<(), WallError>;
    /// A person's yes.
    fn grant(&self, grant: &Grant, until: u64, uses: u64) -> Result<(), WallError>;
    /// Whether there is one that can be used.
    fn granted(&self, grant: &Grant) -> Result<bool, WallError>;
    /// The yes is taken back.
    fn take_back(&self, grant: &Grant) -> Result<(), WallError>;
    /// Uses a yes up by one; whether there was one.
    fn redeem(&self, grant: &Grant) -> Result<bool, WallError>;
    /// What a session asks for by name comes to these listeners.
    fn open_door(&self, door: &Door<'_>) -> Result<(), WallError>;
    /// It does not come there any more, and is refused.
    fn close_door(&self, session: u64) -> Result<(), WallError>;
    /// Whose it is that arrived at a door.
    fn captured(&self, source: SocketAddr, how: Arrival) -> Result<Option<Captured>, WallError>;
    /// What arrived has ended.
    fn forget_captured(&self, source: SocketAddr, how: Arrival) -> Result<(), WallError>;
    /// Notes something about an object.
    fn note(&self, path: &Path, note: &Note) -> Result<(), WallError>;
    /// Takes the mark away.
    fn forget(&self, path: &Path) -> Result<(), WallError>;
    /// What was counted.
    fn counters(&self) -> Result<Counters, WallError>;
    /// Plain allows of a view since the programs were loaded.
    fn allows(&self, view: u32) -> Result<Vec<(Verb, u64)>, WallError>;
    /// How many hooks there are programs at.
    fn hooks(&self) -> usize;
    /// Which programs these are.
    fn kind(&self) -> Programs;
}

/// What a person said yes to: this verb, by this session, on this object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The session.
    pub session: u64,
    /// The object.
    pub identity: Identity,
    /// The verb.
    pub verb: Verb,
}

impl Kernel for Wall {
    fn adopt(&self, pid: u32, view: u32, session: u64) -> Result<Vec<u32>, WallError> {
        Wall::adopt(self, pid, view, session)
    }

    fn release(&self, pid: u32) -> Result<Vec<u32>, WallError> {
        Wall::release(self, pid)
    }

    fn prepare(&self, start: &Start, view: Option<u32>) -> Result<(), WallError> {
        Wall::prepare(self, start, view)
    }

    fn unprepare(&self, start: &Start) -> Result<(), WallError> {
        Wall::unprepare(self, start)
    }

    fn prepared(&self) -> Result<Vec<(Start, Option<u32>)>, WallError> {
        Wall::prepared(self)
    }

    fn governed(&self) -> Result<Vec<Governed>, WallError> {
        Wall::governed(self)
    }

    fn install(
        &self,
        view: u32,
        table: &CompiledTable,
        generation: u64,
        flags: u32,
    ) -> Result<(), WallError> {
        Ok(self.tables()?.install(view, table, generation, flags)?)
    }

    fn remove(&self, view: u32) -> Result<(), WallError> {
        Ok(self.tables()?.remove(view)?)
    }

    fn grant(&self, grant: &Grant, until: u64, uses: u64) -> Result<(), WallError> {
        Wall::grant(
            self,
            grant.session,
            &grant.identity,
            grant.verb,
            until,
            uses,
        )
    }

    fn granted(&self, grant: &Grant) -> Result<bool, WallError> {
        let now = super::boot_ns();
        Wall::granted(self, grant.session, &grant.identity, grant.verb, now)
    }

    fn take_back(&self, grant: &Grant) -> Result<(), WallError> {
        Wall::take_back(self, grant.session, &grant.identity, grant.verb)
    }

    fn redeem(&self, grant: &Grant) -> Result<bool, WallError> {
        let now = super::boot_ns();
        Wall::redeem(self, grant.session, &grant.identity, grant.verb, now)
    }

    fn open_door(&self, door: &Door<'_>) -> Result<(), WallError> {
        Wall::open_door(self, door)
    }

    fn close_door(&self, session: u64) -> Result<(), WallError> {
        Wall::close_door(self, session)
    }

    fn captured(&self, source: SocketAddr, how: Arrival) -> Result<Option<Captured>, WallError> {
        Wall::captured(self, source, how)
    }

    fn forget_captured(&self, source: SocketAddr, how: Arrival) -> Result<(), WallError> {
        Wall::forget_captured(self, source, how)
    }

    fn note(&self, path: &Path, note: &Note) -> Result<(), WallError> {
        Wall::note(self, path, note)
    }

    fn forget(&self, path: &Path) -> Result<(), WallError> {
        Wall::forget(self, path)
    }

    fn counters(&self) -> Result<Counters, WallError> {
        Wall::counters(self)
    }

    fn allows(&self, view: u32) -> Result<Vec<(Verb, u64)>, WallError> {
        Wall::allows(self, view)
    }

    fn hooks(&self) -> usize {
        // Iterators are links, too, but are run by user space.
        let iterators = ["aw_adopt", "aw_list"];
        self.programs().filter(|p| !iterators.contains(p)).count()
    }

    fn kind(&self) -> Programs {
        Wall::kind(self)
    }
}
