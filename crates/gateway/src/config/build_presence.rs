//! Who is there, and what is told of it: `store`, `[presence]`, `events`, `auto_subscribe`.

use std::{fs, time::Duration};

use fanfare_broker::mask_url;
use fanfare_session::{Access, ChannelTemplate, Namespace, NamespaceTable};

use super::{
    BrokerConfig, Config, PresenceConfig, Secret, StoreConfig, check,
    reader::Reader,
    value::{is_node_name, show_duration},
};
use crate::presence::connections;

/// The URLs that a store may have, for error texts.
const STORE_URLS: &str = "memory:, redis://host:6379, rediss://host:6379, redis-sentinel://host:26379/SERVICE, rediss-sentinel://… (several sentinels separated by commas), redis-cluster://host:6379, rediss-cluster://… (any of its nodes, separated by commas)";

/// Keys that say how a node authenticates at the store.
const OPTIONS: [&str; 6] = ["user", "password", "password_file", "tls_ca_file", "tls_cert_file", "tls_key_file"];

/// Channels that each connection is subscribed to when it connects.
const AUTO_SUBSCRIBE: usize = 100;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Reads `node`.
pub(super) fn read_node(reader: &mut Reader) -> String {
    let allowed = "1 to 64 of A-Z a-z 0-9 _ - .";
    let node = reader.read("node", None, allowed, |value| {
        let name = value.as_str()?;
        is_node_name(name).then(|| Some(name.to_owned()))
    });
    let node = node.unwrap_or_else(host_name);
    reader.effective.set("node", node.as_str());
    node
}

/// The name of this host, with what a node's name may not hold written as `_`.
fn host_name() -> String {
    // What `hostname` prints: on Linux, and in containers there.
    let name =
        ["/proc/sys/kernel/hostname", "/etc/hostname"].into_iter().find_map(|path| fs::read_to_string(path).ok());
    let name: String = name
        .unwrap_or_default()
        .trim()
        .chars()
        .map(|char| if is_node_name(char.encode_utf8(&mut [0; 4])) { char } else { '_' })
        .take(64)
        .collect();
    if name.is_empty() { "node".into() } else { name }
}

/// Reads `store` and `[store_options]`. Where there is no store of its own, a broker that can be one is it.
pub(super) fn read_store(reader: &mut Reader, broker: &BrokerConfig) -> Option<StoreConfig> {
    let given: Vec<_> = OPTIONS.iter().filter(|name| reader.has(&format!("store_options.{name}"))).collect();
    let url = reader.take("store").map(|found| {
        let url = found.value.as_str().unwrap_or_default().to_owned();
        if check::is_nats(&url) || check::broker_url(&url).is_err() {
            reader.problem_with(
                "store",
                format!("{:?}", mask_url(&url)),
                &found,
                format!("must be one of {STORE_URLS}"),
            );
        }
        url
    });
    let options = StoreConfig {
        url: Secret::new(url.as_deref().unwrap_or_default()),
        user: reader.text("store_options.user"),
        password: reader.secret("store_options.password"),
        tls_ca_file: reader.path("store_options.tls_ca_file"),
        tls_cert_file: reader.path("store_options.tls_cert_file"),
        tls_key_file: reader.path("store_options.tls_key_file"),
    };
    let store = match url {
        // As whom is said once where it is the same place.
        Some(url) if given.is_empty() && url == broker.url.expose() => Some(StoreConfig::from(broker)),
        Some(_) => Some(options),
        None => {
            if let Some(name) = given.first() {
                let text = "is for the store, but store is not given; the broker's options are broker_options";
                reader.contradiction_masked(&format!("store_options.{name}"), text);
            }
            (!check::is_nats(broker.url.expose())).then(|| StoreConfig::from(broker))
        }
    };
    if let Some(store) = &store {
        reader.effective.set("store", mask_url(store.url.expose()));
    }
    store
}

/// Reads `[presence]`.
pub(super) fn read_presence(reader: &mut Reader) -> PresenceConfig {
    let default = PresenceConfig::default();
    PresenceConfig {
        lease: reader.duration("presence.lease", default.lease, SECOND..=10 * MINUTE),
        grace: reader.duration("presence.grace", default.grace, Duration::ZERO..=10 * MINUTE),
        batch: reader.duration("presence.batch", default.batch, Duration::from_millis(10)..=10 * SECOND),
        max_named: reader.count("presence.max_named", default.max_named, 1..=100_000),
        connections: reader.flag("presence.connections", default.connections),
    }
}

/// A namespace that is the node's own: nobody may do anything there, and no channel of a client has members there.
pub(super) fn reserve(namespaces: &mut NamespaceTable, reader: &mut Reader) {
    let own =
        Namespace { subscribe: Access::None, publish: Access::None, signal: Access::None, ..Namespace::default() };
    if namespaces.declared.insert(connections::NAMESPACE.into(), own).is_some() {
        let key = format!("namespaces.{}", connections::NAMESPACE);
        reader.problem(&key, None, "is the node's own; see presence.connections");
    }
}

/// Reads `auto_subscribe`.
pub(super) fn read_auto_subscribe(reader: &mut Reader) -> Vec<ChannelTemplate> {
    let allowed = "a channel such as \"news:all\", or one with {sub} for a whole segment behind the namespace, such as \"user:{sub}\"";
    let templates =
        reader.list("auto_subscribe", allowed, |text| ChannelTemplate::parse(text).ok()).unwrap_or_default();
    let texts: Vec<_> = templates.iter().map(ChannelTemplate::as_str).collect();
    reader.effective.set("auto_subscribe", texts);
    templates
}

/// What `store`, `[presence]`, `events` and `auto_subscribe` contradict.
pub(super) fn contradictions(config: &Config, reader: &mut Reader) {
    store(config, reader);
    presence(config, reader);
    events(config, reader);
    auto_subscribe(config, reader);
}

fn store(config: &Config, reader: &mut Reader) {
    let Some(store) = &config.store else { return };
    let url = store.url.expose();
    // Those of the broker are checked as the broker's.
    if url == config.broker.url.expose() {
        return;
    }
    let options = [
        ("user", store.user.is_some()),
        ("password", store.password.is_some()),
        ("tls_ca_file", store.tls_ca_file.is_some()),
        ("tls_cert_file", store.tls_cert_file.is_some()),
        ("tls_key_file", store.tls_key_file.is_some()),
    ];
    for (name, _) in options.iter().filter(|(_, given)| *given && url == "memory:") {
        reader.contradiction_masked(&format!("store_options.{name}"), "is only for Redis; store is memory:");
    }
    if (store.user.is_some() || store.password.is_some()) && url.contains('@') {
        let text = "user and password and a user in the URL are given; one way to authenticate is allowed";
        reader.contradiction_masked("store_options", text);
    }
    if store.tls_cert_file.is_some() != store.tls_key_file.is_some() {
        reader.contradiction_masked("store_options", "tls_cert_file and tls_key_file must be given together");
    }
    let files = [
        ("tls_ca_file", &store.tls_ca_file),
        ("tls_cert_file", &store.tls_cert_file),
        ("tls_key_file", &store.tls_key_file),
    ];
    check::files_can_be_read("store_options", &files, reader);
}

fn presence(config: &Config, reader: &mut Reader) {
    let PresenceConfig { lease, grace, .. } = config.presence;
    if grace > lease {
        let text = format!(
            "must be at most presence.lease ({}): a node that goes away shortens its lease to the grace",
            show_duration(lease)
        );
        reader.contradiction("presence.grace", show_duration(grace), text);
    }
    let namespaces = &config.namespaces;
    let mut with: Vec<_> = namespaces
        .declared
        .iter()
        .filter(|(_, namespace)| namespace.presence)
        .map(|(name, _)| format!("namespaces.{name}.presence"))
        .collect();
    with.sort();
    if namespaces.defaults.presence {
        // What is inherited is told once.
        with = vec!["namespace_defaults.presence".into()];
    }
    if config.presence.connections {
        with.push("presence.connections".into());
    }
    let Some(first) = with.first() else { return };
    let broker = mask_url(config.broker.url.expose());
    match &config.store {
        None => {
            let text = format!(
                "needs a store, and broker is {broker}, which is none; give store (--presence, FANFARE_STORE): {STORE_URLS}"
            );
            reader.contradiction(first, true, text);
        }
        Some(store) if store.url.expose() == "memory:" && config.broker.url.expose() != "memory:" => {
            let text = format!(
                "store: memory: knows the members of this node alone; with broker {broker} other nodes' are not seen"
            );
            reader.warnings.push(text);
        }
        Some(_) => {}
    }
}

/// Nobody knows when a channel without presence is occupied.
fn events(config: &Config, reader: &mut Reader) {
    let namespaces = &config.namespaces;
    let declared = namespaces.declared.iter().map(|(name, namespace)| (format!("namespaces.{name}"), namespace));
    let mut all: Vec<_> = declared.chain([("namespace_defaults".into(), &namespaces.defaults)]).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, namespace) in all {
        for (word, event) in super::build::CHANNEL_EVENTS {
            let needs_presence = word == "occupied" || word == "vacated";
            if needs_presence && namespace.events.contains(event) && !namespace.presence {
                let text = "needs presence = true: without it nobody knows who is on a channel in the whole cluster";
                reader.contradiction(&format!("{key}.events"), format!("{word:?}"), text);
            }
        }
    }
}

fn auto_subscribe(config: &Config, reader: &mut Reader) {
    let count = config.auto_subscribe.len();
    let most = AUTO_SUBSCRIBE.min(config.limits.subscriptions);
    if count > most {
        let text = format!("must be at most {most} ({AUTO_SUBSCRIBE}, and limits.subscriptions)");
        reader.contradiction("auto_subscribe", format_args!("{count} channels"), text);
    }
    for template in &config.auto_subscribe {
        let namespace = template.as_str().split(':').next().unwrap_or_default();
        if config.namespaces.get(namespace).subscribe == Access::None {
            let text = format!("no client may subscribe to channels of namespace {namespace:?} (subscribe = \"none\")");
            reader.contradiction("auto_subscribe", format!("{:?}", template.as_str()), text);
        }
    }
}

impl From<&BrokerConfig> for StoreConfig {
    fn from(broker: &BrokerConfig) -> Self {
        Self {
            url: broker.url.clone(),
            user: broker.user.clone(),
            password: broker.password.clone(),
            tls_ca_file: broker.tls_ca_file.clone(),
            tls_cert_file: broker.tls_cert_file.clone(),
            tls_key_file: broker.tls_key_file.clone(),
        }
    }
}
