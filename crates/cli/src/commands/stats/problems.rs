//! What is wrong, who makes it, and what to do: the part of `stats` that is read first.
//!
//! Each problem is a word, who and how much, the reason, and the remedy. The consumer comes first, since what it does not
//! take piles up everywhere else; then what is lost, then what may be lost soon, then who floods, then who missed.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use millpond_bus::{
    DropCounts, History, LaneStats, Origin, Overflow, Rule, RuleTable, SourceStats, Stats,
    sum_since,
};

use millpond_daemon::report::{Loudest, Users, WINDOW_DEFAULT, Window, is_behind};

use crate::commands::heartbeat::{self, Beat, Silence};
use crate::print::{DIM, GREEN, RED, YELLOW};
use crate::units::{format_duration, format_size, human_count, human_size};

/// Problems of one kind that are shown; the others are a number.
const SHOWN_MAX: usize = 5;
/// Where words end and what is wrong begins.
const INDENT: usize = 9;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// `LOST`
    pub(super) word: &'static str,
    /// Something is lost, or will be; else people should know.
    pub(super) is_grave: bool,
    /// Who, and how much.
    pub(super) what: String,
    /// Why, and who is behind it. May be empty.
    pub(super) why: String,
    /// What to do.
    pub(super) remedy: String,
}

/// What there is to know.
pub(super) struct Facts<'s> {
    pub(super) stats: &'s Stats,
    pub(super) history: &'s History,
    pub(super) since: Option<Duration>,
    /// `None` where they cannot be read: remedies go without the values that are in force.
    pub(super) rules: Option<&'s RuleTable>,
}

impl Facts<'_> {
    /// Everything that is wrong, the cause before what comes of it.
    pub(super) fn problems(&self, users: &mut Users) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.consumer().into_iter().collect();
        problems.extend(self.trouble());
        problems.extend(self.lost(users));
        problems.extend(self.quarantined());
        problems.extend(self.behind());
        problems.extend(self.floods(users));
        problems.extend(self.missed());
        problems
    }

    fn waiting(&self) -> u64 {
        let lanes = self.stats.lanes.iter();
        lanes.fold(0, |sum: u64, lane| sum.saturating_add(lane.in_flight))
    }

    fn consumer(&self) -> Option<Problem> {
        let start = format!("start `millpond daemon --bus {}`", self.stats.bus);
        let waiting = match self.waiting() {
            0 => "no events wait".to_owned(),
            count => format!("{} events wait in memory", human_count(count as f64)),
        };
        let Some(consumer) = &self.stats.consumer else {
            return Some(Problem {
                word: "NOBODY",
                is_grave: self.waiting() > 0,
                what: format!("consumes: there never was a daemon; {waiting}"),
                why: String::new(),
                remedy: start,
            });
        };
        if !consumer.alive {
            let ago_ns = self.stats.time_ns.saturating_sub(consumer.heartbeat_ns);
            let ago = rough(ago_ns);
            let (word, what) = match consumer.pid {
                0 => (
                    "NOBODY",
                    format!("consumes: the daemon was stopped {ago} ago; {waiting}"),
                ),
                pid => (
                    "DEAD",
                    format!(
                        "consumer: process {pid} was killed or crashed, last seen {ago} ago; {waiting}"
                    ),
                ),
            };
            return Some(Problem {
                word,
                is_grave: word == "DEAD" || self.waiting() > 0,
                what,
                why: String::new(),
                remedy: format!("{start}: nothing that waits is lost, until lanes are full"),
            });
        }
        let (started_ns, heartbeat_ns) = (consumer.started_ns, consumer.heartbeat_ns);
        match heartbeat::look(consumer.pid, started_ns, heartbeat_ns, self.stats.time_ns) {
            Beat::Regular { .. } | Beat::Starting { .. } => None,
            Beat::Silent(Silence {
                word,
                found,
                remedy,
            }) => Some(Problem {
                word,
                is_grave: true,
                what: format!("consumer: {found}; {waiting}"),
                why: String::new(),
                remedy,
            }),
        }
    }

    fn trouble(&self) -> Option<Problem> {
        let consumer = self.stats.consumer.as_ref()?;
        (!consumer.trouble.is_empty()).then(|| Problem {
            word: "TROUBLE",
            is_grave: true,
            what: consumer.trouble.clone(),
            why: String::new(),
            remedy: format!(
                "it is tried again by itself; `millpond doctor --bus {}` says what to do",
                self.stats.bus
            ),
        })
    }

    fn rule(&self, pattern: &str) -> Option<&Rule> {
        let mut rules = self.rules?.iter();
        rules.find(|rule| rule.pattern.as_str() == pattern)
    }

    fn lost(&self, users: &mut Users) -> Vec<Problem> {
        let recent = self.since.unwrap_or(WINDOW_DEFAULT);
        let mut lossy: Vec<(u64, &SourceStats)> = self
            .stats
            .sources
            .iter()
            .map(|source| {
                let ever = source.dropped.total().saturating_add(source.rejected);
                let counted = match self.since {
                    Some(_) => self.lost_within(source, recent),
                    None => ever,
                };
                (counted, source)
            })
            .filter(|(count, _)| *count > 0)
            .collect();
        lossy.sort_by_key(|(count, source)| (Reverse(*count), &source.label));
        let one = |(count, source): &(u64, &SourceStats)| {
            let window = format_duration(recent);
            let when = match (self.since, self.lost_within(source, recent)) {
                (Some(_), _) => format!("in the last {window}"),
                (None, 0) => format!("none of them in the last {window}"),
                (None, late) if late >= *count => format!("all in the last {window}"),
                (None, late) => {
                    format!("{} in the last {window}", human_count(late as f64))
                }
            };
            let share = match self.since {
                Some(_) => String::new(),
                None => format!(" ({})", percent(*count, source.published)),
            };
            Problem {
                word: "LOST",
                is_grave: true,
                what: format!(
                    "{} events{share} of {} under {}, {when}",
                    human_count(*count as f64),
                    source.label,
                    source.pattern
                ),
                why: format!("{}; {}", causes(source), describe(&source.origin, users)),
                remedy: self.remedy_of_loss(source),
            }
        };
        let mut problems: Vec<Problem> = lossy.iter().take(SHOWN_MAX).map(one).collect();
        if lossy.len() > SHOWN_MAX {
            let rest = &lossy[SHOWN_MAX..];
            let count: u64 = rest
                .iter()
                .fold(0, |sum, (count, _)| sum.saturating_add(*count));
            problems.push(Problem {
                word: "LOST",
                is_grave: true,
                what: format!(
                    "{} events of {} more sources",
                    human_count(count as f64),
                    rest.len()
                ),
                why: String::new(),
                remedy: "`millpond stats --by source` has them all".to_owned(),
            });
        }
        problems
    }

    fn lost_within(&self, source: &SourceStats, length: Duration) -> u64 {
        let since_ns = Window::of(self.history, length).since_ns;
        let known = self.history.sources.iter();
        known
            .filter(|past| past.label == source.label && past.pattern == source.pattern)
            .map(|past| sum_since(&past.intervals, since_ns))
            .map(|sum| sum.dropped.saturating_add(sum.rejected))
            .fold(0, u64::saturating_add)
    }

    /// What helps against the cause that took most.
    fn remedy_of_loss(&self, source: &SourceStats) -> String {
        let DropCounts {
            full,
            deadline,
            too_long,
            other,
        } = source.dropped;
        let rule = self.rule(&source.pattern);
        let now = |of: fn(&Rule) -> u32| {
            let value = rule.map(of).map(|bytes| format_size(u64::from(bytes)));
            value.map_or(String::new(), |value| format!(" (now {value})"))
        };
        let (lane, payload) = (
            now(|rule| rule.lane_bytes),
            now(|rule| rule.payload_bytes_limit),
        );
        let pattern = &source.pattern;
        let causes = [
            (
                full,
                format!(
                    "raise `lane-bytes`{lane} of rule \"{pattern}\", or have it wait: overflow = \"block\""
                ),
            ),
            (
                deadline,
                format!(
                    "raise `block-deadline`{} or `lane-bytes`{lane} of rule \"{pattern}\"; is the disk slow?",
                    match rule.map(|rule| rule.overflow) {
                        Some(Overflow::Block { deadline }) =>
                            format!(" (now {})", format_duration(deadline)),
                        _ => String::new(),
                    }
                ),
            ),
            (
                too_long,
                format!("raise `payload-bytes-limit`{payload} of rule \"{pattern}\""),
            ),
            (
                other,
                "they went with a publisher that was killed, or a lane that was damaged: see the log for when"
                    .to_owned(),
            ),
            (
                source.rejected,
                "their names make no service, or there are too many services: `millpond explain NAME` of one"
                    .to_owned(),
            ),
        ];
        // The first of the largest: later ones are the rarer causes.
        let most = causes.into_iter().rev().max_by_key(|(count, _)| *count);
        most.map_or(String::new(), |(_, remedy)| remedy)
    }

    fn quarantined(&self) -> Vec<Problem> {
        let lanes = self.stats.lanes.iter().filter(|lane| lane.quarantined);
        let one = |lane: &LaneStats| Problem {
            word: "DAMAGED",
            is_grave: true,
            what: format!(
                "lane of {} under {}, process {}: read no more",
                lane.label, lane.pattern, lane.origin.pid
            ),
            why: "its memory holds nonsense: a bug, or somebody wrote to it".to_owned(),
            remedy: format!(
                "restart process {}; `millpond dump --bus {} --lane {:x}` shows why",
                lane.origin.pid, self.stats.bus, lane.epoch
            ),
        };
        lanes.map(one).take(SHOWN_MAX).collect()
    }

    fn behind(&self) -> Vec<Problem> {
        let mut behind: Vec<&LaneStats> = self
            .stats
            .lanes
            .iter()
            .filter(|lane| is_behind(lane))
            .collect();
        behind.sort_by_key(|lane| (Reverse(lane.lag_bytes), &lane.label));
        let one = |lane: &&LaneStats| {
            let next = match self.rule(&lane.pattern).map(|rule| rule.overflow) {
                Some(Overflow::DropNewest) => ", then it drops",
                Some(Overflow::Block { .. }) => ", then it waits",
                None => "",
            };
            Problem {
                word: "BEHIND",
                is_grave: false,
                what: format!(
                    "{} under {}: its lane is {} full ({} of {}){next}",
                    lane.label,
                    lane.pattern,
                    percent(lane.lag_bytes, lane.capacity_bytes),
                    human_size(lane.lag_bytes),
                    human_size(lane.capacity_bytes),
                ),
                why: format!(
                    "{} events wait; process {}",
                    human_count(lane.in_flight as f64),
                    lane.origin.pid
                ),
                remedy: match self.is_consumer_well() {
                    true => {
                        "the daemon is slower than it: is the disk slow, who floods?".to_owned()
                    }
                    false => "mend the consumer, above".to_owned(),
                },
            }
        };
        let mut problems: Vec<Problem> = behind.iter().take(SHOWN_MAX).map(one).collect();
        if behind.len() > SHOWN_MAX {
            problems.push(Problem {
                word: "BEHIND",
                is_grave: false,
                what: format!("{} more lanes", behind.len() - SHOWN_MAX),
                why: String::new(),
                remedy: "`millpond stats --by lane` has them all".to_owned(),
            });
        }
        problems
    }

    fn is_consumer_well(&self) -> bool {
        self.consumer().is_none() && self.trouble().is_none()
    }

    fn floods(&self, users: &mut Users) -> Option<Problem> {
        let loudest = Loudest::find(self.stats, self.history, self.since)?;
        let source = self.stats.sources.get(loudest.source)?;
        let sum = &loudest.sum;
        let suppressed = match sum.suppressed {
            0 => String::new(),
            count => format!(", {} suppressed", human_count(count as f64)),
        };
        Some(Problem {
            word: "LOUDEST",
            is_grave: false,
            what: format!(
                "{}: {} under {}, {} of {} events, {} dropped{suppressed}",
                loudest.window,
                source.label,
                source.pattern,
                percent(sum.published, loudest.published_by_all),
                human_count(loudest.published_by_all as f64),
                human_count(sum.dropped as f64),
            ),
            why: describe(&source.origin, users),
            remedy: match self
                .rule(&source.pattern)
                .and_then(|rule| rule.service.as_ref())
            {
                Some(_) => {
                    "`rate-limit` or `sample` in its [[service]] bounds what it may log".to_owned()
                }
                None => {
                    "ask whoever runs it; a rule of its own keeps it from the others".to_owned()
                }
            },
        })
    }

    fn missed(&self) -> Vec<Problem> {
        let mut late: Vec<_> = self
            .stats
            .subscribers
            .iter()
            .filter(|one| one.lagged > 0)
            .collect();
        late.sort_by_key(|one| (Reverse(one.lagged), &one.label));
        let one = |subscriber: &&millpond_bus::SubscriberStats| Problem {
            word: "MISSED",
            is_grave: false,
            what: format!(
                "{} events ({}) by subscriber {} of {}, which was too slow",
                human_count(subscriber.lagged as f64),
                percent(
                    subscriber.lagged,
                    subscriber.lagged.saturating_add(subscriber.delivered)
                ),
                subscriber.label,
                subscriber.pattern,
            ),
            why: format!("process {}; it alone, nobody else", subscriber.pid),
            remedy:
                "raise `outbox-bytes` (or `lane-bytes`) of the rule, or have it read in batches"
                    .to_owned(),
        };
        late.iter().take(SHOWN_MAX).map(one).collect()
    }
}

/// Prints them within `width` columns, what belongs to one indented under it; or that there are none.
pub(super) fn print(problems: &[Problem], width: usize, out: &mut dyn Write) -> io::Result<()> {
    if problems.is_empty() {
        return writeln!(out, "{GREEN}OK{GREEN:#}       nothing lost, nobody behind");
    }
    for problem in problems {
        let style = if problem.is_grave { RED } else { YELLOW };
        let word = format!("{:<INDENT$}", problem.word);
        wrap(out, &word, style, &problem.what, width)?;
        if !problem.why.is_empty() {
            wrap(out, &" ".repeat(INDENT), DIM, &problem.why, width)?;
        }
        let arrow = format!("{:>INDENT$}", "-> ");
        wrap(out, &arrow, GREEN, &problem.remedy, width)?;
    }
    Ok(())
}

/// `head` in its style, `text` behind it, further lines under it. A word that is longer than a line is not cut: it may
/// be a path, to be copied.
pub(super) fn wrap(
    out: &mut dyn Write,
    head: &str,
    style: Style,
    text: &str,
    width: usize,
) -> io::Result<()> {
    let room = width.saturating_sub(INDENT).max(1);
    write!(out, "{style}{head}{style:#}")?;
    let mut used = 0;
    for word in words(text) {
        let length = anstream::adapter::strip_str(&word)
            .to_string()
            .chars()
            .count();
        if used > 0 && used + 1 + length > room {
            write!(out, "\n{:INDENT$}", "")?;
            used = 0;
        }
        if used > 0 {
            write!(out, " ")?;
            used += 1;
        }
        write!(out, "{word}")?;
        used += length;
    }
    writeln!(out)
}

/// What stays on one line: a number keeps its unit.
fn words(text: &str) -> Vec<String> {
    const UNITS: [&str; 13] = [
        "k", "M", "G", "T", "B", "kB", "MB", "GB", "TB", "%", "s", "min", "h",
    ];
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let bare = word.trim_end_matches([',', ';', '.', ')']);
        match words.last_mut() {
            Some(number)
                if UNITS.contains(&bare)
                    && number.ends_with(|last: char| last.is_ascii_digit()) =>
            {
                number.push(' ');
                number.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    words
}

fn causes(source: &SourceStats) -> String {
    let DropCounts {
        full,
        deadline,
        too_long,
        other,
    } = source.dropped;
    let causes = [
        ("lane full", full),
        ("deadline", deadline),
        ("too long", too_long),
        ("other", other),
        ("rejected", source.rejected),
    ];
    let counted = causes.iter().filter(|(_, count)| *count > 0);
    let shown: Vec<String> = counted
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    shown.join(", ")
}

/// `12 %`; what is more than nothing is never `0 %`, what is less than all never `100 %`.
fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    match share {
        share if part > 0 && share < 1.0 => "<1 %".to_owned(),
        share if part < whole && share > 99.0 => ">99 %".to_owned(),
        share => format!("{share:.0} %"),
    }
}

/// `3 h`: how long, in one number.
pub(super) fn rough(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `pid 123, /usr/bin/node, user deploy`
fn describe(origin: &Origin, users: &mut Users) -> String {
    if origin.pid == 0 {
        return "process unknown".to_owned();
    }
    let mut text = format!("process {}", origin.pid);
    if !origin.executable.is_empty() {
        text.push_str(&format!(", {}", origin.executable));
    }
    text.push_str(&format!(", user {}", users.name(origin.uid)));
    if !origin.is_verified {
        text.push_str(", by its own word");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_between_words_and_numbers_keep_their_units() {
        let problem = Problem {
            word: "LOST",
            is_grave: true,
            what: "18.5 k events (93 %) of pipe:web under log:*, all in the last 10m".to_owned(),
            why: "process 904".to_owned(),
            remedy: "raise `lane-bytes` (now 64KiB)".to_owned(),
        };
        let mut out = Vec::new();
        print(&[problem], 40, &mut out).expect("a vector takes all");
        let shown = anstream::adapter::strip_str(&String::from_utf8_lossy(&out)).to_string();
        let expected = "LOST     18.5 k events (93 %) of\n         pipe:web under log:*, all in\n         \
                        the last 10m\n         process 904\n      -> raise `lane-bytes` (now 64KiB)\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_part_is_never_shown_as_nothing_or_as_all() {
        assert_eq!(percent(1, 20_000), "<1 %");
        assert_eq!(percent(19_999, 20_000), ">99 %");
        assert_eq!(percent(20_000, 20_000), "100 %");
        assert_eq!(percent(0, 0), "0 %");
        assert_eq!(rough(119_000_000_000), "119 s");
        assert_eq!(rough(7_200_000_000_000), "2 h");
    }
}
