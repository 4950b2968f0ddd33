//! What a node counts, as Prometheus reads it.

use std::collections::BTreeMap;

/// The samples of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads Prometheus' text format.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
            (name.to_owned(), value)
        });
        Self(samples.collect())
    }

    /// The sum over all labels; 0 where nothing was counted.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let samples = self.0.iter().filter(|(own, _)| own.split('{').next() == Some(name));
        samples.map(|(_, value)| value).sum()
    }

    /// The sample with this name and these labels, as it is written: `name{label="value"}`; 0 where nothing was counted.
    pub(crate) fn sample(&self, text: &str) -> f64 {
        self.0.get(text).copied().unwrap_or(0.0)
    }

    /// The sample with this one label; 0 where nothing was counted.
    pub(crate) fn labelled(&self, name: &str, label: &str, value: &str) -> f64 {
        self.0.get(&format!("{name}{{{label}=\"{value}\"}}")).copied().unwrap_or(0.0)
    }
}
