//! What one key alone cannot tell: contradictions between keys, and keys that no token could be verified with.

use std::{net::SocketAddr, path::PathBuf};

use fanfare_broker::mask_url;

use super::{
    Config,
    build::Attempted,
    build_presence,
    reader::Reader,
    value::{show_duration, show_size},
};
use crate::{auth, origin::AllowedOrigins};

/// The URLs that a broker may have, for error texts.
pub(super) const BROKER_URLS: &str = "memory:, nats://host:4222, tls://host:4222 (several NATS servers separated by commas), redis://host:6379, rediss://host:6379, redis-sentinel://host:26379/SERVICE, rediss-sentinel://… (several sentinels separated by commas), redis-cluster://host:6379, rediss-cluster://… (any of its nodes, separated by commas)";

/// The fewest characters of an API key. 16 of base64 are 96 bits.
const API_KEY_CHARACTERS: usize = 16;

/// Notes every contradiction.
pub(super) fn contradictions(config: &Config, attempted: Attempted, reader: &mut Reader) {
    listeners(config, attempted, reader);
    authentication(config, attempted, reader);
    origins(config, reader);
    broker(config, reader);
    patterns(config, reader);
    sizes(config, reader);
    paths(config, reader);
    build_presence::contradictions(config, reader);
}

/// Whether a URL names a broker that exists, else what is allowed. In a list the first scheme holds for entries without one.
pub(super) fn broker_url(url: &str) -> Result<(), String> {
    let refused = || format!("must be one of {BROKER_URLS}");
    if url == "memory:" {
        return Ok(());
    }
    let (first, _) = url.split_once("://").ok_or_else(refused)?;
    if matches!(first, "redis-sentinel" | "rediss-sentinel" | "redis-cluster" | "rediss-cluster") {
        return fanfare_broker::check_url(url).map_err(|_| refused());
    }
    let entries: Vec<_> = url.split(',').map(str::trim).collect();
    for entry in &entries {
        let entry = if entry.contains("://") { (*entry).to_owned() } else { format!("{first}://{entry}") };
        let parsed = url::Url::parse(&entry).map_err(|_| refused())?;
        let nats = matches!(parsed.scheme(), "nats" | "tls") && matches!(first, "nats" | "tls");
        let redis = matches!(parsed.scheme(), "redis" | "rediss") && entries.len() == 1;
        if !(nats || redis) || parsed.host_str().is_none_or(str::is_empty) || parsed.query().is_some() {
            return Err(refused());
        }
    }
    Ok(())
}

/// Whether a broker's URL, right by itself, is one of NATS.
pub(super) fn is_nats(url: &str) -> bool {
    url.starts_with("nats:") || url.starts_with("tls:")
}

fn listeners(config: &Config, attempted: Attempted, reader: &mut Reader) {
    if config.listen == config.internal_listen && config.listen.port() != 0 {
        let text = format!("is also listen ({}); the two listeners need different addresses", config.listen);
        reader.contradiction("internal_listen", config.internal_listen, text);
    }
    if attempted.tokens || attempted.api_key {
        return;
    }
    let mut refuse = |key, address: SocketAddr| {
        if !address.ip().is_loopback() {
            let text = "without authentication only loopback is allowed (127.0.0.1, [::1]); configure auth.hmac_secret, \
                        auth.public_key_files, auth.keys or auth.jwks_url, and an API key (FANFARE_API_KEY)";
            reader.contradiction(key, address, text);
        }
    };
    refuse("listen", config.listen);
    refuse("internal_listen", config.internal_listen);
}

fn authentication(config: &Config, attempted: Attempted, reader: &mut Reader) {
    if !attempted.tokens && !config.auth.anonymous && (config.development || attempted.api_key) {
        let text = "no client could connect: configure auth.hmac_secret, auth.public_key_files, auth.keys or auth.jwks_url, \
                    or allow clients without a token with auth.anonymous = true";
        reader.contradiction("auth.anonymous", false, text);
    }
    let exposed = ![config.listen, config.internal_listen].iter().all(|address| address.ip().is_loopback());
    let weak = |reader: &mut Reader, origin: &str, text: String| {
        if exposed {
            reader.contradiction_masked(origin, text);
        } else {
            reader.warnings.push(format!("{origin}: {text}; it is taken because only loopback is served"));
        }
    };
    for key in &config.auth.keys {
        if let Some(error) = auth::check_key(key) {
            reader.contradiction_masked(&key.origin, error);
        } else if let Some(text) = auth::weakness(key) {
            weak(reader, &key.origin, text);
        }
    }
    let algorithms = &config.auth.policy.algorithms;
    if !algorithms.is_empty() && !attempted.tokens {
        let names = algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect::<Vec<_>>().join(", ");
        reader.contradiction("auth.algorithms", names, "no key is configured that could use them");
    }
    for (index, key) in config.api_keys.iter().enumerate() {
        let visible = key.expose().bytes().all(|byte| byte.is_ascii_graphic());
        let text = format!("key {} must be at least {API_KEY_CHARACTERS} visible ASCII characters", index + 1);
        if !visible {
            reader.contradiction_masked("api_keys", text);
        } else if key.expose().len() < API_KEY_CHARACTERS {
            weak(reader, "api_keys", text);
        }
    }
}

fn origins(config: &Config, reader: &mut Reader) {
    match config.origins.allowed() {
        AllowedOrigins::Any => {
            if let Some(cookie) = &config.auth.cookie {
                let text =
                    "a token in a cookie needs allowed_origins that lists them, not \"*\": any page could use it";
                reader.contradiction("auth.cookie", format!("{cookie:?}"), text);
            }
        }
        AllowedOrigins::Listed(listed) if config.development => {
            for origin in listed.iter().filter(|origin| !origin.is_loopback()) {
                let text = "in development mode (no authentication) only pages of this machine are allowed";
                reader.contradiction("allowed_origins", format!("{:?}", origin.as_str()), text);
            }
        }
        AllowedOrigins::Listed(_) | AllowedOrigins::SameHost => {}
    }
}

fn broker(config: &Config, reader: &mut Reader) {
    let broker = &config.broker;
    let url = broker.url.expose();
    let is = |schemes: &[&str]| schemes.iter().any(|scheme| url.starts_with(scheme));
    let (nats, redis) =
        (is_nats(url), is(&["redis:", "rediss:", "redis-sentinel:", "rediss-sentinel:"]) || is_redis_cluster(url));
    let options = [
        ("user", broker.user.is_some(), nats || redis, "NATS and Redis"),
        ("password", broker.password.is_some(), nats || redis, "NATS and Redis"),
        ("token", broker.token.is_some(), nats, "NATS"),
        ("nkey_seed", broker.nkey_seed.is_some(), nats, "NATS"),
        ("credentials_file", broker.credentials_file.is_some(), nats, "NATS"),
        ("tls_ca_file", broker.tls_ca_file.is_some(), nats || redis, "NATS and Redis"),
        ("tls_cert_file", broker.tls_cert_file.is_some(), nats || redis, "NATS and Redis"),
        ("tls_key_file", broker.tls_key_file.is_some(), nats || redis, "NATS and Redis"),
    ];
    for (name, given, fits, allowed) in options {
        if given && !fits {
            let text = format!("is only for {allowed}; broker is {}", mask_url(url));
            reader.contradiction_masked(&format!("broker_options.{name}"), text);
        }
    }
    let ways = [
        (broker.user.is_some() || broker.password.is_some(), "user and password"),
        (broker.token.is_some(), "token"),
        (broker.nkey_seed.is_some(), "nkey_seed"),
        (broker.credentials_file.is_some(), "credentials_file"),
        (url.contains('@'), "a user in the URL"),
    ];
    let given: Vec<_> = ways.iter().filter(|(given, _)| *given).map(|(_, name)| *name).collect();
    if given.len() > 1 {
        let text = format!("{} are given; one way to authenticate is allowed", given.join(" and "));
        reader.contradiction_masked("broker_options", text);
    }
    if broker.tls_cert_file.is_some() != broker.tls_key_file.is_some() {
        reader.contradiction_masked("broker_options", "tls_cert_file and tls_key_file must be given together");
    }
    let files = [
        ("credentials_file", &broker.credentials_file),
        ("tls_ca_file", &broker.tls_ca_file),
        ("tls_cert_file", &broker.tls_cert_file),
        ("tls_key_file", &broker.tls_key_file),
    ];
    files_can_be_read("broker_options", &files, reader);
}

/// Notes files of a table that cannot be read.
pub(super) fn files_can_be_read(table: &str, files: &[(&str, &Option<PathBuf>)], reader: &mut Reader) {
    for (name, path) in files {
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(path)
        {
            let text = format!("the file cannot be read: {error}");
            reader.contradiction(&format!("{table}.{name}"), format!("{path:?}"), text);
        }
    }
}

/// Whether a URL names a Redis Cluster.
pub(super) fn is_redis_cluster(url: &str) -> bool {
    ["redis-cluster:", "rediss-cluster:"].iter().any(|scheme| url.starts_with(scheme))
}

/// Sharded pub/sub knows no patterns.
fn patterns(config: &Config, reader: &mut Reader) {
    if !is_redis_cluster(config.broker.url.expose()) {
        return;
    }
    let mut refuse = |key: &str| {
        let text = "must be false with a Redis Cluster, which has no patterns; other brokers have them";
        reader.contradiction(key, true, text);
    };
    let namespaces = &config.namespaces;
    if namespaces.defaults.patterns {
        refuse("namespace_defaults.patterns");
    }
    for (name, namespace) in &namespaces.declared {
        // What is inherited is told once.
        if namespace.patterns && !namespaces.defaults.patterns {
            refuse(&format!("namespaces.{name}.patterns"));
        }
    }
}

fn sizes(config: &Config, reader: &mut Reader) {
    let limits = &config.limits;
    let publication = limits.publication_bytes;
    for (key, bytes) in [("limits.outbox_bytes", limits.outbox_bytes), ("limits.api_body_bytes", limits.api_body_bytes)]
    {
        if bytes < publication {
            let text = format!("must be at least limits.publication_bytes ({})", show_size(publication as u64));
            reader.contradiction(key, show_size(bytes as u64), text);
        }
    }
    // A recovery may be one publication of the largest kind, and the ring is filled by recoveries.
    let recovery = limits.recovery_bytes;
    if recovery < publication {
        let text = format!("must be at least limits.publication_bytes ({})", show_size(publication as u64));
        reader.contradiction("limits.recovery_bytes", show_size(recovery as u64), text);
    }
    if limits.ring_bytes < recovery {
        let text = format!("must be at least limits.recovery_bytes ({})", show_size(recovery as u64));
        reader.contradiction("limits.ring_bytes", show_size(limits.ring_bytes as u64), text);
    }
    if let Some(jwks) = &config.auth.jwks
        && jwks.max_age < jwks.refresh_min_interval
    {
        let text =
            format!("must be at least auth.jwks_refresh_min_interval ({})", show_duration(jwks.refresh_min_interval));
        reader.contradiction("auth.jwks_max_age", show_duration(jwks.max_age), text);
    }
}

fn paths(config: &Config, reader: &mut Reader) {
    if let Some(path) = config.paths.sse.iter().find(|path| config.paths.ws.contains(path)) {
        reader.contradiction("paths.sse", format!("{path:?}"), "is in paths.ws too; a path leads to one of them");
    }
}
