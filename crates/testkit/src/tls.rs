//! Throw-away certificates for servers under test.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate authority that exists only in memory.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate with its private key, both PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate (leaf only; its issuer is the authority itself).
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

/// Where [`Authority::write`] put its files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The authority's certificate, which clients have to trust.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes a new authority (ECDSA P-256).
    #[must_use]
    pub fn generate() -> Self {
        let mut parameters = parameters(&[], "Fanfare test authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = new_key();
        let certificate = parameters.self_signed(&key).expect("a P-256 key signs its own certificate").pem();
        Self { issuer: Issuer::new(parameters, key), certificate }
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for a server or a client: `names` are host names and IP addresses.
    ///
    /// # Panics
    ///
    /// When a name is no host name (not ASCII).
    #[must_use]
    pub fn issue(&self, names: &[&str]) -> Certificate {
        let mut parameters = parameters(names, "Fanfare test certificate");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = new_key();
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a P-256 key signs certificates").pem();
        Certificate { certificate, key: key.serialize_pem() }
    }

    /// Issues a certificate and writes it, its key and the authority's certificate into `directory`.
    ///
    /// # Panics
    ///
    /// As [`Authority::issue`], and when a file cannot be written.
    #[must_use]
    pub fn write(&self, directory: &Path, names: &[&str]) -> CertificateFiles {
        let issued = self.issue(names);
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
            path
        };
        CertificateFiles {
            authority: write("authority.pem", &self.certificate),
            certificate: write("certificate.pem", &issued.certificate),
            key: write("key.pem", &issued.key),
        }
    }
}

fn parameters(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters =
        CertificateParams::new(names).unwrap_or_else(|error| panic!("a name is not fit for a certificate: {error}"));
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the system has randomness")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{self, BufRead, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

    use super::*;

    /// Connects with TLS, trusting one authority only, sends `request` and gives one line of the answer. Where a
    /// `greeting` is expected, a line that starts with it comes before TLS begins.
    pub(crate) fn exchange(
        server: SocketAddr,
        authority: &Path,
        greeting: &[u8],
        request: &[u8],
    ) -> io::Result<Vec<u8>> {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let configuration = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let mut session = ClientConnection::new(Arc::new(configuration), server.ip().into()).unwrap();
        let mut socket = TcpStream::connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        if !greeting.is_empty() {
            let line = read_line_unbuffered(&mut socket)?;
            assert!(line.starts_with(greeting), "{}", String::from_utf8_lossy(&line));
        }
        let mut stream = Stream::new(&mut session, &mut socket);
        stream.write_all(request)?;
        let mut answer = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut answer)?;
        Ok(answer)
    }

    /// Reads byte by byte, so that nothing of TLS is swallowed.
    fn read_line_unbuffered(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            line.extend(byte);
        }
        Ok(line)
    }

    #[test]
    fn each_authority_is_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (Authority::generate(), Authority::generate());
        assert_ne!(one.certificate(), other.certificate());
        let files = one.write(directory.path(), &["127.3.4.5", "localhost"]);
        assert_eq!(fs::read_to_string(&files.authority).unwrap(), one.certificate());
        assert!(fs::read_to_string(&files.key).unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
        let certificate = fs::read_to_string(&files.certificate).unwrap();
        assert!(CertificateDer::from_pem_slice(certificate.as_bytes()).is_ok(), "{certificate}");
    }
}
