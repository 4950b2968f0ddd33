//! What functions answer.

use bytes::Bytes;
use fred::types::Value;

/// What a function answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, or something that functions in Lua do not give.
    Nothing,
    /// A number.
    Integer(i64),
    /// A string, which need not be text.
    Bytes(Bytes),
    /// Several.
    List(Vec<Answer>),
}

impl Answer {
    /// The text of a string.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// A number from 0, also where it is written as a string, as Lua has to where it could be large.
    pub fn as_unsigned(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            other => other.as_text()?.parse().ok(),
        }
    }

    /// The parts of a list.
    pub fn into_list(self) -> Option<Vec<Self>> {
        match self {
            Self::List(parts) => Some(parts),
            _ => None,
        }
    }
}

impl From<Value> for Answer {
    fn from(value: Value) -> Self {
        match value {
            Value::Integer(number) => Self::Integer(number),
            Value::Boolean(flag) => Self::Integer(i64::from(flag)),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::String(text) => Self::Bytes(text.into_inner()),
            Value::Array(parts) => Self::List(parts.into_iter().map(Self::from).collect()),
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_texts_and_lists() {
        let answer = Answer::from(Value::Array(vec![
            Value::from(7),
            Value::from("18446744073709551615"),
            Value::Null,
            Value::from(-1),
        ]));
        let parts = answer.into_list().unwrap();
        assert_eq!(parts.iter().map(Answer::as_unsigned).collect::<Vec<_>>(), [Some(7), Some(u64::MAX), None, None]);
        assert_eq!((parts[1].as_text(), parts[0].as_text()), (Some("18446744073709551615"), None));
        assert!(Answer::Bytes(Bytes::from_static(b"\xff")).as_text().is_none());
    }
}
