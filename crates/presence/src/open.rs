//! Choosing a store by its URL.

use std::sync::Arc;

use crate::{PresenceStore, StoreError, StoreEvents, StoreOptions, memory::Memory};

/// Opens the store that the URL names and waits for its first connection. `memory:` is a store of its own, with this node alone.
///
/// # Errors
/// [`StoreError::Configuration`] says which option cannot be used and what is allowed; [`StoreError::Unavailable`] and
/// [`StoreError::Refused`] where there is no connection within [`connect_timeout`](StoreOptions::connect_timeout).
pub async fn open(options: &StoreOptions) -> Result<(Arc<dyn PresenceStore>, StoreEvents), StoreError> {
    match options.url.trim() {
        "memory:" | "memory://" => Ok(Memory::new().attach()),
        // A large future, which callers need not carry.
        url if is_redis(url) => Box::pin(crate::redis::connect(options)).await,
        _ => Err(StoreError::Configuration {
            what: "store",
            value: fanfare_broker::mask_url(&options.url),
            allowed: "memory:, redis://, redis-sentinel://, redis-cluster://, or each of these with rediss for TLS"
                .to_owned(),
        }),
    }
}

fn is_redis(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    matches!(
        scheme.strip_prefix("rediss").or_else(|| scheme.strip_prefix("redis")),
        Some("" | "-sentinel" | "-cluster")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_what_the_url_names() {
        let (store, _events) = open(&StoreOptions::default()).await.unwrap();
        assert_eq!(store.name(), "memory");
        let refused = open(&StoreOptions::new("memory:somewhere")).await.err();
        assert!(matches!(refused, Some(StoreError::Configuration { what: "store", .. })), "{refused:?}");
        for url in ["redis://u:hidden@h/path", "redis-cluster://h?x=hidden", "redises://hidden@h", "nats://hidden@h"] {
            let refused = open(&StoreOptions::new(url)).await.err().unwrap();
            assert!(matches!(refused, StoreError::Configuration { what: "store", .. }), "{refused:?}");
            assert!(!refused.to_string().contains("hidden"), "{refused}");
        }
    }
}
