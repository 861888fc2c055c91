//! The conformance vectors of names and patterns that every binding must pass: `tests/vectors/patterns.tsv`.

use millpond_bus::{Pattern, Rule, RuleTable, check_event_name};

const VECTORS: &str = include_str!("../../../tests/vectors/patterns.tsv");

fn text(field: &str) -> String {
    match field {
        "(empty)" => String::new(),
        _ => field
            .replace("\\t", "\t")
            .replace("\\n", "\n")
            .replace("\\s", " ")
            .replace("\\e", "\x1b")
            .replace("\\0", "\0"),
    }
}

fn pattern(field: &str) -> Pattern {
    field
        .parse()
        .unwrap_or_else(|error| panic!("{field:?}: {error}"))
}

fn check(line: &str) {
    let fields: Vec<&str> = line.split('\t').collect();
    match fields[..] {
        ["match", of, name] => assert!(pattern(of).matches(name), "{line}"),
        ["no", of, name] => assert!(!pattern(of).matches(name), "{line}"),
        ["pattern", bad] => assert!(text(bad).parse::<Pattern>().is_err(), "{line}"),
        ["name", bad] => assert!(check_event_name(&text(bad)).is_err(), "{line}"),
        ["wins", table, name, winner] => {
            let rules = table.split(',').map(|of| Rule::new(pattern(of))).collect();
            let rules = RuleTable::new(rules).expect("no pattern twice");
            let found = rules
                .resolve(name)
                .map(|resolved| resolved.rule.pattern.to_string());
            assert_eq!(found.as_deref().unwrap_or("-"), winner, "{line}");
            let explained = rules.explain(name).candidates;
            assert_eq!(
                explained.first().map(|(rule, _)| rule.pattern.to_string()),
                found,
                "{line}"
            );
        }
        _ => panic!("no vector: {line:?}"),
    }
}

#[test]
fn every_vector_holds() {
    let vectors: Vec<&str> = VECTORS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(vectors.len() >= 200, "only {} vectors", vectors.len());
    vectors.into_iter().for_each(check);
}
