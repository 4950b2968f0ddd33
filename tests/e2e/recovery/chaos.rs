//! Clients that come and go, nodes that are killed, brokers that are killed or parted from a node, while publishers go on:
//! nothing lost, nothing twice, nothing out of order.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_checker::{ClientLog, Run, Summary};
use fanfare_testkit::wait_until;
use fastrand::Rng;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    chaos_faults::{Faults, Plan},
    history_broker::HistoryBroker,
    logical_client::{Habits, LogicalClient, Lost, MARK},
    publishing::{NodeTable, Publishing},
    retained::read_history,
    rules,
};
use crate::MACHINE;

const CLIENTS: usize = 200;
const CHANNELS: usize = 20;
const CHANNELS_PER_CLIENT: usize = 4;
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// How long faults go on, in seconds; [`SHORT_SECONDS`] where it is not set.
const SECONDS_VARIABLE: &str = "FANFARE_CHAOS_SECONDS";
/// What chance begins from; another number each time where it is not set.
const SEED_VARIABLE: &str = "FANFARE_CHAOS_SEED";
const SHORT_SECONDS: u64 = 18;

/// After the last fault everyone has everything within this time.
const WHOLE_AGAIN: Duration = Duration::from_secs(60);
/// The longest that a client stays away of its own.
const AWAY_AT_MOST: Duration = Duration::from_millis(1_500);
/// Before a client that was refused or found nobody tries again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats() {
    let _alone = MACHINE.lock().await;
    chaos(Some(HistoryBroker::nats().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    let _alone = MACHINE.lock().await;
    chaos(Some(HistoryBroker::redis().await)).await;
}

/// One node with its broker inside: only clients come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    let _alone = MACHINE.lock().await;
    chaos(None).await;
}

/// What a client's task is told.
enum Told {
    /// To go away for a while, and come back to another node.
    Leave(Duration),
    /// That it is over.
    Stop,
}

struct Clients {
    tasks: JoinSet<ClientLog>,
    told: Vec<mpsc::UnboundedSender<Told>>,
    /// Channels of clients on which the marks have come, by mark.
    marked: Arc<[AtomicUsize; 2]>,
}

const MARKS: [&str; 2] = ["mark:end", "mark:over"];

async fn chaos(broker: Option<HistoryBroker>) {
    let seconds = number(SECONDS_VARIABLE).unwrap_or(if broker.is_some() { SHORT_SECONDS } else { 6 });
    let seed = number(SEED_VARIABLE).unwrap_or_else(|| fastrand::u64(..));
    let name = broker.as_ref().map_or_else(|| "the embedded broker".to_owned(), HistoryBroker::to_string);
    println!("{name}: {SEED_VARIABLE}={seed} {SECONDS_VARIABLE}={seconds}");
    let mut rng = Rng::with_seed(seed);
    let clock = Instant::now();
    let broker = broker.map(Arc::new);
    let plan = Plan::lasting(Duration::from_secs(seconds), broker.is_some());
    let nodes = NodeTable::new(plan.nodes);
    let faults = Faults::start(plan, broker.clone(), Arc::clone(&nodes)).await;

    let channels: Vec<_> = (0..CHANNELS).map(|index| format!("log:c{index}")).collect();
    let clients = Clients::start(&channels, &nodes, clock, &mut rng);
    let publishing = Publishing::new(broker, Arc::clone(&nodes), clock);
    let stop = AtomicBool::new(false);
    let publishers = publishing.run(&channels, PUBLISH_EVERY, &stop, rng.fork());
    let trouble = async {
        let leave = |client: usize, away: Duration| clients.tell(client, Told::Leave(away));
        let done = faults.carry_out(CLIENTS, AWAY_AT_MOST, leave, rng.fork()).await;
        stop.store(true, Ordering::Relaxed);
        done
    };
    let (done, ()) = tokio::join!(trouble, publishers);

    let mut whole = Ok(());
    let healed = Instant::now();
    for (index, mark) in MARKS.into_iter().enumerate() {
        publishing.mark(&channels, mark).await;
        whole = whole.and(clients.marked(index).await);
    }
    let whole_after = healed.elapsed();
    let mut run = Run::new().rules("log", rules());
    for log in clients.stop().await {
        run.client(log);
    }
    let mut sizes = Vec::new();
    let node = nodes.any_but(None, &mut rng).expect("all nodes run");
    for channel in &channels {
        let history = read_history(node.public, channel, 100).await;
        sizes.push(history.len());
        run.retained(clock.elapsed(), channel, history);
    }
    run.publisher(publishing.into_log());
    let summary = run.check().unwrap_or_else(|report| panic!("{name}, seed {seed}: {done}\n{report}"));
    println!(
        "{name}: {seconds} s, {done}; whole again {whole_after:.1?} after the last fault\n  {summary}\n  histories of {} to {}",
        sizes.iter().min().expect("there are channels"),
        sizes.iter().max().expect("there are channels"),
    );
    whole.unwrap_or_else(|missing| panic!("{name}, seed {seed}: {missing}"));
    let Summary { accepted, disconnects, recovered, not_recovered, gaps, .. } = summary;
    assert!(disconnects >= done.disconnects && recovered >= done.disconnects, "{summary:?}");
    assert_eq!((not_recovered, gaps), (0, 0), "everything was retained: {summary:?}");
    let ticks = Duration::from_secs(seconds).as_millis() / PUBLISH_EVERY.as_millis();
    assert!(accepted as u128 >= ticks / 2, "{accepted} accepted publications are no steady rate");
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error}")))
}

impl Clients {
    fn start(channels: &[String], nodes: &Arc<NodeTable>, clock: Instant, rng: &mut Rng) -> Self {
        let mut own = Self { tasks: JoinSet::new(), told: Vec::new(), marked: Arc::default() };
        for index in 0..CLIENTS {
            let channels =
                (0..CHANNELS_PER_CLIENT).map(|nth| channels[(index + nth * nth) % CHANNELS].clone()).collect();
            let habits = Habits { msgpack: index % 5 == 0, by_list: index % 2 == 0, ..Habits::default() };
            let client = LogicalClient::new(format!("client{index}"), channels, clock).habits(habits);
            let (tell, told) = mpsc::unbounded_channel();
            own.tasks.spawn(live(client, Arc::clone(nodes), told, Arc::clone(&own.marked), rng.fork()));
            own.told.push(tell);
        }
        own
    }

    fn tell(&self, client: usize, what: Told) {
        // It fails only for a task that panicked, which shows when it is waited for.
        let _ = self.told[client].send(what);
    }

    /// Waits until a mark has come to every client on every channel.
    async fn marked(&self, index: usize) -> Result<(), String> {
        let (all, marked) = (CLIENTS * CHANNELS_PER_CLIENT, &self.marked[index]);
        let waiting = wait_until("", 2 * WHOLE_AGAIN, || marked.load(Ordering::Relaxed) == all);
        timeout(WHOLE_AGAIN, waiting).await.map_err(|_| {
            let came = marked.load(Ordering::Relaxed);
            format!("{} came to {came} of {all} subscriptions within {WHOLE_AGAIN:?}", MARKS[index])
        })
    }

    async fn stop(mut self) -> Vec<ClientLog> {
        (0..CLIENTS).for_each(|client| self.tell(client, Told::Stop));
        self.told.clear();
        self.tasks.join_all().await
    }
}

/// A client from its first session to its last.
async fn live(
    mut client: LogicalClient,
    nodes: Arc<NodeTable>,
    mut told: mpsc::UnboundedReceiver<Told>,
    marked: Arc<[AtomicUsize; 2]>,
    mut rng: Rng,
) -> ClientLog {
    let (mut last, mut seen) = (None, [0; 2]);
    loop {
        let node = nodes.any_but(last, &mut rng);
        let connected = match node {
            Some(node) => client.connect(node.public).await.is_ok(),
            None => false,
        };
        last = node.or(last);
        let mut away = RETRY_AFTER;
        loop {
            tokio::select! {
                received = client.receive(), if connected => match received {
                    Ok(()) => note_marks(&client, &mut seen, &marked),
                    Err(Lost::Refused(error)) if error["retryable"] != true => {
                        panic!("refused for good: {error}")
                    }
                    Err(_) => break,
                },
                () = sleep(RETRY_AFTER), if !connected => break,
                what = told.recv() => match what {
                    Some(Told::Leave(time)) => {
                        away = time;
                        client.cut();
                        break;
                    }
                    Some(Told::Stop) | None => return client.into_log(),
                },
            }
        }
        // What it is told while it is away it does when it is back, but for the end.
        sleep(away).await;
        if told.is_closed() && told.is_empty() {
            return client.into_log();
        }
    }
}

fn note_marks(client: &LogicalClient, seen: &mut [usize; 2], marked: &[AtomicUsize; 2]) {
    for (index, mark) in MARKS.into_iter().enumerate() {
        debug_assert!(mark.starts_with(MARK));
        let came = client.marks(mark);
        marked[index].fetch_add(came - seen[index], Ordering::Relaxed);
        seen[index] = came;
    }
}
