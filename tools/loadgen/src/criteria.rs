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
