//! Keys that tokens are verified with, each bound to its algorithms.
//!
//! The token's header only chooses among what a key already allows. So a token cannot turn a public key into a shared
//! secret, nor ask for no signature at all.

use std::fmt;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};

use super::{KeyConfig, KeyMaterial};

/// The fewest bytes of a shared secret: RFC 7518 section 3.2 asks for at least the size of the hash.
const SECRET_BYTES: usize = 32;

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {text}")]
pub struct KeyError {
    /// The configuration key that it came from.
    pub origin: String,
    /// What is wrong, and what is allowed. Nothing of the key itself.
    pub text: String,
}

/// One key that is ready to verify.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    /// All of one family, never empty.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// What is wrong with a configured key, if anything.
pub fn check_key(config: &KeyConfig) -> Option<String> {
    Key::new(config).err().map(|error| error.text)
}

/// Why a configured key can be used but should not be: whoever has one token can try secrets until one fits.
pub fn weakness(config: &KeyConfig) -> Option<String> {
    let KeyMaterial::Secret(secret) = &config.material else { return None };
    let bytes = secret.expose().len();
    let weak = bytes < SECRET_BYTES;
    weak.then(|| format!("the secret has {bytes} bytes; at least {SECRET_BYTES} are needed (RFC 7518 section 3.2)"))
}

impl Key {
    pub(super) fn new(config: &KeyConfig) -> Result<Self, KeyError> {
        let error = |text: String| KeyError { origin: config.origin.clone(), text };
        let (key, fitting) = match &config.material {
            KeyMaterial::Secret(secret) => Ok(from_secret(secret.expose())),
            KeyMaterial::Pem(pem) => from_pem(pem),
        }
        .map_err(error)?;
        if let Some(wrong) = config.algorithms.iter().find(|algorithm| !fitting.contains(algorithm)) {
            return Err(error(format!("{wrong:?} does not fit the key; allowed are {}", names(&fitting))));
        }
        let algorithms = if config.algorithms.is_empty() { fitting } else { config.algorithms.clone() };
        Ok(Self { kid: config.kid.clone(), algorithms, key })
    }

    /// A key of a fetched set; `None` for one that is not for verifying signatures, or of a kind that is not known.
    pub(super) fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signatures {
            return None;
        }
        let fitting: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            // A shared secret in a set that is published is no secret.
            _ => return None,
        };
        let algorithms = match common.key_algorithm {
            None => fitting.to_vec(),
            Some(named) => {
                let algorithm = algorithm(named)?;
                fitting.contains(&algorithm).then(|| vec![algorithm])?
            }
        };
        Some(Self { kid: common.key_id.clone(), algorithms, key: DecodingKey::from_jwk(jwk).ok()? })
    }

    /// Whether a token with this header may have been signed for this key. A key without an id serves every id.
    pub(super) fn fits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        let same_id = match (kid, self.kid.as_deref()) {
            (Some(wanted), Some(own)) => wanted == own,
            _ => true,
        };
        same_id && self.algorithms.contains(&algorithm)
    }
}

fn algorithm(named: KeyAlgorithm) -> Option<Algorithm> {
    Algorithm::try_from(named).ok()
}

fn from_secret(secret: &str) -> (DecodingKey, Vec<Algorithm>) {
    (DecodingKey::from_secret(secret.as_bytes()), AlgorithmFamily::Hmac.algorithms().to_vec())
}

fn from_pem(pem: &str) -> Result<(DecodingKey, Vec<Algorithm>), String> {
    if pem.contains("PRIVATE KEY") {
        return Err(
            "this is a private key; a public key in PEM is needed, and the private one belongs to whoever signs".into(),
        );
    }
    let bytes = pem.as_bytes();
    if let Ok(key) = DecodingKey::from_rsa_pem(bytes) {
        return Ok((key, AlgorithmFamily::Rsa.algorithms().to_vec()));
    }
    if let Ok(key) = DecodingKey::from_ed_pem(bytes) {
        return Ok((key, vec![Algorithm::EdDSA]));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(bytes) {
        // An uncompressed point: one byte, then two coordinates (SEC 1 section 2.3.3).
        return match key.try_get_as_bytes().map(<[u8]>::len) {
            Ok(65) => Ok((key, vec![Algorithm::ES256])),
            Ok(97) => Ok((key, vec![Algorithm::ES384])),
            _ => Err("this curve is not known; allowed are P-256, P-384 and Ed25519".into()),
        };
    }
    Err("this is no public key in PEM; allowed are RSA, EC (P-256, P-384) and Ed25519 keys: -----BEGIN PUBLIC KEY-----"
        .into())
}

fn names(algorithms: &[Algorithm]) -> String {
    algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect::<Vec<_>>().join(", ")
}
