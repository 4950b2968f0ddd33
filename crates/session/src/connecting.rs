//! How a session begins: by the handshake, by `connect`, or anonymously by any other command.

use fanfare_protocol::{CloseCode, Connected, ErrorBody, ErrorCode, PROTOCOL_VERSION, Push, Reply, Topic, limits};

use crate::{
    Action, Asked, Grant, Handshake, Refusal, Session, Time,
    pending::{Opening, Operation},
    session::Phase,
};

/// What a client without a token is told where it needs one.
const TOKEN_REQUIRED: &str = "a token is required: anonymous clients are not allowed";

/// In `features`: what namespaces of this node have.
const HISTORY_FEATURE: &str = "history";
const PRESENCE_FEATURE: &str = "presence";
const SIGNAL_FEATURE: &str = "signal";

impl Session {
    /// A token connects at once; channels alone connect anonymously; nothing at all leaves it to the first command.
    pub(crate) fn open_by_handshake(&mut self, now: Time, handshake: Handshake) {
        let Handshake { token, channels } = handshake;
        match token {
            Some(token) => self.authenticate(Opening::Handshake { channels }, token),
            None if channels.is_empty() => {}
            None => match self.anonymous() {
                Ok(grant) => self.open(now, Opening::Handshake { channels }, grant),
                Err(error) => self.fail(Opening::Handshake { channels }, error),
            },
        }
    }

    /// The command `connect` of a session that is not connected.
    pub(crate) fn open_by_command(&mut self, now: Time, id: u64, token: Option<String>) {
        let opening = Opening::Command { id };
        match token {
            Some(token) => self.authenticate(opening, token),
            None => match self.anonymous() {
                Ok(grant) => self.open(now, opening, grant),
                Err(error) => self.fail(opening, error),
            },
        }
    }

    /// Connects without telling, for a client whose first command is another; `false` where a token is required.
    pub(crate) fn connect_anonymously(&mut self) -> bool {
        let Ok(grant) = self.anonymous() else { return false };
        self.install(grant);
        true
    }

    /// The token was verified, or not.
    pub(crate) fn opened(&mut self, now: Time, opening: Opening, result: Result<Box<Grant>, Refusal>) {
        match result {
            Ok(grant) => self.open(now, opening, grant),
            Err(error) => self.fail(opening, error),
        }
    }

    /// Makes the grant the session's identity.
    pub(crate) fn install(&mut self, grant: Box<Grant>) {
        self.phase = Phase::Connected(grant);
        self.told_expiring = false;
    }

    fn anonymous(&self) -> Result<Box<Grant>, ErrorBody> {
        match &self.config.anonymous {
            Some(tenant) => Ok(Box::new(Grant::anonymous(tenant.clone()))),
            None => Err(ErrorBody::new(ErrorCode::Unauthorized, TOKEN_REQUIRED)),
        }
    }

    fn authenticate(&mut self, opening: Opening, token: String) {
        if let Phase::Fresh { connect_by } = self.phase {
            self.phase = Phase::Authenticating { connect_by };
        }
        let op = self.begin(Operation::Connect(opening));
        self.act(Action::Authenticate { op, token });
    }

    /// Tells the client first, then does what waited for it: the handshake's channels, then the commands.
    fn open(&mut self, now: Time, opening: Opening, grant: Box<Grant>) {
        let connected = self.describe(now, &grant);
        self.install(grant);
        let channels = match opening {
            Opening::Command { id } => {
                self.reply(id, Ok(Reply::Connected(connected)));
                Vec::new()
            }
            Opening::Handshake { channels } => {
                self.push(Push::Connected(connected));
                channels
            }
        };
        self.check_token(now);
        if self.is_open() {
            self.subscribe_by_handshake(channels);
            let waiting = self.pending.as_mut().map(|pending| pending.take_waiting()).unwrap_or_default();
            for command in waiting {
                self.run(now, command.id, command.kind);
            }
            // Behind the client's own: those may begin in the past.
            self.subscribe_automatically();
        }
    }

    /// Tells the client why, and closes: what waited for it is not answered.
    fn fail(&mut self, opening: Opening, error: ErrorBody) {
        let (code, reason) = close_code(error.code);
        match opening {
            Opening::Command { id } => self.reply(id, Err(error)),
            Opening::Handshake { .. } => self.push(Push::Error { channel: None, error }),
        }
        self.close(code, reason);
    }

    /// Names beyond the limit are refused together, so that a long URL is not answered by as many pushes.
    fn subscribe_by_handshake(&mut self, mut channels: Vec<Asked>) {
        let asked = channels.len();
        channels.truncate(limits::HANDSHAKE_CHANNELS);
        for asked in channels {
            self.subscribe_for_handshake(asked);
        }
        if asked > limits::HANDSHAKE_CHANNELS {
            let allowed = limits::HANDSHAKE_CHANNELS;
            let message =
                format!("the handshake names {asked} channels; allowed are {allowed}, the others are left out");
            self.push(Push::Error { channel: None, error: ErrorBody::new(ErrorCode::LimitExceeded, message) });
        }
    }

    /// To the channels that the configuration and the token name, where the client has not asked for them itself. Each is
    /// answered by a push, as for the handshake.
    pub(crate) fn subscribe_automatically(&mut self) {
        let Phase::Connected(grant) = &mut self.phase else { return };
        let of_token = std::mem::take(&mut grant.subscribe);
        let user = grant.user.as_deref();
        let of_config = self.config.auto_subscribe.iter().filter_map(|template| template.name(user));
        let names: Vec<String> = of_config.chain(of_token.into_iter().map(String::from)).collect();
        for name in names {
            if !self.is_asked_for(&name) {
                self.subscribe_for_handshake(Asked { name, ..Asked::default() });
            }
        }
    }

    fn is_asked_for(&self, name: &str) -> bool {
        let is_making = |topic: &Topic| self.pending.as_ref().is_some_and(|pending| pending.is_making(topic));
        Topic::parse(name).is_ok_and(|topic| self.subscriptions.contains(&topic) || is_making(&topic))
    }

    fn features(&self) -> Vec<&'static str> {
        let namespaces = &self.config.namespaces;
        let all = [
            (namespaces.keep_history(), HISTORY_FEATURE),
            (namespaces.have_presence(), PRESENCE_FEATURE),
            (namespaces.have_signals(), SIGNAL_FEATURE),
        ];
        all.into_iter().filter_map(|(has, feature)| has.then_some(feature)).collect()
    }

    fn describe(&self, now: Time, grant: &Grant) -> Connected {
        Connected {
            session: self.id.to_string(),
            protocol: PROTOCOL_VERSION,
            features: self.features(),
            user: grant.user.as_deref().map(Into::into),
            tenant: grant.tenant.to_string(),
            expires_in_ms: grant.expires_in_ms(now),
            ping_interval_ms: u64::try_from(self.config.ping_interval.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// How a connection ends whose token was refused. What may succeed later unchanged is closed with a code to reconnect on.
fn close_code(code: ErrorCode) -> (CloseCode, &'static str) {
    match code {
        ErrorCode::TokenExpired => (CloseCode::TokenExpired, "the token has expired"),
        ErrorCode::Forbidden => (CloseCode::Forbidden, "the token does not allow connecting"),
        code if code.retryable() => (CloseCode::Unavailable, "the token cannot be verified now"),
        _ => (CloseCode::Unauthorized, "no valid token"),
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::CommandKind;

    use super::*;
    use crate::{ChannelTemplate, Completion, OpId, SessionConfig, Start, fixture::*};

    fn refused(code: ErrorCode) -> Completion {
        Completion::Authenticated(Err(ErrorBody::new(code, "why")))
    }

    #[test]
    fn a_token_is_verified_and_the_client_told_who_it_is() {
        let mut driver = Driver::new(token_config());
        driver.send(7, connect(Some("t")));
        assert_eq!(driver.actions(), [authenticate(1, "t")]);
        assert_eq!(driver.session.tenant(), None);
        driver.now = 1_000;
        driver.complete(1, authenticated(grant(&[], Some(301_000))));
        assert_eq!(driver.actions(), [reply(7, Reply::Connected(connected(Some("alice"), Some(300_000))))]);
        assert_eq!(driver.session.tenant(), Some(&tenant()));
        assert_eq!(driver.session.id().to_string(), ID);
    }

    #[test]
    fn without_a_token_the_client_is_anonymous_where_that_is_allowed() {
        let mut driver = Driver::new(config());
        driver.send(7, connect(None));
        assert_eq!(driver.actions(), [reply(7, Reply::Connected(connected(None, None)))]);
        assert_eq!(driver.session.tenant(), Some(&tenant()));
    }

    #[test]
    fn without_a_token_the_client_is_closed_where_one_is_required() {
        let mut driver = Driver::new(token_config());
        driver.send(7, connect(None));
        assert_eq!(
            driver.actions(),
            [
                error(7, ErrorCode::Unauthorized, "a token is required: anonymous clients are not allowed"),
                close(CloseCode::Unauthorized, "no valid token")
            ]
        );
    }

    #[test]
    fn a_refused_token_is_answered_and_closes_with_its_own_code() {
        let unavailable = close(CloseCode::Unavailable, "the token cannot be verified now");
        let unauthorized = close(CloseCode::Unauthorized, "no valid token");
        for (code, closed) in [
            (ErrorCode::TokenExpired, &close(CloseCode::TokenExpired, "the token has expired")),
            (ErrorCode::Forbidden, &close(CloseCode::Forbidden, "the token does not allow connecting")),
            (ErrorCode::Unavailable, &unavailable),
            (ErrorCode::Timeout, &unavailable),
            (ErrorCode::Unauthorized, &unauthorized),
            (ErrorCode::BadRequest, &unauthorized),
        ] {
            let mut driver = Driver::new(config());
            driver.send(7, connect(Some("t")));
            driver.complete(1, refused(code));
            let actions = driver.actions();
            assert_eq!(actions[1..], [error(7, code, "why"), clone(closed)], "{code}");
            let mut driver = Driver::new(config());
            driver.shake(Some("t"), &["open:a"]);
            driver.complete(1, refused(code));
            let actions = driver.actions();
            assert_eq!(actions[1..], [push_error(None, code, "why"), clone(closed)], "{code}");
        }
    }

    fn clone(closed: &Action) -> Action {
        let Action::Close { code, reason } = closed else { panic!("{closed:?} does not close") };
        Action::Close { code: *code, reason: reason.clone() }
    }

    #[test]
    fn a_second_connect_changes_nothing() {
        let again =
            |id| error(id, ErrorCode::BadRequest, "the session is connected, or is being connected; use refresh");
        let mut driver = Driver::new(token_config());
        driver.send(1, connect(Some("t")));
        driver.send(2, connect(Some("u")));
        assert_eq!(driver.actions(), [authenticate(1, "t"), again(2)]);
        driver.complete(1, authenticated(grant(&[], None)));
        driver.send(3, connect(None));
        assert_eq!(driver.actions(), [reply(1, Reply::Connected(connected(Some("alice"), None))), again(3)]);
        let mut driver = Driver::new(config());
        driver.shake(None, &["open:a"]);
        driver.actions();
        driver.send(4, connect(Some("t")));
        assert_eq!(driver.actions(), [again(4)]);
    }

    #[test]
    fn a_token_of_the_handshake_connects_at_once_and_then_subscribes() {
        let mut driver = Driver::new(token_config());
        driver.shake(Some("t"), &["project:a", "other:b", "a b", "project:c", "project:a"]);
        assert_eq!(driver.actions(), [authenticate(1, "t")]);
        driver.complete(1, authenticated(grant(&["project:*"], None)));
        assert_eq!(
            driver.actions(),
            [
                push(Push::Connected(connected(Some("alice"), None))),
                to_subscribe(2, "project:a"),
                push_error(
                    Some("other:b"),
                    ErrorCode::Forbidden,
                    "the token has no claim that allows subscribe on all of other:b"
                ),
                push_error(
                    Some("a b"),
                    ErrorCode::BadRequest,
                    "' ' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"
                ),
                to_subscribe(3, "project:c"),
            ]
        );
        driver.complete(3, Completion::Subscribed(Err(ErrorBody::new(ErrorCode::Unavailable, "away"))));
        driver.complete(2, made());
        let told = || {
            push(Push::Subscribed(fanfare_protocol::Subscribed { channel: "project:a".into(), ..Default::default() }))
        };
        assert_eq!(driver.actions(), [push_error(Some("project:c"), ErrorCode::Unavailable, "away"), told(), told()]);
    }

    #[test]
    fn a_token_of_the_handshake_may_come_without_channels() {
        let mut driver = Driver::new(token_config());
        driver.shake(Some("t"), &[]);
        driver.complete(1, authenticated(grant(&[], None)));
        assert_eq!(driver.actions()[1..], [push(Push::Connected(connected(Some("alice"), None)))]);
    }

    #[test]
    fn channels_of_the_handshake_connect_anonymously() {
        let mut driver = Driver::new(config());
        driver.shake(None, &["open:a"]);
        assert_eq!(driver.actions(), [push(Push::Connected(connected(None, None))), to_subscribe(1, "open:a")]);
    }

    #[test]
    fn channels_of_the_handshake_close_where_a_token_is_required() {
        let mut driver = Driver::new(token_config());
        driver.shake(None, &["open:a"]);
        assert_eq!(
            driver.actions(),
            [
                push_error(None, ErrorCode::Unauthorized, "a token is required: anonymous clients are not allowed"),
                close(CloseCode::Unauthorized, "no valid token")
            ]
        );
    }

    #[test]
    fn an_empty_handshake_leaves_it_to_the_first_command() {
        let mut driver = Driver::new(config());
        driver.shake(None, &[]);
        assert_eq!(driver.actions(), []);
        driver.send(1, connect(Some("t")));
        assert_eq!(driver.actions(), [authenticate(1, "t")]);
    }

    #[test]
    fn the_handshake_names_fifty_channels_at_most() {
        let mut driver = Driver::new(SessionConfig { max_subscriptions: 100, ..config() });
        let names: Vec<String> = (0..52).map(|number| format!("open:{number}")).collect();
        driver.shake(None, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let actions = driver.actions();
        assert_eq!(actions.len(), 1 + 50 + 1);
        assert_eq!(actions[50], to_subscribe(50, "open:49"));
        assert_eq!(
            actions[51],
            push_error(
                None,
                ErrorCode::LimitExceeded,
                "the handshake names 52 channels; allowed are 50, the others are left out"
            )
        );
    }

    #[test]
    fn commands_wait_for_the_token_and_run_in_order() {
        let mut driver = Driver::new(token_config());
        driver.send(1, connect(Some("t")));
        driver.send(2, subscribe("project:a"));
        driver.send(3, CommandKind::Ping { active: false });
        driver.send(4, publish("project:a"));
        driver.send(5, subscribe("project:b"));
        assert_eq!(
            driver.actions(),
            [
                authenticate(1, "t"),
                error(5, ErrorCode::LimitExceeded, "3 commands wait for the connect; more are not allowed")
            ]
        );
        driver.complete(1, authenticated(grant(&["project:*"], None)));
        assert_eq!(
            driver.actions(),
            [
                reply(1, Reply::Connected(connected(Some("alice"), None))),
                to_subscribe(2, "project:a"),
                reply(3, done()),
                to_publish(3, "project:a"),
            ]
        );
    }

    #[test]
    fn commands_that_wait_are_bounded_in_bytes() {
        let mut driver = Driver::new(token_config());
        let asked = |number: u32| Asked { name: format!("{number}"), ..Asked::default() };
        let channels: Vec<Asked> = (0..3_000).map(asked).collect();
        let many = || fanfare_protocol::CommandKind::SubscribeMany { channels: channels.clone() };
        driver.send(1, connect(Some("t")));
        driver.send(2, many());
        driver.send(3, many());
        driver.send(4, subscribe("project:a"));
        assert_eq!(
            driver.actions()[1..],
            [error(3, ErrorCode::LimitExceeded, "the commands that wait for the connect are over 262144 bytes")]
        );
        driver.complete(1, authenticated(grant(&["project:*"], None)));
        let actions = driver.actions();
        assert_eq!(actions.len(), 3);
        assert_eq!(actions[2], to_subscribe(3, "project:a"));
    }

    #[test]
    fn commands_that_waited_for_a_refused_token_are_not_answered() {
        let mut driver = Driver::new(token_config());
        driver.send(1, connect(Some("t")));
        driver.send(2, subscribe("project:a"));
        driver.actions();
        driver.complete(1, refused(ErrorCode::Unauthorized));
        assert_eq!(
            driver.actions(),
            [error(1, ErrorCode::Unauthorized, "why"), close(CloseCode::Unauthorized, "no valid token")]
        );
    }

    #[test]
    fn any_first_command_connects_anonymously_without_a_word() {
        let mut driver = Driver::new(config());
        driver.send(1, subscribe("open:a"));
        assert_eq!(driver.actions(), [to_subscribe(1, "open:a")]);
        assert_eq!(driver.session.tenant(), Some(&tenant()));
    }

    #[test]
    fn any_first_command_is_refused_where_a_token_is_required_and_connect_may_follow() {
        let mut driver = Driver::new(token_config());
        driver.send(1, subscribe("open:a"));
        assert_eq!(
            driver.actions(),
            [error(1, ErrorCode::Unauthorized, "not connected: send connect with a token first")]
        );
        driver.send(2, connect(Some("t")));
        assert_eq!(driver.actions(), [authenticate(1, "t")]);
    }

    #[test]
    fn who_does_not_connect_in_time_is_closed() {
        let late = || [close(CloseCode::ConnectTimeout, "not connected in time")];
        let mut driver = Driver::new(token_config());
        assert_eq!(driver.at(4_999), []);
        assert_eq!(driver.expire(), late());
        assert_eq!(driver.now, 5_000);
        let mut authenticating = Driver::new(token_config());
        authenticating.now = 4_000;
        authenticating.send(1, connect(Some("t")));
        authenticating.actions();
        assert_eq!(authenticating.expire(), late());
        assert_eq!(authenticating.now, 5_000);
    }

    #[test]
    fn who_has_connected_in_time_is_not_closed() {
        let mut driver = Driver::anonymous();
        assert_eq!(driver.at(5_000), []);
    }

    fn automatic(templates: &[&str], anonymous: bool) -> SessionConfig {
        let auto_subscribe = templates.iter().map(|text| ChannelTemplate::parse(text).unwrap()).collect();
        let config = if anonymous { config() } else { token_config() };
        SessionConfig { auto_subscribe, max_subscriptions: 10, ..config }
    }

    fn of_token(names: &[&str]) -> Box<Grant> {
        let subscribe = names.iter().map(|name| (*name).into()).collect();
        Box::new(Grant { subscribe, ..*grant(&["project:*"], None) })
    }

    #[test]
    fn the_configuration_and_the_token_name_channels_for_everyone() {
        let mut driver = Driver::new(automatic(&["user:{sub}", "open:all"], false));
        driver.send(1, connect(Some("t")));
        driver.actions();
        driver.complete(1, authenticated(of_token(&["project:1", "open:all", "other:1"])));
        assert_eq!(
            driver.actions(),
            [
                reply(1, Reply::Connected(connected(Some("alice"), None))),
                to_subscribe(2, "user:alice"),
                to_subscribe(3, "open:all"),
                to_subscribe(4, "project:1"),
                push_error(
                    Some("other:1"),
                    ErrorCode::Forbidden,
                    "the token has no claim that allows subscribe on all of other:1"
                ),
            ]
        );
        driver.complete(2, made());
        let told = fanfare_protocol::Subscribed { channel: "user:alice".into(), ..Default::default() };
        assert_eq!(driver.actions(), [push(Push::Subscribed(told))]);
        assert!(driver.session.grant().unwrap().subscribe.is_empty(), "not needed any more");
    }

    #[test]
    fn who_has_no_name_has_no_channel_of_it() {
        let mut driver = Driver::new(automatic(&["user:{sub}", "open:all"], true));
        driver.send(1, subscribe("open:a"));
        assert_eq!(driver.actions(), [to_subscribe(1, "open:a"), to_subscribe(2, "open:all")]);
        driver.send(2, subscribe("open:b"));
        assert_eq!(driver.actions(), [to_subscribe(3, "open:b")], "once");
        let mut driver = Driver::new(automatic(&["user:{sub}", "open:all"], true));
        driver.send(1, connect(None));
        assert_eq!(driver.actions()[1..], [to_subscribe(1, "open:all")]);
    }

    #[test]
    fn what_the_client_asks_for_itself_goes_before() {
        let since = || Start { since: Some(at(41)), rewind: 0 };
        let asked = || Asked { name: "diary:alice".into(), start: since(), ..Asked::default() };
        let mut driver = Driver::new(automatic(&["diary:{sub}"], false));
        driver.send(1, connect(Some("t")));
        driver.send(2, CommandKind::Subscribe(asked()));
        driver.complete(1, authenticated(of_token(&["diary:alice"])));
        let begun = Action::Subscribe { op: OpId(2), topic: topic("diary:alice"), start: since() };
        assert_eq!(driver.actions()[2..], [begun]);
        let mut driver = Driver::new(automatic(&["diary:{sub}"], false));
        driver.session.handle_handshake(driver.time(), Handshake { token: Some("t".into()), channels: vec![asked()] });
        driver.complete(1, authenticated(of_token(&[])));
        let begun = Action::Subscribe { op: OpId(2), topic: topic("diary:alice"), start: since() };
        assert_eq!(driver.actions()[2..], [begun]);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_channel_is_told() {
        let mut driver = Driver::new(automatic(&["user:{sub}"], false));
        driver.send(1, connect(Some("t")));
        let user = "x".repeat(65);
        driver.complete(1, authenticated(Box::new(Grant { user: Some(user.clone().into()), ..*of_token(&[]) })));
        let told = push_error(
            Some(&format!("user:{user}")),
            ErrorCode::BadRequest,
            "segment 1 has 65 bytes; allowed are 1 to 64",
        );
        assert_eq!(driver.actions()[2..], [told]);
    }
}
