//! `#[event(...)]` on structs and fields, and what may stand in it.

use syn::meta::ParseNestedMeta;
use syn::{Attribute, LitStr, Path};

/// As in the bus, which checks again: this check is for a message at compile time.
const NAME_BYTES_MAX: usize = 128;
const SEGMENTS_MAX: usize = 16;
const UNIT_BYTES_MAX: usize = 32;

/// `#[event(...)]` on the struct.
#[derive(Default)]
pub(crate) struct StructAttributes {
    pub(crate) name: Option<LitStr>,
    pub(crate) krate: Option<Path>,
}

impl StructAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> syn::Result<Self> {
        let mut found = StructAttributes::default();
        each(attributes, |meta| {
            if meta.path.is_ident("name") {
                let name = text(&meta, found.name.is_some())?;
                check_name(&name.value()).map_err(|why| syn::Error::new(name.span(), why))?;
                found.name = Some(name);
                return Ok(());
            }
            if meta.path.is_ident("crate") {
                found.krate = Some(text(&meta, found.krate.is_some())?.parse()?);
                return Ok(());
            }
            Err(meta.error("unknown key: a struct has `name = \"...\"` and `crate = \"...\"`"))
        })?;
        Ok(found)
    }
}

/// `#[event(unit = "...")]` of a field.
pub(crate) fn unit(attributes: &[Attribute]) -> syn::Result<Option<LitStr>> {
    let mut unit: Option<LitStr> = None;
    each(attributes, |meta| {
        if !meta.path.is_ident("unit") {
            return Err(meta.error("unknown key: a field has `unit = \"...\"`"));
        }
        let found = text(&meta, unit.is_some())?;
        check_unit(&found.value()).map_err(|why| syn::Error::new(found.span(), why))?;
        unit = Some(found);
        Ok(())
    })?;
    Ok(unit)
}

/// Whether one of the `repr` attributes says `C`.
pub(crate) fn is_repr_c(attributes: &[Attribute]) -> syn::Result<bool> {
    let mut is_c = false;
    for attribute in attributes.iter().filter(|it| it.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            is_c |= meta.path.is_ident("C");
            // The number in `align(8)` or `packed(1)`.
            if meta.input.peek(syn::token::Paren) {
                let content;
                syn::parenthesized!(content in meta.input);
                content.parse::<proc_macro2::TokenStream>()?;
            }
            Ok(())
        })?;
    }
    Ok(is_c)
}

fn each(
    attributes: &[Attribute],
    mut visit: impl FnMut(ParseNestedMeta<'_>) -> syn::Result<()>,
) -> syn::Result<()> {
    for attribute in attributes.iter().filter(|it| it.path().is_ident("event")) {
        attribute.parse_nested_meta(&mut visit)?;
    }
    Ok(())
}

fn text(meta: &ParseNestedMeta<'_>, is_there: bool) -> syn::Result<LitStr> {
    if is_there {
        return Err(meta.error("given twice: keep one"));
    }
    meta.value()?.parse()
}

fn check_name(name: &str) -> Result<(), String> {
    let odd = |character: char| character.is_whitespace() || character.is_control();
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.len() > NAME_BYTES_MAX {
        format!("it has {} bytes, the limit is {NAME_BYTES_MAX}", name.len())
    } else if let Some(character) = name.chars().find(|&character| odd(character)) {
        format!("{character:?} is not allowed")
    } else if name.split(':').any(str::is_empty) {
        "a segment between colons is empty".to_owned()
    } else if name.contains('*') {
        "`*` stands for names, it cannot be in one".to_owned()
    } else if name.split(':').count() > SEGMENTS_MAX {
        format!("it has more than {SEGMENTS_MAX} segments")
    } else {
        return Ok(());
    };
    Err(format!(
        "{name:?} is no event name: {why}; write segments separated by `:`, such as \"gpu:sample\""
    ))
}

fn check_unit(unit: &str) -> Result<(), String> {
    let odd = |character: char| character.is_whitespace() || character.is_control();
    if unit.is_empty() || unit.len() > UNIT_BYTES_MAX || unit.contains(odd) {
        return Err(format!(
            "{unit:?} is no unit: 1 to {UNIT_BYTES_MAX} bytes without white space, such as \"mW\" or \"MiB/s\""
        ));
    }
    Ok(())
}
