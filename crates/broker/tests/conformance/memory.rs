//! The memory adapter.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_broker::{Broker, BrokerOptions, Events, Publish, memory::Memory};
use fanfare_protocol::{Channel, Tenant};

use crate::{
    fixture::{Fixture, Outside},
    node::Node,
};

pub(crate) struct MemoryFixture(Memory);

impl Fixture for MemoryFixture {
    const NAME: &'static str = "memory";

    async fn start() -> Self {
        Self(Memory::new())
    }

    async fn connect(&self) -> (Arc<dyn Broker>, Events) {
        self.0.attach()
    }

    /// There is no other way in than a node's.
    async fn outside(&self) -> Box<dyn Outside> {
        Box::new(Attached(self.0.attach().0))
    }

    async fn subscriptions(&self) -> usize {
        self.0.interests()
    }

    /// There are no connections; a node is attached while it holds interests.
    async fn connections(&self) -> usize {
        self.0.interests()
    }
}

struct Attached(Arc<dyn Broker>);

#[async_trait::async_trait]
impl Outside for Attached {
    async fn publish(&self, tenant: &str, channel: &str, body: Bytes) -> bool {
        let (tenant, channel) = (Tenant::parse(tenant).unwrap(), Channel::parse(channel).unwrap());
        self.0.publish(Publish { tenant, channel, body, id: None }).await.is_ok()
    }

    async fn flush(&self) {}
}

crate::every_broker!(MemoryFixture);

#[tokio::test]
async fn is_opened_by_its_url() {
    let mut node = Node::over(fanfare_broker::open(&BrokerOptions::default()).await.unwrap());
    assert_eq!(node.broker.name(), "memory");
    node.add("acme", "a:b").await;
    node.publish("a:b", "x").await.unwrap();
    assert_eq!(node.publication().await.body.bytes, "x");
    node.close().await;
}
