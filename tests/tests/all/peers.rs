//! Publishers and subscribers in processes of their own, and the accounts they give.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::support::{Place, Process};

impl Place {
    /// Events that the subscriber with this label has had so far.
    pub(crate) fn delivered(&self, label: &str) -> u64 {
        let stats = self.bus.stats();
        let found = stats
            .subscribers
            .iter()
            .find(|subscriber| subscriber.label == label);
        found.map_or(0, |subscriber| subscriber.delivered)
    }

    /// A `peer` that is ready.
    pub(crate) fn peer(&self, role: &str, more: &[&str]) -> Process {
        let mut peer = self.start_peer(role, more);
        peer.line_with("ready");
        peer
    }

    /// A `peer` that has yet to say so.
    pub(crate) fn start_peer(&self, role: &str, more: &[&str]) -> Process {
        let mut arguments = vec![
            format!("role={role}"),
            format!("bus={}", self.name),
            format!("rules={}", self.rules),
        ];
        arguments.extend(more.iter().map(|&text| text.to_owned()));
        Process::start(env!("CARGO_BIN_EXE_peer"), &arguments)
    }

    pub(crate) fn subscriber(&self, label: &str, pattern: &str, more: &[&str]) -> Process {
        let (label, pattern) = (format!("label={label}"), format!("pattern={pattern}"));
        self.peer(
            "subscribe",
            &[&[label.as_str(), pattern.as_str()], more].concat(),
        )
    }

    /// Publishes `event` until it is let go, or as `more` says.
    pub(crate) fn source(&self, label: &str, event: &str, more: &[&str]) -> Process {
        let (label, event) = (format!("label={label}"), format!("event={event}"));
        self.peer(
            "publish",
            &[&[label.as_str(), event.as_str()], more].concat(),
        )
    }
}

/// What a peer said in the end.
#[derive(Debug)]
pub(crate) struct Report(Value);

impl Report {
    /// Closes its stdin, and waits.
    pub(crate) fn end(peer: Process) -> Self {
        Self::of(peer.end())
    }

    /// Waits for its own end.
    pub(crate) fn finish(peer: Process) -> Self {
        Self::of(peer.finish())
    }

    fn of((status, lines): (std::process::ExitStatus, Vec<String>)) -> Self {
        let last = lines.last().cloned().unwrap_or_default();
        assert!(status.success(), "{status}: {last}");
        Report(serde_json::from_str(&last).expect("one line of JSON"))
    }

    pub(crate) fn number(&self, key: &str) -> u64 {
        let value = self.0[key].as_u64();
        value.unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }

    /// Numbers by name.
    pub(crate) fn numbers(&self, key: &str) -> BTreeMap<String, u64> {
        let object = self.0[key].as_object().expect("an object");
        let number = |value: &Value| value.as_u64().expect("a number");
        object
            .iter()
            .map(|(name, value)| (name.clone(), number(value)))
            .collect()
    }

    /// A publisher's: all that it offered was published, taken, and nothing dropped.
    pub(crate) fn published(&self) -> u64 {
        assert_eq!(
            self.number("refused") + self.number("dropped"),
            0,
            "{self:?}"
        );
        assert_eq!(self.0["flush"], "done", "{self:?}");
        assert_eq!(self.number("published"), self.number("offered"), "{self:?}");
        self.number("published")
    }

    /// Whatever it got came once, in order, and whole.
    pub(crate) fn assert_orderly(&self) {
        let wrong = self.0["wrong"].as_array().expect("a list");
        assert!(wrong.is_empty(), "{self:?}");
    }

    /// A subscriber's: every event was delivered once, or is in the count of those it missed.
    pub(crate) fn assert_accounts_for(&self, published: u64) {
        self.assert_orderly();
        assert_eq!(
            self.number("distinct"),
            self.number("delivered"),
            "{self:?}"
        );
        assert_eq!(
            self.number("dropped") + self.number("damaged"),
            0,
            "{self:?}"
        );
        let found = self.number("delivered") + self.number("lagged");
        assert_eq!(found, published, "{self:?}");
    }
}

/// Sends a signal by its name.
pub(crate) fn signal(process: &Process, name: &str) {
    let mut kill = Command::new("kill");
    let status = kill
        .arg(format!("-{name}"))
        .arg(process.pid().to_string())
        .status();
    assert!(status.expect("kill").success());
}
