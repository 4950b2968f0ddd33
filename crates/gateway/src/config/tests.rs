mod presence;

use std::{fs, net::IpAddr};

use fanfare_session::{Access, SlowConsumer};

use super::*;
use crate::auth::KeyMaterial;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const API_KEY: &str = "api-key-0123456789";

/// A configuration from a file's text and environment variables.
fn load(toml: &str, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fanfare.toml");
    fs::write(&path, toml).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let inputs = Inputs { file: Some(path), environment, overrides: Overrides::default() };
    Config::load(&inputs).map_err(|problems| {
        let directory = format!("{}/", directory.path().display());
        problems.0.iter().map(|problem| problem.to_string().replace(&directory, "")).collect()
    })
}

fn problems(toml: &str, environment: &[(&str, &str)]) -> Vec<String> {
    load(toml, environment).unwrap_err()
}

/// What production needs at least.
fn production(more: &str) -> String {
    format!("broker = \"nats://nats:4222\"\napi_keys = [\"{API_KEY}\"]\n{more}\n[auth]\nhmac_secret = \"{SECRET}\"\n")
}

#[test]
fn nothing_at_all_is_development_mode() {
    let config = load("", &[]).unwrap();
    assert!(config.development && config.origins.is_development() && config.auth.anonymous);
    assert_eq!(config.broker.url.expose(), "memory:");
    assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.internal_listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.prefix, "rt");
    assert_eq!(config.paths, Paths::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.timeouts, Timeouts::default());
    assert_eq!(config.log, LogConfig::default());
    assert!(config.compression && config.shards >= 1);
    let namespace = config.namespaces.get("project");
    assert_eq!((namespace.subscribe, namespace.publish), (Access::Anyone, Access::Anyone));
    assert!(namespace.patterns);
}

#[test]
fn three_variables_are_enough_for_production() {
    let environment = [
        ("FANFARE_API_KEY", API_KEY),
        ("FANFARE_AUTH__HMAC_SECRET", SECRET),
        ("FANFARE_AUTH__JWKS_URL", "https://id.example/jwks.json"),
        ("FANFARE_BROKER", "nats://nats:4222"),
        ("FANFARE_LISTEN", "0.0.0.0:8000"),
    ];
    let config = load("", &environment).unwrap();
    assert!(!config.development && !config.auth.anonymous && !config.origins.is_development());
    assert_eq!(config.api_keys, [Secret::new(API_KEY)]);
    assert_eq!(config.auth.keys.len(), 1);
    assert_eq!(config.auth.jwks.as_ref().unwrap().url.as_str(), "https://id.example/jwks.json");
    assert!(config.session_config().anonymous.is_none());
    let namespace = config.namespaces.get("project");
    assert_eq!(*namespace, fanfare_session::Namespace::default());
}

#[test]
fn flags_override_variables_and_variables_override_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fanfare.toml");
    fs::write(&path, "listen = \"127.0.0.1:1\"\nprefix = \"a\"\nshards = 3\n[log]\nlevel = \"warn\"").unwrap();
    let environment = [("FANFARE_LISTEN", "127.0.0.1:2"), ("FANFARE_PREFIX", "b"), ("FANFARE_LOG__FORMAT", "json")];
    let inputs = Inputs {
        file: Some(path),
        environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
        overrides: Overrides { listen: Some("127.0.0.1:3".into()), ..Overrides::default() },
    };
    let config = Config::load(&inputs).unwrap();
    assert_eq!((config.listen.port(), config.prefix.as_str(), config.shards), (3, "b", 3));
    assert_eq!(config.log, LogConfig { level: "warn".into(), format: LogFormat::Json });
}

#[test]
fn every_kind_of_value_can_come_from_a_variable() {
    let environment = [
        ("FANFARE_LIMITS__OUTBOX_BYTES", "2MiB"),
        ("FANFARE_LIMITS__CONNECTIONS", "500"),
        ("FANFARE_TIMEOUTS__PING_INTERVAL", "1m"),
        ("FANFARE_COMPRESSION", "false"),
        ("FANFARE_PATHS__WS", "/ws, /realtime"),
        ("FANFARE_ALLOWED_ORIGINS", "http://localhost:3000"),
        ("FANFARE_NAMESPACES__PROJECT__SUBSCRIBE", "owner"),
        ("FANFARE_NAMESPACE_DEFAULTS__PATTERNS", "false"),
        ("PATH", "/bin"),
        ("FANFARE_URL", "of another program"),
    ];
    let config = load("", &environment).unwrap();
    assert_eq!(config.limits.outbox_bytes, 2 << 20);
    assert_eq!(config.limits.connections, 500);
    assert_eq!(config.timeouts.ping_interval, Duration::from_secs(60));
    assert!(!config.compression);
    assert_eq!(config.paths.ws, ["/ws", "/realtime"]);
    assert_eq!(config.paths.sse, ["/sse"]);
    assert_eq!(config.namespaces.get("project").subscribe, Access::Owner);
    assert!(!config.namespaces.get("other").patterns);
}

#[test]
fn variables_of_kubernetes_for_a_service_named_fanfare_are_no_keys() {
    let environment = [
        ("FANFARE_PORT", "tcp://10.0.0.1:8000"),
        ("FANFARE_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("FANFARE_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("FANFARE_SERVICE_HOST", "10.0.0.1"),
        ("FANFARE_SERVICE_PORT_WS", "8000"),
        ("FANFARE_GATEWAY_PORT_9000_TCP_PROTO", "tcp"),
        ("FANFARE_GATEWAY_SERVICE_HOST", "10.0.0.2"),
    ];
    assert!(load("", &environment).unwrap().development);
}

#[test]
fn every_problem_is_told_at_once_with_key_value_source_and_what_is_allowed() {
    let toml = r#"
        listen = 8000
        shards = -1
        broker = "amqp://user:hidden@rabbit"
        prefix = "a.b"
        compression = "yes"
        allowed_origins = ["https://a.example/", "*"]
        alowed_origins = []
        [paths]
        ws = ["ws"]
        [limits]
        outbox_bytes = "1 banana"
        outbox = 5
        [timeouts]
        pong = 10
        [namespaces.project]
        subscribe = "service"
        publish = "everyone"
        history = { size = 0, tll = "1m" }
        slow_consumer = "wait"
        [namespaces."a b"]
        [history]
        replicas = 2
        storage = "tape"
        max_bytes = 5
        [log]
        format = "xml"
        level = "fanfare=loud"
    "#;
    let addresses =
        "an address with a port, such as 127.0.0.1:8000, 0.0.0.0:8000 or [::1]:8000; port 0 picks a free one";
    assert_eq!(
        problems(toml, &[("FANFARE_LIMITS__CONNECTIONS", "many"), ("FANFARE_STOER", "redis://x")]),
        [
            "allowed_origins = \"https://a.example/\" (file fanfare.toml): must be an origin such as \"https://app.example\" (scheme, host and port, no path), or \"*\" for any",
            "alowed_origins (file fanfare.toml): is not known; allowed at the top are allowed_origins, api_key, api_key_file, api_keys, api_keys_file, auth, auto_subscribe, broker, broker_options, compression, events, history, internal_listen, limits, listen, log, namespace_defaults, namespaces, node, paths, prefix, presence, shards, store, store_options, timeouts",
            "broker = \"amqp://***@rabbit\" (file fanfare.toml): must be one of memory:, nats://host:4222, tls://host:4222 (several NATS servers separated by commas), redis://host:6379, rediss://host:6379, redis-sentinel://host:26379/SERVICE, rediss-sentinel://… (several sentinels separated by commas), redis-cluster://host:6379, rediss-cluster://… (any of its nodes, separated by commas)",
            "compression = \"yes\" (file fanfare.toml): must be true or false",
            "history.max_bytes = 5 (file fanfare.toml): must be a size such as 65536 or \"64KiB\", from 1MiB to 1048576GiB",
            "history.replicas = 2 (file fanfare.toml): must be 1 or 3 or 5",
            "history.storage = \"tape\" (file fanfare.toml): must be \"file\" or \"memory\"",
            "limits.connections = \"many\" (environment variable FANFARE_LIMITS__CONNECTIONS): must be a whole number from 1 to 10000000",
            "limits.outbox (file fanfare.toml): is not known; allowed in [limits] are api_batch, api_body_bytes, channels, connections, history_reads, malformed_frames, message_bytes, notsent_lowat_bytes, outbox_bytes, outbox_frames, pending_commands, presence_info_bytes, presence_page, presence_updates_per_second, publication_bytes, recovery_bytes, recovery_publications, ring_bytes, shard_inbox, signals_per_second, subscriptions",
            "limits.outbox_bytes = \"1 banana\" (file fanfare.toml): must be a size such as 65536 or \"64KiB\", from 16KiB to 256MiB",
            &format!("listen = 8000 (file fanfare.toml): must be {addresses}"),
            "log.format = \"xml\" (file fanfare.toml): must be \"text\" or \"json\"",
            "log.level = \"fanfare=loud\" (file fanfare.toml): must be error, warn, info, debug or trace, or directives such as \"info,fanfare_gateway=debug\"",
            "namespaces.a b: is no name for a namespace: ' ' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,",
            "namespaces.project.history.size = 0 (file fanfare.toml): must be a whole number from 1 to 1000000",
            "namespaces.project.history.tll (file fanfare.toml): is not known; allowed in [namespaces.project.history] are size, ttl",
            "namespaces.project.publish = \"everyone\" (file fanfare.toml): must be \"none\" or \"anyone\" or \"token\" or \"owner\" or \"subscribers\"",
            "namespaces.project.slow_consumer = \"wait\" (file fanfare.toml): must be \"disconnect\" or \"conflate\"",
            "namespaces.project.subscribe = \"service\" (file fanfare.toml): must be \"anyone\" or \"token\" or \"owner\" or \"none\"",
            "paths.ws = \"ws\" (file fanfare.toml): must be a path such as \"/ws\", without query, of letters, digits and -._~!$&'()*+,;=:@",
            "prefix = \"a.b\" (file fanfare.toml): must be one segment: 1 to 64 of A-Z a-z 0-9 _ - = @ + ~ ,",
            "shards = -1 (file fanfare.toml): must be a whole number from 0 to 256",
            "stoer (environment variable FANFARE_STOER): is not known; allowed at the top are allowed_origins, api_key, api_key_file, api_keys, api_keys_file, auth, auto_subscribe, broker, broker_options, compression, events, history, internal_listen, limits, listen, log, namespace_defaults, namespaces, node, paths, prefix, presence, shards, store, store_options, timeouts",
            "timeouts.pong = 10 (file fanfare.toml): must be a duration with its unit, such as \"10s\" or \"500ms\", from 10ms to 1day",
        ]
    );
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let text = problems("listen = ", &[]).remove(0);
    assert!(text.starts_with("--config = \"fanfare.toml\": the file is not TOML: "), "{text}");
    let inputs = Inputs { file: Some("/nowhere/fanfare.toml".into()), ..Inputs::default() };
    assert_eq!(
        Config::load(&inputs).unwrap_err().to_string(),
        "--config = \"/nowhere/fanfare.toml\": the file cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn a_table_is_needed_where_there_are_keys_below() {
    assert_eq!(
        problems("log = \"info\"", &[]),
        ["log (file fanfare.toml): must be a table; its keys are format, level"]
    );
    assert_eq!(problems("namespaces = 5", &[]), ["namespaces (file fanfare.toml): must be a table"]);
}

#[test]
fn without_authentication_only_loopback_is_served() {
    let text = "without authentication only loopback is allowed (127.0.0.1, [::1]); configure auth.hmac_secret, \
                auth.public_key_files, auth.keys or auth.jwks_url, and an API key (FANFARE_API_KEY)";
    assert_eq!(
        problems("listen = \"0.0.0.0:8000\"\ninternal_listen = \"[::]:9000\"\nbroker = \"memory:\"", &[]),
        [format!("internal_listen = [::]:9000: {text}"), format!("listen = 0.0.0.0:8000: {text}")]
    );
    let config = load("listen = \"[::1]:8000\"", &[]).unwrap();
    assert!(config.development && config.listen.ip() == "::1".parse::<IpAddr>().unwrap());
    let anonymous = problems("listen = \"0.0.0.0:8000\"\nbroker = \"memory:\"\n[auth]\nanonymous = true", &[]);
    assert_eq!(anonymous, [format!("listen = 0.0.0.0:8000: {text}")]);
}

#[test]
fn an_empty_secret_is_an_error_and_not_development_mode() {
    assert_eq!(
        problems("broker = \"memory:\"", &[("FANFARE_AUTH__HMAC_SECRET", "")]),
        ["auth.hmac_secret = *** (environment variable FANFARE_AUTH__HMAC_SECRET): must be a text that is not empty"]
    );
}

#[test]
fn a_broker_is_required_but_in_development_mode() {
    let toml = production("").replace("broker = \"nats://nats:4222\"\n", "");
    assert_eq!(
        problems(&toml, &[]),
        [
            "broker: is required; allowed are memory:, nats://host:4222, tls://host:4222 (several NATS servers separated by commas), redis://host:6379, rediss://host:6379, redis-sentinel://host:26379/SERVICE, rediss-sentinel://… (several sentinels separated by commas), redis-cluster://host:6379, rediss-cluster://… (any of its nodes, separated by commas)"
        ]
    );
    assert!(load(&production(""), &[]).is_ok());
    let several = production("").replace("nats://nats:4222", "nats://a:4222, tls://b:4222,c");
    assert!(load(&several, &[]).is_ok());
    let sentinels = production("").replace("nats://nats:4222", "redis-sentinel://a,b:1/main?sentinel_password=x");
    assert!(load(&sentinels, &[]).is_ok());
    for url in ["nats://a,redis://b", "redis-sentinel://a", "redis-cluster://a/main", "memory:x", "nats://", "", "nats"]
    {
        let toml = production("").replace("nats://nats:4222", url);
        assert!(problems(&toml, &[])[0].contains("must be one of memory:"), "{url}");
    }
}

#[test]
fn a_redis_cluster_has_no_patterns() {
    let cluster = |rest: &str| production(rest).replace("nats://nats:4222", "redis-cluster://gate:pw@a,b:1");
    assert!(!load(&cluster(""), &[]).unwrap().namespaces.get("project").patterns);
    let text = "must be false with a Redis Cluster, which has no patterns; other brokers have them";
    assert_eq!(
        problems(&cluster("[namespace_defaults]\npatterns = true\n[namespaces.a]"), &[]),
        [format!("namespace_defaults.patterns = true: {text}")]
    );
    assert_eq!(
        problems(&cluster("[namespaces.a]\npatterns = true\n[namespaces.b]\npatterns = false"), &[]),
        [format!("namespaces.a.patterns = true: {text}")]
    );
    // In development mode, where others have them unless told otherwise.
    let config = load("broker = \"redis-cluster://127.0.0.1:7000\"", &[]).unwrap();
    assert!(config.development && !config.namespaces.get("project").patterns);
    assert_eq!(
        problems("broker = \"rediss-cluster://127.0.0.1:7000\"", &[("FANFARE_NAMESPACE_DEFAULTS__PATTERNS", "true")]),
        [format!("namespace_defaults.patterns = true: {text}")]
    );
}

#[test]
fn clients_need_a_way_in() {
    let way = "no client could connect: configure auth.hmac_secret, auth.public_key_files, auth.keys or auth.jwks_url, \
               or allow clients without a token with auth.anonymous = true";
    let toml = "broker = \"memory:\"";
    assert_eq!(problems(toml, &[("FANFARE_API_KEY", API_KEY)]), [format!("auth.anonymous = false: {way}")]);
    let open =
        load("listen = \"0.0.0.0:1\"\nbroker = \"memory:\"\n[auth]\nanonymous = true", &[("FANFARE_API_KEY", API_KEY)]);
    assert!(!open.unwrap().development);
    assert_eq!(problems("[auth]\nanonymous = false", &[]), [format!("auth.anonymous = false: {way}")]);
}

#[test]
fn secrets_come_from_files_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (secret, keys) =
        (file("secret", &format!("{SECRET}\n")), file("keys", "first-key-01234567\n\nsecond-key-0123456\n"));
    let environment = [
        ("FANFARE_AUTH__HMAC_SECRET_FILE", secret.as_str()),
        ("FANFARE_API_KEYS_FILE", &keys),
        ("FANFARE_API_KEY", API_KEY),
    ];
    let config = load("broker = \"memory:\"", &environment).unwrap();
    assert!(matches!(&config.auth.keys[0].material, KeyMaterial::Secret(found) if found.expose() == SECRET));
    let exposed: Vec<_> = config.api_keys.iter().map(Secret::expose).collect();
    assert_eq!(exposed, ["first-key-01234567", "second-key-0123456", API_KEY]);

    // What comes later in the order wins; both in one place contradict each other.
    let config =
        load(&format!("broker = \"memory:\"\n[auth]\nhmac_secret = \"{}\"", "x".repeat(32)), &environment).unwrap();
    assert!(matches!(&config.auth.keys[0].material, KeyMaterial::Secret(found) if found.expose() == SECRET));
    let both = [("FANFARE_AUTH__HMAC_SECRET_FILE", secret.as_str()), ("FANFARE_AUTH__HMAC_SECRET", SECRET)];
    assert_eq!(
        problems("broker = \"memory:\"", &both),
        [
            "auth.hmac_secret = *** (environment variable FANFARE_AUTH__HMAC_SECRET): auth.hmac_secret_file is given too; one of them is allowed"
        ]
    );
    let empty = file("empty", "\n");
    assert_eq!(
        problems("broker = \"memory:\"", &[("FANFARE_AUTH__HMAC_SECRET_FILE", &empty)]),
        [format!(
            "auth.hmac_secret_file = \"{empty}\" (environment variable FANFARE_AUTH__HMAC_SECRET_FILE): the file is empty"
        )]
    );
}

#[test]
fn a_secret_of_digits_stays_a_text() {
    let digits = "01234567890123456789012345678901";
    let config = load("broker = \"memory:\"", &[("FANFARE_AUTH__HMAC_SECRET", digits)]).unwrap();
    assert!(matches!(&config.auth.keys[0].material, KeyMaterial::Secret(found) if found.expose() == digits));
}

#[test]
fn weak_keys_are_taken_on_loopback_with_a_warning() {
    let environment = [("FANFARE_AUTH__HMAC_SECRET", "hidden"), ("FANFARE_API_KEY", "short")];
    let config = load(r#"broker = "memory:""#, &environment).unwrap();
    assert_eq!(
        config.warnings,
        [
            "auth.hmac_secret: the secret has 6 bytes; at least 32 are needed (RFC 7518 section 3.2); it is taken because only loopback is served",
            "api_keys: key 1 must be at least 16 visible ASCII characters; it is taken because only loopback is served",
        ]
    );
    assert!(!config.development);
}

#[test]
fn weak_and_unusable_keys_are_told() {
    let toml = r#"
        listen = "0.0.0.0:8000"
        broker = "memory:"
        api_keys = ["short", "has a space in it ...", "api-key-0123456789"]
        [auth]
        hmac_secret = "hidden"
        public_key_files = ["/nowhere/key.pem"]
        algorithms = ["HS256", "none"]
        [[auth.keys]]
        kid = "a"
        [[auth.keys]]
        public_key = "-----BEGIN EC PRIVATE KEY-----"
        [[auth.keys]]
        secret = "0123456789abcdef0123456789abcdef"
        algorithms = ["RS256"]
        typo = 1
    "#;
    assert_eq!(
        problems(toml, &[]),
        [
            "api_keys: key 1 must be at least 16 visible ASCII characters",
            "api_keys: key 2 must be at least 16 visible ASCII characters",
            "auth.algorithms = \"none\" (file fanfare.toml): must be one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
            "auth.hmac_secret: the secret has 6 bytes; at least 32 are needed (RFC 7518 section 3.2)",
            "auth.keys[0]: exactly one of secret, secret_file, public_key and public_key_file must be given",
            "auth.keys[1]: this is a private key; a public key in PEM is needed, and the private one belongs to whoever signs",
            "auth.keys[2]: RS256 does not fit the key; allowed are HS256, HS384, HS512",
            "auth.keys[2].typo (file fanfare.toml): is not known; allowed in [auth.keys[2]] are algorithms, kid, public_key, public_key_file, secret, secret_file",
            "auth.public_key_files[0] = \"/nowhere/key.pem\": the file cannot be read: No such file or directory (os error 2)",
        ]
    );
}

#[test]
fn contradictions_are_told() {
    let toml = r#"
        listen = "127.0.0.1:8000"
        internal_listen = "127.0.0.1:8000"
        broker = "redis://user:hidden@redis"
        allowed_origins = ["*"]
        [paths]
        sse = ["/sse", "/ws"]
        [broker_options]
        password = "hidden"
        token = "hidden"
        tls_ca_file = "/nowhere/ca.pem"
        tls_key_file = "/nowhere/key.pem"
        [limits]
        outbox_bytes = "16KiB"
        publication_bytes = "1MiB"
        recovery_bytes = "64KiB"
        ring_bytes = "32KiB"
        [auth]
        hmac_secret = "0123456789abcdef0123456789abcdef"
        jwks_url = "https://id.example/jwks"
        jwks_max_age = "5s"
        cookie = "session"
    "#;
    assert_eq!(
        problems(toml, &[]),
        [
            "auth.cookie = \"session\": a token in a cookie needs allowed_origins that lists them, not \"*\": any page could use it",
            "auth.jwks_max_age = 5s: must be at least auth.jwks_refresh_min_interval (10s)",
            "broker_options: user and password and token and a user in the URL are given; one way to authenticate is allowed",
            "broker_options: tls_cert_file and tls_key_file must be given together",
            "broker_options.tls_ca_file = \"/nowhere/ca.pem\": the file cannot be read: No such file or directory (os error 2)",
            "broker_options.tls_key_file = \"/nowhere/key.pem\": the file cannot be read: No such file or directory (os error 2)",
            "broker_options.token: is only for NATS; broker is redis://***@redis",
            "internal_listen = 127.0.0.1:8000: is also listen (127.0.0.1:8000); the two listeners need different addresses",
            "limits.outbox_bytes = 16KiB: must be at least limits.publication_bytes (1MiB)",
            "limits.recovery_bytes = 64KiB: must be at least limits.publication_bytes (1MiB)",
            "limits.ring_bytes = 32KiB: must be at least limits.recovery_bytes (64KiB)",
            "paths.sse = \"/ws\": is in paths.ws too; a path leads to one of them",
        ]
    );
    assert_eq!(
        problems("allowed_origins = [\"https://app.example\"]", &[]),
        [
            "allowed_origins = \"https://app.example\": in development mode (no authentication) only pages of this machine are allowed"
        ]
    );
}

#[test]
fn keys_are_fetched_over_tls_or_from_this_machine() {
    let with =
        |url: &str, more: &str| load(&format!("broker = \"memory:\"\n[auth]\njwks_url = \"{url}\"\n{more}"), &[]);
    for url in ["https://id.example/jwks", "http://127.0.0.1:1/jwks", "http://localhost/jwks", "http://[::1]/jwks"] {
        assert!(with(url, "").is_ok(), "{url}");
    }
    for url in ["http://id.example/jwks", "file:///etc/passwd", "id.example", "http://10.0.0.1/"] {
        assert!(with(url, "").unwrap_err()[0].contains("must be an https:// URL"), "{url}");
    }
    assert!(with("http://id.example/jwks", "jwks_allow_http = true").is_ok());
}

#[test]
fn what_is_printed_is_a_configuration_without_secrets() {
    let toml = production("allowed_origins = [\"https://app.example\"]\n[namespaces.project]\nsubscribe = \"anyone\"")
        .replace("nats://nats", "nats://user:hidden@nats");
    let toml = format!("{toml}[[auth.keys]]\nkid = \"k\"\nsecret = \"{SECRET}\"\n");
    let config = load(&toml, &[]).unwrap();
    let printed = config.to_toml();
    for secret in [SECRET, API_KEY, "hidden"] {
        assert!(!printed.contains(secret), "{printed}");
        assert!(!format!("{config:?}").contains(secret), "{config:?}");
    }
    for line in [
        "broker = \"nats://***@nats:4222\"",
        "api_keys = [\"***\"]",
        "hmac_secret = \"***\"",
        "kid = \"k\"",
        "subscribe = \"anyone\"",
        "ping_interval = \"25s\"",
        "outbox_bytes = \"4MiB\"",
        "allowed_origins = [\"https://app.example\"]",
    ] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
    // But for the secrets it can be used as it stands.
    let usable = printed.replacen("\"***\"", &format!("\"{API_KEY}\""), 1).replace("\"***\"", &format!("\"{SECRET}\""));
    let again = load(&usable, &[]).unwrap();
    assert_eq!(again.to_toml(), printed);
}

#[test]
fn every_key_is_described_in_the_documentation() {
    let docs = include_str!("../../../../docs/operations.md");
    for key in build::known_keys() {
        let key = key.replace("[0]", "[]").replace("namespaces.example.", "namespaces.NAME.");
        assert!(docs.contains(&format!("`{key}`")), "docs/operations.md does not describe `{key}`");
    }
    for metric in crate::telemetry::metrics::ALL {
        assert!(docs.contains(&format!("`{}`", metric.name)), "docs/operations.md does not describe `{}`", metric.name);
    }
}

/// The default in a row of docs/operations.md, in the form of `config --print`: `1 MiB` is 1MiB, `19,000` is 19000.
fn documented_default(docs: &str, key: &str) -> String {
    let row = docs.lines().find(|line| line.starts_with(&format!("| `{key}` |"))).unwrap();
    row.split('|').nth(2).unwrap().replace([' ', ',', '`'], "")
}

#[test]
fn the_defaults_in_the_documentation_are_the_defaults() {
    let docs = include_str!("../../../../docs/operations.md");
    let printed: toml::Table = Config::development().to_toml().parse().unwrap();
    for table in ["history", "limits", "presence", "timeouts"] {
        for (name, value) in printed[table].as_table().unwrap() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(documented_default(docs, &format!("{table}.{name}")), value, "{table}.{name}");
        }
    }
}

#[test]
fn the_broker_gets_what_is_configured() {
    let toml = production("prefix = \"x\"\n[broker_options]\nuser = \"node\"\npassword = \"hidden\"");
    let options = fanfare_broker::BrokerOptions::from(&load(&toml, &[]).unwrap());
    assert_eq!((options.url.as_str(), options.prefix.as_str()), ("nats://nats:4222", "x"));
    assert_eq!((options.user.as_deref(), options.password.as_deref()), (Some("node"), Some("hidden")));
}

#[test]
fn a_namespace_keeps_history_as_soon_as_it_says_how_much() {
    let toml = production(
        "[namespaces.project]\nhistory = { size = 50, ttl = \"1h\" }\n[namespaces.chat.history]\n[namespaces.live]",
    );
    let environment =
        [("FANFARE_NAMESPACES__CURSOR__HISTORY__SIZE", "1"), ("FANFARE_NAMESPACES__CURSOR__SLOW_CONSUMER", "conflate")];
    let config = load(&toml, &environment).unwrap();
    let kept = |name: &str| config.history.namespaces.get(name).map(|kept| (kept.size, kept.ttl.as_secs()));
    assert_eq!(kept("project"), Some((50, 3_600)));
    assert_eq!((kept("chat"), kept("cursor")), (Some((1_000, 600)), Some((1, 600))));
    assert_eq!((kept("live"), kept("other")), (None, None));
    for (name, history) in [("project", true), ("chat", true), ("cursor", true), ("live", false), ("other", false)] {
        assert_eq!(config.namespaces.get(name).history, history, "{name}");
    }
    assert_eq!(config.namespaces.get("cursor").slow_consumer, SlowConsumer::Conflate);
    assert_eq!(config.namespaces.get("project").slow_consumer, SlowConsumer::Disconnect);
    assert_eq!(config.session_config().max_history, 1_000);
    assert_eq!(fanfare_broker::BrokerOptions::from(&config).history, config.history);
    // What does not keep history does not after it was printed either.
    let printed: toml::Table = config.to_toml().parse().unwrap();
    assert!(printed["namespaces"]["live"].get("history").is_none());
    assert_eq!(printed["namespaces"]["cursor"]["history"]["ttl"].as_str(), Some("10m"));
}

#[test]
fn history_is_not_for_namespaces_without_a_name() {
    let text = "history is kept by namespaces that are declared, since each is kept apart (on NATS in a stream of its \
                own); give it to them: [namespaces.NAME] history = { size = 1000, ttl = \"10m\" }";
    assert_eq!(
        problems("[namespace_defaults]\nhistory = { size = 1 }", &[]),
        [format!("namespace_defaults.history (file fanfare.toml): {text}")]
    );
    assert_eq!(
        problems("[namespaces.project]\nhistory = 5", &[]),
        ["namespaces.project.history (file fanfare.toml): must be a table; its keys are size, ttl"]
    );
}

#[test]
fn how_streams_are_kept_is_for_nats() {
    let history = "[history]\nstorage = \"memory\"\nreplicas = 1\nmanage_streams = false\nmax_bytes = \"2GiB\"\ndedupe_window = \"1m\"";
    assert_eq!(
        problems(&production(history), &[]),
        [
            "history.storage = \"memory\": streams in memory need history.replicas = 3 or more, not 1: else the restart of one server is the end of all history"
        ]
    );
    let config = load(&production(&history.replace("= 1", "= 3")), &[]).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(
        config.history,
        HistoryOptions {
            namespaces: Default::default(),
            manage_streams: false,
            storage: fanfare_broker::Storage::Memory,
            replicas: 3,
            max_bytes: Some(2 << 30),
            dedupe_window: Duration::from_secs(60),
            publish_only: false,
        }
    );
    let elsewhere = load(history, &[("FANFARE_BROKER", "redis://user:hidden@redis")]).unwrap();
    let warning = |key: &str| format!("history.{key}: is only for NATS, and does nothing; broker is redis://***@redis");
    assert_eq!(elsewhere.warnings, ["manage_streams", "storage", "replicas", "max_bytes"].map(warning));
}
