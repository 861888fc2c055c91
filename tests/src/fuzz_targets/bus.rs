//! Names, patterns and rules; schemas; consolidated records.

use std::cmp::Ordering;

use millpond_bus::{
    AggregateView, BatchParts, BatchView, Class, Entry, FieldSummary, GapBody, NameRef, Pattern,
    Rule, RuleTable, Schema, append_aggregate, append_entry, check_event_name, literal_prefix,
};

/// Lines: an event name, then patterns. Matching, overlap and precedence are those of the specification, as a
/// matcher has them that was written from its text alone.
///
/// # Panics
/// Where they are not.
pub fn pattern(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let name = lines.next().unwrap_or_default();
    let is_name = check_event_name(name).is_ok();
    assert_eq!(is_name, is_event_name(name), "{name:?}");
    if is_name {
        assert!(name.starts_with(literal_prefix(name)));
    }
    let mut patterns: Vec<Pattern> = Vec::new();
    for line in lines.take(24) {
        let parsed = line.parse::<Pattern>();
        assert_eq!(parsed.is_ok(), is_pattern(line), "{line:?}");
        if let Ok(pattern) = parsed
            && !patterns.contains(&pattern)
        {
            assert_eq!(pattern.as_str(), line);
            patterns.push(pattern);
        }
    }
    for (index, one) in patterns.iter().enumerate() {
        assert!(one.overlaps(one), "{one}");
        for other in &patterns[index..] {
            assert_overlap(one, other);
            assert_eq!(
                one.precedence(other),
                precedence(one.as_str(), other.as_str())
            );
            assert_eq!(one.precedence(other), other.precedence(one).reverse());
        }
    }
    if !is_name {
        return;
    }
    let segments: Vec<&str> = name.split(':').collect();
    for pattern in &patterns {
        let wanted: Vec<&str> = pattern.as_str().split(':').collect();
        let matched = matches(&wanted, &segments);
        assert_eq!(pattern.matches(name), matched, "{pattern} {name}");
        if let Some(star) = pattern.first_star(name) {
            assert!(matched && wanted.contains(&"*") && name.contains(star));
        }
    }
    let all: Vec<Rule> = patterns.iter().cloned().map(Rule::new).collect();
    let shadowed = RuleTable::shadowed(&all);
    for &(rule, by) in &shadowed {
        let reached = patterns[rule].matches(name) && !patterns[by].matches(name);
        assert!(by < rule && !reached, "{name} {patterns:?}");
    }
    // A table with a rule that nothing can reach is refused.
    assert_eq!(RuleTable::new(all).is_ok(), shadowed.is_empty());
    for &(rule, _) in shadowed.iter().rev() {
        patterns.remove(rule);
    }
    let mut order: Vec<&Pattern> = patterns.iter().filter(|of| of.matches(name)).collect();
    // A stable sort: what is equal stays in the order of the table.
    order.sort_by(|one, other| precedence(one.as_str(), other.as_str()));
    let rules = patterns.iter().cloned().map(Rule::new).collect();
    let table = RuleTable::new(rules).expect("no pattern twice");
    let resolved = table.resolve(name).map(|resolved| &resolved.rule.pattern);
    assert_eq!(resolved, order.first().copied(), "{name} {patterns:?}");
    let explained = table.explain(name).candidates;
    let explained: Vec<&Pattern> = explained.iter().map(|(rule, _)| &rule.pattern).collect();
    assert_eq!(explained, order, "{name}");
}

fn is_text(text: &str) -> bool {
    let is_plain = |character: char| !character.is_control() && !character.is_whitespace();
    let segments: Vec<&str> = text.split(':').collect();
    (1..=128).contains(&text.len())
        && text.chars().all(is_plain)
        && segments.len() <= 16
        && segments.iter().all(|segment| !segment.is_empty())
}

fn is_event_name(text: &str) -> bool {
    is_text(text) && text.split(':').all(|segment| segment != "*")
}

fn is_pattern(text: &str) -> bool {
    is_text(text)
        && text
            .split(':')
            .all(|segment| segment == "*" || !segment.contains('*'))
}

/// A middle `*` is one segment, a trailing one is one or more.
fn matches(wanted: &[&str], given: &[&str]) -> bool {
    match (wanted, given) {
        ([], []) => true,
        (["*"], [_, ..]) => true,
        ([first, wanted @ ..], [segment, given @ ..]) => {
            (*first == "*" || first == segment) && matches(wanted, given)
        }
        _ => false,
    }
}

/// Two patterns overlap if, and only if, there is a name that both match.
fn assert_overlap(one: &Pattern, other: &Pattern) {
    let [mut ours, mut theirs] =
        [one, other].map(|pattern| pattern.as_str().split(':').collect::<Vec<&str>>());
    let longest = ours.len().max(theirs.len());
    for segments in [&mut ours, &mut theirs] {
        while segments.len() < longest && segments.last() == Some(&"*") {
            segments.push("*");
        }
    }
    let pairs = ours.iter().zip(&theirs);
    let witness: Vec<&str> = pairs
        .map(|(&a, &b)| match (a, b) {
            ("*", "*") => "x",
            ("*", literal) | (literal, _) => literal,
        })
        .collect();
    let witness = witness.join(":");
    let is_shared = one.matches(&witness) && other.matches(&witness);
    assert_eq!(one.overlaps(other), is_shared, "{one} {other} {witness}");
    assert_eq!(one.overlaps(other), other.overlaps(one), "{one} {other}");
}

/// More literal segments first, then the earlier position of the first literal.
fn precedence(one: &str, other: &str) -> Ordering {
    let key = |text: &str| {
        let segments: Vec<&str> = text.split(':').collect();
        let literals = segments.iter().filter(|segment| **segment != "*").count();
        let first = segments.iter().position(|segment| *segment != "*");
        (usize::MAX - literals, first.unwrap_or(usize::MAX))
    };
    key(one).cmp(&key(other))
}

pub(super) fn pattern_seeds() -> Vec<Vec<u8>> {
    [
        "data:users:created\n*\ndata:*\ndata:users:*\n*:users:*\n*:*:created\n*:created",
        "sentinel:7f:status\nsentinel:*:status\nsentinel:*\n*:*:*\n*:7f:*",
        "log:web:pty:out\nlog:*\nlog:*:*\n*:web:*:out\nlog:*:pty:*",
        "données:été\ndonnées:*\n*:été",
        "a:b:c:d:e:f:g:h:i:j:k:l:m:n:o:p\n*:b:*\na:*:*:*:*:*:*:*:*:*:*:*:*:*:*:p\n*a:b\n*",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// The text of a schema, a newline, a payload. What is read is written the same; a payload of its size is JSON,
/// one of another size is none.
///
/// # Panics
/// Where that is not so.
pub fn schema(data: &[u8]) {
    let split = data.iter().position(|&byte| byte == b'\n');
    let (text, payload) = data.split_at(split.unwrap_or(data.len()));
    let payload = payload.get(1..).unwrap_or_default();
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(schema) = Schema::from_text(text) else {
        return;
    };
    assert_eq!(schema.to_text(), text);
    let again = Schema::new(&schema.name, schema.size_bytes, schema.fields.clone());
    assert_eq!(again.as_ref().map(Schema::id), Ok(schema.id()), "{text}");
    let json = schema.to_json(payload);
    let is_whole = payload.len() == schema.size_bytes as usize;
    assert_eq!(json.is_some(), is_whole, "{text}");
    if let Some(json) = json {
        let value: serde_json::Value = serde_json::from_str(&json)
            .unwrap_or_else(|error| panic!("{error} in {json} of {text}"));
        let fields = value.as_object().map(serde_json::Map::len);
        assert_eq!(fields, Some(schema.fields.len()), "{json}");
    }
    for field in schema.numeric_fields() {
        let is_number = schema.read_f64(field, payload).is_some();
        assert_eq!(is_number, is_whole, "{text}");
    }
}

pub(super) fn schema_seeds() -> Vec<Vec<u8>> {
    let texts: [(&str, usize); 4] = [
        ("v1 gpu:sample 8 power_mw:u32@0=mW name:u8[4]@4", 8),
        ("v1 pass:room:sample 8 temperature_mk:u64@0=mK", 8),
        ("v1 host:load 24 one:f64@0=% many:f32[3]@8 last:i32@20", 24),
        ("v1 x 1 y:u8@0", 1),
    ];
    let with = |(text, size): (&str, usize)| [text.as_bytes(), b"\n", &vec![0x41; size]].concat();
    texts.map(with).to_vec()
}

/// The payload of a record of an outbox, behind one byte that says what it is read as. What is accepted is read
/// to its end within its bounds, and writing it again gives the same entries.
///
/// # Panics
/// Where it is not.
pub fn batch(data: &[u8]) {
    let Some((&kind, payload)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => consolidated(payload),
        1 => {
            if let Some(aggregate) = AggregateView::parse(payload) {
                assert_eq!(payload.len(), 32 + 32 * aggregate.fields().len());
                let times = (aggregate.first_time_ns(), aggregate.last_time_ns());
                let (count, stale) = (aggregate.count(), aggregate.stale());
                let mut written = Vec::new();
                append_aggregate(&mut written, count, times, stale, aggregate.fields());
                assert_eq!(written, payload);
            }
        }
        _ => {
            if let Ok(gap) = GapBody::parse(payload) {
                assert!(gap.first() <= gap.last());
            }
        }
    }
}

fn consolidated(payload: &[u8]) {
    let Ok(view) = BatchView::parse(payload) else {
        return;
    };
    let mut entries = Vec::new();
    let mut count = 0;
    for entry in view.entries() {
        assert_eq!(
            entry.offset() as usize,
            entries.len(),
            "entries follow each other"
        );
        let same = view.entry_at(entry.offset()).map(|found| found.entry());
        let written = entry.entry();
        assert_eq!(format!("{same:?}"), format!("{:?}", Some(written)));
        append_entry(&mut entries, &written);
        count += 1;
    }
    assert_eq!(count, view.count());
    let parts = BatchParts {
        class: view.class(),
        prefix: view.prefix(),
        count,
        first_time_ns: view.first_time_ns(),
        last_time_ns: view.last_time_ns(),
        entries: &entries,
    };
    let header = parts.header(view.events_before());
    let again = [&header[..], parts.prefix().as_ref(), &entries].concat();
    assert_eq!(again.len(), payload.len());
    let view_again = BatchView::parse(&again).expect("we wrote it");
    assert_eq!(view_again.count(), view.count());
}

pub(super) fn batch_seeds() -> Vec<Vec<u8>> {
    let mut summary = Vec::new();
    let field = FieldSummary {
        min: 1.0,
        max: 3.0,
        mean: 2.0,
        last: 3.0,
    };
    append_aggregate(&mut summary, 3, (5, 9), false, [field, field].into_iter());
    let mut entries = Vec::new();
    for (sequence, name, payload) in [
        (0, "", &b"{}"[..]),
        (1, "data:users:created", b"hello, world"),
        (2, "", &summary),
    ] {
        append_entry(
            &mut entries,
            &Entry {
                is_aggregate: payload.len() > 32,
                level: 2,
                time_ns: 7 + sequence,
                sequence,
                name: NameRef {
                    id: if name.is_empty() { 3 } else { u32::MAX },
                    text: name,
                },
                schema_id: 0,
                lane_epoch: 5,
                source: 1,
                replaced: 0,
                payload,
            },
        );
    }
    let parts = BatchParts {
        class: Class::Aggregate,
        prefix: "data:users",
        count: 3,
        first_time_ns: 7,
        last_time_ns: 9,
        entries: &entries,
    };
    let whole = [
        &[0],
        &parts.header(4)[..],
        parts.prefix().as_ref(),
        &entries,
    ]
    .concat();
    let gap = GapBody::new(3, 10, 19, 0);
    let gap = [&[2], zerocopy::IntoBytes::as_bytes(&gap)].concat();
    vec![whole, [&[1][..], &summary].concat(), gap]
}
