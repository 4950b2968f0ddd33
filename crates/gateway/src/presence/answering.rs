//! Answers as clients get them.

use fanfare_presence::{Answer, Member, MemberPage, Place, User};
use fanfare_protocol::{MemberJson, PresenceReply, Push};

use super::announcing::user_id;
use crate::encoding::EncodedPublication;

/// The answer to one who asked.
pub(crate) fn reply(place: &Place, answer: Answer) -> PresenceReply {
    let Answer { users, connections, members, version, stale } = answer;
    let (members, next) = match members {
        Some(MemberPage { members, next }) => (Some(members.into_iter().map(member).collect()), next),
        None => (None, None),
    };
    let next = next.as_ref().map(User::to_cursor);
    PresenceReply { channel: place.channel.to_string(), users, connections, members, next, version, stale }
}

/// `presence:snapshot` for all who are told, encoded once.
pub(super) fn snapshot(place: &Place, answer: Answer) -> EncodedPublication {
    EncodedPublication::of_push(Push::PresenceSnapshot(reply(place, answer)))
}

fn member(member: Member) -> MemberJson {
    let Member { user, state, info, connections, since } = member;
    let (user_id, anonymous) = user_id(&user);
    MemberJson { user_id, anonymous, status: state.as_str().to_owned(), info: info.map(Into::into), connections, since }
}
