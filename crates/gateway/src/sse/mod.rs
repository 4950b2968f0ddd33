//! Server-sent events (WHATWG HTML section 9.2), without IO: what a request asks for, how events are written, and the ids
//! by which a browser's own reconnect recovers.

mod event;
mod positions;
mod request;

pub(crate) use event::{CONTENT_TYPE, HEARTBEAT, channel_of_publication, write_event, write_retry};
pub(crate) use positions::{MalformedId, Positions};
pub(crate) use request::{Opening, RequestError};
