//! Schemas of fixed-layout events, read from the bus once each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use millpond_bus::{Bus, Record, Schema};

/// The schemas that were asked for so far: as many as the bus has at most.
#[derive(Debug)]
pub(crate) struct Schemas {
    bus: Bus,
    known: RefCell<HashMap<u32, Arc<Schema>>>,
}

impl Schemas {
    pub(crate) fn new(bus: &Bus) -> Self {
        Schemas {
            bus: bus.clone(),
            known: RefCell::default(),
        }
    }

    /// The schema with this number; `None` where the bus has none, as for plain bytes.
    pub(crate) fn get(&self, id: u32) -> Option<Arc<Schema>> {
        if let Some(known) = self.known.borrow().get(&id) {
            return Some(Arc::clone(known));
        }
        let found = self.bus.schema(id)?;
        self.known.borrow_mut().insert(id, Arc::clone(&found));
        Some(found)
    }

    /// The fields of a fixed-layout event as JSON, for people who read the log. `None` for plain bytes, and for
    /// bytes that are not what their schema says.
    #[inline]
    pub(crate) fn show(&self, record: &Record<'_>) -> Option<String> {
        match record.schema_id {
            0 => None,
            id => self.get(id)?.to_json(record.payload),
        }
    }
}
