//! Real Redis servers.

mod cluster;
mod reply;
mod sentinel;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use crate::launch::{self, START_ATTEMPTS, STOP_DEADLINE, percent_encode};
use crate::process::Process;
use crate::tls::{Authority, CertificateFiles};

pub use cluster::{RedisCluster, SLOTS};
pub use reply::Reply;
pub use sentinel::{RedisSentinel, SERVICE};

/// Names the program to use instead of the `redis-server` that is installed.
pub const PROGRAM_VARIABLE: &str = "FANFARE_TEST_REDIS_SERVER";

const SOCKET: &str = "redis.sock";

/// How often a group of servers is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A Redis server of our own, on a free port of a loopback address of its own.
///
/// It keeps address and configuration over [`RedisServer::restart`], and data where [`RedisBuilder::append_only`] asked
/// for it; it ends when dropped.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    address: SocketAddr,
    user: Option<User>,
    certificate: Option<CertificateFiles>,
    /// Where the nodes of its cluster reach it.
    bus_port: Option<u16>,
}

/// What a [`RedisServer`] is started with.
#[derive(Debug, Default)]
pub struct RedisBuilder {
    user: Option<User>,
    tls: bool,
    fsync: Option<Fsync>,
    lines: Vec<String>,
    announces: bool,
    cluster: bool,
}

/// When the append-only file reaches the disk (`appendfsync`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// Before each reply: an acknowledged write survives `kill -9` and loss of power.
    Always,
    /// Once a second.
    EverySecond,
    /// When the system likes.
    Never,
}

#[derive(Debug, Clone)]
struct User {
    name: String,
    password: String,
}

impl RedisBuilder {
    /// Only this ACL user, with this password, may connect; it may do everything. The default user is off, unless it is this one.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some(User { name: name.to_owned(), password: password.to_owned() });
        self
    }

    /// Clients must use TLS and trust [`RedisServer::authority_file`]. The certificate is valid for the server's
    /// address and for `localhost`.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Keeps data over restarts, in an append-only file. Without it the server comes back empty.
    #[must_use]
    pub fn append_only(mut self, fsync: Fsync) -> Self {
        self.fsync = Some(fsync);
        self
    }

    /// Adds a line to the server's configuration, such as `client-output-buffer-limit pubsub 1mb 1mb 0`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Other servers see and name it by its own address. Else it would come to them from 127.0.0.1, as all do.
    fn announces(mut self) -> Self {
        self.announces = true;
        self
    }

    /// A node of a cluster, which does not know the others yet.
    fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    ///
    /// When `redis-server` is not installed (the message names the package), or it does not start.
    pub async fn start(self) -> RedisServer {
        let mut failure = String::new();
        for _ in 0..START_ATTEMPTS {
            let server = self.prepare();
            match launch::start_and_wait(&server.process, || server.answers()).await {
                Ok(()) => return server,
                Err(error) => failure = error,
            }
        }
        panic!("cannot start redis-server: {failure}");
    }

    fn prepare(&self) -> RedisServer {
        let program = launch::find_program(PROGRAM_VARIABLE, "redis-server", "redis-server");
        let process = Process::new(program).argument("redis.conf");
        let ip = launch::own_address();
        let [port, bus_port] = launch::free_ports(ip);
        let address = SocketAddr::new(ip, port);
        let certificate =
            self.tls.then(|| Authority::generate().write(process.directory(), &[&ip.to_string(), "localhost"]));
        let configuration = self.configuration(address, bus_port, certificate.as_ref());
        let path = process.directory().join("redis.conf");
        fs::write(&path, configuration).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        RedisServer {
            process,
            address,
            user: self.user.clone(),
            certificate,
            bus_port: self.cluster.then_some(bus_port),
        }
    }

    fn configuration(&self, address: SocketAddr, bus_port: u16, certificate: Option<&CertificateFiles>) -> String {
        let (ip, port) = (address.ip(), address.port());
        let mut lines = vec![
            format!("bind {ip}"),
            // The kit's own way in, which needs neither TLS nor an open port.
            format!("unixsocket {SOCKET}"),
            // No snapshots: data is kept by the append-only file or not at all.
            "save \"\"".to_owned(),
        ];
        match certificate {
            None => lines.push(format!("port {port}")),
            Some(files) => lines.extend([
                "port 0".to_owned(),
                format!("tls-port {port}"),
                format!("tls-cert-file {:?}", files.certificate),
                format!("tls-key-file {:?}", files.key),
                format!("tls-ca-cert-file {:?}", files.authority),
                "tls-auth-clients no".to_owned(),
            ]),
        }
        if let Some(User { name, password }) = &self.user {
            if name != "default" {
                lines.push("user default off".to_owned());
            }
            lines.push(format!("user {name:?} on {:?} ~* &* +@all", format!(">{password}")));
        }
        if let Some(fsync) = self.fsync {
            let when = match fsync {
                Fsync::Always => "always",
                Fsync::EverySecond => "everysec",
                Fsync::Never => "no",
            };
            lines.extend(["appendonly yes".to_owned(), format!("appendfsync {when}")]);
        }
        if self.announces {
            lines.extend([
                format!("bind-source-addr {ip}"),
                format!("replica-announce-ip {ip}"),
                format!("replica-announce-port {port}"),
            ]);
        }
        if self.cluster {
            lines.extend([
                "cluster-enabled yes".to_owned(),
                format!("cluster-port {bus_port}"),
                format!("cluster-announce-ip {ip}"),
            ]);
        }
        lines.extend(self.lines.iter().cloned());
        lines.join("\n") + "\n"
    }
}

impl RedisServer {
    /// Starts a server that anyone may connect to, without TLS, and that forgets its data when it ends.
    ///
    /// # Panics
    ///
    /// As [`RedisBuilder::start`].
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// For a server with options.
    #[must_use]
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Where clients connect: `redis://127.…:…`, `rediss://` where TLS is asked for, with user and password in it where
    /// the server wants them.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "rediss" } else { "redis" };
        let credentials = self.user.as_ref().map_or_else(String::new, |User { name, password }| {
            format!("{}:{}@", percent_encode(name), percent_encode(password))
        });
        format!("{scheme}://{credentials}{}", self.address)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The PEM file of the authority that clients have to trust; with [`RedisBuilder::tls`] only.
    pub fn authority_file(&self) -> Option<&Path> {
        self.certificate.as_ref().map(|files| files.authority.as_path())
    }

    /// Sends a command and gives its reply, as a plain client would: `PUBLISH channel message`, `PUBSUB NUMSUB channel`,
    /// `CLIENT KILL TYPE pubsub`. It goes through a Unix socket of its own, so it needs no TLS and passes no proxy.
    ///
    /// # Panics
    ///
    /// When the server does not answer. An error that it answers is [`Reply::Error`].
    pub async fn command(&self, words: &[&str]) -> Reply {
        self.ask(words)
            .await
            .unwrap_or_else(|error| panic!("redis-server does not answer {words:?}: {error}\n{}", self.process.log()))
    }

    /// As [`command`](Self::command), while the server may be away.
    ///
    /// # Errors
    ///
    /// When the connection fails or ends before the reply: the command may have been carried out or not.
    pub async fn try_command(&self, words: &[&str]) -> io::Result<Reply> {
        self.ask(words).await
    }

    /// The server's process, for its log, its memory and its signals.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops the server politely, and kills it when it does not end within 10 s.
    pub async fn stop(&self) {
        self.process.stop(STOP_DEADLINE).await;
    }

    /// Starts the server again on the same address with the same configuration, after stopping it if it runs, and
    /// waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn restart(&self) {
        launch::restart(&self.process, self.address, || self.answers()).await;
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Freezes the server; its sockets stay open.
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets a paused server go on.
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Whether its port is open and it has loaded its data.
    async fn answers(&self) -> bool {
        TcpStream::connect(self.address).await.is_ok()
            && self.ask(&["PING"]).await.is_ok_and(|reply| reply == Reply::Status("PONG".to_owned()))
    }

    async fn ask(&self, words: &[&str]) -> io::Result<Reply> {
        let mut stream = BufReader::new(UnixStream::connect(self.process.directory().join(SOCKET)).await?);
        if let Some(User { name, password }) = &self.user {
            stream.write_all(&reply::encode(&["AUTH", name, password])).await?;
            reply::read(&mut stream).await?;
        }
        stream.write_all(&reply::encode(words)).await?;
        reply::read(&mut stream).await
    }
}

/// As `wait_for`, with less haste, and for futures of which the compiler can see that they are `Send`.
async fn eventually<T, Probe: Future<Output = Option<T>>>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Probe,
) -> T {
    let looking = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let found = tokio::time::timeout(deadline, looking).await;
    found.unwrap_or_else(|_| panic!("waited {deadline:?} in vain for {what}"))
}

/// What a reply says; nothing where it is nothing or several.
fn text(reply: &Reply) -> String {
    match reply {
        Reply::Status(text) | Reply::Error(text) => text.clone(),
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Integer(number) => number.to_string(),
        Reply::Nil | Reply::Array(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::exchange;

    async fn talk(server: &RedisServer, commands: &[&[&str]]) -> Vec<Reply> {
        let mut stream = BufReader::new(TcpStream::connect(server.address()).await.unwrap());
        let mut answers = Vec::new();
        for words in commands {
            stream.write_all(&reply::encode(words)).await.unwrap();
            answers.push(reply::read(&mut stream).await.unwrap());
        }
        answers
    }

    fn status(text: &str) -> Reply {
        Reply::Status(text.to_owned())
    }

    #[tokio::test]
    async fn starts_answers_and_comes_back_empty_on_the_same_address() {
        let server = RedisServer::start().await;
        let (url, first) = (server.url(), server.process().id());
        assert_eq!(url, format!("redis://{}", server.address()));
        assert_eq!(talk(&server, &[&["PING"], &["INCR", "counter"]]).await, [status("PONG"), Reply::Integer(1)]);
        server.restart().await;
        assert_eq!(server.url(), url);
        assert_ne!(server.process().id(), first);
        assert_eq!(talk(&server, &[&["PING"], &["INCR", "counter"]]).await, [status("PONG"), Reply::Integer(1)]);
    }

    #[tokio::test]
    async fn an_append_only_file_survives_a_kill() {
        let server = RedisServer::builder().append_only(Fsync::Always).start().await;
        assert_eq!(talk(&server, &[&["INCR", "counter"]]).await, [Reply::Integer(1)]);
        server.kill();
        assert!(TcpStream::connect(server.address()).await.is_err());
        server.restart().await;
        assert_eq!(talk(&server, &[&["INCR", "counter"]]).await, [Reply::Integer(2)]);
    }

    #[tokio::test]
    async fn wants_its_user() {
        let server = RedisServer::builder().user("gateway", "p@ss\"word").start().await;
        assert_eq!(server.url(), format!("redis://gateway:p%40ss%22word@{}", server.address()));
        let login = ["AUTH", "gateway", "p@ss\"word"];
        let answers = talk(&server, &[&["PING"], &login, &["PING"]]).await;
        let refused = Reply::Error("NOAUTH Authentication required.".to_owned());
        assert_eq!(answers, [refused, status("OK"), status("PONG")]);
        let who = server.command(&["ACL", "WHOAMI"]).await;
        assert_eq!(who, Reply::Bulk(b"gateway".to_vec()));
    }

    #[tokio::test]
    async fn a_paused_server_answers_when_it_is_resumed() {
        let server = RedisServer::start().await;
        server.pause();
        let asking = server.command(&["PING"]);
        tokio::pin!(asking);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut asking).await;
        assert!(early.is_err(), "a paused server answered {early:?}");
        server.resume();
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap(), status("PONG"));
    }

    #[tokio::test]
    async fn speaks_tls_for_who_trusts_its_authority() {
        let server = RedisServer::builder().tls().start().await;
        assert_eq!(server.url(), format!("rediss://{}", server.address()));
        let ping = reply::encode(&["PING"]);
        let answer = exchange(server.address(), server.authority_file().unwrap(), b"", &ping).unwrap();
        assert_eq!(answer, b"+PONG\r\n");
        let stranger = RedisServer::builder().tls().start().await;
        exchange(server.address(), stranger.authority_file().unwrap(), b"", &ping).unwrap_err();
    }
}
