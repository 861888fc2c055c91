//! From a line of the log back to the event: which name was logged under this service and source.

use std::collections::HashMap;
use std::sync::Arc;

use millpond_bus::{Pattern, Rule, RuleTable, check_event_name};
use millpond_logfile::unescape;

/// Most sources remembered. Beyond that all are forgotten and worked out anew.
const REMEMBERED_MAX: usize = 4096;

/// Event names by service and source token, and whether anybody wants them.
#[derive(Debug)]
pub(super) struct Names {
    rules: RuleTable,
    wanted: Vec<Pattern>,
    /// By service, then by token; `None`: not wanted, or no rule gives such a line.
    known: HashMap<String, HashMap<Vec<u8>, Named>>,
    remembered: usize,
}

/// What a service and source stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// An event that was asked for.
    Wanted(Arc<str>),
    /// One that was not.
    Other,
    /// No rule that is in force logs under this service and source.
    Unknown,
}

impl Names {
    pub(super) fn new(rules: RuleTable, wanted: Vec<Pattern>) -> Self {
        Names {
            rules,
            wanted,
            known: HashMap::new(),
            remembered: 0,
        }
    }

    /// Puts other rules in force; false if they are the same.
    pub(super) fn set_rules(&mut self, rules: RuleTable) -> bool {
        if self.rules == rules {
            return false;
        }
        self.rules = rules;
        self.known.clear();
        self.remembered = 0;
        true
    }

    /// A rule that is asked for, and whose events the log cannot name.
    pub(super) fn unnameable(&self) -> Option<&Rule> {
        let loses_segments = |rule: &&Rule| {
            let mut after = rule.pattern.as_str().split(':').skip_while(|s| *s != "*");
            after.next();
            rule.service.as_deref() == Some("*") && after.any(|segment| segment == "*")
        };
        self.rules
            .iter()
            .filter(loses_segments)
            .find(|rule| self.wants_any_of(rule.pattern.as_str()))
    }

    /// Whether this service's log can hold what is asked for.
    pub(super) fn wants_service(&self, service: &str) -> bool {
        self.rules.iter().any(|rule| match rule.service.as_deref() {
            None => false,
            Some("*") => {
                let names = with_star(&rule.pattern, service);
                let deeper = format!("{names}:*");
                let is_trailing = rule.pattern.as_str().ends_with('*');
                self.wants_any_of(&names) || (is_trailing && self.wants_any_of(&deeper))
            }
            Some(fixed) => fixed == service && self.wants_any_of(rule.pattern.as_str()),
        })
    }

    fn wants_any_of(&self, pattern: &str) -> bool {
        let wanted = |wanted: &Pattern| overlap(wanted.as_str(), pattern);
        self.wanted.iter().any(wanted)
    }

    /// The event that a line of this service and source token is.
    pub(super) fn name(&mut self, service: &str, token: &[u8]) -> Named {
        if let Some(named) = self.known.get(service).and_then(|known| known.get(token)) {
            return named.clone();
        }
        let named = self.find(service, token);
        if self.remembered == REMEMBERED_MAX {
            self.known.clear();
            self.remembered = 0;
        }
        self.remembered += 1;
        let known = self.known.entry(service.to_owned()).or_default();
        known.insert(token.to_owned(), named.clone());
        named
    }

    fn find(&self, service: &str, token: &[u8]) -> Named {
        let mut source = Vec::with_capacity(token.len());
        unescape(token, &mut source);
        let Ok(source) = std::str::from_utf8(&source) else {
            return Named::Unknown;
        };
        let mut candidates: Vec<_> = candidates(&self.rules, service, source).collect();
        let in_force = |(rule, name): &(&Rule, String)| {
            self.rules
                .resolve(name)
                .is_some_and(|resolved| resolved.rule.pattern == rule.pattern)
        };
        // A line of another time may be of a rule that another one shadows by now: last. Where the source is
        // a whole name it is so by no accident: first. Then the rule that says most.
        candidates.sort_by(|a, b| {
            let is_whole = |(rule, _): &(&Rule, String)| rule.service.as_deref() != Some("*");
            in_force(b)
                .cmp(&in_force(a))
                .then(is_whole(b).cmp(&is_whole(a)))
                .then(a.0.pattern.precedence(&b.0.pattern))
        });
        match candidates.into_iter().next() {
            None => Named::Unknown,
            Some((_, name)) if self.wanted.iter().any(|pattern| pattern.matches(&name)) => {
                Named::Wanted(name.into())
            }
            Some(_) => Named::Other,
        }
    }
}

/// The names that are logged under `service` and `source`, with their rules.
fn candidates<'r>(
    rules: &'r RuleTable,
    service: &'r str,
    source: &'r str,
) -> impl Iterator<Item = (&'r Rule, String)> {
    let fixed = rules
        .iter()
        .filter(move |rule| rule.service.as_deref() == Some(service))
        .map(move |rule| (rule, source.to_owned()));
    let starred = rules
        .iter()
        .filter(|rule| rule.service.as_deref() == Some("*"))
        .flat_map(move |rule| {
            // A name that ends with its service, then one that goes on.
            let short = with_star(&rule.pattern, service);
            let long = format!("{short}:{source}");
            [(rule, short), (rule, long)]
        });
    fixed.chain(starred).filter(move |(rule, name)| {
        check_event_name(name).is_ok() && rule.service_and_source(name) == Some((service, source))
    })
}

/// The pattern with `text` in the place of its first `*`.
fn with_star(pattern: &Pattern, text: &str) -> String {
    let mut is_first = true;
    let segments = pattern.as_str().split(':').map(|segment| {
        let is_star = segment == "*" && std::mem::take(&mut is_first);
        if is_star { text } else { segment }
    });
    segments.collect::<Vec<_>>().join(":")
}

/// Whether there are names that both patterns match.
fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split(':').peekable(), b.split(':').peekable());
    loop {
        let (Some(left), Some(right)) = (a.next(), b.next()) else {
            return false;
        };
        let (left_ends, right_ends) = (a.peek().is_none(), b.peek().is_none());
        // A `*` at the end takes whatever is left of the other one.
        if (left == "*" && left_ends) || (right == "*" && right_ends) {
            return true;
        }
        if left != right && left != "*" && right != "*" {
            return false;
        }
        if left_ends && right_ends {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect("a pattern")
    }

    fn rule(text: &str, service: &str) -> Rule {
        Rule {
            service: (!service.is_empty()).then(|| service.to_owned()),
            ..Rule::new(pattern(text))
        }
    }

    fn names(wanted: &[&str]) -> Names {
        let rules = vec![
            rule("log:*", "*"),
            rule("audit:*", "audit"),
            rule("audit:trace:*", ""),
            rule("sentinel:*:status", "*"),
        ];
        let rules = RuleTable::new(rules).expect("rules");
        Names::new(rules, wanted.iter().map(|text| pattern(text)).collect())
    }

    fn wanted(name: &str) -> Named {
        Named::Wanted(name.into())
    }

    #[test]
    fn every_name_comes_back_from_its_service_and_source() {
        let mut names = names(&["*"]);
        for name in [
            "log:web",
            "log:web:rpc",
            "log:web:pty:out",
            "audit:login",
            "sentinel:7f3a:status",
        ] {
            let rules = names.rules.clone();
            let rule = rules.resolve(name).expect("a rule").rule;
            let (service, source) = rule.service_and_source(name).expect("persisted");
            let source = millpond_logfile::Source::new(source);
            assert_eq!(names.name(service, source.token()), wanted(name), "{name}");
        }
        // No rule of ours logs a source that is not text.
        assert_eq!(names.name("web", b"\\xff"), Named::Unknown);
        // An escaped token.
        let source = millpond_logfile::Source::new("caf\u{e9}");
        let name = names.name("web", source.token());
        assert_eq!(name, wanted("log:web:caf\u{e9}"));
    }

    #[test]
    fn only_what_was_asked_for_is_wanted() {
        let mut names = names(&["log:web:rpc"]);
        assert_eq!(names.name("web", b"rpc"), wanted("log:web:rpc"));
        assert_eq!(names.name("web", b"sql"), Named::Other);
        assert!(names.wants_service("web"));
        assert!(!names.wants_service("db") && !names.wants_service("audit"));
        assert!(self::names(&["audit:*"]).wants_service("audit"));
        assert!(self::names(&["log:*"]).wants_service("db"));
        assert!(self::names(&["sentinel:x:status"]).wants_service("x"));
    }

    #[test]
    fn other_rules_give_other_names() {
        let mut names = names(&["*"]);
        assert_eq!(names.name("web", b"rpc"), wanted("log:web:rpc"));
        assert!(!names.set_rules(names.rules.clone()));
        assert!(names.set_rules(RuleTable::new(vec![rule("out:*", "*")]).expect("rules")));
        assert_eq!(names.name("web", b"rpc"), wanted("out:web:rpc"));
    }

    #[test]
    fn a_rule_whose_names_the_log_does_not_keep_is_found() {
        let rules = RuleTable::new(vec![rule("a:*:b:*", "*")]).expect("rules");
        let names = |wanted: &str| Names::new(rules.clone(), vec![pattern(wanted)]);
        assert!(names("a:*").unnameable().is_some());
        assert!(names("c:*").unnameable().is_none());
        assert!(self::names(&["*"]).unnameable().is_none());
    }

    #[test]
    fn patterns_overlap_where_a_name_matches_both() {
        for (a, b, overlapping) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a:b", false),
            ("a:*", "a", false),
            ("*", "a:b:c", true),
            ("a:*", "a:b:c", true),
            ("a:*:c", "a:b:*", true),
            ("a:*:c", "a:b:d", false),
            ("a:*:c", "*:x", false),
            ("a:*:c:d", "*", true),
        ] {
            assert_eq!(overlap(a, b), overlapping, "{a} {b}");
            assert_eq!(overlap(b, a), overlapping, "{b} {a}");
        }
    }
}
