//! How a session begins: by the handshake, by `connect`, or anonymously by any other command.

use fanfare_protocol::{CloseCode, Connected, ErrorBody, ErrorCode, PROTOCOL_VERSION, Push, Reply, limits};

use crate::{
    Action, Grant, Handshake, Refusal, Session, Time,
    pending::{Opening, Operation},
    session::Phase,
};

/// What a client without a token is told where it needs one.
const TOKEN_REQUIRED: &str = "a token is required: anonymous clients are not allowed";

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
                self.run(command.id, command.kind);
            }
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
    fn subscribe_by_handshake(&mut self, mut channels: Vec<String>) {
        let asked = channels.len();
        channels.truncate(limits::HANDSHAKE_CHANNELS);
        for name in &channels {
            self.subscribe_for_handshake(name);
        }
        if asked > channels.len() {
            let allowed = limits::HANDSHAKE_CHANNELS;
            let message =
                format!("the handshake names {asked} channels; allowed are {allowed}, the others are left out");
            self.push(Push::Error { channel: None, error: ErrorBody::new(ErrorCode::LimitExceeded, message) });
        }
    }

    fn describe(&self, now: Time, grant: &Grant) -> Connected {
        Connected {
            session: self.id.to_string(),
            protocol: PROTOCOL_VERSION,
            features: Vec::new(),
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
