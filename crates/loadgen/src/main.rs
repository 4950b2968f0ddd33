//! `fanfare-load`: load from outside. It speaks only the protocol, so it checks a node as a client would.

mod engine;
mod fanout;
mod floor;
mod handshake;
mod idle;
mod literal;
mod opening;
mod pacing;
mod presence;
mod process;
mod publisher;
mod rate;
mod saturate;
mod storm;
mod tally;
mod target;
mod token;
mod traffic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "fanfare-load", version, about = "Load from outside, and the floor to compare with")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A server that does nothing but send(): what the kernel itself costs.
    Floor(floor::Options),
    /// Many sockets, in rounds: CPU of the server per delivery, and latency.
    Fanout(Box<fanout::Options>),
    /// Sockets that come and go: CPU of the server per handshake, until it is subscribed, and per close.
    Handshake(Box<handshake::Options>),
    /// Sockets that do nothing: memory of the server for each.
    Idle(Box<idle::Options>),
    /// Members that leave and come back: CPU of the server per change.
    Presence(Box<presence::Options>),
    /// All sockets are cut at once and come back at once, for what they missed too: how long it takes.
    Storm(Box<storm::Options>),
    /// Messages at an even pace: latency, and what slow and churning sockets do to the others.
    Rate(Box<rate::Options>),
    /// As many messages as the server takes: deliveries per second.
    Saturate(Box<saturate::Options>),
}

/// What went wrong, for people.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("{what}: {reason}")]
    Io { what: String, reason: std::io::Error },
    #[error("{0}")]
    Failed(String),
}

impl LoadError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        |reason| Self::Io { what, reason }
    }
}

/// Prints figures as one line of JSON.
fn say(figures: &serde_json::Value) {
    use std::io::Write as _;
    // Whoever has gone away does not want them.
    let _ = writeln!(std::io::stdout(), "{figures}");
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Floor(options) => floor::run(&options),
        Command::Fanout(options) => fanout::run(&options),
        Command::Handshake(options) => handshake::run(&options),
        Command::Idle(options) => idle::run(&options),
        Command::Presence(options) => presence::run(&options),
        Command::Storm(options) => storm::run(&options),
        Command::Rate(options) => rate::run(&options),
        Command::Saturate(options) => saturate::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare-load: {error}");
            ExitCode::FAILURE
        }
    }
}
