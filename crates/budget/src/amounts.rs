//! Amounts: whole micro-units, so that no sum depends on the order of its parts.

/// Micro-units in one unit: a budget of `minute: 100` in a policy is `100 * UNIT`.
pub const UNIT: u64 = 1_000_000;

/// The greatest amount, 2^53 - 1 micro-units, about nine billion units: the greatest integer up to which
/// the numbers of a Redis function are exact. A greater limit counts as this one, a greater cost is refused.
pub const MAX_AMOUNT: u64 = (1 << 53) - 1;

/// Most that may be spent in any rolling minute, hour and day, in micro-units; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// In a minute.
    pub minute: Option<u64>,
    /// In an hour.
    pub hour: Option<u64>,
    /// In a day.
    pub day: Option<u64>,
}

impl Limits {
    /// In the order of [`Window::ALL`](crate::Window::ALL).
    pub(crate) fn each(&self) -> [Option<u64>; 3] {
        [self.minute, self.hour, self.day].map(|l| l.map(|l| l.min(MAX_AMOUNT)))
    }
}
