//! The intake: a connection of our own, which only receives.
#![allow(dead_code, reason = "the reader of the client library is still in its place")]

mod headers;
mod wire;
