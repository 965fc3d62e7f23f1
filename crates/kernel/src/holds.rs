//! Holding starts of programs: fanotify's permission events of marked files (fanotify(7)).
//!
//! The kernel asks at the opening of a program for its start (`FAN_OPEN_EXEC_PERM`, in `do_open_execat()`), which is
//! before `bprm_check_security`, where the programs decide. So holding decides nothing: whoever is let on is
//! asked about there. That is why everything here lets on where it fails: a value that is dropped, and the whole
//! group when its process ends.
//!
//! Only single files are marked, never a mount or a file system: who starts anything else pays nothing.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities},
};

use crate::wire::Identity;

/// Bytes of an event (`struct fanotify_event_metadata`).
const EVENT: usize = 24;
const EVENT_VERSION: u8 = 3;

/// A group of marks.
#[derive(Debug)]
pub struct Holds {
    group: Arc<OwnedFd>,
}

/// A process that starts a marked program, and stands until this is answered or dropped.
#[derive(Debug)]
pub struct Held {
    group: Arc<OwnedFd>,
    file: OwnedFd,
    pid: u32,
    answer: u32,
}

impl Holds {
    /// A group, and then this thread has CAP_SYS_ADMIN no more: only this needs it, marking files does not. To be called
    /// before there are other threads.
    ///
    /// # Errors
    /// The capability is missing, or the kernel has no permission events.
    pub fn new() -> io::Result<Holds> {
        let group = group();
        give_up_admin()?;
        Ok(Holds {
            group: Arc::new(group?),
        })
    }

    /// Holds starts of this file from now on.
    ///
    /// # Errors
    /// It is gone, or there are too many marks.
    pub fn mark(&self, file: &Path) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_DONT_FOLLOW;
        self.change(flags, libc::FAN_OPEN_EXEC_PERM, file)
    }

    /// Holds nothing any more. Who is held stays so.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&self) -> io::Result<()> {
        self.change(libc::FAN_MARK_FLUSH, 0, Path::new("/"))
    }

    fn change(&self, flags: libc::c_uint, mask: u64, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let group = self.group.as_raw_fd();
        // SAFETY: the descriptor is open, the path ends with a zero byte, and both outlive the call.
        let done =
            unsafe { libc::fanotify_mark(group, flags, mask, libc::AT_FDCWD, path.as_ptr()) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Those that are held since the last call, waiting for the first at most so long.
    ///
    /// # Errors
    /// The group cannot be read.
    pub fn wait(&self, timeout: Duration) -> io::Result<Vec<Held>> {
        let mut ready = [PollFd::new(&self.group, PollFlags::IN)];
        let timeout = timeout.try_into().map_err(io::Error::other)?;
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        let mut bytes = [0; 32 * EVENT];
        match rustix::io::read(self.group.as_fd(), &mut bytes) {
            Ok(len) => self.parse(&bytes[..len]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }

    fn parse(&self, mut bytes: &[u8]) -> io::Result<Vec<Held>> {
        let mut all = Vec::new();
        while let Some(event) = bytes.get(..EVENT) {
            let number = |at: usize| i32::from_ne_bytes([0, 1, 2, 3].map(|i| event[at + i]));
            if event[4] != EVENT_VERSION {
                return Err(io::Error::other("fanotify tells events of another version"));
            }
            let (len, file, pid) = (number(0), number(16), number(20));
            // An overflow has no file; then nobody is held.
            if file >= 0 {
                all.push(Held {
                    group: Arc::clone(&self.group),
                    // SAFETY: the kernel opened it for us with this event, and nobody else knows it.
                    file: unsafe { OwnedFd::from_raw_fd(file) },
                    pid: u32::try_from(pid).unwrap_or(0),
                    answer: libc::FAN_ALLOW,
                });
            }
            let len = usize::try_from(len).unwrap_or(0).max(EVENT);
            bytes = bytes.get(len..).unwrap_or_default();
        }
        Ok(all)
    }
}

impl Held {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The program's name.
    ///
    /// # Errors
    /// It has none that fits.
    pub fn program(&self) -> io::Result<PathBuf> {
        fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// The program as the programs in the kernel name it. Device numbers of `stat` are another thing on overlayfs and
    /// btrfs, so it is the device of the process's mount.
    ///
    /// # Errors
    /// The process is gone, or does not see the mount any more.
    pub fn identity(&self) -> io::Result<Identity> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.file.as_raw_fd()))?;
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid))?;
        identity(&info, &mounts).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// It does not start: the process gets `EPERM`.
    pub fn refuse(mut self) {
        self.answer = libc::FAN_DENY;
    }
}

impl Drop for Held {
    /// Lets it on, to where it is decided.
    fn drop(&mut self) {
        let mut answer = self.file.as_raw_fd().to_ne_bytes().to_vec();
        answer.extend_from_slice(&self.answer.to_ne_bytes());
        // A process that was killed meanwhile waits for no answer.
        let _ = rustix::io::write(self.group.as_fd(), &answer);
    }
}

fn group() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    let opened = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE;
    // SAFETY: a system call on numbers.
    let group = unsafe { libc::fanotify_init(flags, opened as libc::c_uint) };
    match group {
        // SAFETY: it was just made, and nobody else knows it.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(group) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn give_up_admin() -> io::Result<()> {
    // What is started later does not get it back either; the unit has no CAP_SETPCAP, but NoNewPrivileges.
    let _ = remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN);
    let mut sets = capabilities(None)?;
    for set in [
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.inheritable,
    ] {
        set.remove(CapabilitySet::SYS_ADMIN);
    }
    Ok(set_capabilities(None, sets)?)
}

/// From `/proc/PID/fdinfo/N` and `/proc/PID/mountinfo` (proc(5)).
fn identity(info: &str, mounts: &str) -> Option<Identity> {
    let field = |name: &str| {
        info.lines()
            .find_map(|l| l.strip_prefix(name))
            .map(str::trim)
    };
    let mount = field("mnt_id:")?;
    let inode = field("ino:")?.parse().ok()?;
    let device = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        (words.next()? == mount).then(|| words.nth(1))?
    })?;
    let (major, minor) = device.split_once(':')?;
    let device = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?;
    Some(Identity {
        inode,
        device,
        ..Identity::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::MetadataExt as _, process::Command};

    #[test]
    fn a_file_is_named_by_its_mount_and_inode() {
        let info = "pos:\t0\nflags:\t0100000\nmnt_id:\t28\nino:\t77\n";
        let mounts = "2 1 0:2 / /x rw - a b rw\n28 1 254:3 / / rw - ext4 /dev/vda rw\n";
        let found = identity(info, mounts).unwrap();
        assert_eq!((found.inode, found.device), (77, 254 << 20 | 3));
        assert_eq!(identity(info, "2 1 0:2 / /x rw"), None);
        assert_eq!(identity("mnt_id:\t28\n", mounts), None);
    }

    /// Capabilities are a thread's own, so only this one gives any up.
    #[test]
    fn a_start_stands_until_it_is_answered() {
        let holds = match Holds::new() {
            Ok(holds) => holds,
            Err(e) => return eprintln!("not tried, nothing can be held here: {e}"),
        };
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().canonicalize().unwrap().join("true");
        fs::copy("/bin/true", &file).unwrap();
        holds.mark(&file).unwrap();
        let start = || {
            let mut command = Command::new(&file);
            let starting = std::thread::spawn(move || command.status());
            let mut held = Vec::new();
            while held.is_empty() {
                held = holds.wait(Duration::from_secs(1)).unwrap();
            }
            assert!(!starting.is_finished());
            (starting, held.pop().unwrap())
        };
        let (starting, held) = start();
        assert_eq!(held.program().unwrap(), file);
        let inode = fs::metadata(&file).unwrap().ino();
        assert_eq!(held.identity().unwrap().inode, inode);
        drop(held);
        assert!(starting.join().unwrap().unwrap().success());

        let (starting, held) = start();
        held.refuse();
        let error = starting.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));

        assert!(
            !capabilities(None)
                .unwrap()
                .permitted
                .contains(CapabilitySet::SYS_ADMIN)
        );
        holds.clear().unwrap();
        assert!(Command::new(&file).status().unwrap().success());
        assert!(holds.wait(Duration::ZERO).unwrap().is_empty());
    }

    #[test]
    fn events_are_read_whole_or_not_at_all() {
        let holds = Holds {
            group: Arc::new(fs::File::open("/dev/null").unwrap().into()),
        };
        let mut event = vec![0; EVENT];
        event[0] = EVENT as u8;
        event[4] = EVENT_VERSION;
        // An overflow: no file.
        event[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert!(holds.parse(&event).unwrap().is_empty());
        assert!(holds.parse(&event[..EVENT - 1]).unwrap().is_empty());
        event[4] = 9;
        assert!(holds.parse(&event).is_err());
    }
}
