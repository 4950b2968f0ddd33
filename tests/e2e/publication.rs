//! A publication as a client gets it.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A publication, with its `data` as it was written.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Publication {
    pub(crate) event: String,
    pub(crate) channel: String,
    #[serde(default, deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    /// Milliseconds since the Unix epoch.
    pub(crate) timestamp: u64,
}

impl Publication {
    /// Reads a text frame. `None` where it is a reply, or a push of the node's own.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let publication: Self = serde_json::from_str(text).ok()?;
        (!publication.event.starts_with("system:")).then_some(publication)
    }

    /// The very text of `data`.
    pub(crate) fn data(&self) -> &str {
        self.data.as_ref().map_or("", |raw| raw.get())
    }
}

/// `null` is data, too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}
