//! What a verified token, or being anonymous, allows.

use fanfare_protocol::{Info, Pattern, Tenant, Topic};

use crate::Time;

/// Who a client is and what it may do. Made by whoever verified the token; the session only applies it.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The token's subject; `None` for an anonymous client.
    pub user: Option<Box<str>>,
    /// The tenant. Every channel that the session names is this tenant's.
    pub tenant: Tenant,
    /// When the token expires; `None` where it does not.
    pub expires_at: Option<Time>,
    /// The claim `info`, passed on with presence.
    pub info: Option<Info>,
    /// The claim `subscribe`: channels to subscribe to when the session connects, where it may. The session takes them.
    pub subscribe: Box<[Box<str>]>,
    /// The claim `channels`.
    pub permissions: Box<[Permission]>,
}

/// One entry of the claim `channels`: `{ "match": "project:*", "allow": ["subscribe"] }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Which channels.
    pub pattern: Pattern,
    /// What may be done on them.
    pub allow: Allow,
}

/// A set of what may be done on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Allow(u8);

impl Allow {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Subscribe.
    pub const SUBSCRIBE: Self = Self(1);
    /// Publish.
    pub const PUBLISH: Self = Self(2);
    /// See who is present.
    pub const PRESENCE: Self = Self(4);
    /// Read history.
    pub const HISTORY: Self = Self(8);

    /// The words of the claim.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("subscribe", Self::SUBSCRIBE),
        ("publish", Self::PUBLISH),
        ("presence", Self::PRESENCE),
        ("history", Self::HISTORY),
    ];

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set for one word of the claim.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, allow)| *allow)
    }
}

impl Grant {
    /// A client without a token: it may only what a namespace allows to anyone.
    pub fn anonymous(tenant: Tenant) -> Self {
        Self {
            user: None,
            tenant,
            expires_at: None,
            info: None,
            subscribe: Box::default(),
            permissions: Box::default(),
        }
    }

    /// Whether one of the claims allows this on all of the topic.
    pub fn allows(&self, allow: Allow, topic: &Topic) -> bool {
        self.permissions.iter().any(|permission| permission.allow.contains(allow) && permission.pattern.covers(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_allows_only_what_it_covers_wholly() {
        let grant = Grant {
            permissions: [Permission { pattern: Pattern::parse("project:*").unwrap(), allow: Allow::SUBSCRIBE }].into(),
            ..Grant::anonymous(Tenant::default())
        };
        let topic = |name| Topic::parse(name).unwrap();
        assert!(grant.allows(Allow::SUBSCRIBE, &topic("project:a")));
        assert!(grant.allows(Allow::SUBSCRIBE, &topic("project:*")));
        assert!(!grant.allows(Allow::SUBSCRIBE, &topic("project:**")));
        assert!(!grant.allows(Allow::PUBLISH, &topic("project:a")));
        assert!(!grant.allows(Allow::SUBSCRIBE, &topic("other:a")));
    }
}
