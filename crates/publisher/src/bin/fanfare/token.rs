//! `fanfare token`: a signed token with the claims that nodes read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, ValueEnum};
use fanfare_protocol::{Pattern, Tenant, limits};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{exit, exit::Failed, output};

/// What may be allowed on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Allow {
    /// Subscribe to it.
    Subscribe,
    /// Publish on it.
    Publish,
    /// See who is present.
    Presence,
    /// Read its history.
    History,
}

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub(crate) enum Signature {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[value(name = "EdDSA")]
    EdDsa,
}

const EXAMPLES: &str = "\
Examples:
  export FANFARE_AUTH__HMAC_SECRET=…
  fanfare token --sub alice --channel 'project:*' --allow subscribe
  fanfare token --sub alice --tenant acme --channel 'project:**' --channel user:alice \\
      --allow subscribe --allow publish --expires 15m
  fanfare token --sub reports --algorithm ES256 --secret-file key.pem --kid 2026-11

In a pattern '*' stands for one whole segment and '**' for the rest at the end;
the first segment is always literal.";

/// Print a signed token (JWT) for a client.
#[derive(Args)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct Arguments {
    /// Who the client is: the claim `sub`
    #[arg(long)]
    sub: String,
    /// The claim `tenant`; without it nodes take `default`
    #[arg(long)]
    tenant: Option<String>,
    /// A channel or pattern, such as 'project:*'; may be given several times
    #[arg(long = "channel", value_name = "PATTERN", requires = "allow")]
    channels: Vec<String>,
    /// What is allowed on all of these channels; may be given several times
    #[arg(long, value_name = "WORD", requires = "channels")]
    allow: Vec<Allow>,
    /// How long the token is valid, such as 15m, 1h or 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// What others see of the client in presence: the claim `info`
    #[arg(long, value_name = "JSON")]
    info: Option<String>,
    /// The claim `iss`, where nodes check it
    #[arg(long, value_name = "ISSUER")]
    iss: Option<String>,
    /// The claim `aud`, where nodes check it
    #[arg(long, value_name = "AUDIENCE")]
    aud: Option<String>,
    /// The key's id in the token's header, where nodes have several keys
    #[arg(long)]
    kid: Option<String>,
    /// How to sign
    #[arg(long, value_enum, default_value = "HS256", ignore_case = true)]
    algorithm: Signature,
    /// The secret of HS256, HS384 and HS512. Other users of the machine can see arguments: prefer the variable or a file
    #[arg(long, env = "FANFARE_AUTH__HMAC_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// A file with the secret, or with the private key in PEM for all other algorithms
    #[arg(long, env = "FANFARE_AUTH__HMAC_SECRET_FILE", hide_env_values = true, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// Prints the token.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| Failed::other(error.to_string()))?;
    let claims = claims(arguments, now).map_err(Failed::usage)?;
    let mut header = Header::new(arguments.algorithm.algorithm());
    header.kid.clone_from(&arguments.kid);
    let token = jsonwebtoken::encode(&header, &claims, &key(arguments)?)
        .map_err(|error| Failed::usage(format!("the token cannot be signed with this key: {error}")))?;
    if token.len() > limits::TOKEN_BYTES {
        let message = format!("the token has {} bytes; nodes take {}", token.len(), limits::TOKEN_BYTES);
        return Err(Failed::usage(message));
    }
    output::line(token.as_bytes())
}

#[derive(Debug, Serialize)]
struct Claims {
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<ChannelClaim>,
}

#[derive(Debug, Serialize)]
struct ChannelClaim {
    r#match: String,
    allow: Vec<Allow>,
}

/// The claims at a time since the Unix epoch, or what cannot be used and what is allowed.
fn claims(arguments: &Arguments, now: Duration) -> Result<Claims, String> {
    if arguments.sub.is_empty() {
        return Err("--sub is empty; a token is for someone".into());
    }
    if let Some(tenant) = &arguments.tenant {
        Tenant::parse(tenant).map_err(|error| format!("--tenant {tenant:?}: {error}"))?;
    }
    for channel in &arguments.channels {
        Pattern::parse(channel).map_err(|error| format!("--channel {channel:?}: {error}"))?;
    }
    if arguments.expires.as_secs() == 0 {
        return Err("--expires: at least one second is allowed".into());
    }
    let mut allow = Vec::new();
    for word in &arguments.allow {
        if !allow.contains(word) {
            allow.push(*word);
        }
    }
    let exp = now.checked_add(arguments.expires).ok_or("--expires: so far ahead no clock reaches")?;
    let info = arguments.info.clone().map(RawValue::from_string).transpose();
    Ok(Claims {
        sub: arguments.sub.clone(),
        tenant: arguments.tenant.clone(),
        iat: now.as_secs(),
        exp: exp.as_secs(),
        iss: arguments.iss.clone(),
        aud: arguments.aud.clone(),
        info: info.map_err(|error| format!("--info is not JSON: {error}"))?,
        channels: arguments
            .channels
            .iter()
            .map(|channel| ChannelClaim { r#match: channel.clone(), allow: allow.clone() })
            .collect(),
    })
}

fn key(arguments: &Arguments) -> Result<EncodingKey, Failed> {
    let signature = arguments.algorithm;
    let pem = |make: fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>| {
        let file = arguments.secret_file.as_deref();
        let file =
            file.ok_or_else(|| Failed::usage(format!("{signature:?} needs --secret-file with a private key")))?;
        let refused = |error| Failed::usage(format!("{}: no private key for {signature:?}: {error}", file.display()));
        make(&read(file)?).map_err(refused)
    };
    match signature {
        Signature::HS256 | Signature::HS384 | Signature::HS512 => Ok(EncodingKey::from_secret(&secret(arguments)?)),
        Signature::RS256
        | Signature::RS384
        | Signature::RS512
        | Signature::PS256
        | Signature::PS384
        | Signature::PS512 => pem(EncodingKey::from_rsa_pem),
        Signature::ES256 | Signature::ES384 => pem(EncodingKey::from_ec_pem),
        Signature::EdDsa => pem(EncodingKey::from_ed_pem),
    }
}

/// The secret. A file's last line end is not part of it.
fn secret(arguments: &Arguments) -> Result<Vec<u8>, Failed> {
    let secret = match (&arguments.secret, &arguments.secret_file) {
        (Some(secret), None) => secret.clone().into_bytes(),
        (None, Some(file)) => {
            let mut secret = read(file)?;
            while matches!(secret.last(), Some(b'\n' | b'\r')) {
                secret.pop();
            }
            secret
        }
        (Some(_), Some(_)) => return Err(Failed::usage("a secret or a file with it, not both")),
        (None, None) => {
            let ways = "--secret-file, FANFARE_AUTH__HMAC_SECRET or --secret";
            return Err(Failed::usage(format!("a secret to sign with is missing: {ways}")));
        }
    };
    if secret.is_empty() { Err(Failed::usage("the secret is empty")) } else { Ok(secret) }
}

fn read(file: &Path) -> Result<Vec<u8>, Failed> {
    fs::read(file).map_err(|error| Failed::other(format!("{}: {error}", file.display())))
}

impl Signature {
    fn algorithm(self) -> Algorithm {
        match self {
            Self::HS256 => Algorithm::HS256,
            Self::HS384 => Algorithm::HS384,
            Self::HS512 => Algorithm::HS512,
            Self::RS256 => Algorithm::RS256,
            Self::RS384 => Algorithm::RS384,
            Self::RS512 => Algorithm::RS512,
            Self::PS256 => Algorithm::PS256,
            Self::PS384 => Algorithm::PS384,
            Self::PS512 => Algorithm::PS512,
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        arguments: Arguments,
    }

    const NOW: Duration = Duration::from_millis(1_000_500);

    fn claims_of(words: &[&str]) -> Result<String, String> {
        let words = ["token", "--secret", "s"].iter().chain(words);
        let only = Only::try_parse_from(words).map_err(|error| error.to_string())?;
        claims(&only.arguments, NOW).map(|claims| serde_json::to_string(&claims).unwrap())
    }

    #[test]
    fn the_claims_are_those_that_nodes_read() {
        assert_eq!(claims_of(&["--sub", "a"]).unwrap(), r#"{"sub":"a","iat":1000,"exp":4600}"#);
        let words = "--sub a --tenant acme --channel project:* --channel user:a --allow subscribe --allow publish \
                     --allow subscribe --expires 90s --iss i --aud b --info {\"n\":1.0}";
        assert_eq!(
            claims_of(&words.split_whitespace().collect::<Vec<_>>()).unwrap(),
            r#"{"sub":"a","tenant":"acme","iat":1000,"exp":1090,"iss":"i","aud":"b","info":{"n":1.0},"channels":[{"match":"project:*","allow":["subscribe","publish"]},{"match":"user:a","allow":["subscribe","publish"]}]}"#
        );
    }

    #[test]
    fn what_no_node_could_read_is_refused_with_what_is_allowed() {
        for (words, says) in [
            ("--sub a --channel *:b --allow subscribe", "never for the namespace"),
            ("--sub a --channel project:b* --allow subscribe", "wildcard"),
            ("--sub a --channel project:x.y --allow subscribe", "'.' is not allowed"),
            ("--sub a --channel project:b --allow all", "subscribe, publish, presence, history"),
            ("--sub a --channel project:b", "--allow"),
            ("--sub a --allow subscribe", "--channel"),
            ("--sub a --tenant x:y", "--tenant"),
            ("--sub a --expires 0s", "at least one second"),
            ("--sub a --expires soon", "--expires"),
            ("--sub a --info {", "--info is not JSON"),
            ("--sub a --algorithm none", "HS256"),
            ("--channel project:b --allow subscribe", "--sub"),
        ] {
            let error = claims_of(&words.split_whitespace().collect::<Vec<_>>()).unwrap_err();
            assert!(error.contains(says), "{words}: {error}");
        }
        assert!(claims_of(&["--sub", ""]).unwrap_err().contains("--sub is empty"));
    }
}
