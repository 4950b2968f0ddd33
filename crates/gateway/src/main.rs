//! `fanfare-gateway`: one node.

use std::{io::Write as _, process::ExitCode};

use fanfare_broker::BrokerOptions;
use fanfare_gateway::{Node, RunningNode, cli, config::Config, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let config = match cli::run() {
        cli::Outcome::Serve(config) => *config,
        cli::Outcome::Exit(code) => return code,
    };
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("no other provider is installed before main");
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(config.main_threads()).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("the main runtime could not be started: {error}");
                return ExitCode::FAILURE;
            }
        };
    match runtime.block_on(serve(config)) {
        Ok(code) => code,
        Err(error) => {
            error!(%error, "the node did not start");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let prometheus = telemetry::install(&config.log)?;
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let shutdown = config.timeouts.shutdown;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let broker = fanfare_broker::open(&BrokerOptions::from(&config)).await?;
    let presence = match config.store_options() {
        Some(options) => Some(fanfare_presence::open(&options).await?),
        None => None,
    };
    let development = config.development;
    let node = Node::bind(config, broker, presence, prometheus).await?.start()?;
    announce(&node, development)?;
    let failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = node.failed() => true,
    };
    info!("the node is going away");
    let clean = node.drain(shutdown).await;
    Ok(if clean && !failed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The one line on standard output, for whoever started the node.
fn announce(node: &RunningNode, development: bool) -> std::io::Result<()> {
    let (public, internal) = (node.public_address(), node.internal_address());
    info!(%public, %internal, "ready");
    writeln!(std::io::stdout(), r#"{{"ready":true,"public":"{public}","internal":"{internal}"}}"#)?;
    if development {
        cli::greet(public, internal);
    }
    Ok(())
}
