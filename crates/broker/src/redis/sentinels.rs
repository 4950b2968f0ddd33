//! Listening to the sentinels, which say when they replace a master.

use std::sync::Arc;

use fred::{
    interfaces::PubsubInterface as _,
    prelude::{Config, ServerConfig},
    types::Message,
};
use tokio::{sync::broadcast, time::sleep};

use super::{
    connect::live,
    session::{Connector, Session},
};
use crate::{address::Address, backoff};

/// Where a sentinel says `SERVICE OLD-HOST OLD-PORT NEW-HOST NEW-PORT`.
const SWITCHED: &str = "+switch-master";

/// What may wait: sentinels speak seldom, but of all that they watch.
const CAPACITY: usize = 64;

/// Listens to one sentinel. Each is listened to, so that the loss of one loses nothing.
pub(crate) struct Watcher {
    connector: Connector,
    service: String,
}

/// One for each sentinel; none where there are no sentinels.
pub(crate) fn watchers(connector: &Connector, address: &Address) -> Vec<Watcher> {
    let (Address::RedisSentinel(sentinels), ServerConfig::Sentinel { hosts, .. }) = (address, &connector.config.server)
    else {
        return Vec::new();
    };
    let watcher = |host: &fred::prelude::Server| {
        let config = Config {
            server: ServerConfig::Centralized { server: host.clone() },
            username: sentinels.user.clone(),
            password: sentinels.password.clone(),
            ..connector.config.clone()
        };
        let connector = Connector { config, capacity: CAPACITY, ..connector.clone() };
        Watcher { connector, service: sentinels.service.clone() }
    };
    hosts.iter().map(watcher).collect()
}

impl Watcher {
    /// Ends those sessions that are at a master that is one no more. Never returns.
    pub(crate) async fn run<Sessions: Iterator<Item = Arc<Session>>>(self, sessions: impl Fn() -> Sessions) {
        let mut attempt = 0;
        loop {
            attempt += 1;
            sleep(backoff::pause(attempt)).await;
            let (session, messages) = match self.connector.open().await {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::debug!(%error, attempt, "cannot connect to a sentinel");
                    continue;
                }
            };
            match session.client.subscribe(SWITCHED).await {
                Ok(()) => {
                    attempt = 0;
                    tokio::select! {
                        () = live(&session) => {}
                        () = self.follow(messages, &sessions) => {}
                    }
                }
                Err(error) => tracing::debug!(%error, attempt, "cannot listen to a sentinel"),
            }
            session.end();
        }
    }

    async fn follow<Sessions: Iterator<Item = Arc<Session>>>(
        &self,
        mut messages: broadcast::Receiver<Message>,
        sessions: &impl Fn() -> Sessions,
    ) {
        loop {
            let message = match messages.recv().await {
                Ok(message) => message,
                // What was overwritten is heard from another sentinel, or by the end of the old master's clients.
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let Some(text) = message.value.as_str() else { continue };
            let Some((host, port)) = replaced(&text, &self.service) else { continue };
            for session in sessions().filter(|session| session.is_at(host, port)) {
                tracing::warn!(%host, port, "the sentinels have replaced the Redis master");
                session.end();
            }
        }
    }
}

/// The old master, where it is the one of this service.
fn replaced<'a>(text: &'a str, service: &str) -> Option<(&'a str, u16)> {
    let mut words = text.split(' ');
    if words.next() != Some(service) {
        return None;
    }
    Some((words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_master_of_the_service_alone() {
        assert_eq!(replaced("main 10.0.0.1 6379 10.0.0.2 6380", "main"), Some(("10.0.0.1", 6379)));
        assert_eq!(replaced("main ::1 6379 ::2 6380", "main"), Some(("::1", 6379)));
        for other in ["main2 10.0.0.1 6379 10.0.0.2 6380", "main", "main 10.0.0.1", "main 10.0.0.1 x 10.0.0.2 1", ""] {
            assert_eq!(replaced(other, "main"), None, "{other}");
        }
    }
}
