//! Whole buses with real processes: daemons and publishers that are killed, starved and crowded, and then
//! the files and the counters are compared with what was published. `MILLPOND_TEST_KILLS` and
//! `MILLPOND_TEST_SECONDS` make the runs longer, `MILLPOND_TEST_SEED` repeats one.

mod admission;
mod backends;
mod causal;
mod crash;
mod crash_points;
mod daemon_killed;
mod delivery_killed;
mod disk_faults;
mod disk_scenarios;
mod drops;
mod figures;
mod hostile;
mod hostile_bytes;
mod identity;
mod kill_points;
mod members;
mod normal_day;
mod peers;
mod power_cut;
mod publisher_killed;
mod reduction;
mod reload;
mod replay_live;
mod resources;
mod rotation;
mod rotation_followed;
mod runaway;
mod scenarios;
mod schemas;
mod soak;
mod subscriber_killed;
mod support;
mod waits;
