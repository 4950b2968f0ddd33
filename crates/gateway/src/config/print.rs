//! The effective configuration, as TOML, secrets masked.

use toml::{Table, Value};

/// Every key with its value in effect. Secrets never get in: they are `***` from the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Effective(Table);

impl Effective {
    /// Sets the value of a key.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let mut table = &mut self.0;
        let mut rest = key;
        while let Some((name, below)) = rest.split_once('.') {
            let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = entry else { return };
            table = inner;
            rest = below;
        }
        table.insert(rest.into(), value.into());
    }

    /// Says that a secret is given.
    pub(super) fn set_secret(&mut self, key: &str) {
        self.set(key, "***");
    }

    /// Sets a key that is an array of tables from keys named `key[0]`, `key[1]` and so on.
    pub(super) fn gather(&mut self, table: &str, name: &str) {
        let Some(Value::Table(inner)) = self.0.get_mut(table) else { return };
        let mut items = Vec::new();
        while let Some(item) = inner.remove(&format!("{name}[{}]", items.len())) {
            items.push(item);
        }
        if !items.is_empty() {
            inner.insert(name.into(), Value::Array(items));
        }
    }

    /// As TOML that can be used as a configuration file, but for the secrets.
    pub(super) fn to_toml(&self) -> String {
        toml::to_string_pretty(&self.0).expect("a table of texts, numbers and lists is TOML")
    }
}

impl super::Config {
    /// The effective configuration as TOML, every default spelt out, secrets masked.
    pub fn to_toml(&self) -> String {
        self.effective.to_toml()
    }
}
