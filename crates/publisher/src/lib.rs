//! Publishes events to Fanfare from Rust services; the `fanfare` command line is built on it.
//!
//! One [`Publisher`] for the whole process, over NATS, Redis or the HTTP API of a node:
//!
//! ```no_run
//! use fanfare_publisher::Publisher;
//! use serde::Serialize;
//!
//! #[derive(Serialize)]
//! struct Funded {
//!     project_id: &'static str,
//!     current_amount: u64,
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = Publisher::connect("nats://127.0.0.1:4222").await?;
//! publisher.publish("project:clx123", "project:funded", &Funded { project_id: "clx123", current_amount: 75_000 }).await?;
//! publisher.close().await;
//! # Ok(()) }
//! ```
//!
//! With options, and with the optional fields of an event:
//!
//! ```no_run
//! use std::time::Duration;
//! use fanfare_publisher::{Publication, Publisher};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = Publisher::builder()
//!     .tenant("acme")
//!     .api_key(std::env::var("FANFARE_API_KEY")?)
//!     .deadline(Duration::from_secs(5))
//!     .connect("http://127.0.0.1:9000")
//!     .await?;
//! publisher
//!     .send(Publication::new("project:clx123", "project:funded").raw_data(r#"{"n":1}"#)?.id("payment-8812").key("clx123"))
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! - **Every call ends by its deadline** (30 s unless set), which counts from the call: waiting for a place, attempts
//!   and the pauses between them.
//! - **A bounded window.** No more than [`in_flight`](Builder::in_flight) publications are under way at a time; a call
//!   waits for its place, so that a slow broker slows its publishers down instead of filling their memory.
//! - **Only what can succeed is tried again**, after pauses with full jitter ([`RetryPolicy`]).
//! - **An error says what was accepted**: [`Acceptance`] is refused, not accepted, or unknown; of a batch, for every
//!   publication in it.
//! - **One id per publication**, given or made, the same in all attempts. On channels with history the broker drops a
//!   second publication with an id that it has seen within its dedupe window (2 minutes unless configured), and answers
//!   where the first one stands: an attempt whose answer was lost is made again without harm, as long as the deadline
//!   is shorter than that window. Without history the id is only carried in the envelope: an attempt
//!   whose answer was lost may then be delivered twice, and a client that cares compares ids.
//! - **What is accepted stays**, on channels with history: the broker has stored it before the call returns, and
//!   [`Published::position`] says where. Over HTTP the node knows which namespaces these are; over NATS and Redis the publisher has to be
//!   told with [`Builder::history`], the same as the nodes are configured.
//! - **Order.** Events that are published one after the other, each after the answer to the one before, are accepted in
//!   that order; so are those of one channel in a [`batch`](Publisher::batch). (Over HTTP with one exception: where the
//!   node takes only a part of a request, what is sent again comes after the rest.)
//!
//! Dropping the future of a call gives up on it: the event may or may not be accepted then.

mod builder;
mod error;
pub mod limits;
mod publication;
mod publisher;
mod retry;
mod target;
mod transport;

pub use builder::Builder;
pub use error::{Acceptance, BatchError, ConnectError, PublishError};
pub use fanfare_broker::Retention;
pub use fanfare_protocol::{Epoch, Position};
pub use publication::Publication;
pub use publisher::{Published, Publisher};
pub use retry::RetryPolicy;
