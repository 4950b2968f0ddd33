//! Publishing on channels with history: the stream says that it has it, and where.

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    NAME,
    api::{ApiFailure, PublishAck, read},
    requests::{Caller, RequestError},
    stream::Stream,
};
use crate::{BrokerError, Published};

/// Publishes, and waits until the stream has it.
pub(super) async fn record(
    caller: &Caller,
    stream: &Arc<Stream>,
    subject: String,
    headers: Option<HeaderMap>,
    body: Bytes,
) -> Result<Published, BrokerError> {
    let (began, bytes) = (Instant::now(), body.len());
    let before = stream.highest();
    let answer = match caller.publish(subject, headers, body).await {
        Ok(answer) => answer,
        Err(RequestError::NoResponders(_)) => {
            // There is no such stream any more, or the servers that have it are away.
            stream.doubt();
            return Err(BrokerError::Unavailable { broker: NAME });
        }
        Err(RequestError::Lost) => return Err(BrokerError::Timeout { broker: NAME, waited: began.elapsed() }),
        Err(RequestError::TooLarge(limit)) => return Err(BrokerError::TooLarge { broker: NAME, bytes, limit }),
        Err(error) => return Err(error.into()),
    };
    let ack: PublishAck = read(&answer.payload).map_err(|failure| match failure {
        // One that may take it a moment later is away.
        ApiFailure::Refused(error) if !error.is_temporary() => {
            BrokerError::Refused { broker: NAME, reason: format!("the stream {}: {error}", stream.name()) }
        }
        failure => failure.into(),
    })?;
    if ack.stream != stream.name() {
        let reason = format!("the stream {} took it instead of {}", ack.stream, stream.name());
        return Err(BrokerError::Refused { broker: NAME, reason });
    }
    if ack.seq <= before && !ack.duplicate {
        // The numbering went back: it is another stream of the same name.
        let info = caller.stream_info(stream.name()).await?;
        stream.learn(&info);
    }
    stream.saw(ack.seq);
    Ok(Published { position: Some(stream.position(ack.seq)) })
}
