//! Takes values out of the merged configuration, key by key, and notes every problem instead of stopping at the first.
//!
//! A key exists because something here takes it: what nobody took is unknown, and what was taken is what `config --print`
//! shows. So the list of keys is written down once, in `build`.

use std::{collections::BTreeSet, fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration};

use figment::{
    Figment, Metadata,
    value::{Dict, Num, Tag, Value},
};

use super::{
    Secret,
    load::{Layer, Problem},
    print::Effective,
    value::{parse_count, parse_duration, parse_size, show_duration, show_size},
};

/// Where values are taken from, and what was found wrong with them.
pub(super) struct Reader {
    figment: Figment,
    values: Dict,
    known: BTreeSet<String>,
    pub(super) problems: Vec<Problem>,
    /// What is accepted but should not stay as it is.
    pub(super) warnings: Vec<String>,
    pub(super) effective: Effective,
}

/// A value with the key that it was taken from.
pub(super) struct Found {
    pub(super) value: Value,
    pub(super) source: String,
    layer: Layer,
}

impl Reader {
    pub(super) fn new(figment: Figment, mut values: Dict) -> Self {
        flatten_arrays_of_tables(&mut values);
        Self {
            figment,
            values,
            known: BTreeSet::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            effective: Effective::default(),
        }
    }

    /// Notes a problem with a key, by its value as it was given.
    pub(super) fn problem(&mut self, key: &str, found: Option<&Found>, allowed: impl Display) {
        let (value, source) = match found {
            Some(found) => (Some(show(&found.value)), Some(found.source.clone())),
            None => (None, None),
        };
        self.problems.push(Problem { key: key.into(), value, source, text: allowed.to_string() });
    }

    /// Notes a problem with a value that is shown in another form than it was given, such as a URL without its password.
    pub(super) fn problem_with(&mut self, key: &str, value: String, found: &Found, allowed: impl Display) {
        let source = Some(found.source.clone());
        self.problems.push(Problem { key: key.into(), value: Some(value), source, text: allowed.to_string() });
    }

    /// Notes that a value, right by itself, contradicts others.
    pub(super) fn contradiction(&mut self, key: &str, value: impl Display, text: impl Display) {
        let value = Some(value.to_string());
        self.problems.push(Problem { key: key.into(), value, source: None, text: text.to_string() });
    }

    /// The same for a value that is not shown.
    pub(super) fn contradiction_masked(&mut self, key: &str, text: impl Display) {
        self.problems.push(Problem { key: key.into(), value: None, source: None, text: text.to_string() });
    }

    /// Whether a key is given.
    pub(super) fn has(&self, key: &str) -> bool {
        find(&self.values, key).is_some()
    }

    /// The text of a file that a key names.
    pub(super) fn read_file(&mut self, key: &str, path: &str) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.contradiction(key, format_args!("{path:?}"), format_args!("the file cannot be read: {error}"));
                None
            }
        }
    }

    /// Takes the value of a key, where there is one.
    pub(super) fn take(&mut self, key: &str) -> Option<Found> {
        self.known.insert(key.into());
        let value = remove(&mut self.values, key)?;
        Some(self.found(value))
    }

    /// Lets keys be known that are not read now.
    pub(super) fn name_keys(&mut self, keys: impl IntoIterator<Item = String>) {
        self.known.extend(keys);
    }

    /// Takes a key that exists elsewhere and cannot be here, and says why.
    pub(super) fn refuse(&mut self, key: &str, why: impl Display) {
        if let Some(value) = remove(&mut self.values, key) {
            let source = Some(self.found(value).source);
            self.problems.push(Problem { key: key.into(), value: None, source, text: why.to_string() });
        }
    }

    /// The names of the tables and values below a key: what an operator may name freely.
    pub(super) fn names(&mut self, key: &str) -> Vec<String> {
        self.known.insert(key.into());
        match find(&self.values, key) {
            Some(Value::Dict(_, dict)) => dict.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Takes a value by a function that reads it; a value that it does not take is a problem, and the default stands in.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        default: T,
        allowed: impl Display,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> T {
        let Some(found) = self.take(key) else { return default };
        match read(&found.value) {
            Some(value) => value,
            None => {
                self.problem(key, Some(&found), format_args!("must be {allowed}"));
                default
            }
        }
    }

    /// Bytes.
    pub(super) fn size(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> usize {
        let [least, most] = [*range.start(), *range.end()].map(|bytes| show_size(bytes as u64));
        let allowed = format!("a size such as 65536 or \"64KiB\", from {least} to {most}");
        let bytes = self.read(key, default, allowed, |value| {
            let bytes = usize::try_from(whole(value).or_else(|| parse_size(value.as_str()?))?).ok()?;
            range.contains(&bytes).then_some(bytes)
        });
        self.effective.set(key, show_size(bytes as u64));
        bytes
    }

    /// Bytes, where given.
    pub(super) fn optional_size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let [least, most] = [*range.start(), *range.end()].map(show_size);
        let allowed = format!("a size such as 65536 or \"64KiB\", from {least} to {most}");
        let bytes = self.read(key, None, allowed, |value| {
            let bytes = whole(value).or_else(|| parse_size(value.as_str()?))?;
            range.contains(&bytes).then_some(Some(bytes))
        });
        if let Some(bytes) = bytes {
            self.effective.set(key, show_size(bytes));
        }
        bytes
    }

    /// One of several numbers.
    pub(super) fn one_of(&mut self, key: &str, default: u8, numbers: &[u8]) -> u8 {
        let names: Vec<_> = numbers.iter().map(u8::to_string).collect();
        let number = self.read(key, default, names.join(" or "), |value| {
            let number = u8::try_from(whole(value).or_else(|| parse_count(value.as_str()?))?).ok()?;
            numbers.contains(&number).then_some(number)
        });
        self.effective.set(key, i64::from(number));
        number
    }

    /// A whole number.
    pub(super) fn count(&mut self, key: &str, default: usize, range: RangeInclusive<usize>) -> usize {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let count = self.read(key, default, allowed, |value| {
            let count = usize::try_from(whole(value).or_else(|| parse_count(value.as_str()?))?).ok()?;
            range.contains(&count).then_some(count)
        });
        self.effective.set(key, i64::try_from(count).unwrap_or(i64::MAX));
        count
    }

    /// A duration.
    pub(super) fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let [least, most] = [*range.start(), *range.end()].map(show_duration);
        let allowed = format!("a duration with its unit, such as \"10s\" or \"500ms\", from {least} to {most}");
        let duration = self.read(key, default, allowed, |value| {
            parse_duration(value.as_str()?).filter(|duration| range.contains(duration))
        });
        self.effective.set(key, show_duration(duration));
        duration
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        let flag = self.read(key, default, "true or false", as_flag);
        self.effective.set(key, flag);
        flag
    }

    /// One of several words.
    pub(super) fn choice<T: Copy + PartialEq>(&mut self, key: &str, default: T, words: &[(&str, T)]) -> T {
        let names: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let choice = self.read(key, default, names.join(" or "), |value| {
            let word = value.as_str()?;
            words.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice)
        });
        let word = words.iter().find(|(_, other)| *other == choice).map_or("", |(word, _)| word);
        self.effective.set(key, word);
        choice
    }

    /// A text that is not empty, where given.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let text = self.read(key, None, "a text that is not empty", |value| as_text(value).map(Some));
        if let Some(text) = &text {
            self.effective.set(key, text.as_str());
        }
        text
    }

    /// The path of a file, where given.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A list of texts, where given; in an environment variable they are separated by commas.
    pub(super) fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let texts = self.read(key, None, "a list of texts", |value| as_texts(value).map(Some));
        if let Some(texts) = &texts {
            self.effective.set(key, texts.clone());
        }
        texts
    }

    /// A list of values that are read from texts.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        allowed: impl Display,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let found = self.take(key)?;
        let Some(texts) = as_texts(&found.value) else {
            self.problem(key, Some(&found), format_args!("must be a list; each is {allowed}"));
            return None;
        };
        let mut list = Vec::with_capacity(texts.len());
        for text in &texts {
            match read(text) {
                Some(item) => list.push(item),
                None => self.problems.push(Problem {
                    key: key.into(),
                    value: Some(format!("{text:?}")),
                    source: Some(found.source.clone()),
                    text: format!("must be {allowed}"),
                }),
            }
        }
        self.effective.set(key, texts);
        Some(list)
    }

    /// A secret, from the key itself or from the file that `{key}_file` names. The one set later in the order file,
    /// environment, flags wins; both in one place contradict each other.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        let secret = self.secret_source(key)?;
        self.effective.set_secret(key);
        Some(Secret::new(secret))
    }

    /// A list of secrets; in a file one per line, in an environment variable separated by commas.
    pub(super) fn secrets(&mut self, key: &str) -> Vec<Secret> {
        let Some(text) = self.secret_source(key) else { return Vec::new() };
        let secrets: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::new).collect();
        self.effective.set(key, vec!["***".to_owned(); secrets.len()]);
        secrets
    }

    fn secret_source(&mut self, key: &str) -> Option<String> {
        let file_key = format!("{key}_file");
        let (value, file) = (self.take(key), self.take(&file_key));
        match (value, file) {
            (Some(value), Some(file)) if value.layer == file.layer => {
                self.masked_problem(key, &value, format_args!("{file_key} is given too; one of them is allowed"));
                None
            }
            (Some(value), file) if file.as_ref().is_none_or(|file| file.layer < value.layer) => {
                let text = as_text(&value.value).or_else(|| as_texts(&value.value).map(|texts| texts.join("\n")));
                if text.is_none() {
                    self.masked_problem(key, &value, "must be a text that is not empty");
                }
                // Lists are kept one per line, which is how a file holds them.
                text.map(|text| if is_plural(key) { text.replace(',', "\n") } else { text })
            }
            (_, Some(file)) => self.read_secret_file(&file_key, &file),
            _ => None,
        }
    }

    fn read_secret_file(&mut self, key: &str, found: &Found) -> Option<String> {
        let Some(path) = as_text(&found.value) else {
            self.problem(key, Some(found), "must be the path of a file");
            return None;
        };
        match std::fs::read_to_string(&path) {
            // Editors and `kubectl create secret` end a file with a newline that is not part of the secret.
            Ok(text) if !text.trim().is_empty() => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Ok(_) => {
                self.problem(key, Some(found), "the file is empty");
                None
            }
            Err(error) => {
                self.problem(key, Some(found), format_args!("the file cannot be read: {error}"));
                None
            }
        }
    }

    fn masked_problem(&mut self, key: &str, found: &Found, text: impl Display) {
        let source = Some(found.source.clone());
        self.problems.push(Problem { key: key.into(), value: Some("***".into()), source, text: text.to_string() });
    }

    /// Notes what nobody took as unknown, with what is known beside it.
    pub(super) fn finish(&mut self) {
        let mut rest = Vec::new();
        collect(&self.values, "", &mut rest);
        for (key, value) in rest {
            let table = key.rsplit_once('.').map_or("", |(table, _)| table);
            let is_table = self.known.iter().any(|known| known.starts_with(&format!("{key}.")));
            let text = if self.known.contains(&key) {
                "must be a table".into()
            } else if is_table {
                format!("must be a table; its keys are {}", self.keys_of(&key))
            } else {
                let allowed = self.keys_of(table);
                let place = if table.is_empty() { "at the top".into() } else { format!("in [{table}]") };
                match allowed.as_str() {
                    "" => format!("is not known, nor is anything else {place}"),
                    _ => format!("is not known; allowed {place} are {allowed}"),
                }
            };
            let found = self.found(value);
            // What is not known may be a secret with a misspelt name.
            let source = Some(found.source);
            self.problems.push(Problem { key, value: None, source, text });
        }
    }

    fn keys_of(&self, table: &str) -> String {
        let prefix = if table.is_empty() { String::new() } else { format!("{table}.") };
        let names: BTreeSet<_> = self
            .known
            .iter()
            .filter_map(|key| key.strip_prefix(&prefix))
            .map(|rest| rest.split(['.', '[']).next().unwrap_or_default())
            .collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Keys that were asked for, whether given or not.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    fn found(&self, value: Value) -> Found {
        let metadata = tag(&value).and_then(|tag| self.figment.get_metadata(tag));
        let source = metadata.map_or_else(|| "default".into(), |metadata| metadata.name.to_string());
        Found { value, source, layer: metadata.map_or(Layer::File, layer) }
    }
}

fn layer(metadata: &Metadata) -> Layer {
    Layer::of(&metadata.name)
}

/// `keys = [{…}, {…}]` is read as tables named `keys[0]` and `keys[1]`, so that every value has a key of its own.
fn flatten_arrays_of_tables(values: &mut Dict) {
    for value in values.values_mut() {
        if let Value::Dict(_, dict) = value {
            flatten_arrays_of_tables(dict);
        }
    }
    let is_tables = |value: &Value| match value {
        Value::Array(_, items) => !items.is_empty() && items.iter().all(|item| item.as_dict().is_some()),
        _ => false,
    };
    let names: Vec<_> = values.iter().filter(|(_, value)| is_tables(value)).map(|(name, _)| name.clone()).collect();
    for name in names {
        if let Some(Value::Array(_, items)) = values.remove(&name) {
            values.extend(items.into_iter().enumerate().map(|(index, item)| (format!("{name}[{index}]"), item)));
        }
    }
}

fn find<'a>(values: &'a Dict, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => values.get(key),
        Some((table, rest)) => find(values.get(table)?.as_dict()?, rest),
    }
}

fn remove(values: &mut Dict, key: &str) -> Option<Value> {
    match key.split_once('.') {
        None => values.remove(key),
        Some((table, rest)) => match values.get_mut(table)? {
            Value::Dict(_, dict) => remove(dict, rest),
            _ => None,
        },
    }
}

fn collect(values: &Dict, prefix: &str, rest: &mut Vec<(String, Value)>) {
    for (name, value) in values {
        let key = format!("{prefix}{name}");
        match value {
            Value::Dict(_, dict) if dict.is_empty() => {}
            Value::Dict(_, dict) => collect(dict, &format!("{key}."), rest),
            _ => rest.push((key, value.clone())),
        }
    }
}

fn tag(value: &Value) -> Option<Tag> {
    Some(value.tag())
}

fn is_plural(key: &str) -> bool {
    key.ends_with("keys")
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Num(_, num) => num.to_i128().or_else(|| num.to_u128().and_then(|n| n.try_into().ok())),
        _ => None,
    }
    .and_then(|number| u64::try_from(number).ok())
}

fn as_flag(value: &Value) -> Option<bool> {
    match (value, value.as_str()) {
        (Value::Bool(_, flag), _) => Some(*flag),
        (_, Some("true")) => Some(true),
        (_, Some("false")) => Some(false),
        _ => None,
    }
}

/// An empty text means nothing: it is what an environment variable holds that a template left empty.
pub(super) fn as_text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn as_texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(_, items) => items.iter().map(as_text).collect(),
        _ => Some(as_text(value)?.split(',').map(|item| item.trim().to_owned()).collect()),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, character) => format!("{:?}", character.to_string()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, num) => show_number(*num),
        Value::Empty(..) => "nothing".into(),
        Value::Dict(..) => "{…}".into(),
        Value::Array(_, items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
    }
}

fn show_number(number: Num) -> String {
    match (number.to_i128(), number.to_u128(), number.to_f64()) {
        (Some(number), ..) => number.to_string(),
        (_, Some(number), _) => number.to_string(),
        (_, _, Some(number)) => number.to_string(),
        _ => "a number".into(),
    }
}
