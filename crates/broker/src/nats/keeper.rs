//! The task that keeps an eye on the streams: whether they are still the same, and whether their leaders change.

use std::{collections::HashSet, sync::Arc};

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt as _;
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    intake::Command,
    manage,
    requests::{Caller, Requests},
    stream::{Stream, Streams},
};
use crate::BrokerError;

/// Between two looks at streams that could not be looked at.
const RETRY: Duration = Duration::from_secs(1);

/// Before a stream is made anew: a server goes on clearing a deleted one away when it has told of it, and 2.9 then takes files
/// of the new one with it.
const CLEARING: Duration = Duration::from_millis(500);

/// Between two looks for a stream of lifecycle events that was not there.
const ABSENT: Duration = Duration::from_secs(30);

const ADVISORIES: &str = "$JS.EVENT.ADVISORY.STREAM.";

/// What the keeper is made of.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) client: Arc<Client>,
    pub(super) requests: Arc<Requests>,
    pub(super) streams: Arc<Streams>,
    pub(super) advisories: Subscriber,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) request_timeout: Duration,
    pub(super) closed: CancellationToken,
}

/// What JetStream tells of streams, where this user may hear it: of leaders that were elected, of streams that were
/// created, changed and deleted.
pub(super) fn advisories() -> String {
    format!("{ADVISORIES}*.*")
}

impl Keeper {
    /// Runs until the adapter is closed.
    pub(super) async fn run(mut self) {
        let closed = self.closed.clone();
        closed.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&mut self) {
        let doubt = Arc::clone(&self.streams.doubt);
        let mut again = self.lacks_events().then(|| Instant::now() + ABSENT);
        loop {
            let at = again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            let mut elected = HashSet::new();
            tokio::select! {
                biased;
                Some(advisory) = self.advisories.next() => {
                    if !self.concerns_us(&advisory, &mut elected) {
                        continue;
                    }
                }
                () = doubt.notified() => {}
                () = sleep_until(at), if again.is_some() => {}
            }
            if !elected.is_empty() {
                // What the former leader took and did not republish any more is with the new one.
                tracing::info!(streams = ?elected, "leaders were elected; positions are looked at");
                let elected = self.streams.all().filter(|stream| elected.contains(stream.name())).map(Arc::clone);
                // The intake is gone only when all is closed.
                let _ = self.commands.send(Command::Check(elected.collect())).await;
            }
            let pause = match self.look().await {
                Err(_) => Some(RETRY),
                Ok(()) if self.lacks_events() => Some(ABSENT),
                Ok(()) => None,
            };
            again = pause.map(|pause| Instant::now() + pause);
        }
    }

    /// Whether an advisory is about one of our streams; notes whose leader was elected.
    fn concerns_us(&self, advisory: &Message, elected: &mut HashSet<String>) -> bool {
        let Some((kind, name)) = advisory.subject.strip_prefix(ADVISORIES).and_then(|rest| rest.split_once('.')) else {
            return false;
        };
        let ours = self.streams.all().any(|stream| stream.name() == name);
        if ours && kind == "LEADER_ELECTED" {
            elected.insert(name.to_owned());
        }
        ours
    }

    /// Reads every stream's numbering again and makes those anew that are gone. Tells the intake what has changed.
    async fn look(&self) -> Result<(), BrokerError> {
        // Nothing of them is delivered until then, and one that cannot be looked at may take its time.
        self.tell_renumbered().await;
        let mut looked = Ok(());
        for stream in self.streams.recorded() {
            let caller = Caller::new(Arc::clone(&self.client), Arc::clone(&self.requests), self.request_timeout);
            match self.look_at(&caller, stream).await {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(stream = stream.name(), %error, "the stream cannot be looked at");
                    looked = Err(error);
                }
            }
        }
        self.tell_renumbered().await;
        if let Err(error) = self.look_for_events().await {
            tracing::debug!(%error, "the stream of lifecycle events cannot be looked at");
            looked = Err(error);
        }
        looked
    }

    fn lacks_events(&self) -> bool {
        self.streams.events().is_some() && self.streams.present_events().is_none()
    }

    /// Whether lifecycle events have a stream: one that is gone is made anew, one that was not there may be there by now.
    async fn look_for_events(&self) -> Result<(), BrokerError> {
        let Some(stream) = self.streams.events() else { return Ok(()) };
        let caller = Caller::new(Arc::clone(&self.client), Arc::clone(&self.requests), self.request_timeout);
        if self.streams.present_events().is_none() {
            return manage::prepare_events(&caller, &self.streams).await;
        }
        match caller.stream_info(stream.name()).await {
            Err(failure) if failure.is_missing_stream() => {
                if self.streams.managed {
                    tracing::warn!(stream = stream.name(), "the stream is gone and is made anew");
                    sleep(CLEARING).await;
                }
                manage::prepare_events(&caller, &self.streams).await
            }
            looked => Ok(looked.map(drop)?),
        }
    }

    async fn tell_renumbered(&self) {
        let renumbered = self.streams.all().filter(|stream| stream.take_renumbered()).count();
        if renumbered > 0 {
            let _ = self.commands.send(Command::Renumbered).await;
        }
    }

    async fn look_at(&self, caller: &Caller, stream: &Stream) -> Result<(), BrokerError> {
        let info = match caller.stream_info(stream.name()).await {
            Err(failure) if failure.is_missing_stream() && self.streams.managed => {
                tracing::warn!(stream = stream.name(), "the stream is gone and is made anew");
                sleep(CLEARING).await;
                manage::prepare_stream(caller, stream, true).await?
            }
            info => info?,
        };
        stream.learn(&info);
        Ok(())
    }
}
