//! `fanfare-load`: load from outside. It speaks only the protocol, so it checks a node as a client would.

mod engine;
mod fanout;
mod floor;
mod literal;
mod process;
mod publisher;
mod tally;
mod target;
mod token;

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
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare-load: {error}");
            ExitCode::FAILURE
        }
    }
}
