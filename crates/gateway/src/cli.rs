//! The command line of `fanfare-gateway`.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Inputs, Overrides};

/// What is left to do after the command line was read.
#[derive(Debug)]
pub enum Outcome {
    /// Run a node.
    Serve(Box<Config>),
    /// Everything was said; end with this code.
    Exit(ExitCode),
}

const EXAMPLES: &str = "Examples:
  fanfare-gateway
      Development mode: this machine only, embedded broker, no authentication.
  FANFARE_AUTH__HMAC_SECRET_FILE=/run/secrets/jwt FANFARE_API_KEY_FILE=/run/secrets/api \\
  fanfare-gateway --listen 0.0.0.0:8000 --internal-listen 0.0.0.0:9000 --broker nats://nats:4222
      A node of a cluster.
  fanfare-gateway check-config --config /etc/fanfare.toml
      Everything that is wrong with a configuration; exit code 1 if anything is.
  fanfare-gateway config --print
      The configuration in effect, secrets masked.

Every key of the file is also an environment variable: limits.outbox_bytes is FANFARE_LIMITS__OUTBOX_BYTES.
Flags override variables, and variables override the file.";

/// A node of Fanfare: services publish to NATS or Redis, and browsers and apps get it over WebSockets.
#[derive(Debug, Parser)]
#[command(name = "fanfare-gateway", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and tell everything that is wrong with it; exit code 0 or 1.
    CheckConfig,
    /// Show the configuration.
    Config {
        /// Print the configuration in effect as TOML: every default spelt out, secrets masked.
        #[arg(long, required = true)]
        print: bool,
    },
    /// Print the function library by which presence is kept in Redis, for those who load it by hand: nodes do so where they may.
    PresenceFunctions,
}

#[derive(Debug, Args)]
struct Options {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "FANFARE_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Public listener: WebSockets. Port 0 picks a free one. [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT", global = true)]
    listen: Option<String>,
    /// Internal listener: API, metrics, health. [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS:PORT", global = true)]
    internal_listen: Option<String>,
    /// Broker: memory:, nats://host:4222, tls://…, redis://host:6379, rediss://… or redis-sentinel://host:26379/SERVICE
    #[arg(long, value_name = "URL", global = true)]
    broker: Option<String>,
    /// Store of presence: memory:, redis://host:6379, rediss://…, redis-sentinel://host:26379/SERVICE or redis-cluster://… [default:
    /// the broker, unless it is NATS]
    #[arg(long, value_name = "URL", global = true)]
    presence: Option<String>,
    /// Shards, each a thread with its part of the connections; 0 is one per core. [default: 0]
    #[arg(long, value_name = "COUNT", global = true)]
    shards: Option<String>,
    /// What is logged: error, warn, info, debug, trace, or directives such as info,fanfare_gateway=debug. [default: info]
    #[arg(long, value_name = "LEVEL", global = true)]
    log_level: Option<String>,
    /// How a line of the log looks: text or json. [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    log_format: Option<String>,
}

/// Reads arguments, file and environment of this process, and does what needs no node.
pub fn run() -> Outcome {
    let arguments = Arguments::parse();
    let Options { config, listen, internal_listen, broker, presence, shards, log_level, log_format } =
        arguments.options;
    let overrides = Overrides { listen, internal_listen, broker, presence, shards, log_level, log_format };
    let inputs = Inputs::from_process(config, overrides);
    carry_out(arguments.command, &inputs, &mut io::stdout(), &mut io::stderr())
}

/// The command line as a person here can type it: the one that was built beside this program, else by its name.
fn command_line() -> String {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("fanfare")).filter(|path| path.exists());
    let Some(path) = beside else { return "fanfare".into() };
    let below_here = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    below_here.unwrap_or(path).display().to_string()
}

/// Says how to try a node in development mode. On standard error: standard output belongs to the line that says it is ready.
pub fn greet(public: SocketAddr, internal: SocketAddr) {
    let fanfare = command_line();
    let text = format!(
        "
Development mode: no authentication is configured, so only this machine is served.
Try it in another terminal:

  {fanfare} subscribe --url ws://{public}/ws project:1
  {fanfare} publish --url http://{internal} project:1 hello '{{\"text\":\"Hello\"}}'

"
    );
    // Nobody reads it, then nobody misses it.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn carry_out(command: Option<Command>, inputs: &Inputs, out: &mut dyn io::Write, err: &mut dyn io::Write) -> Outcome {
    if let Some(Command::PresenceFunctions) = command {
        return ended(out.write_all(fanfare_presence::REDIS_FUNCTIONS.as_bytes()));
    }
    let config = match Config::load(inputs) {
        Ok(config) => config,
        Err(problems) => {
            let count = problems.0.len();
            let noun = if count == 1 { "problem" } else { "problems" };
            let _ = writeln!(err, "{count} {noun} in the configuration:\n{problems}");
            return Outcome::Exit(ExitCode::FAILURE);
        }
    };
    let written = match command {
        None => return Outcome::Serve(Box::new(config)),
        Some(Command::CheckConfig) => {
            let warnings = config.warnings.iter().try_for_each(|warning| writeln!(err, "warning: {warning}"));
            warnings.and_then(|()| writeln!(err, "the configuration is valid"))
        }
        Some(Command::Config { .. }) => out.write_all(config.to_toml().as_bytes()),
        Some(Command::PresenceFunctions) => unreachable!("it needs no configuration"),
    };
    ended(written)
}

fn ended(written: io::Result<()>) -> Outcome {
    Outcome::Exit(if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn outcome(command: Option<Command>, listen: &str) -> (Outcome, String, String) {
        let overrides = Overrides { listen: Some(listen.into()), ..Overrides::default() };
        let inputs = Inputs { overrides, ..Inputs::default() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let outcome = carry_out(command, &inputs, &mut out, &mut err);
        (outcome, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn is_code(outcome: &Outcome, code: ExitCode) -> bool {
        matches!(outcome, Outcome::Exit(exit) if format!("{exit:?}") == format!("{code:?}"))
    }

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_a_command_a_node_runs() {
        assert!(matches!(outcome(None, "127.0.0.1:0").0, Outcome::Serve(config) if config.development));
    }

    #[test]
    fn check_config_tells_what_is_wrong() {
        let (result, out, err) = outcome(Some(Command::CheckConfig), "nowhere");
        assert!(is_code(&result, ExitCode::FAILURE));
        assert_eq!(out, "");
        assert_eq!(
            err,
            "1 problem in the configuration:\nlisten = \"nowhere\" (flag --listen): must be an address with a port, such as \
             127.0.0.1:8000, 0.0.0.0:8000 or [::1]:8000; port 0 picks a free one\n"
        );
        let (result, _, err) = outcome(Some(Command::CheckConfig), "127.0.0.1:0");
        assert!(is_code(&result, ExitCode::SUCCESS));
        assert_eq!(err, "the configuration is valid\n");
    }

    #[test]
    fn functions_are_printed_whatever_the_configuration() {
        let (result, out, err) = outcome(Some(Command::PresenceFunctions), "nowhere");
        assert!(is_code(&result, ExitCode::SUCCESS) && err.is_empty());
        assert!(out.starts_with("#!lua name=fanfare_presence_v1\n") && out.ends_with('\n'));
    }

    #[test]
    fn print_shows_what_is_in_effect() {
        let (result, out, _) = outcome(Some(Command::Config { print: true }), "127.0.0.1:4242");
        assert!(is_code(&result, ExitCode::SUCCESS));
        assert!(out.contains("listen = \"127.0.0.1:4242\"\n"), "{out}");
        assert!(out.contains("outbox_bytes = \"4MiB\"\n"), "{out}");
    }

    #[test]
    fn flags_may_stand_on_both_sides_of_the_command() {
        for words in [["--listen", "x", "check-config"], ["check-config", "--listen", "x"]] {
            let arguments = Arguments::try_parse_from(["fanfare-gateway"].into_iter().chain(words)).unwrap();
            assert_eq!(arguments.options.listen.as_deref(), Some("x"));
        }
        assert!(Arguments::try_parse_from(["fanfare-gateway", "config"]).is_err());
    }
}
