//! The command from outside, as people and scripts meet it: each module opens with what it shows.

mod commands;
mod import;
mod query;
mod support;
mod week;
