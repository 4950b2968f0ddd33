//! `store`, `[presence]`, and what namespaces say of members, signals and events.

use super::*;

const STORES: &str = "memory:, redis://host:6379, rediss://host:6379, redis-sentinel://host:26379/SERVICE, rediss-sentinel://… (several sentinels separated by commas), redis-cluster://host:6379, rediss-cluster://… (any of its nodes, separated by commas)";

fn store(config: &Config) -> Option<(String, Option<String>)> {
    config.store_options().map(|options| (options.url, options.password))
}

#[test]
fn nothing_of_it_is_on_unless_asked_for() {
    let config = load(&production(""), &[]).unwrap();
    assert_eq!(config.presence, PresenceConfig::default());
    assert!(config.store.is_none() && config.store_options().is_none() && config.auto_subscribe.is_empty());
    assert_eq!(config.events, LifecycleEvents::NONE);
    let namespace = config.namespaces.get("crew");
    assert_eq!((namespace.presence, namespace.signal), (false, Access::None));
    assert_eq!(namespace.events, LifecycleEvents::NONE);
    // In development mode everybody may signal, as everybody may publish.
    assert_eq!(load("", &[]).unwrap().namespaces.get("crew").signal, Access::Anyone);
    assert!(!config.node.is_empty() && value::is_node_name(&config.node), "{}", config.node);
}

#[test]
fn a_namespace_says_what_is_kept_and_told_of_its_channels() {
    let toml = production(
        "events = [\"connected\"]\nnode = \"gate-1.eu\"\nauto_subscribe = [\"user:{sub}\", \"news:all\"]\nstore = \"redis://r\"\n\
         [presence]\nlease = \"6s\"\ngrace = \"6s\"\nbatch = \"50ms\"\nmax_named = 20\n\
         [namespace_defaults]\nevents = [\"subscribed\"]\n\
         [namespaces.crew]\npresence = true\nsignal = \"subscribers\"\nevents = [\"occupied\", \"vacated\"]\n[namespaces.quiet]\nevents = []\n[namespaces.other]",
    );
    let config = load(&toml, &[("FANFARE_NAMESPACES__LOBBY__PRESENCE", "true")]).unwrap();
    assert_eq!((config.node.as_str(), config.events), ("gate-1.eu", LifecycleEvents::CONNECTED));
    let templates: Vec<_> = config.auto_subscribe.iter().map(|template| template.as_str()).collect();
    assert_eq!(templates, ["user:{sub}", "news:all"]);
    let seconds = Duration::from_secs;
    let expected = PresenceConfig {
        lease: seconds(6),
        grace: seconds(6),
        batch: Duration::from_millis(50),
        max_named: 20,
        connections: false,
    };
    assert_eq!(config.presence, expected);
    let crew = config.namespaces.get("crew");
    assert_eq!((crew.presence, crew.signal), (true, Access::Subscribers));
    assert_eq!(crew.events, LifecycleEvents::OCCUPIED.union(LifecycleEvents::VACATED));
    assert!(config.namespaces.get("lobby").presence && !config.namespaces.get("other").presence);
    assert_eq!(config.namespaces.get("quiet").events, LifecycleEvents::NONE);
    assert_eq!(config.namespaces.get("other").events, LifecycleEvents::SUBSCRIBED);
    // What is printed is a configuration.
    let printed = config.to_toml();
    assert!(printed.contains("events = [\n    \"occupied\",\n    \"vacated\",\n]"), "{printed}");
    let usable = printed.replacen("\"***\"", &format!("\"{API_KEY}\""), 1).replace("\"***\"", &format!("\"{SECRET}\""));
    assert_eq!(load(&usable, &[]).unwrap().to_toml(), printed);
}

#[test]
fn the_store_is_the_broker_unless_that_cannot_be_one() {
    let presence = |more: &str| production(&format!("{more}\n[namespaces.crew]\npresence = true"));
    let url = |config: &Config| store(config).map(|(url, _)| url);
    assert_eq!(
        problems(&presence(""), &[]),
        [format!(
            "namespaces.crew.presence = true: needs a store, and broker is nats://nats:4222, which is none; give store (--presence, FANFARE_STORE): {STORES}"
        )]
    );
    let stored = load(&presence(""), &[("FANFARE_STORE", "redis://:hidden@store")]).unwrap();
    assert_eq!(url(&stored).as_deref(), Some("redis://:hidden@store"));
    assert!(!stored.to_toml().contains("hidden") && stored.to_toml().contains("store = \"redis://***@store\""));
    assert!(!format!("{stored:?}").contains("hidden"));
    // The broker's, with its options.
    let redis = presence("").replace("nats://nats:4222", "redis://redis") + "[broker_options]\npassword = \"pw\"";
    let own = ("redis://redis".to_owned(), Some("pw".to_owned()));
    assert_eq!(store(&load(&redis, &[]).unwrap()), Some(own.clone()));
    assert_eq!(store(&load(&redis, &[("FANFARE_STORE", "redis://redis")]).unwrap()), Some(own));
    // Another one, with its own.
    let other = format!("{redis}\n[store_options]\nuser = \"node\"\npassword = \"other\"");
    let other = load(&other, &[("FANFARE_STORE", "redis-cluster://a,b:1")]).unwrap();
    assert_eq!(store(&other), Some(("redis-cluster://a,b:1".into(), Some("other".into()))));
    assert_eq!(url(&load("[namespaces.crew]\npresence = true", &[]).unwrap()).as_deref(), Some("memory:"));
    // Nobody asks it where nobody is a member.
    assert!(load("", &[("FANFARE_STORE", "redis://store")]).unwrap().store_options().is_none());
    let alone = load(&presence("store = \"memory:\""), &[]).unwrap();
    assert_eq!(
        alone.warnings,
        ["store: memory: knows the members of this node alone; with broker nats://nats:4222 other nodes' are not seen"]
    );
}

#[test]
fn where_users_are_connected_is_kept_apart_from_all_that_clients_can_name() {
    let text = "namespaces.=connections: is the node's own; see presence.connections";
    assert_eq!(problems("[namespaces.\"=connections\"]\npresence = true", &[]), [text]);
    let config = load("[namespace_defaults]\npresence = true\n[presence]\nconnections = true", &[]).unwrap();
    let own = config.namespaces.get("=connections");
    assert_eq!((own.subscribe, own.publish, own.signal), (Access::None, Access::None, Access::None));
    assert!(!own.presence && !own.patterns && !own.history && own.events.is_empty());
    assert!(!config.to_toml().contains("=connections"));
    // It needs a store as channels do, and is enough to open it.
    let alone = production("[presence]\nconnections = true");
    assert!(problems(&alone, &[])[0].starts_with("presence.connections = true: needs a store, "));
    assert!(load(&alone, &[("FANFARE_STORE", "redis://r")]).unwrap().store_options().is_some());
}

#[test]
fn the_broker_is_told_what_it_has_to_prepare() {
    let options = |toml: &str| fanfare_broker::BrokerOptions::from(&load(&production(toml), &[]).unwrap());
    let nothing = options("");
    assert!(nothing.signals.is_empty() && !nothing.tells);
    let signals =
        options("[namespace_defaults]\nsignal = \"token\"\n[namespaces.crew]\n[namespaces.quiet]\nsignal = \"none\"");
    assert_eq!(signals.signals.into_iter().collect::<Vec<_>>(), [Box::<str>::from("crew")]);
    for events in ["events = [\"disconnected\"]", "[namespaces.a]\nevents = [\"subscribed\"]"] {
        assert!(options(events).tells, "{events}");
    }
}

#[test]
fn the_flag_is_called_presence() {
    let inputs = Inputs {
        environment: vec![("FANFARE_STORE".into(), "redis://variable".into())],
        overrides: Overrides { presence: Some("redis://flag".into()), ..Overrides::default() },
        ..Inputs::default()
    };
    assert_eq!(Config::load(&inputs).unwrap().store.unwrap().url.expose(), "redis://flag");
}

#[test]
fn what_is_wrong_is_told_with_what_is_allowed() {
    let toml = r#"
        store = "nats://user:hidden@nats"
        node = "a b"
        events = ["connected", "subscribed"]
        auto_subscribe = ["user:{sub}", "user:{name}", "project:*", "{sub}:a"]
        [presence]
        lease = "500ms"
        grace = 5
        batch = "1m"
        max_named = 0
        linger = "1s"
        [limits]
        presence_info_bytes = "1MiB"
        presence_page = 0
        presence_updates_per_second = 0
        signals_per_second = "often"
        [timeouts]
        idle = "never"
        signal = "0s"
        [namespaces.crew]
        presence = { grace = "1s" }
        signal = "service"
        events = ["gone"]
    "#;
    let template = "must be a channel such as \"news:all\", or one with {sub} for a whole segment behind the namespace, such as \"user:{sub}\"";
    let rate = "must be a whole number from 1 to 100000";
    let duration = "must be a duration with its unit, such as \"10s\" or \"500ms\", from";
    let file = "(file fanfare.toml)";
    assert_eq!(
        problems(toml, &[]),
        [
            format!("auto_subscribe = \"user:{{name}}\" {file}: {template}"),
            format!("auto_subscribe = \"project:*\" {file}: {template}"),
            format!("auto_subscribe = \"{{sub}}:a\" {file}: {template}"),
            format!("events = \"subscribed\" {file}: must be \"connected\" or \"disconnected\""),
            format!(
                "limits.presence_info_bytes = \"1MiB\" {file}: must be a size such as 65536 or \"64KiB\", from 2B to 64KiB"
            ),
            format!("limits.presence_page = 0 {file}: {rate}"),
            format!("limits.presence_updates_per_second = 0 {file}: {rate}"),
            format!("limits.signals_per_second = \"often\" {file}: {rate}"),
            format!(
                "namespaces.crew.events = \"gone\" {file}: must be \"subscribed\" or \"unsubscribed\" or \"occupied\" or \"vacated\""
            ),
            format!("namespaces.crew.presence = {{…}} {file}: must be true or false"),
            format!(
                "namespaces.crew.signal = \"service\" {file}: must be \"none\" or \"anyone\" or \"token\" or \"owner\" or \"subscribers\""
            ),
            format!("node = \"a b\" {file}: must be 1 to 64 of A-Z a-z 0-9 _ - ."),
            format!("presence.batch = \"1m\" {file}: {duration} 10ms to 10s"),
            format!("presence.grace = 5 {file}: {duration} 0s to 10m"),
            format!("presence.lease = \"500ms\" {file}: {duration} 1s to 10m"),
            format!(
                "presence.linger {file}: is not known; allowed in [presence] are batch, connections, grace, lease, max_named"
            ),
            format!("presence.max_named = 0 {file}: {rate}"),
            format!("store = \"nats://***@nats\" {file}: must be one of {STORES}"),
            format!("timeouts.idle = \"never\" {file}: {duration} 10ms to 1day"),
            format!("timeouts.signal = \"0s\" {file}: {duration} 10ms to 1day"),
        ]
    );
}

#[test]
fn contradictions_are_told() {
    let toml = r#"
        store = "redis://user:hidden@redis"
        auto_subscribe = ["closed:all", "user:{sub}", "a"]
        [store_options]
        password = "hidden"
        tls_ca_file = "/nowhere/ca.pem"
        tls_cert_file = "/nowhere/cert.pem"
        [presence]
        lease = "2s"
        [limits]
        subscriptions = 2
        [namespaces.closed]
        subscribe = "none"
        events = ["subscribed", "occupied"]
    "#;
    assert_eq!(
        problems(toml, &[]),
        [
            "auto_subscribe = 3 channels: must be at most 2 (100, and limits.subscriptions)",
            "auto_subscribe = \"closed:all\": no client may subscribe to channels of namespace \"closed\" (subscribe = \"none\")",
            "namespaces.closed.events = \"occupied\": needs presence = true: without it nobody knows who is on a channel in the whole cluster",
            "presence.grace = 5s: must be at most presence.lease (2s): a node that goes away shortens its lease to the grace",
            "store_options: user and password and a user in the URL are given; one way to authenticate is allowed",
            "store_options: tls_cert_file and tls_key_file must be given together",
            "store_options.tls_ca_file = \"/nowhere/ca.pem\": the file cannot be read: No such file or directory (os error 2)",
            "store_options.tls_cert_file = \"/nowhere/cert.pem\": the file cannot be read: No such file or directory (os error 2)",
        ]
    );
    assert_eq!(
        problems("[store_options]\nuser = \"x\"", &[]),
        ["store_options.user: is for the store, but store is not given; the broker's options are broker_options"]
    );
    assert_eq!(
        problems(&production("store = \"memory:\"\n[store_options]\nuser = \"x\""), &[]),
        ["store_options.user: is only for Redis; store is memory:"]
    );
}
