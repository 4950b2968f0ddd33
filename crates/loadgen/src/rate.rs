//! An open loop: messages at an even pace, whatever becomes of them, and beside them what else an application does.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    LoadError, literal::Literal, pacing::Pace, process::Spent, tally::percentile, target::Target, traffic::Traffic,
};

/// How long what was published last may take to come, where it comes at all.
const DEADLINE: Duration = Duration::from_secs(15);
/// The same pace before it counts, for caches, buffers and the scheduler.
const WARMING: Duration = Duration::from_millis(500);
/// How much the kernel holds for a socket that stops reading, in bytes: little, so that the server feels it soon.
const SLOW_BUFFER: usize = 4 * 1024;
/// When nothing was left for so long to sockets that had stopped, those that did not end are still served.
const SLOW_QUIET: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Messages a second, over all channels.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// For so many seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// So many sockets stop reading before the first message.
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// So many sockets a second close and connect again.
    #[arg(long, default_value_t = 0.0)]
    churn: f64,
    /// So many commands a second are sent by clients.
    #[arg(long, default_value_t = 0.0)]
    commands: f64,
    /// The command that clients send.
    #[arg(long, default_value = r#"{"id":7,"type":"ping"}"#)]
    command: Literal,
    /// Seconds to wait before memory is read.
    #[arg(long, default_value_t = 0)]
    settle: u64,
}

impl Options {
    /// Sockets that close and connect again, each once a second where there are enough.
    fn churning(&self) -> usize {
        (self.churn.ceil() as usize).min(self.target.sockets / 2)
    }

    /// Sockets that must get everything: neither slow nor churning. They come first.
    fn steady(&self) -> Result<usize, LoadError> {
        let (slow, churning) = (self.slow, self.churning());
        let steady = self.target.sockets.checked_sub(slow + churning).filter(|steady| *steady > 0);
        let what = || format!("of {} sockets {slow} are slow and {churning} churn: none is left", self.target.sockets);
        steady.ok_or_else(|| LoadError::Failed(what()))
    }
}

/// What else was done while messages were paced.
#[derive(Default)]
struct Beside {
    churned: u64,
    commands: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let target = &options.target;
    let steady = options.steady()?;
    let slow = steady..steady + options.slow;
    let mut traffic = Traffic::open(target, steady, Duration::from_secs(options.settle), |engine| {
        slow.clone().for_each(|socket| engine.set_receive_buffer(socket, SLOW_BUFFER));
    })?;
    traffic.attach_publisher()?;
    slow.clone().try_for_each(|socket| traffic.engine.pause(socket))?;

    drive(options, &mut traffic, WARMING.min(Duration::from_secs_f64(options.seconds)))?;
    traffic.settle(DEADLINE)?;
    traffic.reset();
    let before = target.usage()?;
    let beside = drive(options, &mut traffic, Duration::from_secs_f64(options.seconds))?;
    traffic.settle(DEADLINE)?;
    let spent = target.usage()?.since(&before);
    let lost = traffic.lost()?;
    let deliveries = traffic.tally.deliveries();

    read_slow(&mut traffic, slow)?;
    report(options, &mut traffic, &spent, &beside, deliveries, lost);
    Ok(())
}

/// Reads what was left for sockets that had stopped: those that the server cut come to an end.
fn read_slow(traffic: &mut Traffic<'_>, slow: Range<usize>) -> Result<(), LoadError> {
    slow.clone().try_for_each(|socket| traffic.engine.resume(socket))?;
    let progress = |traffic: &Traffic<'_>| (traffic.tally.deliveries(), traffic.tally.closed());
    let (mut seen, mut changed) = (progress(traffic), Instant::now());
    while traffic.tally.closed_of(slow.clone()) < slow.len() && changed.elapsed() < SLOW_QUIET {
        traffic.turn(changed + SLOW_QUIET)?;
        if progress(traffic) != seen {
            (seen, changed) = (progress(traffic), Instant::now());
        }
    }
    Ok(())
}

/// Publishes at the pace, and does the rest at its own.
fn drive(options: &Options, traffic: &mut Traffic<'_>, lasting: Duration) -> Result<Beside, LoadError> {
    let (steady, channels) = (options.steady()?, options.target.channels as u64);
    let churning = options.target.sockets - options.churning()..options.target.sockets;
    let start = Instant::now();
    let mut messages = Pace::new(start, options.rate, lasting);
    let mut churn = Pace::new(start, if churning.is_empty() { 0.0 } else { options.churn }, lasting);
    let mut commands = Pace::new(start, options.commands, lasting);
    let mut beside = Beside::default();
    loop {
        let now = Instant::now();
        let mut published = false;
        while let Some((number, at)) = messages.take(now) {
            traffic.publish((number % channels) as usize, 1, at);
            published = true;
        }
        if published {
            traffic.flush()?;
        }
        while let Some((number, _)) = churn.take(now) {
            let socket = churning.start + number as usize % churning.len();
            if traffic.engine.is_open(socket) {
                traffic.engine.cut(socket, false);
                beside.churned += 1;
            }
            traffic.engine.dial(socket);
        }
        while let Some((number, _)) = commands.take(now) {
            let socket = number as usize % steady;
            if traffic.engine.is_open(socket) {
                traffic.engine.send(socket, &options.command)?;
                beside.commands += 1;
            }
        }
        match [&messages, &churn, &commands].into_iter().filter_map(Pace::next).min() {
            Some(next) => traffic.turn(next)?,
            None => return Ok(beside),
        }
    }
}

fn report(options: &Options, traffic: &mut Traffic<'_>, spent: &Spent, beside: &Beside, deliveries: u64, lost: u64) {
    let target = &options.target;
    let per_delivery = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries as f64;
    let slow = traffic.tally.steady()..traffic.tally.steady() + options.slow;
    let (slow_closed, closed) = (traffic.tally.closed_of(slow), traffic.tally.closed_of(0..traffic.tally.steady()));
    let idle = traffic.idle_bytes;
    let latencies = traffic.tally.latencies();
    crate::say(&serde_json::json!({
        "sockets": target.sockets,
        "channels": target.channels,
        "rate": options.rate,
        "seconds": options.seconds,
        "bytes": target.bytes,
        "cpu_us_per_delivery": per_delivery(spent.server),
        "broker_us_per_delivery": spent.broker.map(per_delivery),
        "client_us_per_delivery": per_delivery(spent.load),
        "deliveries_per_s": deliveries as f64 / spent.wall.as_secs_f64(),
        "latency_p50_ms": percentile(latencies, 0.5),
        "latency_p99_ms": percentile(latencies, 0.99),
        "latency_max_ms": percentile(latencies, 1.0),
        "idle_bytes_per_socket": idle,
        "server_load": spent.share(spent.server),
        "client_load": spent.share(spent.load),
        "lost": lost,
        "closed": closed,
        "slow_closed": slow_closed,
        "churned": beside.churned,
        "commands": beside.commands,
    }));
}
