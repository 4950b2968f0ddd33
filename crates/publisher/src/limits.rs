//! Limits of a publisher, each with its unit. The ones that are defaults can be set on the [`Builder`](crate::Builder).

use std::time::Duration;

/// Publications that one publisher has under way at a time, unless set otherwise.
pub const IN_FLIGHT: usize = 256;
/// Publications that one publisher may be allowed to have under way. Hard bound.
pub const IN_FLIGHT_MAX: usize = 65_536;
/// How long a call may take in all, unless set otherwise: waiting for a place, attempts and pauses between them.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long one attempt may take, unless set otherwise.
pub const ATTEMPT: Duration = Duration::from_secs(5);
/// Publications in one request to `/api/batch`, and under way at a time for one batch at a broker.
pub const BATCH_PUBLICATIONS: usize = 256;
/// Bytes of publications in one request to `/api/batch`; a single larger publication goes alone.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes of an answer of the HTTP API that are read.
pub const ANSWER_BYTES: usize = 1024 * 1024;
