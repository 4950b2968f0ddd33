//! TLS for both NATS and Redis: aws-lc-rs, and files that are looked at before they are needed.

use std::{fs::File, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::{BrokerError, BrokerOptions};

/// The client libraries take the process's provider. The gateway installs it in `main`; other programs need not know.
pub(crate) fn ensure_provider() {
    if CryptoProvider::get_default().is_none() {
        // Somebody else may have been faster; theirs is as good.
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

/// Refuses files that cannot be used, while the error can still name the option.
pub(crate) fn check_files(options: &BrokerOptions) -> Result<(), BrokerError> {
    if let Some(path) = &options.tls_ca_file {
        certificates("tls_ca_file", path)?;
    }
    if let Some(path) = &options.tls_cert_file {
        certificates("tls_cert_file", path)?;
    }
    if let Some(path) = &options.tls_key_file {
        key(path)?;
    }
    Ok(())
}

/// A configuration with the authorities of `tls_ca_file`; None where the system's are to be used.
#[cfg(feature = "redis")]
pub(crate) fn client_config(options: &BrokerOptions) -> Result<Option<ClientConfig>, BrokerError> {
    match (&options.tls_ca_file, &options.tls_cert_file) {
        (Some(path), _) => with_roots(options, authorities(path)?).map(Some),
        (None, None) => Ok(None),
        (None, Some(path)) => Err(unusable("tls_cert_file", path, "together with tls_ca_file, on Redis")),
    }
}

/// A configuration with the authorities of `tls_ca_file`, or with the system's.
#[cfg(feature = "nats")]
pub(crate) fn config_or_system(options: &BrokerOptions) -> Result<ClientConfig, BrokerError> {
    if let Some(path) = &options.tls_ca_file {
        return with_roots(options, authorities(path)?);
    }
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    if roots.add_parsable_certificates(system.certs).0 == 0 {
        let why = system.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(BrokerError::Configuration {
            what: "tls_ca_file",
            value: "not set".to_owned(),
            allowed: format!("a PEM file, since the system's authorities cannot be read ({why})"),
        });
    }
    with_roots(options, roots)
}

fn authorities(path: &Path) -> Result<RootCertStore, BrokerError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca_file", path)? {
        roots.add(certificate).map_err(|error| unusable("tls_ca_file", path, &error.to_string()))?;
    }
    Ok(roots)
}

fn with_roots(options: &BrokerOptions, roots: RootCertStore) -> Result<ClientConfig, BrokerError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs speaks the default versions")
        .with_root_certificates(roots);
    match (&options.tls_cert_file, &options.tls_key_file) {
        (Some(certificate), Some(key_file)) => builder
            .with_client_auth_cert(certificates("tls_cert_file", certificate)?, key(key_file)?)
            .map_err(|error| unusable("tls_cert_file", certificate, &error.to_string())),
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let file = File::open(path).map_err(|error| unusable(what, path, &format!("a readable PEM file ({error})")))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(file).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(unusable(what, path, "a PEM file with certificates")),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, BrokerError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| unusable("tls_key_file", path, &format!("a PEM file with a private key ({error})")))
}

fn unusable(what: &'static str, path: &Path, allowed: &str) -> BrokerError {
    BrokerError::Configuration { what, value: path.display().to_string(), allowed: allowed.to_owned() }
}
