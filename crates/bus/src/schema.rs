//! Schemas of fixed-layout events: what a payload's bytes mean, as one line of text that any process can read.
//!
//! # Text form
//! ```text
//!   v1 gpu:sample 24 power_mw:u32@0=mW fans:u16[2]@4 name:u8[16]@8
//!   |  |          |  field:kind@offset, =unit where it has one; kind[count] for an array
//!   |  |          size of the payload in bytes
//!   |  name of the event type
//!   version of this form
//! ```
//! Words are separated by one space. Fields stand in the order of their offsets and cover the payload without
//! holes. There is exactly one text for a schema, so that the hash of the text can be its id.
//!
//! # The shared table
//! As in `names`: a slot is taken with one compare-and-swap and filled by the taker; a taker that dies in
//! between costs one slot. Slots are never freed. What is read from the table is copied, parsed and checked:
//! any process of the bus can write nonsense there.
//!
//! Ordering pair S1, `state`: Release by the taker after the text -> Acquire by every reader.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{SCHEMA_BYTES, SCHEMAS_MAX, SchemaSlot, store_text};
use crate::pattern::check_event_name;
use crate::region::Pinned;
use crate::sync::atomic::Ordering;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const READY: u32 = 2;

const _: () = assert!(
    cfg!(target_endian = "little"),
    "events of fixed layout are the bytes of structs, which must be little-endian"
);

/// Front of every schema's text. A later form gets another one.
const VERSION: &str = "v1";
/// Longest name of a field, in bytes.
const FIELD_NAME_BYTES_MAX: usize = 128;
/// Longest unit, in bytes.
const UNIT_BYTES_MAX: usize = 32;

/// Why a text or a list of fields is no schema.
///
/// ```
/// let error = millpond_bus::Schema::from_text("v1 gpu:sample 8 power_mw:u32@4").unwrap_err();
/// assert!(error.to_string().contains("power_mw"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaError {
    schema: String,
    why: String,
}

impl SchemaError {
    fn new(schema: &str, why: String) -> Self {
        SchemaError {
            schema: schema.chars().take(160).collect(),
            why,
        }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no schema: {}", self.schema, self.why)
    }
}

impl std::error::Error for SchemaError {}

/// What one number of a field is. Little-endian, as everything in shared memory.
///
/// ```
/// use millpond_bus::FieldKind;
/// assert_eq!(FieldKind::F32.size_bytes(), 4);
/// assert_eq!(FieldKind::F32.name(), "f32");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are Rust's own types")]
pub enum FieldKind {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

impl FieldKind {
    const ALL: [FieldKind; 10] = [
        FieldKind::U8,
        FieldKind::U16,
        FieldKind::U32,
        FieldKind::U64,
        FieldKind::I8,
        FieldKind::I16,
        FieldKind::I32,
        FieldKind::I64,
        FieldKind::F32,
        FieldKind::F64,
    ];

    /// Its size.
    pub const fn size_bytes(self) -> u32 {
        match self {
            FieldKind::U8 | FieldKind::I8 => 1,
            FieldKind::U16 | FieldKind::I16 => 2,
            FieldKind::U32 | FieldKind::I32 | FieldKind::F32 => 4,
            FieldKind::U64 | FieldKind::I64 | FieldKind::F64 => 8,
        }
    }

    /// Rust's name for it, which is also its name in a schema's text.
    pub const fn name(self) -> &'static str {
        match self {
            FieldKind::U8 => "u8",
            FieldKind::U16 => "u16",
            FieldKind::U32 => "u32",
            FieldKind::U64 => "u64",
            FieldKind::I8 => "i8",
            FieldKind::I16 => "i16",
            FieldKind::I32 => "i32",
            FieldKind::I64 => "i64",
            FieldKind::F32 => "f32",
            FieldKind::F64 => "f64",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Types that a field of a fixed-layout event may have: `u8` to `u64`, `i8` to `i64`, `f32`, `f64`, and
/// arrays of these.
///
/// ```
/// use millpond_bus::{EventField, FieldKind};
/// assert_eq!(<[u16; 3]>::KIND, FieldKind::U16);
/// assert_eq!(<[u16; 3]>::LENGTH, Some(3));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of a fixed-layout event",
    label = "not one of u8 to u64, i8 to i64, f32, f64, or an array of these",
    note = "use a number for a flag or a variant, and `[u8; N]` for text (shown up to its first NUL)"
)]
pub trait EventField: sealed::Sealed {
    /// What one number of it is.
    const KIND: FieldKind;
    /// Numbers in it, where it is an array.
    const LENGTH: Option<u32>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! event_fields {
    ($($type:ty => $kind:ident),*) => {$(
        impl sealed::Sealed for $type {}
        impl EventField for $type {
            const KIND: FieldKind = FieldKind::$kind;
            const LENGTH: Option<u32> = None;
        }
        impl<const N: usize> sealed::Sealed for [$type; N] {}
        impl<const N: usize> EventField for [$type; N] {
            const KIND: FieldKind = FieldKind::$kind;
            const LENGTH: Option<u32> = {
                assert!(N > 0, "an array of no numbers cannot be a field of an event: remove it");
                assert!(N <= u32::MAX as usize, "the array is too long for an event");
                Some(N as u32)
            };
        }
    )*};
}
event_fields!(
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64, f32 => F32,
    f64 => F64
);

/// One field of a fixed-layout event.
///
/// ```
/// use millpond_bus::Field;
/// let field = Field::of::<[f32; 4]>("load", 8, Some("%"));
/// assert_eq!(field.to_string(), "load:f32[4]@8=%");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What one number of it is.
    pub kind: FieldKind,
    /// Whether it is an array, which may also have one number.
    pub is_array: bool,
    /// Numbers in it: the array's length, else 1.
    pub count: u32,
    /// Where it begins in the payload, in bytes.
    pub offset: u32,
    /// The unit of its numbers, such as `mW`.
    pub unit: Option<String>,
}

impl Field {
    /// A field of type `F`, `offset` bytes into the payload. Checked by [`Schema::new`].
    pub fn of<F: EventField>(name: &str, offset: usize, unit: Option<&str>) -> Self {
        Field {
            name: name.to_owned(),
            kind: F::KIND,
            is_array: F::LENGTH.is_some(),
            count: F::LENGTH.unwrap_or(1),
            // Beyond 4 GiB it is wrong in any schema, and found by its check.
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            unit: unit.map(str::to_owned),
        }
    }

    /// Bytes of all its numbers.
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.count) * u64::from(self.kind.size_bytes())
    }

    /// Its bytes in a payload; `None` where the payload is too short.
    fn bytes<'p>(&self, payload: &'p [u8]) -> Option<&'p [u8]> {
        let start = self.offset as usize;
        let end = start.checked_add(usize::try_from(self.size_bytes()).ok()?)?;
        payload.get(start..end)
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let odd = |character: char| {
            character.is_whitespace() || character.is_control() || ":@=[]".contains(character)
        };
        if name.is_empty() || name.len() > FIELD_NAME_BYTES_MAX || name.contains(odd) {
            return Err(format!(
                "{name:?} is no field name: 1 to {FIELD_NAME_BYTES_MAX} bytes without white space and :@=[]"
            ));
        }
        if let Some(unit) = &self.unit {
            let odd = |character: char| character.is_whitespace() || character.is_control();
            if unit.is_empty() || unit.len() > UNIT_BYTES_MAX || unit.contains(odd) {
                return Err(format!(
                    "{unit:?} is no unit (of field {name}): 1 to {UNIT_BYTES_MAX} bytes without white space"
                ));
            }
        }
        if self.count == 0 || (self.count != 1 && !self.is_array) {
            return Err(format!("field {name} has {} numbers", self.count));
        }
        Ok(())
    }

    fn parse(word: &str) -> Result<Self, String> {
        let form = || {
            format!("{word:?} is no field: it must be NAME:KIND@OFFSET or NAME:KIND@OFFSET=UNIT")
        };
        let (name, rest) = word.split_once(':').ok_or_else(form)?;
        let (kind, rest) = rest.split_once('@').ok_or_else(form)?;
        let (offset, unit) = match rest.split_once('=') {
            Some((offset, unit)) => (offset, Some(unit)),
            None => (rest, None),
        };
        let (kind, count) = match kind.strip_suffix(']') {
            Some(array) => {
                let (kind, count) = array.split_once('[').ok_or_else(form)?;
                (kind, Some(count))
            }
            None => (kind, None),
        };
        Ok(Field {
            name: name.to_owned(),
            kind: FieldKind::from_name(kind)
                .ok_or_else(|| format!("{kind:?} is no kind of number (in field {name})"))?,
            is_array: count.is_some(),
            count: count.map_or(Ok(1), parse_number)?,
            offset: parse_number(offset)?,
            unit: unit.map(str::to_owned),
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.kind.name())?;
        if self.is_array {
            write!(f, "[{}]", self.count)?;
        }
        write!(f, "@{}", self.offset)?;
        match &self.unit {
            Some(unit) => write!(f, "={unit}"),
            None => Ok(()),
        }
    }
}

/// What the payload of a fixed-layout event holds.
///
/// Made by `derive(Event)`, or from the text that a publisher left on the bus: then it shows and aggregates
/// events of types that this program has never heard of.
///
/// ```
/// use millpond_bus::{Field, Schema};
/// let fields = vec![
///     Field::of::<u32>("power_mw", 0, Some("mW")),
///     Field::of::<[u8; 4]>("name", 4, None),
/// ];
/// let schema = Schema::new("gpu:sample", 8, fields)?;
/// assert_eq!(schema.to_text(), "v1 gpu:sample 8 power_mw:u32@0=mW name:u8[4]@4");
/// assert_eq!(Schema::from_text(&schema.to_text())?, schema);
///
/// let payload = [44, 1, 0, 0, b'g', b'0', 0, 0];
/// assert_eq!(schema.to_json(&payload).as_deref(), Some(r#"{"power_mw":300,"name":"g0"}"#));
/// # Ok::<(), millpond_bus::SchemaError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schema {
    /// Name of the event type.
    pub name: String,
    /// The fields by their offsets; they cover the payload without holes.
    pub fields: Vec<Field>,
    /// Size of the payload.
    pub size_bytes: u32,
    /// Hash of the text, computed once: publishing compares it.
    id: u32,
}

impl Schema {
    /// A schema of these fields.
    ///
    /// # Errors
    /// Says what is wrong: a name, a unit, fields that overlap, leave holes, repeat a name or do not end at
    /// `size_bytes`, or a text form of more than 4,096 bytes.
    pub fn new(name: &str, size_bytes: u32, fields: Vec<Field>) -> Result<Self, SchemaError> {
        let schema = Self::unchecked(name, size_bytes as usize, fields);
        schema.check()?;
        Ok(schema)
    }

    /// As [`Schema::new`], for `derive(Event)`, which has nobody to give an error to; the publisher checks.
    #[doc(hidden)]
    pub fn unchecked(name: &str, size_bytes: usize, fields: Vec<Field>) -> Self {
        let mut schema = Schema {
            name: name.to_owned(),
            fields,
            size_bytes: u32::try_from(size_bytes).unwrap_or(u32::MAX),
            id: 0,
        };
        schema.id = hash(&schema.to_text());
        schema
    }

    /// Names this schema in record headers: a hash of its text, never 0. Two types that differ in anything,
    /// be it a unit, have different ids.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The schema as one line of text, see the [`Schema`] example. Cost: one string.
    pub fn to_text(&self) -> String {
        let mut text = format!("{VERSION} {} {}", self.name, self.size_bytes);
        for field in &self.fields {
            // Writing to a string cannot fail.
            let _ = write!(text, " {field}");
        }
        text
    }

    /// Reads what [`Schema::to_text`] has written, and nothing else.
    ///
    /// # Errors
    /// Says what is wrong with the text; any text at all may be given.
    pub fn from_text(text: &str) -> Result<Self, SchemaError> {
        let wrong = |why: String| SchemaError::new(text, why);
        if text.len() > SCHEMA_BYTES {
            return Err(wrong(too_long(text.len())));
        }
        let mut words = text.split(' ');
        let version = words.next().unwrap_or_default();
        if version != VERSION {
            return Err(wrong(format!(
                "its form is {version:?}, this release reads {VERSION:?}"
            )));
        }
        let name = words.next().unwrap_or_default();
        let size_bytes = parse_number(words.next().unwrap_or_default()).map_err(wrong)?;
        let fields = words.map(Field::parse).collect::<Result<_, _>>();
        let schema = Self::new(name, size_bytes, fields.map_err(wrong)?)?;
        // One text for one schema: no `+8`, no `08`.
        if schema.to_text() != text {
            return Err(wrong(format!(
                "it must be written as {:?}",
                schema.to_text()
            )));
        }
        Ok(schema)
    }

    /// Everything that is promised of a schema.
    pub(crate) fn check(&self) -> Result<(), SchemaError> {
        let text_bytes = self.to_text().len();
        if text_bytes > SCHEMA_BYTES {
            return Err(SchemaError::new(&self.name, too_long(text_bytes)));
        }
        self.check_fields()
            .map_err(|why| SchemaError::new(&self.name, why))
    }

    fn check_fields(&self) -> Result<(), String> {
        check_event_name(&self.name).map_err(|error| error.to_string())?;
        if self.fields.is_empty() {
            return Err("it has no field".to_owned());
        }
        let mut names = HashSet::new();
        let mut end = 0;
        for field in &self.fields {
            field.check()?;
            if !names.insert(field.name.as_str()) {
                return Err(format!("two fields are named {}", field.name));
            }
            if u64::from(field.offset) != end {
                return Err(format!(
                    "field {} begins at byte {}, the fields before it end at {end}: there may be no holes \
                     and no overlap",
                    field.name, field.offset
                ));
            }
            end += field.size_bytes();
        }
        if end != u64::from(self.size_bytes) {
            return Err(format!(
                "its fields end at byte {end}, its size is {} bytes",
                self.size_bytes
            ));
        }
        Ok(())
    }

    /// The fields that are one number: what can be aggregated. Arrays are not among them.
    pub fn numeric_fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| !field.is_array)
    }

    /// The number in `field` of this payload; u64 and i64 beyond 2^53 are rounded. `None` for an array, or
    /// where the payload has not this schema's size. Does not allocate.
    #[inline]
    pub fn read_f64(&self, field: &Field, payload: &[u8]) -> Option<f64> {
        if field.is_array || payload.len() != self.size_bytes as usize {
            return None;
        }
        Some(number(field.kind, field.bytes(payload)?)?.as_f64())
    }

    /// The payload as one JSON object, fields in order; `None` where it has not this schema's size.
    ///
    /// Integers are exact, floats the shortest that read back the same, `null` where they are not finite.
    /// `[u8; N]` is text up to its first NUL where that is UTF-8, else an array like all others.
    pub fn to_json(&self, payload: &[u8]) -> Option<String> {
        if payload.len() != self.size_bytes as usize {
            return None;
        }
        let mut json = String::with_capacity(self.fields.len() * 24 + 2);
        json.push('{');
        for (index, field) in self.fields.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            push_json_text(&mut json, &field.name);
            json.push(':');
            push_json_field(&mut json, field, field.bytes(payload)?)?;
        }
        json.push('}');
        Some(json)
    }
}

/// A type whose bytes are an event's payload. `derive(Event)` implements it; by hand it looks like this:
///
/// ```
/// use std::sync::LazyLock;
/// use millpond_bus::{EventLayout, Field, Schema};
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// struct Fan {
///     rpm: u32,
/// }
///
/// impl EventLayout for Fan {
///     const NAME: &'static str = "fan:sample";
///     fn schema() -> &'static Schema {
///         static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
///             Schema::new(Fan::NAME, 4, vec![Field::of::<u32>("rpm", 0, Some("1/min"))]).unwrap()
///         });
///         &SCHEMA
///     }
/// }
///
/// let payload = Fan { rpm: 900 };
/// let fan = Fan::decode(Fan::schema().id(), payload.as_bytes())?;
/// assert_eq!(fan.rpm, 900);
/// # Ok::<(), millpond_bus::SchemaMismatch>(())
/// ```
///
/// Padding cannot be: `IntoBytes` refuses it, since its bytes would be whatever was in memory before.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no fixed-layout event",
    note = "add `#[derive(Event, FromBytes, IntoBytes, Immutable, KnownLayout)]`, `#[repr(C)]` and \
            `#[event(name = \"...\")]` to it"
)]
pub trait EventLayout: FromBytes + IntoBytes + Immutable + KnownLayout {
    /// Name of the event type, and of its events where they are published under no other name.
    const NAME: &'static str;

    /// What the bytes mean. Cheap after the first call.
    fn schema() -> &'static Schema;

    /// The event in a payload that was published under schema `schema_id`. Cost: a comparison and a copy;
    /// the payload needs no alignment.
    ///
    /// # Errors
    /// Another schema, or another length than the schema says.
    fn decode(schema_id: u32, payload: &[u8]) -> Result<Self, SchemaMismatch>
    where
        Self: Sized,
    {
        let mismatch = || SchemaMismatch {
            expected: Self::schema(),
            found_id: schema_id,
            found: None,
            length_bytes: payload.len(),
        };
        if schema_id != Self::schema().id() {
            return Err(mismatch());
        }
        Self::read_from_bytes(payload).map_err(|_| mismatch())
    }
}

/// An event is not of the type it was to be decoded as.
///
/// ```
/// use millpond_bus::{EventLayout, Schema};
/// # use millpond_bus::Field;
/// # #[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
/// # #[repr(C)]
/// # struct Fan { rpm: u32 }
/// # impl EventLayout for Fan {
/// #     const NAME: &'static str = "fan:sample";
/// #     fn schema() -> &'static Schema {
/// #         static SCHEMA: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(|| {
/// #             Schema::new(Fan::NAME, 4, vec![Field::of::<u32>("rpm", 0, None)]).unwrap()
/// #         });
/// #         &SCHEMA
/// #     }
/// # }
/// let found = Schema::from_text("v1 fan:sample 8 rpm:u64@0")?;
/// let mismatch = Fan::decode(found.id(), &[0; 8]).unwrap_err().with_found(Some(found.into()));
/// assert!(mismatch.to_string().contains("rpm:u64@0"));
/// # Ok::<(), millpond_bus::SchemaError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaMismatch {
    expected: &'static Schema,
    found_id: u32,
    found: Option<Arc<Schema>>,
    length_bytes: usize,
}

impl SchemaMismatch {
    /// The schema of the type that was asked for.
    pub fn expected(&self) -> &'static Schema {
        self.expected
    }

    /// Id of the schema that the event has; 0 for plain bytes.
    pub fn found_id(&self) -> u32 {
        self.found_id
    }

    /// Adds what [`crate::Bus::schema`] says of the found id, so that the message can name it and say where
    /// the two differ.
    #[must_use]
    pub fn with_found(mut self, found: Option<Arc<Schema>>) -> Self {
        self.found = found.filter(|found| found.id() == self.found_id);
        self
    }
}

impl fmt::Display for SchemaMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (expected, found_id) = (self.expected, self.found_id);
        let (name, id) = (&expected.name, expected.id());
        if found_id == id {
            let (length_bytes, size_bytes) = (self.length_bytes, expected.size_bytes);
            return write!(
                f,
                "payload of {length_bytes} bytes, schema {name:?} ({id:08x}) has {size_bytes}: it was \
                 published as bytes under a topic of that type"
            );
        }
        match &self.found {
            Some(found) => {
                write!(
                    f,
                    "the event has schema {:?} ({found_id:08x}), expected {name:?} ({id:08x}): {}",
                    found.name,
                    Difference(found, expected)
                )
            }
            None if found_id == 0 => write!(
                f,
                "the event has plain bytes without a schema, expected schema {name:?} ({id:08x}): publish it \
                 with `publish_event`"
            ),
            None => write!(
                f,
                "the event has schema {found_id:08x}, expected {name:?} ({id:08x}): its publisher has another \
                 type, or another version of this one"
            ),
        }
    }
}

impl std::error::Error for SchemaMismatch {}

/// Says where two schemas part.
struct Difference<'a>(&'a Schema, &'a Schema);

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference(found, expected) = self;
        if found.name != expected.name {
            return f.write_str("the names differ");
        }
        let length = found.fields.len().max(expected.fields.len());
        for index in 0..length {
            match (found.fields.get(index), expected.fields.get(index)) {
                (Some(found), Some(expected)) if found == expected => {}
                (Some(found), Some(expected)) => {
                    return write!(f, "it has field {found} where {expected} is expected");
                }
                (Some(found), None) => return write!(f, "its field {found} is not expected"),
                (None, Some(expected)) => return write!(f, "it lacks field {expected}"),
                (None, None) => break,
            }
        }
        f.write_str("their ids differ")
    }
}

enum Number {
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
}

impl Number {
    fn as_f64(&self) -> f64 {
        match *self {
            Number::Unsigned(value) => value as f64,
            Number::Signed(value) => value as f64,
            Number::Single(value) => value.into(),
            Number::Double(value) => value,
        }
    }

    fn push_json(&self, json: &mut String) {
        // Writing to a string cannot fail. `{:?}` gives an exponent where it is shorter, and tells 1.0 from 1.
        let _ = match *self {
            Number::Unsigned(value) => write!(json, "{value}"),
            Number::Signed(value) => write!(json, "{value}"),
            Number::Single(value) if value.is_finite() => write!(json, "{value:?}"),
            Number::Double(value) if value.is_finite() => write!(json, "{value:?}"),
            Number::Single(_) | Number::Double(_) => json.write_str("null"),
        };
    }
}

/// The number at the front of `bytes`; `None` where they are too few.
#[inline]
fn number(kind: FieldKind, bytes: &[u8]) -> Option<Number> {
    Some(match kind {
        FieldKind::U8 => Number::Unsigned(u8::from_le_bytes(*bytes.first_chunk()?).into()),
        FieldKind::U16 => Number::Unsigned(u16::from_le_bytes(*bytes.first_chunk()?).into()),
        FieldKind::U32 => Number::Unsigned(u32::from_le_bytes(*bytes.first_chunk()?).into()),
        FieldKind::U64 => Number::Unsigned(u64::from_le_bytes(*bytes.first_chunk()?)),
        FieldKind::I8 => Number::Signed(i8::from_le_bytes(*bytes.first_chunk()?).into()),
        FieldKind::I16 => Number::Signed(i16::from_le_bytes(*bytes.first_chunk()?).into()),
        FieldKind::I32 => Number::Signed(i32::from_le_bytes(*bytes.first_chunk()?).into()),
        FieldKind::I64 => Number::Signed(i64::from_le_bytes(*bytes.first_chunk()?)),
        FieldKind::F32 => Number::Single(f32::from_le_bytes(*bytes.first_chunk()?)),
        FieldKind::F64 => Number::Double(f64::from_le_bytes(*bytes.first_chunk()?)),
    })
}

fn push_json_field(json: &mut String, field: &Field, bytes: &[u8]) -> Option<()> {
    if !field.is_array {
        number(field.kind, bytes)?.push_json(json);
        return Some(());
    }
    if field.kind == FieldKind::U8 {
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        if let Ok(text) = std::str::from_utf8(text) {
            push_json_text(json, text);
            return Some(());
        }
    }
    json.push('[');
    for (index, bytes) in bytes
        .chunks_exact(field.kind.size_bytes() as usize)
        .enumerate()
    {
        if index > 0 {
            json.push(',');
        }
        number(field.kind, bytes)?.push_json(json);
    }
    json.push(']');
    Some(())
}

fn push_json_text(json: &mut String, text: &str) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            // Those beyond JSON's own rule would reach a terminal as commands.
            '\0'..' ' | '\u{7f}'..='\u{9f}' => {
                // Writing to a string cannot fail.
                let _ = write!(json, "\\u{:04x}", u32::from(character));
            }
            other => json.push(other),
        }
    }
    json.push('"');
}

fn parse_number(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no number from 0 to {}", u32::MAX))
}

fn too_long(text_bytes: usize) -> String {
    format!(
        "its text form has {text_bytes} bytes, the limit is {SCHEMA_BYTES}: use fewer or shorter fields, or arrays"
    )
}

/// FNV-1a, 32 bits; 1 in the place of 0, which means "no schema".
fn hash(text: &str) -> u32 {
    text.bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
        .max(1)
}

/// The slots in the order in which an id is looked for.
fn probe(
    schemas: &Pinned<[SchemaSlot; SCHEMAS_MAX]>,
    id: u32,
) -> impl Iterator<Item = &SchemaSlot> {
    (0..SCHEMAS_MAX).map(move |step| &schemas[(id as usize % SCHEMAS_MAX + step) % SCHEMAS_MAX])
}

/// The id of `schema`, adding it where it is new; `None` when the table is full, or when another schema has
/// the same id. Lock-free, for set-up and not for the publish path.
pub(crate) fn intern(schemas: &Pinned<[SchemaSlot; SCHEMAS_MAX]>, schema: &Schema) -> Option<u32> {
    let id = schema.id();
    let text = schema.to_text();
    if text.len() > SCHEMA_BYTES {
        return None;
    }
    for slot in probe(schemas, id) {
        // ORDERING: Acquire on failure (S1), to read the text of whoever holds the slot.
        let taken = slot
            .state
            .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Acquire);
        match taken {
            Ok(_) => {
                // ORDERING: Relaxed; published by the Release below (S1).
                slot.id.store(id, Ordering::Relaxed);
                slot.length_bytes
                    .store(text.len() as u32, Ordering::Relaxed);
                store_text(&slot.text, &text);
                // ORDERING: Release (S1).
                slot.state.store(READY, Ordering::Release);
                return Some(id);
            }
            // ORDERING: Relaxed; S1 was the failed exchange.
            Err(READY) if slot.id.load(Ordering::Relaxed) == id => match read_slot(slot, id) {
                Some(known) if known == *schema => return Some(id),
                // Two texts with one hash: readers could not tell them apart, so the first one stays.
                Some(_) => return None,
                // Damaged; a good copy further on is found by readers too.
                None => {}
            },
            // Another schema, or one being written: at worst the same text stands there twice.
            Err(_) => {}
        }
    }
    None
}

/// The schema with this id, if it is there and is one. The copy is checked, not the table.
pub(crate) fn read(schemas: &Pinned<[SchemaSlot; SCHEMAS_MAX]>, id: u32) -> Option<Schema> {
    if id == 0 {
        return None;
    }
    probe(schemas, id).find_map(|slot| read_slot(slot, id))
}

fn read_slot(slot: &SchemaSlot, id: u32) -> Option<Schema> {
    // ORDERING: Acquire (S1); the id is covered by it.
    if slot.state.load(Ordering::Acquire) != READY || slot.id.load(Ordering::Relaxed) != id {
        return None;
    }
    // ORDERING: Relaxed; covered by S1.
    let length_bytes = slot.length_bytes.load(Ordering::Relaxed) as usize;
    if length_bytes > SCHEMA_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(SCHEMA_BYTES);
    for word in &slot.text[..length_bytes.div_ceil(8)] {
        // ORDERING: Relaxed; covered by S1.
        bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    bytes.truncate(length_bytes);
    let schema = Schema::from_text(std::str::from_utf8(&bytes).ok()?).ok()?;
    (schema.id() == id).then_some(schema)
}

#[cfg(test)]
mod tests;
