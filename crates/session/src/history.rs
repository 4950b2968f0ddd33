//! `history`.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, HistoryCommand, HistoryReply, Reply};

use crate::{
    Action, Session, channel,
    pending::Operation,
    permission::{check_history, no_history},
};

impl Session {
    /// Reads a part of a channel's history where the namespace and the grant allow it.
    pub(crate) fn history(&mut self, id: u64, command: HistoryCommand) {
        match self.check_history(&command) {
            Ok((channel, limit)) => {
                let op = self.begin(Operation::History { id });
                self.act(Action::History { op, channel, range: command.range, limit });
            }
            Err(error) => self.reply(id, Err(error)),
        }
    }

    /// A part of the history was read, or not.
    pub(crate) fn history_read(&mut self, id: u64, result: Result<HistoryReply, ErrorBody>) {
        self.reply(id, result.map(Reply::History));
    }

    fn check_history(&self, command: &HistoryCommand) -> Result<(Channel, usize), ErrorBody> {
        self.room_for_command()?;
        let channel = channel::parse(&command.channel, "history is read of a channel")?;
        let grant = self.grant().expect("commands run only once connected");
        check_history(&self.config.namespaces, grant, &channel)?;
        if !self.config.namespaces.get(channel.namespace()).history {
            return Err(no_history("history", channel.namespace()));
        }
        let limit = usize::try_from(command.limit).unwrap_or(usize::MAX);
        let allowed = self.config.max_history;
        if !(1..=allowed).contains(&limit) {
            let message = format!("limit is {limit}; allowed are 1 to {allowed}");
            let code = if limit == 0 { ErrorCode::BadRequest } else { ErrorCode::LimitExceeded };
            return Err(ErrorBody::new(code, message));
        }
        Ok((channel, limit))
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{CommandKind, HistoryRange, Pattern};

    use super::*;
    use crate::{Allow, Completion, Grant, OpId, Permission, fixture::*};

    fn history(channel: &str, limit: u32) -> CommandKind {
        history_of(channel, HistoryRange::Before(None), limit)
    }

    fn history_of(channel: &str, range: HistoryRange, limit: u32) -> CommandKind {
        CommandKind::History(Box::new(HistoryCommand { channel: channel.into(), range, limit }))
    }

    fn to_read(op: u32, channel: &str, range: HistoryRange, limit: usize) -> Action {
        Action::History { op: OpId(op), channel: Channel::parse(channel).unwrap(), range, limit }
    }

    fn page() -> HistoryReply {
        HistoryReply { publications: Vec::new(), position: at(7), more: false, recovered: None }
    }

    /// A user who may do this on all of `ledger`.
    fn reader(allow: Allow) -> Driver {
        let permissions = [Permission { pattern: Pattern::parse("ledger:**").unwrap(), allow }].into();
        Driver::with_grant(Box::new(Grant { user: Some("alice".into()), permissions, ..Grant::anonymous(tenant()) }))
    }

    #[test]
    fn a_page_is_asked_for_and_given() {
        let mut driver = Driver::anonymous();
        driver.send(1, history("log:a", 100));
        driver.send(2, history_of("log:b:c", HistoryRange::Since(at(3)), 1));
        assert_eq!(
            driver.actions(),
            [
                to_read(1, "log:a", HistoryRange::Before(None), 100),
                to_read(2, "log:b:c", HistoryRange::Since(at(3)), 1)
            ]
        );
        let away = ErrorBody::new(ErrorCode::Unavailable, "the broker is away");
        driver.complete(2, Completion::History(Err(away)));
        driver.complete(1, made());
        driver.complete(1, Completion::History(Ok(page())));
        assert_eq!(
            driver.actions(),
            [error(2, ErrorCode::Unavailable, "the broker is away"), reply(1, Reply::History(page()))]
        );
        assert!(driver.session.pending.is_none());
    }

    #[test]
    fn by_token_a_claim_has_to_say_so_and_else_whoever_may_subscribe_may_read() {
        let mut driver = reader(Allow::HISTORY);
        driver.send(1, history("ledger:a", 1));
        driver.send(2, history("diary:alice", 1));
        driver.send(3, history("diary:bob", 1));
        assert_eq!(
            driver.actions(),
            [
                to_read(2, "ledger:a", HistoryRange::Before(None), 1),
                to_read(3, "diary:alice", HistoryRange::Before(None), 1),
                error(
                    3,
                    ErrorCode::Forbidden,
                    "history on diary:bob is allowed to its owner only: the user of diary:{sub}"
                ),
            ]
        );
        let mut driver = reader(Allow::SUBSCRIBE.union(Allow::PUBLISH).union(Allow::PRESENCE));
        driver.send(1, history("ledger:a", 1));
        driver.send(2, history("closed:a", 1));
        assert_eq!(
            driver.actions(),
            [
                error(1, ErrorCode::Forbidden, "the token has no claim that allows history on all of ledger:a"),
                error(2, ErrorCode::Forbidden, r#"history is not allowed to clients in namespace "closed""#),
            ]
        );
    }

    #[test]
    fn what_is_refused() {
        let mut driver = Driver::anonymous();
        for (id, (channel, limit)) in
            (1..).zip([("log:*", 1), ("log:", 1), ("open:a", 1), ("log:a", 0), ("log:a", 101)])
        {
            driver.send(id, history(channel, limit));
        }
        assert_eq!(
            driver.actions(),
            [
                error(1, ErrorCode::BadRequest, "log:* is a pattern; history is read of a channel"),
                error(2, ErrorCode::BadRequest, "segment 1 has 0 bytes; allowed are 1 to 64"),
                error(
                    3,
                    ErrorCode::BadRequest,
                    r#"history is not possible: channels of namespace "open" keep no history"#
                ),
                error(4, ErrorCode::BadRequest, "limit is 0; allowed are 1 to 100"),
                error(5, ErrorCode::LimitExceeded, "limit is 101; allowed are 1 to 100"),
            ]
        );
    }

    #[test]
    fn reads_in_flight_are_counted_with_all_that_waits() {
        let mut driver = Driver::anonymous();
        driver.send(1, history("log:a", 1));
        driver.send(2, publish("open:a"));
        driver.send(3, subscribe("open:a"));
        driver.actions();
        driver.send(4, history("log:a", 1));
        assert_eq!(
            driver.actions(),
            [error(4, ErrorCode::RateLimit, "3 commands wait for their reply; wait for one of them")]
        );
        driver.complete(1, Completion::History(Ok(page())));
        driver.send(5, history("log:a", 1));
        assert_eq!(driver.actions()[1..], [to_read(4, "log:a", HistoryRange::Before(None), 1)]);
    }
}
