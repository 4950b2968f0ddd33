//! Real NATS servers.

mod credentials;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use nkeys::KeyPair;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use credentials::Credentials;

use crate::launch::{self, START_ATTEMPTS, STOP_DEADLINE, percent_encode};
use crate::process::Process;
use crate::tls::{Authority, CertificateFiles};

/// Names the program to use instead of the `nats-server` that is installed.
pub const PROGRAM_VARIABLE: &str = "FANFARE_TEST_NATS_SERVER";

const CREDENTIALS_FILE: &str = "user.creds";

/// A NATS server of our own, on a free port of a loopback address of its own.
///
/// It keeps address, configuration and JetStream data over [`NatsServer::restart`], and ends when dropped.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    place: Place,
    access: Access,
    certificate: Option<CertificateFiles>,
    jetstream: bool,
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

#[derive(Debug, Clone, Default)]
enum Access {
    #[default]
    Anyone,
    Password {
        user: String,
        password: String,
    },
    Token(String),
    Nkey {
        public_key: String,
        seed: String,
    },
    Credentials(Credentials),
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

    /// Only the owner of a new user nkey may connect; its seed is [`NatsServer::nkey_seed`].
    #[must_use]
    pub fn nkey(mut self) -> Self {
        let pair = KeyPair::new_user();
        self.access =
            Access::Nkey { public_key: pair.public_key(), seed: pair.seed().expect("a new pair has its seed") };
        self
    }

    /// Only who has the file [`NatsServer::credentials_file`] may connect: a user of an account of an operator, all of
    /// them new (decentralised JWT authentication). The account may use JetStream.
    #[must_use]
    pub fn credentials(mut self) -> Self {
        self.access = Access::Credentials(Credentials::generate());
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
        if let Access::Credentials(credentials) = &self.access {
            let path = process.directory().join(CREDENTIALS_FILE);
            fs::write(&path, &credentials.file)
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        }
        let members = if places.len() > 1 { places.iter().map(|place| place.client).collect() } else { Vec::new() };
        NatsServer { process, place, access: self.access.clone(), certificate, jetstream: self.jetstream, members }
    }

    fn configuration(&self, member: usize, places: &[Place], certificate: Option<&CertificateFiles>) -> String {
        let place = places[member];
        let mut text =
            format!("server_name: \"test-{member}\"\nlisten: \"{}\"\nhttp: \"{}\"\n", place.client, place.monitor);
        match &self.access {
            Access::Anyone => {}
            Access::Token(token) => line(&mut text, format_args!("authorization {{ token: {token:?} }}")),
            Access::Nkey { public_key, .. } => {
                line(&mut text, format_args!("authorization {{ users: [ {{ nkey: {public_key} }} ] }}"));
            }
            Access::Credentials(credentials) => line(&mut text, format_args!("{}", credentials.configuration())),
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
        let user = match &self.access {
            Access::Anyone | Access::Nkey { .. } | Access::Credentials(_) => String::new(),
            Access::Token(token) => format!("{}@", percent_encode(token)),
            Access::Password { user, password } => format!("{}:{}@", percent_encode(user), percent_encode(password)),
        };
        format!("{scheme}://{user}{}", self.place.client)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.place.client
    }

    /// The PEM file of the authority that clients have to trust; with [`NatsBuilder::tls`] only.
    pub fn authority_file(&self) -> Option<&Path> {
        self.certificate.as_ref().map(|files| files.authority.as_path())
    }

    /// The seed (`SU…`) of the one user; with [`NatsBuilder::nkey`] only.
    pub fn nkey_seed(&self) -> Option<&str> {
        match &self.access {
            Access::Nkey { seed, .. } => Some(seed),
            _ => None,
        }
    }

    /// The credentials file of the one user; with [`NatsBuilder::credentials`] only.
    pub fn credentials_file(&self) -> Option<PathBuf> {
        matches!(self.access, Access::Credentials(_)).then(|| self.process.directory().join(CREDENTIALS_FILE))
    }

    /// What the server's monitoring answers, as JSON text: `/varz`, `/connz?subs=1`, `/subsz`, `/routez`, `/jsz`.
    ///
    /// # Panics
    ///
    /// When it does not answer with 200.
    pub async fn monitor(&self, path: &str) -> String {
        match self.ask_monitor(path).await {
            Ok(answer) => match answer.split_once("\r\n\r\n") {
                Some((head, body)) if head.contains(" 200 ") => body.to_owned(),
                _ => panic!("nats-server answered {path} with {answer}"),
            },
            Err(error) => panic!("nats-server does not answer {path}: {error}\n{}", self.process.log()),
        }
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
        launch::restart(&self.process, self.address(), || self.answers()).await;
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

    /// Whether it greets, and has its JetStream ready.
    async fn answers(&self) -> bool {
        self.greeting().await.is_some() && self.is_healthy().await
    }

    /// Whether it answers and knows all members of its cluster.
    async fn has_joined(&self) -> bool {
        let Some(info) = self.greeting().await else { return false };
        self.members.iter().all(|member| info.contains(&format!("\"{member}\""))) && self.is_healthy().await
    }

    /// In a cluster, JetStream is ready when it has a leader and this server has caught up with it.
    async fn is_healthy(&self) -> bool {
        !self.jetstream || self.ask_monitor("/healthz").await.is_ok_and(|answer| answer.contains(" 200 "))
    }

    /// Head and body of the answer. In HTTP/1.0 the answer ends with the connection.
    async fn ask_monitor(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.place.monitor).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
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
    launch::start_and_wait(&last.process, || last.has_joined()).await?;
    for server in others {
        launch::wait_ready(&server.process, || server.has_joined()).await?;
    }
    Ok(())
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;
    use crate::tls::tests::exchange;

    const OPEN: &str = r#"{"verbose":false}"#;
    const VIOLATION: &str = "-ERR 'Authorization Violation'\r\n";

    /// What a client gets that connects with these options and sends `PING`.
    async fn ping(server: &NatsServer, connect: &str) -> String {
        connect_and_ping(server, |_| connect.to_owned()).await.0
    }

    /// The same for options that depend on the server's nonce, and the connection.
    async fn connect_and_ping(
        server: &NatsServer,
        connect: impl FnOnce(&str) -> String,
    ) -> (String, BufReader<TcpStream>) {
        let mut stream = BufReader::new(TcpStream::connect(server.address()).await.unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let info: Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
        let connect = connect(info["nonce"].as_str().unwrap_or_default());
        stream.write_all(format!("CONNECT {connect}\r\nPING\r\n").as_bytes()).await.unwrap();
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        (line, stream)
    }

    #[tokio::test]
    async fn starts_answers_and_comes_back_on_the_same_address() {
        let server = NatsServer::start().await;
        let (url, first) = (server.url(), server.process().id());
        assert_eq!(url, format!("nats://{}", server.address()));
        assert_eq!(ping(&server, OPEN).await, "PONG\r\n");
        server.restart().await;
        assert_eq!(server.url(), url);
        assert_ne!(server.process().id(), first);
        assert_eq!(ping(&server, OPEN).await, "PONG\r\n");
        server.stop().await;
        assert!(!server.process().is_running());
        assert!(TcpStream::connect(server.address()).await.is_err());
        server.restart().await;
        assert_eq!(ping(&server, OPEN).await, "PONG\r\n");
    }

    #[tokio::test]
    async fn wants_the_password_or_the_token_it_was_given() {
        let server = NatsServer::builder().password("gate way", "p@ss\"word").start().await;
        assert_eq!(server.url(), format!("nats://gate%20way:p%40ss%22word@{}", server.address()));
        assert_eq!(ping(&server, "{}").await, VIOLATION);
        let right = r#"{"verbose":false,"user":"gate way","pass":"p@ss\"word"}"#;
        assert_eq!(ping(&server, right).await, "PONG\r\n");

        let server = NatsServer::builder().token("secret").start().await;
        assert_eq!(server.url(), format!("nats://secret@{}", server.address()));
        assert_eq!(ping(&server, r#"{"auth_token":"wrong"}"#).await, VIOLATION);
        assert_eq!(ping(&server, r#"{"verbose":false,"auth_token":"secret"}"#).await, "PONG\r\n");
    }

    #[tokio::test]
    async fn wants_a_signature_with_its_nkey() {
        let server = NatsServer::builder().nkey().start().await;
        assert_eq!(server.url(), format!("nats://{}", server.address()));
        let own = KeyPair::from_seed(server.nkey_seed().unwrap()).unwrap();
        for (pair, answer) in [(&own, "PONG\r\n"), (&KeyPair::new_user(), VIOLATION)] {
            let connecting = connect_and_ping(&server, |nonce| {
                json!({ "verbose": false, "nkey": pair.public_key(), "sig": signature(pair, nonce) }).to_string()
            });
            assert_eq!(connecting.await.0, answer);
        }
    }

    #[tokio::test]
    async fn wants_a_user_of_its_operator_and_lets_it_use_jetstream() {
        let server = NatsServer::builder().credentials().jetstream().start().await;
        let other = NatsServer::builder().credentials().start().await;
        assert_eq!(connect_with_credentials(&server, &other).await.0, VIOLATION);
        let (answer, mut stream) = connect_with_credentials(&server, &server).await;
        assert_eq!(answer, "PONG\r\n");
        stream.write_all(b"SUB answer 1\r\nPUB $JS.API.INFO answer 0\r\n\r\n").await.unwrap();
        let (mut head, mut body) = (String::new(), String::new());
        stream.read_line(&mut head).await.unwrap();
        stream.read_line(&mut body).await.unwrap();
        assert!(head.starts_with("MSG answer 1 "), "{head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["limits"]["max_streams"], -1, "{body}");
    }

    async fn connect_with_credentials(server: &NatsServer, of: &NatsServer) -> (String, BufReader<TcpStream>) {
        let file = fs::read_to_string(of.credentials_file().unwrap()).unwrap();
        let secrets: Vec<&str> = file.lines().filter(|line| !line.is_empty() && !line.starts_with('-')).collect();
        let [jwt, seed] = secrets[..] else { panic!("{file}") };
        let pair = KeyPair::from_seed(seed).unwrap();
        let options = |nonce: &str| json!({ "verbose": false, "jwt": jwt, "sig": signature(&pair, nonce) }).to_string();
        connect_and_ping(server, options).await
    }

    #[tokio::test]
    async fn speaks_tls_for_who_trusts_its_authority() {
        let server = NatsServer::builder().tls().start().await;
        assert_eq!(server.url(), format!("tls://{}", server.address()));
        let hello = format!("CONNECT {OPEN}\r\nPING\r\n");
        let answer = exchange(server.address(), server.authority_file().unwrap(), b"INFO", hello.as_bytes()).unwrap();
        assert_eq!(answer, b"PONG\r\n");
        let stranger = NatsServer::builder().tls().start().await;
        exchange(server.address(), stranger.authority_file().unwrap(), b"INFO", hello.as_bytes()).unwrap_err();
    }

    #[tokio::test]
    async fn a_cluster_knows_its_members_and_its_jetstream_has_a_leader() {
        let servers = NatsServer::builder().jetstream().start_cluster(3).await;
        for server in &servers {
            let jetstream: Value = serde_json::from_str(&server.monitor("/jsz").await).unwrap();
            assert_eq!(jetstream["meta_cluster"]["cluster_size"], 3, "{jetstream}");
            assert_ne!(jetstream["meta_cluster"]["leader"], Value::Null, "{jetstream}");
        }
    }

    #[tokio::test]
    async fn a_member_of_a_cluster_comes_back_while_another_is_away() {
        let servers = NatsServer::builder().start_cluster(3).await;
        servers[0].kill();
        servers[1].kill();
        assert!(!servers[0].process().is_running());
        servers[0].restart().await;
        assert_eq!(ping(&servers[0], OPEN).await, "PONG\r\n");
        assert!(!servers[1].process().is_running());
    }

    fn signature(pair: &KeyPair, nonce: &str) -> String {
        assert!(!nonce.is_empty(), "the server asks for no signature");
        URL_SAFE_NO_PAD.encode(pair.sign(nonce.as_bytes()).unwrap())
    }
}
