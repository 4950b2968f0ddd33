//! The task that reads what the link tells.

use fanfare_broker::redis_link::{LinkEvent, LinkEvents};
use tokio::sync::mpsc;

use super::{codec, keys::Keys};
use crate::StoreEvent;

/// Hands on what comes, until the link is closed. Where nobody reads, it waits; then the link overflows, and tells so.
pub(super) async fn follow(mut told: LinkEvents, keys: Keys, events: mpsc::Sender<StoreEvent>) {
    while let Some(event) = told.recv().await {
        let event = match event {
            LinkEvent::Interrupted => StoreEvent::Interrupted,
            LinkEvent::Resumed => StoreEvent::Resumed,
            LinkEvent::Relistened => StoreEvent::Relistened,
            LinkEvent::Message { name, body } => {
                let Some(place) = keys.place_of_change(&name) else { continue };
                match codec::parse_change(&body) {
                    Ok((version, changes)) => StoreEvent::Changed { place, version, changes },
                    // The next one's version shows that one is missing.
                    Err(error) => {
                        tracing::warn!(%error, channel = %name, "a change of presence cannot be read");
                        continue;
                    }
                }
            }
        };
        if events.send(event).await.is_err() {
            // Nobody is told any more; the link's events are taken until it ends.
            while told.recv().await.is_some() {}
        }
    }
}
