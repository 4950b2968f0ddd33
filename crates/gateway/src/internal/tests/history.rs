//! Positions and history through the API, over the memory broker.

use fanfare_broker::{BrokerOptions, memory::Memory};

use super::*;

const ENVIRONMENT: [(&str, &str); 6] = [
    ("FANFARE_API_KEYS", KEY),
    ("FANFARE_AUTH__HMAC_SECRET", "0123456789abcdef0123456789abcdef"),
    ("FANFARE_BROKER", "memory:"),
    ("FANFARE_NAMESPACES__LOG__HISTORY__SIZE", "4"),
    ("FANFARE_LIMITS__RECOVERY_PUBLICATIONS", "10"),
    ("FANFARE_LIMITS__OUTBOX_BYTES", "1MiB"),
];

struct Kept {
    port: Port,
    broker: Memory,
    epoch: String,
}

impl Kept {
    async fn new() -> Self {
        let config = load(&ENVIRONMENT);
        let broker = Memory::with_history(BrokerOptions::from(&config).history);
        let port = Port::over(&config, broker.attach().0, Arc::default());
        let first = value(&port.post("/api/publish", r#"{"channel":"log:first","event":"e"}"#).await);
        Self { port, broker, epoch: first["epoch"].as_str().unwrap().to_owned() }
    }

    /// Publishes numbers on `log:a`, the first of which is 1.
    async fn publish(&self, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            let body = format!(r#"{{"channel":"log:a","event":"e","data":{number},"timestamp":7}}"#);
            let answer = self.port.post("/api/publish", &body).await;
            assert_eq!(answer.text, format!(r#"{{"offset":{number},"epoch":"{}"}}"#, self.epoch));
        }
    }

    async fn get(&self, query: &str) -> Answer {
        self.port.send("GET", &format!("/api/history?{query}"), &[("x-api-key", KEY)], "").await
    }

    /// The offsets of a page, and `more`, `recovered` and the channel's own offset.
    async fn page(&self, query: &str) -> (Vec<u64>, Value, Value, u64) {
        let answer = self.get(query).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let page = value(&answer);
        let offsets = page["publications"].as_array().unwrap().iter().map(|one| one["offset"].as_u64().unwrap());
        let more = page["more"].clone();
        let recovered = page.get("recovered").cloned().unwrap_or_default();
        (offsets.collect(), more, recovered, page["position"]["offset"].as_u64().unwrap())
    }
}

fn value(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text).unwrap()
}

#[tokio::test]
async fn each_of_several_is_answered_with_its_position() {
    let Kept { port, epoch, .. } = Kept::new().await;
    let body = r#"{"channels":["log:a","live:a","log:b"],"event":"e"}"#;
    assert_eq!(
        port.post("/api/broadcast", body).await.text,
        format!(
            r#"{{"results":[{{"channel":"log:a","offset":1,"epoch":"{epoch}"}},{{"channel":"live:a"}},{{"channel":"log:b","offset":1,"epoch":"{epoch}"}}]}}"#
        )
    );
    let body = r#"{"publications":[{"channel":"log:a","event":"e","id":"i"},{"channel":"log:a"},{"channel":"log:a","event":"e","id":"i"},{"channel":"live:a","event":"e"}]}"#;
    let results = value(&port.post("/api/batch", body).await)["results"].take();
    let second = serde_json::json!({ "offset": 2, "epoch": epoch });
    assert_eq!((&results[0], &results[2], &results[3]), (&second, &second, &serde_json::json!({})));
    assert_eq!(results[1]["error"]["code"], "BAD_REQUEST");
}

#[tokio::test]
async fn a_page_is_what_clients_get() {
    let kept = Kept::new().await;
    kept.publish(1..=2).await;
    let epoch = &kept.epoch;
    let publication = |offset: u64| {
        format!(
            r#"{{"event":"e","channel":"log:a","data":{offset},"timestamp":7,"offset":{offset},"epoch":"{epoch}"}}"#
        )
    };
    assert_eq!(
        kept.get("channel=log:a").await.text,
        format!(
            r#"{{"publications":[{},{}],"position":{{"offset":2,"epoch":"{epoch}"}},"more":false}}"#,
            publication(1),
            publication(2)
        )
    );
    let nothing = kept.get(&format!("channel=log:a&since={epoch}.2&tenant=default")).await.text;
    assert_eq!(
        nothing,
        format!(r#"{{"publications":[],"position":{{"offset":2,"epoch":"{epoch}"}},"more":false,"recovered":true}}"#)
    );
    assert_eq!(kept.page("channel=log:a&tenant=other").await.0, [0_u64; 0]);
}

#[tokio::test]
async fn history_is_paged_both_ways() {
    let kept = Kept::new().await;
    kept.publish(1..=6).await;
    let (yes, no, none) = (Value::Bool(true), Value::Bool(false), Value::Null);
    let page = async |query: &str| kept.page(&format!("channel=log:a&{}", query.replace('$', &kept.epoch))).await;
    assert_eq!(page("limit=3").await, (vec![4, 5, 6], yes.clone(), none.clone(), 6));
    assert_eq!(page("limit=3&before=$.4").await, (vec![3], no.clone(), none.clone(), 6));
    assert_eq!(page("limit=2&since=$.2").await, (vec![3, 4], yes.clone(), yes.clone(), 6));
    assert_eq!(page("limit=2&since=$.4").await, (vec![5, 6], no.clone(), yes, 6));
    // What lies behind offset 1 is partly gone, and offset 7 has never been.
    assert_eq!(page("limit=2&since=$.1").await.2, no);
    assert_eq!(page("since=$.7").await, (vec![3, 4, 5, 6], no.clone(), no.clone(), 6));
}

#[tokio::test]
async fn positions_of_another_epoch_are_told_apart() {
    let kept = Kept::new().await;
    kept.publish(1..=3).await;
    assert_eq!(kept.page("channel=log:a&since=other.2").await.0, [1, 2, 3]);
    assert_eq!(kept.page("channel=log:a&since=other.2").await.2, false);
    let before = kept.get("channel=log:a&before=other.2").await;
    let message = format!(
        "before is of epoch other, and the channel's is {}: its numbering began anew; ask without before",
        kept.epoch
    );
    assert_eq!(before.error(), error(404, "NOT_FOUND", &message));
    kept.broker.begin_anew();
    assert_eq!(kept.page(&format!("channel=log:a&since={}.2", kept.epoch)).await.2, false);
}

#[tokio::test]
async fn what_is_no_envelope_is_passed_over_and_paging_goes_on() {
    let kept = Kept::new().await;
    kept.publish(1..=1).await;
    let (broker, _events) = kept.broker.attach();
    let (tenant, channel) = (Default::default(), fanfare_protocol::Channel::parse("log:a").unwrap());
    for _ in 0..2 {
        let body = bytes::Bytes::from_static(b"no envelope");
        let publish =
            Publish { tenant: Clone::clone(&tenant), channel: channel.clone(), body, id: None, ephemeral: false };
        broker.publish(publish).await.unwrap();
    }
    kept.publish(4..=4).await;
    let epoch = &kept.epoch;
    assert_eq!(kept.page(&format!("channel=log:a&limit=1&since={epoch}.1")).await.0, [4]);
    assert_eq!(kept.page(&format!("channel=log:a&limit=1&before={epoch}.4")).await.0, [1]);
    assert_eq!(kept.page("channel=log:a&limit=4").await.0, [1, 4]);
}

#[tokio::test]
async fn an_answer_is_cut_to_what_an_outbox_takes() {
    let kept = Kept::new().await;
    let large = "x".repeat(300_000);
    for _ in 0..4 {
        let body = format!(r#"{{"channel":"log:a","event":"e","data":"{large}"}}"#);
        assert_eq!(kept.port.post("/api/publish", &body).await.status, 200);
    }
    let yes = Value::Bool(true);
    assert_eq!(kept.page("channel=log:a").await, (vec![4], yes.clone(), Value::Null, 4));
    assert_eq!(kept.page(&format!("channel=log:a&since={}.0", kept.epoch)).await, (vec![1], yes.clone(), yes, 4));
}

#[tokio::test]
async fn what_is_refused() {
    let kept = Kept::new().await;
    let text = r#"history is not possible: channels of namespace "live" keep no history"#;
    assert_eq!(kept.get("channel=live:a").await.error(), error(400, "BAD_REQUEST", text));
    let text = "limit is 11; allowed are 1 to 10 (limits.recovery_publications)";
    assert_eq!(kept.get("channel=log:a&limit=11").await.error(), error(413, "LIMIT_EXCEEDED", text));
    let without_key = kept.port.send("GET", "/api/history?channel=log:a", &[], "").await;
    assert_eq!(without_key.error(), error(401, "UNAUTHORIZED", "X-API-Key is missing"));
    let posted = kept.port.post("/api/history", "").await;
    assert_eq!(posted.status, 405);
}
