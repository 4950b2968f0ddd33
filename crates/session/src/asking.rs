//! Who is there? The command `presence`, and the snapshot behind a subscription.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, PresenceCommand, PresenceReply, Push, Reply, Watch, limits};

use crate::{
    Action, PresenceAction, Session, channel,
    pending::Operation,
    permission::{check_presence, no_presence},
};

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

    /// Asks for a snapshot, where the subscription does. At most one is waited for on each channel.
    pub(crate) fn ask_snapshot(&mut self, channel: &Channel, watch: Watch) {
        if !matches!(watch, Watch::Snapshot | Watch::Names) {
            return;
        }
        self.forget_snapshot(channel);
        let op = self.begin(Operation::Snapshot { channel: channel.clone() });
        let (watch, limit) = (self.watching(channel), self.config.presence_page);
        let channel = channel.clone();
        self.act(Action::Presence(Box::new(PresenceAction { op, channel, watch, snapshot: true, after: None, limit })));
    }

    /// Whether a snapshot was asked for and is still to come.
    pub(crate) fn waits_for_snapshot(&self, channel: &Channel) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.waits_for_snapshot(channel))
    }

    /// A snapshot that is still waited for is not any more.
    pub(crate) fn forget_snapshot(&mut self, channel: &Channel) {
        if let Some(pending) = &mut self.pending {
            pending.forget_snapshot(channel);
        }
        self.pending.take_if(|pending| pending.is_empty());
    }

    fn check_presence_command(&self, command: &PresenceCommand) -> Result<(Channel, usize), ErrorBody> {
        let bad_request = |message: String| ErrorBody::new(ErrorCode::BadRequest, message);
        self.room_for_command()?;
        let channel = channel::parse(&command.channel, "members are of one channel")?;
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

#[cfg(test)]
mod tests {
    use fanfare_protocol::{CommandKind, Pattern};

    use super::*;
    use crate::{Allow, Completion, Grant, OpId, Permission, Watching, fixture::*};

    fn ask(channel: &str) -> PresenceCommand {
        PresenceCommand { channel: channel.into(), counts: false, limit: None, after: None }
    }

    fn presence(command: PresenceCommand) -> CommandKind {
        CommandKind::Presence(Box::new(command))
    }

    fn to_ask(op: u32, name: &str, watch: Watching, after: Option<&str>, limit: usize) -> Action {
        let (op, after) = (OpId(op), after.map(Into::into));
        Action::Presence(Box::new(PresenceAction {
            op,
            channel: crate::fixture::channel(name),
            watch,
            snapshot: false,
            after,
            limit,
        }))
    }

    /// `alice`, who may do this on all of `team`.
    fn of_team(allow: Allow) -> Box<Grant> {
        let permissions = [Permission { pattern: Pattern::parse("team:**").unwrap(), allow }].into();
        Box::new(Grant { user: Some("alice".into()), permissions, ..Grant::anonymous(tenant()) })
    }

    #[test]
    fn a_page_is_asked_for_and_given() {
        let mut driver = Driver::anonymous().subscribed(&["crew:1"]);
        driver.send(1, presence(PresenceCommand { limit: Some(2), after: Some("u:bob".into()), ..ask("crew:1") }));
        driver.send(2, presence(PresenceCommand { counts: true, ..ask("crew:2") }));
        assert_eq!(
            driver.actions(),
            [to_ask(2, "crew:1", Watching::Auto, Some("u:bob"), 2), to_ask(3, "crew:2", Watching::Nobody, None, 0),]
        );
        driver.complete(3, Completion::Presence(Ok(who("crew:2", 9).into())));
        driver.complete(2, Completion::Presence(Err(ErrorBody::new(ErrorCode::Unavailable, "away"))));
        assert_eq!(
            driver.actions(),
            [reply(2, Reply::Presence(who("crew:2", 9))), error(1, ErrorCode::Unavailable, "away")]
        );
        assert!(driver.session.pending.is_none());
    }

    #[test]
    fn what_is_refused() {
        let mut driver = Driver::anonymous();
        let after = |after: &str| PresenceCommand { after: Some(after.into()), ..ask("crew:1") };
        let limit = |limit| PresenceCommand { limit: Some(limit), ..ask("crew:1") };
        let no_cursor = r#"after must be what next named: "u:…" or "a:…""#;
        let cases = [
            (ask("crew:*"), ErrorCode::BadRequest, "crew:* is a pattern; members are of one channel"),
            (ask("crew:"), ErrorCode::BadRequest, "segment 1 has 0 bytes; allowed are 1 to 64"),
            (
                ask("open:a"),
                ErrorCode::BadRequest,
                r#"presence is not possible: channels of namespace "open" have no presence"#,
            ),
            (ask("closed:a"), ErrorCode::Forbidden, r#"presence is not allowed to clients in namespace "closed""#),
            (limit(0), ErrorCode::BadRequest, "limit is 0; allowed are 1 to 50"),
            (limit(51), ErrorCode::LimitExceeded, "limit is 51; allowed are 1 to 50"),
            (after("bob"), ErrorCode::BadRequest, no_cursor),
            (after("u:"), ErrorCode::BadRequest, no_cursor),
            (after("a:2a"), ErrorCode::BadRequest, no_cursor),
        ];
        for (command, code, message) in cases {
            driver.send(1, presence(command));
            assert_eq!(driver.actions(), [error(1, code, message)]);
        }
        driver.send(1, presence(after(&format!("a:{ID}"))));
        assert_eq!(driver.actions().len(), 1);
    }

    #[test]
    fn questions_in_flight_are_counted_and_snapshots_are_not() {
        let mut driver = Driver::anonymous();
        driver.send(1, subscribe_watching("crew:1", Watch::Snapshot));
        driver.complete(1, made());
        for id in 2..6 {
            driver.send(id, presence(ask("crew:1")));
        }
        let actions = driver.actions();
        assert_eq!(
            actions[actions.len() - 1],
            error(5, ErrorCode::RateLimit, "3 commands wait for their reply; wait for one of them")
        );
        driver.complete(3, Completion::Presence(Ok(who("crew:1", 1).into())));
        driver.send(6, presence(ask("crew:1")));
        assert_eq!(driver.actions()[1..], [to_ask(6, "crew:1", Watching::Auto, None, 50)]);
    }

    #[test]
    fn a_claim_and_being_the_owner_let_see() {
        let mut driver = Driver::with_grant(of_team(Allow::SUBSCRIBE.union(Allow::PRESENCE)));
        driver.send(1, presence(ask("team:1")));
        driver.send(2, presence(ask("desk:alice")));
        driver.send(3, presence(ask("desk:bob")));
        assert_eq!(
            driver.actions(),
            [
                to_ask(2, "team:1", Watching::Nobody, None, 50),
                to_ask(3, "desk:alice", Watching::Nobody, None, 50),
                error(
                    3,
                    ErrorCode::Forbidden,
                    "presence on desk:bob is allowed to its owner only: the user of desk:{sub}"
                )
            ]
        );
    }
}
