//! The seccomp user-notification protocol (seccomp_unotify(2)).
//!
//! One [`Listener`] is shared by the broker's threads: the kernel accepts RECV and SEND from any
//! of them. Every answer goes through [`Listener`], and there are only four: continue, fail with
//! an errno, return a value, install a descriptor.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// `struct seccomp_data`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Data {
    /// System-call number.
    pub nr: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Instruction after the call.
    pub instruction_pointer: u64,
    /// Raw arguments.
    pub args: [u64; 6],
}

/// `struct seccomp_notif`: one call that waits for an answer.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Call {
    /// The cookie of this call.
    pub id: u64,
    /// The calling *thread*, as the broker's process namespace sees it; 0 if outside of it.
    pub pid: u32,
    /// Always 0 today.
    pub flags: u32,
    /// What was called.
    pub data: Data,
}

#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

const IOCTL_RECV: u64 = 0xc050_2100;
const IOCTL_SEND: u64 = 0xc018_2101;
const IOCTL_ID_VALID: u64 = 0x4008_2102;
const IOCTL_ADDFD: u64 = 0x4018_2103;
const IOCTL_SET_FLAGS: u64 = 0x4008_2104;
const FLAG_CONTINUE: u32 = 1;
const ADDFD_FLAG_SEND: u32 = 1 << 1;
const SYNC_WAKE_UP: u64 = 1;

/// The receiving end of a filter's notifications.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Takes the descriptor that installing the filter returned. Asks for synchronous wake-ups
    /// (Linux 6.6), which keep both sides on one CPU: 2.5 µs a round trip instead of 8; an older
    /// kernel just does not have them.
    pub fn new(fd: OwnedFd) -> Listener {
        let listener = Listener { fd };
        // SAFETY: SET_FLAGS takes the flags by value.
        unsafe { libc::ioctl(listener.fd.as_raw_fd(), IOCTL_SET_FLAGS, SYNC_WAKE_UP) };
        listener
    }

    /// Waits for the next call. `ENOENT` (the caller died meanwhile) and `EINTR` are retried;
    /// `Ok(None)` means that no process uses the filter any more.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        loop {
            let mut call = Call::default();
            // SAFETY: RECV fills a zeroed `struct seccomp_notif` of the size the ioctl encodes.
            let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_RECV, &raw mut call) };
            if result == 0 {
                return Ok(Some(call));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOENT) => {
                    use rustix::event::{PollFd, PollFlags, poll};
                    let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
                    let zero = rustix::event::Timespec {
                        tv_sec: 0,
                        tv_nsec: 0,
                    };
                    if poll(&mut fds, Some(&zero)).is_ok()
                        && fds[0].revents().contains(PollFlags::HUP)
                    {
                        return Ok(None);
                    }
                }
                _ => return Err(error),
            }
        }
    }

    /// Whether the call still waits: to be asked after reading the caller's memory and before
    /// acting on it, because a dead caller's process id may have been reused.
    pub fn is_valid(&self, call: &Call) -> bool {
        // SAFETY: ID_VALID reads one u64.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_ID_VALID, &raw const call.id) == 0 }
    }

    fn send(&self, response: &Response) -> io::Result<()> {
        // SAFETY: SEND reads one `struct seccomp_notif_resp` of the size the ioctl encodes.
        let result = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                IOCTL_SEND,
                std::ptr::from_ref(response),
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Lets the kernel execute the call with whatever the arguments are by then. Only for calls
    /// whose outcome the kernel bounds by itself (see the `broker` module).
    pub fn proceed(&self, call: &Call) {
        // A failure means that the caller is gone: nobody waits for the answer.
        let _ = self.send(&Response {
            id: call.id,
            val: 0,
            error: 0,
            flags: FLAG_CONTINUE,
        });
    }

    /// Fails the call.
    pub fn fail(&self, call: &Call, errno: i32) {
        let _ = self.send(&Response {
            id: call.id,
            val: 0,
            error: -errno,
            flags: 0,
        });
    }

    /// Makes the call return `value`.
    pub fn succeed(&self, call: &Call, value: i64) {
        let _ = self.send(&Response {
            id: call.id,
            val: value,
            error: 0,
            flags: 0,
        });
    }

    /// Answers with the outcome of something done on behalf of the caller.
    pub fn finish(&self, call: &Call, outcome: io::Result<i64>) {
        match outcome {
            Ok(value) => self.succeed(call, value),
            Err(error) => self.fail(call, error.raw_os_error().unwrap_or(libc::EACCES)),
        }
    }

    /// Installs a descriptor in the caller and makes the call return it, in one step. If that
    /// fails (the caller's descriptor limit), the call fails with that errno.
    pub fn install(&self, call: &Call, fd: BorrowedFd<'_>, close_on_exec: bool) {
        let request = AddFd {
            id: call.id,
            flags: ADDFD_FLAG_SEND,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec {
                libc::O_CLOEXEC as u32
            } else {
                0
            },
        };
        // SAFETY: ADDFD reads one `struct seccomp_notif_addfd` of the size the ioctl encodes.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), IOCTL_ADDFD, &raw const request) };
        if result < 0 {
            let errno = io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EMFILE);
            self.fail(call, errno);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

const _: () = assert!(size_of::<Call>() == 80 && size_of::<Response>() == 24);
const _: () = assert!(size_of::<AddFd>() == 24);
