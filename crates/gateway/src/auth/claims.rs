//! The claims of a token (RFC 7519 section 4), and what they are worth. Pure: times are arguments.

use std::time::Duration;

use fanfare_protocol::{ErrorBody, ErrorCode, Info, Pattern, Tenant, Topic};
use fanfare_session::{Allow, Grant, Permission, Refusal, Time};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::TokenPolicy;

/// Entries of the claim `channels`.
const CHANNELS: usize = 100;
/// Entries of the claim `subscribe`.
const SUBSCRIPTIONS: usize = 100;
/// Bytes of the claim `info`.
const INFO_BYTES: usize = 1024;
/// Bytes of the claim `sub`.
const SUBJECT_BYTES: usize = 255;

/// What a token claims. Claims that are not named here are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: Option<String>,
    tenant: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    iss: Option<OneOrMany>,
    aud: Option<OneOrMany>,
    info: Option<Box<RawValue>>,
    channels: Option<Vec<ChannelClaim>>,
    subscribe: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct ChannelClaim {
    r#match: String,
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Reads the payload of a token whose signature was verified.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(payload)
            .map_err(|error| unauthorized(format!("the token's claims are not valid: {error}")))
    }

    /// What the claims allow. `wall` is the time since the Unix epoch, `now` the same moment on the node's clock.
    pub(super) fn grant(self, policy: &TokenPolicy, wall: Duration, now: Time) -> Result<Box<Grant>, Refusal> {
        let expires_at = self.expires_at(policy, wall, now)?;
        self.check_begin(policy, wall)?;
        check_one_of("iss", self.iss.as_ref(), &policy.issuers)?;
        check_one_of("aud", self.aud.as_ref(), &policy.audiences)?;
        let user = self.sub.map(check_subject).transpose()?;
        let tenant = check_tenant(self.tenant, policy)?;
        let info = self.info.map(check_info).transpose()?;
        let permissions = check_channels(self.channels.unwrap_or_default())?;
        let subscribe = check_subscribe(self.subscribe.unwrap_or_default())?;
        Ok(Box::new(Grant { user, tenant, expires_at, info, subscribe, permissions }))
    }

    /// The end of the token on the node's clock, leeway included.
    fn expires_at(&self, policy: &TokenPolicy, wall: Duration, now: Time) -> Result<Option<Time>, Refusal> {
        let Some(exp) = self.exp else {
            return match policy.require_exp {
                true => Err(unauthorized("the token has no exp; tokens must expire")),
                false => Ok(None),
            };
        };
        let end = date("exp", exp)?.saturating_add(policy.leeway);
        match end.checked_sub(wall) {
            Some(left) if !left.is_zero() => Ok(Some(now + left)),
            _ => {
                let ago = wall.saturating_sub(date("exp", exp)?);
                let message = format!("the token expired {} s ago", ago.as_secs());
                Err(ErrorBody::new(ErrorCode::TokenExpired, message))
            }
        }
    }

    fn check_begin(&self, policy: &TokenPolicy, wall: Duration) -> Result<(), Refusal> {
        for (name, value) in [("nbf", self.nbf), ("iat", self.iat)] {
            let Some(value) = value else { continue };
            let ahead = date(name, value)?.saturating_sub(wall);
            if ahead > policy.leeway {
                let message = format!("the token is not valid yet: {name} is {} s ahead", ahead.as_secs());
                return Err(unauthorized(message));
            }
        }
        Ok(())
    }
}

/// A refusal with the code `UNAUTHORIZED`.
pub(super) fn unauthorized(message: impl Into<String>) -> Refusal {
    ErrorBody::new(ErrorCode::Unauthorized, message)
}

/// Seconds since the Unix epoch, as a number that may have a fraction (RFC 7519 section 2, NumericDate).
fn date(name: &str, seconds: f64) -> Result<Duration, Refusal> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| unauthorized(format!("the token's {name} is {seconds}; it must be seconds since 1970")))
}

/// RFC 7519 sections 4.1.1 and 4.1.3; an empty list accepts anything.
fn check_one_of(name: &str, claimed: Option<&OneOrMany>, accepted: &[String]) -> Result<(), Refusal> {
    if accepted.is_empty() {
        return Ok(());
    }
    let claimed = match claimed {
        None => return Err(unauthorized(format!("the token has no {name}; it must name one that is accepted here"))),
        Some(OneOrMany::One(one)) => std::slice::from_ref(one),
        Some(OneOrMany::Many(many)) => many,
    };
    if claimed.iter().any(|one| accepted.contains(one)) {
        Ok(())
    } else {
        Err(unauthorized(format!("the token's {name} is not accepted here")))
    }
}

fn check_subject(subject: String) -> Result<Box<str>, Refusal> {
    if (1..=SUBJECT_BYTES).contains(&subject.len()) {
        Ok(subject.into())
    } else {
        Err(unauthorized(format!("the token's sub has {} bytes; allowed are 1 to {SUBJECT_BYTES}", subject.len())))
    }
}

fn check_tenant(name: Option<String>, policy: &TokenPolicy) -> Result<Tenant, Refusal> {
    let tenant = match name {
        None => Tenant::default(),
        Some(name) => {
            Tenant::parse(&name).map_err(|reason| unauthorized(format!("the token's tenant is not valid: {reason}")))?
        }
    };
    match policy.tenants.iter().find(|served| **served == tenant) {
        // All its clients share the text.
        Some(served) => Ok(served.clone()),
        None if policy.tenants.is_empty() => Ok(tenant),
        None => Err(unauthorized(format!("the token's tenant {:?} is not served here", tenant.as_str()))),
    }
}

fn check_info(info: Box<RawValue>) -> Result<Info, Refusal> {
    let bytes = info.get().len();
    if bytes <= INFO_BYTES {
        Ok(info.into())
    } else {
        Err(unauthorized(format!("the token's info has {bytes} bytes; allowed are {INFO_BYTES}")))
    }
}

/// Whether each may be subscribed to is decided when it is.
fn check_subscribe(names: Vec<String>) -> Result<Box<[Box<str>]>, Refusal> {
    if names.len() > SUBSCRIPTIONS {
        let message = format!("the token's subscribe has {} entries; allowed are {SUBSCRIPTIONS}", names.len());
        return Err(unauthorized(message));
    }
    let check = |(index, name): (usize, String)| match Topic::parse(&name) {
        Ok(_) => Ok(name.into()),
        Err(reason) => Err(unauthorized(format!("the token's subscribe[{index}] {name:?}: {reason}"))),
    };
    names.into_iter().enumerate().map(check).collect()
}

fn check_channels(claims: Vec<ChannelClaim>) -> Result<Box<[Permission]>, Refusal> {
    if claims.len() > CHANNELS {
        let message = format!("the token's channels has {} entries; allowed are {CHANNELS}", claims.len());
        return Err(unauthorized(message));
    }
    claims.iter().enumerate().map(|(index, claim)| check_channel(index, claim)).collect()
}

fn check_channel(index: usize, claim: &ChannelClaim) -> Result<Permission, Refusal> {
    let refuse = |text: String| unauthorized(format!("the token's channels[{index}].{text}"));
    let pattern =
        Pattern::parse(&claim.r#match).map_err(|reason| refuse(format!("match {:?}: {reason}", claim.r#match)))?;
    let mut allow = Allow::NONE;
    for word in &claim.allow {
        let Some(one) = Allow::from_word(word) else {
            let words = Allow::WORDS.map(|(word, _)| word).join(", ");
            return Err(refuse(format!("allow: {word:?} is not known; allowed are {words}")));
        };
        allow = allow.union(one);
    }
    Ok(Permission { pattern, allow })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_secs(1_000_000);

    fn grant(policy: &TokenPolicy, claims: &str) -> Result<Box<Grant>, (ErrorCode, String)> {
        Claims::parse(claims.as_bytes())
            .and_then(|claims| claims.grant(policy, WALL, Time::from_millis(7_000)))
            .map_err(|error| (error.code, error.message))
    }

    fn message(policy: &TokenPolicy, claims: &str) -> String {
        let (code, message) = grant(policy, claims).unwrap_err();
        assert_eq!(code, ErrorCode::Unauthorized, "{message}");
        message
    }

    #[test]
    fn all_claims_reach_the_grant() {
        let claims = r#"{"sub":"alice","tenant":"acme","exp":1000060,"nbf":999999,"iat":999999.5,"info":{ "n" : 1 },"later":[],
            "channels":[{"match":"project:*","allow":["subscribe","history"]},{"match":"x:y","allow":["publish"]}],
            "subscribe":["project:a","news"]}"#;
        let grant = grant(&TokenPolicy::default(), claims).unwrap();
        assert_eq!(grant.user.as_deref(), Some("alice"));
        assert_eq!(grant.tenant.as_str(), "acme");
        assert_eq!(grant.expires_at, Some(Time::from_millis(7_000 + 65_000)), "60 s and the leeway");
        assert_eq!(grant.info.as_ref().unwrap().as_str(), r#"{ "n" : 1 }"#);
        assert_eq!(grant.subscribe.iter().map(|name| &**name).collect::<Vec<_>>(), ["project:a", "news"]);
        let topic = |name| Topic::parse(name).unwrap();
        assert!(grant.allows(Allow::SUBSCRIBE, &topic("project:a")));
        assert!(grant.allows(Allow::PUBLISH, &topic("x:y")));
        assert!(!grant.allows(Allow::PUBLISH, &topic("project:a")));
    }

    #[test]
    fn what_is_not_claimed_is_not_granted() {
        let grant = grant(&TokenPolicy::default(), r#"{"exp":1000001}"#).unwrap();
        assert_eq!((grant.user.as_deref(), grant.tenant.as_str(), grant.permissions.len()), (None, "default", 0));
        assert!(grant.info.is_none() && grant.subscribe.is_empty());
    }

    #[test]
    fn a_token_ends_with_its_leeway() {
        let policy = TokenPolicy::default();
        let at = |exp| grant(&policy, &format!(r#"{{"exp":{exp}}}"#));
        assert_eq!(at("999995.5").unwrap().expires_at, Some(Time::from_millis(7_500)));
        assert_eq!(at("999995").unwrap_err(), (ErrorCode::TokenExpired, "the token expired 5 s ago".into()));
        assert_eq!(at("0").unwrap_err(), (ErrorCode::TokenExpired, "the token expired 1000000 s ago".into()));
        assert!(at("1e300").unwrap_err().1.contains("exp"), "beyond any clock");
        assert_eq!(message(&policy, r#"{"exp":-1}"#), "the token's exp is -1; it must be seconds since 1970");
    }

    #[test]
    fn a_token_must_expire_unless_configured() {
        assert_eq!(message(&TokenPolicy::default(), "{}"), "the token has no exp; tokens must expire");
        let policy = TokenPolicy { require_exp: false, ..TokenPolicy::default() };
        assert_eq!(grant(&policy, "{}").unwrap().expires_at, None);
        assert_eq!(grant(&policy, r#"{"exp":1}"#).unwrap_err().0, ErrorCode::TokenExpired);
    }

    #[test]
    fn a_token_of_the_future_is_refused() {
        let policy = TokenPolicy::default();
        assert!(grant(&policy, r#"{"exp":2000000,"nbf":1000005}"#).is_ok(), "within the leeway");
        let ahead = message(&policy, r#"{"exp":2000000,"nbf":1000060}"#);
        assert_eq!(ahead, "the token is not valid yet: nbf is 60 s ahead");
        let ahead = message(&policy, r#"{"exp":2000000,"iat":1000060}"#);
        assert_eq!(ahead, "the token is not valid yet: iat is 60 s ahead");
    }

    #[test]
    fn issuer_and_audience_are_compared_with_the_lists() {
        let policy = TokenPolicy {
            issuers: vec!["https://id.example".into()],
            audiences: vec!["fanfare".into(), "rt".into()],
            ..TokenPolicy::default()
        };
        let claims = |iss, aud| format!(r#"{{"exp":2000000,"iss":{iss},"aud":{aud}}}"#);
        assert!(grant(&policy, &claims(r#""https://id.example""#, r#""rt""#)).is_ok());
        assert!(grant(&policy, &claims(r#""https://id.example""#, r#"["other","fanfare"]"#)).is_ok());
        let wrong = message(&policy, &claims(r#""https://evil.example""#, r#""rt""#));
        assert_eq!(wrong, "the token's iss is not accepted here");
        let wrong = message(&policy, &claims(r#""https://id.example""#, r#"["other"]"#));
        assert_eq!(wrong, "the token's aud is not accepted here");
        let missing = message(&policy, r#"{"exp":2000000,"iss":"https://id.example"}"#);
        assert_eq!(missing, "the token has no aud; it must name one that is accepted here");
        assert!(message(&policy, &claims("5", r#""rt""#)).starts_with("the token's claims are not valid: "));
    }

    #[test]
    fn tenants_are_names_and_may_be_listed() {
        let any = TokenPolicy::default();
        let with = |tenant| format!(r#"{{"exp":2000000,"tenant":"{tenant}"}}"#);
        assert_eq!(
            message(&any, &with("a.b")),
            "the token's tenant is not valid: '.' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"
        );
        assert!(message(&any, &with("")).starts_with("the token's tenant is not valid: "));
        let listed = TokenPolicy { tenants: [Tenant::parse("acme").unwrap()].into(), ..any };
        assert!(grant(&listed, &with("acme")).is_ok());
        assert_eq!(message(&listed, &with("globex")), r#"the token's tenant "globex" is not served here"#);
        assert_eq!(message(&listed, r#"{"exp":2000000}"#), r#"the token's tenant "default" is not served here"#);
    }

    #[test]
    fn claims_have_limits() {
        let policy = TokenPolicy::default();
        let with = |claim: String| format!(r#"{{"exp":2000000,{claim}}}"#);
        assert_eq!(message(&policy, &with(r#""sub":"""#.into())), "the token's sub has 0 bytes; allowed are 1 to 255");
        let info = with(format!(r#""info":"{}""#, "x".repeat(1_023)));
        assert_eq!(message(&policy, &info), "the token's info has 1025 bytes; allowed are 1024");
        let entries = vec![r#"{"match":"a:b","allow":[]}"#; 101].join(",");
        let channels = with(format!(r#""channels":[{entries}]"#));
        assert_eq!(message(&policy, &channels), "the token's channels has 101 entries; allowed are 100");
    }

    #[test]
    fn channels_to_subscribe_to_are_names() {
        let with = |names: String| format!(r#"{{"exp":2000000,"subscribe":[{names}]}}"#);
        let policy = TokenPolicy::default();
        assert_eq!(
            message(&policy, &with(r#""a:b","a b""#.into())),
            r#"the token's subscribe[1] "a b": ' ' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"#
        );
        let many = vec![r#""a:b""#; 101].join(",");
        assert_eq!(message(&policy, &with(many)), "the token's subscribe has 101 entries; allowed are 100");
        assert!(
            message(&policy, r#"{"exp":2000000,"subscribe":"a"}"#).starts_with("the token's claims are not valid: ")
        );
    }

    #[test]
    fn channels_must_say_what_is_known() {
        let policy = TokenPolicy::default();
        let with = |channel| format!(r#"{{"exp":2000000,"channels":[{{"match":"a","allow":[]}},{channel}]}}"#);
        assert_eq!(
            message(&policy, &with(r#"{"match":"a:b","allow":["subscribe","wirte"]}"#)),
            r#"the token's channels[1].allow: "wirte" is not known; allowed are subscribe, publish, presence, history"#
        );
        assert!(
            message(&policy, &with(r#"{"match":"*","allow":[]}"#))
                .starts_with(r#"the token's channels[1].match "*": a wildcard is not allowed here"#)
        );
        assert!(message(&policy, &with(r#"{"match":"a"}"#)).contains("missing field `allow`"));
    }
}
