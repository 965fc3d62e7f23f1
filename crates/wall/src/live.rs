//! Whether a standing wall enforces another policy exactly.
//!
//! What was planned at the start stays: mounts, trapped calls, Landlock. So the new policy is planned
//! as for a new session, and each place is compared with what stands there. Equal placements enforce
//! alike. Where they differ, the standing one must leave every answer to the broker, which asks the
//! engine for each call: reads trapped, changes brokered. Anything else is a difference, and the
//! policy needs a new session.
//!
//! Invariants:
//! * A plan is compared with a plan, and only the policy is asked. Of the host, as in planning, only
//!   whether something is at a place that a rule names.
//! * No answer means "about right": a place that is stricter than the new policy is a difference, as
//!   is one that is wider.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use agentwall_action::{Action, Effect, Facts, Resource, Subject, Verb, is_within};
use agentwall_policy::Policy;

use crate::plan::{FILE_CHANGES, FileView, Placement, STARTS, Writes, stat_canonical};

/// Something that a standing wall cannot enforce of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where; `None` if it is about the wall as a whole.
    pub path: Option<PathBuf>,
    /// What the policy needs and what stands there instead.
    pub what: &'static str,
}

/// What [`differences`] compares.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The view that stands.
    pub standing: &'a FileView,
    /// The view that the new policy would get, planned with the mounts and protected places that the
    /// standing one was planned with.
    pub planned: &'a FileView,
    /// The new policy.
    pub policy: &'a Policy,
    /// For whom.
    pub subject: &'a Subject,
    /// The session's facts.
    pub facts: &'a Facts,
}

/// What the standing view cannot enforce of the new policy; nothing if it enforces all of it.
pub fn differences(change: &Change<'_>) -> Vec<Difference> {
    let (standing, planned) = (change.standing, change.planned);
    if planned.trap_reads && !standing.trap_reads {
        return vec![Difference {
            path: None,
            what: "decides on single files when they are read, which this session was not started for",
        }];
    }
    let (here, there) = (index(standing), index(planned));
    let places: BTreeSet<&Path> = here.keys().chain(there.keys()).copied().collect();
    let root = Placement::HIDDEN;
    let left_out = left_out(change.policy, standing, change.subject, change.facts);
    let mut found = Vec::new();
    for place in &places {
        let (stands, wanted) = (at(&here, place), at(&there, place));
        let (stands, wanted) = (stands.unwrap_or(&root), wanted.unwrap_or(&root));
        // A folder in memory is planned by what may be changed in it: the agent itself fills it.
        let unread = stands.writes == Writes::Private && !standing.trap_reads;
        if is_alike(stands, wanted) && !unread {
            continue;
        }
        let region = Region {
            change,
            place,
            below: (places.range::<Path, _>((
                std::ops::Bound::Excluded(*place),
                std::ops::Bound::Unbounded,
            )))
            .take_while(|p| is_within(p, place))
            .map(|p| p.to_path_buf())
            .collect(),
        };
        let carried = match is_alike(stands, wanted) {
            true => Ok(()),
            false => region.is_carried(stands, wanted),
        };
        let carried = match unread && !region.shows_all(&left_out) {
            true => Err("is to be read as decided for each name, and is read as a whole"),
            false => carried,
        };
        if let Err(what) = carried {
            found.push(Difference {
                path: Some(place.to_path_buf()),
                what,
            });
        }
    }
    found
}

/// Places that the planner left out of the trees around them: nothing is there on the host, and the
/// policy denies making and reading it. If the agent has made something there under another policy,
/// a tree whose reads are not trapped would go on showing it. Nothing, if reads are trapped.
pub fn left_out(
    policy: &Policy,
    view: &FileView,
    subject: &Subject,
    facts: &Facts,
) -> Vec<PathBuf> {
    if view.trap_reads {
        return Vec::new();
    }
    let denied = |verb: Verb, path: &Path| {
        let mut action = Action::new(subject.clone(), verb, Resource::path(path));
        action.facts = facts.clone();
        policy.decide(&action).effect == Effect::Deny
    };
    let mut anchors = policy.anchors();
    // What this user cannot reach on the host, the agent cannot reach either.
    let absent = |path: &Path| {
        stat_canonical(path).is_err_and(|e| e.kind() != std::io::ErrorKind::PermissionDenied)
    };
    anchors.retain(|path| {
        absent(path) && denied(Verb::FileRead, path) && denied(Verb::FileCreate, path)
    });
    anchors
}

/// The places of a view; `/` is made in memory and is nobody's.
fn index(view: &FileView) -> BTreeMap<&Path, &Placement> {
    let nodes = view.nodes.iter().filter(|n| n.path != Path::new("/"));
    nodes.map(|n| (n.path.as_path(), &n.placement)).collect()
}

/// What holds at a path: the nearest place at or above it.
fn at<'a>(places: &BTreeMap<&Path, &'a Placement>, path: &Path) -> Option<&'a Placement> {
    path.ancestors().find_map(|p| places.get(p).copied())
}

/// Whether one placement enforces what the other does: it may leave more to the broker.
fn is_alike(stands: &Placement, wanted: &Placement) -> bool {
    let same = Placement {
        brokered: stands.brokered,
        // How the copy layer is made says nothing of what it lets through.
        surface: stands.surface,
        ..wanted.clone()
    };
    *stands == same && (stands.brokered || !wanted.brokered)
}

/// A place and what lies between it and the places below it.
struct Region<'a> {
    change: &'a Change<'a>,
    place: &'a Path,
    below: Vec<PathBuf>,
}

impl Region<'_> {
    fn answers(&self, verb: Verb) -> agentwall_policy::Region {
        let Change {
            policy,
            subject,
            facts,
            ..
        } = self.change;
        policy.region(subject, verb, self.place, &self.below, facts)
    }

    /// Whether everything may be read, but what is `left_out`.
    fn shows_all(&self, left_out: &[PathBuf]) -> bool {
        let Change {
            policy,
            subject,
            facts,
            ..
        } = self.change;
        let inside = |p: &&PathBuf| p.as_path() != self.place && is_within(p, self.place);
        let left_out = left_out.iter().filter(inside);
        let except: Vec<PathBuf> = self.below.iter().chain(left_out).cloned().collect();
        let read = policy.region(subject, Verb::FileRead, self.place, &except, facts);
        read.effects.iter().all(|e| e.proceeds()) && !read.monitored
    }

    fn denies(&self, verbs: &[Verb]) -> bool {
        verbs.iter().all(|verb| {
            let answer = self.answers(*verb);
            // An empty region has no effects.
            answer.effects.iter().all(|e| *e == Effect::Deny) && !answer.monitored
        })
    }

    fn isolates(&self) -> bool {
        let mut changes = FILE_CHANGES.iter();
        changes.any(|verb| self.answers(*verb).effects.contains(&Effect::Isolate))
    }

    /// Whether what stands enforces the policy here though the plan is another; why not.
    fn is_carried(&self, stands: &Placement, wanted: &Placement) -> Result<(), &'static str> {
        if stands.hidden {
            // As the planner has it: a rule that denies reading hides programs, too.
            let denied = self.denies(&[Verb::FileRead])
                && self.denies(&FILE_CHANGES)
                && (self.denies(&STARTS) || self.answers(Verb::FileRead).rule.is_some());
            return match denied {
                true => Ok(()),
                false => Err("is to be seen, and is hidden"),
            };
        }
        if wanted.hidden {
            // Every open is decided, so nothing of it is read, written, loaded or listed. Names that
            // are not there yet may be isolated all the same, which only a copy can do.
            let decided = self.change.standing.trap_reads
                && (stands.brokered || stands.writes == Writes::None)
                && !(stands.writes == Writes::Direct && self.isolates());
            return match decided {
                true => Ok(()),
                false => Err("is to be hidden, and is seen"),
            };
        }
        if stands.noexec != wanted.noexec || stands.startable != wanted.startable {
            return Err(match wanted.startable && !wanted.noexec {
                true => "is to hold programs, and nothing is started or loaded from it",
                false => "is not to hold programs, and they are started or loaded from it",
            });
        }
        match (stands.writes, stands.brokered) {
            (Writes::None, _) => match self.denies(&FILE_CHANGES) {
                true => Ok(()),
                false => Err("is to be changed, and is read-only"),
            },
            (Writes::Isolated, true) if wanted.writes != Writes::Direct => Ok(()),
            (Writes::Private, true) if matches!(wanted.writes, Writes::Private | Writes::None) => {
                Ok(())
            }
            // A copy of the tree serves a file in it as well as a copy of the file.
            (Writes::Isolated, false) if wanted.writes == Writes::Private => Ok(()),
            // Only a copy can isolate.
            (Writes::Direct, true) if wanted.writes == Writes::Direct || !self.isolates() => Ok(()),
            (stands, _) if stands != wanted.writes => Err(match wanted.writes {
                Writes::None => "is to be read-only, and is changed",
                Writes::Direct => "is to be changed in place, and is not",
                _ => "is to be isolated, and is not",
            }),
            _ => Err("is to be changed only as decided for each name, and is changed as a whole"),
        }
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
