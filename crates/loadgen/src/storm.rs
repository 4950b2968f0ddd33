//! A storm: all sockets are cut at once, messages are published while they are away, and all come back at once.
//!
//! Where clients recover (`--recover`), each remembers the position that its subscription was told, comes back by the native command
//! `subscribe` with that position as `since`, and is back when it has all that it missed.

mod returning;

use std::time::{Duration, Instant};

use clap::Args;

use self::returning::{First, Returning};
use crate::{
    LoadError,
    engine::{CONNECTING, Engine},
    literal::Literal,
    process::{self, Spent},
    publisher::Publisher,
    tally::percentile,
    target::Target,
};

/// How long all sockets may take to be opened for the first time.
const OPENING: Duration = Duration::from_secs(120);
/// How long the server may take to notice that all are gone.
const CLOSING: Duration = Duration::from_secs(60);
/// How long the storm may last.
const STORM: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Messages that are published on each channel while all are away.
    #[arg(long, default_value_t = 10)]
    messages: usize,
    /// Ask for what was missed, by the position that the first subscription told. The path's `channels=` is left out then:
    /// clients come back by command.
    #[arg(long)]
    recover: bool,
    /// The channel that the command names.
    #[arg(long, default_value = "bench:{n}")]
    channel: String,
    /// Messages that each socket has to get before it is back; where missing all that were published with --recover, else none.
    #[arg(long)]
    expect: Option<usize>,
    /// Seconds between publishing and coming back: brokers take messages in a while.
    #[arg(long, default_value_t = 1.0)]
    away: f64,
    /// Sockets that connect at one time. More than a server's listener holds (often 511) wait for the kernel to try again after
    /// a second, and measure that.
    #[arg(long, default_value_t = 500)]
    concurrency: usize,
}

impl Options {
    fn expected(&self) -> u64 {
        self.expect.unwrap_or(if self.recover { self.messages } else { 0 }) as u64
    }

    /// How sockets come back.
    fn again(&self) -> Target {
        let mut again = self.target.clone();
        if self.recover {
            again.path = without_channels(&again.path);
            again.subscribed = Literal { bytes: br#""recovered":"#.to_vec(), binary: false };
        }
        again
    }
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let again = options.again();
    let mut storm = Engine::new(&again, options.concurrency)?;
    storm.attach(Publisher::connect(&again, Instant::now())?)?;
    let without = process::descriptors(&again.pids)?;

    let mut first = First::new(options.target.sockets);
    let mut calm = Engine::new(&options.target, CONNECTING)?;
    calm.open_all(OPENING, &mut first)?;
    let mut returning = Returning::new(again.sockets, options.expected(), &again.marker.bytes);
    if options.recover {
        for socket in 0..again.sockets {
            let channel = again.filled(&options.channel, socket);
            storm.set_hello(socket, returning::subscribe(&channel, first.position(socket)?));
        }
    }

    let before = again.usage()?;
    calm.cut_all(true);
    process::wait_until_closed(&again.pids, without, CLOSING)?;
    let cut = again.usage()?.since(&before);
    drop(calm);

    for channel in 0..again.channels {
        storm.publisher().publish(channel, options.messages, Instant::now());
    }
    storm.publisher().flush()?;
    let away = Instant::now() + Duration::from_secs_f64(options.away);
    storm.run(away, &mut returning, |_, _| false)?;

    let before = again.usage()?;
    come_back(&mut storm, &mut returning)?;
    let spent = again.usage()?.since(&before);
    returning.check()?;
    report(options, &mut returning, &cut, &spent);
    Ok(())
}

/// All at once, and again where the server did not take one, until all are back.
fn come_back(storm: &mut Engine<'_>, returning: &mut Returning) -> Result<(), LoadError> {
    let deadline = Instant::now() + STORM;
    storm.dial_all();
    while !returning.all_are_back() && Instant::now() < deadline {
        storm.turn(Some(deadline), returning)?;
        for socket in returning.refused() {
            storm.dial(socket);
        }
    }
    if storm.open() < returning.sockets() {
        let (open, all) = (storm.open(), returning.sockets());
        let why = returning.reason();
        return Err(LoadError::Failed(format!("{open} of {all} sockets were back after {STORM:?}; {why}")));
    }
    Ok(())
}

fn report(options: &Options, returning: &mut Returning, cut: &Spent, spent: &Spent) {
    let took = returning.took();
    crate::say(&serde_json::json!({
        "sockets": options.target.sockets,
        "channels": options.target.channels,
        "messages": options.messages,
        "seconds": spent.wall.as_secs_f64(),
        "cpu_s": spent.server.as_secs_f64(),
        "broker_cpu_s": spent.broker.map(|cpu| cpu.as_secs_f64()),
        "client_cpu_s": spent.load.as_secs_f64(),
        "cut_seconds": cut.wall.as_secs_f64(),
        "cut_cpu_s": cut.server.as_secs_f64(),
        "latency_p50_ms": percentile(took, 0.5),
        "latency_p99_ms": percentile(took, 0.99),
        "recovered": returning.recovered(),
        "proven": returning.proven(),
        "lost": returning.lost(),
        "retries": returning.retries(),
    }));
}

/// A path whose query has no `channels`.
fn without_channels(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let kept: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("channels=")).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_left_out_of_a_path() {
        for (path, expected) in [
            ("/ws", "/ws"),
            ("/ws?channels=bench:{n}", "/ws"),
            ("/ws?channels=bench:{n}&token={token}", "/ws?token={token}"),
            ("/ws?token={token}&channels=a&presence=true", "/ws?token={token}&presence=true"),
        ] {
            assert_eq!(without_channels(path), expected);
        }
    }
}
