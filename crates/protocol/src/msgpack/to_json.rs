//! MessagePack to JSON: what a client's binary frame says, as the text that the JSON dialect's decoder reads.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rmp::Marker;

use super::TranscodeError;
use crate::{json, limits::MSGPACK_DEPTH};

/// Appends one MessagePack value as JSON. `bin` becomes `{"$bin":"base64"}`.
///
/// # Errors
/// [`TranscodeError::MessagePack`] for bytes that are not exactly one value, for what JSON has no words for (keys that
/// are not strings, extension types, NaN and infinities, strings that are not UTF-8), and for more than
/// [`MSGPACK_DEPTH`] levels; then `out` is as it was. A length that the input announces is believed only as far as the
/// input goes.
pub fn msgpack_to_json(msgpack: &[u8], out: &mut Vec<u8>) -> Result<(), TranscodeError> {
    let before = out.len();
    let mut reader = Reader::new(msgpack);
    let read = reader.value(out).and_then(|()| reader.finish());
    let done = read.and_then(|()| reader.take_refused().map_or(Ok(()), Err));
    if done.is_err() {
        out.truncate(before);
    }
    done
}

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Map,
    Array,
    Other,
}

/// Reads values one after the other. An error ends it; what is only refused is written as `null` and remembered, so
/// that what stands beside it can still be read.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    refused: Option<TranscodeError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0, refused: None }
    }

    /// What comes next, without taking it.
    pub(super) fn peek_kind(&self) -> Option<Kind> {
        self.bytes.get(self.at).map(|byte| match Marker::from_u8(*byte) {
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => Kind::Map,
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => Kind::Array,
            _ => Kind::Other,
        })
    }

    /// Takes the header of an array, which comes next.
    pub(super) fn array_length(&mut self) -> Result<usize, TranscodeError> {
        match self.marker()? {
            Marker::FixArray(length) => self.container(usize::from(length), 1),
            Marker::Array16 => self.container_of(2, 1),
            Marker::Array32 => self.container_of(4, 1),
            _ => self.fail("an array is expected"),
        }
    }

    /// What was refused since the last call.
    pub(super) fn take_refused(&mut self) -> Option<TranscodeError> {
        self.refused.take()
    }

    /// Checks that nothing is left.
    pub(super) fn finish(&self) -> Result<(), TranscodeError> {
        if self.at == self.bytes.len() { Ok(()) } else { self.fail("bytes follow the value") }
    }

    /// Appends the next value as JSON.
    pub(super) fn value(&mut self, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        let at = self.at;
        match self.marker()? {
            Marker::Null => out.extend_from_slice(b"null"),
            Marker::True => out.extend_from_slice(b"true"),
            Marker::False => out.extend_from_slice(b"false"),
            Marker::FixPos(number) => json::write(out, &number),
            Marker::FixNeg(number) => json::write(out, &number),
            Marker::U8 => json::write(out, &self.number(u8::from_be_bytes)?),
            Marker::U16 => json::write(out, &self.number(u16::from_be_bytes)?),
            Marker::U32 => json::write(out, &self.number(u32::from_be_bytes)?),
            Marker::U64 => json::write(out, &self.number(u64::from_be_bytes)?),
            Marker::I8 => json::write(out, &self.number(i8::from_be_bytes)?),
            Marker::I16 => json::write(out, &self.number(i16::from_be_bytes)?),
            Marker::I32 => json::write(out, &self.number(i32::from_be_bytes)?),
            Marker::I64 => json::write(out, &self.number(i64::from_be_bytes)?),
            Marker::F32 => {
                let number = self.number(f32::from_be_bytes)?;
                self.float(at, f64::from(number), out);
            }
            Marker::F64 => {
                let number = self.number(f64::from_be_bytes)?;
                self.float(at, number, out);
            }
            Marker::FixStr(length) => self.string(at, usize::from(length), out)?,
            Marker::Str8 => self.string_of(at, 1, out)?,
            Marker::Str16 => self.string_of(at, 2, out)?,
            Marker::Str32 => self.string_of(at, 4, out)?,
            Marker::Bin8 => self.bin(1, out)?,
            Marker::Bin16 => self.bin(2, out)?,
            Marker::Bin32 => self.bin(4, out)?,
            Marker::FixArray(length) => {
                let length = self.container(usize::from(length), 1)?;
                self.array(length, out)?;
            }
            Marker::Array16 => {
                let length = self.container_of(2, 1)?;
                self.array(length, out)?;
            }
            Marker::Array32 => {
                let length = self.container_of(4, 1)?;
                self.array(length, out)?;
            }
            Marker::FixMap(length) => {
                let length = self.container(usize::from(length), 2)?;
                self.map(length, out)?;
            }
            Marker::Map16 => {
                let length = self.container_of(2, 2)?;
                self.map(length, out)?;
            }
            Marker::Map32 => {
                let length = self.container_of(4, 2)?;
                self.map(length, out)?;
            }
            Marker::FixExt1 => self.extension(at, 1, out)?,
            Marker::FixExt2 => self.extension(at, 2, out)?,
            Marker::FixExt4 => self.extension(at, 4, out)?,
            Marker::FixExt8 => self.extension(at, 8, out)?,
            Marker::FixExt16 => self.extension(at, 16, out)?,
            Marker::Ext8 => self.extension_of(at, 1, out)?,
            Marker::Ext16 => self.extension_of(at, 2, out)?,
            Marker::Ext32 => self.extension_of(at, 4, out)?,
            Marker::Reserved => {
                self.at = at;
                return self.fail("0xc1 is never used");
            }
        }
        Ok(())
    }

    fn array(&mut self, length: usize, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        self.enter()?;
        out.push(b'[');
        for index in 0..length {
            if index > 0 {
                out.push(b',');
            }
            self.value(out)?;
        }
        out.push(b']');
        self.depth -= 1;
        Ok(())
    }

    fn map(&mut self, length: usize, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        self.enter()?;
        out.push(b'{');
        for index in 0..length {
            if index > 0 {
                out.push(b',');
            }
            self.key(out)?;
            out.push(b':');
            self.value(out)?;
        }
        out.push(b'}');
        self.depth -= 1;
        Ok(())
    }

    fn key(&mut self, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        let (at, start) = (self.at, out.len());
        self.value(out)?;
        if out.get(start) != Some(&b'"') {
            out.truncate(start);
            out.extend_from_slice(b"\"\"");
            self.refuse(at, "a key of a map must be a string of UTF-8");
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<(), TranscodeError> {
        if self.depth == MSGPACK_DEPTH {
            return self.fail(format!("arrays and maps are nested too deep; allowed are {MSGPACK_DEPTH} levels"));
        }
        self.depth += 1;
        Ok(())
    }

    fn float(&mut self, at: usize, number: f64, out: &mut Vec<u8>) {
        if number.is_finite() {
            json::write(out, &number);
        } else {
            out.extend_from_slice(b"null");
            self.refuse(at, "NaN and infinities are no numbers in JSON");
        }
    }

    fn string_of(&mut self, at: usize, width: usize, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        let length = self.length(width)?;
        self.string(at, length, out)
    }

    fn string(&mut self, at: usize, length: usize, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => json::write_str(out, text),
            Err(_) => {
                out.extend_from_slice(b"null");
                self.refuse(at, "a string must be UTF-8; use bin for bytes");
            }
        }
        Ok(())
    }

    fn bin(&mut self, width: usize, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        out.extend_from_slice(b"{\"$bin\":\"");
        let start = out.len();
        out.resize(start + bytes.len().div_ceil(3) * 4, 0);
        let written =
            STANDARD.encode_slice(bytes, &mut out[start..]).expect("base64 is 4 bytes for each 3, rounded up");
        debug_assert_eq!(start + written, out.len());
        out.extend_from_slice(b"\"}");
        Ok(())
    }

    fn extension_of(&mut self, at: usize, width: usize, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        let length = self.length(width)?;
        self.extension(at, length, out)
    }

    fn extension(&mut self, at: usize, length: usize, out: &mut Vec<u8>) -> Result<(), TranscodeError> {
        let kind = self.number(i8::from_be_bytes)?;
        self.take(length)?;
        out.extend_from_slice(b"null");
        self.refuse(at, format!("extension type {kind} has no meaning here; use bin for bytes and numbers for times"));
        Ok(())
    }

    /// The length of a container, each of whose elements takes at least `least` bytes.
    fn container_of(&mut self, width: usize, least: usize) -> Result<usize, TranscodeError> {
        let length = self.length(width)?;
        self.container(length, least)
    }

    fn container(&mut self, length: usize, least: usize) -> Result<usize, TranscodeError> {
        let left = self.bytes.len() - self.at;
        if length.saturating_mul(least) > left {
            return self.fail(format!("{length} elements are announced, but only {left} bytes follow"));
        }
        Ok(length)
    }

    /// A length of 1, 2 or 4 bytes.
    fn length(&mut self, width: usize) -> Result<usize, TranscodeError> {
        Ok(self.take(width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    fn number<T, const N: usize>(&mut self, from: impl Fn([u8; N]) -> T) -> Result<T, TranscodeError> {
        Ok(from(self.take(N)?.try_into().expect("take gives as many bytes as asked for")))
    }

    fn marker(&mut self) -> Result<Marker, TranscodeError> {
        Ok(Marker::from_u8(self.take(1)?[0]))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], TranscodeError> {
        let left = self.bytes.len() - self.at;
        if length > left {
            return self.fail(format!("{length} bytes are expected, but only {left} follow"));
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    fn refuse(&mut self, at: usize, problem: impl Into<Cow<'static, str>>) {
        self.refused.get_or_insert(TranscodeError::MessagePack { at, problem: problem.into() });
    }

    fn fail<T>(&self, problem: impl Into<Cow<'static, str>>) -> Result<T, TranscodeError> {
        Err(TranscodeError::MessagePack { at: self.at, problem: problem.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(msgpack: &[u8]) -> Result<String, TranscodeError> {
        let mut out = Vec::new();
        msgpack_to_json(msgpack, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_kind_of_value() {
        let cases: &[(&[u8], &str)] = &[
            (b"\xc0", "null"),
            (b"\x92\xc3\xc2", "[true,false]"),
            (
                b"\x9a\x00\x7f\xe0\xff\xcc\xff\xcd\xff\xff\xce\xff\xff\xff\xff\xd0\x80\xd1\x80\x00\xd2\x80\x00\x00\x00",
                "[0,127,-32,-1,255,65535,4294967295,-128,-32768,-2147483648]",
            ),
            (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
            (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808"),
            (b"\xca\x3f\xc0\x00\x00", "1.5"),
            (b"\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", "0.1"),
            (b"\xa2\"\n", r#""\"\n""#),
            (b"\xd9\x01a", "\"a\""),
            (b"\xda\x00\x01a", "\"a\""),
            (b"\xdb\x00\x00\x00\x01a", "\"a\""),
            (b"\xc4\x01\xff", r#"{"$bin":"/w=="}"#),
            (b"\xc5\x00\x00", r#"{"$bin":""}"#),
            (b"\xc6\x00\x00\x00\x03\x01\x02\x03", r#"{"$bin":"AQID"}"#),
            (b"\x82\xa1a\x01\xa1b\x80", r#"{"a":1,"b":{}}"#),
            (b"\xdc\x00\x01\xde\x00\x01\xa1a\xdd\x00\x00\x00\x00", r#"[{"a":[]}]"#),
            (b"\xdf\x00\x00\x00\x00", "{}"),
        ];
        for (msgpack, json) in cases {
            assert_eq!(unpack(msgpack).as_deref(), Ok(*json));
        }
    }

    #[test]
    fn what_json_has_no_words_for_is_refused() {
        let cases: &[(&[u8], &str)] = &[
            (b"\x81\x01\x02", "a key of a map must be a string"),
            (b"\x81\xc4\x01a\x02", "a key of a map must be a string"),
            (b"\xd6\xff\x00\x00\x00\x00", "extension type -1"),
            (b"\xc7\x02\x05ab", "extension type 5"),
            (b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", "NaN"),
            (b"\xca\xff\x80\x00\x00", "infinities"),
            (b"\xa1\xff", "must be UTF-8"),
            (b"\x81\xa1\xff\x00", "must be"),
            (b"\xc1", "never used"),
            (b"\xc0\xc0", "bytes follow"),
        ];
        for (msgpack, problem) in cases {
            let error = unpack(msgpack).unwrap_err().to_string();
            assert!(error.contains(problem), "{msgpack:?}: {error}");
        }
    }

    #[test]
    fn announced_lengths_are_not_believed() {
        for msgpack in [
            &b"\xdd\xff\xff\xff\xff"[..],
            b"\xdf\xff\xff\xff\xff\xa1a",
            b"\xdb\xff\xff\xff\xffabc",
            b"\xc6\xff\xff\xff\xff",
            b"\xc9\xff\xff\xff\xff\x01",
            b"\x9f\x01",
            b"\x82\xa1a\x01",
            b"\xa5abc",
            b"\xcd\x01",
            b"",
        ] {
            let mut out = Vec::new();
            assert!(msgpack_to_json(msgpack, &mut out).is_err(), "{msgpack:?}");
            assert!(out.capacity() < 64, "{msgpack:?} took {} bytes", out.capacity());
        }
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| [vec![0x91; depth - 1], vec![0x90]].concat();
        assert!(unpack(&nested(MSGPACK_DEPTH)).is_ok());
        let error = unpack(&nested(MSGPACK_DEPTH + 1)).unwrap_err().to_string();
        assert!(error.ends_with("nested too deep; allowed are 64 levels"), "{error}");
        assert!(unpack(&nested(1_000_000)).is_err());
    }
}
