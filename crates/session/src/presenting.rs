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
    /// Sets state and info of one channel of the session, or of all that have members. It is activity.
    pub(crate) fn set_presence(&mut self, now: Time, id: u64, command: SetPresenceCommand) {
        let Setting { channel, state, info } = match self.check_set_presence(now, command) {
            Ok(setting) => setting,
            Err(error) => return self.reply(id, Err(error)),
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
        self.represent(of_token.as_ref(), false, |other, member| {
            if channel.as_ref().is_none_or(|channel| channel == other) {
                member.set(state.as_ref(), info.as_ref());
            }
        });
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
    /// from now on is said by `idle`.
    fn represent(&mut self, info_before: Option<&Info>, idle: bool, mut change: impl FnMut(&Channel, &mut Member)) {
        let of_token = self.info_of_token();
        let Some(presence) = self.presence.as_deref_mut() else { return };
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
        for present in changed {
            self.act(Action::Present(Box::new(present)));
        }
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
