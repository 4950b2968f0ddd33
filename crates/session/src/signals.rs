//! `signal`: what is soon over, to the others on a channel. One that ends in `:start` is held, and the session ends it.

use std::borrow::Cow;

use fanfare_protocol::{Channel, Data, Envelope, ErrorBody, ErrorCode, Reply, SignalCommand, SignalJson};
use serde_json::value::RawValue;

use crate::{
    Action, Session, SignalAction, Time,
    permission::{check_own_event, check_signal},
};

/// Signals that one session holds at a time. The rate of signals keeps it far below, unless configured high.
pub(crate) const HELD: usize = 100;

/// How the name of an event ends that begins something, and how that of the one that ends it.
const START: &str = ":start";
const STOP: &str = ":stop";

/// A signal that ends by itself.
#[derive(Debug)]
pub(crate) struct Held {
    channel: Channel,
    /// The event's name without its end.
    event: Box<str>,
    until: Time,
}

impl Session {
    /// Sends a signal where the namespace and the grant allow it.
    pub(crate) fn signal(&mut self, now: Time, id: u64, command: SignalCommand) {
        match self.check_signal(now, &command) {
            Ok((channel, body)) => {
                self.act(Action::Signal(Box::new(SignalAction { channel: channel.clone(), body: body.into() })));
                self.hold_or_end(now, channel, &command.event);
                self.reply(id, Ok(Reply::Done {}));
            }
            Err(error) => self.reply(id, Err(error)),
        }
    }

    /// The session is over, however it came: the others are told that what it held has ended. It takes no input any more;
    /// what [`poll_action`](Self::poll_action) still gives may be behind a [`Close`](Action::Close), and only
    /// [`Unsubscribe`](Action::Unsubscribe) and [`Signal`](Action::Signal) are still to be carried out.
    pub fn end(&mut self) {
        self.end_held(|_| true);
        self.set_closed();
    }

    /// Ends those that were not renewed in time.
    pub(crate) fn check_signals(&mut self, now: Time) {
        self.end_held(|held| now >= held.until);
    }

    /// When [`check_signals`](Self::check_signals) has something to do.
    pub(crate) fn signals_due(&self) -> Option<Time> {
        self.presence.as_deref()?.held.iter().map(|held| held.until).min()
    }

    pub(crate) fn stop_signals_on(&mut self, channel: &Channel) {
        self.end_held(|held| held.channel == *channel);
    }

    /// Ends those that the new grant does not allow.
    pub(crate) fn stop_signals_that_are_forbidden(&mut self) {
        let Some(presence) = self.presence.as_deref() else { return };
        let grant = self.grant().expect("only a connected session is refreshed");
        let allowed =
            |channel: &Channel| check_signal(&self.config.namespaces, grant, channel, || self.hears(channel)).is_ok();
        let held = presence.held.iter().map(|held| &held.channel);
        let forbidden: Vec<Channel> = held.filter(|channel| !allowed(channel)).cloned().collect();
        for channel in forbidden {
            self.stop_signals_on(&channel);
        }
    }

    fn end_held(&mut self, is_over: impl Fn(&Held) -> bool) {
        let Some(presence) = self.presence.as_deref_mut() else { return };
        let over: Vec<Held> = presence.held.extract_if(.., |held| is_over(held)).collect();
        if presence.held.is_empty() {
            presence.held = Vec::new();
        }
        for Held { channel, event, .. } in over {
            let body = self.write_signal(&format!("{event}{STOP}"), None);
            self.act(Action::Signal(Box::new(SignalAction { channel, body: body.into() })));
        }
    }

    fn hold_or_end(&mut self, now: Time, channel: Channel, event: &str) {
        let until = now + self.config.signal_expiry;
        let presence = self.presence_mut(now);
        let place =
            |event: &str| presence.held.iter().position(|held| held.channel == channel && *held.event == *event);
        if let Some(event) = event.strip_suffix(START) {
            match place(event) {
                Some(place) => presence.held[place].until = until,
                None => presence.held.push(Held { channel, event: event.into(), until }),
            }
        } else if let Some(place) = event.strip_suffix(STOP).and_then(place) {
            presence.held.swap_remove(place);
        }
    }

    /// A command that is refused takes its part of the rate all the same.
    fn check_signal(&mut self, now: Time, command: &SignalCommand) -> Result<(Channel, Vec<u8>), ErrorBody> {
        let per_second = self.config.signals_per_second;
        if let Err(wait) = self.presence_mut(now).signals.take(now, per_second) {
            return Err(crate::rate::refusal("signal", per_second, wait));
        }
        let channel = crate::channel::parse(&command.channel, "signals are sent on a channel")?;
        let grant = self.grant().expect("commands run only once connected");
        check_signal(&self.config.namespaces, grant, &channel, || self.hears(&channel))?;
        check_own_event(&self.config.namespaces, &channel, &command.event)?;
        if command.event.ends_with(START) && self.holds_as_many_others(&channel, &command.event) {
            let message = format!("the session holds {HELD} signals that end in {START}; more are not allowed");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        let envelope = Envelope::bare(&command.event, Data::None);
        envelope.check().map_err(|error| ErrorBody::new(ErrorCode::BadRequest, error.to_string()))?;
        let body = self.write_signal(&command.event, command.data.as_deref());
        let limit = self.config.max_publication_bytes;
        if body.len() > limit {
            let message = format!("the signal has {} bytes; allowed are {limit}", body.len());
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        Ok((channel, body))
    }

    fn holds_as_many_others(&self, channel: &Channel, event: &str) -> bool {
        let held = self.presence.as_deref().map(|presence| presence.held.as_slice()).unwrap_or_default();
        let renewed = |held: &Held| held.channel == *channel && event.strip_suffix(START) == Some(&held.event);
        held.len() >= HELD && !held.iter().any(renewed)
    }

    /// Not for the sender itself, and without a timestamp: the node sets it.
    fn write_signal(&self, event: &str, data: Option<&RawValue>) -> Vec<u8> {
        let session = self.id.to_string();
        let user = self.grant().and_then(|grant| grant.user.as_deref());
        let expires_in_ms = event.ends_with(START).then(|| self.config.signal_expiry.as_millis());
        let signal = SignalJson {
            user_id: user.unwrap_or(&session),
            anonymous: user.is_none(),
            data,
            expires_in_ms: expires_in_ms.map(|millis| u64::try_from(millis).unwrap_or(u64::MAX)),
        };
        let data = serde_json::value::to_raw_value(&signal).expect("our own types have string keys");
        let exclude = vec![Cow::Borrowed(&*session)];
        let mut body = Vec::with_capacity(event.len() + data.get().len() + 96);
        Envelope { exclude, ..Envelope::bare(event, Data::Json(&data)) }.write_json(&mut body);
        body
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{CloseCode, CommandKind, Push};

    use super::*;
    use crate::{Completion, SessionConfig, fixture::*};

    const EXPIRES: &str = r#","expires_in_ms":6000"#;

    fn signal_with(channel: &str, event: &str, data: &str) -> CommandKind {
        let data = Some(RawValue::from_string(data.to_owned()).unwrap());
        CommandKind::Signal(Box::new(SignalCommand { channel: channel.into(), event: event.into(), data }))
    }

    fn stop(channel: &str) -> Action {
        to_signal(channel, "typing:stop", "")
    }

    /// Holds `typing:start` on these, with nothing left to do.
    fn typing(names: &[&str]) -> Driver {
        let mut driver = Driver::anonymous().subscribed(names);
        for name in names {
            driver.send(1, signal(name, "typing:start"));
            assert_eq!(driver.actions(), [to_signal(name, "typing:start", EXPIRES), reply(1, done())]);
        }
        driver
    }

    #[test]
    fn a_signal_says_whose_it_is() {
        let mut driver = Driver::anonymous();
        driver.send(1, signal("crew:1", "wave"));
        driver.send(2, signal_with("crew:1", "cursor:moved", r#"{ "x" : 1.50 }"#));
        assert_eq!(
            driver.actions(),
            [
                to_signal("crew:1", "wave", ""),
                reply(1, done()),
                to_signal("crew:1", "cursor:moved", r#","data":{ "x" : 1.50 }"#),
                reply(2, done())
            ]
        );
        assert_eq!(driver.session.signals_due(), None);
        let mut driver = Driver::with_grant(grant(&["team:*"], None));
        driver.send(1, signal("team:1", "wave"));
        let body = format!(r#"{{"event":"wave","data":{{"userId":"alice"}},"exclude":["{ID}"]}}"#);
        let signal = SignalAction { channel: channel("team:1"), body: body.into() };
        assert_eq!(driver.actions()[0], Action::Signal(Box::new(signal)));
    }

    #[test]
    fn what_began_ends_unless_it_is_renewed() {
        let mut driver = typing(&["crew:1"]);
        driver.now = 4_000;
        driver.send(2, signal("crew:1", "typing:start"));
        assert_eq!(driver.actions().len(), 2, "a renewal is told too");
        assert_eq!(driver.at(9_999), []);
        assert_eq!(driver.expire(), [stop("crew:1")]);
        assert_eq!(driver.now, 10_000);
        assert_eq!(driver.session.signals_due(), None);
    }

    #[test]
    fn who_ends_it_is_not_ended_again() {
        let mut driver = typing(&["crew:1"]);
        driver.send(2, signal("crew:1", "typing:stop"));
        assert_eq!(driver.actions(), [stop("crew:1"), reply(2, done())]);
        assert_eq!(driver.at(10_000), []);
    }

    #[test]
    fn what_is_held_ends_with_the_subscription() {
        let mut driver = typing(&["crew:1", "crew:2", "crew:3"]);
        driver.send(2, unsubscribe("crew:1"));
        assert_eq!(driver.actions(), [stop("crew:1"), to_unsubscribe("crew:1"), reply(2, done())]);
        let reason = || ErrorBody::new(ErrorCode::Unavailable, "the broker refused");
        driver.session.handle_unsubscribed(driver.time(), &topic("crew:2"), reason());
        let told = push(Push::Unsubscribed { channel: "crew:2".into(), error: reason() });
        assert_eq!(driver.actions(), [told, stop("crew:2")]);
    }

    #[test]
    fn what_is_held_ends_with_the_session_however_it_ends() {
        let mut driver = typing(&["crew:1", "crew:2"]);
        driver.session.handle_drain(driver.time(), 0);
        driver.session.end();
        driver.session.end();
        let ended = close(CloseCode::Draining, "the node is going away");
        assert_eq!(driver.actions()[1..], [ended, stop("crew:1"), stop("crew:2")]);
        let mut driver = typing(&["crew:1"]);
        driver.session.end();
        assert_eq!(driver.actions(), [stop("crew:1")]);
        driver.send(1, signal("crew:1", "typing:start"));
        assert_eq!(driver.actions(), []);
        assert_eq!(driver.session.poll_timeout(), None);
        // What the edge has to end at the hub can still be read.
        assert_eq!(driver.session.topics().collect::<Vec<_>>(), [&topic("crew:1")]);
    }

    #[test]
    fn a_new_token_ends_what_it_does_not_allow() {
        let mut driver = Driver::with_grant(grant(&["team:*"], None));
        driver.send(1, signal("team:1", "typing:start"));
        driver.send(2, signal("desk:alice", "typing:start"));
        driver.send(3, refresh("t"));
        driver.actions();
        driver.complete(2, Completion::Authenticated(Ok(grant(&["project:*"], None))));
        let actions = driver.actions();
        assert!(
            matches!(&actions[1..], [Action::Signal(stopped)] if stopped.channel == channel("team:1")),
            "{actions:?}"
        );
    }

    #[test]
    fn who_may_signal_is_the_namespaces_choice() {
        let mut driver = Driver::anonymous().subscribed(&["stage:a"]);
        driver.send(1, signal("stage:a", "wave"));
        driver.send(2, signal("stage:b", "wave"));
        driver.send(3, signal("open:a", "wave"));
        driver.send(4, signal("team:1", "wave"));
        driver.send(5, signal("desk:alice", "wave"));
        assert_eq!(
            driver.actions(),
            [
                to_signal("stage:a", "wave", ""),
                reply(1, done()),
                error(2, ErrorCode::Forbidden, "signal on stage:b is allowed to its subscribers only"),
                error(3, ErrorCode::Forbidden, r#"signal is not allowed to clients in namespace "open""#),
                error(4, ErrorCode::Forbidden, "the token has no claim that allows publish on all of team:1"),
                error(
                    5,
                    ErrorCode::Forbidden,
                    "signal on desk:alice is allowed to its owner only: the user of desk:{sub}"
                ),
            ]
        );
    }

    #[test]
    fn what_is_refused() {
        let mut driver = Driver::anonymous();
        let nodes_own =
            r#"event "presence:change" is refused: on crew:1 names that begin with "presence:" are the node's own"#;
        let cases = [
            (signal("crew:*", "wave"), ErrorCode::BadRequest, "crew:* is a pattern; signals are sent on a channel"),
            (signal("crew:1", ""), ErrorCode::BadRequest, "event has 0 bytes; allowed are 1 to 255"),
            (
                signal("crew:1", "system:x"),
                ErrorCode::BadRequest,
                r#"event "system:x" is refused: names that begin with "system:" are the node's own"#,
            ),
            (signal("crew:1", "presence:change"), ErrorCode::BadRequest, nodes_own),
            (
                signal_with("crew:1", "wave", &format!("\"{}\"", "x".repeat(100))),
                ErrorCode::LimitExceeded,
                "the signal has 243 bytes; allowed are 200",
            ),
        ];
        for (command, code, message) in cases {
            driver.send(1, command);
            assert_eq!(driver.actions(), [error(1, code, message)]);
        }
        let mut forged = publication("crew:1");
        forged.event = "presence:change".into();
        driver.send(2, CommandKind::Publish(Box::new(forged)));
        assert_eq!(driver.actions(), [error(2, ErrorCode::BadRequest, nodes_own)]);
    }

    #[test]
    fn too_many_in_a_second_are_refused() {
        let mut driver = Driver::anonymous();
        for id in 0..12 {
            driver.send(id, signal("crew:1", "wave"));
        }
        assert_eq!(driver.actions().iter().filter(|action| matches!(action, Action::Signal(_))).count(), 10);
        driver.now = 100;
        driver.send(12, signal("crew:1", "wave"));
        assert_eq!(driver.actions().len(), 2);
    }

    #[test]
    fn what_one_session_holds_is_bounded() {
        let mut driver = Driver::new(SessionConfig { signals_per_second: 1_000, ..config() });
        for id in 0..=HELD {
            driver.send(1, signal(&format!("crew:{id}"), "typing:start"));
        }
        driver.send(2, signal("crew:0", "typing:start"));
        let full = "the session holds 100 signals that end in :start; more are not allowed";
        let actions = driver.actions();
        assert_eq!(actions[2 * HELD], error(1, ErrorCode::LimitExceeded, full));
        assert_eq!(actions[2 * HELD + 1..].len(), 2, "one of those may be renewed");
        driver.session.end();
        assert_eq!(driver.actions().len(), HELD);
    }
}
