//! The channels on which a session is a member, and what it says there.

use fanfare_protocol::{Channel, Info};

use crate::{PresenceWord, Watching};

/// A sorted list, in as little memory as it takes.
#[derive(Debug, Default)]
pub(crate) struct Members(Vec<(Channel, Member)>);

/// What is known of one channel.
#[derive(Debug, Default)]
pub(crate) struct Member {
    /// What the session is told there.
    pub(crate) watch: Watching,
    /// Whether the subscription was made: before, there is only what the client has set for it.
    pub(crate) joined: bool,
    own: Option<Box<Own>>,
}

/// What the client has set.
#[derive(Debug, Default, PartialEq)]
struct Own {
    state: PresenceWord,
    /// In the place of the token's.
    info: Option<Option<Info>>,
}

impl Members {
    pub(crate) fn get(&self, channel: &Channel) -> Option<&Member> {
        self.place(channel).ok().map(|place| &self.0[place].1)
    }

    /// The member there; one that has not joined where there was none.
    pub(crate) fn entry(&mut self, channel: &Channel) -> &mut Member {
        let place = self.place(channel).unwrap_or_else(|place| {
            if self.0.len() == self.0.capacity() {
                // Most sessions have one channel or two; Vec's own first step is four.
                self.0.reserve_exact((self.0.len() / 2).max(1));
            }
            self.0.insert(place, (channel.clone(), Member::default()));
            place
        });
        &mut self.0[place].1
    }

    pub(crate) fn remove(&mut self, channel: &Channel) {
        let Ok(place) = self.place(channel) else { return };
        self.0.remove(place);
        if self.0.len() <= self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() + self.0.len() / 2);
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&Channel, &mut Member)> {
        self.0.iter_mut().map(|(channel, member)| (&*channel, member))
    }

    pub(crate) fn any_joined(&self) -> bool {
        self.0.iter().any(|(_, member)| member.joined)
    }

    fn place(&self, channel: &Channel) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(channel))
    }
}

impl Member {
    /// What the row says: of a connection without activity that it is idle, else what was set.
    pub(crate) fn shown(&self, idle: bool, of_token: Option<&Info>) -> (PresenceWord, Option<Info>) {
        let own = self.own.as_deref();
        let state = if idle { PresenceWord::Idle } else { own.map(|own| own.state.clone()).unwrap_or_default() };
        let info = own.and_then(|own| own.info.clone()).unwrap_or_else(|| of_token.cloned());
        (state, info)
    }

    /// What is not given stays.
    pub(crate) fn set(&mut self, state: Option<&PresenceWord>, info: Option<&Option<Info>>) {
        let own = self.own.get_or_insert_default();
        if let Some(state) = state {
            own.state = state.clone();
        }
        if let Some(info) = info {
            own.info = Some(info.clone());
        }
        self.own.take_if(|own| **own == Own::default());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::parse(name).unwrap()
    }

    fn info(text: &str) -> Info {
        RawValue::from_string(text.to_owned()).unwrap().into()
    }

    #[test]
    fn a_channel_is_there_once_and_gives_its_memory_back() {
        let mut members = Members::default();
        for name in ["b", "a", "c", "a"] {
            members.entry(&channel(name)).joined = true;
        }
        assert_eq!(members.iter_mut().map(|(channel, _)| channel.to_string()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(members.get(&channel("a")).is_some() && members.get(&channel("d")).is_none());
        assert!(members.any_joined());
        for name in ["a", "b", "c", "c"] {
            members.remove(&channel(name));
        }
        assert!(!members.any_joined());
        assert_eq!(members.0.capacity(), 0);
        assert!(size_of::<(Channel, Member)>() <= 32);
    }

    #[test]
    fn what_is_set_stays_behind_idleness() {
        let token = info(r#"{"name":"Alice"}"#);
        let mut member = Member::default();
        let shown = |member: &Member, idle| member.shown(idle, Some(&token));
        assert_eq!(shown(&member, false), (PresenceWord::Online, Some(token.clone())));
        member.set(Some(&PresenceWord::Own("editing".into())), None);
        assert_eq!(shown(&member, true), (PresenceWord::Idle, Some(token.clone())));
        assert_eq!(shown(&member, false), (PresenceWord::Own("editing".into()), Some(token.clone())));
        member.set(None, Some(&Some(info("1"))));
        assert_eq!(shown(&member, false), (PresenceWord::Own("editing".into()), Some(info("1"))));
        member.set(Some(&PresenceWord::Online), Some(&None));
        assert_eq!(shown(&member, false), (PresenceWord::Online, None));
    }

    #[test]
    fn what_says_nothing_of_its_own_takes_no_memory() {
        let mut member = Member::default();
        member.set(Some(&PresenceWord::Idle), None);
        assert!(member.own.is_some());
        member.set(Some(&PresenceWord::Online), None);
        assert!(member.own.is_none());
    }
}
