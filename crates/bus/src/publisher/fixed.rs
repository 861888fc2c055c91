//! Publishing events of a fixed layout.

use super::{PublishError, Publisher, Topic};
use crate::error::{Error, ErrorKind};
use crate::level::Level;
use crate::schema::{self, EventLayout};

impl Publisher {
    /// The topic of `T`'s own event name. Registers the schema of `T` on the bus, so that any process can
    /// read its events, also one that has never heard of `T`.
    ///
    /// # Errors
    /// As [`Publisher::topic`]; also `InvalidInput` for a schema that is none or whose text is too long,
    /// and `LimitReached` when the bus has no room for another schema.
    pub fn event_topic<T: EventLayout>(&mut self) -> Result<Topic, Error> {
        self.event_topic_named::<T>(T::NAME)
    }

    /// As [`Publisher::event_topic`], under another name: for one topic per instance, such as
    /// `gpu:0:sample` and `gpu:1:sample`.
    ///
    /// # Errors
    /// As [`Publisher::event_topic`].
    pub fn event_topic_named<T: EventLayout>(&mut self, event_name: &str) -> Result<Topic, Error> {
        let schema = T::schema();
        let wrong = |why: String| Error::new(ErrorKind::InvalidInput, why);
        schema.check().map_err(|error| wrong(error.to_string()))?;
        if schema.size_bytes as usize != size_of::<T>() {
            let (name, said, is) = (&schema.name, schema.size_bytes, size_of::<T>());
            return Err(wrong(format!(
                "schema {name:?} says {said} bytes, its type has {is}: use derive(Event)"
            )));
        }
        let topic = self.topic(event_name)?;
        let Some(schema_id) = schema::intern(&self.control.schemas, schema) else {
            let message = format!(
                "no room for schema {:?} on bus {:?}: it holds {} schemas, the limit (old versions of a type \
                 count until the bus is removed), or a schema with the same hash: then change its name",
                schema.name,
                self.control.bus,
                self.control.schemas.len()
            );
            return Err(Error::new(ErrorKind::LimitReached, message));
        };
        self.targets[topic.index as usize].schema_id = schema_id;
        Ok(topic)
    }

    /// Publishes one event of a fixed layout and returns its sequence number within its lane.
    ///
    /// Costs what [`Publisher::publish`] costs for as many bytes, and one comparison.
    ///
    /// # Errors
    /// `WrongSchema` for a topic that was not made for `T`; else as [`Publisher::publish`].
    #[inline]
    pub fn publish_event<T: EventLayout>(
        &mut self,
        topic: Topic,
        level: Level,
        event: &T,
    ) -> Result<u64, PublishError> {
        if self.find(topic)?.schema_id != T::schema().id() {
            return Err(PublishError::WrongSchema);
        }
        self.publish(topic, level, event.as_bytes())
    }
}
