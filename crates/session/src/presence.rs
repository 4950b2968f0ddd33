//! Who is there: a session as a member of its channels, what it watches, and the command `presence`.

use fanfare_protocol::{
    Channel, ErrorBody, ErrorCode, Info, PresenceCommand, PresenceReply, Push, Reply, Topic, Watch, limits,
};

use crate::{
    Action, JoinAction, PresenceAction, Session, Time, Watching,
    members::Members,
    pending::Operation,
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
    /// Asks who is on a channel, where the namespace and the grant allow it.
    pub(crate) fn presence(&mut self, id: u64, command: PresenceCommand) {
        match self.check_presence_command(&command) {
            Ok((channel, limit)) => {
                let op = self.begin(Operation::Presence { id });
                let watch = self.watching(&channel);
                let after = command.after;
                self.act(Action::Presence(Box::new(PresenceAction {
                    op,
                    channel,
                    watch,
                    snapshot: false,
                    after,
                    limit,
                })));
            }
            Err(error) => self.reply(id, Err(error)),
        }
    }

    /// The answer to the command is there, or not.
    pub(crate) fn presence_read(&mut self, id: u64, result: Result<PresenceReply, ErrorBody>) {
        self.reply(id, result.map(Reply::Presence));
    }

    /// A snapshot is there, or not. One whose subscription has ended is not waited for any more.
    pub(crate) fn snapshot_read(&mut self, channel: &Channel, result: Result<PresenceReply, ErrorBody>) {
        self.push(match result {
            Ok(snapshot) => Push::PresenceSnapshot(snapshot),
            Err(error) => Push::Error { channel: Some(channel.to_string()), error },
        });
    }

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

    fn ask_snapshot(&mut self, channel: &Channel, watch: Watch) {
        if !matches!(watch, Watch::Snapshot | Watch::Names) {
            return;
        }
        self.forget_snapshot(channel);
        let op = self.begin(Operation::Snapshot { channel: channel.clone() });
        let (watch, limit) = (self.watching(channel), self.config.presence_page);
        let channel = channel.clone();
        self.act(Action::Presence(Box::new(PresenceAction { op, channel, watch, snapshot: true, after: None, limit })));
    }

    fn forget_snapshot(&mut self, channel: &Channel) {
        if let Some(pending) = &mut self.pending {
            pending.forget_snapshot(channel);
        }
        self.pending.take_if(|pending| pending.is_empty());
    }

    fn check_presence_command(&self, command: &PresenceCommand) -> Result<(Channel, usize), ErrorBody> {
        let bad_request = |message: String| ErrorBody::new(ErrorCode::BadRequest, message);
        self.room_for_command()?;
        let channel = crate::channel::parse(&command.channel, "members are of one channel")?;
        let grant = self.grant().expect("commands run only once connected");
        check_presence(&self.config.namespaces, grant, &channel)?;
        if !self.config.namespaces.get(channel.namespace()).presence {
            return Err(no_presence("presence", channel.namespace()));
        }
        let allowed = self.config.presence_page;
        let limit = match command.limit {
            None => allowed.min(limits::PRESENCE_MEMBERS),
            Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        if !(1..=allowed).contains(&limit) {
            let message = format!("limit is {limit}; allowed are 1 to {allowed}");
            let code = if limit == 0 { ErrorCode::BadRequest } else { ErrorCode::LimitExceeded };
            return Err(ErrorBody::new(code, message));
        }
        if command.after.as_deref().is_some_and(|after| !is_cursor(after)) {
            return Err(bad_request("after must be what next named: \"u:…\" or \"a:…\"".to_owned()));
        }
        Ok((channel, if command.counts { 0 } else { limit }))
    }
}

/// Whom a page goes on behind: a user, or the session of an anonymous member.
fn is_cursor(text: &str) -> bool {
    match text.split_once(':') {
        Some(("u", user)) => !user.is_empty(),
        Some(("a", session)) => session.len() == 32 && session.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => false,
    }
}
