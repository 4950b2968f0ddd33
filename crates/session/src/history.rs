//! `history`.

use fanfare_protocol::{Channel, ErrorBody, ErrorCode, HistoryCommand, HistoryReply, Reply, Topic};

use crate::{
    Action, Session,
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
        let bad_request = |message: String| ErrorBody::new(ErrorCode::BadRequest, message);
        let waiting = self.config.max_pending_commands;
        if self.pending.as_ref().is_some_and(|pending| pending.in_flight() >= waiting) {
            let message = format!("{waiting} commands wait for their reply; wait for one of them");
            return Err(ErrorBody::new(ErrorCode::RateLimit, message));
        }
        let channel = match Topic::parse(&command.channel).map_err(|error| bad_request(error.to_string()))? {
            Topic::Channel(channel) => channel,
            Topic::Pattern(pattern) => {
                return Err(bad_request(format!("{pattern} is a pattern; history is read of a channel")));
            }
        };
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
