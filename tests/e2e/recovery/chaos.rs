//! Clients that come and go, nodes that are killed, brokers that are killed or parted from a node, while publishers go on:
//! nothing lost, nothing twice, nothing out of order. On some channels so little is retained that not everything can be had
//! again: there the checker proves of every miss that it was one.

use std::{
    collections::HashMap,
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_checker::{ClientLog, Rules, Run, Summary};
use fanfare_testkit::wait_until;
use fastrand::Rng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    SHORT_SIZE,
    chaos_faults::{Faults, Plan},
    history_broker::HistoryBroker,
    logical_client::{Habits, LogicalClient, Lost},
    publishing::{NodeTable, Publishing},
    retained::read_history,
    rules,
};
use crate::MACHINE;

const CLIENTS: usize = 200;
/// Channels that retain everything, and how many of them each client is on.
const CHANNELS: usize = 20;
const CHANNELS_PER_CLIENT: usize = 4;
/// Channels that retain little; each client is on one of them.
const SHORT_CHANNELS: usize = 4;
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// How long faults go on, in seconds; [`SHORT_SECONDS`] where it is not set.
const SECONDS_VARIABLE: &str = "CHAOS_SECONDS";
/// What chance begins from; another number each time where it is not set.
const SEED_VARIABLE: &str = "CHAOS_SEED";
const SHORT_SECONDS: u64 = 15;

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

/// The server that leads a stream is killed, perhaps between commit and republish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_cluster() {
    let _alone = MACHINE.lock().await;
    chaos(Some(HistoryBroker::nats_cluster().await)).await;
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
    goal: watch::Sender<Goal>,
    /// Goals that clients have reached, all together.
    reached: Arc<AtomicUsize>,
}

/// Where everyone is to be.
#[derive(Clone, Default)]
struct Goal {
    /// How many goals there were before.
    number: usize,
    /// By channel, the offset of a publication behind all others.
    offsets: Arc<HashMap<String, u64>>,
}

async fn chaos(broker: Option<HistoryBroker>) {
    let seconds = number(SECONDS_VARIABLE).unwrap_or(if broker.is_some() { SHORT_SECONDS } else { 6 });
    let seed = number(SEED_VARIABLE).unwrap_or_else(|| fastrand::u64(..));
    let name = broker.as_ref().map_or_else(|| "the embedded broker".to_owned(), HistoryBroker::to_string);
    println!("{name}: {SEED_VARIABLE}={seed} {SECONDS_VARIABLE}={seconds}");
    let (embedded, mut rng) = (broker.is_none(), Rng::with_seed(seed));
    let clock = Instant::now();
    let broker = broker.map(Arc::new);
    let plan = Plan::lasting(Duration::from_secs(seconds), broker.is_some());
    let nodes = NodeTable::new(plan.nodes);
    let faults = Faults::start(plan, broker.clone(), Arc::clone(&nodes)).await;

    let long = (0..CHANNELS).map(|index| format!("log:c{index}"));
    let channels: Vec<_> = long.chain((0..SHORT_CHANNELS).map(|index| format!("short:c{index}"))).collect();
    let publishing = Publishing::new(broker, Arc::clone(&nodes), clock);
    // From here on a client's position is that of a publication, of which brokers can say whether they retain it.
    publishing.mark(&channels, "begin").await;
    let clients = Clients::start(&nodes, clock, &mut rng);
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
    // The second one shows what came late or again behind the first.
    for mark in ["end", "over"] {
        let offsets = publishing.mark(&channels, mark).await;
        whole = whole.and(clients.reach(offsets).await);
    }
    let whole_after = healed.elapsed();
    let short = Rules { size: SHORT_SIZE, ..rules() };
    let mut run = Run::new().rules("log", rules()).rules("short", short);
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
        "{name}: {seconds} s, {done}; whole again {whole_after:.1?} after the last fault\n  {summary} (all on channels \
         that retain {SHORT_SIZE})\n  histories of {} to {}",
        sizes.iter().min().expect("there are channels"),
        sizes.iter().max().expect("there are channels"),
    );
    whole.unwrap_or_else(|missing| panic!("{name}, seed {seed}: {missing}"));
    let Summary { accepted, disconnects, recovered, not_recovered, .. } = summary;
    assert!(disconnects >= done.disconnects && recovered >= done.disconnects, "{summary:?}");
    assert!(embedded || not_recovered > 0, "nobody was away for long enough to miss anything: {summary:?}");
    let ticks = Duration::from_secs(seconds).as_millis() / PUBLISH_EVERY.as_millis();
    assert!(accepted as u128 >= ticks / 2, "{accepted} accepted publications are no steady rate");
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error}")))
}

impl Clients {
    fn start(nodes: &Arc<NodeTable>, clock: Instant, rng: &mut Rng) -> Self {
        let (mut tasks, mut told, reached) = (JoinSet::new(), Vec::new(), Arc::default());
        let goal = watch::Sender::new(Goal::default());
        for index in 0..CLIENTS {
            let long = (0..CHANNELS_PER_CLIENT).map(|nth| format!("log:c{}", (index + nth * nth) % CHANNELS));
            let short = format!("short:c{}", index / 7 % SHORT_CHANNELS);
            let habits = Habits { msgpack: index % 5 == 0, by_list: index % 2 == 0, ..Habits::default() };
            let client = LogicalClient::new(format!("client{index}"), long.chain([short]).collect(), clock);
            let (tell, orders) = mpsc::unbounded_channel();
            let life = Life {
                client: client.habits(habits),
                nodes: Arc::clone(nodes),
                told: orders,
                goal: goal.subscribe(),
                goals_reached: 0,
                reached: Arc::clone(&reached),
                rng: rng.fork(),
            };
            tasks.spawn(life.live());
            told.push(tell);
        }
        Self { tasks, told, goal, reached }
    }

    fn tell(&self, client: usize, what: Told) {
        // It fails only for a task that panicked, which shows when it is waited for.
        let _ = self.told[client].send(what);
    }

    /// Waits until every client is where its channels end.
    async fn reach(&self, offsets: HashMap<String, u64>) -> Result<(), String> {
        let mut number = 0;
        self.goal.send_modify(|goal| {
            number = goal.number + 1;
            *goal = Goal { number, offsets: Arc::new(offsets) };
        });
        let waiting = wait_until("", 2 * WHOLE_AGAIN, || self.reached.load(Ordering::Relaxed) == number * CLIENTS);
        timeout(WHOLE_AGAIN, waiting).await.map_err(|_| {
            let reached = self.reached.load(Ordering::Relaxed);
            format!("{reached} of {} goals were reached within {WHOLE_AGAIN:?}", number * CLIENTS)
        })
    }

    async fn stop(mut self) -> Vec<ClientLog> {
        (0..CLIENTS).for_each(|client| self.tell(client, Told::Stop));
        self.told.clear();
        self.tasks.join_all().await
    }
}

/// A client from its first session to its last.
struct Life {
    client: LogicalClient,
    nodes: Arc<NodeTable>,
    told: mpsc::UnboundedReceiver<Told>,
    goal: watch::Receiver<Goal>,
    goals_reached: usize,
    reached: Arc<AtomicUsize>,
    rng: Rng,
}

impl Life {
    async fn live(mut self) -> ClientLog {
        let mut last = None;
        loop {
            let node = self.nodes.any_but(last, &mut self.rng);
            last = node.or(last);
            let away = match node {
                Some(node) => match self.client.connect(node.public).await {
                    Ok(()) => self.session().await,
                    Err(_) => Some(RETRY_AFTER),
                },
                None => Some(RETRY_AFTER),
            };
            let Some(away) = away else { return self.client.into_log() };
            // What it is told meanwhile it does when it is back.
            sleep(away).await;
        }
    }

    /// One session; how long the client stays away then, or nothing where it is over.
    async fn session(&mut self) -> Option<Duration> {
        loop {
            tokio::select! {
                received = self.client.receive() => match received {
                    Ok(()) => self.look_at_goal(),
                    Err(Lost::Refused(error)) if error["retryable"] != true => panic!("refused for good: {error}"),
                    Err(_) => return Some(RETRY_AFTER),
                },
                what = self.told.recv() => match what {
                    Some(Told::Leave(away)) => {
                        self.client.cut();
                        return Some(away);
                    }
                    Some(Told::Stop) | None => return None,
                },
                Ok(()) = self.goal.changed() => self.look_at_goal(),
            }
        }
    }

    fn look_at_goal(&mut self) {
        let goal = self.goal.borrow();
        if self.goals_reached < goal.number && self.client.has_reached(&goal.offsets) {
            self.goals_reached = goal.number;
            self.reached.fetch_add(1, Ordering::Relaxed);
        }
    }
}
