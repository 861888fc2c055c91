//! What has to come out: counts that are right or wrong, and accounts that balance.

use serde::Serialize;

/// Something that must be so, and whether it is. Only counts: times are reported, never judged here.
///
/// ```
/// let criterion = millpond_loadgen::Criterion { text: "nothing lost".into(), met: true };
/// assert!(millpond_loadgen::all_met(&[criterion]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Criterion {
    /// What must be so, with the numbers that it is about.
    pub text: String,
    /// Whether it is.
    pub met: bool,
}

impl Criterion {
    pub(crate) fn new(text: impl Into<String>, met: bool) -> Self {
        Criterion {
            text: text.into(),
            met,
        }
    }
}

/// Whether all of them are met.
pub fn all_met(criteria: &[Criterion]) -> bool {
    criteria.iter().all(|criterion| criterion.met)
}

/// Whether there is an account at all, and all are complete: what was not played is not met.
pub(crate) fn all_complete(accounts: &[Account]) -> bool {
    !accounts.is_empty() && accounts.iter().all(Account::is_complete)
}

/// What became of the events of one source under one prefix, once everything rests.
///
/// ```
/// let account = millpond_loadgen::Account {
///     source: "indexer".into(), prefix: "data:code_index".into(),
///     published: 10, delivered: 9, dropped: 1, received: Some(9), lagged: 0,
/// };
/// assert!(account.balances());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The publisher's label.
    pub source: String,
    /// Literal prefix of its events.
    pub prefix: String,
    /// Events it offered, by its own count.
    pub published: u64,
    /// Events that the consumer took, by the count in shared memory.
    pub delivered: u64,
    /// Events dropped, of all causes.
    pub dropped: u64,
    /// Events that reached the subscriber; `None` where nobody subscribed.
    pub received: Option<u64>,
    /// Events that the subscriber was too slow for, and was told of.
    pub lagged: u64,
}

impl Account {
    /// Whether `published = delivered + dropped`, and `delivered = received + lagged` where somebody subscribed.
    pub fn balances(&self) -> bool {
        let at_the_end = self
            .received
            .is_none_or(|received| received + self.lagged == self.delivered);
        self.published == self.delivered + self.dropped && at_the_end
    }

    /// Whether every event arrived.
    pub fn is_complete(&self) -> bool {
        self.balances() && self.dropped == 0 && self.lagged == 0
    }
}

/// What became of the events of one source that are kept in the log, once everything rests.
///
/// ```
/// let account = millpond_loadgen::LogAccount {
///     source: "web".into(), published: 10, counted: 10, delivered: 9, dropped: 1, written: 4, coalesced: 5,
///     ..Default::default()
/// };
/// assert!(account.balances() && !account.is_complete());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LogAccount {
    /// The publisher's label.
    pub source: String,
    /// Events it offered, by its own count.
    pub published: u64,
    /// The same by the count in shared memory.
    pub counted: u64,
    /// Events that the consumer took.
    pub delivered: u64,
    /// Events dropped, of all causes.
    pub dropped: u64,
    /// Of those delivered, events in a file.
    pub written: u64,
    /// Of those delivered, events refused for what they are.
    pub rejected: u64,
    /// Of those delivered, events that a line with a repeat count stands for.
    pub coalesced: u64,
    /// Of those delivered, events that a rate limit or sampling kept out.
    pub suppressed: u64,
}

impl LogAccount {
    /// Whether `published = delivered + dropped` and `delivered = written + rejected + coalesced + suppressed`.
    pub fn balances(&self) -> bool {
        self.published == self.counted
            && self.published == self.delivered + self.dropped
            && self.delivered == self.written + self.rejected + self.coalesced + self.suppressed
    }

    /// Whether every event is a line.
    pub fn is_complete(&self) -> bool {
        self.balances() && self.written == self.published
    }
}

/// The criterion that every one of them balances. None at all do not: what was not played is not met.
pub(crate) fn balance_criterion(accounts: &[LogAccount]) -> Criterion {
    let good = accounts.iter().filter(|account| account.balances()).count();
    let all = accounts.len();
    Criterion::new(
        format!(
            "{good} of {all} accounts balance: published = delivered + dropped, delivered = written + rejected + \
             coalesced + suppressed"
        ),
        good == all && all > 0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_account_at_all_is_not_complete() {
        assert!(!all_complete(&[]));
    }

    #[test]
    fn what_arrived_must_be_what_was_delivered() {
        let account = Account {
            source: "a".to_owned(),
            prefix: "a:b".to_owned(),
            published: 10,
            delivered: 10,
            dropped: 0,
            received: Some(9),
            lagged: 0,
        };
        assert!(!account.balances());
        let told = Account {
            lagged: 1,
            ..account
        };
        assert!(told.balances() && !told.is_complete());
    }
}
