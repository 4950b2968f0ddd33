//! Every key of the configuration, read into its type. A key that is not read here does not exist.

use std::{collections::HashMap, net::SocketAddr, num::NonZeroUsize, thread, time::Duration};

use fanfare_broker::{Retention, mask_url};
use fanfare_protocol::Tenant;
use fanfare_session::{Access, LifecycleEvents, Namespace, NamespaceTable, SlowConsumer};

use super::{
    BrokerConfig, Config, Limits, LogConfig, LogFormat, Paths, Problems, Secret, Timeouts, build_auth, build_history,
    build_presence, check,
    reader::Reader,
    value::{is_url_path, parse_address},
};
use crate::origin::{AllowedOrigins, Origin, OriginPolicy};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: usize = 1024 * MIB;
/// The longest duration that any key takes.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Who may do something, by the word in the configuration. `service` comes with calls to services.
const SUBSCRIBE: [(&str, Access); 4] =
    [("anyone", Access::Anyone), ("token", Access::Token), ("owner", Access::Owner), ("none", Access::None)];
const PUBLISH: [(&str, Access); 5] = [
    ("none", Access::None),
    ("anyone", Access::Anyone),
    ("token", Access::Token),
    ("owner", Access::Owner),
    ("subscribers", Access::Subscribers),
];

const SLOW_CONSUMER: [(&str, SlowConsumer); 2] =
    [("disconnect", SlowConsumer::Disconnect), ("conflate", SlowConsumer::Conflate)];

/// What services may be told of connections.
const CONNECTION_EVENTS: [(&str, LifecycleEvents); 2] =
    [("connected", LifecycleEvents::CONNECTED), ("disconnected", LifecycleEvents::DISCONNECTED)];
/// What services may be told of a namespace's channels.
pub(super) const CHANNEL_EVENTS: [(&str, LifecycleEvents); 4] = [
    ("subscribed", LifecycleEvents::SUBSCRIBED),
    ("unsubscribed", LifecycleEvents::UNSUBSCRIBED),
    ("occupied", LifecycleEvents::OCCUPIED),
    ("vacated", LifecycleEvents::VACATED),
];

/// Reads all keys, then checks them against each other.
pub(super) fn build(mut reader: Reader) -> Result<Config, Problems> {
    let (config, attempted) = read(&mut reader);
    reader.finish();
    // Contradictions between values that are themselves wrong would only repeat what is said already.
    check::contradictions(&config, attempted, &mut reader);
    if reader.problems.is_empty() {
        Ok(Config { effective: reader.effective, warnings: reader.warnings, ..config })
    } else {
        reader.problems.sort_by(|a, b| a.key.cmp(&b.key));
        reader.problems.dedup();
        Err(Problems(reader.problems))
    }
}

/// Keys that authenticate someone. As soon as one of them is given, right or wrong, this is not development mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempted {
    pub(super) tokens: bool,
    pub(super) api_key: bool,
}

fn read(reader: &mut Reader) -> (Config, Attempted) {
    let attempted = Attempted {
        tokens: ["hmac_secret", "hmac_secret_file", "public_key_files", "jwks_url", "keys", "keys[0]"]
            .iter()
            .any(|name| reader.has(&format!("auth.{name}"))),
        api_key: ["api_key", "api_key_file", "api_keys", "api_keys_file"].iter().any(|name| reader.has(name)),
    };
    let listen = read_address(reader, "listen", 8000);
    let internal_listen = read_address(reader, "internal_listen", 9000);
    let loopback = listen.ip().is_loopback() && internal_listen.ip().is_loopback();
    let development = loopback && !attempted.tokens && !attempted.api_key;
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let shards = match reader.count("shards", 0, 0..=256) {
        0 => cores,
        shards => shards,
    };
    let broker = read_broker(reader, development);
    let patterns = !check::is_redis_cluster(broker.url.expose());
    let (namespaces, retentions) = read_namespaces(reader, development, patterns);
    let config = Config {
        node: build_presence::read_node(reader),
        store: build_presence::read_store(reader, &broker),
        presence: build_presence::read_presence(reader),
        events: read_events(reader, "events", LifecycleEvents::NONE, &CONNECTION_EVENTS),
        auto_subscribe: build_presence::read_auto_subscribe(reader),
        listen,
        internal_listen,
        history: build_history::read(reader, retentions, broker.url.expose()),
        broker,
        shards,
        prefix: read_prefix(reader),
        paths: read_paths(reader),
        origins: read_origins(reader, development),
        api_keys: read_api_keys(reader),
        auth: build_auth::read(reader, development),
        namespaces,
        limits: read_limits(reader),
        timeouts: read_timeouts(reader),
        compression: reader.flag("compression", true),
        log: read_log(reader),
        development,
        effective: Default::default(),
        warnings: Vec::new(),
    };
    (config, attempted)
}

fn read_address(reader: &mut Reader, key: &str, port: u16) -> SocketAddr {
    let default = SocketAddr::from(([127, 0, 0, 1], port));
    let allowed = "an address with a port, such as 127.0.0.1:8000, 0.0.0.0:8000 or [::1]:8000; port 0 picks a free one";
    let address = reader.read(key, default, allowed, |value| parse_address(value.as_str()?));
    reader.effective.set(key, address.to_string());
    address
}

fn read_broker(reader: &mut Reader, development: bool) -> BrokerConfig {
    let url = match reader.take("broker") {
        Some(found) => {
            let url = found.value.as_str().unwrap_or_default().to_owned();
            if let Err(allowed) = check::broker_url(&url) {
                reader.problem_with("broker", format!("{:?}", mask_url(&url)), &found, allowed);
            }
            url
        }
        None => {
            if !development {
                reader.problem("broker", None, format_args!("is required; allowed are {}", check::BROKER_URLS));
            }
            "memory:".into()
        }
    };
    reader.effective.set("broker", mask_url(&url));
    BrokerConfig {
        url: Secret::new(url),
        user: reader.text("broker_options.user"),
        password: reader.secret("broker_options.password"),
        token: reader.secret("broker_options.token"),
        nkey_seed: reader.secret("broker_options.nkey_seed"),
        credentials_file: reader.path("broker_options.credentials_file"),
        tls_ca_file: reader.path("broker_options.tls_ca_file"),
        tls_cert_file: reader.path("broker_options.tls_cert_file"),
        tls_key_file: reader.path("broker_options.tls_key_file"),
    }
}

fn read_prefix(reader: &mut Reader) -> String {
    let allowed = "one segment: 1 to 64 of A-Z a-z 0-9 _ - = @ + ~ ,";
    let prefix = reader.read("prefix", "rt".to_owned(), allowed, |value| {
        let prefix = value.as_str()?;
        Tenant::parse(prefix).is_ok().then(|| prefix.to_owned())
    });
    reader.effective.set("prefix", prefix.as_str());
    prefix
}

fn read_paths(reader: &mut Reader) -> Paths {
    let allowed = "a path such as \"/ws\", without query, of letters, digits and -._~!$&'()*+,;=:@";
    let mut read = |key: &str, default: Vec<String>| {
        let paths = reader.list(key, allowed, |path| is_url_path(path).then(|| path.to_owned()));
        let paths = paths.unwrap_or(default);
        reader.effective.set(key, paths.clone());
        paths
    };
    let Paths { ws, sse } = Paths::default();
    Paths { ws: read("paths.ws", ws), sse: read("paths.sse", sse) }
}

fn read_origins(reader: &mut Reader, development: bool) -> OriginPolicy {
    let allowed = "an origin such as \"https://app.example\" (scheme, host and port, no path), or \"*\" for any";
    let origins = reader.list("allowed_origins", allowed, |text| match text {
        "*" => Some(None),
        _ => Origin::parse(text).ok().map(Some),
    });
    let allowed = match origins {
        None => AllowedOrigins::SameHost,
        Some(origins) if origins.is_empty() => AllowedOrigins::SameHost,
        Some(origins) => match origins.iter().cloned().collect::<Option<Vec<_>>>() {
            Some(listed) => AllowedOrigins::Listed(listed),
            None => AllowedOrigins::Any,
        },
    };
    if allowed == AllowedOrigins::SameHost {
        reader.effective.set("allowed_origins", Vec::<String>::new());
    }
    OriginPolicy::new(allowed, development)
}

fn read_api_keys(reader: &mut Reader) -> Vec<Secret> {
    let mut keys = reader.secrets("api_keys");
    keys.extend(reader.secret("api_key"));
    keys
}

/// What is retained, by namespace.
type Retentions = HashMap<Box<str>, Retention>;

/// `patterns`: whether the broker knows patterns.
fn read_namespaces(reader: &mut Reader, development: bool, patterns: bool) -> (NamespaceTable, Retentions) {
    let built_in = match development {
        // So that the first two commands that anyone tries just work. Nothing beyond loopback is reachable then.
        true => Namespace {
            subscribe: Access::Anyone,
            publish: Access::Anyone,
            signal: Access::Anyone,
            patterns,
            ..Namespace::default()
        },
        false => Namespace::default(),
    };
    let defaults = read_namespace(reader, "namespace_defaults", built_in);
    build_history::refuse_for_all(reader);
    let (mut declared, mut retentions) = (HashMap::new(), HashMap::new());
    for name in reader.names("namespaces") {
        let key = format!("namespaces.{name}");
        let namespace = read_namespace(reader, &key, defaults);
        let retention = build_history::read_retention(reader, &key);
        if let Err(reason) = Tenant::parse(&name) {
            reader.problem(&key, None, format_args!("is no name for a namespace: {reason}"));
            continue;
        }
        let name: Box<str> = name.into();
        if let Some(retention) = retention {
            retentions.insert(name.clone(), retention);
        }
        declared.insert(name, Namespace { history: retention.is_some(), ..namespace });
    }
    let mut namespaces = NamespaceTable { declared, defaults };
    build_presence::reserve(&mut namespaces, reader);
    (namespaces, retentions)
}

fn read_namespace(reader: &mut Reader, key: &str, defaults: Namespace) -> Namespace {
    Namespace {
        subscribe: reader.choice(&format!("{key}.subscribe"), defaults.subscribe, &SUBSCRIBE),
        publish: reader.choice(&format!("{key}.publish"), defaults.publish, &PUBLISH),
        patterns: reader.flag(&format!("{key}.patterns"), defaults.patterns),
        slow_consumer: reader.choice(&format!("{key}.slow_consumer"), defaults.slow_consumer, &SLOW_CONSUMER),
        history: false,
        presence: reader.flag(&format!("{key}.presence"), defaults.presence),
        signal: reader.choice(&format!("{key}.signal"), defaults.signal, &PUBLISH),
        events: read_events(reader, &format!("{key}.events"), defaults.events, &CHANNEL_EVENTS),
    }
}

/// A list of words, each an event.
fn read_events(
    reader: &mut Reader,
    key: &str,
    default: LifecycleEvents,
    words: &[(&'static str, LifecycleEvents)],
) -> LifecycleEvents {
    let allowed = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
    let one = |word: &str| words.iter().find(|(name, _)| *name == word).map(|(_, event)| *event);
    let events = match reader.list(key, allowed, one) {
        Some(events) => events.into_iter().fold(LifecycleEvents::NONE, LifecycleEvents::union),
        None => default,
    };
    let words: Vec<_> = words.iter().filter(|(_, event)| events.contains(*event)).map(|(word, _)| *word).collect();
    reader.effective.set(key, words);
    events
}

fn read_limits(reader: &mut Reader) -> Limits {
    let default = Limits::default();
    let malformed = reader.count("limits.malformed_frames", default.malformed_frames as usize, 1..=1_000_000);
    Limits {
        connections: reader.count("limits.connections", default.connections, 1..=10_000_000),
        channels: reader.count("limits.channels", default.channels, 1..=100_000_000),
        subscriptions: reader.count("limits.subscriptions", default.subscriptions, 1..=1_000_000),
        pending_commands: reader.count("limits.pending_commands", default.pending_commands, 1..=100_000),
        malformed_frames: u32::try_from(malformed).unwrap_or(u32::MAX),
        outbox_bytes: reader.size("limits.outbox_bytes", default.outbox_bytes, 16 * KIB..=256 * MIB),
        outbox_frames: reader.count("limits.outbox_frames", default.outbox_frames, 16..=1_000_000),
        message_bytes: reader.size("limits.message_bytes", default.message_bytes, KIB..=64 * MIB),
        publication_bytes: reader.size("limits.publication_bytes", default.publication_bytes, KIB..=64 * MIB),
        shard_inbox: reader.count("limits.shard_inbox", default.shard_inbox, 64..=1_000_000),
        notsent_lowat_bytes: reader.size("limits.notsent_lowat_bytes", default.notsent_lowat_bytes, 4 * KIB..=16 * MIB),
        api_body_bytes: reader.size("limits.api_body_bytes", default.api_body_bytes, KIB..=256 * MIB),
        api_batch: reader.count("limits.api_batch", default.api_batch, 1..=100_000),
        recovery_publications: reader.count("limits.recovery_publications", default.recovery_publications, 1..=100_000),
        recovery_bytes: reader.size("limits.recovery_bytes", default.recovery_bytes, 16 * KIB..=256 * MIB),
        ring_bytes: reader.size("limits.ring_bytes", default.ring_bytes, 16 * KIB..=64 * GIB),
        history_reads: reader.count("limits.history_reads", default.history_reads, 1..=1_024),
        presence_info_bytes: reader.size("limits.presence_info_bytes", default.presence_info_bytes, 2..=64 * KIB),
        presence_page: reader.count("limits.presence_page", default.presence_page, 1..=100_000),
        presence_updates_per_second: rate(
            reader,
            "limits.presence_updates_per_second",
            default.presence_updates_per_second,
        ),
        signals_per_second: rate(reader, "limits.signals_per_second", default.signals_per_second),
    }
}

/// How often per second.
fn rate(reader: &mut Reader, key: &str, default: u32) -> u32 {
    u32::try_from(reader.count(key, default as usize, 1..=100_000)).unwrap_or(u32::MAX)
}

fn read_timeouts(reader: &mut Reader) -> Timeouts {
    let default = Timeouts::default();
    let least = Duration::from_millis(10);
    let mut from = |key, value, least| reader.duration(key, value, least..=LONGEST);
    Timeouts {
        handshake: from("timeouts.handshake", default.handshake, least),
        connect: from("timeouts.connect", default.connect, least),
        ping_interval: from("timeouts.ping_interval", default.ping_interval, least),
        pong: from("timeouts.pong", default.pong, least),
        token_expiring: from("timeouts.token_expiring", default.token_expiring, Duration::ZERO),
        linger: from("timeouts.linger", default.linger, Duration::ZERO),
        position_check: from("timeouts.position_check", default.position_check, least),
        idle: from("timeouts.idle", default.idle, least),
        signal: from("timeouts.signal", default.signal, least),
        shutdown: from("timeouts.shutdown", default.shutdown, Duration::ZERO),
    }
}

fn read_log(reader: &mut Reader) -> LogConfig {
    let default = LogConfig::default();
    let allowed = "error, warn, info, debug or trace, or directives such as \"info,fanfare_gateway=debug\"";
    let level = reader.read("log.level", default.level, allowed, |value| {
        let level = value.as_str().filter(|level| !level.is_empty())?;
        tracing_subscriber::EnvFilter::try_new(level).ok().map(|_| level.to_owned())
    });
    reader.effective.set("log.level", level.as_str());
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogConfig { level, format: reader.choice("log.format", default.format, &words) }
}

/// Every key that is read, with one namespace and one entry of `auth.keys` as examples.
#[cfg(test)]
pub(super) fn known_keys() -> Vec<String> {
    use figment::{
        Figment, Provider as _,
        providers::{Format as _, Toml},
    };
    let figment = Figment::from(Toml::string("[namespaces.example]\n[[auth.keys]]"));
    let values = figment.data().unwrap().remove(&figment::Profile::Default).unwrap();
    let mut reader = Reader::new(figment, values);
    read(&mut reader);
    reader.known().iter().cloned().collect()
}
