//! Choosing an adapter by its URL.

use std::sync::Arc;

use crate::{Broker, BrokerError, BrokerOptions, Events, address::Address, memory::Memory};

/// Opens the broker that the URL names and waits for its first connection. `memory:` is a broker of its own, with this
/// node alone.
///
/// # Errors
/// [`BrokerError::Configuration`] says which option cannot be used and what is allowed;
/// [`BrokerError::Unreachable`] and [`BrokerError::Refused`] where there is no connection within
/// [`connect_timeout`](BrokerOptions::connect_timeout).
pub async fn open(options: &BrokerOptions) -> Result<(Arc<dyn Broker>, Events), BrokerError> {
    match Address::parse(options)? {
        Address::Memory => Ok(Memory::with_history(options.history.clone()).attach()),
        #[cfg(feature = "nats")]
        // All are large futures, which callers need not carry.
        Address::Nats(_) => Box::pin(crate::nats::connect(options)).await,
        #[cfg(feature = "redis")]
        Address::Redis(_) | Address::RedisSentinel(_) => Box::pin(crate::redis::connect(options)).await,
        #[cfg(feature = "redis")]
        Address::RedisCluster(_) => Box::pin(crate::redis_cluster::connect(options)).await,
        #[cfg(not(all(feature = "nats", feature = "redis")))]
        _ => Err(BrokerError::Configuration {
            what: "broker",
            value: crate::mask_url(&options.url),
            allowed: "this program was built without that adapter".to_owned(),
        }),
    }
}
