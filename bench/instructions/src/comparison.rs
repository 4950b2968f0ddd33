//! Counts held against a baseline.

use std::fmt;

use crate::baseline::Counts;

/// How much more a call may cost than in the baseline, as a fraction.
const BOUND: f64 = 0.05;

/// See the module.
#[derive(Debug)]
pub struct Comparison {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    counted: Option<f64>,
    baseline: Option<f64>,
}

/// What is said of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// As in the baseline, within the bound.
    Same,
    /// Less, by more than the bound: the baseline should say so, or it may grow back unseen.
    Less,
    /// More than the bound allows.
    More,
    /// The baseline does not have it.
    New,
    /// It is not counted any more.
    Gone,
}

impl Row {
    /// The change as a fraction of the baseline.
    fn change(&self) -> Option<f64> {
        Some(self.counted? / self.baseline? - 1.0)
    }

    fn verdict(&self) -> Verdict {
        match (self.counted, self.change()) {
            (None, _) => Verdict::Gone,
            (_, None) => Verdict::New,
            (_, Some(change)) if change > BOUND => Verdict::More,
            (_, Some(change)) if change < -BOUND => Verdict::Less,
            _ => Verdict::Same,
        }
    }
}

impl Comparison {
    /// Each case that one of them has.
    pub fn new(baseline: &Counts, counted: &Counts) -> Self {
        let mut names: Vec<_> = baseline.keys().chain(counted.keys()).cloned().collect();
        names.sort();
        names.dedup();
        let row =
            |name: String| Row { counted: counted.get(&name).copied(), baseline: baseline.get(&name).copied(), name };
        Self { rows: names.into_iter().map(row).collect() }
    }

    /// Whether nothing costs more than allowed, and the baseline has what is counted and nothing else.
    pub fn is_within_bounds(&self) -> bool {
        self.rows.iter().all(|row| matches!(row.verdict(), Verdict::Same | Verdict::Less))
    }

    /// A line for each case.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max(8);
        let number = |number: Option<f64>| number.map_or_else(|| "–".to_owned(), |number| format!("{number:.1}"));
        let mut table = format!("{:width$}  {:>12}  {:>12}  {:>8}\n", "function", "per call", "baseline", "change");
        for row in &self.rows {
            let change = row.change().map_or_else(|| "–".to_owned(), |change| format!("{:+.1} %", change * 100.0));
            let mark = match row.verdict() {
                Verdict::Same => "",
                Verdict::Less => "  less",
                Verdict::More => "  MORE",
                Verdict::New => "  NEW",
                Verdict::Gone => "  GONE",
            };
            let (counted, baseline) = (number(row.counted), number(row.baseline));
            table += &format!("{:width$}  {counted:>12}  {baseline:>12}  {change:>8}{mark}\n", row.name);
        }
        table
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict() == verdict).count()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.table())?;
        let [more, new, gone, less] =
            [Verdict::More, Verdict::New, Verdict::Gone, Verdict::Less].map(|v| self.count(v));
        if more > 0 {
            writeln!(f, "{more} cost more than {:.0} % above the baseline.", BOUND * 100.0)?;
        }
        if new > 0 || gone > 0 {
            writeln!(f, "{new} are not in the baseline, {gone} are not counted any more.")?;
        }
        if less > 0 {
            writeln!(f, "{less} cost less than the baseline says; accept that, so that they stay there.")?;
        }
        match self.is_within_bounds() {
            true => write!(f, "Nothing costs more than the baseline allows."),
            false => write!(
                f,
                "See what a case spends by --profiles (bench/instructions/README.md). Where it is meant: make instructions-accept"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, f64)]) -> Counts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn is_within(baseline: &[(&str, f64)], counted: &[(&str, f64)]) -> bool {
        Comparison::new(&counts(baseline), &counts(counted)).is_within_bounds()
    }

    #[test]
    fn five_percent_more_pass_and_more_than_that_fails() {
        assert!(is_within(&[("a", 1000.0), ("b", 10.0)], &[("a", 1049.9), ("b", 10.0)]));
        assert!(!is_within(&[("a", 1000.0), ("b", 10.0)], &[("a", 1051.0), ("b", 5.0)]));
        assert!(is_within(&[("a", 1000.0)], &[("a", 10.0)]), "less is no failure");
    }

    #[test]
    fn what_only_one_of_them_has_fails() {
        assert!(!is_within(&[("a", 1.0)], &[("a", 1.0), ("b", 1.0)]));
        assert!(!is_within(&[("a", 1.0), ("b", 1.0)], &[("a", 1.0)]));
    }

    #[test]
    fn what_failed_is_said_with_how_to_accept_it() {
        let said = Comparison::new(&counts(&[("a", 100.0), ("b", 1.0)]), &counts(&[("a", 106.0)])).to_string();
        assert!(said.contains("a                106.0         100.0    +6.0 %  MORE"), "{said}");
        assert!(said.contains("GONE"), "{said}");
        assert!(said.ends_with("make instructions-accept"), "{said}");
    }
}
