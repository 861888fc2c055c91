//! What the statistics of a bus say to people and programs: the one JSON of `millpond stats --json` and of the page
//! `/stats.json`, sums over the last minutes, and who was the loudest.

mod json;
mod users;
mod window;

use std::time::Duration;

pub use self::json::stats_json;
pub use self::users::Users;
pub use self::window::{Loudest, WINDOW_DEFAULT, Window, is_behind};

/// A duration as the command reads it, in the largest unit that leaves no rest: `50ms`, `10s`, `5m`, `2h`, `1d`.
///
/// ```
/// use std::time::Duration;
/// use millpond_daemon::report::format_duration;
/// assert_eq!(format_duration(Duration::from_secs(600)), "10m");
/// assert_eq!(format_duration(Duration::from_millis(1500)), "1500ms");
/// ```
pub fn format_duration(duration: Duration) -> String {
    let units = [
        ("d", 86_400_000_000),
        ("h", 3_600_000_000),
        ("m", 60_000_000),
    ];
    let micros = duration.as_micros();
    for (unit, size) in units.into_iter().chain([("s", 1_000_000), ("ms", 1_000)]) {
        if micros >= size && micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    format!("{micros}us")
}
