//! Payloads as an indexer makes them.

use std::fmt::Write;

/// Where the id stands: behind `{"id":"`.
const ID_OFFSET: usize = 7;
const SOURCE_CHARACTERS: usize = 2000;
const EMBEDDING_FLOATS: u64 = 384;

/// What an index has to say of a piece of source.
const SOURCE: &str =
    "pub fn resolve(&self, name: &str) -> Option<Resolved<'_>> { self.matching(name).next() } ";

/// A UUID with a number in it.
pub(crate) fn uuid(number: u64) -> String {
    format!(
        "{:08x}-0000-4000-8000-{number:012x}",
        number >> 16 & 0xffff_ffff
    )
}

/// The two payloads that take turns, each with the id of the event.
pub(crate) struct Payloads {
    small: String,
    entity: String,
}

impl Payloads {
    pub(crate) fn new() -> Self {
        let small = format!(r#"{{"id":"{}","collection":"code_entities"}}"#, uuid(0));
        let mut entity = format!(
            r#"{{"id":"{}","collection":"code_entities","source":""#,
            uuid(0)
        );
        entity.extend(SOURCE.chars().cycle().take(SOURCE_CHARACTERS));
        entity.push_str(r#"","embedding":["#);
        for index in 0..EMBEDDING_FLOATS {
            let comma = if index == 0 { "" } else { "," };
            // Spread over -1 to 1, with as many digits as a double has.
            let value = (index * 7919 % 2000) as f64 / 1000.0 - 1.0 + 1.0 / 3e5;
            // Writing to a String cannot fail.
            let _ = write!(entity, "{comma}{value:.17}");
        }
        entity.push_str("]}");
        Payloads { small, entity }
    }

    /// The payload of event `number`: small where that is even.
    pub(crate) fn of(&mut self, number: u64) -> &[u8] {
        let payload = match number % 2 {
            0 => &mut self.small,
            _ => &mut self.entity,
        };
        let id = uuid(number);
        payload.replace_range(ID_OFFSET..ID_OFFSET + id.len(), &id);
        payload.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_sizes_of_the_scenario() {
        let mut payloads = Payloads::new();
        assert_eq!(payloads.of(0).len(), 74);
        assert!((9_800..10_000).contains(&payloads.of(1).len()));
    }

    #[test]
    fn payloads_are_json_with_their_id() {
        let mut payloads = Payloads::new();
        for number in 4..6 {
            let value: serde_json::Value =
                serde_json::from_slice(payloads.of(number)).expect("JSON");
            assert_eq!(value["id"], uuid(number));
        }
        let entity: serde_json::Value = serde_json::from_slice(payloads.of(1)).expect("JSON");
        assert_eq!(entity["source"].as_str().map(str::len), Some(2000));
        assert_eq!(entity["embedding"].as_array().map(Vec::len), Some(384));
    }
}
