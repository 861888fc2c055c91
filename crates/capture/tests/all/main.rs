//! Captures and terminals as a program has them that uses this crate.

mod run;
mod terminal;
