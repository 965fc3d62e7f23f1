//! How complete the evidence is: what the next session will do that nothing seen so far covers.
//!
//! Good (1953) and Turing: the chance that the next observation is of a kind that was never seen is
//! about the share of kinds that were seen once. A kind here is a proposed pattern, the unit is a
//! session: actions inside one are not independent, but whether a session needs a pattern at all nearly
//! is. With `Q1` patterns that only one of the sessions used and `A` distinct actions in all of them,
//! the next session asks about `Q1` out of `A` of its actions.

use serde::Serialize;

/// The estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Distinct actions, summed over the sessions.
    pub actions: usize,
    /// Sessions that gave evidence.
    pub sessions: usize,
    /// Patterns that were needed by one session only.
    pub seen_once: usize,
    /// One new question per so many actions; a lower bound when `seen_once` is zero.
    pub one_question_per: usize,
}

impl Estimate {
    /// From the number of patterns that one session needed.
    pub(crate) fn new(actions: usize, sessions: usize, seen_once: usize) -> Self {
        Estimate {
            actions,
            sessions,
            seen_once,
            one_question_per: match seen_once {
                // Nothing of a chance p in n draws: p < 3/n with 95 % confidence (the rule of three).
                0 => actions / 3,
                once => actions / once,
            },
        }
    }

    /// A sentence for people.
    pub fn sentence(&self) -> String {
        match (self.sessions, self.seen_once) {
            (0, _) => "nothing was observed".to_owned(),
            (1, _) => {
                "one session says nothing about the next one: record at least one more".to_owned()
            }
            (_, 0) => format!(
                "expect fewer than one new question per {} actions (no pattern was needed only once)",
                self.one_question_per
            ),
            (_, once) => format!(
                "expect one new question per about {} actions ({once} of the patterns were needed by \
                 one session only)",
                self.one_question_per
            ),
        }
    }
}
