//! What happens to a session.

use fanfare_protocol::Watch;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    MAX_HISTORY,
    who::{NAMES, WITH_HISTORY, Who},
};

/// Where a client asks to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Back {
    /// So many publications ago.
    pub(crate) since: Option<u64>,
    pub(crate) rewind: u32,
}

/// One input.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Connect {
        with_token: bool,
    },
    Subscribe(&'static str, Back, Watch),
    SubscribeMany(Vec<(&'static str, Back, Watch)>),
    Unsubscribe(&'static str),
    UnsubscribeMany(Vec<&'static str>),
    Publish(&'static str),
    /// Somebody else publishes.
    Published(&'static str),
    History(&'static str, u32),
    Presence(&'static str),
    /// On one channel or all.
    SetPresence(Option<&'static str>, &'static str),
    Signal(&'static str, &'static str),
    Refresh,
    Ping {
        active: bool,
    },
    Pong,
    Malformed {
        with_id: bool,
    },
    Activity,
    /// The `nth` of what is in flight is completed; `who` is `None` where it is refused.
    Complete {
        nth: usize,
        who: Option<Who>,
    },
    CompleteUnknown,
    Wait(u64),
    Gap(&'static str),
    EndAtHub(&'static str),
    Drain,
}

pub(crate) fn name() -> impl Strategy<Value = &'static str> {
    select(NAMES.as_slice())
}

pub(crate) fn back() -> impl Strategy<Value = Back> {
    (option::weighted(0.3, 0..6_u64), prop_oneof![4 => Just(0), 1 => 0..5_u32, 1 => Just(MAX_HISTORY + 1)])
        .prop_map(|(since, rewind)| Back { since, rewind })
}

pub(crate) fn watch() -> impl Strategy<Value = Watch> {
    prop_oneof![3 => Just(Watch::Default), 1 => Just(Watch::Off), 2 => Just(Watch::Snapshot), 1 => Just(Watch::Names)]
}

fn word() -> impl Strategy<Value = &'static str> {
    select(["online", "idle", "editing", "reading", "Not a word"].as_slice())
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let who = || select([Who::Alice, Who::AliceWithLess, Who::Bob].as_slice());
    prop_oneof![
        2 => any::<bool>().prop_map(|with_token| Step::Connect { with_token }),
        8 => (name(), back(), watch()).prop_map(|(name, from, watch)| Step::Subscribe(name, from, watch)),
        4 => vec((name(), back(), watch()), 0..6).prop_map(Step::SubscribeMany),
        4 => name().prop_map(Step::Unsubscribe),
        2 => vec(name(), 0..4).prop_map(Step::UnsubscribeMany),
        4 => name().prop_map(Step::Publish),
        12 => select(WITH_HISTORY.as_slice()).prop_map(Step::Published),
        2 => (name(), 0..MAX_HISTORY + 2).prop_map(|(name, limit)| Step::History(name, limit)),
        3 => Just(Step::Refresh),
        2 => name().prop_map(Step::Presence),
        4 => (option::of(name()), word()).prop_map(|(name, word)| Step::SetPresence(name, word)),
        4 => (name(), select(["typing:start", "typing:stop", "wave"].as_slice()))
            .prop_map(|(name, event)| Step::Signal(name, event)),
        2 => any::<bool>().prop_map(|active| Step::Ping { active }),
        1 => Just(Step::Pong),
        1 => any::<bool>().prop_map(|with_id| Step::Malformed { with_id }),
        2 => Just(Step::Activity),
        16 => (0..8_usize, option::weighted(0.9, who())).prop_map(|(nth, who)| Step::Complete { nth, who }),
        1 => Just(Step::CompleteUnknown),
        4 => prop_oneof![0..2_000_u64, 0..30_000_u64].prop_map(Step::Wait),
        1 => name().prop_map(Step::Gap),
        2 => name().prop_map(Step::EndAtHub),
    ]
}
