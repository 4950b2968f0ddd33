//! Waiting until a replica has what was published.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fred::{interfaces::ClientLike as _, types::Value};
use tokio::{sync::Mutex, time::Instant};

use super::{
    NAME,
    session::{Session, answer, command},
};
use crate::BrokerError;

/// Replicas that have to have a publication before it counts as accepted.
const ENOUGH: i64 = 1;

/// The waits of one connection.
///
/// While Redis waits it takes nothing else from the connection, so one wait is made for all publications that were answered
/// before it, and the next for all that came meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    /// Waits sent.
    sent: AtomicU64,
    /// The number of the last wait that was answered, and whether there were enough. Held during a wait, so that there is
    /// one at a time; a caller that gives up lets it go.
    answered: Mutex<(u64, bool)>,
}

impl Replicas {
    /// Waits until enough replicas have all that was answered on this connection before the call.
    ///
    /// # Errors
    /// [`BrokerError::Timeout`] where they do not have it in time: it may be lost or not.
    pub(crate) async fn confirm(&self, session: &Session, patience: Duration) -> Result<(), BrokerError> {
        let began = Instant::now();
        let before = self.sent.load(Ordering::SeqCst);
        let mut answered = self.answered.lock().await;
        if answered.0 <= before {
            let number = 1 + self.sent.fetch_add(1, Ordering::SeqCst);
            let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX).max(1);
            let words = vec![Value::from(ENOUGH), Value::from(millis)];
            let waiting = session.client.custom::<i64, _>(command("WAIT"), words);
            let enough = match answer(session, patience * 2, waiting).await {
                Ok(replicas) => replicas >= ENOUGH,
                Err(error) => {
                    tracing::debug!(%error, "the wait for a replica failed");
                    false
                }
            };
            *answered = (number, enough);
        }
        if answered.1 { Ok(()) } else { Err(BrokerError::Timeout { broker: NAME, waited: began.elapsed() }) }
    }
}
