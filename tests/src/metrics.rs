//! Prometheus's text format, read strictly: whatever a real scraper would stumble over is a panic.

use std::collections::{BTreeMap, BTreeSet};

use crate::http::Http;

type Labels = BTreeMap<String, String>;

/// One scrape of a node.
#[derive(Clone, Debug)]
pub struct Scrape {
    text: String,
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    /// Scrapes a node.
    ///
    /// # Panics
    /// When it does not answer, or not in the text format.
    pub async fn of(http: &Http) -> Self {
        let reply = http.get(lock_api::path::METRICS).await;
        let kind = reply.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let text = reply.expect(200);
        Self::parse(text.as_str().expect("metrics are text"))
    }

    /// Reads the text format.
    ///
    /// # Panics
    /// Shows the line that breaks it.
    pub fn parse(text: &str) -> Self {
        let mut scrape = Self {
            text: text.to_owned(),
            kinds: BTreeMap::new(),
            samples: BTreeMap::new(),
        };
        let mut helped = BTreeSet::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, meaning) = help.split_once(' ').unwrap_or_default();
                assert!(!meaning.is_empty(), "{line}");
                assert!(helped.insert(name.to_owned()), "twice: {line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap_or_default();
                let known = ["counter", "gauge", "histogram"].contains(&kind);
                assert!(known, "{line}");
                let before = scrape.kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "twice: {line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap_or_default();
                let value = match value {
                    "+Inf" => f64::INFINITY,
                    value => value.parse().unwrap_or_else(|_| panic!("{line}")),
                };
                let key = parse_series(series);
                let before = scrape.samples.insert(key, value);
                assert_eq!(before, None, "twice: {line}");
            }
        }
        for family in scrape.families() {
            assert!(helped.contains(&family), "{family} says not what it means");
        }
        scrape.check_samples();
        scrape
    }

    /// The text as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of every metric.
    pub fn families(&self) -> Vec<String> {
        self.kinds.keys().cloned().collect()
    }

    /// One sample, by all of its labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// The value of the label `by`, and the sample, of every sample of this name.
    pub fn by_label(&self, name: &str, by: &str) -> BTreeMap<String, f64> {
        self.samples
            .iter()
            .filter(|((own, _), _)| own == name)
            .filter_map(|((_, labels), value)| Some((labels.get(by)?.clone(), *value)))
            .collect()
    }

    fn check_samples(&self) {
        for ((name, labels), value) in &self.samples {
            let family = self.kinds.keys().find(|family| {
                let rest = name.strip_prefix(family.as_str());
                match self.kinds[*family].as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&rest.unwrap_or("none")),
                    _ => rest == Some(""),
                }
            });
            let family = family.unwrap_or_else(|| panic!("{name} has no type"));
            if self.kinds[family] == "counter" {
                assert!(family.ends_with("_total"), "{family}");
                assert!(*value >= 0.0, "{name}{labels:?} {value}");
            }
            if name.ends_with("_bucket") && self.kinds[family] == "histogram" {
                self.check_bucket(family, labels, *value);
            }
        }
    }

    /// No bucket holds more than the whole, and the last one holds it all.
    fn check_bucket(&self, family: &str, labels: &Labels, value: f64) {
        let mut plain = labels.clone();
        let bound = plain.remove("le").expect("a bucket has a bound");
        let count = self.samples[&(format!("{family}_count"), plain)];
        match bound.as_str() {
            "+Inf" => assert_eq!(value, count, "{family}{labels:?}"),
            bound => {
                assert!(bound.parse::<f64>().is_ok(), "{family}{labels:?}");
                assert!(value <= count, "{family}{labels:?}");
            }
        }
    }
}

/// `name` or `name{label="value",...}`.
fn parse_series(series: &str) -> (String, Labels) {
    let (name, rest) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (
            name,
            rest.strip_suffix('}').expect("labels end with a brace"),
        ),
    };
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    assert!(is_name(name), "{series}");
    let mut labels = Labels::new();
    let mut rest = rest;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").expect("a label has a quoted value");
        assert!(is_name(label), "{series}");
        // Nothing that we put into labels needs an escape.
        let (value, after) = after.split_once('"').expect("a label's value ends");
        assert!(!value.contains('\\'), "{series}");
        let before = labels.insert(label.to_owned(), value.to_owned());
        assert_eq!(before, None, "{series}");
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    (name.to_owned(), labels)
}
