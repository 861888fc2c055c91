//! Who wins, in words that are computed.

use super::words::{number, ratio_to, unit};
use super::works::{Side, Work, ratio, side, spread};
use crate::row::{Figure, Row, Spread};

/// How a piece of work came out between millpond and what one could use instead.
pub(super) enum Outcome<'r> {
    /// Nobody was beside millpond, or millpond was not there.
    Alone,
    /// The rounds of the two best overlap.
    Close { ours: &'r Row, other: &'r Row },
    /// One is ahead of the best of the other side by this factor.
    Won {
        winner: &'r Row,
        next: &'r Row,
        factor: f64,
    },
}

/// The best row of a side.
fn best<'r>(work: &Work<'r>, wanted: Side) -> Option<(&'r Row, Spread)> {
    // They stand in that order.
    let mut rows = work.rows.iter().filter(|row| side(row) == wanted);
    rows.find_map(|row| Some((*row, spread(row)?)))
}

pub(super) fn outcome<'r>(work: &Work<'r>) -> Outcome<'r> {
    let (Some((ours, our_spread)), Some((other, other_spread))) =
        (best(work, Side::Millpond), best(work, Side::Other))
    else {
        return Outcome::Alone;
    };
    let Some(factor) = ratio(ours, other, work.figure) else {
        return Outcome::Alone;
    };
    if our_spread.min <= other_spread.max && other_spread.min <= our_spread.max {
        return Outcome::Close { ours, other };
    }
    let is_ours = (our_spread.median > other_spread.median) == work.figure.is_better_high();
    let (winner, next) = if is_ours {
        (ours, other)
    } else {
        (other, ours)
    };
    Outcome::Won {
        winner,
        next,
        factor: factor.max(factor.recip()),
    }
}

/// One sentence after the other; none where there is nothing to say.
pub(super) fn sentences(work: &Work<'_>) -> Vec<String> {
    let text = |row: &Row| {
        let figure = spread(row).map_or("-".to_owned(), |spread| unit(work.figure).spread(spread));
        format!("{}: {figure}", row.peer)
    };
    let mut said = Vec::new();
    let compared = match outcome(work) {
        Outcome::Alone => None,
        Outcome::Close { ours, other } => {
            said.push(format!(
                "Too close to tell, their rounds overlap: {}; {}.",
                text(ours),
                text(other)
            ));
            Some((ours, other))
        }
        Outcome::Won {
            winner,
            next,
            factor,
        } => {
            let of = match side(winner) {
                Side::Millpond => "the best of the others",
                _ => "the best of millpond",
            };
            said.push(format!(
                "{} wins, {}. {}; {}.",
                winner.peer,
                ratio_to(factor, of),
                text(winner),
                text(next)
            ));
            Some((winner, next))
        }
    };
    if let Some((one, other)) = compared {
        if one.rounds.len().min(other.rounds.len()) < 2 {
            said.push("That was one round, and may be chance.".to_owned());
        }
        // A question that is answered promises nothing.
        if one.guarantees != other.guarantees && work.figure != Figure::Time {
            said.push(format!(
                "They do not promise the same. {}: {}; {}: {}.",
                one.peer, one.guarantees, other.peer, other.guarantees
            ));
        }
        for row in [one, other] {
            said.extend(lost(row).map(|lost| format!("{} lost {lost}.", row.peer)));
        }
    }
    let Some(ours) = work.reference else {
        return said;
    };
    if let Some((reference, _)) = best(work, Side::InProcess)
        && let Some(factor) = work.ratio(reference)
    {
        said.push(format!(
            "The best between threads of one process is {}. {}.",
            ratio_to(factor, &ours.peer),
            text(reference)
        ));
    }
    let floors = work.rows.iter().filter(|row| row.is_floor);
    let floors = floors.filter_map(|row| Some((row, work.ratio(row)?)));
    // The one that says most is the one that is least far away.
    let nearest = floors.min_by(|(_, one), (_, other)| {
        let far = |factor: &f64| factor.ln().abs();
        far(one).total_cmp(&far(other))
    });
    if let Some((floor, factor)) = nearest {
        said.push(format!(
            "The nearest floor is {}. {}.",
            ratio_to(factor, &ours.peer),
            text(floor)
        ));
    }
    said
}

/// How many of how many it lost in all rounds, where it lost any.
pub(super) fn lost(row: &Row) -> Option<String> {
    let lost: u64 = row.rounds.iter().map(|round| round.lost).sum();
    let events: u64 = row.rounds.iter().map(|round| round.events).sum();
    (lost > 0).then(|| {
        // Several receivers may have lost more than there were.
        let share = lost as f64 / events.max(1) as f64 * 100.0;
        format!("{} of {} ({share:.2} %)", number(lost), number(events))
    })
}

/// Why a row has no figure, or not all of its rounds.
pub(super) fn trouble(row: &Row) -> Option<String> {
    let skipped = row.skipped.as_ref().map(|why| format!("skipped: {why}"));
    let failed = || row.failed.as_ref().map(|why| format!("failed: {why}"));
    skipped.or_else(failed)
}
