//! A point in everything that was published: how far each ring has been read.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where a subscription stands, as a token that can be kept, printed and given to another process.
///
/// What is published after it was taken is delivered to a subscription that starts there, also when that
/// starts later: check, then wait, without a race.
///
/// ```
/// use millpond_bus::{Bus, BusOptions, Level, Position, Since, SubscribeOptions};
/// let bus = Bus::attach(&format!("doc-pos-{}", std::process::id()), &BusOptions::default())?;
/// let token = bus.position().to_string(); // before the question is asked
///
/// let mut publisher = bus.publisher("answerer")?;
/// let topic = publisher.topic("chat:reply")?;
/// publisher.publish(topic, Level::Info, b"early")?;
///
/// let position: Position = token.parse()?;
/// let mut replies = bus.subscribe(SubscribeOptions {
///     since: Since::Position(position),
///     ..SubscribeOptions::new("asker", "chat:*".parse()?)
/// })?;
/// assert_eq!(replies.recv()?.payload, b"early");
/// # drop((publisher, replies));
/// # bus.remove()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// When it was taken: decides about rings that were about to go away then.
    pub(super) time_ns: u64,
    pub(super) rings: BTreeMap<u64, RingPosition>,
}

impl Position {
    /// Puts one ring there.
    pub(super) fn set(&mut self, ring: u64, position: u64, sequence: u64) {
        self.rings.insert(ring, RingPosition { position, sequence });
    }
}

/// How far one ring has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RingPosition {
    pub(super) position: u64,
    /// Lane: number of the next event. Outbox: events put in it before.
    pub(super) sequence: u64,
}

const PREFIX: &str = "p1";

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}:{:x}", self.time_ns)?;
        for (epoch, ring) in &self.rings {
            write!(f, ",{epoch:x}.{:x}.{:x}", ring.position, ring.sequence)?;
        }
        Ok(())
    }
}

/// Why a text is no position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionError {
    found: String,
}

impl fmt::Display for PositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no position: expected a token such as {PREFIX}:18a1,3.40.1, as `millpond wait \
             --print-position` prints it",
            self.found
        )
    }
}

impl std::error::Error for PositionError {}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        parse(text).ok_or_else(|| PositionError {
            found: text.chars().take(80).collect(),
        })
    }
}

fn parse(text: &str) -> Option<Position> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut parts = text.strip_prefix(PREFIX)?.strip_prefix(':')?.split(',');
    let time_ns = hex(parts.next()?)?;
    let rings = parts.map(|part| {
        let mut numbers = part.split('.').map(hex);
        let mut next = || numbers.next()?;
        let (epoch, position, sequence) = (next()?, next()?, next()?);
        let ring = RingPosition { position, sequence };
        (numbers.next().is_none() && position.is_multiple_of(8)).then_some((epoch, ring))
    });
    let rings = rings.collect::<Option<_>>()?;
    Some(Position { time_ns, rings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_from_its_token() {
        let ring = |position, sequence| RingPosition { position, sequence };
        let position = Position {
            time_ns: u64::MAX,
            rings: [(1, ring(0, 0)), (u64::MAX, ring(u64::MAX - 7, 9))].into(),
        };
        assert_eq!(position.to_string().parse(), Ok(position));
    }

    #[test]
    fn what_is_no_token_is_named() {
        for text in [
            "",
            "p1",
            "p1:",
            "p2:0",
            "p1:0,",
            "p1:0,1.2",
            "p1:0,1.8.3.4",
            "p1:0,1.9.0",
            "p1:-1",
            "12",
        ] {
            let error = text.parse::<Position>().expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
