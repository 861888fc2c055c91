//! The command from outside, as people and scripts meet it: each module opens with what it shows.

mod attach;
mod bench;
mod capture;
mod commands;
mod figures;
mod glance;
mod health;
mod hostile;
mod hostile_files;
mod import;
mod log;
mod pipe;
mod progress;
mod ptys;
mod query;
mod recovering;
mod services;
mod support;
mod systemd;
mod telemetry;
mod top;
mod week;
