//! Parts of millpond that the scenarios of the log need and that are not there yet: one place to switch them on.
//!
//! A criterion that rests on such a part is left out while its constant is `false`.

use millpond_daemon::Policy;

use crate::stage::Keeping;

/// Runs of one line are written once, with counts (daemon: reduction).
pub(crate) const HAS_REPEATS: bool = false;
/// A service over its quota pays first, and limits count what is on the disk (sink: quotas).
pub(crate) const HAS_QUOTAS: bool = false;
/// So many segments of a service are kept (sink: `service_segments_limit`).
pub(crate) const HAS_GENERATIONS: bool = false;
/// The sink opens a directory with sealed segments, and the follower reads them.
pub(crate) const HAS_SEALED_LOGS: bool = false;

/// What only a sink with those parts understands.
pub(crate) fn apply(policy: &mut Policy, keeping: &Keeping) {
    // With HAS_GENERATIONS, instead of what follows: policy.service_segments_limit = keeping.generations;
    if let Some(generations) = keeping.generations {
        policy.service_bytes_limit = Some(u64::from(generations) * policy.segment_bytes_limit);
    }
    // With HAS_QUOTAS (and `pub use millpond_sink::ServicePolicy` in the daemon):
    // if let Some((service, bytes)) = &keeping.quota {
    //     let quota = ServicePolicy { bytes_limit: Some(*bytes), ..ServicePolicy::default() };
    //     policy.services.insert(service.clone(), quota);
    // }
}
