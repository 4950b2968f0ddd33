//! Who is there: a session as a member of its channels, and what it is told of the others.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, Info, Push, Topic, Watch};

use crate::{
    Action, JoinAction, Session, Time, Watching,
    members::Members,
    permission::{check_presence, no_presence},
    rate::Rate,
    signals::Held,
};

/// Allocated only for a session that is a member somewhere, or has sent a signal.
#[derive(Debug)]
pub(crate) struct Presence {
    pub(crate) members: Members,
    /// When the client was last active.
    pub(crate) active_at: Time,
    /// Whether its rows say so.
    pub(crate) idle: bool,
    /// Signals that end by themselves.
    pub(crate) held: Vec<Held>,
    /// Of `set_presence`.
    pub(crate) updates: Rate,
    /// Of `signal`.
    pub(crate) signals: Rate,
}

impl Session {
    /// What the session is told of a channel on which it is a member.
    pub fn watching(&self, channel: &Channel) -> Watching {
        let member = self.presence.as_ref().and_then(|presence| presence.members.get(channel));
        member.map(|member| member.watch).unwrap_or_default()
    }

    /// Whether the topic is a channel on which subscribers are members.
    pub(crate) fn has_members(&self, topic: &Topic) -> bool {
        !topic.is_pattern() && self.config.namespaces.get(topic.namespace()).presence
    }

    /// What a subscriber that asks so is told, if it may.
    pub(crate) fn check_watch(&self, topic: &Topic, watch: Watch) -> Result<Watching, ErrorBody> {
        let Topic::Channel(channel) = topic else {
            if matches!(watch, Watch::Default | Watch::Off) {
                return Ok(Watching::Nobody);
            }
            let message = format!("presence is not possible: {topic} is a pattern, and members are of one channel");
            return Err(ErrorBody::new(ErrorCode::BadRequest, message));
        };
        let grant = self.grant().expect("channels are subscribed only once connected");
        let namespace = channel.namespace();
        let has_presence = self.config.namespaces.get(namespace).presence;
        match watch {
            Watch::Off => Ok(Watching::Nobody),
            Watch::Default if !has_presence => Ok(Watching::Nobody),
            Watch::Default => match check_presence(&self.config.namespaces, grant, channel) {
                Ok(()) => Ok(Watching::Auto),
                Err(_) => Ok(Watching::Nobody),
            },
            Watch::Snapshot | Watch::Names if !has_presence => Err(no_presence("presence", namespace)),
            Watch::Snapshot => check_presence(&self.config.namespaces, grant, channel).map(|()| Watching::Auto),
            Watch::Names => check_presence(&self.config.namespaces, grant, channel).map(|()| Watching::Names),
        }
    }

    /// The client was told of a subscription that was made: it is a member from now on.
    pub(crate) fn join(&mut self, now: Time, topic: &Topic, watch: Watch) {
        let Topic::Channel(channel) = topic else { return };
        if !self.has_members(topic) {
            return;
        }
        // Asked again: a refresh may have taken the permission since.
        let watching = self.check_watch(topic, watch);
        let of_token = self.info_of_token();
        let presence = self.presence_mut(now);
        let member = presence.members.entry(channel);
        member.joined = true;
        member.watch = *watching.as_ref().unwrap_or(&Watching::Nobody);
        let watch_now = member.watch;
        let (state, info) = member.shown(presence.idle, of_token.as_ref());
        self.act(Action::Join(Box::new(JoinAction { channel: channel.clone(), watch: watch_now, state, info })));
        match watching {
            Ok(_) => self.ask_snapshot(channel, watch),
            Err(error) => self.push(Push::Error { channel: Some(channel.to_string()), error }),
        }
    }

    /// A member subscribed again, and says anew what it wants to be told. It may.
    pub(crate) fn watch_again(&mut self, topic: &Topic, watch: Watch) {
        let Topic::Channel(channel) = topic else { return };
        if watch == Watch::Default || !self.has_members(topic) {
            return;
        }
        let Ok(watching) = self.check_watch(topic, watch) else { return };
        if self.watching(channel) != watching {
            self.set_watching(channel, watching);
        } else if self.waits_for_snapshot(channel) {
            // That one is for this command too: whoever asks in a loop has one question at a time.
            return;
        }
        self.ask_snapshot(channel, watch);
    }

    /// Tells the edge that a member is to be told otherwise.
    fn set_watching(&mut self, channel: &Channel, watch: Watching) {
        let of_token = self.info_of_token();
        let Some(presence) = self.presence.as_deref_mut() else { return };
        let idle = presence.idle;
        let member = presence.members.entry(channel);
        member.watch = watch;
        let (state, info) = member.shown(idle, of_token.as_ref());
        self.act(Action::Join(Box::new(JoinAction { channel: channel.clone(), watch, state, info })));
        if watch == Watching::Nobody {
            self.forget_snapshot(channel);
        }
    }

    /// Those who watch what the new grant does not let them see are told so, and nothing more.
    pub(crate) fn stop_watching_what_is_forbidden(&mut self) {
        let Some(presence) = self.presence.as_deref_mut() else { return };
        let watched = presence.members.iter_mut().filter(|(_, member)| member.watch != Watching::Nobody);
        let watched: Vec<Channel> = watched.map(|(channel, _)| channel.clone()).collect();
        for channel in watched {
            let grant = self.grant().expect("only a connected session is refreshed");
            if check_presence(&self.config.namespaces, grant, &channel).is_err() {
                self.set_watching(&channel, Watching::Nobody);
                let error = ErrorBody::new(ErrorCode::Forbidden, "the new token does not allow presence");
                self.push(Push::Error { channel: Some(channel.to_string()), error });
            }
        }
    }

    /// A subscription has ended, or was not made: nothing is left of it. The edge ends the membership with it.
    pub(crate) fn leave(&mut self, topic: &Topic) {
        let Topic::Channel(channel) = topic else { return };
        let Some(presence) = self.presence.as_deref_mut() else { return };
        presence.members.remove(channel);
        self.forget_snapshot(channel);
        self.stop_signals_on(channel);
    }

    /// What the token says of the user.
    pub(crate) fn info_of_token(&self) -> Option<Info> {
        self.grant().and_then(|grant| grant.info.clone())
    }

    pub(crate) fn presence_mut(&mut self, now: Time) -> &mut Presence {
        self.presence.get_or_insert_with(|| {
            Box::new(Presence {
                members: Members::default(),
                active_at: now,
                idle: false,
                held: Vec::new(),
                updates: Rate::default(),
                signals: Rate::default(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{CommandKind, Pattern, Reply, Subscribed};

    use super::*;
    use crate::{Allow, Asked, Completion, Grant, Granted, Handshake, Permission, fixture::*};

    fn snapshot(driver: &mut Driver, op: u32, name: &str, users: u64) -> Vec<Action> {
        driver.complete(op, Completion::Presence(Ok(who(name, users).into())));
        driver.actions()
    }

    fn told(name: &str, users: u64) -> Action {
        push(Push::PresenceSnapshot(who(name, users)))
    }

    fn told_subscribed(name: &str) -> Action {
        push(Push::Subscribed(Subscribed { channel: name.into(), ..Subscribed::default() }))
    }

    /// `alice`, who may do this on all of `team`.
    fn of_team(allow: Allow) -> Box<Grant> {
        let permissions = [Permission { pattern: Pattern::parse("team:**").unwrap(), allow }].into();
        Box::new(Grant { user: Some("alice".into()), permissions, ..Grant::anonymous(tenant()) })
    }

    fn list(channels: &[(&str, Watch)]) -> CommandKind {
        let asked = |(name, watch): &(&str, Watch)| Asked { name: (*name).into(), watch: *watch, ..Asked::default() };
        CommandKind::SubscribeMany { channels: channels.iter().map(asked).collect() }
    }

    #[test]
    fn a_subscriber_is_a_member_once_it_was_told() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe("crew:1"));
        assert_eq!(driver.actions(), [to_subscribe(1, "crew:1")]);
        assert!(driver.session.presence.is_none());
        driver.complete(1, made());
        assert_eq!(driver.actions(), [reply(1, subscribed("crew:1")), to_join("crew:1", Watching::Auto)]);
        assert_eq!(driver.session.watching(&channel("crew:1")), Watching::Auto);
        driver.send(2, unsubscribe("crew:1"));
        assert_eq!(driver.actions(), [to_unsubscribe("crew:1"), reply(2, done())]);
        assert_eq!(driver.session.watching(&channel("crew:1")), Watching::Nobody);
    }

    #[test]
    fn without_presence_and_by_a_pattern_there_are_no_members() {
        let mut driver = Driver::anonymous();
        for (op, name) in [(1, "open:a"), (2, "crew:*")] {
            driver.send(1, subscribe(name));
            driver.complete(op, made());
            assert_eq!(driver.actions(), [to_subscribe(op, name), reply(1, subscribed(name))]);
        }
        assert!(driver.session.presence.is_none());
    }

    #[test]
    fn a_snapshot_follows_the_reply_and_a_member_may_want_to_hear_nothing() {
        let mut driver = Driver::anonymous();
        for (watch, watching) in [(Watch::Snapshot, Watching::Auto), (Watch::Names, Watching::Names)] {
            driver.send(1, subscribe_watching("crew:1", watch));
            let Some(Action::Subscribe { op, .. }) = driver.actions().pop() else { panic!("nothing is subscribed") };
            driver.complete(op.0, made());
            assert_eq!(
                driver.actions(),
                [
                    reply(1, subscribed("crew:1")),
                    to_join("crew:1", watching),
                    to_take_snapshot(op.0 + 1, "crew:1", watching)
                ]
            );
            assert_eq!(snapshot(&mut driver, op.0 + 1, "crew:1", 3), [told("crew:1", 3)]);
            driver.send(2, unsubscribe("crew:1"));
            driver.actions();
        }
        driver.send(3, subscribe_watching("crew:2", Watch::Off));
        driver.complete(5, made());
        assert_eq!(driver.actions()[1..], [reply(3, subscribed("crew:2")), to_join("crew:2", Watching::Nobody)]);
        assert!(driver.session.pending.is_none());
    }

    #[test]
    fn who_asks_for_a_snapshot_again_and_again_waits_for_one() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1"]);
        driver.send(1, subscribe_watching("crew:1", Watch::Snapshot));
        let actions = driver.actions();
        let Some(Action::Presence(asked)) = actions.last() else { panic!("{actions:?}") };
        let op = asked.op.0;
        driver.send(2, subscribe_watching("crew:1", Watch::Snapshot));
        assert_eq!(driver.actions(), [reply(2, subscribed("crew:1"))]);
        assert_eq!(snapshot(&mut driver, op, "crew:1", 3), [told("crew:1", 3)]);
        driver.send(3, subscribe_watching("crew:1", Watch::Snapshot));
        driver.send(4, subscribe_watching("crew:1", Watch::Names));
        let asked = driver.actions().iter().filter(|action| matches!(action, Action::Presence(_))).count();
        assert_eq!(asked, 2, "what names are told has versions of its own");
    }

    #[test]
    fn a_snapshot_that_cannot_be_had_is_told() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_watching("crew:1", Watch::Snapshot));
        driver.complete(1, made());
        driver.actions();
        driver.complete(2, Completion::Presence(Err(ErrorBody::new(ErrorCode::Unavailable, "away"))));
        assert_eq!(driver.actions(), [push_error(Some("crew:1"), ErrorCode::Unavailable, "away")]);
    }

    #[test]
    fn a_snapshot_of_an_earlier_subscription_never_comes() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_watching("crew:1", Watch::Snapshot));
        driver.complete(1, made());
        driver.send(2, unsubscribe("crew:1"));
        assert!(driver.session.pending.is_none());
        driver.send(3, subscribe_watching("crew:1", Watch::Snapshot));
        driver.complete(3, made());
        driver.actions();
        assert_eq!(snapshot(&mut driver, 2, "crew:1", 1), []);
        assert_eq!(snapshot(&mut driver, 4, "crew:1", 2), [told("crew:1", 2)]);
        driver.send(4, subscribe_watching("crew:2", Watch::Snapshot));
        driver.complete(5, made());
        driver.actions();
        let gone = ErrorBody::new(ErrorCode::Unavailable, "the broker refused");
        driver.session.handle_unsubscribed(driver.time(), &topic("crew:2"), gone);
        driver.actions();
        assert_eq!(snapshot(&mut driver, 6, "crew:2", 2), []);
    }

    #[test]
    fn the_handshake_has_members_too() {
        let mut driver = Driver::new(config());
        let asked = |name: &str, watch| Asked { name: name.into(), watch, ..Asked::default() };
        let channels =
            vec![asked("crew:1", Watch::Snapshot), asked("crew:2", Watch::Default), asked("open:a", Watch::Names)];
        driver.session.handle_handshake(driver.time(), Handshake { token: None, channels });
        let no_presence = r#"presence is not possible: channels of namespace "open" have no presence"#;
        assert_eq!(
            driver.actions()[1..],
            [
                to_subscribe(1, "crew:1"),
                to_subscribe(2, "crew:2"),
                push_error(Some("open:a"), ErrorCode::BadRequest, no_presence)
            ]
        );
        driver.complete(2, made());
        driver.complete(1, made());
        assert_eq!(
            driver.actions(),
            [
                told_subscribed("crew:2"),
                to_join("crew:2", Watching::Auto),
                told_subscribed("crew:1"),
                to_join("crew:1", Watching::Auto),
                to_take_snapshot(3, "crew:1", Watching::Auto)
            ]
        );
    }

    #[test]
    fn a_channel_of_a_list_is_told_before_its_snapshot() {
        let mut driver = Driver::anonymous().subscribed(&["crew:0"]);
        driver.send(1, list(&[("crew:1", Watch::Default), ("crew:2", Watch::Names), ("crew:0", Watch::Snapshot)]));
        // The list itself took one op, 2.
        assert_eq!(
            driver.actions(),
            [
                to_subscribe(3, "crew:1"),
                to_subscribe(4, "crew:2"),
                told_subscribed("crew:0"),
                to_take_snapshot(5, "crew:0", Watching::Auto),
            ]
        );
        driver.complete(4, made());
        assert_eq!(
            driver.actions(),
            [
                told_subscribed("crew:2"),
                to_join("crew:2", Watching::Names),
                to_take_snapshot(6, "crew:2", Watching::Names)
            ]
        );
        driver.complete(3, made());
        let all = outcomes(&[("crew:1", None), ("crew:2", None), ("crew:0", None)]);
        assert_eq!(driver.actions(), [reply(1, all), to_join("crew:1", Watching::Auto)]);
    }

    #[test]
    fn subscribing_again_changes_what_is_told() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1"]);
        let again = |driver: &mut Driver, watch| {
            driver.send(9, subscribe_watching("crew:1", watch));
            let mut actions = driver.actions();
            assert_eq!(actions.remove(0), reply(9, subscribed("crew:1")));
            actions
        };
        assert_eq!(again(&mut driver, Watch::Default), []);
        assert_eq!(again(&mut driver, Watch::Snapshot), [to_take_snapshot(2, "crew:1", Watching::Auto)]);
        let names = [to_join("crew:1", Watching::Names), to_take_snapshot(3, "crew:1", Watching::Names)];
        assert_eq!(again(&mut driver, Watch::Names), names);
        assert_eq!(snapshot(&mut driver, 2, "crew:1", 1), [], "the one before is not waited for any more");
        assert_eq!(again(&mut driver, Watch::Off), [to_join("crew:1", Watching::Nobody)]);
        assert_eq!(snapshot(&mut driver, 3, "crew:1", 1), []);
        assert_eq!(again(&mut driver, Watch::Off), []);
    }

    #[test]
    fn of_several_who_ask_at_once_the_last_one_says_what_is_told() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_watching("crew:1", Watch::Off));
        driver.send(2, subscribe_watching("crew:1", Watch::Snapshot));
        driver.send(3, subscribe("crew:1"));
        driver.actions();
        driver.complete(1, made());
        assert_eq!(
            driver.actions()[2..],
            [
                reply(3, subscribed("crew:1")),
                to_join("crew:1", Watching::Auto),
                to_take_snapshot(2, "crew:1", Watching::Auto)
            ]
        );
    }

    #[test]
    fn who_may_not_see_is_a_member_that_is_told_nothing() {
        let mut driver = Driver::with_grant(of_team(Allow::SUBSCRIBE));
        driver.send(1, subscribe("team:1"));
        driver.complete(2, made());
        assert_eq!(driver.actions()[1..], [reply(1, subscribed("team:1")), to_join("team:1", Watching::Nobody)]);
        let forbidden = "the token has no claim that allows presence on all of team:2";
        driver.send(2, subscribe_watching("team:2", Watch::Snapshot));
        driver.send(3, subscribe_watching("team:2", Watch::Off));
        assert_eq!(driver.actions(), [error(2, ErrorCode::Forbidden, forbidden), to_subscribe(3, "team:2")]);
    }

    #[test]
    fn a_new_token_takes_away_what_it_does_not_let_see() {
        let mut driver = Driver::with_grant(of_team(Allow::SUBSCRIBE.union(Allow::PRESENCE)));
        driver.send(1, subscribe_watching("team:1", Watch::Snapshot));
        driver.complete(2, made());
        driver.send(2, subscribe_watching("team:2", Watch::Snapshot));
        driver.send(3, refresh("t"));
        driver.actions();
        driver.complete(5, authenticated(of_team(Allow::SUBSCRIBE)));
        let no_more = "the new token does not allow presence";
        assert_eq!(
            driver.actions(),
            [
                reply(3, Reply::Refreshed { expires_in_ms: None }),
                to_join("team:1", Watching::Nobody),
                push_error(Some("team:1"), ErrorCode::Forbidden, no_more)
            ]
        );
        assert_eq!(snapshot(&mut driver, 3, "team:1", 1), []);
        // One that was being made meanwhile.
        driver.complete(4, made());
        assert_eq!(
            driver.actions(),
            [
                reply(2, subscribed("team:2")),
                to_join("team:2", Watching::Nobody),
                push_error(
                    Some("team:2"),
                    ErrorCode::Forbidden,
                    "the token has no claim that allows presence on all of team:2"
                )
            ]
        );
    }

    #[test]
    fn a_pattern_has_no_members() {
        let mut driver = Driver::anonymous();
        driver.send(2, subscribe_watching("crew:*", Watch::Names));
        let no_pattern = "presence is not possible: crew:* is a pattern, and members are of one channel";
        assert_eq!(driver.actions(), [error(2, ErrorCode::BadRequest, no_pattern)]);
    }

    #[test]
    fn a_subscription_that_is_not_made_leaves_nothing() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_watching("crew:1", Watch::Snapshot));
        driver.complete(1, Completion::Subscribed(Err(ErrorBody::new(ErrorCode::Timeout, "late"))));
        driver.send(2, subscribe_watching("crew:2", Watch::Snapshot));
        driver.send(3, unsubscribe("crew:2"));
        driver.complete(2, Completion::Subscribed(Ok(Granted::default())));
        let joined = driver.actions().into_iter().any(|action| matches!(action, Action::Join(_) | Action::Presence(_)));
        assert!(!joined && driver.session.presence.is_none());
    }
}
