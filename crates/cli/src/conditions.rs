//! `--where`: conditions on the payload of an event.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millpond_bus::{Bus, Event, Schema};
use serde_json::Value;

use crate::flags::NotJson;

/// The schemas that were met, by their number.
pub(crate) struct Schemas {
    bus: Bus,
    known: HashMap<u32, Arc<Schema>>,
}

impl Schemas {
    pub(crate) fn new(bus: &Bus) -> Self {
        Schemas {
            bus: bus.clone(),
            known: HashMap::new(),
        }
    }

    /// The schema of an event; `None` for plain bytes, and where nobody has said what they mean.
    pub(crate) fn of(&mut self, event: &Event<'_>) -> Option<Arc<Schema>> {
        if event.schema_id == 0 {
            return None;
        }
        if let Some(schema) = self.known.get(&event.schema_id) {
            return Some(Arc::clone(schema));
        }
        let schema = self.bus.schema(event.schema_id)?;
        self.known.insert(event.schema_id, Arc::clone(&schema));
        Some(schema)
    }
}

/// `/json/pointer=value`, or `/json/pointer` alone: it is there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pointer: String,
    wanted: Option<Wanted>,
}

#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    text: String,
    /// The text as a JSON value, where it is one.
    value: Option<Value>,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pointer, wanted) = match text.split_once('=') {
            Some((pointer, wanted)) => (pointer, Some(wanted)),
            None => (text, None),
        };
        if !pointer.starts_with('/') {
            return Err(format!(
                "{text:?} is no condition: write /pointer/into/the/payload=value, or the pointer alone"
            ));
        }
        if pointer
            .split('~')
            .skip(1)
            .any(|rest| !rest.starts_with(['0', '1']))
        {
            return Err(format!(
                "{pointer:?} is no JSON pointer: write `~0` for `~` and `~1` for a `/` in a key"
            ));
        }
        Ok(Condition {
            pointer: pointer.to_owned(),
            wanted: wanted.map(|text| Wanted {
                text: text.to_owned(),
                value: serde_json::from_str(text).ok(),
            }),
        })
    }
}

impl Condition {
    /// Whether a payload meets it. `=7` is met by the number 7 and by the text "7".
    fn holds(&self, payload: &Value) -> bool {
        let Some(found) = payload.pointer(&self.pointer) else {
            return false;
        };
        self.wanted.as_ref().is_none_or(|wanted| {
            found.as_str() == Some(&wanted.text) || wanted.value.as_ref() == Some(found)
        })
    }
}

/// All conditions of a command, as a filter of a subscription.
pub(crate) struct Conditions {
    all: Vec<Condition>,
    not_json: NotJson,
    schemas: Schemas,
    not_json_count: Arc<AtomicU64>,
}

impl Conditions {
    pub(crate) fn new(bus: &Bus, all: Vec<Condition>, not_json: NotJson) -> Self {
        Conditions {
            all,
            not_json,
            schemas: Schemas::new(bus),
            not_json_count: Arc::default(),
        }
    }

    /// How many payloads were not JSON: to be read when the filter itself is given away.
    pub(crate) fn not_json_count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.not_json_count)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether all of them hold.
    pub(crate) fn keep(&mut self, event: &Event<'_>) -> bool {
        if self.all.is_empty() {
            return true;
        }
        match self.value_of(event) {
            Some(payload) => self.all.iter().all(|condition| condition.holds(&payload)),
            None => {
                // ORDERING: Relaxed; a number for people.
                self.not_json_count.fetch_add(1, Ordering::Relaxed);
                self.not_json == NotJson::Pass
            }
        }
    }

    /// The payload as JSON: that of a fixed-layout event by its schema.
    fn value_of(&mut self, event: &Event<'_>) -> Option<Value> {
        if event.is_aggregate {
            return None;
        }
        match self.schemas.of(event) {
            Some(schema) => serde_json::from_str(&schema.to_json(event.payload)?).ok(),
            None => serde_json::from_slice(event.payload).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, payload: &str) -> bool {
        let condition: Condition = condition.parse().expect("a condition");
        condition.holds(&serde_json::from_str(payload).expect("JSON"))
    }

    #[test]
    fn a_value_is_compared_as_text_and_as_json() {
        let payload = r#"{"a":{"to":"me","n":7,"s":"7","ok":true,"none":null,"k/e~y":[1,2]}}"#;
        for held in [
            "/a/to=me",
            "/a/n=7",
            "/a/s=7",
            "/a/ok=true",
            "/a/none=null",
            "/a/none",
            "/a/k~1e~0y/1=2",
            "/a/k~1e~0y=[1, 2]",
            "/a",
        ] {
            assert!(holds(held, payload), "{held}");
        }
        for not_held in ["/a/to=you", "/a/n=7.5", "/a/absent", "/a/to/x", "/a/to="] {
            assert!(!holds(not_held, payload), "{not_held}");
        }
    }

    #[test]
    fn what_is_no_condition_is_named() {
        for bad in ["", "a=b", "=b", "/a~2=b"] {
            let error = bad.parse::<Condition>().expect_err("no condition");
            assert!(error.contains("write"), "{error}");
        }
    }
}
