//! A publication as a client gets it: the envelope with its channel and, with history, its position.

use crate::{Envelope, Position, json};

/// One publication on its way to clients. Encoded once per dialect and node.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// What was published.
    pub envelope: &'a Envelope<'a>,
    /// The channel that it was published on (for a subscription to a pattern too).
    pub channel: &'a str,
    /// Milliseconds since the Unix epoch: the publisher's, else the broker's, else the time of receipt.
    pub timestamp: u64,
    /// Where it stands, on channels with history.
    pub position: Option<&'a Position>,
}

impl Delivery<'_> {
    /// Appends the JSON object.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"event\":");
        json::write_str(out, &self.envelope.event);
        json::write_str_field(out, r#","channel":"#, Some(self.channel));
        self.envelope.write_fields(out, Some(self.timestamp));
        if let Some(position) = self.position {
            json::write_u64_field(out, r#","offset":"#, Some(position.offset));
            json::write_str_field(out, r#","epoch":"#, Some(position.epoch.as_str()));
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EnvelopeHeaders, Epoch, limits};

    #[test]
    fn a_delivery_carries_channel_timestamp_and_position_but_not_exclude() {
        let body = br#"{"event":"project:funded","data":{"n": 1},"exclude":["s"],"key":"k"}"#;
        let envelope = Envelope::parse(body, EnvelopeHeaders::default(), limits::PUBLICATION_BYTES).unwrap();
        let mut out = Vec::new();
        let position = Position { offset: 41, epoch: Epoch::parse("e").unwrap() };
        Delivery { envelope: &envelope, channel: "project:a", timestamp: 7, position: Some(&position) }
            .write_json(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"event":"project:funded","channel":"project:a","data":{"n": 1},"timestamp":7,"key":"k","offset":41,"epoch":"e"}"#
        );
    }
}
