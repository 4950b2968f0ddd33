//! Redis' wire protocol (RESP2), as far as a test's plain client needs it.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// What Redis answers to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A short text such as `OK`.
    Status(String),
    /// An error; the first word is its kind.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes, as values are.
    Bulk(Vec<u8>),
    /// Nothing: no such key.
    Nil,
    /// Several replies.
    Array(Vec<Reply>),
}

/// A command, ready to send: an array of its words.
pub(super) fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// Reads one reply.
///
/// # Errors
///
/// When the connection fails or ends, or what comes is no reply.
pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| malformed(line))?;
    let number = || rest.parse::<i64>().map_err(|_| malformed(line));
    Ok(match kind {
        "+" => Reply::Status(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(number()?),
        "$" => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Reply::Bulk(bytes)
            }
        },
        "*" => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(length) => {
                let mut replies = Vec::new();
                for _ in 0..length {
                    replies.push(Box::pin(read(stream)).await?);
                }
                Reply::Array(replies)
            }
        },
        _ => return Err(malformed(line)),
    })
}

fn malformed(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a reply of Redis: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_every_kind_and_refuses_the_rest() {
        let mut bytes = &b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*0\r\n"[..];
        let expected = [
            Reply::Status("OK".into()),
            Reply::Error("ERR no".into()),
            Reply::Integer(-7),
            Reply::Bulk(b"a\r\nb".to_vec()),
            Reply::Nil,
            Reply::Array(Vec::new()),
        ];
        assert_eq!(read(&mut bytes).await.unwrap(), Reply::Array(expected.to_vec()));
        assert!(bytes.is_empty());
        for bad in ["?\r\n", "\r\n", ":x\r\n", "$5\r\nab"] {
            assert!(read(&mut bad.as_bytes()).await.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn encodes_words_by_their_length_in_bytes() {
        assert_eq!(encode(&["GET", "é"]), "*2\r\n$3\r\nGET\r\n$2\r\né\r\n".as_bytes());
    }
}
