//! A token's end, and its replacement before it.

use fanfare_protocol::{CloseCode, ErrorBody, ErrorCode, Push, Reply, Topic};

use crate::{Action, Grant, Refusal, Session, Time, pending::Operation, permission::check_subscribe, session::Phase};

impl Session {
    /// One refresh at a time, so that an older token cannot replace a newer one.
    pub(crate) fn refresh(&mut self, id: u64, token: String) {
        if self.pending.as_ref().is_some_and(|pending| pending.is_refreshing()) {
            return self.refuse(id, ErrorCode::BadRequest, "a refresh is in flight; wait for its reply");
        }
        let op = self.begin(Operation::Refresh { id });
        self.act(Action::Authenticate { op, token });
    }

    /// A new grant of the same user and tenant takes the place of the old one; else the old one stays.
    pub(crate) fn refreshed(&mut self, now: Time, id: u64, result: Result<Box<Grant>, Refusal>) {
        let grant = match result {
            Ok(grant) => grant,
            Err(error) => return self.reply(id, Err(error)),
        };
        if !self.grant().is_some_and(|old| old.user == grant.user && old.tenant == grant.tenant) {
            let message = "the new token is of another user or tenant; the old one stays";
            return self.refuse(id, ErrorCode::Forbidden, message);
        }
        let expires_in_ms = grant.expires_in_ms(now);
        self.install(grant);
        self.reply(id, Ok(Reply::Refreshed { expires_in_ms }));
        self.end_what_is_forbidden();
        self.check_token(now);
    }

    /// Pushes `system:token_expiring` once when it is time, and closes at the token's end.
    pub(crate) fn check_token(&mut self, now: Time) {
        let Some(expires_at) = self.grant().and_then(|grant| grant.expires_at) else { return };
        if now >= expires_at {
            self.close(CloseCode::TokenExpired, "the token has expired");
        } else if !self.told_expiring && now + self.config.token_expiring >= expires_at {
            self.told_expiring = true;
            let expires_in_ms = expires_at.as_millis() - now.as_millis();
            self.push(Push::TokenExpiring { expires_in_ms });
        }
    }

    /// When [`check_token`](Self::check_token) has something to do.
    pub(crate) fn token_due(&self) -> Option<Time> {
        let expires_at = self.grant()?.expires_at?;
        if self.told_expiring { Some(expires_at) } else { Some(expires_at - self.config.token_expiring) }
    }

    /// Ends the subscriptions, made and being made, that the grant does not allow.
    fn end_what_is_forbidden(&mut self) {
        let Phase::Connected(grant) = &self.phase else { return };
        let forbidden = |topic: &Topic| check_subscribe(&self.config.namespaces, grant, topic).is_err();
        let making = self.pending.iter().flat_map(|pending| pending.making());
        let making: Vec<Topic> = making.filter(|topic| forbidden(topic)).cloned().collect();
        let made = self.subscriptions.extract(forbidden);
        let error = ErrorBody::new(ErrorCode::Forbidden, "the new token does not allow it");
        for topic in made {
            let channel = topic.to_string();
            self.act(Action::Unsubscribe { topic });
            self.push(Push::Unsubscribed { channel, error: error.clone() });
        }
        for topic in making {
            self.give_up(&topic, &error);
        }
    }
}

impl Grant {
    /// Milliseconds until the token expires; `None` where it does not.
    pub(crate) fn expires_in_ms(&self, now: Time) -> Option<u64> {
        self.expires_at.map(|at| at.as_millis().saturating_sub(now.as_millis()))
    }
}
