//! A Redis master with replicas, and sentinels that watch over them.

use std::{fs, io, net::SocketAddr, time::Duration};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{PROGRAM_VARIABLE, RedisBuilder, RedisServer, Reply, eventually, reply, text};
use crate::launch::{self, START_ATTEMPTS, STOP_DEADLINE, percent_encode};
use crate::process::Process;

/// The name by which the sentinels know the master.
pub const SERVICE: &str = "main";

const REPLICAS: usize = 2;
const SENTINELS: usize = 3;

/// How long a master may be silent before its sentinels take it for dead. They ask once a second; a busy machine is not death.
const DOWN_AFTER: Duration = Duration::from_secs(2);

/// Within which a failover has to be done before another is tried.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the group may take until all of it knows of all. Sentinels greet each other every 2 s; a failover whose vote
/// was split is tried again after twice its timeout.
const GROUP_DEADLINE: Duration = Duration::from_secs(40);

/// A master, two replicas and three sentinels (two of which have to agree), each on a loopback address of its own.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
    passwords: Option<Passwords>,
}

#[derive(Debug)]
struct Sentinel {
    process: Process,
    address: SocketAddr,
}

#[derive(Debug, Clone)]
struct Passwords {
    servers: String,
    sentinels: String,
}

impl RedisSentinel {
    /// Starts the group, without passwords, and waits until a failover would work.
    ///
    /// # Panics
    ///
    /// When `redis-server` is not installed (it is the sentinels' program too), or the group does not come together.
    pub async fn start() -> Self {
        Self::launch(None, &[]).await
    }

    /// As [`RedisSentinel::start`], with a line more in the configuration of each server.
    ///
    /// # Panics
    ///
    /// As [`RedisSentinel::start`].
    pub async fn start_with_line(line: &str) -> Self {
        Self::launch(None, &[line]).await
    }

    /// As [`RedisSentinel::start`]; servers and sentinels want a password each, of the user `default`.
    ///
    /// # Panics
    ///
    /// As [`RedisSentinel::start`].
    pub async fn start_with_passwords(servers: &str, sentinels: &str) -> Self {
        let passwords = Passwords { servers: servers.to_owned(), sentinels: sentinels.to_owned() };
        Self::launch(Some(passwords), &[]).await
    }

    async fn launch(passwords: Option<Passwords>, lines: &[&str]) -> Self {
        let mut servers = vec![builder(passwords.as_ref(), lines).start().await];
        let master = servers[0].address();
        for _ in 0..REPLICAS {
            let replica = format!("replicaof {} {}", master.ip(), master.port());
            servers.push(builder(passwords.as_ref(), lines).line(&replica).start().await);
        }
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            sentinels.push(Sentinel::start(master, passwords.as_ref()).await);
        }
        let group = Self { servers, sentinels, passwords };
        group.wait_until_whole().await;
        group
    }

    /// Where clients ask for the master: `redis-sentinel://…/main`, with the passwords where there are any.
    pub fn url(&self) -> String {
        let sentinels: Vec<String> = self.sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
        let list = sentinels.join(",");
        match &self.passwords {
            None => format!("redis-sentinel://{list}/{SERVICE}"),
            Some(Passwords { servers, sentinels }) => {
                let (servers, sentinels) = (percent_encode(servers), percent_encode(sentinels));
                format!("redis-sentinel://:{servers}@{list}/{SERVICE}?sentinel_password={sentinels}")
            }
        }
    }

    /// The servers; the first was the master at the beginning.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// Where the sentinels listen.
    pub fn sentinels(&self) -> impl Iterator<Item = SocketAddr> {
        self.sentinels.iter().map(|sentinel| sentinel.address)
    }

    /// The sentinels' processes, for their logs and their signals.
    pub fn sentinel_processes(&self) -> impl Iterator<Item = &Process> {
        self.sentinels.iter().map(|sentinel| &sentinel.process)
    }

    /// The master that all sentinels which answer name; None while they differ.
    pub async fn master(&self) -> Option<&RedisServer> {
        let mut named = None;
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.process.is_running()) {
            let Reply::Array(address) = self.ask(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE]).await?
            else {
                return None;
            };
            let address: Vec<String> = address.iter().map(text).collect();
            let found = format!("{}:{}", address.first()?, address.get(1)?).parse::<SocketAddr>().ok()?;
            if *named.get_or_insert(found) != found {
                return None;
            }
        }
        self.servers.iter().find(|server| Some(server.address()) == named)
    }

    /// Kills the master (SIGKILL) and says which of [`servers`](Self::servers) it was.
    ///
    /// # Panics
    ///
    /// When the sentinels do not agree about a master.
    pub async fn kill_master(&self) -> usize {
        let master = self.agreed_master().await;
        self.servers[master].kill();
        master
    }

    /// Asks a sentinel to make another server the master, while the master is well. See
    /// [`wait_for_failover`](Self::wait_for_failover).
    ///
    /// # Panics
    ///
    /// When it refuses.
    pub async fn fail_over(&self) {
        let sentinel = &self.sentinels[0];
        let reply = self.ask(sentinel, &["SENTINEL", "FAILOVER", SERVICE]).await;
        assert_eq!(reply, Some(Reply::Status("OK".to_owned())), "{}", sentinel.process.log());
    }

    /// Which of [`servers`](Self::servers) is the master, once all sentinels agree.
    ///
    /// # Panics
    ///
    /// When they do not agree in time.
    pub async fn agreed_master(&self) -> usize {
        let master = eventually(GROUP_DEADLINE, "sentinels that agree", || self.master()).await.address();
        self.servers.iter().position(|server| server.address() == master).expect("the master is one of the servers")
    }

    /// Waits until all sentinels name another master than this one of [`servers`](Self::servers), and it says that it is one.
    ///
    /// # Panics
    ///
    /// When that does not happen in time.
    pub async fn wait_for_failover(&self, old: usize) {
        eventually(GROUP_DEADLINE, "another master", || self.failed_over(old)).await;
    }

    /// Stops all servers, replicas first; the sentinels stay.
    pub async fn stop(&self) {
        // Without replicas there is nothing to fail over to.
        let master = self.agreed_master().await;
        for (index, server) in self.servers.iter().enumerate() {
            if index != master {
                server.kill();
            }
        }
        self.servers[master].stop().await;
    }

    /// Starts all servers that do not run, and waits until a failover would work again.
    ///
    /// # Panics
    ///
    /// When the group does not come together.
    pub async fn restart(&self) {
        for server in &self.servers {
            if !server.process().is_running() {
                server.restart().await;
            }
        }
        self.wait_until_whole().await;
    }

    /// Waits until every sentinel knows the others, a master that answers and replicas that follow it.
    ///
    /// # Panics
    ///
    /// When that does not happen in time.
    pub async fn wait_until_whole(&self) {
        eventually(GROUP_DEADLINE, "a whole group of servers and sentinels", || self.whole()).await;
    }

    async fn failed_over(&self, old: usize) -> Option<()> {
        let master = self.master().await?;
        (master.address() != self.servers[old].address() && role(master).await == "master").then_some(())
    }

    async fn whole(&self) -> Option<()> {
        let master = self.master().await?;
        for server in &self.servers {
            let is_master = server.address() == master.address();
            if (role(server).await == "master") != is_master || !(is_master || follows(server).await) {
                return None;
            }
        }
        for sentinel in &self.sentinels {
            let usable = self.ask(sentinel, &["SENTINEL", "CKQUORUM", SERVICE]).await?;
            let all = format!("OK {SENTINELS} usable Sentinels");
            if !matches!(usable, Reply::Status(text) if text.starts_with(&all)) {
                return None;
            }
            let Reply::Array(fields) = self.ask(sentinel, &["SENTINEL", "MASTER", SERVICE]).await? else {
                return None;
            };
            let fields: Vec<String> = fields.iter().map(text).collect();
            let field = |name: &str| fields.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
            if field("flags")? != "master" || field("num-slaves")? != REPLICAS.to_string() {
                return None;
            }
        }
        Some(())
    }

    /// None where it does not answer.
    async fn ask(&self, sentinel: &Sentinel, words: &[&str]) -> Option<Reply> {
        let password = self.passwords.as_ref().map(|passwords| passwords.sentinels.as_str());
        sentinel.ask(password, words).await.ok()
    }
}

impl Sentinel {
    async fn start(master: SocketAddr, passwords: Option<&Passwords>) -> Self {
        let program = launch::find_program(PROGRAM_VARIABLE, "redis-server", "redis-server");
        let password = passwords.map(|passwords| passwords.sentinels.as_str());
        let mut failure = String::new();
        for _ in 0..START_ATTEMPTS {
            let process = Process::new(&program).arguments(["sentinel.conf", "--sentinel"]);
            let ip = launch::own_address();
            let [port] = launch::free_ports(ip);
            let sentinel = Self { process, address: SocketAddr::new(ip, port) };
            sentinel.configure(master, passwords);
            let answers = async || sentinel.ask(password, &["PING"]).await.is_ok();
            match launch::start_and_wait(&sentinel.process, answers).await {
                Ok(()) => return sentinel,
                Err(error) => failure = error,
            }
        }
        panic!("cannot start a sentinel: {failure}");
    }

    fn configure(&self, master: SocketAddr, passwords: Option<&Passwords>) {
        let (ip, port) = (self.address.ip(), self.address.port());
        let quorum = SENTINELS / 2 + 1;
        let mut lines = vec![
            format!("bind {ip}"),
            format!("port {port}"),
            "protected-mode no".to_owned(),
            format!("sentinel announce-ip {ip}"),
            format!("sentinel monitor {SERVICE} {} {} {quorum}", master.ip(), master.port()),
            format!("sentinel down-after-milliseconds {SERVICE} {}", DOWN_AFTER.as_millis()),
            format!("sentinel failover-timeout {SERVICE} {}", FAILOVER_TIMEOUT.as_millis()),
        ];
        if let Some(Passwords { servers, sentinels }) = passwords {
            lines.push(format!("requirepass {sentinels:?}"));
            lines.push(format!("sentinel sentinel-pass {sentinels:?}"));
            lines.push(format!("sentinel auth-pass {SERVICE} {servers:?}"));
        }
        let path = self.process.directory().join("sentinel.conf");
        fs::write(&path, lines.join("\n") + "\n")
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    async fn ask(&self, password: Option<&str>, words: &[&str]) -> io::Result<Reply> {
        let asking = async {
            let mut stream = BufReader::new(TcpStream::connect(self.address).await?);
            if let Some(password) = password {
                stream.write_all(&reply::encode(&["AUTH", password])).await?;
                reply::read(&mut stream).await?;
            }
            stream.write_all(&reply::encode(words)).await?;
            reply::read(&mut stream).await
        };
        // One that is frozen does not answer.
        tokio::time::timeout(STOP_DEADLINE, asking).await.map_err(io::Error::other)?
    }
}

fn builder(passwords: Option<&Passwords>, lines: &[&str]) -> RedisBuilder {
    let mut builder = RedisServer::builder().announces().line("repl-diskless-sync-delay 0");
    for line in lines {
        builder = builder.line(line);
    }
    match passwords {
        None => builder.line("protected-mode no"),
        // Any of them may become a replica.
        Some(Passwords { servers, .. }) => builder.user("default", servers).line(&format!("masterauth {servers:?}")),
    }
}

/// `master` or `slave`; empty where it does not answer.
async fn role(server: &RedisServer) -> String {
    match server.ask(&["ROLE"]).await {
        Ok(Reply::Array(fields)) => fields.first().map(text).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Whether it is a replica that is connected to its master and has its data.
async fn follows(server: &RedisServer) -> bool {
    server.ask(&["INFO", "replication"]).await.is_ok_and(|info| text(&info).contains("master_link_status:up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_master_is_replaced_and_comes_back_as_a_replica() {
        let group = RedisSentinel::start().await;
        assert_eq!(group.agreed_master().await, 0);
        assert_eq!(group.servers()[0].command(&["SET", "a", "b"]).await, Reply::Status("OK".to_owned()));
        assert_eq!(group.servers()[0].command(&["WAIT", "2", "5000"]).await, Reply::Integer(2));
        assert_eq!(group.kill_master().await, 0);
        group.wait_for_failover(0).await;
        let master = group.agreed_master().await;
        assert_ne!(master, 0);
        assert_eq!(group.servers()[master].command(&["GET", "a"]).await, Reply::Bulk(b"b".to_vec()));
        group.restart().await;
        assert_eq!(group.agreed_master().await, master);
        assert_eq!(role(&group.servers()[0]).await, "slave");
    }
}
