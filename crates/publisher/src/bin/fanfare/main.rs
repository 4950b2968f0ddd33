//! `fanfare`: publish, subscribe and make tokens from a shell.

mod exit;
mod lines;
mod output;
mod positions;
mod publish;
mod redis_functions;
mod subscribe;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::Failed;

/// Publish events to Fanfare, see what comes, and make tokens.
#[derive(Parser)]
#[command(name = "fanfare", version, after_long_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Publish(publish::Arguments),
    RedisFunctions(redis_functions::Arguments),
    Subscribe(subscribe::Arguments),
    Token(token::Arguments),
}

/// What needs a runtime.
enum Networked {
    Publish(publish::Arguments),
    Subscribe(subscribe::Arguments),
}

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if let Some(message) = failed.message() {
                eprintln!("fanfare: {message}");
            }
            failed.code()
        }
    }
}

fn run(command: Command) -> Result<(), Failed> {
    let command = match command {
        Command::RedisFunctions(redis_functions::Arguments {}) => return redis_functions::run(),
        Command::Token(arguments) => {
            install_crypto_provider();
            return token::run(&arguments);
        }
        Command::Publish(arguments) => Networked::Publish(arguments),
        Command::Subscribe(arguments) => Networked::Subscribe(arguments),
    };
    install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failed::other(format!("the runtime cannot start: {error}")))?;
    match command {
        Networked::Publish(arguments) => runtime.block_on(publish::run(arguments)),
        Networked::Subscribe(arguments) => runtime.block_on(subscribe::run(arguments)),
    }
}

/// One provider for the whole program.
fn install_crypto_provider() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing has installed one before main");
}
