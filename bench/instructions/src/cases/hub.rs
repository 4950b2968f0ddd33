//! Finding topics, and a publication's way through the hub.

use std::cell::RefCell;

use fanfare_gateway::bench::{HubAlone, TopicsAlone};
use fanfare_protocol::{Body, Topic};

use super::envelope::short;
use crate::counter::Counter;

/// Channels of the tables.
const CHANNELS: u32 = 10_000;

/// Channels that are looked at, spread over all.
fn spread(index: usize) -> u32 {
    (index as u32).wrapping_mul(7_919) % CHANNELS
}

pub fn count(counter: &mut Counter) {
    let hub = RefCell::new(HubAlone::new(CHANNELS));
    let name = |index: usize| HubAlone::channel(spread(index));
    counter.case("lookup: hub's topic by name", 256, name, |name| hub.borrow().find(name));
    let interest = |index: usize| hub.borrow().find(&name(index)).expect("it is there");
    counter.case("lookup: hub's topic by interest", 256, interest, |interest| hub.borrow().get(*interest));
    let topic = |name: String| Topic::parse(&name).expect("a channel's name");
    let topics = TopicsAlone::new((0..CHANNELS).map(|number| topic(HubAlone::channel(number))));
    counter.case("lookup: shard's topic by name", 256, |index| topic(name(index)), |topic| topics.find(topic));
    let body = Body::new(short(128));
    let publication = |index: usize| hub.borrow().publication(spread(index), body.clone());
    counter.case("hub: route a publication", 256, publication, |publication| hub.borrow().route(publication));
    let publication = |index: usize| {
        hub.borrow_mut().empty_inbox();
        Some(hub.borrow().publication(spread(index), body.clone()))
    };
    counter.case("hub: publication to a shard's inbox, 128 B", 256, publication, |publication| {
        hub.borrow_mut().handle(publication.take().expect("each is taken once"));
    });
}
