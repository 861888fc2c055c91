//! One look after the other: what is shown is made of the last two, and of one a minute ago.

use std::collections::VecDeque;
use std::time::Instant;

use millpond_bus::ConsumerFigures;

use super::figures;
use super::model::Model;
use super::reading::{Reading, Snapshot};
use super::table::clean;

/// More are not kept, however short the interval.
const FIGURES_MAX: usize = 64;

/// What there is to show.
#[derive(Debug, Clone)]
pub(super) enum Shown {
    Bus(Box<Model>),
    NoBus(NoBus),
}

/// No bus, or none that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoBus {
    pub(super) bus: String,
    /// When that was seen first, and last, real time in ns.
    pub(super) since_ns: u64,
    pub(super) time_ns: u64,
    /// There was one before.
    pub(super) was_there: bool,
    /// What keeps it from being read; `None`: there is none.
    pub(super) why: Option<String>,
}

/// Looks at one bus, in their order.
#[derive(Default)]
pub(super) struct Looks {
    last: Option<Box<Snapshot>>,
    /// Figures of the last minute, oldest first.
    figures: VecDeque<(Instant, ConsumerFigures)>,
    absent_since_ns: Option<u64>,
    was_there: bool,
}

impl Looks {
    pub(super) fn take(&mut self, reading: Reading) -> Shown {
        match reading {
            Reading::Present(snapshot) => Shown::Bus(Box::new(self.present(snapshot))),
            Reading::Absent(absent) => {
                self.was_there |= self.last.take().is_some();
                self.figures.clear();
                let since_ns = *self.absent_since_ns.get_or_insert(absent.time_ns);
                Shown::NoBus(NoBus {
                    bus: clean(&absent.bus),
                    since_ns,
                    time_ns: absent.time_ns,
                    was_there: self.was_there,
                    why: absent.why.as_deref().map(clean),
                })
            }
        }
    }

    fn present(&mut self, snapshot: Box<Snapshot>) -> Model {
        self.absent_since_ns = None;
        let is_same = |last: &Snapshot| last.identity == snapshot.identity;
        if !self.last.as_deref().is_some_and(is_same) {
            self.last = None;
            self.figures.clear();
        }
        let taken = snapshot.taken;
        let is_old = |of: &(Instant, ConsumerFigures)| taken - of.0 > figures::WINDOW;
        // The one that is just older than the minute stays.
        while self.figures.len() > 1 && is_old(&self.figures[1]) {
            self.figures.pop_front();
        }
        let earlier = self.figures.front();
        let earlier = earlier.map(|(then, figures)| (figures, (taken - *then).as_secs_f64()));
        let model = Model::new(&snapshot, self.last.as_deref(), earlier);
        let step = figures::WINDOW / FIGURES_MAX as u32;
        if let Some(figures) = figures::of(&snapshot.stats)
            && self
                .figures
                .back()
                .is_none_or(|(then, _)| taken - *then >= step)
        {
            self.figures.push_back((taken, figures.clone()));
        }
        self.last = Some(snapshot);
        model
    }
}

#[cfg(test)]
mod tests {
    use millpond_bus::{Bus, Level, Publisher};
    use millpond_tests::options;

    use super::super::model::{Daemon, View};
    use super::super::reading::Reader;
    use super::super::table::{Row, Tone, Value};
    use super::*;

    struct Place(String);

    impl Place {
        fn new(name: &str) -> Self {
            Place(format!("cli-looks-{name}-{}", std::process::id()))
        }

        fn bus(&self) -> Bus {
            Bus::attach(&self.0, &options("drop")).expect("a bus")
        }

        fn reader(&self) -> Reader {
            Reader::of(&self.0, None)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            if let Ok(bus) = Bus::open(&self.0) {
                let _ = bus.remove();
            }
        }
    }

    fn publisher(bus: &Bus, label: &str) -> Publisher {
        bus.publisher(label).expect("a publisher")
    }

    fn publish(publisher: &mut Publisher, count: u64) {
        let topic = publisher.topic("log:web").expect("a rule takes it");
        for _ in 0..count {
            // Some are to be dropped.
            let _ = publisher.publish(topic, Level::Info, &[b'x'; 100]);
        }
    }

    fn model(shown: Shown) -> Box<Model> {
        match shown {
            Shown::Bus(model) => model,
            Shown::NoBus(none) => panic!("{none:?}"),
        }
    }

    fn row<'m>(model: &'m Model, view: View, name: &str) -> &'m Row {
        let mut rows = model.table(view).rows.iter();
        let found = rows.find(|row| row.cells[0] == Value::text(name));
        found.unwrap_or_else(|| panic!("no {name} in {:?}", model.table(view)))
    }

    fn cell<'m>(model: &'m Model, view: View, name: &str, key: &str) -> &'m Value {
        let columns = view.columns();
        let index = columns.iter().position(|column| column.key == key);
        &row(model, view, name).cells[index.expect("there is such a column")]
    }

    #[test]
    fn rates_and_losses_are_those_between_two_looks() {
        let place = Place::new("rates");
        let bus = place.bus();
        let (mut reader, mut looks) = (place.reader(), Looks::default());
        let mut a = publisher(&bus, "a");
        publish(&mut a, 100);
        let first = model(looks.take(reader.look()));
        assert_eq!(first.daemon, Daemon::Never);
        assert_eq!(first.seconds, None);
        let published =
            |model: &Model, label| cell(model, View::Sources, label, "published_per_s").clone();
        assert_eq!(published(&first, "a"), Value::Missing);

        publish(&mut a, 50);
        // Of one that was not there before, all of it is new.
        let mut b = publisher(&bus, "b");
        publish(&mut b, 10_000);
        let second = model(looks.take(reader.look()));
        let seconds = second.seconds.expect("there was a look before");
        assert_eq!(published(&second, "a"), Value::Rate(50.0 / seconds));
        assert_eq!(published(&second, "b"), Value::Rate(10_000.0 / seconds));
        assert_eq!(row(&second, View::Sources, "a").tone, Tone::Plain);
        assert_eq!(row(&second, View::Sources, "b").tone, Tone::Bad);
        assert!(second.is_losing());
        let full = bus.stats().sources[1].dropped.full;
        assert_eq!(
            *cell(&second, View::Rules, "log:*", "dropped_full"),
            Value::Count(full)
        );
        assert_eq!(
            *cell(&second, View::Rules, "log:*", "sources"),
            Value::Count(2)
        );

        let third = model(looks.take(reader.look()));
        assert!(!third.is_losing());
        assert_eq!(published(&third, "b"), Value::Rate(0.0));
        // Nobody drains it: its lane is full, and it has lost nothing since.
        assert_eq!(row(&third, View::Sources, "b").tone, Tone::Warn);
    }

    #[test]
    fn a_bus_made_again_under_the_same_name_has_no_rates_of_the_other() {
        let place = Place::new("again");
        let (mut reader, mut looks) = (place.reader(), Looks::default());
        let Shown::NoBus(none) = looks.take(reader.look()) else {
            panic!("there is no bus yet");
        };
        assert!(!none.was_there);
        let bus = place.bus();
        let mut one = publisher(&bus, "one");
        publish(&mut one, 5);
        model(looks.take(reader.look()));
        bus.remove().expect("nobody drains it");
        let bus = place.bus();
        let mut other = publisher(&bus, "one");
        publish(&mut other, 7);
        let shown = model(looks.take(reader.look()));
        assert_eq!(shown.seconds, None);
        assert_eq!(shown.totals.published, 7);
        bus.remove().expect("nobody drains it");
        let Shown::NoBus(none) = looks.take(reader.look()) else {
            panic!("it was removed");
        };
        assert!(none.was_there);
        let Shown::NoBus(later) = looks.take(reader.look()) else {
            panic!("it was removed");
        };
        assert_eq!(later.since_ns, none.since_ns);
    }
}
