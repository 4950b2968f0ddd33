//! What the sockets have got: events by socket, and how long some of them took.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use memchr::memmem::Finder;

use crate::{
    LoadError,
    engine::{Hooks, frame::Frame, inflate::Inflater},
    target::Target,
};

/// What stands before the time in an event where the marker says nothing: see `publisher::event`.
const STAMP: &[u8] = b"\"t\":";
/// Sockets that measure latency, at least, where there are so many.
const SAMPLE: usize = 100;
/// At most one of so many measures, where there are many.
const SPARSE: usize = 50;

/// Counts what comes. The first `steady` sockets are those that must miss nothing; what others get is counted apart.
pub(crate) struct Tally {
    marker: Option<Finder<'static>>,
    stamp: Finder<'static>,
    epoch: Instant,
    received: Vec<u64>,
    sampled: Vec<bool>,
    total: u64,
    steady: usize,
    others: u64,
    latencies: Vec<Duration>,
    inflater: Inflater,
    closed: Vec<usize>,
    reason: Option<String>,
}

impl Tally {
    /// For the target's sockets. Times in events count from `epoch`.
    pub(crate) fn new(target: &Target, steady: usize, epoch: Instant) -> Self {
        let marker = (!target.marker.bytes.is_empty()).then(|| Finder::new(&target.marker.bytes).into_owned());
        let every = (steady / SAMPLE).clamp(1, SPARSE) as u64;
        Self {
            stamp: marker.clone().unwrap_or_else(|| Finder::new(STAMP).into_owned()),
            marker,
            epoch,
            received: vec![0; target.sockets],
            // By a hash, so that channels and servers, which are dealt out in turn, are all in the sample.
            sampled: (0..target.sockets as u64)
                .map(|socket| socket < steady as u64 && ((socket * 0x9E37_79B9) >> 16) % every == 0)
                .collect(),
            total: 0,
            steady,
            others: 0,
            latencies: Vec::new(),
            inflater: Inflater::default(),
            closed: Vec::new(),
            reason: None,
        }
    }

    /// Events that steady sockets got since the last reset.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Events that all sockets got since the last reset.
    pub(crate) fn deliveries(&self) -> u64 {
        self.total + self.others
    }

    /// Sockets that the server ended, ever.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.len() as u64
    }

    /// Of them, those with these numbers.
    pub(crate) fn closed_of(&self, sockets: Range<usize>) -> usize {
        self.closed.iter().filter(|socket| sockets.contains(socket)).count()
    }

    /// How many sockets must miss nothing.
    pub(crate) fn steady(&self) -> usize {
        self.steady
    }

    /// An error that names the first socket that the server ended, if there is one.
    pub(crate) fn all_are_there(&self) -> Result<(), LoadError> {
        self.reason.clone().map_or(Ok(()), |reason| Err(LoadError::Failed(reason)))
    }

    /// Latencies since the last reset, for [`percentile`].
    pub(crate) fn latencies(&mut self) -> &[Duration] {
        self.latencies.sort_unstable();
        &self.latencies
    }

    /// Latencies until now do not count.
    pub(crate) fn forget_latencies(&mut self) {
        self.latencies.clear();
    }

    /// Begins to count anew.
    pub(crate) fn reset(&mut self) {
        self.received.fill(0);
        self.latencies.clear();
        (self.total, self.others) = (0, 0);
    }

    /// How many events steady sockets miss, where each should have what `expected` says of it. To have more is an error:
    /// something came twice.
    pub(crate) fn lost(&self, expected: impl Fn(usize) -> u64) -> Result<u64, LoadError> {
        let mut lost = 0;
        for (socket, got) in self.received[..self.steady].iter().enumerate() {
            let due = expected(socket);
            if *got > due {
                let reason = format!("socket {socket} got {got} events of {due}: some came twice");
                return Err(LoadError::Failed(reason));
            }
            lost += due - got;
        }
        Ok(lost)
    }

    fn count(&mut self, sampled: bool, frame: &Frame<'_>) -> u64 {
        let Some(marker) = self.marker.as_ref().filter(|_| !frame.compressed) else {
            if sampled {
                self.measure(frame);
            }
            return u64::from(frame.opcode != 0);
        };
        if !sampled {
            return marker.find_iter(frame.payload).count() as u64;
        }
        let now = self.epoch.elapsed();
        let mut count = 0;
        for position in marker.find_iter(frame.payload) {
            count += 1;
            if let Some(sent) = time(&frame.payload[position + marker.needle().len()..]) {
                self.latencies.push(now.saturating_sub(sent));
            }
        }
        count
    }

    /// Looks for the time in a frame whose events are not counted.
    fn measure(&mut self, frame: &Frame<'_>) {
        let now = self.epoch.elapsed();
        let payload = if frame.compressed { self.inflater.inflate(frame.payload) } else { frame.payload };
        if let Some(position) = self.stamp.find(payload)
            && let Some(sent) = time(&payload[position + self.stamp.needle().len()..])
        {
            self.latencies.push(now.saturating_sub(sent));
        }
    }
}

impl Hooks for Tally {
    #[inline]
    fn message(&mut self, socket: usize, frame: &Frame<'_>) {
        let count = self.count(self.sampled[socket], frame);
        self.received[socket] += count;
        if socket < self.steady {
            self.total += count;
        } else {
            self.others += count;
        }
    }

    fn opened(&mut self, socket: usize, _: Duration) {
        // What came before the answer to the subscription is no delivery that was waited for.
        self.received[socket] = 0;
    }

    fn closed(&mut self, socket: usize, reason: &str) {
        self.closed.push(socket);
        if socket < self.steady {
            self.reason.get_or_insert_with(|| reason.to_owned());
        }
    }
}

/// The value below which the share `at` of `sorted` lies, in milliseconds.
pub(crate) fn percentile(sorted: &[Duration], at: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * at) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).map(|value| value.as_secs_f64() * 1e3)
}

/// Digits at the beginning: nanoseconds since the run began.
fn time(bytes: &[u8]) -> Option<Duration> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::parsed;

    fn tally(sockets: &str, steady: usize, marker: &str) -> Tally {
        let options = ["--server", "127.0.0.1:1", "--pid", "1", "--sockets", sockets, "--marker", marker];
        Tally::new(&parsed(options), steady, Instant::now())
    }

    fn text(payload: &[u8]) -> Frame<'_> {
        Frame { opcode: 1, compressed: false, payload }
    }

    #[test]
    fn events_are_counted_wherever_they_stand() {
        let mut tally = tally("3", 2, "\"t\":");
        tally.message(0, &text(b"{\"t\":1,\"x\":\"\"}{\"t\":2}"));
        tally.message(1, &text(b"{\"event\":\"system:ping\"}"));
        tally.message(2, &text(b"{\"t\":3}"));
        assert_eq!((tally.total(), tally.deliveries()), (2, 3));
        assert_eq!(tally.latencies().len(), 2, "few sockets are all in the sample, but those that may miss something");
        assert_eq!(tally.lost(|_| 2).unwrap(), 2);
        assert_eq!(tally.lost(|socket| [2, 0][socket]).unwrap(), 0);
        assert!(tally.lost(|_| 1).is_err(), "socket 0 has one too many");
    }

    #[test]
    fn without_a_marker_frames_are_counted() {
        let mut tally = tally("1", 1, "");
        tally.message(0, &text(b"anything"));
        tally.message(0, &Frame { opcode: 0, ..text(b"its end") });
        tally.message(0, &text(b"{\"t\":5}"));
        assert_eq!((tally.total(), tally.latencies().len()), (2, 1));
    }

    #[test]
    fn a_sample_of_many_sockets_takes_some_of_each_channel() {
        let tally = tally("10000", 10_000, "");
        let sampled: Vec<_> = (0..10_000).filter(|socket| tally.sampled[*socket]).collect();
        assert!((150..250).contains(&sampled.len()), "{}", sampled.len());
        for channel in 0..10 {
            assert!(sampled.iter().any(|socket| socket % 10 == channel), "none of channel {channel}");
        }
    }

    #[test]
    fn percentiles_are_those_of_a_sorted_list() {
        let values: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.5), Some(51.0));
        assert_eq!(percentile(&values, 0.99), Some(100.0));
        assert_eq!(percentile(&values, 1.0), Some(100.0));
        assert_eq!(percentile(&values[..1], 0.99), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
