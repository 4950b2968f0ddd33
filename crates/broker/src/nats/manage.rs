//! Creating, updating and checking streams. Several nodes may do it at the same time.

use fanfare_protocol::EVENTS_NAMESPACE;
use tokio::time::{Duration, sleep};

use super::{
    NAME,
    api::{ApiError, ApiFailure, StreamInfo},
    requests::{Caller, RequestError},
    stream::{Stream, Streams},
    stream_config::StreamConfig,
};
use crate::{BrokerError, BrokerOptions, Storage};

/// Between two attempts where JetStream has no leader yet, or another node was quicker.
const RETRY: Duration = Duration::from_millis(200);

/// How long one attempt may take: a cluster that has no leader yet just does not answer.
const ATTEMPT: Duration = Duration::from_secs(3);

/// How long a start waits for a JetStream that lifecycle events alone need: they do without it, and it is looked for again.
const PATIENCE_FOR_EVENTS: Duration = Duration::from_secs(2);

/// Contradictions that need no server to be seen.
pub(super) fn check_options(options: &BrokerOptions) -> Result<(), BrokerError> {
    let BrokerOptions { history: options, tells, .. } = options;
    let wrong = |what, value: String, allowed: &str| {
        Err(BrokerError::Configuration { what, value, allowed: allowed.to_owned() })
    };
    if options.namespaces.is_empty() && !tells {
        return Ok(());
    }
    if *tells && options.namespaces.contains_key(EVENTS_NAMESPACE) {
        let allowed = "another name: its stream would be called as the one of lifecycle events";
        return wrong("namespace with history", EVENTS_NAMESPACE.to_owned(), allowed);
    }
    if options.storage == Storage::Memory && options.replicas < 3 {
        let allowed =
            "streams in memory need history.replicas = 3 or more, since a server that restarts loses its copy";
        return wrong("history.storage", format!("memory (replicas = {})", options.replicas), allowed);
    }
    if !matches!(options.replicas, 1 | 3 | 5) {
        return wrong("history.replicas", options.replicas.to_string(), "1, 3 or 5");
    }
    Ok(())
}

/// At start: lets every stream be as it has to be, or says what is not.
pub(super) async fn prepare(caller: &Caller, streams: &Streams) -> Result<(), BrokerError> {
    for stream in streams.recorded() {
        let info = prepare_stream(caller, stream, streams.managed).await?;
        stream.begin(&info);
    }
    Ok(())
}

/// The stream of lifecycle events, where this node tells them: as it has to be, where there is JetStream and this node may
/// manage it; as it is, where somebody else has made it; else there is none.
pub(super) async fn prepare_events(caller: &Caller, streams: &Streams) -> Result<(), BrokerError> {
    let Some(stream) = streams.events() else { return Ok(()) };
    let within = caller.for_at_most(PATIENCE_FOR_EVENTS);
    let reason = loop {
        let failure = match attempt(&within.for_at_most(ATTEMPT), stream, streams.managed).await {
            Ok(info) => {
                // Nobody asks for its numbering: only a loss of it would be told, and there is none.
                stream.begin(&info);
                streams.set_events(Ok(()));
                return Ok(());
            }
            Err(Failed::Missing) => break "nobody has made it, and history.manage_streams = false".to_owned(),
            Err(Failed::Final(error)) => return Err(error),
            Err(Failed::Api(failure)) => failure,
        };
        let is_away = match &failure {
            ApiFailure::Request(_) => true,
            ApiFailure::Refused(error) => error.is_not_enabled() || error.is_temporary(),
            ApiFailure::Unreadable(_) => false,
        };
        if !may_pass(&failure) || within.left() <= RETRY {
            if is_away {
                break failure.to_string();
            }
            return Err(explain(stream.name(), failure));
        }
        sleep(RETRY).await;
    };
    streams.set_events(Err(reason));
    Ok(())
}

/// One stream as it has to be: created and updated where streams are managed, else checked.
pub(super) async fn prepare_stream(caller: &Caller, stream: &Stream, managed: bool) -> Result<StreamInfo, BrokerError> {
    loop {
        let failure = match attempt(&caller.for_at_most(ATTEMPT), stream, managed).await {
            Ok(info) => return Ok(info),
            Err(Failed::Final(error)) => return Err(error),
            Err(Failed::Missing) => return Err(missing(&stream.config)),
            Err(Failed::Api(failure)) => failure,
        };
        if !may_pass(&failure) || caller.left() <= RETRY {
            return Err(explain(stream.name(), failure));
        }
        sleep(RETRY).await;
    }
}

async fn attempt(caller: &Caller, stream: &Stream, managed: bool) -> Result<StreamInfo, Failed> {
    match managed {
        true => create_or_update(caller, &stream.config).await,
        false => check(caller, &stream.config).await,
    }
}

enum Failed {
    /// It is not there, and this node may not make it.
    Missing,
    Api(ApiFailure),
    Final(BrokerError),
}

impl From<ApiFailure> for Failed {
    fn from(failure: ApiFailure) -> Self {
        Self::Api(failure)
    }
}

async fn create_or_update(caller: &Caller, wanted: &StreamConfig) -> Result<StreamInfo, Failed> {
    let info = match caller.stream_info(&wanted.name).await {
        Err(failure) if failure.is_missing_stream() => {
            let info = caller.create_stream(&wanted.name, &wanted.to_json()).await?;
            tracing::info!(stream = wanted.name, "the stream is created");
            return Ok(info);
        }
        info => info?,
    };
    let info = update(caller, wanted, info).await?;
    // The sequence can be known only when what is published is trimmed to the new size.
    match StreamConfig::raised(&info.config, info.state.last_seq) {
        Some(config) => Ok(caller.update_stream(&wanted.name, &config).await?),
        None => Ok(info),
    }
}

async fn update(caller: &Caller, wanted: &StreamConfig, info: StreamInfo) -> Result<StreamInfo, Failed> {
    let differences = wanted.differences(&info.config);
    if differences.is_empty() {
        return Ok(info);
    }
    let told = differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let refusal = |allowed: String| {
        Failed::Final(BrokerError::Configuration { what: "NATS stream", value: wanted.name.clone(), allowed })
    };
    if wanted.is_foreign(&info.config) {
        let reason = "a stream for something else has this name; rename it, or choose another prefix";
        return Err(refusal(format!("{reason}: {told}")));
    }
    match caller.update_stream(&wanted.name, &wanted.updated(&info.config)).await {
        Ok(info) => {
            tracing::info!(stream = wanted.name, differences = told, "the stream is updated");
            Ok(info)
        }
        Err(ApiFailure::Refused(error)) if !error.is_temporary() && !error.is_missing_stream() => {
            Err(refusal(format!("{told}; the server does not change that: {error}")))
        }
        Err(failure) => Err(failure.into()),
    }
}

async fn check(caller: &Caller, wanted: &StreamConfig) -> Result<StreamInfo, Failed> {
    let refusal = |allowed: String| {
        Failed::Final(BrokerError::Configuration { what: "NATS stream", value: wanted.name.clone(), allowed })
    };
    let info = match caller.stream_info(&wanted.name).await {
        Err(failure) if failure.is_missing_stream() => return Err(Failed::Missing),
        info => info?,
    };
    let differences = wanted.differences(&info.config);
    if differences.is_empty() {
        return Ok(info);
    }
    let told = differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let ways = if wanted.is_complete() { ", or set history.manage_streams = true" } else { "" };
    Err(refusal(format!("{told}; change it{ways}")))
}

fn missing(wanted: &StreamConfig) -> BrokerError {
    let allowed = match wanted.is_complete() {
        true => {
            let config = wanted.to_json();
            format!("it does not exist; create it as {config}, or set history.manage_streams = true")
        }
        false => "it does not exist; a node makes it (history.manage_streams = true), or its operator".to_owned(),
    };
    BrokerError::Configuration { what: "NATS stream", value: wanted.name.clone(), allowed }
}

/// Whether another attempt may succeed.
fn may_pass(failure: &ApiFailure) -> bool {
    match failure {
        // A server that starts is there before its JetStream is.
        ApiFailure::Request(RequestError::NoResponders(_) | RequestError::Lost | RequestError::TimedOut(_)) => true,
        // Another node was quicker.
        ApiFailure::Refused(error) => error.is_temporary() || error.is_name_in_use() || error.is_missing_stream(),
        _ => false,
    }
}

fn explain(stream: &str, failure: ApiFailure) -> BrokerError {
    let no_jetstream = |error: &dyn std::fmt::Display| BrokerError::Refused {
        broker: NAME,
        reason: format!(
            "history needs JetStream, and {error}: start nats-server with `jetstream {{ store_dir: … }}` (or -js), \
             or let this user's account use it and publish on $JS.API.>"
        ),
    };
    match failure {
        ApiFailure::Request(error @ RequestError::NoResponders(_)) => no_jetstream(&error),
        ApiFailure::Refused(error) if error.is_not_enabled() => no_jetstream(&error),
        ApiFailure::Refused(error @ ApiError { .. }) => {
            BrokerError::Refused { broker: NAME, reason: format!("the stream {stream}: {error}") }
        }
        ApiFailure::Request(RequestError::TimedOut(_)) => BrokerError::Refused {
            broker: NAME,
            reason: format!(
                "nobody answers about the stream {stream}: JetStream has no leader, or this user may not \
                 publish on $JS.API.> or subscribe to _INBOX.>"
            ),
        },
        failure => failure.into(),
    }
}
