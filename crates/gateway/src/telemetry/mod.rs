//! What a node tells its operator: logs on standard error, metrics on the internal port.

pub mod metrics;

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, PoisonError},
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, filter::ParseError, util::TryInitError};

use self::metrics::{Kind, Metric};
use crate::config::{LogConfig, LogFormat};

/// Upper bounds of the buckets of latencies, in seconds: 100 µs to 10 s.
const LATENCY_SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Directives that are none.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// Someone else logs in this process.
    #[error("the log could not be set up: {0}")]
    Log(#[from] TryInitError),
    /// Someone else records metrics in this process.
    #[error("the metrics could not be set up: {0}")]
    Metrics(#[from] BuildError),
}

/// Sets up the log and the metrics of this process.
///
/// # Errors
/// [`TelemetryError`] where the level is not valid, or this process has a log or metrics of another make.
pub fn install(log: &LogConfig) -> Result<PrometheusHandle, TelemetryError> {
    install_log(log)?;
    install_metrics()
}

/// Sets up the log: one line per event on standard error.
///
/// # Errors
/// [`TelemetryError`]
pub fn install_log(log: &LogConfig) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt as _;
    // Whoever wants more of a library names it: of two directives for one target the later counts.
    let filter = EnvFilter::try_new(format!("{},{}", fanfare_broker::LOG_DIRECTIVES, log.level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init()?,
    }
    Ok(())
}

/// Sets up the metrics of this process, once: further calls give the same.
///
/// # Errors
/// [`TelemetryError::Metrics`]
pub fn install_metrics() -> Result<PrometheusHandle, TelemetryError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = builder()?.install_recorder()?;
    metrics::ALL.iter().for_each(describe);
    *installed = Some(handle.clone());
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    metrics::ALL
        .iter()
        .filter(|metric| metric.kind == Kind::Histogram)
        .try_fold(PrometheusBuilder::new(), |builder, metric| {
            builder.set_buckets_for_metric(Matcher::Full(metric.name.into()), &LATENCY_SECONDS)
        })
}

/// A metric without labels is there from the start, at 0; those with labels appear with their first event.
fn describe(metric: &Metric) {
    let Metric { name, kind, labels, help } = *metric;
    match kind {
        Kind::Counter => {
            ::metrics::describe_counter!(name, help);
            if labels.is_empty() {
                ::metrics::counter!(name).absolute(0);
            }
        }
        Kind::Gauge => {
            ::metrics::describe_gauge!(name, help);
            if labels.is_empty() {
                ::metrics::gauge!(name).set(0.0);
            }
        }
        Kind::Histogram => ::metrics::describe_histogram!(name, help),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_rendered_with_help_type_and_buckets() {
        let recorder = builder().unwrap().build_recorder();
        let text = ::metrics::with_local_recorder(&recorder, || {
            metrics::ALL.iter().for_each(describe);
            for metric in metrics::ALL {
                let labels: Vec<_> = metric.labels.iter().map(|label| ::metrics::Label::new(*label, "x")).collect();
                match metric.kind {
                    Kind::Counter => ::metrics::counter!(metric.name, labels).increment(1),
                    Kind::Gauge => ::metrics::gauge!(metric.name, labels).set(1.0),
                    Kind::Histogram => ::metrics::histogram!(metric.name, labels).record(0.003),
                }
            }
            recorder.handle().render()
        });
        for metric in metrics::ALL {
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}\n{text}", metric.name);
            assert!(text.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
        }
        assert!(text.contains(r#"fanfare_api_request_duration_seconds_bucket{endpoint="x",le="0.0025"} 0"#), "{text}");
        assert!(text.contains(r#"fanfare_api_request_duration_seconds_bucket{endpoint="x",le="0.005"} 1"#), "{text}");
    }

    #[test]
    fn metrics_without_labels_are_there_from_the_start() {
        let recorder = builder().unwrap().build_recorder();
        let text = ::metrics::with_local_recorder(&recorder, || {
            metrics::ALL.iter().for_each(describe);
            recorder.handle().render()
        });
        assert!(text.contains("\nfanfare_slow_consumers_total 0\n"), "{text}");
        assert!(text.contains("\nfanfare_connections 0\n"), "{text}");
    }
}
