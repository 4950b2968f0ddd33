//! The whole history of a channel, as a client reads it page by page.

use std::net::SocketAddr;

use fanfare_checker::Position;
use serde_json::{Value, json};

use super::{TENANT, logical_client::position_in};
use crate::handshake::{Handshake, TokenPlace};

/// Everything that is retained, oldest first: ids and positions.
pub(super) async fn read_history(node: SocketAddr, channel: &str, limit: usize) -> Vec<(String, Position)> {
    let mut client = Handshake::new(node).connect(TENANT, "historian", TokenPlace::Header).await;
    let mut pages = Vec::new();
    let mut before: Option<Position> = None;
    loop {
        let mut command = json!({ "type": "history", "channel": channel, "limit": limit });
        if let Some(Position { offset, epoch }) = &before {
            command["before"] = json!({ "offset": offset, "epoch": **epoch });
        }
        let reply = client.command(command).await;
        let result = &reply["result"];
        let page = publications_in(result).unwrap_or_else(|| panic!("{reply}"));
        assert!(page.len() <= limit, "{} are more than {limit}", page.len());
        before = page.first().map(|(_, position)| position.clone()).or(before);
        let more = result["more"].as_bool().unwrap_or_else(|| panic!("{reply}"));
        assert!(!more || !page.is_empty(), "an empty page before more: {reply}");
        pages.push(page);
        if !more {
            return pages.into_iter().rev().flatten().collect();
        }
    }
}

/// Ids and positions of the publications in a reply.
pub(super) fn publications_in(result: &Value) -> Option<Vec<(String, Position)>> {
    let publications = result["publications"].as_array()?.iter();
    publications.map(|one| Some((one["id"].as_str()?.to_owned(), position_in(one)?))).collect()
}
