//! What a member says of itself: `set_presence`, idleness, and the `info` of a new token.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, Info, Reply, SetPresenceCommand, Topic};

use crate::{Action, PresenceWord, PresentAction, Session, Time, members::Member, permission::no_presence};

/// A checked command.
struct Setting {
    /// `None` for all channels.
    channel: Option<Channel>,
    state: Option<PresenceWord>,
    info: Option<Option<Info>>,
}

impl Session {
    /// Sets state and info of one channel of the session, or of all that have members. It is activity. Each row that changes
    /// takes its part of the rate: without a channel one command may be a thousand.
    pub(crate) fn set_presence(&mut self, now: Time, id: u64, command: SetPresenceCommand) {
        let Setting { channel, state, info } = match self.check_set_presence(now, command) {
            Ok(setting) => setting,
            Err(error) => {
                self.note_activity(now);
                return self.reply(id, Err(error));
            }
        };
        let making: Vec<Channel> = match &channel {
            Some(channel) => vec![channel.clone()],
            None => self.members_in_the_making(),
        };
        let presence = self.presence_mut(now);
        presence.active_at = now;
        // For a subscription that is being made it is kept until then.
        for channel in &making {
            presence.members.entry(channel);
        }
        let of_token = self.info_of_token();
        let changed = self.represent(of_token.as_ref(), false, |other, member| {
            if channel.as_ref().is_none_or(|channel| channel == other) {
                member.set(state.as_ref(), info.as_ref());
            }
        });
        let per_second = self.config.presence_updates_per_second;
        self.presence_mut(now).updates.charge(per_second, changed.saturating_sub(1));
        self.reply(id, Ok(Reply::Done {}));
    }

    /// The client has done something that only a person does.
    pub(crate) fn note_activity(&mut self, now: Time) {
        let Some(presence) = self.presence.as_deref_mut() else { return };
        presence.active_at = now;
        if presence.idle {
            let of_token = self.info_of_token();
            self.represent(of_token.as_ref(), false, |_, _| {});
        }
    }

    /// Members without activity for too long are idle from now on.
    pub(crate) fn check_idle(&mut self, now: Time) {
        if self.idle_due().is_some_and(|due| now >= due) {
            let of_token = self.info_of_token();
            self.represent(of_token.as_ref(), true, |_, _| {});
        }
    }

    /// When [`check_idle`](Self::check_idle) has something to do.
    pub(crate) fn idle_due(&self) -> Option<Time> {
        let presence = self.presence.as_deref().filter(|presence| !presence.idle && presence.members.any_joined())?;
        Some(presence.active_at + self.config.idle)
    }

    /// The new token may say something else of the user than the one before.
    pub(crate) fn represent_with_new_token(&mut self, info_before: Option<&Info>) {
        let Some(presence) = self.presence.as_deref() else { return };
        self.represent(info_before, presence.idle, |_, _| {});
    }

    /// Changes members, and tells the edge of every row that says something else now than before. Whether they are idle
    /// from now on is said by `idle`. Returns how many rows that are.
    fn represent(
        &mut self,
        info_before: Option<&Info>,
        idle: bool,
        mut change: impl FnMut(&Channel, &mut Member),
    ) -> usize {
        let of_token = self.info_of_token();
        let Some(presence) = self.presence.as_deref_mut() else { return 0 };
        let was_idle = std::mem::replace(&mut presence.idle, idle);
        let mut changed = Vec::new();
        for (channel, member) in presence.members.iter_mut() {
            let before = member.shown(was_idle, info_before);
            change(channel, member);
            let (state, info) = member.shown(idle, of_token.as_ref());
            if member.joined && before != (state.clone(), info.clone()) {
                changed.push(PresentAction { channel: channel.clone(), state, info });
            }
        }
        let count = changed.len();
        for present in changed {
            self.act(Action::Present(Box::new(present)));
        }
        count
    }

    fn members_in_the_making(&self) -> Vec<Channel> {
        let making = self.pending.iter().flat_map(|pending| pending.making());
        let with_members = making.filter(|topic| self.has_members(topic));
        let channel = |topic: &Topic| match topic {
            Topic::Channel(channel) => Some(channel.clone()),
            Topic::Pattern(_) => None,
        };
        with_members.filter_map(channel).collect()
    }

    /// A command that is refused takes its part of the rate all the same.
    fn check_set_presence(&mut self, now: Time, command: SetPresenceCommand) -> Result<Setting, ErrorBody> {
        let SetPresenceCommand { channel, state, info } = command;
        let per_second = self.config.presence_updates_per_second;
        if let Err(wait) = self.presence_mut(now).updates.take(now, per_second) {
            return Err(crate::rate::refusal("set_presence", per_second, wait));
        }
        let channel = channel.map(|name| self.check_own_channel(&name)).transpose()?;
        let state = state.map(|word| PresenceWord::parse(&word)).transpose();
        let state = state.map_err(|message| ErrorBody::new(ErrorCode::BadRequest, message))?;
        let bytes: usize = info.iter().flatten().map(|info| info.get().len()).sum();
        let allowed = self.config.presence_info_bytes;
        if bytes > allowed {
            let message = format!("info has {bytes} bytes; allowed are {allowed}");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        Ok(Setting { channel, state, info: info.map(|info| info.map(Info::from)) })
    }

    /// A channel on which the session is a member, or soon is.
    fn check_own_channel(&self, name: &str) -> Result<Channel, ErrorBody> {
        let channel = crate::channel::parse(name, "members are of one channel")?;
        let topic = Topic::Channel(channel.clone());
        let is_made = self.subscriptions.contains(&topic);
        if !is_made && !self.pending.as_ref().is_some_and(|pending| pending.is_making(&topic)) {
            let message = format!("{channel} is not subscribed to; presence is set where the session is");
            return Err(ErrorBody::new(ErrorCode::NotFound, message));
        }
        if !self.has_members(&topic) {
            return Err(no_presence("set_presence", channel.namespace()));
        }
        Ok(channel)
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{CommandKind, Watch};
    use serde_json::value::RawValue;

    use super::*;
    use crate::{Completion, Grant, JoinAction, Watching, fixture::*};

    const IDLE: u64 = 300_000;

    fn set(channel: Option<&str>, state: Option<&str>, info: Option<Option<&str>>) -> CommandKind {
        let raw = |json: &str| RawValue::from_string(json.to_owned()).unwrap();
        CommandKind::SetPresence(Box::new(SetPresenceCommand {
            channel: channel.map(Into::into),
            state: state.map(Into::into),
            info: info.map(|info| info.map(raw)),
        }))
    }

    /// `alice`, of whom the token says this.
    fn of_token(info: Option<&str>) -> Box<Grant> {
        Box::new(Grant { info: info.map(crate::fixture::info), ..*grant(&["team:*"], None) })
    }

    /// Passes time with signs of life, so that only idleness strikes.
    fn live_until(driver: &mut Driver, now: u64) -> Vec<Action> {
        driver.session.handle_activity(Time::from_millis(now));
        driver.at(now)
    }

    #[test]
    fn state_and_info_are_set_where_they_are_given() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1", "crew:2", "open:a"]);
        driver.send(1, set(Some("crew:1"), Some("editing"), Some(Some(r#"{"at": 1.50}"#))));
        driver.send(2, set(Some("crew:1"), Some("reading"), None));
        driver.send(3, set(Some("crew:1"), None, Some(None)));
        driver.send(4, set(Some("crew:1"), Some("online"), None));
        assert_eq!(
            driver.actions(),
            [
                to_present("crew:1", "editing", Some(r#"{"at": 1.50}"#)),
                reply(1, done()),
                to_present("crew:1", "reading", Some(r#"{"at": 1.50}"#)),
                reply(2, done()),
                to_present("crew:1", "reading", None),
                reply(3, done()),
                to_present("crew:1", "online", None),
                reply(4, done()),
            ]
        );
        driver.send(5, set(None, Some("idle"), None));
        assert_eq!(
            driver.actions(),
            [to_present("crew:1", "idle", None), to_present("crew:2", "idle", None), reply(5, done())]
        );
        driver.send(6, set(None, Some("idle"), None));
        assert_eq!(driver.actions(), [reply(6, done())], "what is as before is not told");
    }

    #[test]
    fn what_is_set_before_the_subscription_is_made_comes_with_it() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe("crew:1"));
        driver.send(2, subscribe("crew:2"));
        driver.send(3, set(Some("crew:1"), None, Some(Some("1"))));
        driver.send(4, set(None, Some("editing"), None));
        assert_eq!(driver.actions()[2..], [reply(3, done()), reply(4, done())]);
        driver.complete(1, made());
        driver.complete(2, made());
        let joined = |name, info: Option<&str>| {
            let (channel, state) = (channel(name), PresenceWord::parse("editing").unwrap());
            let info = info.map(crate::fixture::info);
            Action::Join(Box::new(JoinAction { channel, watch: Watching::Auto, state, info }))
        };
        let actions = driver.actions();
        assert_eq!((&actions[1], &actions[3]), (&joined("crew:1", Some("1")), &joined("crew:2", None)));
        driver.send(5, unsubscribe("crew:1"));
        driver.send(6, subscribe("crew:1"));
        driver.complete(3, made());
        assert_eq!(driver.actions()[4..], [to_join("crew:1", Watching::Auto)], "with the subscription it is gone");
    }

    #[test]
    fn what_is_refused() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1", "crew:*", "open:a"]);
        let elsewhere = "crew:2 is not subscribed to; presence is set where the session is";
        let long = format!("\"{}\"", "x".repeat(39));
        let cases = [
            (set(Some("crew:2"), Some("online"), None), ErrorCode::NotFound, elsewhere),
            (
                set(Some("crew:*"), Some("online"), None),
                ErrorCode::BadRequest,
                "crew:* is a pattern; members are of one channel",
            ),
            (
                set(Some("open:a"), Some("online"), None),
                ErrorCode::BadRequest,
                r#"set_presence is not possible: channels of namespace "open" have no presence"#,
            ),
            (
                set(Some("crew:1"), Some("offline"), None),
                ErrorCode::BadRequest,
                r#"state "offline" is not allowed; allowed are 1 to 32 of a-z 0-9 _ -, except "offline""#,
            ),
            (set(None, None, Some(Some(&long))), ErrorCode::LimitExceeded, "info has 41 bytes; allowed are 40"),
        ];
        for (command, code, message) in cases {
            driver.send(1, command);
            assert_eq!(driver.actions(), [error(1, code, message)]);
        }
    }

    #[test]
    fn too_many_in_a_second_are_refused_whatever_they_are() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1"]);
        for (id, state) in (0..10).zip(["editing", "reading"].into_iter().cycle()) {
            driver.send(id, set(if id < 5 { None } else { Some("crew:9") }, Some(state), None));
        }
        driver.actions();
        driver.now = 1;
        driver.send(10, set(None, Some("typing"), None));
        let mut refused =
            ErrorBody::new(ErrorCode::RateLimit, "too many: set_presence is allowed 10 times in a second");
        refused.reconnect_after_ms = Some(99);
        let refused = fanfare_protocol::ServerMessage::Reply { id: 10, outcome: Err(refused) };
        assert_eq!(driver.actions(), [Action::Send(refused)]);
        driver.now = 100;
        driver.send(11, set(None, Some("typing"), None));
        assert_eq!(driver.actions(), [to_present("crew:1", "typing", None), reply(11, done())]);
    }

    #[test]
    fn each_row_that_changes_takes_its_part_of_the_rate() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1", "crew:2", "crew:3"]);
        for (id, state) in (0..4).zip(["editing", "reading", "reading", "editing"]) {
            driver.send(id, set(None, Some(state), None));
        }
        assert_eq!(driver.actions().len(), 3 * 3 + 4, "what changes nothing is one");
        driver.send(4, set(Some("crew:1"), Some("editing"), None));
        let is_refused = |actions: &[Action]| format!("{actions:?}").contains("too many: set_presence");
        assert!(is_refused(&driver.actions()), "ten were taken");
        driver.now = 100;
        driver.send(5, set(Some("crew:1"), Some("editing"), None));
        assert!(!is_refused(&driver.actions()));
    }

    #[test]
    fn who_does_nothing_is_idle_and_what_was_set_comes_back() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1", "crew:2"]);
        driver.now = 1_000;
        driver.send(1, set(Some("crew:1"), Some("editing"), None));
        driver.actions();
        assert_eq!(live_until(&mut driver, 1_000 + IDLE - 1), []);
        driver.session.handle_activity(driver.time());
        assert_eq!(driver.expire(), [to_present("crew:1", "idle", None), to_present("crew:2", "idle", None)]);
        assert_eq!(driver.now, 1_000 + IDLE);
        assert_eq!(live_until(&mut driver, 3 * IDLE), [], "once");
        driver.send(2, CommandKind::Ping { active: false });
        assert_eq!(driver.actions(), [reply(2, done())]);
        driver.send(3, CommandKind::Ping { active: true });
        assert_eq!(
            driver.actions(),
            [to_present("crew:1", "editing", None), to_present("crew:2", "online", None), reply(3, done())]
        );
        driver.session.handle_activity(driver.time());
        live_until(&mut driver, 4 * IDLE - 1);
        assert_eq!(live_until(&mut driver, 4 * IDLE).len(), 2);
    }

    #[test]
    fn only_what_a_person_does_is_activity() {
        type Doing = fn(&mut Driver);
        let active: [Doing; 6] = [
            |driver| driver.send(1, publish("open:a")),
            |driver| driver.send(1, subscribe("crew:1")),
            |driver| driver.send(1, subscribe_many(&["crew:1"])),
            |driver| driver.send(1, set(Some("crew:1"), Some("online"), None)),
            |driver| driver.send(1, CommandKind::Ping { active: true }),
            |driver| driver.send(1, signal("crew:1", "wave")),
        ];
        let passive: [Doing; 4] = [
            |driver| driver.send(1, CommandKind::Ping { active: false }),
            |driver| driver.send(1, unsubscribe("open:a")),
            |driver| driver.send(1, refresh("t")),
            |driver| driver.session.handle_message(driver.time(), fanfare_protocol::ClientMessage::Pong),
        ];
        let back = |doing: Doing| {
            let mut driver = Driver::anonymous().subscribed(&["crew:1"]);
            assert_eq!(live_until(&mut driver, IDLE), [to_present("crew:1", "idle", None)]);
            doing(&mut driver);
            driver.actions().contains(&to_present("crew:1", "online", None))
        };
        assert!(active.into_iter().all(back));
        assert!(!passive.into_iter().any(back));
    }

    #[test]
    fn what_is_set_while_idle_is_told_once() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1", "crew:2"]);
        live_until(&mut driver, IDLE);
        driver.send(1, set(Some("crew:1"), Some("editing"), None));
        assert_eq!(
            driver.actions(),
            [to_present("crew:1", "editing", None), to_present("crew:2", "online", None), reply(1, done())]
        );
    }

    #[test]
    fn without_members_nobody_is_idle() {
        let mut driver = Driver::anonymous().subscribed(&["open:a", "crew:1"]);
        driver.send(1, unsubscribe("crew:1"));
        driver.send(2, signal("crew:1", "wave"));
        driver.actions();
        assert_eq!(live_until(&mut driver, 2 * IDLE), []);
        // And who comes then is not.
        driver.send(3, subscribe("crew:2"));
        driver.complete(3, made());
        assert_eq!(driver.actions()[2..], [to_join("crew:2", Watching::Auto)]);
    }

    #[test]
    fn the_token_says_who_it_is_unless_the_client_does() {
        let mut driver = Driver::with_grant(of_token(Some(r#""a""#)));
        for (op, name) in [(2, "team:1"), (3, "team:2")] {
            driver.send(1, subscribe_watching(name, Watch::Off));
            driver.complete(op, made());
            assert_eq!(driver.actions()[2..], [to_join_with(name, Watching::Nobody, Some(r#""a""#))]);
        }
        driver.send(2, set(Some("team:2"), None, Some(None)));
        assert_eq!(driver.actions(), [to_present("team:2", "online", None), reply(2, done())]);
        let refreshed = |driver: &mut Driver, op, info| {
            driver.send(3, refresh("t"));
            driver.complete(op, Completion::Authenticated(Ok(of_token(info))));
            driver.actions().split_off(2)
        };
        assert_eq!(refreshed(&mut driver, 4, Some(r#""a""#)), []);
        assert_eq!(refreshed(&mut driver, 5, Some(r#""b""#)), [to_present("team:1", "online", Some(r#""b""#))]);
        assert_eq!(refreshed(&mut driver, 6, None), [to_present("team:1", "online", None)]);
    }
}
