//! Tenants: isolated customers, one segment each.

use std::{
    borrow::Borrow,
    fmt,
    sync::{Arc, LazyLock},
};

use crate::{NameError, channel::validate_segment_characters, limits::SEGMENT_BYTES};

/// A tenant's name. Nothing crosses tenants.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The tenant of those who name none.
    pub const DEFAULT: &'static str = "default";

    /// Checks and keeps a name: one segment, see [`Channel`](crate::Channel).
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.is_empty() || name.len() > SEGMENT_BYTES {
            return Err(NameError::SegmentLength { index: 0, bytes: name.len() });
        }
        validate_segment_characters(name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    /// Nearly all clients have this one: they share its text.
    fn default() -> Self {
        static SHARED: LazyLock<Arc<str>> = LazyLock::new(|| Tenant::DEFAULT.into());
        Self(SHARED.clone())
    }
}

impl Borrow<str> for Tenant {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_one_segment() {
        assert_eq!(Tenant::parse("acme").unwrap().as_str(), "acme");
        assert_eq!(Tenant::parse("a:b"), Err(NameError::Character { character: ':' }));
        assert_eq!(Tenant::parse(""), Err(NameError::SegmentLength { index: 0, bytes: 0 }));
        assert_eq!(Tenant::default().as_str(), "default");
    }
}
