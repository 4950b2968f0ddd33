//! Real NATS servers.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use crate::launch::{self, START_ATTEMPTS, STOP_DEADLINE, percent_encode};
use crate::process::Process;
use crate::tls::{Authority, CertificateFiles};

/// Names the program to use instead of the `nats-server` that is installed.
pub const PROGRAM_VARIABLE: &str = "FANFARE_TEST_NATS_SERVER";

/// A NATS server of our own, on a free port of a loopback address of its own.
///
/// It keeps address, configuration and JetStream data over [`NatsServer::restart`], and ends when dropped.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    place: Place,
    /// `user:password@` or `token@`, percent-encoded, or nothing.
    credentials: String,
    certificate: Option<CertificateFiles>,
    /// Where all members of its cluster listen for clients; nothing for a server on its own.
    members: Vec<SocketAddr>,
}

/// What a [`NatsServer`] is started with.
#[derive(Debug, Default)]
pub struct NatsBuilder {
    access: Access,
    tls: bool,
    jetstream: bool,
    lines: Vec<String>,
}

#[derive(Debug, Default)]
enum Access {
    #[default]
    Anyone,
    Password {
        user: String,
        password: String,
    },
    Token(String),
    Nkey(String),
}

/// Where one server listens.
#[derive(Debug, Clone, Copy)]
struct Place {
    client: SocketAddr,
    cluster: SocketAddr,
    monitor: SocketAddr,
}

impl NatsBuilder {
    /// Only this user, with this password, may connect.
    #[must_use]
    pub fn password(mut self, user: &str, password: &str) -> Self {
        self.access = Access::Password { user: user.to_owned(), password: password.to_owned() };
        self
    }

    /// Only who knows the token may connect.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.access = Access::Token(token.to_owned());
        self
    }

    /// Only the owner of the user nkey with this public key (`U…`) may connect.
    #[must_use]
    pub fn nkey(mut self, public_key: &str) -> Self {
        self.access = Access::Nkey(public_key.to_owned());
        self
    }

    /// Clients must use TLS and trust [`NatsServer::authority_file`]. The certificate is valid for the server's address
    /// and for `localhost`.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With JetStream, its data in the private directory.
    #[must_use]
    pub fn jetstream(mut self) -> Self {
        self.jetstream = true;
        self
    }

    /// Adds a line to the server's configuration, such as `max_payload: 2MB`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Starts one server and waits until it answers.
    ///
    /// # Panics
    ///
    /// When `nats-server` is not installed (the message names the package), or it does not start.
    pub async fn start(self) -> NatsServer {
        self.start_cluster(1).await.pop().expect("a cluster of one has a member")
    }

    /// Starts `size` servers with routes between all of them, and waits until each knows all others.
    ///
    /// # Panics
    ///
    /// As [`NatsBuilder::start`].
    pub async fn start_cluster(self, size: usize) -> Vec<NatsServer> {
        let mut failure = String::new();
        for _ in 0..START_ATTEMPTS {
            let places: Vec<Place> = (0..size).map(|_| Place::choose()).collect();
            let servers: Vec<NatsServer> = (0..size).map(|member| self.prepare(member, &places)).collect();
            match start_all(&servers).await {
                Ok(()) => return servers,
                Err(error) => failure = error,
            }
        }
        panic!("cannot start nats-server: {failure}");
    }

    fn prepare(&self, member: usize, places: &[Place]) -> NatsServer {
        let program = launch::find_program(PROGRAM_VARIABLE, "nats-server", "nats-server");
        let process = Process::new(program).arguments(["--config", "nats.conf"]);
        let place = places[member];
        let certificate = self.tls.then(|| {
            let address = place.client.ip().to_string();
            Authority::generate().write(process.directory(), &[&address, "localhost"])
        });
        let configuration = self.configuration(member, places, certificate.as_ref());
        let path = process.directory().join("nats.conf");
        fs::write(&path, configuration).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        let credentials = match &self.access {
            Access::Anyone | Access::Nkey(_) => String::new(),
            Access::Token(token) => format!("{}@", percent_encode(token)),
            Access::Password { user, password } => {
                format!("{}:{}@", percent_encode(user), percent_encode(password))
            }
        };
        let members = if places.len() > 1 { places.iter().map(|place| place.client).collect() } else { Vec::new() };
        NatsServer { process, place, credentials, certificate, members }
    }

    fn configuration(&self, member: usize, places: &[Place], certificate: Option<&CertificateFiles>) -> String {
        let place = places[member];
        let mut text =
            format!("server_name: \"test-{member}\"\nlisten: \"{}\"\nhttp: \"{}\"\n", place.client, place.monitor);
        match &self.access {
            Access::Anyone => {}
            Access::Token(token) => line(&mut text, format_args!("authorization {{ token: {token:?} }}")),
            Access::Nkey(key) => line(&mut text, format_args!("authorization {{ users: [ {{ nkey: {key} }} ] }}")),
            Access::Password { user, password } => {
                line(&mut text, format_args!("authorization {{ user: {user:?}, password: {password:?} }}"));
            }
        }
        if let Some(files) = certificate {
            let (certificate, key) = (&files.certificate, &files.key);
            line(&mut text, format_args!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}"));
        }
        if self.jetstream {
            line(&mut text, format_args!("jetstream {{ store_dir: \"jetstream\" }}"));
        }
        if places.len() > 1 {
            let routes: Vec<String> = places.iter().map(|place| format!("\"nats://{}\"", place.cluster)).collect();
            let (listen, routes) = (place.cluster, routes.join(", "));
            line(&mut text, format_args!("cluster {{ name: \"test\", listen: \"{listen}\", routes: [ {routes} ] }}"));
        }
        for extra in &self.lines {
            line(&mut text, format_args!("{extra}"));
        }
        text
    }
}

impl NatsServer {
    /// Starts a server that anyone may connect to, without TLS and JetStream.
    ///
    /// # Panics
    ///
    /// As [`NatsBuilder::start`].
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// For a server with options.
    #[must_use]
    pub fn builder() -> NatsBuilder {
        NatsBuilder::default()
    }

    /// Where clients connect: `nats://127.…:…`, `tls://` where TLS is asked for, with user and password or token in
    /// it where the server wants those.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "tls" } else { "nats" };
        format!("{scheme}://{}{}", self.credentials, self.place.client)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.place.client
    }

    /// Where the server's own HTTP monitoring answers (`/varz`, `/connz`, `/subsz`, `/jsz`).
    pub fn monitor_address(&self) -> SocketAddr {
        self.place.monitor
    }

    /// The PEM file of the authority that clients have to trust; with [`NatsBuilder::tls`] only.
    pub fn authority_file(&self) -> Option<&Path> {
        self.certificate.as_ref().map(|files| files.authority.as_path())
    }

    /// The server's process, for its log, its memory and its signals.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops the server politely, and kills it when it does not end within 10 s.
    pub async fn stop(&self) {
        self.process.stop(STOP_DEADLINE).await;
    }

    /// Starts the server again on the same address with the same configuration and data, after stopping it if it
    /// runs, and waits until it answers. Its routes to other members may come up later.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn restart(&self) {
        launch::restart(&self.process, self.address(), async || self.answers().await).await;
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

    /// Whether it greets.
    async fn answers(&self) -> bool {
        self.greeting().await.is_some()
    }

    /// Whether it greets and knows all members of its cluster.
    async fn has_joined(&self) -> bool {
        let Some(info) = self.greeting().await else { return false };
        self.members.iter().all(|member| info.contains(&format!("\"{member}\"")))
    }

    /// The INFO line, with which a server greets; TLS begins only after it.
    async fn greeting(&self) -> Option<String> {
        let stream = TcpStream::connect(self.place.client).await.ok()?;
        let mut info = String::new();
        BufReader::new(stream).read_line(&mut info).await.ok()?;
        info.starts_with("INFO {").then_some(info)
    }
}

impl Place {
    fn choose() -> Self {
        let address: IpAddr = launch::own_address();
        let [client, cluster, monitor] = launch::free_ports(address).map(|port| SocketAddr::new(address, port));
        Self { client, cluster, monitor }
    }
}

/// The members wait for each other, so all are started before any is waited for.
async fn start_all(servers: &[NatsServer]) -> Result<(), String> {
    let (last, others) = servers.split_last().expect("a cluster has a member");
    for server in others {
        server.process.start();
    }
    launch::start_and_wait(&last.process, async || last.has_joined().await).await?;
    for server in others {
        launch::wait_ready(&server.process, async || server.has_joined().await).await?;
    }
    Ok(())
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What a client without credentials gets for `CONNECT` and `PING`: the first line after INFO.
    async fn ping(server: &NatsServer, connect: &str) -> String {
        let mut stream = BufReader::new(TcpStream::connect(server.address()).await.unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("INFO {"), "{line}");
        stream.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await.unwrap();
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        line
    }

    #[tokio::test]
    async fn starts_answers_and_comes_back_on_the_same_address() {
        let server = NatsServer::start().await;
        let (url, first) = (server.url(), server.process().id());
        assert_eq!(url, format!("nats://{}", server.address()));
        assert_eq!(ping(&server, r#"{"verbose":false}"#).await, "PONG\r\n");
        server.restart().await;
        assert_eq!(server.url(), url);
        assert_ne!(server.process().id(), first);
        assert_eq!(ping(&server, r#"{"verbose":false}"#).await, "PONG\r\n");
        server.stop().await;
        assert!(!server.process().is_running());
        assert!(TcpStream::connect(server.address()).await.is_err());
        server.restart().await;
        assert_eq!(ping(&server, r#"{"verbose":false}"#).await, "PONG\r\n");
    }

    #[tokio::test]
    async fn wants_the_password_or_the_token_it_was_given() {
        let server = NatsServer::builder().password("gate way", "p@ss\"word").start().await;
        assert_eq!(server.url(), format!("nats://gate%20way:p%40ss%22word@{}", server.address()));
        assert_eq!(ping(&server, "{}").await, "-ERR 'Authorization Violation'\r\n");
        let right = r#"{"verbose":false,"user":"gate way","pass":"p@ss\"word"}"#;
        assert_eq!(ping(&server, right).await, "PONG\r\n");

        let server = NatsServer::builder().token("secret").start().await;
        assert_eq!(server.url(), format!("nats://secret@{}", server.address()));
        assert_eq!(ping(&server, r#"{"auth_token":"wrong"}"#).await, "-ERR 'Authorization Violation'\r\n");
        assert_eq!(ping(&server, r#"{"verbose":false,"auth_token":"secret"}"#).await, "PONG\r\n");
    }
}
