//! Which server is tried next. Pure, but for the shuffling.

use crate::address::Server;

/// Servers that are remembered. Those beyond are passed over: a cluster names its members in every greeting.
const MAX_SERVERS: usize = 256;

/// The servers of the URL, and those that they name.
#[derive(Debug)]
pub(super) struct Pool {
    servers: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    server: Server,
    /// It stands in the URL.
    configured: bool,
    /// Attempts in a row that have failed.
    failures: u32,
}

impl Pool {
    pub(super) fn new(servers: &[Server]) -> Self {
        let mut pool = Self { servers: Vec::new() };
        for server in servers {
            pool.add(server.clone(), true);
        }
        pool
    }

    /// All of them: one that is preferred, then in any order those that have failed least often.
    pub(super) fn order(&self, preferred: Option<&Server>) -> Vec<Server> {
        let mut order: Vec<&Known> = self.servers.iter().collect();
        fastrand::shuffle(&mut order);
        order.sort_by_key(|known| (Some(&known.server) != preferred, known.failures));
        order.into_iter().map(|known| known.server.clone()).collect()
    }

    /// Whether there is another than this one.
    pub(super) fn has_others(&self, server: &Server) -> bool {
        self.servers.iter().any(|known| known.server != *server)
    }

    /// The cluster's members, as one of them has named them; members of before are forgotten.
    pub(super) fn learn(&mut self, urls: &[String]) {
        if urls.is_empty() {
            return;
        }
        let named: Vec<Server> = urls.iter().filter_map(|url| parse(url)).collect();
        self.servers.retain(|known| known.configured || named.contains(&known.server));
        for server in named {
            self.add(server, false);
        }
    }

    pub(super) fn failed(&mut self, server: &Server) {
        if let Some(known) = self.known(server) {
            known.failures = known.failures.saturating_add(1);
        }
    }

    pub(super) fn connected(&mut self, server: &Server) {
        if let Some(known) = self.known(server) {
            known.failures = 0;
        }
    }

    fn known(&mut self, server: &Server) -> Option<&mut Known> {
        self.servers.iter_mut().find(|known| known.server == *server)
    }

    fn add(&mut self, server: Server, configured: bool) {
        if self.known(&server).is_none() && (configured || self.servers.len() < MAX_SERVERS) {
            self.servers.push(Known { server, configured, failures: 0 });
        }
    }
}

/// `host:port`, as servers name each other.
fn parse(url: &str) -> Option<Server> {
    let url = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, port) = url.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| Server { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Server {
        Server { host: "a".to_owned(), port }
    }

    #[test]
    fn those_that_failed_come_last_and_the_preferred_first() {
        let mut pool = Pool::new(&[server(1), server(2), server(3), server(1)]);
        let firsts: std::collections::HashSet<u16> = (0..200).map(|_| pool.order(None)[0].port).collect();
        assert_eq!(firsts.len(), 3, "any of them is first at times");
        pool.failed(&server(1));
        pool.failed(&server(2));
        pool.failed(&server(2));
        assert_eq!(pool.order(None), [server(3), server(1), server(2)]);
        assert_eq!(pool.order(Some(&server(2))), [server(2), server(3), server(1)]);
        pool.connected(&server(2));
        assert_eq!(pool.order(None)[2], server(1));
    }

    #[test]
    fn members_come_and_go_but_those_of_the_url_stay() {
        let mut pool = Pool::new(&[server(1)]);
        assert!(!pool.has_others(&server(1)));
        pool.learn(&[
            "a:1".to_owned(),
            "b:2".to_owned(),
            "[::1]:3".to_owned(),
            "nonsense".to_owned(),
            "c:0".to_owned(),
        ]);
        let mut names: Vec<String> = pool.order(None).iter().map(Server::to_string).collect();
        names.sort();
        assert_eq!(names, ["[::1]:3", "a:1", "b:2"]);
        pool.learn(&["tls://d:4".to_owned()]);
        assert!(pool.has_others(&server(1)));
        assert_eq!(pool.order(Some(&server(1))).iter().map(Server::to_string).collect::<Vec<_>>(), ["a:1", "d:4"]);
        pool.learn(&[]);
        assert_eq!(pool.order(None).len(), 2);
        let many: Vec<String> = (1..1_000).map(|port| format!("a:{port}")).collect();
        pool.learn(&many);
        assert_eq!(pool.order(None).len(), MAX_SERVERS);
    }
}
