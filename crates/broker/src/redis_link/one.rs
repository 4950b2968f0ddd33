//! Functions at one server, or at the one that sentinels name.

use std::{sync::Arc, time::Duration};

use fred::types::Value;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::ONE;
use crate::{
    BrokerError, BrokerOptions,
    address::Address,
    redis::{
        calling,
        connect::{Prepare, connector, first_connection, keep_session},
        functions::Call,
        library::{self, FunctionLibrary},
        sentinels,
        session::{Connector, Session},
    },
};

/// Keeps one connection and calls functions over it.
#[derive(Debug)]
pub(super) struct OneServer {
    library: FunctionLibrary,
    /// None while there is no connection.
    session: watch::Receiver<Option<Arc<Session>>>,
    request_timeout: Duration,
}

struct Preparation {
    library: FunctionLibrary,
    request_timeout: Duration,
}

impl Prepare for Preparation {
    async fn prepare(&self, session: &Session) {
        // Each call tries to load it, too.
        if let Err(error) = library::prepare(session, &self.library, self.request_timeout).await {
            tracing::warn!(%error, "Redis is not ready for {} now", self.library.purpose);
        }
    }
}

impl OneServer {
    pub(super) async fn connect(
        options: &BrokerOptions,
        address: &Address,
        library: FunctionLibrary,
        closed: &CancellationToken,
        tasks: &TaskTracker,
        deadline: Instant,
    ) -> Result<Self, BrokerError> {
        let (connector, servers) = connector(options, address, closed, tasks)?;
        // Nothing is subscribed to there.
        let connector = Connector { capacity: 1, ..connector };
        let request_timeout = options.request_timeout;
        let (first, _) = first_connection(&connector, servers, deadline).await?;
        if let Err(error) = library::prepare(&*first, &library, request_timeout).await {
            first.end();
            return Err(error);
        }
        let (current, session) = watch::channel(Some(first));
        for watcher in sentinels::watchers(&connector, address) {
            let (closed, session) = (closed.clone(), session.clone());
            tasks.spawn(async move {
                let sessions = || session.borrow().clone().into_iter();
                closed.run_until_cancelled(Box::pin(watcher.run(sessions))).await;
            });
        }
        let closed = closed.clone();
        tasks.spawn(async move {
            let preparation = Preparation { library, request_timeout };
            closed.run_until_cancelled(Box::pin(keep_session(&connector, &preparation, &current))).await;
            current.send_replace(None);
        });
        Ok(Self { library, session, request_timeout })
    }

    /// The connection; None while there is none.
    pub(super) fn session(&self) -> watch::Receiver<Option<Arc<Session>>> {
        self.session.clone()
    }

    pub(super) async fn call_all(&self, calls: Vec<Call>) -> Result<Vec<Value>, BrokerError> {
        let session = self.session.borrow().clone().filter(|session| session.is_alive());
        let session = session.ok_or(BrokerError::Unavailable { broker: ONE })?;
        calling::call_all(&session, &self.library, self.request_timeout, calls).await
    }
}
