//! From a struct to its implementation of `EventLayout`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Data, DeriveInput, Error, Field, Fields, FieldsNamed, Type, parse_quote};

use crate::attributes::{self, StructAttributes};

/// Longest name of a field, in bytes, as in the bus.
const FIELD_NAME_BYTES_MAX: usize = 128;

/// The implementation, or every mistake in the struct at once.
pub(crate) fn event(input: &DeriveInput) -> syn::Result<TokenStream> {
    let fields = named_fields(input)?;
    let mut errors = Errors(None);

    if !input.generics.params.is_empty() {
        let why = "an event has one layout, so its type can have no parameters: write a struct for each layout";
        errors.add(Error::new_spanned(&input.generics, why));
    }
    if let Some(false) = errors.take(attributes::is_repr_c(&input.attrs)) {
        let why = "the compiler may order the fields of this struct as it likes: add `#[repr(C)]`";
        errors.add(Error::new_spanned(&input.ident, why));
    }
    let attributes = errors.take(StructAttributes::parse(&input.attrs));
    if let Some(StructAttributes { name: None, .. }) = attributes {
        let why =
            "the event has no name: add `#[event(name = \"gpu:sample\")]`, with a name of your own";
        errors.add(Error::new_spanned(&input.ident, why));
    }
    let StructAttributes { name, krate } = attributes.unwrap_or_default();
    let krate = krate.unwrap_or_else(|| parse_quote!(::millpond));

    let ident = &input.ident;
    let mut made = Vec::new();
    for field in &fields.named {
        if let Some(unit) = errors.take(check_field(field)) {
            let (Some(member), kind) = (&field.ident, &field.ty) else {
                continue;
            };
            let text = member.unraw().to_string();
            let unit = match unit {
                Some(unit) => quote!(::core::option::Option::Some(#unit)),
                None => quote!(::core::option::Option::None),
            };
            made.push(quote! {
                #krate::Field::of::<#kind>(#text, ::core::mem::offset_of!(#ident, #member), #unit)
            });
        }
    }
    errors.finish()?;

    Ok(quote! {
        #[automatically_derived]
        impl #krate::EventLayout for #ident {
            const NAME: &'static str = #name;

            fn schema() -> &'static #krate::Schema {
                static SCHEMA: ::std::sync::LazyLock<#krate::Schema> = ::std::sync::LazyLock::new(|| {
                    #krate::Schema::unchecked(
                        #name,
                        ::core::mem::size_of::<#ident>(),
                        ::std::vec![#(#made),*],
                    )
                });
                &SCHEMA
            }
        }
    })
}

fn named_fields(input: &DeriveInput) -> syn::Result<&FieldsNamed> {
    let why = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) if !fields.named.is_empty() => return Ok(fields),
            Fields::Unnamed(_) => {
                "the fields of an event need names, for queries and JSON: write `struct Sample { value: u32 }`"
            }
            Fields::Named(_) | Fields::Unit => {
                "an event of fixed layout needs a field: publish an empty payload with `publish` instead"
            }
        },
        Data::Enum(_) => {
            "an enum cannot be an event, since most bytes are none of its variants: use a struct with a `u8` \
             field for the variant"
        }
        Data::Union(_) => "a union cannot be an event: use a struct",
    };
    Err(Error::new_spanned(&input.ident, why))
}

/// The unit of a field that can be one.
fn check_field(field: &Field) -> syn::Result<Option<syn::LitStr>> {
    if let Some(remedy) = remedy(&field.ty) {
        let kind = &field.ty;
        let written = quote!(#kind).to_string().replace(' ', "");
        let why = format!("`{written}` cannot be a field of a fixed-layout event: {remedy}");
        return Err(Error::new_spanned(kind, why));
    }
    if let Some(ident) = &field.ident
        && ident.unraw().to_string().len() > FIELD_NAME_BYTES_MAX
    {
        let why = format!("the name of a field has at most {FIELD_NAME_BYTES_MAX} bytes");
        return Err(Error::new_spanned(ident, why));
    }
    attributes::unit(&field.attrs)
}

/// What to use instead of a type that cannot be a field. Aliases are seen through by the compiler only, so
/// whatever is unknown here is left to the trait `EventField`.
fn remedy(kind: &Type) -> Option<&'static str> {
    match kind {
        Type::Array(array) => match &*array.elem {
            Type::Array(_) => Some("use one array, of rows times columns numbers"),
            element => remedy(element),
        },
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            Some(match last.ident.to_string().as_str() {
                "bool" => {
                    "use `u8`, 0 or 1: any other byte in a `bool` would be undefined behaviour"
                }
                "char" => "use `u32`, or `[u8; N]` for text",
                "usize" => "use `u64`: its size must be the same in every process",
                "isize" => "use `i64`: its size must be the same in every process",
                "u128" | "i128" => "use two fields of 64 bits",
                "String" | "str" => "use `[u8; N]`, filled up with zeros: it is shown as text",
                "Vec" | "Box" | "Rc" | "Arc" | "HashMap" | "BTreeMap" => {
                    "it points into this process's memory; use an array, or publish bytes with `publish`"
                }
                "Option" => "use the number alone, with a value that stands for none",
                "Duration" | "Instant" | "SystemTime" => "use `u64` nanoseconds",
                _ => return None,
            })
        }
        Type::Reference(_)
        | Type::Ptr(_)
        | Type::Slice(_)
        | Type::BareFn(_)
        | Type::TraitObject(_) => {
            Some("it points into this process's memory; use an array, such as `[u8; N]` for text")
        }
        Type::Tuple(_) => Some("use a field for each of its parts"),
        _ => None,
    }
}

/// Mistakes so far, to be told together.
struct Errors(Option<Error>);

impl Errors {
    fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    fn finish(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All messages about this source, one a line.
    fn refused(source: &str) -> String {
        let input = syn::parse_str(source).expect(source);
        let error = event(&input).expect_err(source);
        error
            .into_iter()
            .map(|error| format!("{error}\n"))
            .collect()
    }

    fn refused_struct(fields: &str) -> String {
        refused(&format!(
            "#[repr(C)] #[event(name = \"a:b\")] struct A {{ {fields} }}"
        ))
    }

    #[test]
    fn a_good_struct_is_taken_through_the_facade_or_the_crate_it_names() {
        for (extra, path) in [("", ":: millpond ::"), (", crate = \"x::y\"", "x :: y ::")] {
            let source = format!(
                "#[repr(C, align(8))] #[event(name = \"a:b\"{extra})] struct A {{ r#type: u32 }}"
            );
            let tokens = event(&syn::parse_str(&source).expect("a struct")).expect("a good one");
            let text = tokens.to_string();
            assert!(
                text.contains(&format!("impl {path} EventLayout for A")),
                "{text}"
            );
            assert!(text.contains("\"type\""), "{text}");
        }
    }

    #[test]
    fn what_is_no_plain_struct_is_refused_with_a_remedy() {
        let head = "#[repr(C)] #[event(name = \"a:b\")]";
        for (item, why) in [
            ("enum A { B }", "use a struct with a `u8`"),
            ("union A { b: u32 }", "use a struct"),
            ("struct A(u32);", "need names"),
            ("struct A;", "needs a field"),
            ("struct A {}", "needs a field"),
            ("struct A<T> { b: T }", "no parameters"),
            ("struct A<const N: usize> { b: [u8; N] }", "no parameters"),
        ] {
            let message = refused(&format!("{head} {item}"));
            assert!(message.contains(why), "{item}: {message}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let message = refused("struct A { b: bool, c: String }");
        for part in ["#[repr(C)]", "#[event(name", "use `u8`", "use `[u8; N]`"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(message.lines().count(), 4);
        assert!(refused("#[repr(align(8))] struct A { b: u8 }").contains("#[repr(C)]"));
    }

    #[test]
    fn field_types_are_refused_with_a_remedy() {
        for (kind, why) in [
            ("usize", "use `u64`"),
            ("[usize; 2]", "use `u64`"),
            ("[[u8; 2]; 2]", "use one array"),
            ("&'static str", "use an array"),
            ("(u8, u8)", "each of its parts"),
            ("std::time::Duration", "nanoseconds"),
            ("Vec<u8>", "use an array"),
        ] {
            let message = refused_struct(&format!("b: {kind}"));
            assert!(message.contains(why), "{kind}: {message}");
        }
    }

    #[test]
    fn names_and_units_are_checked() {
        for name in [
            "",
            "a b",
            "a::b",
            ":a",
            "a:",
            "a:*",
            "a*",
            "a\\n",
            &"x".repeat(129),
            &"a:".repeat(20),
        ] {
            let source = format!("#[repr(C)] #[event(name = \"{name}\")] struct A {{ b: u8 }}");
            assert!(refused(&source).contains("no event name"), "{name}");
        }
        assert!(refused_struct("#[event(unit = \"m W\")] b: u8").contains("no unit"));
        assert!(refused_struct("#[event(unit = \"\")] b: u8").contains("no unit"));
        assert!(refused_struct("#[event(units = \"m\")] b: u8").contains("unknown key"));
        assert!(refused_struct("#[event(unit = \"m\", unit = \"s\")] b: u8").contains("twice"));
        let source = "#[repr(C)] #[event(name = \"a\", size = \"1\")] struct A { b: u8 }";
        assert!(refused(source).contains("unknown key"));
    }
}
