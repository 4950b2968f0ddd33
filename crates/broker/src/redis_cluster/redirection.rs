//! Errors of a node that say that a command was not done here, and what to do about it.

use crate::address::Server;

/// Where a command goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirection {
    /// To whom the topology names.
    Owner,
    /// The slot has another owner.
    Moved(Server),
    /// The key is on its way to this one, for this time.
    Ask(Server),
}

impl Redirection {
    /// `Some(Some(next))`: not done, to be tried again there. `Some(None)`: not done, and nobody can do it now. `None`: any other
    /// error.
    pub(super) fn parse(error: &str) -> Option<Option<Self>> {
        let (kind, rest) = error.split_once(' ').unwrap_or((error, ""));
        let place = || {
            let (host, port) = rest.split_once(' ')?.1.split(' ').next()?.rsplit_once(':')?;
            Some(Server { host: host.to_owned(), port: port.parse().ok()? })
        };
        match kind {
            "MOVED" => Some(Some(place().map_or(Self::Owner, Self::Moved))),
            "ASK" => Some(Some(place().map_or(Self::Owner, Self::Ask))),
            // Some keys of the slot are here, some there.
            "TRYAGAIN" => Some(Some(Self::Owner)),
            "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY" | "BUSY" | "NOREPLICAS" | "MISCONF" => Some(None),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_done_is_told_from_what_was_refused() {
        let at = |host: &str| Server { host: host.to_owned(), port: 7000 };
        for (error, next) in [
            ("MOVED 3999 127.0.0.1:7000", Some(Some(Redirection::Moved(at("127.0.0.1"))))),
            ("MOVED 3999 ::1:7000", Some(Some(Redirection::Moved(at("::1"))))),
            ("ASK 3999 a.example:7000", Some(Some(Redirection::Ask(at("a.example"))))),
            ("MOVED 3999", Some(Some(Redirection::Owner))),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Some(Some(Redirection::Owner))),
            ("CLUSTERDOWN The cluster is down", Some(None)),
            ("NOPERM this user has no permissions", None),
            ("ERR unknown command", None),
        ] {
            assert_eq!(Redirection::parse(error), next, "{error}");
        }
    }
}
