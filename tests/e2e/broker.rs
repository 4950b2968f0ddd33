//! A real broker, and a plain client of it that publishes as any service would: nothing of ours in between.

use std::fmt;

use fanfare_testkit::{NatsServer, RedisServer, redis::Reply};

/// A broker of a test's own.
pub(crate) enum Broker {
    Nats { server: Box<NatsServer>, client: async_nats::Client },
    Redis { server: RedisServer },
}

impl Broker {
    pub(crate) async fn nats() -> Self {
        let server = Box::new(NatsServer::start().await);
        let client = connect(&server).await;
        Self::Nats { server, client }
    }

    pub(crate) async fn redis() -> Self {
        Self::Redis { server: RedisServer::start().await }
    }

    /// Where nodes connect.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Nats { server, .. } => server.url(),
            Self::Redis { server } => server.url(),
        }
    }

    /// Publishes a body on a channel, by the name that docs/subjects.md gives it: `rt.pub.acme.project.clx123`, or
    /// `rt:pub:acme:project:clx123`.
    pub(crate) async fn publish(&self, tenant: &str, channel: &str, body: &str) {
        match self {
            Self::Nats { client, .. } => {
                let subject = format!("rt.pub.{tenant}.{}", channel.replace(':', "."));
                client.publish(subject, body.to_owned().into()).await.expect("it was connected");
                client.flush().await.expect("the server is there");
            }
            Self::Redis { server } => {
                let reply = server.command(&["PUBLISH", &format!("rt:pub:{tenant}:{channel}"), body]).await;
                assert!(matches!(reply, Reply::Integer(_)), "{reply:?}");
            }
        }
    }

    /// Stops the server.
    pub(crate) async fn stop(&self) {
        match self {
            Self::Nats { server, .. } => server.stop().await,
            Self::Redis { server } => server.stop().await,
        }
    }

    /// Starts the server again, on the same address.
    pub(crate) async fn restart(&mut self) {
        match self {
            Self::Nats { server, client } => {
                server.restart().await;
                // The old client would come back in its own time.
                *client = connect(server).await;
            }
            Self::Redis { server } => server.restart().await,
        }
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats { .. } => "NATS",
            Self::Redis { .. } => "Redis",
        })
    }
}

async fn connect(server: &NatsServer) -> async_nats::Client {
    async_nats::connect(server.url()).await.expect("the server is there")
}
