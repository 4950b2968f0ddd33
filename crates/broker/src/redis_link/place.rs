//! At which server a link listens.

use std::sync::Arc;

use bytes::Bytes;
use redis_protocol::resp3::types::BytesFrame;
use tokio::sync::watch;

use crate::{
    address::Server,
    redis::session::Session,
    redis_cluster::{
        connection::{command, error_of, text_of},
        masters::Masters,
    },
};

/// Where to listen.
#[derive(Debug)]
pub(super) enum Place {
    /// At the only one there is.
    One(Server),
    /// At the master at which functions are called, which sentinels have named.
    Master(watch::Receiver<Option<Arc<Session>>>),
    /// At any master of a cluster.
    Cluster(Arc<Masters>),
}

impl Place {
    /// A server to listen at, where there is any now.
    pub(super) fn choose(&self) -> Option<Server> {
        match self {
            Self::One(server) => Some(server.clone()),
            Self::Master(session) => {
                let session = session.borrow();
                let (host, port) = session.as_ref()?.server()?;
                Some(Server { host: host.to_owned(), port })
            }
            Self::Cluster(masters) => {
                let mut servers = masters.connected();
                (!servers.is_empty()).then(|| servers.swap_remove(fastrand::usize(..servers.len())))
            }
        }
    }

    /// Whether a server still is one to listen at. While nobody knows, it is.
    pub(super) fn is_at(&self, server: &Server) -> bool {
        match self {
            Self::One(_) => true,
            Self::Master(session) => {
                session.borrow().as_ref().is_none_or(|session| session.is_at(&server.host, server.port))
            }
            Self::Cluster(masters) => masters.topology().borrow().masters().contains(server),
        }
    }

    /// Asks a server whether it is there. On a cluster it has to be a part of it, too: one that is cut off from the others hears
    /// nothing of what is published there.
    pub(super) fn question(&self) -> Bytes {
        match self {
            Self::One(_) | Self::Master(_) => command(&["PING"]),
            Self::Cluster(_) => command(&["CLUSTER", "INFO"]),
        }
    }

    /// Reads the answer.
    pub(super) fn is_well(&self, answer: &BytesFrame) -> bool {
        match self {
            Self::One(_) | Self::Master(_) => error_of(answer).is_none(),
            Self::Cluster(_) => text_of(answer).is_some_and(|info| info.contains("cluster_state:ok")),
        }
    }
}
