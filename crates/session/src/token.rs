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
        let info_before = self.info_of_token();
        self.install(grant);
        self.reply(id, Ok(Reply::Refreshed { expires_in_ms }));
        self.end_what_is_forbidden();
        self.stop_watching_what_is_forbidden();
        self.stop_signals_that_are_forbidden();
        self.represent_with_new_token(info_before.as_ref());
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
            self.leave(&topic);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Completion, fixture::*};

    fn expired() -> Action {
        close(CloseCode::TokenExpired, "the token has expired")
    }

    fn expiring(expires_in_ms: u64) -> Action {
        push(Push::TokenExpiring { expires_in_ms })
    }

    /// Passes time with signs of life, so that only the token's deadlines strike.
    fn live_until(driver: &mut Driver, now: u64) -> Vec<Action> {
        driver.session.handle_activity(Time::from_millis(now));
        driver.at(now)
    }

    #[test]
    fn the_end_of_a_token_is_told_once_ahead_and_closes() {
        let mut driver = Driver::with_grant(grant(&[], Some(300_000)));
        assert_eq!(live_until(&mut driver, 239_999), []);
        assert_eq!(driver.expire(), [expiring(60_000)]);
        assert_eq!(driver.now, 240_000);
        assert_eq!(live_until(&mut driver, 299_999), []);
        assert_eq!(driver.expire(), [expired()]);
        assert_eq!(driver.now, 300_000);
    }

    #[test]
    fn where_less_is_left_it_is_told_at_once() {
        let mut driver = Driver::new(token_config());
        driver.send(1, connect(Some("t")));
        driver.complete(1, authenticated(grant(&[], Some(20_000))));
        assert_eq!(
            driver.actions()[1..],
            [reply(1, Reply::Connected(connected(Some("alice"), Some(20_000)))), expiring(20_000)]
        );
    }

    #[test]
    fn a_token_that_ended_while_it_was_verified_closes_and_nothing_runs() {
        let mut driver = Driver::new(token_config());
        driver.send(1, connect(Some("t")));
        driver.send(2, subscribe("project:a"));
        driver.now = 2_000;
        driver.complete(1, authenticated(grant(&["project:*"], Some(1_500))));
        assert_eq!(driver.actions()[1..], [reply(1, Reply::Connected(connected(Some("alice"), Some(0)))), expired()]);
    }

    #[test]
    fn a_token_without_an_end_has_no_deadline() {
        let mut driver = Driver::with_grant(grant(&[], None));
        assert_eq!(driver.session.token_due(), None);
        assert_eq!(live_until(&mut driver, 1 << 40), []);
    }

    #[test]
    fn a_refresh_replaces_the_token_and_its_end() {
        let mut driver = Driver::with_grant(grant(&[], Some(300_000)));
        assert_eq!(live_until(&mut driver, 240_000), [expiring(60_000)]);
        driver.send(5, refresh("new"));
        assert_eq!(driver.actions(), [authenticate(2, "new")]);
        driver.complete(2, authenticated(grant(&[], Some(540_000))));
        assert_eq!(driver.actions(), [reply(5, Reply::Refreshed { expires_in_ms: Some(300_000) })]);
        assert_eq!(live_until(&mut driver, 479_999), []);
        assert_eq!(live_until(&mut driver, 480_000), [expiring(60_000)]);
        assert_eq!(live_until(&mut driver, 540_000), [expired()]);
    }

    #[test]
    fn a_refresh_to_a_token_without_an_end_says_so() {
        let mut driver = Driver::with_grant(grant(&[], Some(300_000)));
        driver.send(5, refresh("new"));
        driver.complete(2, authenticated(grant(&[], None)));
        assert_eq!(driver.actions()[1..], [reply(5, Reply::Refreshed { expires_in_ms: None })]);
        assert_eq!(driver.session.token_due(), None);
    }

    #[test]
    fn a_refresh_to_a_short_token_is_told_at_once() {
        let mut driver = Driver::with_grant(grant(&[], Some(300_000)));
        driver.send(5, refresh("new"));
        driver.complete(2, authenticated(grant(&[], Some(30_000))));
        assert_eq!(
            driver.actions()[1..],
            [reply(5, Reply::Refreshed { expires_in_ms: Some(30_000) }), expiring(30_000)]
        );
    }

    #[test]
    fn a_token_of_another_is_refused_and_the_old_one_stays() {
        let bob = Box::new(Grant { user: Some("bob".into()), ..*grant(&["other:*"], None) });
        let elsewhere = fanfare_protocol::Tenant::parse("elsewhere").unwrap();
        let moved = Box::new(Grant { tenant: elsewhere, ..*grant(&["other:*"], None) });
        let anonymous = Box::new(Grant { user: None, ..*grant(&["other:*"], None) });
        for other in [bob, moved, anonymous] {
            let mut driver = Driver::with_grant(grant(&["project:*"], Some(300_000))).subscribed(&["project:a"]);
            driver.send(5, refresh("new"));
            driver.actions();
            driver.complete(3, authenticated(other));
            assert_eq!(
                driver.actions(),
                [error(5, ErrorCode::Forbidden, "the new token is of another user or tenant; the old one stays")]
            );
            assert!(driver.session.is_subscribed(&topic("project:a")));
            assert_eq!(driver.session.token_due(), Some(Time::from_millis(240_000)));
        }
    }

    #[test]
    fn a_refused_refresh_leaves_the_old_token() {
        let mut driver = Driver::with_grant(grant(&["project:*"], Some(300_000))).subscribed(&["project:a"]);
        driver.send(5, refresh("new"));
        driver.complete(3, Completion::Authenticated(Err(ErrorBody::new(ErrorCode::TokenExpired, "over"))));
        assert_eq!(driver.actions()[1..], [error(5, ErrorCode::TokenExpired, "over")]);
        assert!(driver.session.is_subscribed(&topic("project:a")));
        assert_eq!(live_until(&mut driver, 300_000), [expired()]);
    }

    #[test]
    fn a_refresh_ends_what_the_new_token_does_not_allow() {
        let mut driver = Driver::with_grant(grant(&["project:**"], None)).subscribed(&["project:a", "project:b"]);
        driver.send(5, subscribe("project:c"));
        driver.send(6, refresh("new"));
        driver.actions();
        driver.complete(5, authenticated(grant(&["project:a"], None)));
        let forbidden = || ErrorBody::new(ErrorCode::Forbidden, "the new token does not allow it");
        assert_eq!(
            driver.actions(),
            [
                reply(6, Reply::Refreshed { expires_in_ms: None }),
                to_unsubscribe("project:b"),
                push(Push::Unsubscribed { channel: "project:b".into(), error: forbidden() }),
                to_unsubscribe("project:c"),
                error(5, ErrorCode::Forbidden, "the new token does not allow it"),
            ]
        );
        assert_eq!(driver.session.topics().collect::<Vec<_>>(), [&topic("project:a")]);
    }

    #[test]
    fn one_refresh_at_a_time() {
        let mut driver = Driver::with_grant(grant(&[], None));
        driver.send(5, refresh("new"));
        driver.send(6, refresh("newer"));
        assert_eq!(
            driver.actions(),
            [authenticate(2, "new"), error(6, ErrorCode::BadRequest, "a refresh is in flight; wait for its reply")]
        );
        driver.complete(2, authenticated(grant(&[], None)));
        driver.send(7, refresh("newest"));
        assert_eq!(driver.actions(), [reply(5, Reply::Refreshed { expires_in_ms: None }), authenticate(3, "newest")]);
    }

    #[test]
    fn an_anonymous_session_cannot_become_a_user() {
        let mut driver = Driver::anonymous();
        driver.send(5, refresh("t"));
        driver.complete(1, authenticated(grant(&[], None)));
        assert_eq!(
            driver.actions()[1..],
            [error(5, ErrorCode::Forbidden, "the new token is of another user or tenant; the old one stays")]
        );
    }
}
