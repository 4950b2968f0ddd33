//! Knowing that the server has done what it was sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::sync::oneshot;

/// A token published to a subject that only this connection subscribes to. Since a server treats what a connection sends
/// in order, a token that comes back says that all sent before it was done. (The client library's `flush` only says that
/// it was written.)
#[derive(Debug)]
pub(super) struct Echo {
    subject: Subject,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    tokens: HashMap<u64, oneshot::Sender<()>>,
}

/// One token on its way. It is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct EchoToken {
    echo: Arc<Echo>,
    token: u64,
    came: oneshot::Receiver<()>,
}

/// The sending of a token.
#[derive(Debug)]
pub(super) struct EchoSending {
    subject: Subject,
    token: u64,
}

impl Echo {
    pub(super) fn new(prefix: &str) -> Arc<Self> {
        let subject = Subject::from(format!("{prefix}.ctl.echo.{:032x}", fastrand::u128(..)));
        Arc::new(Self { subject, waiting: Mutex::default() })
    }

    /// What the connection has to be subscribed to.
    pub(super) fn subject(&self) -> Subject {
        self.subject.clone()
    }

    pub(super) fn token(self: &Arc<Self>) -> EchoToken {
        let (sender, came) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect(UNPOISONED);
        waiting.last += 1;
        let token = waiting.last;
        waiting.tokens.insert(token, sender);
        EchoToken { echo: Arc::clone(self), token, came }
    }

    /// A token came back.
    pub(super) fn came(&self, payload: &[u8]) {
        let Ok(token) = payload.try_into().map(u64::from_be_bytes) else { return };
        if let Some(sender) = self.waiting.lock().expect(UNPOISONED).tokens.remove(&token) {
            // Nobody might wait any more.
            let _ = sender.send(());
        }
    }
}

impl EchoSending {
    /// Sends the token. Where it is not sent the connection is closed, and it just does not come back.
    pub(super) async fn send(self, client: &Client) {
        let payload = Bytes::copy_from_slice(&self.token.to_be_bytes());
        if let Err(error) = client.publish(self.subject, payload).await {
            tracing::debug!(%error, "an echo was not sent");
        }
    }
}

impl EchoToken {
    pub(super) fn sending(&self) -> EchoSending {
        EchoSending { subject: self.echo.subject(), token: self.token }
    }

    /// Waits until it comes back.
    pub(super) async fn wait(&mut self) {
        if (&mut self.came).await.is_err() {
            // The sender is kept until the token came, so this is asked again after that.
            std::future::pending().await
        }
    }

    /// Whether it has come back.
    pub(super) fn has_come(&mut self) -> bool {
        self.came.try_recv().is_ok()
    }
}

impl Drop for EchoToken {
    fn drop(&mut self) {
        self.echo.waiting.lock().expect(UNPOISONED).tokens.remove(&self.token);
    }
}

const UNPOISONED: &str = "nothing panics while it holds the tokens";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_counts_and_none_is_kept() {
        let echo = Echo::new("rt");
        let (mut first, mut second) = (echo.token(), echo.token());
        echo.came(b"anything");
        echo.came(&second.token.to_be_bytes());
        assert!(!first.has_come() && second.has_come());
        drop((first, second));
        assert!(echo.waiting.lock().unwrap().tokens.is_empty());
        assert!(echo.subject().starts_with("rt.ctl.echo."));
    }
}
