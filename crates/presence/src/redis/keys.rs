//! The names of keys and channels. What each holds stands in `fanfare_presence_v1.lua`.

use fanfare_protocol::{Channel, RedisChannels, SubjectError, Tenant};

use crate::{Incarnation, Place};

/// Names below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// `rt:presence:`
    base: String,
    /// `rt:presence:change:{`
    change: String,
}

impl Keys {
    /// The prefix is one segment, as that of the broker's names.
    pub(super) fn new(prefix: &str) -> Result<Self, SubjectError> {
        RedisChannels::new(prefix)?;
        Ok(Self { base: format!("{prefix}:presence:"), change: format!("{prefix}:presence:change:{{") })
    }

    /// Rows, users and meta of a channel.
    pub(super) fn of_channel(&self, place: &Place) -> Vec<String> {
        ["", "users:", "meta:"].map(|kind| self.tagged(kind, place)).into()
    }

    /// Rows and meta of a channel.
    pub(super) fn rows_and_meta(&self, place: &Place) -> Vec<String> {
        ["", "meta:"].map(|kind| self.tagged(kind, place)).into()
    }

    /// Where the changes of a channel are published.
    pub(super) fn change(&self, place: &Place) -> String {
        self.tagged("change:", place)
    }

    /// The inverse of [`change`](Self::change).
    pub(super) fn place_of_change(&self, name: &str) -> Option<Place> {
        parse_place(name.strip_prefix(&self.change)?.strip_suffix('}')?)
    }

    /// Leases, the dead, and when those are to be reaped.
    pub(super) fn of_leases(&self) -> Vec<String> {
        ["", "dead:", "due:"].map(|kind| format!("{}leases:{kind}{{leases}}", self.base)).into()
    }

    /// Leases alone.
    pub(super) fn leases(&self) -> String {
        format!("{}leases:{{leases}}", self.base)
    }

    /// Where an incarnation has rows.
    pub(super) fn of_node(&self, incarnation: &Incarnation) -> String {
        format!("{}node:{incarnation}", self.base)
    }

    fn tagged(&self, kind: &str, Place { tenant, channel }: &Place) -> String {
        format!("{}{kind}{{{}:{}}}", self.base, tenant.as_str(), channel.as_str())
    }
}

/// How a place is noted.
pub(super) fn place_text(Place { tenant, channel }: &Place) -> String {
    format!("{}:{}", tenant.as_str(), channel.as_str())
}

/// The inverse of [`place_text`].
pub(super) fn parse_place(text: &str) -> Option<Place> {
    let (tenant, channel) = text.split_once(':')?;
    Some(Place { tenant: Tenant::parse(tenant).ok()?, channel: Channel::parse(channel).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_channel_share_its_tag() {
        let keys = Keys::new("rt").unwrap();
        let place = parse_place("acme:crew:1").unwrap();
        let names = ["rt:presence:{acme:crew:1}", "rt:presence:users:{acme:crew:1}", "rt:presence:meta:{acme:crew:1}"];
        assert_eq!(keys.of_channel(&place), names);
        assert_eq!(keys.rows_and_meta(&place), [names[0], names[2]]);
        assert_eq!(keys.change(&place), "rt:presence:change:{acme:crew:1}");
        assert_eq!(keys.place_of_change(&keys.change(&place)), Some(place.clone()));
        assert_eq!(parse_place(&place_text(&place)), Some(place));
        assert_eq!(keys.of_leases()[0], keys.leases());
        assert_eq!(keys.of_leases()[1], "rt:presence:leases:dead:{leases}");
        assert_eq!(keys.of_node(&Incarnation::new("n", 1)), "rt:presence:node:n.0000000000000001");
    }

    #[test]
    fn other_names_are_no_places() {
        let keys = Keys::new("rt").unwrap();
        for other in ["", "rt:presence:change:{acme}", "rt:presence:{acme:a}", "rt:presence:change:{acme:a", "x:{a:b}"]
        {
            assert_eq!(keys.place_of_change(other), None, "{other}");
        }
        assert!(Keys::new("r t").is_err());
    }
}
