//! `derive(Event)`: makes a struct the payload of an event, and its layout readable by every process of the bus.
//!
//! ```
//! use millpond_bus::EventLayout;
//! use millpond_derive::Event;
//! use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
//!
//! #[derive(Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
//! #[repr(C)]
//! #[event(name = "gpu:sample", crate = "millpond_bus")] // without `crate`: through the facade, `millpond`
//! struct GpuSample {
//!     #[event(unit = "mW")]
//!     power_mw: u32,
//!     #[event(unit = "°C")]
//!     temperature: i16,
//!     fans: [u8; 2],
//! }
//!
//! assert_eq!(GpuSample::NAME, "gpu:sample");
//! let text = GpuSample::schema().to_text();
//! assert_eq!(text, "v1 gpu:sample 8 power_mw:u32@0=mW temperature:i16@4=°C fans:u8[2]@6");
//! ```
//!
//! The bytes of the struct are the payload, so they must be the same for every compiler: `#[repr(C)]`, fields of
//! fixed size, and no padding. What breaks that does not compile.
//!
//! Padding (the four bytes in front of `at_ns`; put fields in order of size, or name the gap `reserved: u32`):
//!
//! ```compile_fail
//! # use millpond_derive::Event;
//! # use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
//! #[derive(Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
//! #[repr(C)]
//! #[event(name = "gpu:sample", crate = "millpond_bus")]
//! struct GpuSample {
//!     power_mw: u32,
//!     at_ns: u64,
//! }
//! ```
//!
//! No `#[repr(C)]`, so that the compiler may put the fields in any order:
//!
//! ```compile_fail
//! # use millpond_derive::Event;
//! # use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
//! #[derive(Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
//! #[event(name = "gpu:sample", crate = "millpond_bus")]
//! struct GpuSample {
//!     power_mw: u32,
//! }
//! ```
//!
//! An enum:
//!
//! ```compile_fail
//! # use millpond_derive::Event;
//! #[derive(Event)]
//! #[repr(C)]
//! #[event(name = "gpu:state", crate = "millpond_bus")]
//! enum State {
//!     Idle,
//!     Busy,
//! }
//! ```
//!
//! A field that is no number, even through an alias:
//!
//! ```compile_fail
//! # use millpond_derive::Event;
//! # use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
//! type Wide = u128;
//! #[derive(Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
//! #[repr(C)]
//! #[event(name = "gpu:sample", crate = "millpond_bus")]
//! struct GpuSample {
//!     energy: Wide,
//! }
//! ```

#![forbid(unsafe_code)]

mod attributes;
mod expand;

/// Implements `EventLayout` for a `#[repr(C)]` struct of numbers and arrays of numbers.
///
/// On the struct, `#[event(name = "gpu:sample")]` is the event's name, and `crate = "path"` says where
/// `EventLayout` is (default `millpond`). On a field, `#[event(unit = "mW")]` is the unit of its numbers. The
/// other derives an event needs are zerocopy's, which check that its bytes are all defined.
///
/// ```
/// use millpond_bus::EventLayout;
/// use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};
///
/// #[derive(millpond_derive::Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
/// #[repr(C)]
/// #[event(name = "fan:sample", crate = "millpond_bus")]
/// struct Fan {
///     #[event(unit = "1/min")]
///     rpm: u32,
/// }
/// let json = Fan::schema().to_json(Fan { rpm: 900 }.as_bytes());
/// assert_eq!(json.as_deref(), Some(r#"{"rpm":900}"#));
/// ```
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    syn::parse(input)
        .and_then(|input| expand::event(&input))
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
