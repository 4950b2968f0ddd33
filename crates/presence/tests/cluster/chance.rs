//! What is left to chance follows from the seed, and from what it is asked for: not from how often it was asked before.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn draw(self, what: impl Hash) -> u64 {
        // The same in every process.
        let mut hasher = DefaultHasher::new();
        (self.0, what).hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn percent(self, percent: u64, what: impl Hash) -> bool {
        self.draw(("percent", what)) % 100 < percent
    }

    /// At least one of these units.
    pub(crate) fn up_to(self, longest: Duration, what: impl Hash) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap();
        Duration::from_micros(1 + self.draw(("up to", what)) % micros)
    }
}
