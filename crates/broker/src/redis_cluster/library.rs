//! How a master is asked what makes a function library ready on it, and how its functions are called.

use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;
use tokio::time::timeout;

use super::{
    NAME,
    caller::Caller,
    connection::{command, error_of},
};
use crate::{
    BrokerError,
    redis::{functions::Call, library::Ask},
};

/// A call of a function as a command.
pub(super) fn encode_call(call: Call) -> Bytes {
    encode("FCALL", call.into_arguments())
}

impl Ask for Caller {
    const BROKER: &'static str = NAME;
    const WHERE: &'static str = " on every master";

    async fn ask(&self, name: &'static str, words: Vec<Value>, limit: Duration) -> Result<Value, BrokerError> {
        let unanswered = || BrokerError::Timeout { broker: NAME, waited: limit };
        let refused = |reason| BrokerError::Refused { broker: NAME, reason };
        let answer = timeout(limit, self.call(encode(name, words), false)).await.map_err(|_| unanswered())?;
        let answer = answer.map_err(|_| unanswered())?;
        match error_of(&answer) {
            Some(reason) => Err(refused(reason)),
            None => Value::try_from(answer).map_err(|error| refused(error.to_string())),
        }
    }
}

fn encode(name: &'static str, words: Vec<Value>) -> Bytes {
    let words: Vec<Bytes> = std::iter::once(Bytes::from_static(name.as_bytes()))
        .chain(words.into_iter().map(|word| match word {
            Value::Bytes(bytes) => bytes,
            Value::String(text) => text.into_inner(),
            other => other.as_string().unwrap_or_default().into(),
        }))
        .collect();
    command(&words)
}
