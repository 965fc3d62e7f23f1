//! Named moments inside a commit, at which a test plays someone else: the races of a commit, without
//! luck. Nothing of this is in a build that is not a test.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

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
