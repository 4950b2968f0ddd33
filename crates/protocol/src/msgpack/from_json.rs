//! JSON to MessagePack, in two passes over the text: MessagePack wants the length of a container before its elements,
//! so the first pass counts and the second writes. Both are linear and neither recurses, so nesting costs no stack.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use memchr::memchr2;
use rmp::encode;

use super::TranscodeError;
use crate::plain::plain_prefix;

/// The one key of an object that stands for bytes.
const BIN: &str = "$bin";

/// Bytes at the beginning of a string that are looked at by words of eight.
const SHORT: usize = 32;

/// Every write below goes to a `Vec`.
const INFALLIBLE: &str = "a Vec takes every byte";

/// Appends one JSON value as MessagePack, with the shortest headers. Integers stay integers up to 64 bits; every other
/// number is an `f64`. `{"$bin":"base64"}` becomes `bin`.
///
/// All JSON can be written, however deep: a number beyond `f64` becomes an infinity and half a surrogate pair U+FFFD,
/// which is what a browser's `JSON.parse` and `TextEncoder` make of them.
///
/// # Errors
/// [`TranscodeError::Json`] where the text is not JSON; then `out` is as it was.
pub fn json_to_msgpack(json: &[u8], out: &mut Vec<u8>) -> Result<(), TranscodeError> {
    let before = out.len();
    let done = transcode(json, out);
    if done.is_err() {
        out.truncate(before);
    }
    done
}

fn transcode(json: &[u8], out: &mut Vec<u8>) -> Result<(), TranscodeError> {
    if u32::try_from(json.len()).is_err() {
        return Err(TranscodeError::Json { at: 0, problem: "the text is longer than MessagePack's 4 GiB" });
    }
    let text = std::str::from_utf8(json)
        .map_err(|error| TranscodeError::Json { at: error.valid_up_to(), problem: "the text is not UTF-8" })?;
    out.reserve(json.len());
    Writer { text, json, at: 0, lengths: lengths(json).into_iter(), open: Vec::new(), out }.run()
}

/// The number of elements of each container, in the order in which they open. Right where the text is JSON; the second
/// pass checks whether it is.
fn lengths(json: &[u8]) -> Vec<u32> {
    let mut lengths: Vec<u32> = Vec::with_capacity(4);
    let mut open: Vec<u32> = Vec::with_capacity(4);
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_string(json, at),
            b'[' | b'{' => {
                open.push(lengths.len() as u32);
                let closes = matches!(json.get(after_whitespace(json, at)), Some(b']' | b'}'));
                lengths.push(u32::from(!closes));
            }
            b']' | b'}' => {
                open.pop();
            }
            b',' => {
                if let Some(index) = open.last() {
                    lengths[*index as usize] += 1;
                }
            }
            _ => {}
        }
    }
    lengths
}

/// Behind the closing quote, or the end.
fn after_string(json: &[u8], mut at: usize) -> usize {
    loop {
        at += plain_length(json.get(at..).unwrap_or_default());
        match json.get(at) {
            Some(b'"') => return at + 1,
            Some(_) => at += 2,
            None => return json.len(),
        }
    }
}

/// Bytes before the next quote or backslash, or before a control character among the first [`SHORT`]. Most strings are short,
/// and then this is faster than the search that is fastest for long ones.
fn plain_length(bytes: &[u8]) -> usize {
    let near = &bytes[..bytes.len().min(SHORT)];
    let length = plain_prefix(near);
    if length < near.len() {
        return length;
    }
    near.len() + memchr2(b'"', b'\\', &bytes[near.len()..]).unwrap_or(bytes.len() - near.len())
}

fn after_whitespace(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// A container whose end is not yet reached.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Array,
    Object,
}

/// What reading a value came to.
enum Value {
    Complete,
    /// A container opened, and its first element's value is next.
    Opened,
}

struct Writer<'a, 'o> {
    text: &'a str,
    json: &'a [u8],
    at: usize,
    lengths: std::vec::IntoIter<u32>,
    open: Vec<Open>,
    out: &'o mut Vec<u8>,
}

impl<'a> Writer<'a, '_> {
    fn run(mut self) -> Result<(), TranscodeError> {
        loop {
            if let Value::Opened = self.value()? {
                continue;
            }
            // A value is complete: close what ends here, up to the comma before the next value.
            loop {
                self.skip_whitespace();
                match (self.open.last(), self.peek()) {
                    (None, None) => return Ok(()),
                    (None, Some(_)) => return self.expected("nothing after the value"),
                    (Some(Open::Array), Some(b']')) | (Some(Open::Object), Some(b'}')) => {
                        self.at += 1;
                        self.open.pop();
                    }
                    (Some(open), Some(b',')) => {
                        self.at += 1;
                        if *open == Open::Object {
                            let key = self.key()?;
                            self.write_str(&key);
                        }
                        break;
                    }
                    (Some(Open::Array), _) => return self.expected("',' or ']' is expected"),
                    (Some(Open::Object), _) => return self.expected("',' or '}' is expected"),
                }
            }
        }
    }

    fn value(&mut self) -> Result<Value, TranscodeError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => return self.open_object(),
            Some(b'[') => return self.open_array(),
            Some(b'"') => {
                let text = self.string()?;
                self.write_str(&text);
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => {
                self.literal("true")?;
                encode::write_bool(self.out, true).expect(INFALLIBLE);
            }
            Some(b'f') => {
                self.literal("false")?;
                encode::write_bool(self.out, false).expect(INFALLIBLE);
            }
            Some(b'n') => {
                self.literal("null")?;
                encode::write_nil(self.out).expect(INFALLIBLE);
            }
            _ => return self.expected("a value is expected"),
        }
        Ok(Value::Complete)
    }

    fn open_array(&mut self) -> Result<Value, TranscodeError> {
        self.at += 1;
        let length = self.length();
        encode::write_array_len(self.out, length).expect(INFALLIBLE);
        if length == 0 {
            return self.close(b']', "']' is expected");
        }
        self.open.push(Open::Array);
        Ok(Value::Opened)
    }

    fn open_object(&mut self) -> Result<Value, TranscodeError> {
        self.at += 1;
        let length = self.length();
        if length == 0 {
            encode::write_map_len(self.out, 0).expect(INFALLIBLE);
            return self.close(b'}', "'}' is expected");
        }
        let key = self.key()?;
        self.skip_whitespace();
        if length == 1 && key == BIN && self.peek() == Some(b'"') {
            return self.bytes();
        }
        encode::write_map_len(self.out, length).expect(INFALLIBLE);
        self.write_str(&key);
        self.open.push(Open::Object);
        Ok(Value::Opened)
    }

    /// The value of an object whose only key is `$bin`: bytes where it is base64, else an object like any other.
    fn bytes(&mut self) -> Result<Value, TranscodeError> {
        let text = self.string()?;
        match STANDARD.decode(text.as_bytes()) {
            Ok(bytes) => encode::write_bin(self.out, &bytes).expect(INFALLIBLE),
            Err(_) => {
                encode::write_map_len(self.out, 1).expect(INFALLIBLE);
                self.write_str(BIN);
                self.write_str(&text);
            }
        }
        self.close(b'}', "'}' is expected")
    }

    fn close(&mut self, with: u8, problem: &'static str) -> Result<Value, TranscodeError> {
        self.skip_whitespace();
        self.expect(with, problem)?;
        Ok(Value::Complete)
    }

    fn key(&mut self) -> Result<Cow<'a, str>, TranscodeError> {
        self.skip_whitespace();
        if self.peek() != Some(b'"') {
            return self.expected("a key in quotes is expected");
        }
        let key = self.string()?;
        self.skip_whitespace();
        self.expect(b':', "':' is expected")?;
        Ok(key)
    }

    /// The string whose opening quote is next. Copied only where it has escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, TranscodeError> {
        self.at += 1;
        let (chunk, end) = self.chunk()?;
        if end == b'"' {
            return Ok(Cow::Borrowed(chunk));
        }
        let mut text = String::with_capacity(chunk.len() + 16);
        text.push_str(chunk);
        loop {
            text.push(self.escape()?);
            let (chunk, end) = self.chunk()?;
            text.push_str(chunk);
            if end == b'"' {
                return Ok(Cow::Owned(text));
            }
        }
    }

    /// Up to the next quote or backslash, which is taken too.
    fn chunk(&mut self) -> Result<(&'a str, u8), TranscodeError> {
        let start = self.at;
        let end = start + plain_length(&self.json[start..]);
        let Some(last) = self.json.get(end).copied() else {
            self.at = end;
            return self.expected("the string does not end");
        };
        // Without an early exit the compiler looks at many bytes at once.
        let far = self.json[start..end].get(SHORT..).unwrap_or_default();
        let control = far.iter().fold(last, |least, byte| least.min(*byte)) < 0x20;
        if control {
            return self.expected("a control character in a string must be escaped");
        }
        self.at = end + 1;
        Ok((&self.text[start..end], last))
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<char, TranscodeError> {
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return self.expected("an escape is one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX"),
        })
    }

    /// What follows `\u`; both halves of a surrogate pair, where it is one.
    fn unicode_escape(&mut self) -> Result<char, TranscodeError> {
        let first = self.hex4()?;
        if !(0xD800..0xDC00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let after_first = self.at;
        if self.json[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let second = self.hex4()?;
            if (0xDC00..0xE000).contains(&second) {
                let scalar = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(scalar).expect("a surrogate pair is a scalar value"));
            }
        }
        self.at = after_first;
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, TranscodeError> {
        let mut value = 0;
        for _ in 0..4 {
            match self.peek().and_then(|byte| char::from(byte).to_digit(16)) {
                Some(digit) => value = value << 4 | digit,
                None => return self.expected("\\u is followed by four hexadecimal digits"),
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<(), TranscodeError> {
        let start = self.at;
        let mut integer = true;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            integer = false;
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            integer = false;
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if integer && let Ok(number) = text.parse::<u64>() {
            encode::write_uint(self.out, number).expect(INFALLIBLE);
        } else if integer
            && let Ok(number) = text.parse::<i64>()
            && number != 0
        {
            encode::write_sint(self.out, number).expect(INFALLIBLE);
        } else {
            // Also -0, which is no integer, and what is beyond 64 bits.
            let number: f64 = text.parse().expect("every number of JSON is one for Rust");
            encode::write_f64(self.out, number).expect(INFALLIBLE);
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), TranscodeError> {
        let digits = self.json[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return self.expected("a digit is expected");
        }
        self.at += digits;
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<(), TranscodeError> {
        if !self.json[self.at..].starts_with(word.as_bytes()) {
            return self.expected("a value is expected");
        }
        self.at += word.len();
        Ok(())
    }

    fn write_str(&mut self, text: &str) {
        encode::write_str(self.out, text).expect(INFALLIBLE);
    }

    fn length(&mut self) -> u32 {
        self.lengths.next().expect("both passes read the same up to the first error")
    }

    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, problem: &'static str) -> Result<(), TranscodeError> {
        if self.take(byte) { Ok(()) } else { self.expected(problem) }
    }

    fn expected<T>(&self, problem: &'static str) -> Result<T, TranscodeError> {
        Err(TranscodeError::Json { at: self.at, problem })
    }

    fn skip_whitespace(&mut self) {
        self.at = after_whitespace(self.json, self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(json: &str) -> Result<Vec<u8>, TranscodeError> {
        let mut out = Vec::new();
        json_to_msgpack(json.as_bytes(), &mut out).map(|()| out)
    }

    /// Examples from the MessagePack specification and its home page.
    #[test]
    fn every_value_gets_its_shortest_form() {
        let cases: &[(&str, &[u8])] = &[
            (r#"{"compact":true,"schema":0}"#, b"\x82\xa7compact\xc3\xa6schema\x00"),
            ("[]", b"\x90"),
            (" { } ", b"\x80"),
            ("[null, false,\t[1,-1],{}]", b"\x94\xc0\xc2\x92\x01\xff\x80"),
            ("127", b"\x7f"),
            ("128", b"\xcc\x80"),
            ("65536", b"\xce\x00\x01\x00\x00"),
            ("18446744073709551615", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
            ("18446744073709551616", b"\xcb\x43\xf0\x00\x00\x00\x00\x00\x00"),
            ("-32", b"\xe0"),
            ("-33", b"\xd0\xdf"),
            ("-9223372036854775808", b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
            ("-0", b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00"),
            ("1.0", b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
            ("1e999", b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00"),
            (r#""a\u00fc\ud83d\ude00\n\/""#, "\u{aa}aü😀\n/".as_bytes().split_at(2).1),
        ];
        for (json, expected) in cases {
            let packed = pack(json).unwrap();
            if json.starts_with('"') {
                assert_eq!(&packed[1..], *expected, "{json}");
            } else {
                assert_eq!(packed, *expected, "{json}");
            }
        }
    }

    #[test]
    fn containers_of_every_header_size() {
        for (count, header) in [(15, &b"\x9f"[..]), (16, b"\xdc\x00\x10"), (65_536, b"\xdd\x00\x01\x00\x00")] {
            let packed = pack(&format!("[{}]", vec!["0"; count].join(","))).unwrap();
            assert!(packed.starts_with(header), "{count}");
            assert_eq!(packed.len(), header.len() + count);
        }
    }

    #[test]
    fn bytes_are_one_key_and_base64() {
        assert_eq!(pack(r#"{"$bin":"AQID"}"#).unwrap(), b"\xc4\x03\x01\x02\x03");
        assert_eq!(pack(r#"[ { "\u0024bin" : "AQID" } ]"#).unwrap(), b"\x91\xc4\x03\x01\x02\x03");
        assert_eq!(pack(r#"{"$bin":"?"}"#).unwrap(), b"\x81\xa4$bin\xa1?");
        assert_eq!(pack(r#"{"$bin":[1]}"#).unwrap(), b"\x81\xa4$bin\x91\x01");
        assert_eq!(pack(r#"{"$bin":"AQ==","a":1}"#).unwrap(), b"\x82\xa4$bin\xa4AQ==\xa1a\x01");
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        assert_eq!(pack(r#""\ud83dx""#).unwrap()[1..], *"\u{fffd}x".as_bytes());
        assert_eq!(pack(r#""\ud83d\u0041""#).unwrap()[1..], *"\u{fffd}A".as_bytes());
        assert_eq!(pack(r#""\ude00""#).unwrap()[1..], *"\u{fffd}".as_bytes());
    }

    #[test]
    fn nesting_costs_no_stack() {
        let depth = 500_000;
        let packed = pack(&("[".repeat(depth) + &"]".repeat(depth))).unwrap();
        assert_eq!(packed.len(), depth);
        assert!(pack(&"[".repeat(depth)).is_err());
    }

    #[test]
    fn what_is_no_json_is_refused_and_leaves_nothing_behind() {
        for json in [
            "",
            " ",
            "[",
            "{",
            "]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{]",
            "[}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"$bin\":\"AQID\"",
            "{\"$bin\":\"AQID\",}",
            "01",
            "+1",
            "1.",
            ".5",
            "1e",
            "--1",
            "tru",
            "nulll",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\n\"",
            "1 1",
            "NaN",
            "\u{a0}1",
            "{\"a\":1 \"b\":2}",
            "[1}",
        ] {
            let mut out = vec![1, 2];
            assert!(json_to_msgpack(json.as_bytes(), &mut out).is_err(), "{json:?}");
            assert_eq!(out, [1, 2], "{json:?}");
        }
        assert_eq!(
            json_to_msgpack(b"[1,\"\xff\"]", &mut Vec::new()),
            Err(TranscodeError::Json { at: 4, problem: "the text is not UTF-8" })
        );
        assert_eq!(pack("[1,]").unwrap_err().to_string(), "not JSON at byte 3: a value is expected");
    }
}
