//! A publication inside a reply.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A publication as the JSON object that its delivery is, written once and shared by all replies that contain it.
#[derive(Clone)]
pub struct RecordedJson(Arc<RawValue>);

impl RecordedJson {
    /// Takes the object that [`Delivery::write_json`](crate::Delivery::write_json) wrote.
    ///
    /// # Errors
    /// Where it is not JSON.
    pub fn new(json: String) -> Result<Self, serde_json::Error> {
        Ok(Self(RawValue::from_string(json)?.into()))
    }

    /// The object.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl fmt::Debug for RecordedJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for RecordedJson {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Serialize for RecordedJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_it_was_given() {
        let recorded = RecordedJson::new(r#"{"event":"x","data":{"n": 1.50}}"#.to_owned()).unwrap();
        assert_eq!(serde_json::to_string(&[&recorded]).unwrap(), r#"[{"event":"x","data":{"n": 1.50}}]"#);
        assert!(RecordedJson::new("{".to_owned()).is_err());
    }
}
