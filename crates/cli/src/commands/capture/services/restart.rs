//! Whether a command that has ended is started again, and when.

use std::time::Duration;

/// When to start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum When {
    #[default]
    No,
    OnFailure,
    Always,
}

impl When {
    pub(super) const NAMES: [&str; 3] = ["no", "on-failure", "always"];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "no" => Ok(When::No),
            "on-failure" => Ok(When::OnFailure),
            "always" => Ok(When::Always),
            _ => Err(format!("{text:?} is unknown: use no, on-failure or always")),
        }
    }
}

/// What a services file says of restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) when: When,
    /// Before the first restart; each further one in a row waits twice as long.
    pub(super) delay: Duration,
    /// The longest wait. A command that ran for so long has recovered.
    pub(super) delay_limit: Duration,
    /// Restarts in a row; `None`: as many as it takes.
    pub(super) limit: Option<u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            when: When::No,
            delay: Duration::from_secs(1),
            delay_limit: Duration::from_secs(60),
            limit: None,
        }
    }
}

/// What comes after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the policy wants it so.
    Nothing,
    /// Start it again after this long. `number`: of restarts in a row, from 1.
    Restart { number: u32, delay: Duration },
    /// Nothing more: it has been started again so many times in a row.
    GiveUp { restarts: u32 },
}

/// The restarts of one service.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    in_a_row: u32,
}

impl Restarts {
    /// The command has ended after `ran`.
    pub(super) fn next(&mut self, policy: &Policy, failed: bool, ran: Duration) -> Next {
        let wanted = match policy.when {
            When::No => false,
            When::OnFailure => failed,
            When::Always => true,
        };
        if !wanted {
            return Next::Nothing;
        }
        if ran >= policy.delay_limit {
            self.in_a_row = 0;
        }
        if policy.limit.is_some_and(|limit| self.in_a_row >= limit) {
            return Next::GiveUp {
                restarts: self.in_a_row,
            };
        }
        // A factor of 2^31 is past every limit of a day with a delay of 1 ms.
        let doublings = self.in_a_row.min(31);
        let delay = policy.delay.saturating_mul(1 << doublings);
        self.in_a_row += 1;
        Next::Restart {
            number: self.in_a_row,
            delay: delay.min(policy.delay_limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    fn seconds(next: Next) -> Option<f64> {
        match next {
            Next::Restart { delay, .. } => Some(delay.as_secs_f64()),
            _ => None,
        }
    }

    #[test]
    fn delays_double_up_to_the_limit_and_start_anew_after_it_ran_that_long() {
        let policy = Policy {
            when: When::OnFailure,
            ..Policy::default()
        };
        let mut restarts = Restarts::default();
        let mut delays: Vec<Option<f64>> = (0..8)
            .map(|_| seconds(restarts.next(&policy, true, SHORT)))
            .collect();
        delays.push(seconds(restarts.next(&policy, true, policy.delay_limit)));
        let expected = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 1.0];
        assert_eq!(delays, expected.map(Some));
    }

    #[test]
    fn a_million_restarts_in_a_row_are_no_overflow() {
        let policy = Policy {
            when: When::Always,
            delay_limit: Duration::MAX,
            ..Policy::default()
        };
        let mut restarts = Restarts {
            in_a_row: 1_000_000,
        };
        let next = restarts.next(&policy, false, SHORT);
        assert!(matches!(
            next,
            Next::Restart {
                number: 1_000_001,
                ..
            }
        ));
    }

    #[test]
    fn it_gives_up_after_the_limit_in_a_row() {
        let policy = Policy {
            when: When::Always,
            limit: Some(2),
            ..Policy::default()
        };
        let mut restarts = Restarts::default();
        assert!(seconds(restarts.next(&policy, true, SHORT)).is_some());
        assert!(seconds(restarts.next(&policy, false, SHORT)).is_some());
        let last = restarts.next(&policy, true, SHORT);
        assert_eq!(last, Next::GiveUp { restarts: 2 });
        // One that has recovered in between is given all of its chances again.
        let recovered = restarts.next(&policy, true, policy.delay_limit);
        assert_eq!(seconds(recovered), Some(1.0));
    }

    #[test]
    fn on_failure_is_for_failures_and_no_is_for_nothing() {
        for (when, failed, wanted) in [
            (When::No, true, false),
            (When::No, false, false),
            (When::OnFailure, true, true),
            (When::OnFailure, false, false),
            (When::Always, true, true),
            (When::Always, false, true),
        ] {
            let policy = Policy {
                when,
                ..Policy::default()
            };
            let next = Restarts::default().next(&policy, failed, SHORT);
            assert_eq!(seconds(next).is_some(), wanted, "{when:?} failed={failed}");
        }
    }
}
