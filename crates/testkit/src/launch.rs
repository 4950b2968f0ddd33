//! How a server gets an address of its own and is waited for.

use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use crate::process::Process;

/// How long a server may take until it answers. Generous: the machine may be busy with a build.
pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(20);

/// How long a server may take to end when asked to.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How often a server is started before its failure is told.
pub(crate) const START_ATTEMPTS: usize = 3;

const READY_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long one look at a server may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// A loopback address that most likely nobody else uses.
///
/// Outgoing sockets use 127.0.0.1, and the range of ports they take may begin at 1024, so a server that listens there
/// would now and then find its port taken when it comes back.
pub(crate) fn own_address() -> IpAddr {
    Ipv4Addr::new(127, fastrand::u8(1..=250), fastrand::u8(0..=255), fastrand::u8(1..=254)).into()
}

/// Ports that are free on `address` now, all different.
pub(crate) fn free_ports<const N: usize>(address: IpAddr) -> [u16; N] {
    let listeners = std::array::from_fn::<_, N, _>(|_| {
        TcpListener::bind((address, 0)).unwrap_or_else(|error| {
            panic!("cannot listen on {address}, the kit needs Linux' loopback network: {error}")
        })
    });
    listeners.map(|listener| listener.local_addr().expect("a listener has an address").port())
}

/// Text as it stands in the user part of a URL (RFC 3986 section 2.3).
pub(crate) fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Finds the program of a server: named by the environment variable, else on the search path and where Debian puts
/// servers (which is not on every user's path).
///
/// # Panics
///
/// When it is not there; the message says how to install it.
pub(crate) fn find_program(variable: &str, name: &str, package: &str) -> PathBuf {
    if let Some(named) = env::var_os(variable).filter(|value| !value.is_empty()) {
        let path = PathBuf::from(named);
        assert!(path.is_file(), "{variable} names {}, which is not a file", path.display());
        return path;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "these tests need {name}: install it (`apt-get install {package}`) or name its program in {variable}"
            )
        })
}

/// Starts `process` and waits until `probe` says that it answers. The error tells the process's log.
pub(crate) async fn start_and_wait<Answer: Future<Output = bool>>(
    process: &Process,
    probe: impl FnMut() -> Answer,
) -> Result<(), String> {
    process.start();
    wait_ready(process, probe).await
}

/// Stops `process` if it runs, and starts it again until it answers.
///
/// # Panics
///
/// When it does not start.
pub(crate) async fn restart<Answer: Future<Output = bool>>(
    process: &Process,
    address: SocketAddr,
    mut probe: impl FnMut() -> Answer,
) {
    process.stop(STOP_DEADLINE).await;
    let mut failure = String::new();
    for _ in 0..START_ATTEMPTS {
        match start_and_wait(process, &mut probe).await {
            Ok(()) => return,
            Err(error) => failure = error,
        }
    }
    panic!("cannot start the server on {address} again: {failure}");
}

/// Waits until `probe` says that the started `process` answers. The error tells the process's log.
pub(crate) async fn wait_ready<Answer: Future<Output = bool>>(
    process: &Process,
    mut probe: impl FnMut() -> Answer,
) -> Result<(), String> {
    let ready = async {
        loop {
            if tokio::time::timeout(PROBE_DEADLINE, probe()).await == Ok(true) {
                return true;
            }
            if !process.is_running() {
                return false;
            }
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    };
    match tokio::time::timeout(READY_DEADLINE, ready).await {
        // Somebody answered; make sure that it was not another server on a port that ours did not get.
        Ok(true) if process.is_running() => Ok(()),
        Ok(_) => Err(format!("it ended while starting\n{}", process.log())),
        Err(_) => {
            process.kill();
            Err(format!("it did not answer within {READY_DEADLINE:?}\n{}", process.log()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_loopback_but_not_the_usual_one() {
        for _ in 0..1000 {
            let address = own_address();
            assert!(address.is_loopback());
            assert_ne!(address, IpAddr::from(Ipv4Addr::LOCALHOST));
        }
    }

    #[test]
    #[should_panic(expected = "apt-get install no-such-package")]
    fn a_missing_program_says_what_to_install() {
        find_program("FANFARE_TEST_NO_SUCH", "no-such-program", "no-such-package");
    }

    #[tokio::test]
    async fn a_server_that_ends_while_starting_tells_its_log() {
        let process = Process::new("/bin/sh").arguments(["-c", "echo broken; exit 1"]);
        let error = start_and_wait(&process, async || false).await.unwrap_err();
        assert!(error.contains("ended while starting") && error.contains("broken"), "{error}");
    }
}
