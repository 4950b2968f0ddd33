//! What this node's shards have, put together for a service. Each shard is asked for one part of its table after the other, so that
//! deliveries go on between them.

use std::{collections::BTreeMap, future::Future, time::Duration};

use fanfare_protocol::{ErrorBody, ErrorCode, Tenant, Topic};
use fanfare_session::SessionId;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::hub::{
    ShardInbox,
    message::{ConnectionReport, Inspected, Inspection, Inspector, ShardMessage},
};

/// Services that are answered at one time; others wait.
const AT_ONCE: usize = 2;
/// How long all shards together may take, and how long a service waits for others.
const TIME: Duration = Duration::from_secs(5);

/// The node's shards, as the API asks them.
#[derive(Debug)]
pub(super) struct Shards {
    inboxes: Vec<ShardInbox>,
    turns: Semaphore,
    time: Duration,
}

/// A shard has ended, and the node is about to.
struct Ended;

/// A page of topics.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TopicPage {
    /// With the connections that are subscribed, of all shards, in the order of names.
    pub(super) topics: Vec<(Topic, usize)>,
    /// Whether there are more behind them.
    pub(super) more: bool,
}

impl Shards {
    pub(super) fn new(inboxes: Vec<ShardInbox>) -> Self {
        Self { inboxes, turns: Semaphore::new(AT_ONCE), time: TIME }
    }

    /// Topics of a tenant with subscribers on this node, whose names begin with `prefix` and come behind `after`.
    pub(super) async fn topics(
        &self,
        tenant: &Tenant,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<TopicPage, ErrorBody> {
        let mut found: BTreeMap<Box<str>, (Topic, usize)> = BTreeMap::new();
        let question = |from, answer| {
            let (prefix, after) = (prefix.into(), after.into());
            Inspection::Topics { tenant: tenant.clone(), prefix, after, from, answer }
        };
        // One more than is wanted shows whether there are more. What was left out once is behind all that stays, so nothing of a
        // shard that answered before is missing from the sums.
        self.ask(question, |count| {
            let name = count.topic.as_str();
            if let Some((_, subscribers)) = found.get_mut(name) {
                *subscribers += count.subscribers;
                return;
            }
            found.insert(name.into(), (count.topic, count.subscribers));
            if found.len() > limit + 1 {
                found.pop_last();
            }
        })
        .await?;
        let more = found.len() > limit;
        Ok(TopicPage { topics: found.into_values().take(limit).collect(), more })
    }

    /// A user's connections on this node, in the order of their sessions: at most `limit` behind `after`, and whether there are more.
    pub(super) async fn connections(
        &self,
        tenant: &Tenant,
        user: &str,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<(Vec<ConnectionReport>, bool), ErrorBody> {
        let mut found = BTreeMap::new();
        let question =
            |from, answer| Inspection::Connections { tenant: tenant.clone(), user: user.into(), from, answer };
        self.ask(question, |report: ConnectionReport| {
            if after.is_none_or(|after| after.0 < report.session.0) {
                found.insert(report.session.0, report);
            }
            if found.len() > limit + 1 {
                found.pop_last();
            }
        })
        .await?;
        let more = found.len() > limit;
        Ok((found.into_values().take(limit).collect(), more))
    }

    /// Asks every shard for all of its table.
    async fn ask<T>(
        &self,
        question: impl Fn(usize, Inspector<T>) -> Inspection,
        mut take: impl FnMut(T),
    ) -> Result<(), ErrorBody> {
        let all = async {
            let _turn = self.turns.acquire().await.map_err(|_| Ended)?;
            for inbox in &self.inboxes {
                let mut from = Some(0);
                while let Some(place) = from {
                    let part = self.part(inbox, |answer| question(place, answer)).await?;
                    part.found.into_iter().for_each(&mut take);
                    from = part.next;
                }
            }
            Ok(())
        };
        self.in_time(all).await
    }

    async fn part<T>(
        &self,
        inbox: &ShardInbox,
        question: impl FnOnce(Inspector<T>) -> Inspection,
    ) -> Result<Inspected<T>, Ended> {
        let (answer, answered) = oneshot::channel();
        if !inbox.send(ShardMessage::Inspect(Box::new(question(answer)))).await {
            return Err(Ended);
        }
        answered.await.map_err(|_| Ended)
    }

    async fn in_time(&self, all: impl Future<Output = Result<(), Ended>>) -> Result<(), ErrorBody> {
        match timeout(self.time, all).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Ended)) => Err(ErrorBody::new(ErrorCode::Unavailable, "the node is going away")),
            Err(_) => {
                let message = format!("the node's shards have not answered within {:?}; try again", self.time);
                Err(ErrorBody::new(ErrorCode::Unavailable, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{ShardInboxReceiver, message::TopicCount, shard_inbox};

    /// A shard that answers from a list, two places at a time, and looks at every place.
    async fn shard(mut inbox: ShardInboxReceiver, topics: Vec<(&'static str, usize)>, sessions: Vec<u128>) {
        let mut batch = Vec::new();
        let part = |length: usize, from: usize| (from..(from + 2).min(length), (from + 2 < length).then_some(from + 2));
        while inbox.recv_many(&mut batch, 1).await > 0 {
            let Some(ShardMessage::Inspect(inspection)) = batch.pop() else { panic!("nothing else is asked") };
            match *inspection {
                Inspection::Topics { after, from, answer, .. } => {
                    let (places, next) = part(topics.len(), from);
                    let behind = |(name, _): &&(&str, usize)| **name > *after;
                    let found = topics[places].iter().filter(behind).map(|(name, subscribers)| TopicCount {
                        topic: Topic::parse(name).unwrap(),
                        subscribers: *subscribers,
                    });
                    answer.send(Inspected { found: found.collect(), next }).unwrap();
                }
                Inspection::Connections { from, answer, .. } => {
                    let (places, next) = part(sessions.len(), from);
                    let found = sessions[places].iter().map(|id| ConnectionReport {
                        session: SessionId(*id),
                        is_stream: false,
                        subscriptions: 0,
                        topics: Vec::new(),
                    });
                    answer.send(Inspected { found: found.collect(), next }).unwrap();
                }
            }
        }
    }

    /// What a shard has: topics with their subscribers, and sessions.
    type Table = (Vec<(&'static str, usize)>, Vec<u128>);

    fn shards(parts: Vec<Table>) -> Shards {
        let inboxes = parts.into_iter().map(|(topics, sessions)| {
            let (inbox, receiver) = shard_inbox(1);
            tokio::spawn(shard(receiver, topics, sessions));
            inbox
        });
        Shards::new(inboxes.collect())
    }

    #[tokio::test]
    async fn pages_of_all_shards_together_are_in_order_and_add_up() {
        let shards = shards(vec![
            (vec![("e", 1), ("b", 2), ("d", 1), ("a", 1), ("c", 5)], vec![3, 1, 2]),
            (vec![("c", 1), ("f", 7), ("b", 3)], vec![5, 4]),
            (vec![], vec![]),
        ]);
        let page = async |after: &str, limit| {
            let page = shards.topics(&Tenant::default(), "", after, limit).await.unwrap();
            let names = page.topics.iter().map(|(topic, count)| format!("{}{count}", topic.as_str()));
            (names.collect::<Vec<_>>().join(" "), page.more)
        };
        assert_eq!(page("", 10).await, ("a1 b5 c6 d1 e1 f7".into(), false));
        assert_eq!(page("", 6).await, ("a1 b5 c6 d1 e1 f7".into(), false));
        assert_eq!(page("", 2).await, ("a1 b5".into(), true));
        assert_eq!(page("b", 2).await, ("c6 d1".into(), true));
        assert_eq!(page("d", 2).await, ("e1 f7".into(), false));
        let sessions = async |after: Option<u128>, limit| {
            let after = after.map(SessionId);
            let (found, more) = shards.connections(&Tenant::default(), "alice", after, limit).await.unwrap();
            (found.iter().map(|own| own.session.0).collect::<Vec<_>>(), more)
        };
        assert_eq!(sessions(None, 5).await, (vec![1, 2, 3, 4, 5], false));
        assert_eq!(sessions(None, 2).await, (vec![1, 2], true));
        assert_eq!(sessions(Some(2), 2).await, (vec![3, 4], true));
        assert_eq!(sessions(Some(3), 2).await, (vec![4, 5], false));
    }

    #[tokio::test]
    async fn a_shard_that_does_not_answer_or_has_ended_is_told() {
        let (inbox, receiver) = shard_inbox(8);
        let shards = Shards { time: Duration::from_millis(20), ..Shards::new(vec![inbox]) };
        let error = shards.topics(&Tenant::default(), "", "", 1).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert_eq!(error.message, "the node's shards have not answered within 20ms; try again");
        drop(receiver);
        let error = shards.topics(&Tenant::default(), "", "", 1).await.unwrap_err();
        assert_eq!(error.message, "the node is going away");
    }
}
