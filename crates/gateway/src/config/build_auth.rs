//! The keys of `[auth]`.

use std::{collections::BTreeSet, time::Duration};

use fanfare_protocol::Tenant;
use url::{Host, Url};

use super::reader::{Reader, as_text};
use crate::auth::{Algorithm, AuthConfig, JwksConfig, KeyConfig, KeyMaterial, TokenPolicy};

/// The names of all algorithms that can be configured; `none` is not among them.
const ALGORITHMS: &str = "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

pub(super) fn read(reader: &mut Reader, development: bool) -> AuthConfig {
    let mut keys = Vec::new();
    if let Some(secret) = reader.secret("auth.hmac_secret") {
        keys.push(key("auth.hmac_secret", KeyMaterial::Secret(secret)));
    }
    keys.extend(read_public_key_files(reader));
    keys.extend(read_keys(reader));
    AuthConfig {
        keys,
        jwks: read_jwks(reader),
        policy: read_policy(reader),
        anonymous: reader.flag("auth.anonymous", development),
        cookie: read_cookie(reader),
    }
}

fn key(origin: &str, material: KeyMaterial) -> KeyConfig {
    KeyConfig { origin: origin.into(), kid: None, algorithms: Vec::new(), material }
}

fn read_public_key_files(reader: &mut Reader) -> Vec<KeyConfig> {
    let Some(files) = reader.texts("auth.public_key_files") else { return Vec::new() };
    let mut keys = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let origin = format!("auth.public_key_files[{index}]");
        keys.extend(reader.read_file(&origin, file).map(|pem| key(&origin, KeyMaterial::Pem(pem))));
    }
    keys
}

/// `[[auth.keys]]`, which the reader has as `auth.keys[0]` and so on.
fn read_keys(reader: &mut Reader) -> Vec<KeyConfig> {
    if let Some(found) = reader.take("auth.keys")
        && found.value.as_array().is_none_or(|items| !items.is_empty())
    {
        reader.problem("auth.keys", Some(&found), "must be a list of tables: [[auth.keys]]");
    }
    let mut keys = Vec::new();
    while reader.has(&format!("auth.keys[{}]", keys.len())) {
        keys.push(read_key(reader, &format!("auth.keys[{}]", keys.len())));
    }
    reader.effective.gather("auth", "keys");
    keys.into_iter().flatten().collect()
}

fn read_key(reader: &mut Reader, origin: &str) -> Option<KeyConfig> {
    let kid = reader.text(&format!("{origin}.kid"));
    let algorithms = read_algorithms(reader, &format!("{origin}.algorithms"));
    let secret = reader.secret(&format!("{origin}.secret"));
    let inline = reader.text(&format!("{origin}.public_key"));
    let file_key = format!("{origin}.public_key_file");
    let file = reader.text(&file_key);
    let from_file = file.as_ref().and_then(|file| reader.read_file(&file_key, file));
    let material = match (secret, inline, file) {
        (Some(secret), None, None) => KeyMaterial::Secret(secret),
        (None, Some(pem), None) => KeyMaterial::Pem(pem),
        (None, None, Some(_)) => KeyMaterial::Pem(from_file?),
        _ => {
            let allowed = "exactly one of secret, secret_file, public_key and public_key_file must be given";
            reader.problem(origin, None, allowed);
            return None;
        }
    };
    Some(KeyConfig { origin: origin.into(), kid, algorithms, material })
}

fn read_algorithms(reader: &mut Reader, key: &str) -> Vec<Algorithm> {
    let allowed = format!("one of {ALGORITHMS}");
    reader.list(key, allowed, |name| name.parse().ok()).unwrap_or_default()
}

fn read_jwks(reader: &mut Reader) -> Option<JwksConfig> {
    let insecure = reader.flag("auth.jwks_allow_http", false);
    let day = Duration::from_secs(24 * 60 * 60);
    let refresh_min_interval = reader.duration(
        "auth.jwks_refresh_min_interval",
        Duration::from_secs(10),
        Duration::from_millis(10)..=Duration::from_secs(60 * 60),
    );
    let max_age =
        reader.duration("auth.jwks_max_age", Duration::from_secs(15 * 60), Duration::from_millis(10)..=30 * day);
    let allowed = "an https:// URL; http:// only on loopback, or with auth.jwks_allow_http = true";
    let url = reader.read("auth.jwks_url", None, allowed, |value| {
        let url = Url::parse(&as_text(value)?).ok()?;
        let plain = url.scheme() == "http" && (insecure || is_loopback(&url));
        (url.host().is_some() && (url.scheme() == "https" || plain)).then_some(Some(url))
    })?;
    // A password in it is not shown; it is sent as Basic authorization.
    reader.effective.set("auth.jwks_url", fanfare_broker::mask_url(url.as_str()));
    Some(JwksConfig { url, refresh_min_interval, max_age })
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn read_policy(reader: &mut Reader) -> TokenPolicy {
    let default = TokenPolicy::default();
    let tenants = reader
        .list("auth.tenants", "a tenant: one segment of A-Z a-z 0-9 _ - = @ + ~ ,", |name| Tenant::parse(name).ok());
    TokenPolicy {
        algorithms: read_algorithms(reader, "auth.algorithms"),
        issuers: reader.texts("auth.issuer").unwrap_or_default(),
        audiences: reader.texts("auth.audience").unwrap_or_default(),
        leeway: reader.duration("auth.leeway", default.leeway, Duration::ZERO..=Duration::from_secs(5 * 60)),
        require_exp: reader.flag("auth.require_exp", default.require_exp),
        tenants: tenants.unwrap_or_default().into_iter().collect::<BTreeSet<_>>(),
    }
}

fn read_cookie(reader: &mut Reader) -> Option<String> {
    let allowed = "a cookie's name (RFC 6265 section 4.1.1: letters, digits and !#$%&'*+-.^_`|~)";
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let cookie = reader
        .read("auth.cookie", None, allowed, |value| as_text(value).filter(|name| name.bytes().all(is_token)).map(Some));
    if let Some(cookie) = &cookie {
        reader.effective.set("auth.cookie", cookie.as_str());
    }
    cookie
}
