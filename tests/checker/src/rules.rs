//! What a namespace keeps, and so what its clients may miss.

use std::time::Duration;

use crate::order::{Numbering, Place};

/// What the configuration says of a namespace, and what the test did to its broker.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Publications that a channel retains.
    pub size: usize,
    /// How long it retains them.
    pub ttl: Duration,
    /// The most publications that one recovery may have.
    pub recovery_publications: usize,
    /// The most bytes that one recovery may have.
    pub recovery_bytes: usize,
    /// Whether the broker failed over to a replica in this run, which may begin a new epoch.
    pub failed_over: bool,
}

impl Default for Rules {
    /// Everything is retained and can be recovered: nothing may be missed.
    fn default() -> Self {
        Self {
            size: usize::MAX,
            ttl: Duration::MAX,
            recovery_publications: usize::MAX,
            recovery_bytes: usize::MAX,
            failed_over: false,
        }
    }
}

impl Rules {
    /// Why what lies behind `since` cannot all be had any more at a time, if that can be proven; else why not.
    ///
    /// A broker may need the publication at `since` itself to prove that nothing behind it was trimmed, so it may say so one
    /// publication early. The bytes of a recovery are more than those of its data, so they prove too little, never too much.
    pub(crate) fn missable(&self, numbering: &Numbering, since: u64, at: Duration) -> Result<&'static str, String> {
        self.trimmed(numbering, since, at).or_else(|reason| {
            let behind = || numbering.behind(since).filter(|(_, place)| place.begun <= at);
            let (count, bytes) = (behind().count(), behind().map(|(_, place)| place.bytes).sum::<usize>());
            let (publications, most_bytes) = (self.recovery_publications, self.recovery_bytes);
            if count > publications || bytes > most_bytes {
                return Ok("recovery limit");
            }
            Err(format!("{reason}; they have {bytes} bytes, and {publications} of {most_bytes} bytes can be recovered"))
        })
    }

    /// Why the publication at an offset (or the first behind it) is no longer retained at a time, if that can be proven; else
    /// why not.
    pub(crate) fn trimmed(&self, numbering: &Numbering, offset: u64, at: Duration) -> Result<&'static str, String> {
        let mut behind = numbering.behind(offset).filter(|(_, place)| place.begun <= at).peekable();
        let oldest: Option<&Place> = numbering.at(offset).or_else(|| behind.peek().map(|(_, place)| *place));
        let age = oldest.map_or(Duration::ZERO, |place| at.saturating_sub(place.begun));
        let count = behind.count();
        if count >= self.size {
            return Ok("size");
        }
        if age >= self.ttl {
            return Ok("ttl");
        }
        let Self { size, ttl, .. } = self;
        Err(format!(
            "{count} publications, the oldest {age:?} old, lay behind {offset}, and {size} are kept for {ttl:?}"
        ))
    }
}
