//! How much one callsite may say.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Metadata;

/// Lines of one callsite in a window.
pub(super) const BURST: u32 = 10;
/// What BURST is for. It begins with the first line.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Callsites that are counted apart. Those beyond share the last place, so that memory is fixed.
const PLACES: usize = 128;

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Told,
    /// It is the first of this window: its count is to be told at the end.
    FirstLeftOut {
        ends: Instant,
    },
    LeftOut,
}

struct Place {
    metadata: &'static Metadata<'static>,
    began: Instant,
    told: u32,
    left_out: u64,
}

/// A count for each callsite.
pub(super) struct Limiter(Mutex<Vec<Place>>);

impl Limiter {
    pub(super) fn new() -> Self {
        Limiter(Mutex::new(Vec::with_capacity(PLACES)))
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        // Plain numbers: a panicking thread leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a line of this callsite. Never waits for more than another of these.
    pub(super) fn take(&self, metadata: &'static Metadata<'static>, now: Instant) -> Taken {
        let mut places = self.places();
        let known = places.iter().position(|place| place.metadata == metadata);
        let at = match known {
            Some(at) => at,
            None if places.len() == PLACES => PLACES - 1,
            None => {
                places.push(Place {
                    metadata,
                    began: now,
                    told: 0,
                    left_out: 0,
                });
                places.len() - 1
            }
        };
        let place = &mut places[at];
        if now.saturating_duration_since(place.began) >= WINDOW && place.left_out == 0 {
            (place.began, place.told) = (now, 0);
        }
        if place.told < BURST {
            place.told += 1;
            return Taken::Told;
        }
        place.left_out += 1;
        match place.left_out {
            1 => Taken::FirstLeftOut {
                ends: place.began + WINDOW,
            },
            _ => Taken::LeftOut,
        }
    }

    /// What was left out in windows that are over by now; each count is given once, and a new window begins.
    pub(super) fn take_left_out(&self, now: Instant) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut places = self.places();
        let over = places.iter_mut().filter(|place| {
            place.left_out > 0 && now.saturating_duration_since(place.began) >= WINDOW
        });
        over.map(|place| {
            (place.began, place.told) = (now, 0);
            (place.metadata, std::mem::take(&mut place.left_out))
        })
        .collect()
    }

    /// When the next window is over in which something was left out.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let places = self.places();
        let open = places.iter().filter(|place| place.left_out > 0);
        open.map(|place| place.began + WINDOW).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The metadata of two callsites.
    fn callsites() -> [&'static Metadata<'static>; 2] {
        let metadata = |span: tracing::Span| span.metadata();
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry());
        [
            metadata(tracing::info_span!("one")).expect("it is enabled"),
            metadata(tracing::info_span!("two")).expect("it is enabled"),
        ]
    }

    #[test]
    fn what_is_left_out_is_counted_by_callsite_and_told_once() {
        let [one, two] = callsites();
        let (limiter, begin) = (Limiter::new(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(limiter.take(one, begin), Taken::Told);
        }
        let ends = begin + WINDOW;
        assert_eq!(limiter.take(one, begin), Taken::FirstLeftOut { ends });
        assert_eq!(limiter.take(one, begin), Taken::LeftOut);
        assert_eq!(limiter.take(two, begin), Taken::Told, "another has its own");
        assert_eq!(limiter.next_end(), Some(ends));
        let early = ends - Duration::from_nanos(1);
        assert!(limiter.take_left_out(early).is_empty());
        // Nobody has looked in time: it stays one window until it is told, and no count is lost.
        assert_eq!(limiter.take(one, ends), Taken::LeftOut);
        let told = limiter.take_left_out(ends);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].0.name(), told[0].1), ("one", 3));
        assert!(limiter.take_left_out(ends + WINDOW).is_empty());
        assert_eq!(limiter.next_end(), None);
        assert_eq!(limiter.take(one, ends), Taken::Told);
    }

    #[test]
    fn a_quiet_callsite_begins_again() {
        let [one, _] = callsites();
        let (limiter, begin) = (Limiter::new(), Instant::now());
        for _ in 0..BURST {
            limiter.take(one, begin);
        }
        assert_eq!(limiter.take(one, begin + WINDOW), Taken::Told);
    }
}
