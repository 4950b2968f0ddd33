//! The redis adapter.
use std::sync::Arc;

use crate::{Broker, BrokerError, BrokerOptions, Events, mask_url};

/// Connects.
///
/// # Errors
/// Always, for now.
pub async fn connect(options: &BrokerOptions) -> Result<(Arc<dyn Broker>, Events), BrokerError> {
    Err(BrokerError::Configuration {
        what: "broker",
        value: mask_url(&options.url),
        allowed: "nats:// for now".to_owned(),
    })
}
