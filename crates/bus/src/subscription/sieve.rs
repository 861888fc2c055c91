//! Which events a subscription keeps: by name, by time, by the filter of its owner.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Since, SubscriptionCounts};
use crate::batch::{BatchView, Resolver};
use crate::control::Control;
use crate::event::Event;
use crate::names;
use crate::pattern::Pattern;

/// Texts shared by the events that carry them; forgotten when there are more.
const TEXTS_MAX: usize = 4096;

type Filter = Box<dyn FnMut(&Event<'_>) -> bool + Send>;

pub(super) struct Sieve {
    control: Arc<Control>,
    patterns: Vec<Pattern>,
    /// Events up to here are not wanted.
    after_ns: u64,
    /// By name id: whether a pattern matches. `None`: not asked yet.
    matches: Vec<Option<bool>>,
    pub(super) resolver: Resolver,
    pub(super) filter: Option<Filter>,
    pub(super) counts: SubscriptionCounts,
    texts: Texts,
}

impl Sieve {
    pub(super) fn new(control: Arc<Control>, patterns: Vec<Pattern>, since: &Since) -> Self {
        let after_ns = match since {
            Since::TimeNs(time_ns) => *time_ns,
            _ => 0,
        };
        Sieve {
            control,
            patterns,
            after_ns,
            matches: Vec::new(),
            resolver: Resolver::default(),
            filter: None,
            counts: SubscriptionCounts::default(),
            texts: Texts::default(),
        }
    }

    /// The bits that a publisher of a wanted name rings for.
    pub(super) fn name_bits(&self) -> u64 {
        self.patterns.iter().fold(0, |bits, pattern| {
            bits | if pattern.as_str().split(':').any(|segment| segment == "*") {
                u64::MAX
            } else {
                names::bit(pattern.as_str())
            }
        })
    }

    /// Makes sure that the name is known; false where there is none with this id.
    #[inline]
    pub(super) fn knows_name(&mut self, id: u32) -> bool {
        self.resolver.name(id).is_some() || self.learn_name(id)
    }

    #[cold]
    fn learn_name(&mut self, id: u32) -> bool {
        let Some(name) = names::read(&self.control.names, id) else {
            return false;
        };
        let index = id as usize;
        if self.resolver.names.len() <= index {
            self.resolver.names.resize(index + 1, None);
        }
        self.resolver.names[index] = Some(name.into_boxed_str());
        true
    }

    fn matches_text(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// Learns the names and sources of a batch.
    pub(super) fn resolve(&mut self, view: &BatchView<'_>) -> Result<(), &'static str> {
        let control = &self.control;
        self.resolver.resolve(
            view,
            &mut |id| names::read(&control.names, id),
            &mut |index| names::source(&control.sources, index),
        )
    }

    #[inline]
    fn matches_name(&mut self, name_id: Option<u32>, name: &str) -> bool {
        let Some(id) = name_id else {
            return self.matches_text(name);
        };
        match self.matches.get(id as usize) {
            Some(Some(known)) => *known,
            _ => self.learn_match(id, name),
        }
    }

    #[cold]
    fn learn_match(&mut self, id: u32, name: &str) -> bool {
        let index = id as usize;
        if self.matches.len() <= index {
            self.matches.resize(index + 1, None);
        }
        let known = self.matches_text(name);
        self.matches[index] = Some(known);
        known
    }

    /// Whether the event is to be delivered. `name_id`: `None` where the name travels inline.
    #[inline]
    pub(super) fn keeps(&mut self, name_id: Option<u32>, event: &Event<'_>) -> bool {
        let kept = self.matches_name(name_id, event.name)
            && event.time_ns > self.after_ns
            && self.filter.as_mut().is_none_or(|keep| keep(event));
        if !kept {
            self.counts.filtered += 1;
        }
        kept
    }

    /// The offsets of the entries to be delivered, after the first `skipped`; true where that is all of them.
    pub(super) fn sift(&mut self, view: &BatchView<'_>, skipped: u64, kept: &mut Vec<u32>) -> bool {
        kept.clear();
        let resolver = std::mem::take(&mut self.resolver);
        let mut all = skipped == 0;
        for entry in view.entries().skip(skipped as usize) {
            // The usual case needs no event to be made.
            let plain = self.filter.is_none() && self.after_ns == 0;
            let keeps = match entry.name_id() {
                Some(id) if plain && self.matches.get(id as usize) == Some(&Some(true)) => true,
                name_id => self.keeps(name_id, &entry.event(&resolver)),
            };
            if keeps {
                kept.push(entry.offset());
            }
            all &= keeps;
        }
        self.resolver = resolver;
        all
    }

    pub(super) fn take_texts(&mut self) -> Texts {
        std::mem::take(&mut self.texts)
    }

    pub(super) fn give_texts(&mut self, texts: Texts) {
        self.texts = texts;
    }
}

/// Names and sources that owned events share.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: HashMap<Box<str>, Arc<str>>,
}

impl Texts {
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        if self.known.len() == TEXTS_MAX {
            self.known.clear();
        }
        let shared: Arc<str> = text.into();
        self.known.insert(text.into(), Arc::clone(&shared));
        shared
    }
}
