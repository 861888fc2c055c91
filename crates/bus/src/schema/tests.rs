//! Schemas by themselves: text, JSON, the table. Nonsense comes from a fixed seed.

use super::*;
use crate::region::Region;

const GOOD: &str = "v1 gpu:sample 56 power_mw:u32@0=mW temp:i16@4=°C fans:u16[1]@6 at_ns:u64@8 load:f64@16 delta:f32@24 \
     name:u8[16]@28 codes:i8[12]@44";

fn good() -> Schema {
    Schema::from_text(GOOD).expect("a good text")
}

fn table() -> Pinned<[SchemaSlot; SCHEMAS_MAX]> {
    let region = Region::heap(size_of::<[SchemaSlot; SCHEMAS_MAX]>()).expect("heap");
    region.pin(0).expect("fits")
}

/// xorshift64: the same nonsense in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn text_round_trips_and_has_a_stable_id() {
    assert_eq!(good().to_text(), GOOD);
    assert_eq!(good().id(), hash(GOOD));
    assert_eq!(hash(""), 0x811c_9dc5);
    assert_eq!(hash("a"), 0xe40c_292c); // the published FNV-1a test vector
}

#[test]
fn wrong_texts_are_refused_with_the_reason() {
    for (text, why) in [
        ("", "form"),
        ("v2 a 1 x:u8@0", "\"v2\""),
        ("v1", "no number"),
        ("v1 a:* 1 x:u8@0", "no event name"),
        ("v1 a 0", "no field"),
        ("v1 a 1 x:u8", "NAME:KIND"),
        ("v1 a 1 x:bool@0", "\"bool\""),
        ("v1 a 1 :u8@0", "no field name"),
        ("v1 a 0 x:u8[0]@0", "0 numbers"),
        ("v1 a 8 x:u32@0 y:u32@2", "no holes"),
        ("v1 a 9 x:u32@0 y:u32@5", "no holes"),
        ("v1 a 9 x:u32@0 y:u32@4", "size is 9"),
        ("v1 a 8 y:u32@4 x:u32@0", "no holes"),
        ("v1 a 4 x:u64[4294967295]@0", "end at byte"),
        ("v1 a 2 x:u8@0 x:u8@1", "two fields"),
        ("v1 a 1 x:u8@00", "written as"),
        ("v1 a +1 x:u8@0", "written as"),
        ("v1 a 1 x:u8@0=", "no unit"),
        ("v1 a 1 x:u8@0 ", "NAME:KIND"),
        ("v1 a 1 x:u8@4294967296", "no number"),
    ] {
        let error = Schema::from_text(text).expect_err(text).to_string();
        assert!(error.contains(why), "{text:?}: {error}");
    }
    let long = format!("v1 a 1 {}:u8@0", "x".repeat(SCHEMA_BYTES));
    assert!(Schema::from_text(&long).is_err());
}

/// What `from_text` accepts must be safe to use on any payload of its size.
fn assert_usable(schema: &Schema, text: &str) {
    assert_eq!(schema.to_text(), text);
    let end: u64 = schema.fields.iter().map(Field::size_bytes).sum();
    assert_eq!(end, u64::from(schema.size_bytes));
    for field in &schema.fields {
        assert!(u64::from(field.offset) + field.size_bytes() <= end);
    }
    if schema.size_bytes <= 1 << 20 {
        let payload = vec![0xff; schema.size_bytes as usize];
        assert!(schema.to_json(&payload).is_some());
        for field in schema.numeric_fields() {
            assert!(schema.read_f64(field, &payload).is_some());
        }
    }
    assert_eq!(schema.to_json(&[]), None);
}

#[test]
fn nonsense_is_refused_and_what_is_accepted_keeps_its_promises() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let letters = b"v1 :@=[]0123456789uifx\n\xff\"";
    let mut accepted = 0;
    for _ in 0..50_000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..1 + random.below(4) {
            if bytes.is_empty() {
                break;
            }
            let place = random.below(bytes.len());
            let letter = letters[random.below(letters.len())];
            match random.below(4) {
                0 => drop(bytes.remove(place)),
                1 => bytes.insert(place, letter),
                2 => bytes.truncate(place),
                _ => bytes[place] = letter,
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(schema) = Schema::from_text(&text) {
            assert_usable(&schema, &text);
            accepted += 1;
        }
    }
    assert!(accepted > 0, "the mutations are too wild to test anything");
}

#[test]
fn json_is_exact_and_escaped() {
    let schema = Schema::from_text(
        "v1 a 61 big:u64@0 low:i64@8 f:f64@16 g:f32@24 h:f32@28 text:u8[12]@32 raw:u8[2]@44 list:u16[2]@46 \
         one:i8[1]@50 x\"y:u8@51 tail:u8[9]@52",
    )
    .expect("a good text");
    let mut payload = Vec::new();
    payload.extend(u64::MAX.to_le_bytes());
    payload.extend(i64::MIN.to_le_bytes());
    payload.extend(f64::NAN.to_le_bytes());
    payload.extend(0.1f32.to_le_bytes());
    payload.extend(1e30f32.to_le_bytes());
    payload.extend(b"a\"\\\n\x01\xc3\xa9\0\xffzz");
    payload.extend([0; 12 - 11]);
    payload.extend([0xff, 0xfe]);
    payload.extend([1, 0, 0, 1]);
    payload.extend([0xff, 7]);
    payload.extend([0; 9]);
    assert_eq!(
        schema.to_json(&payload).as_deref(),
        Some(
            "{\"big\":18446744073709551615,\"low\":-9223372036854775808,\"f\":null,\"g\":0.1,\"h\":1e30,\
             \"text\":\"a\\\"\\\\\\n\\u0001é\",\"raw\":[255,254],\"list\":[1,256],\"one\":[-1],\
             \"x\\\"y\":7,\"tail\":\"\"}"
        )
    );
}

#[test]
fn numbers_are_read_by_kind_and_only_from_payloads_of_the_right_size() {
    let schema = good();
    let names: Vec<_> = schema.numeric_fields().map(|field| &*field.name).collect();
    assert_eq!(names, ["power_mw", "temp", "at_ns", "load", "delta"]);
    let mut payload = vec![0; 56];
    payload[4..6].copy_from_slice(&(-40i16).to_le_bytes());
    let read = |index: usize, payload: &[u8]| schema.read_f64(&schema.fields[index], payload);
    assert_eq!(read(1, &payload), Some(-40.0));
    assert_eq!(read(2, &payload), None);
    assert_eq!(read(1, &payload[..55]), None);
}

#[test]
fn a_schema_keeps_its_id_and_text() {
    let schemas = table();
    let id = intern(&schemas, &good()).expect("an empty table has room");
    assert_eq!(id, good().id());
    assert_eq!(intern(&schemas, &good()), Some(id));
    assert_eq!(read(&schemas, id), Some(good()));
    assert_eq!(read(&schemas, id ^ 1), None);
    assert_eq!(read(&schemas, 0), None);
    // ORDERING: one thread.
    let ready = schemas
        .iter()
        .filter(|slot| slot.state.load(Ordering::Relaxed) == READY);
    assert_eq!(ready.count(), 1);
}

#[test]
fn a_full_table_says_so_and_dead_takers_and_damage_hide_nothing() {
    let schemas = table();
    let id = good().id();
    let first = id as usize % SCHEMAS_MAX;
    // ORDERING: one thread.
    schemas[first].state.store(TAKEN, Ordering::Relaxed);
    assert_eq!(intern(&schemas, &good()), Some(id));
    assert_eq!(read(&schemas, id), Some(good()));

    let second = &schemas[(first + 1) % SCHEMAS_MAX];
    second.text[0].store(u64::MAX, Ordering::Relaxed);
    assert_eq!(read(&schemas, id), None);
    assert_eq!(intern(&schemas, &good()), Some(id));
    assert_eq!(read(&schemas, id), Some(good()));
    second.length_bytes.store(u32::MAX, Ordering::Relaxed);
    assert_eq!(read(&schemas, id), Some(good()));

    for slot in schemas.iter() {
        slot.state.store(TAKEN, Ordering::Relaxed);
    }
    assert_eq!(intern(&schemas, &good()), None);
    assert_eq!(read(&schemas, id), None);
}

#[test]
fn threads_that_intern_the_same_schemas_all_find_them() {
    let schemas = table();
    let all: Vec<Schema> = (0..16)
        .map(|number| {
            Schema::new(
                &format!("a:{number}"),
                4,
                vec![Field::of::<f32>("x", 0, None)],
            )
        })
        .collect::<Result<_, _>>()
        .expect("good schemas");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for schema in &all {
                    assert_eq!(intern(&schemas, schema), Some(schema.id()));
                    assert_eq!(read(&schemas, schema.id()).as_ref(), Some(schema));
                }
            });
        }
    });
}

#[test]
fn control_characters_of_a_payload_do_not_reach_a_terminal() {
    let schema = Schema::from_text("v1 a 4 x:u8[4]@0").expect("a good text");
    assert_eq!(
        schema.to_json(b"\x1b\x7f\xc2\x9b").as_deref(),
        Some("{\"x\":\"\\u001b\\u007f\\u009b\"}")
    );
}

#[test]
fn another_schema_of_the_same_id_is_refused() {
    let schemas = table();
    let mut other = good();
    other.name = "gpu:other".to_owned();
    // As if the two texts had one hash; the table then holds a text that is not what its id says.
    assert_ne!(hash(&other.to_text()), other.id());
    assert_eq!(intern(&schemas, &good()), Some(good().id()));
    assert_eq!(intern(&schemas, &other), None);
}
