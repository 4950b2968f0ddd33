//! Bytes from the command line: text, or what is no text.

use std::str::FromStr;

use crate::LoadError;

/// What a socket sends or looks for: text in which `\r` and `\n` are read as such; `hex:…`, which goes out as a binary message;
/// or `mqtt:TOPIC`, what an MQTT client sends to subscribe to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Literal {
    pub(crate) bytes: Vec<u8>,
    pub(crate) binary: bool,
}

impl Literal {
    /// Of the WebSocket message that it makes: 1 for text, 2 for bytes.
    pub(crate) fn opcode(&self) -> u8 {
        if self.binary { 2 } else { 1 }
    }
}

impl FromStr for Literal {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        if let Some(topic) = text.strip_prefix("mqtt:") {
            let bytes =
                mqtt(topic).ok_or_else(|| LoadError::Failed(format!("{text}: a topic has at most 122 bytes")))?;
            return Ok(Self { bytes, binary: true });
        }
        let Some(digits) = text.strip_prefix("hex:") else {
            return Ok(Self { bytes: text.replace("\\r", "\r").replace("\\n", "\n").into_bytes(), binary: false });
        };
        let bytes = digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<u8>>>();
        let bytes =
            bytes.ok_or_else(|| LoadError::Failed(format!("{text}: hex: takes pairs of hexadecimal digits")))?;
        Ok(Self { bytes, binary: true })
    }
}

/// CONNECT with a clean session and no keep-alive, and SUBSCRIBE at QoS 0 with the packet identifier 1 (MQTT 3.1.1, sections 3.1 and 3.8).
fn mqtt(topic: &str) -> Option<Vec<u8>> {
    let length = u8::try_from(topic.len()).ok().filter(|length| *length <= 122)?;
    let head = [0x82, length + 5, 0, 1, 0, length];
    Some([b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0", &head[..], topic.as_bytes(), b"\0"].concat())
}

fn byte(pair: &[u8]) -> Option<u8> {
    let [high, low] = pair else { return None };
    let digit = |digit: &u8| char::from(*digit).to_digit(16).map(|value| value as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes() {
        assert_eq!("PING\\r\\n".parse::<Literal>().unwrap(), Literal { bytes: b"PING\r\n".to_vec(), binary: false });
        assert_eq!("hex:9003fF".parse::<Literal>().unwrap(), Literal { bytes: vec![0x90, 3, 0xff], binary: true });
        let mqtt =
            Literal { bytes: b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0\x82\x0a\0\x01\0\x05bench\0".to_vec(), binary: true };
        assert_eq!("mqtt:bench".parse::<Literal>().unwrap(), mqtt);
        assert!("hex:901".parse::<Literal>().is_err());
        assert!("hex:9g".parse::<Literal>().is_err());
    }
}
