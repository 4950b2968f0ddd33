//! Who may do what on a channel: the namespace's options applied to a grant.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, Topic, escape_segment};

use crate::{Access, Allow, Grant, NamespaceTable};

/// Whether the client may subscribe to a channel or pattern.
pub(crate) fn check_subscribe(namespaces: &NamespaceTable, grant: &Grant, topic: &Topic) -> Result<(), ErrorBody> {
    let namespace = namespaces.get(topic.namespace());
    if topic.is_pattern() && !namespace.patterns {
        return Err(forbidden(format!(
            "{topic} is a pattern, and patterns are not allowed in namespace {:?}",
            topic.namespace()
        )));
    }
    match namespace.subscribe {
        Access::Anyone => Ok(()),
        Access::Token => by_claim(grant, Allow::SUBSCRIBE, "subscribe", topic),
        Access::Owner => by_owner(grant, "subscribe", topic),
        Access::None | Access::Subscribers => Err(nobody("subscribe", topic.namespace())),
    }
}

/// Whether the client may publish on a channel. `subscribed` says whether one of its subscriptions matches the channel.
pub(crate) fn check_publish(
    namespaces: &NamespaceTable,
    grant: &Grant,
    channel: &Channel,
    subscribed: impl FnOnce() -> bool,
) -> Result<(), ErrorBody> {
    check_sender(namespaces.get(channel.namespace()).publish, "publish", grant, channel, subscribed)
}

/// Whether the client may send signals on a channel, by the rules of publishing. By token it needs the claim `publish`.
pub(crate) fn check_signal(
    namespaces: &NamespaceTable,
    grant: &Grant,
    channel: &Channel,
    subscribed: impl FnOnce() -> bool,
) -> Result<(), ErrorBody> {
    check_sender(namespaces.get(channel.namespace()).signal, "signal", grant, channel, subscribed)
}

/// Whether the client may read the history of a channel, if it has one: who may subscribe, and by token only with a claim
/// for it.
pub(crate) fn check_history(namespaces: &NamespaceTable, grant: &Grant, channel: &Channel) -> Result<(), ErrorBody> {
    check_reader(namespaces, Allow::HISTORY, "history", grant, channel)
}

/// Whether the client may see who is on a channel, by the same rules.
pub(crate) fn check_presence(namespaces: &NamespaceTable, grant: &Grant, channel: &Channel) -> Result<(), ErrorBody> {
    check_reader(namespaces, Allow::PRESENCE, "presence", grant, channel)
}

/// Where there is presence, only the node tells of it.
pub(crate) fn check_own_event(namespaces: &NamespaceTable, channel: &Channel, event: &str) -> Result<(), ErrorBody> {
    if namespaces.get(channel.namespace()).presence && event.starts_with("presence:") {
        let message =
            format!("event {event:?} is refused: on {channel} names that begin with \"presence:\" are the node's own");
        return Err(ErrorBody::new(ErrorCode::BadRequest, message));
    }
    Ok(())
}

/// Members are asked for where there are none.
pub(crate) fn no_presence(what: &str, namespace: &str) -> ErrorBody {
    let message = format!("{what} is not possible: channels of namespace {namespace:?} have no presence");
    ErrorBody::new(ErrorCode::BadRequest, message)
}

/// The past is asked for where none is kept.
pub(crate) fn no_history(what: &str, namespace: &str) -> ErrorBody {
    let message = format!("{what} is not possible: channels of namespace {namespace:?} keep no history");
    ErrorBody::new(ErrorCode::BadRequest, message)
}

fn check_sender(
    access: Access,
    what: &str,
    grant: &Grant,
    channel: &Channel,
    subscribed: impl FnOnce() -> bool,
) -> Result<(), ErrorBody> {
    let topic = Topic::Channel(channel.clone());
    match access {
        Access::Anyone => Ok(()),
        Access::Token => by_claim(grant, Allow::PUBLISH, "publish", &topic),
        Access::Owner => by_owner(grant, what, &topic),
        Access::Subscribers if subscribed() => Ok(()),
        Access::Subscribers => Err(forbidden(format!("{what} on {channel} is allowed to its subscribers only"))),
        Access::None => Err(nobody(what, channel.namespace())),
    }
}

fn check_reader(
    namespaces: &NamespaceTable,
    allow: Allow,
    what: &str,
    grant: &Grant,
    channel: &Channel,
) -> Result<(), ErrorBody> {
    let topic = Topic::Channel(channel.clone());
    match namespaces.get(channel.namespace()).subscribe {
        Access::Anyone => Ok(()),
        Access::Token => by_claim(grant, allow, what, &topic),
        Access::Owner => by_owner(grant, what, &topic),
        Access::None | Access::Subscribers => Err(nobody(what, channel.namespace())),
    }
}

fn by_claim(grant: &Grant, allow: Allow, what: &str, topic: &Topic) -> Result<(), ErrorBody> {
    if grant.allows(allow, topic) {
        Ok(())
    } else {
        Err(forbidden(format!("the token has no claim that allows {what} on all of {topic}")))
    }
}

/// `user:{sub}`, and nothing below or beside it; a pattern is nobody's.
fn by_owner(grant: &Grant, what: &str, topic: &Topic) -> Result<(), ErrorBody> {
    let owned = match (topic, &grant.user) {
        (Topic::Channel(channel), Some(user)) => {
            let mut segments = channel.segments().skip(1);
            segments.next() == Some(escape_segment(user).as_str()) && segments.next().is_none()
        }
        _ => false,
    };
    if owned {
        Ok(())
    } else {
        let namespace = topic.namespace();
        Err(forbidden(format!("{what} on {topic} is allowed to its owner only: the user of {namespace}:{{sub}}")))
    }
}

fn nobody(what: &str, namespace: &str) -> ErrorBody {
    forbidden(format!("{what} is not allowed to clients in namespace {namespace:?}"))
}

fn forbidden(message: String) -> ErrorBody {
    ErrorBody::new(ErrorCode::Forbidden, message)
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Pattern, Tenant};

    use super::*;
    use crate::{Namespace, Permission};

    fn namespaces(subscribe: Access, publish: Access, patterns: bool) -> NamespaceTable {
        NamespaceTable {
            declared: [("x".into(), Namespace { subscribe, publish, patterns, ..Namespace::default() })].into(),
            ..Default::default()
        }
    }

    fn grant(user: Option<&str>, allow: Allow, pattern: &str) -> Grant {
        Grant {
            user: user.map(Into::into),
            permissions: [Permission { pattern: Pattern::parse(pattern).unwrap(), allow }].into(),
            ..Grant::anonymous(Tenant::default())
        }
    }

    fn subscribe(access: Access, patterns: bool, grant: &Grant, name: &str) -> Result<(), String> {
        check_subscribe(&namespaces(access, Access::None, patterns), grant, &Topic::parse(name).unwrap()).map_err(told)
    }

    fn publish(access: Access, grant: &Grant, name: &str, subscribed: bool) -> Result<(), String> {
        let channel = Channel::parse(name).unwrap();
        check_publish(&namespaces(Access::None, access, true), grant, &channel, || subscribed).map_err(told)
    }

    fn told(error: ErrorBody) -> String {
        assert_eq!((error.code, error.retryable), (ErrorCode::Forbidden, false));
        error.message
    }

    fn err(message: &str) -> Result<(), String> {
        Err(message.into())
    }

    #[test]
    fn anyone_needs_no_token() {
        let anonymous = Grant::anonymous(Tenant::default());
        assert_eq!(subscribe(Access::Anyone, false, &anonymous, "x:a"), Ok(()));
        assert_eq!(publish(Access::Anyone, &anonymous, "x:a", false), Ok(()));
    }

    #[test]
    fn a_claim_has_to_allow_the_very_thing() {
        let reader = grant(Some("u"), Allow::SUBSCRIBE, "x:*");
        assert_eq!(subscribe(Access::Token, false, &reader, "x:a"), Ok(()));
        assert_eq!(
            subscribe(Access::Token, false, &reader, "x:a:b"),
            err("the token has no claim that allows subscribe on all of x:a:b")
        );
        assert_eq!(
            publish(Access::Token, &reader, "x:a", true),
            err("the token has no claim that allows publish on all of x:a")
        );
        let writer = grant(Some("u"), Allow::PUBLISH, "x:*");
        assert_eq!(publish(Access::Token, &writer, "x:a", false), Ok(()));
        assert!(subscribe(Access::Token, false, &writer, "x:a").is_err());
    }

    #[test]
    fn a_claim_has_to_cover_the_whole_pattern() {
        let reader = grant(Some("u"), Allow::SUBSCRIBE, "x:*");
        assert_eq!(subscribe(Access::Token, true, &reader, "x:*"), Ok(()));
        assert_eq!(
            subscribe(Access::Token, true, &reader, "x:**"),
            err("the token has no claim that allows subscribe on all of x:**")
        );
    }

    #[test]
    fn patterns_are_for_namespaces_that_allow_them() {
        let reader = grant(Some("u"), Allow::SUBSCRIBE, "x:*");
        for access in [Access::Anyone, Access::Token, Access::Owner, Access::None] {
            assert_eq!(
                subscribe(access, false, &reader, "x:*"),
                err(r#"x:* is a pattern, and patterns are not allowed in namespace "x""#)
            );
        }
        assert_eq!(subscribe(Access::Anyone, true, &reader, "x:**"), Ok(()));
    }

    #[test]
    fn an_owner_has_one_channel() {
        let alice = grant(Some("alice@b"), Allow::NONE, "x:*");
        let message = |name| format!("subscribe on {name} is allowed to its owner only: the user of x:{{sub}}");
        assert_eq!(subscribe(Access::Owner, true, &alice, "x:alice@b"), Ok(()));
        assert_eq!(publish(Access::Owner, &alice, "x:alice@b", false), Ok(()));
        for other in ["x:bob", "x", "x:alice@b:more", "x:*", "x:**", "x:alice@b:*"] {
            assert_eq!(subscribe(Access::Owner, true, &alice, other), Err(message(other)));
        }
        let escaped = grant(Some("a.b=c"), Allow::NONE, "x:*");
        assert_eq!(subscribe(Access::Owner, false, &escaped, "x:a=2Eb=3Dc"), Ok(()));
        let anonymous = Grant::anonymous(Tenant::default());
        assert_eq!(subscribe(Access::Owner, false, &anonymous, "x:alice@b"), Err(message("x:alice@b")));
    }

    #[test]
    fn subscribers_may_publish() {
        let anonymous = Grant::anonymous(Tenant::default());
        assert_eq!(publish(Access::Subscribers, &anonymous, "x:a", true), Ok(()));
        assert_eq!(
            publish(Access::Subscribers, &anonymous, "x:a", false),
            err("publish on x:a is allowed to its subscribers only")
        );
    }

    #[test]
    fn what_no_client_may() {
        let all = grant(Some("u"), Allow::SUBSCRIBE.union(Allow::PUBLISH), "x:**");
        for access in [Access::None, Access::Subscribers] {
            assert_eq!(
                subscribe(access, true, &all, "x:a"),
                err(r#"subscribe is not allowed to clients in namespace "x""#)
            );
        }
        assert_eq!(
            publish(Access::None, &all, "x:a", true),
            err(r#"publish is not allowed to clients in namespace "x""#)
        );
    }
}
