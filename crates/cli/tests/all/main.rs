//! The command from outside, as people and scripts meet it: each module opens with what it shows.

mod attach;
mod capture;
mod commands;
mod hostile;
mod hostile_files;
mod import;
mod pipe;
mod ptys;
mod query;
mod recovering;
mod services;
mod support;
mod week;
