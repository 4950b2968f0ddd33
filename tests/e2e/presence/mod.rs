//! Who is here: nodes as processes with one store of presence, clients that keep what they are told, and faults.

mod bad_input;
mod crowd;
mod crowded;
mod dead_node;
mod dialects;
mod failover;
mod leaves;
mod overview;
mod own_channel;
mod parted;
mod rolling;
mod scene;
mod signals;
mod states;
mod still;
mod store;
mod store_faults;
mod view;
mod watcher;

use serde_json::{Value, json};

use crate::{
    node::{Node, NodeBuilder},
    token,
};

/// The tenant of all these tests.
const TENANT: &str = "acme";

/// A node whose namespaces `crew` and `desk` have presence. Its name is what its rows in the store say.
fn node(name: &str, broker: &str, store: &str) -> NodeBuilder {
    Node::builder(broker)
        .set("node", name)
        .set("store", store)
        .set("namespaces.crew.presence", true)
        .set("namespaces.crew.signal", "subscribers")
        .set("namespaces.desk.presence", true)
}

/// The claims of a user who may do everything in `crew`, and be on `desk:*` without seeing who else is.
fn claims(user: &str) -> Value {
    json!({
        "sub": user,
        "tenant": TENANT,
        "exp": token::seconds_from_now(3600.0),
        "channels": [
            { "match": "crew:**", "allow": ["subscribe", "publish", "presence", "history"] },
            { "match": "desk:**", "allow": ["subscribe"] },
            { "match": "project:**", "allow": ["subscribe", "presence"] },
        ],
    })
}
