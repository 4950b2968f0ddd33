//! names.json: channels, patterns, segments and their names at the brokers.

use fanfare_protocol::{Channel, NatsSubjects, Pattern, RedisChannels, Tenant, Topic, escape_segment};
use serde::Deserialize;

use crate::{Differences, read};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    channels: Vec<String>,
    invalid_channels: Vec<Invalid>,
    patterns: Vec<String>,
    invalid_patterns: Vec<Invalid>,
    matches: Vec<Matches>,
    covers: Vec<Covers>,
    segments: Vec<Escaped>,
    subjects: Vec<Subject>,
    interests: Vec<Interest>,
    foreign_subjects: Vec<Foreign>,
}

#[derive(Deserialize)]
struct Invalid {
    name: String,
    message: String,
}

#[derive(Deserialize)]
struct Matches {
    pattern: String,
    channel: String,
    matches: bool,
}

#[derive(Deserialize)]
struct Covers {
    pattern: String,
    topic: String,
    covers: bool,
}

#[derive(Deserialize)]
struct Escaped {
    text: String,
    segment: String,
}

#[derive(Deserialize)]
struct Subject {
    tenant: String,
    channel: String,
    nats: String,
    redis: String,
}

#[derive(Deserialize)]
struct Interest {
    tenant: String,
    topic: String,
    nats: String,
    /// Of a pattern: the glob of PSUBSCRIBE.
    redis: Option<String>,
}

#[derive(Deserialize)]
struct Foreign {
    broker: String,
    subject: String,
    message: String,
}

fn names() -> Names {
    read("names.json")
}

fn message<T, E: std::fmt::Display>(outcome: Result<T, E>) -> Option<String> {
    outcome.err().map(|error| error.to_string())
}

#[test]
fn channels_and_patterns_are_judged_as_written() {
    let mut differences = Differences::default();
    let names = names();
    for name in &names.channels {
        differences.expect(name, "the refusal", message(Channel::parse(name)), None);
    }
    for name in &names.patterns {
        differences.expect(name, "the refusal", message(Pattern::parse(name)), None);
    }
    for Invalid { name, message: expected } in &names.invalid_channels {
        differences.expect(name, "the refusal", message(Channel::parse(name)), Some(expected.clone()));
    }
    for Invalid { name, message: expected } in &names.invalid_patterns {
        differences.expect(name, "the refusal", message(Pattern::parse(name)), Some(expected.clone()));
    }
    differences.report();
}

#[test]
fn patterns_match_cover_and_escape_as_written() {
    let mut differences = Differences::default();
    let names = names();
    for Matches { pattern, channel, matches } in &names.matches {
        let actual = Pattern::parse(pattern).unwrap().matches(channel);
        differences.expect(pattern, channel, actual, *matches);
    }
    for Covers { pattern, topic, covers } in &names.covers {
        let actual = Pattern::parse(pattern).unwrap().covers(&Topic::parse(topic).unwrap());
        differences.expect(pattern, topic, actual, *covers);
    }
    for Escaped { text, segment } in &names.segments {
        differences.expect(text, "the segment", &escape_segment(text), segment);
    }
    differences.report();
}

#[test]
fn channels_and_subjects_map_as_written_both_ways() {
    let mut differences = Differences::default();
    let names = names();
    let (nats, redis) = (NatsSubjects::new("rt").unwrap(), RedisChannels::new("rt").unwrap());
    for subject in &names.subjects {
        let tenant = Tenant::parse(&subject.tenant).unwrap();
        let channel = Channel::parse(&subject.channel).unwrap();
        differences.expect(&subject.channel, "NATS' subject", &nats.publish(&tenant, &channel), &subject.nats);
        differences.expect(&subject.channel, "Redis' channel", &redis.publish(&tenant, &channel), &subject.redis);
        let both = Ok((tenant, channel));
        differences.expect(&subject.nats, "the channel", &nats.parse_publish(&subject.nats), &both);
        differences.expect(&subject.redis, "the channel", &redis.parse_publish(&subject.redis), &both);
    }
    for interest in &names.interests {
        let tenant = Tenant::parse(&interest.tenant).unwrap();
        let topic = Topic::parse(&interest.topic).unwrap();
        differences.expect(&interest.topic, "NATS' interest", &nats.interest(&tenant, &topic), &interest.nats);
        let glob = match &topic {
            Topic::Channel(_) => None,
            Topic::Pattern(pattern) => Some(redis.glob(&tenant, pattern)),
        };
        differences.expect(&interest.topic, "Redis' glob", &glob, &interest.redis);
    }
    for Foreign { broker, subject, message: expected } in &names.foreign_subjects {
        let actual = match broker.as_str() {
            "nats" => message(nats.parse_publish(subject)),
            "redis" => message(redis.parse_publish(subject)),
            other => panic!("{other} is no broker"),
        };
        differences.expect(subject, "the refusal", actual, Some(expected.clone()));
    }
    differences.report();
}
