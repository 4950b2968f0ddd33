//! `fanfare publish`: one event, or one for each line of a file or of standard input.

use std::{
    fs::File,
    io::{self, BufReader, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use fanfare_protocol::Channel;
use fanfare_publisher::{
    Acceptance, BatchError, Builder, ConnectError, Position, Publication, PublishError, Publisher, Retention,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    exit,
    exit::Failed,
    lines::{LINE_BYTES, Line, Lines},
    output,
};

/// Lines that go out together.
const LINES_AT_ONCE: usize = 256;

const EXAMPLES: &str = r#"Examples:
  fanfare publish project:clx123 project:funded '{"currentAmount": 75000}'
  fanfare publish project:clx123 project:funded 1 --id payment-8812 --key clx123
  fanfare publish project:clx123 project:funded 1 --url nats://127.0.0.1:4222
  fanfare publish project:clx123 project:funded 1 --url redis://127.0.0.1:6379 \
      --history project=1000,10m
  fanfare publish project:clx123 project:changed --file events.ndjson
  tail -f events.ndjson | fanfare publish project:clx123 project:changed -

Of one event it prints {"channel":…,"id":…}, with "offset" and "epoch" where the
channel keeps history, of lines
{"accepted":…,"refused":…,"not_accepted":…,"unknown":…}.

A node knows which namespaces keep history. With NATS and Redis --history says
it, as the nodes are configured: then what is published is stored before it is
accepted, and an attempt whose answer was lost is made again without harm.

Lines are published in order. A line that is refused is told and passed over.
When nobody accepts lines any more within the deadline, it stops and says at
which line."#;

/// Publish an event, or one event for each line of a file or of standard input.
#[derive(Args)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct Arguments {
    /// The channel, such as project:clx123
    channel: String,
    /// The event's name, such as project:funded
    event: String,
    /// The data as JSON, or - to read newline-delimited JSON from standard input: one event per line
    #[arg(
        value_name = "JSON|-",
        required_unless_present = "file",
        conflicts_with = "file",
        allow_hyphen_values = true
    )]
    data: Option<String>,
    /// Read newline-delimited JSON from a file: one event per line
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where to publish: the internal address of a node (http://…), or nats://… or redis://… directly
    #[arg(long, env = "FANFARE_URL", hide_env_values = true, default_value = "http://127.0.0.1:9000")]
    url: String,
    /// The key of the HTTP API; not used with NATS and Redis
    #[arg(long, env = "FANFARE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// The tenant
    #[arg(long, default_value = "default")]
    tenant: String,
    /// The publication's id, for idempotence: the same id again is the same publication. Of one event only
    #[arg(long)]
    id: Option<String>,
    /// What the events are about: of several with one key only the newest matters
    #[arg(long)]
    key: Option<String>,
    /// How long to go on trying, for each event (for lines: for those that go out together)
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// A namespace that keeps history, how many publications of a channel and for how long, as the nodes are configured:
    /// project=1000,10m. May be given several times; with NATS and Redis
    #[arg(long, value_name = "NAMESPACE=SIZE,TTL", value_parser = history)]
    history: Vec<(String, Retention)>,
    /// The first word of all subjects, with NATS and Redis
    #[arg(long, value_name = "WORD")]
    prefix: Option<String>,
    /// A NATS credentials file
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
}

/// Publishes and prints what became of it.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failed> {
    Channel::parse(&arguments.channel)
        .map_err(|error| Failed::usage(format!("channel {:?}: {error}", arguments.channel)))?;
    let source = source(&arguments)?;
    let publisher = connect(&arguments).await?;
    let outcome = match source {
        Source::Data(data) => one(&publisher, &arguments, &data).await,
        Source::Lines { lines, bytes } => {
            let progress = Progress::new(bytes);
            let outcome = many(&publisher, &arguments, lines, &progress).await;
            progress.bar.finish_and_clear();
            outcome.and_then(|tally| tally.report())
        }
    };
    publisher.close().await;
    outcome
}

/// What is published.
enum Source {
    Data(Box<Publication>),
    /// `bytes` is the size of all of it, where it is known.
    Lines {
        lines: Lines,
        bytes: Option<u64>,
    },
}

fn source(arguments: &Arguments) -> Result<Source, Failed> {
    let several = || match &arguments.id {
        None => Ok(()),
        Some(_) => Err(Failed::usage("--id is the id of one event; those of lines are made")),
    };
    if let Some(path) = &arguments.file {
        several()?;
        let failed = |error: io::Error| Failed::other(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let bytes = metadata.is_file().then_some(metadata.len());
        return Ok(Source::Lines { lines: Lines::start(BufReader::new(file)), bytes });
    }
    match arguments.data.as_deref() {
        Some("-") => {
            several()?;
            Ok(Source::Lines { lines: Lines::start(BufReader::new(io::stdin())), bytes: None })
        }
        data => {
            let publication = event(arguments, data.unwrap_or_default().as_bytes());
            publication
                .map(|publication| Source::Data(publication.into()))
                .map_err(|error| Failed::usage(reason(&error)))
        }
    }
}

async fn connect(arguments: &Arguments) -> Result<Publisher, Failed> {
    let mut builder = Builder::new().tenant(&arguments.tenant).deadline(arguments.deadline);
    // The variable may be set for other calls.
    if let Some(key) = arguments.api_key.as_ref().filter(|key| !key.is_empty() && arguments.url.starts_with("http")) {
        builder = builder.api_key(key);
    }
    if let Some(prefix) = &arguments.prefix {
        builder = builder.prefix(prefix);
    }
    if let Some(file) = &arguments.credentials {
        builder = builder.credentials(file);
    }
    for (namespace, retention) in &arguments.history {
        builder = builder.history(namespace, *retention);
    }
    builder.connect(&arguments.url).await.map_err(|error| match error {
        ConnectError::Configuration { .. } => Failed::usage(error.to_string()),
        ConnectError::Refused { .. } => Failed::refused(error.to_string()),
        error => Failed::unavailable(error.to_string()),
    })
}

/// Reads `project=1000,10m`.
fn history(text: &str) -> Result<(String, Retention), String> {
    let parts = text.split_once('=').and_then(|(name, rest)| rest.split_once(',').map(|(size, ttl)| (name, size, ttl)));
    let (name, size, ttl) = parts.ok_or("NAMESPACE=SIZE,TTL is allowed, such as project=1000,10m")?;
    let size = size.trim().parse().map_err(|error| format!("the size {size:?}: {error}"))?;
    let ttl = humantime::parse_duration(ttl.trim()).map_err(|error| format!("the time to live {ttl:?}: {error}"))?;
    Ok((name.trim().to_owned(), Retention { size, ttl }))
}

fn event(arguments: &Arguments, data: &[u8]) -> Result<Publication, PublishError> {
    let mut publication = Publication::new(&arguments.channel, &arguments.event).raw_data(data)?;
    if let Some(id) = &arguments.id {
        publication = publication.id(id);
    }
    if let Some(key) = &arguments.key {
        publication = publication.key(key);
    }
    Ok(publication)
}

async fn one(publisher: &Publisher, arguments: &Arguments, publication: &Publication) -> Result<(), Failed> {
    let published = publisher.send(publication.clone()).await.map_err(|error| match &error {
        PublishError::Invalid { .. } => Failed::usage(reason(&error)),
        error if error.acceptance() == Acceptance::Refused => Failed::refused(error.to_string()),
        error => Failed::unavailable(error.to_string()),
    })?;
    let mut result = serde_json::json!({ "channel": arguments.channel, "id": published.id });
    if let Some(Position { offset, epoch }) = published.position {
        result["offset"] = offset.into();
        result["epoch"] = epoch.as_str().into();
    }
    output::line(result.to_string().as_bytes())
}

/// What became of all lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    accepted: u64,
    refused: u64,
    not_accepted: u64,
    unknown: u64,
    /// The line at which it was given up.
    stopped_at: Option<u64>,
}

async fn many(
    publisher: &Publisher,
    arguments: &Arguments,
    mut lines: Lines,
    progress: &Progress,
) -> Result<Tally, Failed> {
    let mut tally = Tally::default();
    let mut batch = Vec::with_capacity(LINES_AT_ONCE);
    // What is there goes out at once, so that a slow writer's lines are not kept waiting for more.
    while lines.receiver.recv_many(&mut batch, LINES_AT_ONCE).await > 0 {
        let read = batch.last().map_or(0, |line: &Line| line.read);
        let (numbers, publications) = publications(arguments, batch.drain(..), &mut tally, progress);
        let outcomes = match publisher.batch(publications).await {
            Ok(published) => published.into_iter().map(Ok).collect(),
            Err(error) => BatchError::into_outcomes(error),
        };
        for (number, outcome) in numbers.into_iter().zip(outcomes) {
            tally.count(number, outcome.err(), progress);
        }
        progress.at(read, &tally);
        if tally.stopped_at.is_some() {
            // The thread that reads may wait for its next line for ever; it ends with the process.
            return Ok(tally);
        }
    }
    lines.finish().map_err(|error| {
        let done = tally.accepted;
        let message = format!("the lines cannot be read any further: {error}; {done} were accepted before");
        if done > 0 { Failed::in_part(message) } else { Failed::other(message) }
    })?;
    Ok(tally)
}

/// The lines that can be published, with their numbers; the others are counted.
fn publications(
    arguments: &Arguments,
    lines: impl Iterator<Item = Line>,
    tally: &mut Tally,
    progress: &Progress,
) -> (Vec<u64>, Vec<Publication>) {
    let mut found = (Vec::new(), Vec::new());
    for line in lines {
        let publication = match &line.text {
            None => Err(format!("it has more than {LINE_BYTES} bytes")),
            Some(text) => event(arguments, text).map_err(|error| reason(&error)),
        };
        match publication {
            Ok(publication) => {
                found.0.push(line.number);
                found.1.push(publication);
            }
            Err(reason) => {
                tally.refused += 1;
                progress.say(&format!("line {}: {reason}", line.number));
            }
        }
    }
    found
}

impl Tally {
    fn count(&mut self, number: u64, error: Option<PublishError>, progress: &Progress) {
        let Some(error) = error else {
            self.accepted += 1;
            return;
        };
        match error.acceptance() {
            Acceptance::Refused => self.refused += 1,
            Acceptance::NotAccepted => self.not_accepted += 1,
            Acceptance::Unknown => self.unknown += 1,
        }
        // After the first that nobody took, those behind it fail for the same reason.
        let known = self.stopped_at.is_some();
        if error.acceptance() != Acceptance::Refused {
            self.stopped_at.get_or_insert(number);
        }
        if !known || error.acceptance() == Acceptance::Refused {
            progress.say(&format!("line {number}: {error}"));
        }
    }

    /// Prints it, and says how the program ends.
    fn report(&self) -> Result<(), Failed> {
        let Self { accepted, refused, not_accepted, unknown, stopped_at } = self;
        let line = format!(
            r#"{{"accepted":{accepted},"refused":{refused},"not_accepted":{not_accepted},"unknown":{unknown}}}"#
        );
        output::line(line.as_bytes())?;
        self.failure().map_or(Ok(()), |make| {
            let stopped = stopped_at.map(|line| format!("; stopped at line {line}")).unwrap_or_default();
            Err(make(format!(
                "{accepted} accepted, {refused} refused, {not_accepted} not accepted, {unknown} may or may not have been \
                 accepted{stopped}"
            )))
        })
    }

    fn failure(&self) -> Option<fn(String) -> Failed> {
        let Self { accepted, refused, not_accepted, unknown, .. } = self;
        match (accepted, refused, not_accepted + unknown) {
            (_, 0, 0) => None,
            (1.., _, _) => Some(Failed::in_part),
            (0, _, 0) => Some(Failed::refused),
            (0, _, _) => Some(Failed::unavailable),
        }
    }
}

/// The progress on a terminal; nothing where standard error is none.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(bytes: Option<u64>) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden() };
        }
        let (bar, template) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), "{wide_bar} {bytes}/{total_bytes} {msg} {eta}"),
            None => (ProgressBar::no_length(), "{spinner} {bytes} {msg} {elapsed}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template(template).expect("the template is one of the two above"));
        Self { bar }
    }

    fn at(&self, bytes: u64, tally: &Tally) {
        self.bar.set_position(bytes);
        self.bar.set_message(format!("{} accepted", tally.accepted));
    }

    /// A line on standard error, beside the bar.
    fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("fanfare: {text}"));
    }
}

/// What is wrong, without the channel, which the user has just typed.
fn reason(error: &PublishError) -> String {
    match error {
        PublishError::Invalid { reason, .. } => reason.clone(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_what_a_script_can_do() {
        let code = |accepted, refused, not_accepted, unknown| {
            let tally = Tally { accepted, refused, not_accepted, unknown, stopped_at: None };
            tally.failure().map(|make| format!("{:?}", make(String::new()).code()))
        };
        let exit = |code| Some(format!("{:?}", std::process::ExitCode::from(code)));
        assert_eq!(code(0, 0, 0, 0), None);
        assert_eq!(code(9, 0, 0, 0), None);
        assert_eq!(code(0, 1, 0, 0), exit(3));
        assert_eq!(code(0, 0, 1, 0), exit(4));
        assert_eq!(code(0, 1, 0, 1), exit(4));
        assert_eq!(code(1, 1, 0, 0), exit(5));
        assert_eq!(code(1, 0, 0, 1), exit(5));
    }
}
