//! Named moments inside a commit, at which a test plays someone else: the races of a commit, without
//! luck. Nothing of this is in a build that is not a test.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// What a kill unwinds with: no panic has it.
struct Cut(String);

type Act = Box<dyn FnMut(&str)>;

thread_local! {
    static ACT: RefCell<Option<Act>> = const { RefCell::new(None) };
    static SYNCED: RefCell<HashMap<u64, u64>> = RefCell::new(HashMap::new());
}

/// Runs `act` at every moment of this thread's commits, until the next call.
pub(crate) fn at_every_point(act: impl FnMut(&str) + 'static) {
    ACT.with(|slot| *slot.borrow_mut() = Some(Box::new(act)));
}

/// No more acts.
pub(crate) fn clear() {
    ACT.with(|slot| *slot.borrow_mut() = None);
}

/// The commit is at this moment.
pub(crate) fn point(name: &str) {
    ACT.with(|slot| {
        if let Some(act) = slot.borrow_mut().as_mut() {
            act(name);
        }
    });
}

/// Runs `f` and cuts it off at the moment of this number, from 1; the name of the moment, or `None` if
/// `f` came to its end before. A panic of `f` itself goes on.
pub(crate) fn cut_off(number: usize, f: impl FnOnce()) -> Option<String> {
    let mut seen = 0;
    nothing_is_synced();
    at_every_point(move |now| {
        seen += 1;
        if seen == number {
            // A resumed unwind prints nothing.
            resume_unwind(Box::new(Cut(now.to_owned())));
        }
    });
    let end = catch_unwind(AssertUnwindSafe(f));
    clear();
    match end {
        Ok(()) => None,
        Err(why) => match why.downcast::<Cut>() {
            Ok(cut) => Some(cut.0),
            Err(other) => resume_unwind(other),
        },
    }
}

/// A file was made durable as it is.
pub(crate) fn synced(file: &Metadata) {
    SYNCED.with(|map| map.borrow_mut().insert(file.ino(), file.len()));
}

/// Forgets it: inode numbers come again.
pub(crate) fn nothing_is_synced() {
    SYNCED.with(|map| map.borrow_mut().clear());
}

/// Takes from a file what was written to it after it was last made durable: what a power failure may.
pub(crate) fn lose_what_was_not_synced(path: &Path) {
    let Ok(file) = OpenOptions::new().write(true).open(path) else {
        return;
    };
    let ino = file.metadata().map(|m| m.ino()).unwrap_or(0);
    let length = SYNCED.with(|map| map.borrow().get(&ino).copied().unwrap_or(0));
    file.set_len(length).unwrap();
}
