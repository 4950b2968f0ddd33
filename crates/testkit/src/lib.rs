//! Dev only: real brokers on free ports, and wait-for helpers.
//!
//! Every server that is started here has a private directory and a loopback address of its own, and ends with its
//! owner. Tests never touch a server that they did not start. Linux only: other systems have one loopback address.
//!
//! A fault in the kit's own work (a missing program, a server that does not start) is a panic that says what to do
//! about it: a test that cannot run has failed, it is never skipped.
//!
//! ```no_run
//! use std::time::Duration;
//! use fanfare_testkit::{NatsServer, TcpProxy, wait_until};
//!
//! # async fn example() {
//! let nats = NatsServer::builder().password("gateway", "secret").start().await;
//! let proxy = TcpProxy::start(nats.address()); // clients connect to proxy.address()
//! proxy.pause(); // the network is parted
//! proxy.resume();
//! nats.restart().await; // the same address, configuration and data
//! wait_until("the client's return", Duration::from_secs(5), || proxy.connections() == 1).await;
//! # }
//! ```

mod launch;
pub mod nats;
pub mod process;
pub mod proxy;
pub mod redis;
mod spawner;
pub mod tls;
pub mod wait;

pub use nats::NatsServer;
pub use process::Process;
pub use proxy::TcpProxy;
pub use redis::{RedisCluster, RedisSentinel, RedisServer};
pub use wait::{wait_for, wait_for_blocking, wait_until};

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_can_be_handled_by_tasks() {
        tokio::spawn(async {
            let (nats, redis) = tokio::join!(NatsServer::start(), RedisServer::start());
            tokio::join!(nats.restart(), redis.restart());
            nats.stop().await;
            redis.stop().await;
            assert!(!nats.process().is_running() && !redis.process().is_running());
        })
        .await
        .unwrap();
    }
}
