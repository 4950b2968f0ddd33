//! Who may connect: tokens (JWT, RFC 7519) are verified here, and become a session's [`Grant`](fanfare_session::Grant).

mod claims;
mod config;
mod jwks;
mod keys;
mod verifier;

pub use config::{AuthConfig, JwksConfig, KeyConfig, KeyMaterial, TokenPolicy};
pub use jsonwebtoken::Algorithm;
pub use keys::{KeyError, check_key, weakness};
pub use verifier::Verifier;

#[cfg(test)]
mod tests;
