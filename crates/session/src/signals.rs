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
