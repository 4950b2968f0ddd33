//! A closed loop: so many messages in flight, and more of them while that makes it faster.

use std::time::{Duration, Instant};

use clap::Args;

use crate::{LoadError, process::Spent, tally::percentile, target::Target, traffic::Traffic};

/// How long one number of messages in flight is tried.
const STEP: Duration = Duration::from_secs(1);
/// Before that, and before what is reported.
const WARMING: Duration = Duration::from_millis(300);
/// Twice as many in flight are worth it while they are faster by so much.
const GROWTH: f64 = 1.05;
/// Steps in a row that are not faster, or too late, and end the search: one may be bad luck.
const PATIENCE: usize = 2;
/// Messages in flight, at most.
const MOST: u64 = 1 << 14;
/// A server that needs longer, in milliseconds at the 99th percentile, has too many in flight.
const LATENCY: f64 = 250.0;
/// When nothing has come for so long, what is in flight is lost.
const STUCK: Duration = Duration::from_secs(5);
/// How long what is in flight at the end may take.
const DRAINING: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// How long the best number of messages in flight is measured, in seconds. Finding it takes a second for each that is tried.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Messages in flight, instead of finding their number.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=MOST))]
    in_flight: Option<u64>,
}

/// What so many messages in flight gave.
struct Step {
    in_flight: u64,
    deliveries: u64,
    spent: Spent,
    p50: Option<f64>,
    p99: Option<f64>,
}

impl Step {
    fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.spent.wall.as_secs_f64()
    }

    fn in_time(&self) -> bool {
        self.p99.is_some_and(|p99| p99 < LATENCY)
    }
}

/// Which number of messages in flight comes next; pure.
#[derive(Debug, Default)]
struct Search {
    best: Option<(u64, f64)>,
    stale: usize,
}

impl Search {
    /// Takes what a step gave, nothing where messages were lost; says what to try next, unless enough is known.
    fn next(&mut self, in_flight: u64, gave: Option<f64>, in_time: bool) -> Option<u64> {
        let gave = gave?;
        let before = self.best.map_or(0.0, |(_, best)| best);
        self.stale = if in_time && gave > before * GROWTH { 0 } else { self.stale + 1 };
        if in_time && gave > before {
            self.best = Some((in_flight, gave));
        }
        (self.stale < PATIENCE && in_flight < MOST).then_some(in_flight * 2)
    }
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let mut traffic = Traffic::open(&options.target, options.target.sockets, Duration::ZERO, |_| {})?;
    traffic.attach_publisher()?;
    let mut best = match options.in_flight {
        Some(in_flight) => in_flight,
        None => find(&mut traffic)?,
    };
    // What went well for a second may not for longer.
    loop {
        let step = step(&mut traffic, best, Duration::from_secs_f64(options.seconds))?;
        let all = traffic.settle(DRAINING)?;
        let lost = traffic.lost()?;
        if let Some(step) = step
            && (best == 1 || options.in_flight.is_some() || all && step.in_time())
        {
            report(options, &traffic, &step, lost);
            return Ok(());
        }
        if best == 1 || options.in_flight.is_some() {
            let what = format!("nothing came for {STUCK:?} with {best} messages in flight; {lost} deliveries are lost");
            return Err(LoadError::Failed(what));
        }
        best /= 2;
        reopen(&mut traffic)?;
    }
}

/// The number of messages in flight with which the server delivers most, in time and without loss.
fn find(traffic: &mut Traffic<'_>) -> Result<u64, LoadError> {
    let (mut search, mut in_flight) = (Search::default(), 1);
    loop {
        let step = step(traffic, in_flight, STEP)?;
        let (gave, in_time) = (step.as_ref().map(Step::per_second), step.as_ref().is_some_and(Step::in_time));
        match search.next(in_flight, gave, in_time) {
            Some(next) => in_flight = next,
            None => break,
        }
    }
    reopen(traffic)?;
    Ok(search.best.map_or(1, |(in_flight, _)| in_flight))
}

/// Waits until all that still comes has come, brings back sockets that were cut, and begins anew.
fn reopen(traffic: &mut Traffic<'_>) -> Result<(), LoadError> {
    traffic.settle(DRAINING)?;
    let unheard = traffic.tally.closed();
    if unheard > 0 {
        traffic.engine.open_all(crate::traffic::OPENING, &mut traffic.tally)?;
    }
    traffic.reset();
    Ok(())
}

/// Keeps up to `in_flight` messages in flight for so long. Nothing where some of them are lost.
fn step(traffic: &mut Traffic<'_>, in_flight: u64, lasting: Duration) -> Result<Option<Step>, LoadError> {
    let closed = traffic.tally.closed();
    if !keep(traffic, in_flight, WARMING, closed)? {
        return Ok(None);
    }
    traffic.tally.forget_latencies();
    let (before, count) = (traffic.target.usage()?, traffic.tally.total());
    let all = keep(traffic, in_flight, lasting, closed)?;
    let spent = traffic.target.usage()?.since(&before);
    let deliveries = traffic.tally.total() - count;
    let latencies = traffic.tally.latencies();
    let (p50, p99) = (percentile(latencies, 0.5), percentile(latencies, 0.99));
    Ok(all.then_some(Step { in_flight, deliveries, spent, p50, p99 }))
}

/// Publishes whenever half of what may be in flight has come, so that messages come in company as they do where there are
/// many. Says whether messages still came, and to all sockets, in the end.
fn keep(traffic: &mut Traffic<'_>, in_flight: u64, lasting: Duration, closed: u64) -> Result<bool, LoadError> {
    let (channels, sockets) = (traffic.target.channels, traffic.target.sockets as u64);
    let end = Instant::now() + lasting;
    let (mut heard, mut last, mut turn) = (traffic.tally.total(), Instant::now(), 0);
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(true);
        }
        // In deliveries, of which a message makes as many as its channel has sockets: on average so many.
        let under_way = (traffic.outstanding() * channels as u64).div_ceil(sockets);
        if under_way <= in_flight / 2 {
            let missing = in_flight - under_way;
            let each = (missing as usize).div_ceil(channels);
            for _ in 0..(missing as usize).min(channels) {
                traffic.publish(turn, each, now);
                turn = (turn + 1) % channels;
            }
            traffic.flush()?;
        }
        traffic.turn(end.min(last + STUCK))?;
        if traffic.tally.total() != heard {
            (heard, last) = (traffic.tally.total(), Instant::now());
        }
        if last.elapsed() >= STUCK || traffic.tally.closed() > closed {
            return Ok(false);
        }
    }
}

fn report(options: &Options, traffic: &Traffic<'_>, step: &Step, lost: u64) {
    let per_delivery = |cpu: Duration| cpu.as_secs_f64() * 1e6 / step.deliveries as f64;
    let spent = &step.spent;
    crate::say(&serde_json::json!({
        "sockets": options.target.sockets,
        "channels": options.target.channels,
        "bytes": options.target.bytes,
        "in_flight": step.in_flight,
        "deliveries_per_s": step.per_second(),
        "deliveries_per_cpu_s": step.deliveries as f64 / spent.server.as_secs_f64(),
        "cpu_us_per_delivery": per_delivery(spent.server),
        "broker_us_per_delivery": spent.broker.map(per_delivery),
        "client_us_per_delivery": per_delivery(spent.load),
        "latency_p50_ms": step.p50,
        "latency_p99_ms": step.p99,
        "lost": lost,
        "closed": traffic.tally.closed(),
        "server_load": spent.share(spent.server),
        "client_load": spent.share(spent.load),
        "broker_load": spent.broker.map(|broker| spent.share(broker)),
        "idle_bytes_per_socket": traffic.idle_bytes,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tried of a server that gives so much with 1, 2, 4 … in flight, and what is best. Steps are late from one on.
    fn tried(gives: &[Option<f64>], late_from: usize) -> (Vec<u64>, Option<u64>) {
        let (mut search, mut tried, mut in_flight) = (Search::default(), Vec::new(), 1);
        for (index, gave) in gives.iter().enumerate() {
            tried.push(in_flight);
            match search.next(in_flight, *gave, gave.is_some() && index < late_from) {
                Some(next) => in_flight = next,
                None => break,
            }
        }
        (tried, search.best.map(|(in_flight, _)| in_flight))
    }

    #[test]
    fn the_number_in_flight_doubles_while_that_is_faster() {
        let gives = [100.0, 180.0, 150.0, 300.0, 302.0, 301.0, 900.0].map(Some);
        assert_eq!(
            tried(&gives, 7),
            (vec![1, 2, 4, 8, 16, 32], Some(16)),
            "one bad step is passed over, two are the end"
        );
    }

    #[test]
    fn what_is_late_or_lost_is_not_best() {
        let gives = [100.0, 200.0, 400.0].map(Some);
        assert_eq!(tried(&gives, 2), (vec![1, 2, 4], Some(2)));
        assert_eq!(tried(&gives, 0), (vec![1, 2], None), "two late steps are the end");
        assert_eq!(tried(&[Some(100.0), None], 2), (vec![1, 2], Some(1)));
        assert_eq!(tried(&[None], 1), (vec![1], None));
    }
}
