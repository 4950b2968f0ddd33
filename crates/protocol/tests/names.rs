//! Properties of names: channels, patterns, segments and their mapping to brokers, against models written only here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fanfare_protocol::{
    Channel, NatsSubjects, Pattern, RedisChannels, Tenant, Topic, escape_segment, limits, validate_channel,
};
use proptest::prelude::*;

const SEGMENT: &str = "[A-Za-z0-9_=@+~,-]{1,12}";

fn channel() -> impl Strategy<Value = Channel> {
    prop::collection::vec(SEGMENT, 1..=8).prop_map(|segments| Channel::parse(&segments.join(":")).unwrap())
}

fn tenant() -> impl Strategy<Value = Tenant> {
    SEGMENT.prop_map(|name| Tenant::parse(&name).unwrap())
}

/// Few words, so that patterns and channels often meet.
fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn small_channel() -> impl Strategy<Value = Channel> {
    prop::collection::vec(word(), 1..=5).prop_map(|segments| Channel::parse(&segments.join(":")).unwrap())
}

fn topic() -> impl Strategy<Value = Topic> {
    let middle = prop_oneof![2 => word(), 1 => Just("*")];
    let last = prop_oneof![2 => word().prop_map(Some), 1 => Just(Some("*")), 1 => Just(Some("**")), 1 => Just(None)];
    (word(), prop::collection::vec(middle, 0..=3), last).prop_map(|(namespace, middle, last)| {
        let segments: Vec<_> = [namespace].into_iter().chain(middle).chain(last).collect();
        Topic::parse(&segments.join(":")).unwrap()
    })
}

fn pattern() -> impl Strategy<Value = Pattern> {
    topic().prop_map(|topic| Pattern::parse(topic.as_str()).unwrap())
}

/// NATS' own rule for subjects: `*` is one token, `>` at the end one or more.
fn nats_matches(subscription: &str, subject: &str) -> bool {
    let subscription: Vec<_> = subscription.split('.').collect();
    let subject: Vec<_> = subject.split('.').collect();
    match subscription.split_last() {
        Some((&">", fixed)) => {
            subject.len() > fixed.len() && fixed.iter().zip(&subject).all(|(a, b)| *a == "*" || a == b)
        }
        _ => subscription.len() == subject.len() && subscription.iter().zip(&subject).all(|(a, b)| *a == "*" || a == b),
    }
}

/// Redis' own rule for globs, as far as names use it: `*` is any number of any characters.
fn redis_matches(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((literal, rest)) => name.strip_prefix(literal).is_some_and(|name| {
            (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| redis_matches(rest, &name[at..]))
        }),
    }
}

/// The rule of a channel's name, in other words than the crate's.
fn is_channel(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-=@+~,".contains(c);
    let segments: Vec<_> = name.split(':').collect();
    name.len() <= limits::CHANNEL_BYTES
        && segments.len() <= limits::CHANNEL_SEGMENTS
        && segments.iter().all(|s| (1..=limits::SEGMENT_BYTES).contains(&s.len()) && s.chars().all(allowed))
}

#[test]
fn a_namespace_has_a_stream_of_its_own() {
    let nats = NatsSubjects::new("rt-2").unwrap();
    assert_eq!(nats.stream("project"), "RT-2_project");
    assert_eq!(nats.stream_subjects("project"), ["rt-2.pub.*.project", "rt-2.pub.*.project.>"]);
    assert_eq!(nats.republish(), ["rt-2.pub.>", "rt-2.live.>"]);
    let pattern = Topic::parse("project:**").unwrap();
    assert_eq!(nats.live_interest(&Tenant::parse("acme").unwrap(), &pattern), "rt-2.live.acme.project.>");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_channel_and_its_subject_are_one_to_one(tenant in tenant(), channel in channel(), other in channel()) {
        let nats = NatsSubjects::new("rt").unwrap();
        let redis = RedisChannels::new("rt").unwrap();
        let (subject, name) = (nats.publish(&tenant, &channel), redis.publish(&tenant, &channel));
        prop_assert_eq!(nats.parse_publish(&subject), Ok((tenant.clone(), channel.clone())));
        prop_assert_eq!(redis.parse_publish(&name), Ok((tenant.clone(), channel.clone())));
        prop_assert_eq!(subject == nats.publish(&tenant, &other), channel == other);
        prop_assert_eq!(name == redis.publish(&tenant, &other), channel == other);
        let republished = nats.live_interest(&tenant, &Topic::Channel(channel.clone()));
        prop_assert_eq!(&republished, &subject.replacen("rt.pub.", "rt.live.", 1));
        prop_assert_eq!(nats.parse_live(&republished), Ok((tenant.clone(), channel.clone())));
        prop_assert!(nats.parse_live(&subject).is_err() && nats.parse_publish(&republished).is_err());
        let live = redis.live(&tenant, &channel);
        prop_assert!(redis.is_live(&live) && !redis.is_live(&name));
        prop_assert_eq!(live == redis.live(&tenant, &other), channel == other);
        prop_assert_eq!(redis.parse_live(&live), Ok((tenant, channel)));
    }

    #[test]
    fn a_subject_that_is_read_is_written_the_same(text in "rt[.:]pub[.:][a-c=.:*>é ]{0,12}") {
        let nats = NatsSubjects::new("rt").unwrap();
        if let Ok((tenant, channel)) = nats.parse_publish(&text) {
            prop_assert_eq!(nats.publish(&tenant, &channel), &text[..]);
        }
        let redis = RedisChannels::new("rt").unwrap();
        if let Ok((tenant, channel)) = redis.parse_publish(&text) {
            prop_assert_eq!(redis.publish(&tenant, &channel), &text[..]);
        }
    }

    #[test]
    fn a_live_name_that_is_read_is_written_the_same(text in "rt:live:[{]?[a-c=:*>é {}]{0,12}[}]?") {
        let redis = RedisChannels::new("rt").unwrap();
        if let Ok((tenant, channel)) = redis.parse_live(&text) {
            prop_assert_eq!(redis.live(&tenant, &channel), text);
        }
    }

    /// What a cluster looks at: between the first brace and the next closing one.
    #[test]
    fn all_names_of_a_channel_are_in_one_slot(tenant in tenant(), channel in channel(), id in ".{0,8}") {
        let redis = RedisChannels::new("rt").unwrap();
        let tag = format!("{tenant}:{channel}");
        let live = redis.live(&tenant, &channel);
        let keys = [redis.history_key(&tenant, &channel), redis.meta_key(&tenant, &channel)];
        for name in keys.iter().chain([&live, &redis.id_key(&tenant, &channel, &id)]) {
            let (_, rest) = name.split_once('{').unwrap();
            prop_assert_eq!(rest.split_once('}').unwrap().0, &tag);
        }
    }

    #[test]
    fn a_subject_of_others_is_refused(tenant in tenant(), channel in channel(), prefix in "[a-z.:]{0,8}") {
        let nats = NatsSubjects::new("rt").unwrap();
        let redis = RedisChannels::new("rt").unwrap();
        for (separator, word) in [('.', "live"), (':', "live"), ('.', "pub"), (':', "pub")] {
            let subject = format!("{prefix}{separator}{word}{separator}{tenant}{separator}{channel}");
            let own = prefix == "rt" && word == "pub";
            if !own {
                prop_assert!(nats.parse_publish(&subject).is_err(), "{}", subject);
                prop_assert!(redis.parse_publish(&subject).is_err(), "{}", subject);
            }
        }
    }

    #[test]
    fn a_name_is_a_channel_by_the_written_rule(name in "[a-c:=.*é ~]{0,12}|([a-c]{30,70}:){0,9}[a-c]{60,70}") {
        prop_assert_eq!(validate_channel(&name).is_ok(), is_channel(&name), "{}", name);
        prop_assert_eq!(Topic::parse(&name).is_ok_and(|topic| !topic.is_pattern()), is_channel(&name));
    }

    #[test]
    fn a_pattern_matches_what_nats_and_redis_would_send(
        tenant in tenant(), topic in topic(), channels in prop::collection::vec(small_channel(), 20)
    ) {
        let nats = NatsSubjects::new("rt").unwrap();
        let redis = RedisChannels::new("rt").unwrap();
        for channel in &channels {
            let matches = topic.matches(channel.as_str());
            let by_nats = nats_matches(&nats.interest(&tenant, &topic), &nats.publish(&tenant, channel));
            prop_assert_eq!(matches, by_nats, "{} on {}", topic, channel);
            if let Topic::Pattern(pattern) = &topic {
                // Redis may send more, never less.
                let by_redis = redis_matches(&redis.glob(&tenant, pattern), &redis.publish(&tenant, channel));
                let live = redis_matches(&redis.live_glob(&tenant, pattern), &redis.live(&tenant, channel));
                prop_assert!(!matches || (by_redis && live), "{} on {}", topic, channel);
            }
        }
    }

    #[test]
    fn a_pattern_that_covers_a_topic_matches_all_of_it(
        pattern in pattern(), topic in topic(), channels in prop::collection::vec(small_channel(), 20)
    ) {
        let covers = pattern.covers(&topic);
        for channel in channels.iter().filter(|channel| topic.matches(channel.as_str())) {
            prop_assert!(!covers || pattern.matches(channel.as_str()), "{pattern} {topic} {channel}");
        }
        // And where it does not cover, one of the topic's channels is outside: wildcards become a word of no pattern.
        let one = topic.as_str().replace("**", "z").replace('*', "z");
        let two = topic.as_str().replace("**", "z:z").replace('*', "z");
        prop_assert!(topic.matches(&one) && topic.matches(&two));
        prop_assert_eq!(covers, pattern.matches(&one) && pattern.matches(&two), "{} {}", pattern, topic);
    }

    #[test]
    fn escaping_makes_a_valid_segment_and_can_be_undone(text in "\\PC{1,16}|[a-z=.:*]{1,16}|.{1,8}") {
        let segment = escape_segment(&text);
        prop_assert_eq!(validate_channel(&segment).is_ok(), segment.len() <= limits::SEGMENT_BYTES);
        prop_assert_eq!(unescape(&segment), text.as_bytes());
        prop_assert!(!segment.contains(':'));
    }
}

/// `=XX` back to the byte: that it can be written shows that no two texts share a segment.
fn unescape(segment: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'=' {
            let hex = std::str::from_utf8(&after[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}
