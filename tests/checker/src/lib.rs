//! Holds what clients received against what publishers were told, on channels with history: every accepted publication
//! behind a client's first position reaches it once, in order, over all its sessions, or it is told that it does not.
//!
//! Publishers and clients each keep a log of their own while a test runs ([`PublisherLog`], [`ClientLog`]); afterwards a
//! [`Run`] takes them all and [`check`](Run::check)s. Nothing is measured here: time is an argument, one clock for all
//! logs, and the code knows neither sockets nor JSON.
//!
//! A client is a logical one: it keeps its position over its sessions and comes back with it, to whichever node. It may
//! be told that something is missing (`recovered: false`, `system:gap`) only where the checker can prove from the accepted
//! publications that retention or the limit of a recovery was exceeded, or where the test says that the broker failed
//! over. A publish without an answer may have happened or not; where anyone saw it, everyone has to.
//!
//! ```
//! use std::time::Duration;
//! use fanfare_checker::{ClientLog, Delivered, Position, PublisherLog, Rules, Run, Subscribed};
//!
//! let at = Duration::from_millis;
//! let mut publisher = PublisherLog::new();
//! let mut client = ClientLog::new("ann");
//! let start = Position::new(0, "e");
//! client.subscribed(at(0), "project:a", Subscribed { position: Some(start), ..Subscribed::default() });
//! publisher.attempted(at(1), "project:a", "id-1", "1");
//! publisher.accepted("project:a", "id-1", 1, Some("e"));
//! client.delivered(at(2), "project:a", Delivered::new("id-1", "1", Some(Position::new(1, "e"))));
//!
//! let mut run = Run::new().rules("project", Rules::default());
//! run.publisher(publisher);
//! run.client(client);
//! println!("{}", run.check().unwrap());
//! ```

mod client_log;
mod order;
mod publisher_log;
mod report;
mod rules;
mod run;
#[cfg(test)]
mod seeded;
mod walk;

pub use client_log::{ClientLog, Delivered, Gap, Position, Subscribed};
pub use publisher_log::PublisherLog;
pub use report::{Kind, Report, Summary, Violation};
pub use rules::Rules;
pub use run::Run;
