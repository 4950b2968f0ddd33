//! Servers that take seconds to start are shared: cases that break nothing use them at the same time, each below a prefix of its own.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Started by the first who needs them; they end with the process.
pub(crate) struct Shared<T> {
    servers: RwLock<Option<T>>,
    /// Somebody has broken something.
    broken: AtomicBool,
    prefixes: AtomicU32,
}

/// What is shared.
pub(crate) trait Group: Sized {
    fn start() -> impl Future<Output = Self> + Send;

    /// Makes all well again.
    fn mend(&self) -> impl Future<Output = ()> + Send;
}

/// Others use the servers too.
pub(crate) struct Guest<T: 'static> {
    servers: RwLockReadGuard<'static, Option<T>>,
    pub(crate) prefix: String,
}

/// Nobody else uses the servers, which may be broken.
pub(crate) struct Owner<T: 'static> {
    servers: RwLockWriteGuard<'static, Option<T>>,
    pub(crate) prefix: String,
}

impl<T: Group + Send + Sync> Shared<T> {
    pub(crate) const fn new() -> Self {
        Self { servers: RwLock::const_new(None), broken: AtomicBool::new(false), prefixes: AtomicU32::new(0) }
    }

    pub(crate) async fn share(&'static self) -> Guest<T> {
        loop {
            let servers = self.servers.read().await;
            if servers.is_some() && !self.broken.load(Ordering::SeqCst) {
                return Guest { servers, prefix: self.prefix() };
            }
            drop(servers);
            drop(self.well().await);
        }
    }

    pub(crate) async fn take(&'static self) -> Owner<T> {
        let servers = self.well().await;
        self.broken.store(true, Ordering::SeqCst);
        Owner { servers, prefix: self.prefix() }
    }

    async fn well(&'static self) -> RwLockWriteGuard<'static, Option<T>> {
        let mut servers = self.servers.write().await;
        match &*servers {
            None => *servers = Some(T::start().await),
            Some(servers) if self.broken.load(Ordering::SeqCst) => servers.mend().await,
            Some(_) => {}
        }
        self.broken.store(false, Ordering::SeqCst);
        servers
    }

    fn prefix(&self) -> String {
        format!("t{}", self.prefixes.fetch_add(1, Ordering::SeqCst))
    }
}

impl<T> std::ops::Deref for Guest<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.servers.as_ref().unwrap()
    }
}

impl<T> std::ops::Deref for Owner<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.servers.as_ref().unwrap()
    }
}
