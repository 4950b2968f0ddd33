//! Whether functions can be called everywhere, and how often that began anew.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{redis::session::Session, redis_cluster::masters::Masters};

/// The state of the connections over which functions are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// There are all that are needed.
    pub(super) up: bool,
    /// How many there have been: a new one may be to a server that lost its data.
    pub(super) connections: u64,
}

/// Follows the connection to one server.
pub(super) fn of_one(
    mut session: watch::Receiver<Option<Arc<Session>>>,
    closed: &CancellationToken,
    tasks: &TaskTracker,
) -> watch::Receiver<Health> {
    let mut last = session.borrow_and_update().clone();
    let (told, health) = watch::channel(Health { up: last.is_some(), connections: 1 });
    let following = async move {
        while session.changed().await.is_ok() {
            let current = session.borrow_and_update().clone();
            let is_new = match (&current, &last) {
                (Some(current), Some(last)) => !Arc::ptr_eq(current, last),
                (current, _) => current.is_some(),
            };
            told.send_modify(|health| {
                health.up = current.is_some();
                health.connections += u64::from(is_new);
            });
            last = current.or(last);
        }
    };
    let closed = closed.clone();
    tasks.spawn(async move {
        let _: Option<()> = closed.run_until_cancelled(following).await;
    });
    health
}

/// Follows the connections to all masters of a cluster.
pub(super) fn of_cluster(masters: &Arc<Masters>) -> watch::Receiver<Health> {
    let (mut opened, mut topology) = (masters.opened(), masters.topology());
    let look = |masters: &Masters, opened: &mut watch::Receiver<u64>| {
        // The number first: a connection that is made meanwhile is told of once more.
        let connections = *opened.borrow_and_update();
        Health { up: masters.all_connected(), connections }
    };
    let (told, health) = watch::channel(look(masters, &mut opened));
    let following = {
        let masters = Arc::clone(masters);
        async move {
            loop {
                tokio::select! {
                    Ok(()) = opened.changed() => {}
                    Ok(()) = topology.changed() => {}
                    else => return,
                }
                topology.mark_unchanged();
                told.send_replace(look(&masters, &mut opened));
            }
        }
    };
    let closed = masters.closed.clone();
    masters.tasks.spawn(async move {
        let _: Option<()> = closed.run_until_cancelled(following).await;
    });
    health
}
