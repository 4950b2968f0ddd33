//! The mapping between channels and the names that brokers use. It is one to one.
//!
//! | | NATS | Redis |
//! | --- | --- | --- |
//! | channel `project:clx123` of tenant `acme` | `rt.pub.acme.project.clx123` | `rt:pub:acme:project:clx123` |
//! | pattern `project:*` | `rt.pub.acme.project.*` | `rt:pub:acme:project:*` (crosses `:`, so the node filters) |
//! | pattern `project:**` | `rt.pub.acme.project.>` | `rt:pub:acme:project:*` |
//!
//! On NATS a namespace with history has a stream, which republishes the same below `rt.live.`; nodes listen there. What is
//! to be live only in such a namespace goes past the stream, below `rt.sig.`.
//!
//! What happens to connections and channels is told on `rt.event.{tenant}.{kind}`, on Redis `rt:event:{tenant}:{kind}`.
//!
//! Redis has the channels with history a second time, as `rt:live:{acme:project:clx123}`, and their keys beside it. What stands
//! between the braces decides in a cluster which node has them.

use crate::{Channel, NameError, Pattern, Tenant, Topic};

/// A broker's name that is no channel's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The name does not begin with the prefix and `pub`.
    #[error("{subject:?} is not below {expected:?}")]
    Foreign {
        /// The name as it came.
        subject: String,
        /// What it has to begin with.
        expected: String,
    },
    /// The tenant or the channel in it is not a valid name.
    #[error("{subject:?}: {reason}")]
    Name {
        /// The name as it came.
        subject: String,
        /// The rule that it breaks.
        reason: NameError,
    },
    /// A prefix that is not one plain segment.
    #[error("prefix {prefix:?}: {reason}")]
    Prefix {
        /// The prefix as configured.
        prefix: String,
        /// The rule that it breaks.
        reason: NameError,
    },
}

/// Channels as NATS subjects, and the names of the streams that keep their history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSubjects {
    names: Names<'.'>,
    /// The same below `rt.live.`, where streams republish what they have taken.
    live: Names<'.'>,
    /// The same below `rt.sig.`, which no stream takes.
    signals: Names<'.'>,
    /// `rt.event.`
    event: String,
    /// `RT_`
    stream: String,
}

/// Channels as Redis pub/sub channels, and as the keys of their history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisChannels {
    published: Names<':'>,
    prefix: String,
    /// `rt:live:{`
    live: String,
}

/// The stream of lifecycle events is called as that of a namespace of this name would be.
pub const EVENTS_NAMESPACE: &str = "EVENTS";

impl NatsSubjects {
    /// Subjects below `prefix` (`rt` unless configured), which is one segment.
    ///
    /// # Errors
    /// [`SubjectError::Prefix`] where it is not.
    pub fn new(prefix: &str) -> Result<Self, SubjectError> {
        Ok(Self {
            names: Names::new(prefix)?,
            live: Names { publish: format!("{prefix}.live.") },
            signals: Names { publish: format!("{prefix}.sig.") },
            event: format!("{prefix}.event."),
            stream: format!("{}_", prefix.to_ascii_uppercase()),
        })
    }

    /// `rt.pub.{tenant}.{segments joined by .}`
    pub fn publish(&self, tenant: &Tenant, channel: &Channel) -> String {
        self.names.publish(tenant, channel.as_str())
    }

    /// The subject to subscribe to for a topic without history: `*` stays, `**` becomes `>`.
    pub fn interest(&self, tenant: &Tenant, topic: &Topic) -> String {
        Self::wildcard(self.names.publish(tenant, topic.as_str()))
    }

    /// The same for a topic with history: what the stream has taken comes there, with its sequence.
    pub fn live_interest(&self, tenant: &Tenant, topic: &Topic) -> String {
        Self::wildcard(self.live.publish(tenant, topic.as_str()))
    }

    /// Where something is published that is live only, though the channel has history.
    pub fn signal(&self, tenant: &Tenant, channel: &Channel) -> String {
        self.signals.publish(tenant, channel.as_str())
    }

    /// The subject to subscribe to for what is live only of a topic with history.
    pub fn signal_interest(&self, tenant: &Tenant, topic: &Topic) -> String {
        Self::wildcard(self.signals.publish(tenant, topic.as_str()))
    }

    /// `rt.event.{tenant}.{kind}`
    pub fn event(&self, tenant: &Tenant, kind: &str) -> String {
        format!("{}{tenant}.{kind}", self.event)
    }

    /// All of those.
    pub fn events(&self) -> String {
        format!("{}>", self.event)
    }

    /// The stream that keeps them: `RT_EVENTS`.
    pub fn events_stream(&self) -> String {
        self.stream(EVENTS_NAMESPACE)
    }

    /// Tenant and channel of a subject, the inverse of [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`SubjectError`] where the subject is no channel's.
    pub fn parse_publish(&self, subject: &str) -> Result<(Tenant, Channel), SubjectError> {
        self.names.parse_publish(subject)
    }

    /// The same of the subject of something that is live only, the inverse of [`signal`](Self::signal).
    ///
    /// # Errors
    /// [`SubjectError`] where the subject is no channel's.
    pub fn parse_signal(&self, subject: &str) -> Result<(Tenant, Channel), SubjectError> {
        self.signals.parse_publish(subject)
    }

    /// Tenant and channel of a subject that a stream republishes on.
    ///
    /// # Errors
    /// [`SubjectError`] where the subject is no channel's.
    pub fn parse_live(&self, subject: &str) -> Result<(Tenant, Channel), SubjectError> {
        self.live.parse_publish(subject)
    }

    /// The stream that keeps the history of a namespace: `RT_{namespace}`.
    pub fn stream(&self, namespace: &str) -> String {
        format!("{}{namespace}", self.stream)
    }

    /// What that stream takes: all channels of the namespace, of all tenants.
    pub fn stream_subjects(&self, namespace: &str) -> [String; 2] {
        let all = format!("{}*.{namespace}", self.names.publish);
        [all.clone(), format!("{all}.>")]
    }

    /// From where to where a stream republishes: `rt.pub.>` and `rt.live.>`.
    pub fn republish(&self) -> [String; 2] {
        [&self.names, &self.live].map(|names| format!("{}>", names.publish))
    }

    fn wildcard(mut subject: String) -> String {
        if subject.ends_with("**") {
            subject.truncate(subject.len() - 2);
            subject.push('>');
        }
        subject
    }
}

impl RedisChannels {
    /// Names below `prefix` (`rt` unless configured), which is one segment.
    ///
    /// # Errors
    /// [`SubjectError::Prefix`] where it is not.
    pub fn new(prefix: &str) -> Result<Self, SubjectError> {
        let published = Names::new(prefix)?;
        Ok(Self { published, prefix: prefix.to_owned(), live: format!("{prefix}:live:{{") })
    }

    /// `rt:pub:{tenant}:{channel}`
    pub fn publish(&self, tenant: &Tenant, channel: &Channel) -> String {
        self.published.publish(tenant, channel.as_str())
    }

    /// The glob for PSUBSCRIBE. It matches at least what the pattern does; Redis' `*` crosses `:`, so the reader filters.
    pub fn glob(&self, tenant: &Tenant, pattern: &Pattern) -> String {
        single_star(self.published.publish(tenant, pattern.as_str()))
    }

    /// Tenant and channel of a Redis channel, the inverse of [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`SubjectError`] where the name is no channel's.
    pub fn parse_publish(&self, name: &str) -> Result<(Tenant, Channel), SubjectError> {
        self.published.parse_publish(name)
    }

    /// `rt:event:{tenant}:{kind}`
    pub fn event(&self, tenant: &Tenant, kind: &str) -> String {
        format!("{}:event:{tenant}:{kind}", self.prefix)
    }

    /// Where a channel with history is live: `rt:live:{acme:project:x}`, with these very braces, which put it into the slot
    /// of the channel's keys in a cluster.
    pub fn live(&self, tenant: &Tenant, channel: &Channel) -> String {
        self.tagged("live", tenant, channel)
    }

    /// As [`glob`](Self::glob), for what is live of channels with history.
    pub fn live_glob(&self, tenant: &Tenant, pattern: &Pattern) -> String {
        single_star(format!("{}{tenant}:{}", self.live, pattern.as_str())) + "}"
    }

    /// Whether a name is that of a channel with history that is live, or looks like it.
    pub fn is_live(&self, name: &str) -> bool {
        name.starts_with(&self.live)
    }

    /// Tenant and channel, the inverse of [`live`](Self::live).
    ///
    /// # Errors
    /// [`SubjectError`] where the name is no channel's.
    pub fn parse_live(&self, name: &str) -> Result<(Tenant, Channel), SubjectError> {
        let foreign = || SubjectError::Foreign { subject: name.into(), expected: self.live.clone() };
        let invalid = |reason| SubjectError::Name { subject: name.into(), reason };
        let tag = name.strip_prefix(&self.live).and_then(|rest| rest.strip_suffix('}')).ok_or_else(foreign)?;
        let (tenant, channel) = tag.split_once(':').ok_or_else(foreign)?;
        Ok((Tenant::parse(tenant).map_err(invalid)?, Channel::parse(channel).map_err(invalid)?))
    }

    /// The key of what is retained: `rt:hist:{acme:project:x}`.
    pub fn history_key(&self, tenant: &Tenant, channel: &Channel) -> String {
        self.tagged("hist", tenant, channel)
    }

    /// The key of what is known of the channel's numbering: `rt:meta:{acme:project:x}`.
    pub fn meta_key(&self, tenant: &Tenant, channel: &Channel) -> String {
        self.tagged("meta", tenant, channel)
    }

    /// The key of a publication's id: `rt:id:{acme:project:x}:` and the id as it is.
    pub fn id_key(&self, tenant: &Tenant, channel: &Channel, id: &str) -> String {
        let mut key = self.tagged("id", tenant, channel);
        key.push(':');
        key.push_str(id);
        key
    }

    fn tagged(&self, word: &str, tenant: &Tenant, channel: &Channel) -> String {
        format!("{}:{word}:{{{tenant}:{channel}}}", self.prefix)
    }
}

/// A glob without `**`, which means no more than `*` to Redis.
fn single_star(mut glob: String) -> String {
    if glob.ends_with("**") {
        glob.pop();
    }
    glob
}

/// Both brokers use the same words, joined by their own separator.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names<const SEPARATOR: char> {
    /// `rt.pub.`, separator included.
    publish: String,
}

impl<const SEPARATOR: char> Names<SEPARATOR> {
    fn new(prefix: &str) -> Result<Self, SubjectError> {
        Tenant::parse(prefix).map_err(|reason| SubjectError::Prefix { prefix: prefix.into(), reason })?;
        Ok(Self { publish: format!("{prefix}{SEPARATOR}pub{SEPARATOR}") })
    }

    fn publish(&self, tenant: &Tenant, topic: &str) -> String {
        let mut name = String::with_capacity(self.publish.len() + tenant.as_str().len() + 1 + topic.len());
        name.push_str(&self.publish);
        name.push_str(tenant.as_str());
        name.push(SEPARATOR);
        name.extend(topic.chars().map(|c| if c == ':' { SEPARATOR } else { c }));
        name
    }

    fn parse_publish(&self, name: &str) -> Result<(Tenant, Channel), SubjectError> {
        let foreign = || SubjectError::Foreign { subject: name.into(), expected: self.publish.clone() };
        let invalid = |reason| SubjectError::Name { subject: name.into(), reason };
        let rest = name.strip_prefix(&self.publish).ok_or_else(foreign)?;
        let (tenant, segments) = rest.split_once(SEPARATOR).ok_or_else(foreign)?;
        let tenant = Tenant::parse(tenant).map_err(invalid)?;
        // A ':' inside a NATS token would otherwise pass as a separator and break the bijection.
        if SEPARATOR != ':' && segments.contains(':') {
            return Err(invalid(NameError::Character { character: ':' }));
        }
        let channel =
            if SEPARATOR == ':' { Channel::parse(segments) } else { Channel::parse(&segments.replace(SEPARATOR, ":")) };
        Ok((tenant, channel.map_err(invalid)?))
    }
}
