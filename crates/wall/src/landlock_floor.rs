//! The Landlock floor: a second, immutable line behind the mounts.
//!
//! It holds for the agent's process tree whatever else happens, cannot be lifted even with
//! capabilities, and is coarse on purpose: changes only below trees that are writable, programs
//! only from trees the policy could start or map them from. Reading is left to the mounts: a
//! ruleset that handles neither reading nor truncation costs nothing on plain opens for reading
//! (Documentation/userspace-api/landlock.rst).

use std::path::Path;

use landlock::{
    AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use crate::plan::{FileView, NodeKind, Writes};

/// Whether the floor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// It does.
    Enforced,
    /// The kernel has no Landlock (or it is not enabled at boot).
    Absent,
}

/// The Landlock ABI of the running kernel; `None` if it has none or it is off.
pub fn abi() -> Option<i32> {
    crate::sys::landlock_abi()
}

/// Rights that change names or content. Truncation goes with the right to write: handling it
/// separately would put a path walk on every open.
fn changes() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeChar
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::MakeFifo
        | AccessFs::MakeBlock
        | AccessFs::MakeSym
        | AccessFs::Refer
}

/// Restricts the calling thread and all it starts. Also sets `no_new_privs`.
pub fn restrict(view: &FileView) -> Result<Floor, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(changes() | AccessFs::Execute)?
        .create()?;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| -> Result<(), RulesetError> {
        // What cannot be opened cannot be used either.
        let Ok(fd) = PathFd::new(path) else {
            return Ok(());
        };
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(landlock::ABI::V6)
        };
        if !access.is_empty() {
            (&mut ruleset).add_rule(PathBeneath::new(fd, access))?;
        }
        Ok(())
    };
    for node in &view.nodes {
        let placement = &node.placement;
        if placement.hidden || node.path == Path::new("/") {
            continue;
        }
        let mut access = BitFlags::empty();
        if placement.writes != Writes::None && !placement.brokered {
            access |= changes();
        }
        if placement.startable {
            access |= AccessFs::Execute;
        }
        if node.kind == NodeKind::File {
            access &= AccessFs::WriteFile | AccessFs::Execute;
        }
        if !access.is_empty() {
            allow(&node.path, access)?;
        }
    }
    allow(Path::new("/dev"), AccessFs::WriteFile.into())?;
    allow(Path::new("/dev/shm"), changes())?;
    allow(Path::new("/dev/agentwall/bin"), AccessFs::Execute.into())?;
    allow(Path::new("/proc"), AccessFs::WriteFile.into())?;
    let status: RestrictionStatus = ruleset.restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::NotEnforced => Floor::Absent,
        _ => Floor::Enforced,
    })
}
