//! The commit of a layer whose original tree is away: deleted, renamed, or with another object in its
//! place.
//!
//! Nothing is applied and nothing is looked for anywhere else. All that can be done is to drop what is to
//! be dropped; everything else stays in the upper directory, for when the tree is back.

use super::Work;
use super::order::triage;
use crate::change::Conflict;
use crate::commit::{Disposition, HoldReason, Status};
use crate::discard::drop_entries;
use crate::layer::Layer;

/// Says what becomes of each change: a conflict, unless it was held or dropped before that mattered.
pub(crate) fn stays_away(
    layer: &Layer,
    away: &Conflict,
    work: &[Work<'_>],
    statuses: &mut [Option<Status>],
) {
    let conflict = || Status::Conflict {
        conflict: away.clone(),
    };
    for (at, change, _, disposition) in work {
        let status = match triage(change, *disposition) {
            Some(Status::Held {
                reason: HoldReason::Privileged { .. },
            })
            | None => conflict(),
            Some(status) => status,
        };
        statuses[*at] = Some(status);
    }
    let dropped = |w: &Work<'_>| statuses[w.0] == Some(Status::Discarded);
    let all: Vec<_> = work.iter().map(|w| (w.1, &w.2[..], dropped(w))).collect();
    if !all.iter().any(|(_, _, gone)| *gone) {
        return;
    }
    if let Err(e) = drop_entries(layer, &all) {
        for w in work.iter().filter(|w| w.3 == Disposition::Discard) {
            statuses[w.0] = Some(Status::Failed {
                step: "drop it from the session's upper directory".to_owned(),
                error: e.to_string(),
                errno: None,
            });
        }
    }
}
