//! Named moments inside a commit, at which a test plays someone else: the races of a commit, without
//! luck. Nothing of this is in a build that is not a test.

use std::cell::RefCell;

type Act = Box<dyn FnMut(&str)>;

thread_local! {
    static ACT: RefCell<Option<Act>> = const { RefCell::new(None) };
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
