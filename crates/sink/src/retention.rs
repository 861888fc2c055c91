//! Which closed segments go, and when.
//!
//! First each service pays for itself: what is over its own bytes, count or age goes, oldest first. What is over the
//! cap of all, or needed to keep the file system's floor free, comes from the oldest closed segments of all, whoever
//! has them: a service that is over its quota has paid before. Open segments never go. One that is being
//! sealed is given up first. One that a reader holds stays at most as long as the policy says.

use std::path::Path;
use std::time::Instant;

use millpond_bus::ServiceDisk;
use millpond_logfile::SegmentId;

use crate::lifecycle::{
    Catalog, Segment, ServiceSegments, State, disk_bytes, is_held, remove_files,
};
use crate::policy::Policy;
use crate::unsynced::Key;

/// Now, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    /// Real time, as lines have it.
    pub(crate) ns: u64,
}

/// What a trim is to make room for, beyond the limits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// Bytes that are about to be written: they count against the cap already.
    pub(crate) room_bytes: u64,
    /// Bytes of the file system to be freed, whatever the limits say.
    pub(crate) free_bytes: u64,
}

/// What a trim did.
#[derive(Debug, Default)]
pub(crate) struct Trimmed {
    /// What is gone.
    pub(crate) segments: Vec<Key>,
    pub(crate) bytes: u64,
    /// A segment that should have gone and could not.
    pub(crate) failures: u64,
    /// Everything fits now.
    pub(crate) enough: bool,
}

impl Catalog {
    /// Removes segments until the limits are kept and there is what is wanted, or nothing may go any more.
    pub(crate) fn trim(
        &mut self,
        logs_dir: &Path,
        policy: &Policy,
        wanted: Wanted,
        now: Now,
        stop_sealing: &mut dyn FnMut(),
    ) -> Trimmed {
        let mut trimmed = Trimmed::default();
        loop {
            let own = self.services.iter().find_map(|(service, of_service)| {
                let oldest = of_service.oldest_closed(now.at)?;
                (of_service.is_over(oldest, now.ns)).then(|| (service.clone(), oldest))
            });
            let is_over = self.is_over(policy, wanted.room_bytes);
            let victim = own.or_else(|| {
                let wants = is_over || trimmed.bytes < wanted.free_bytes;
                wants.then(|| self.oldest_closed(now.at))?
            });
            let Some((service, id)) = victim else {
                trimmed.enough = !is_over && trimmed.bytes >= wanted.free_bytes;
                return trimmed;
            };
            let is_sealing = (self.get(&service, id))
                .is_some_and(|segment| matches!(segment.state, State::Sealing { .. }));
            if is_sealing {
                stop_sealing();
                self.end_sealing(logs_dir, policy, &service, id);
            }
            self.try_to_remove(logs_dir, policy, &service, id, now.at, &mut trimmed);
        }
    }

    fn is_over(&self, policy: &Policy, room_bytes: u64) -> bool {
        (policy.total_bytes_limit)
            .is_some_and(|limit| self.total_bytes.saturating_add(room_bytes) > limit)
    }

    /// Whether `room_bytes` more would keep the cap over all, without looking at anything else.
    pub(crate) fn has_room(&self, policy: &Policy, room_bytes: u64) -> bool {
        !self.is_over(policy, room_bytes)
    }

    /// The oldest segment of all that may go.
    fn oldest_closed(&self, now: Instant) -> Option<(String, SegmentId)> {
        let oldest = self
            .services
            .iter()
            .filter_map(|(service, of_service)| Some((of_service.oldest_closed(now)?, service)));
        oldest.min().map(|(id, service)| (service.clone(), id))
    }

    /// The sealer has stopped, wherever it was: the segment is what its files are.
    fn end_sealing(&mut self, logs_dir: &Path, policy: &Policy, service: &str, id: SegmentId) {
        if let Some(segment) = self.forget(service, id) {
            let ended = Segment {
                state: State::Closed,
                disk_bytes: disk_bytes(&logs_dir.join(service), id),
                ..segment
            };
            self.set(policy, service, id, ended);
        }
    }

    fn try_to_remove(
        &mut self,
        logs_dir: &Path,
        policy: &Policy,
        service: &str,
        id: SegmentId,
        now: Instant,
        trimmed: &mut Trimmed,
    ) {
        let dir = logs_dir.join(service);
        let Some(segment) = self.get_mut(service, id) else {
            return;
        };
        if is_held(&dir, id) {
            let since = *segment.held_since.get_or_insert(now);
            if now.duration_since(since) < policy.hold_limit {
                segment.put_off(now);
                return;
            }
        }
        if remove_files(&dir, id).is_err() {
            // The others go meanwhile.
            segment.fail(now);
            trimmed.failures += 1;
            return;
        }
        if let Some(segment) = self.forget(service, id) {
            trimmed.segments.push((service.to_owned(), id));
            trimmed.bytes += segment.disk_bytes;
            kill_point!("remove.segment_gone");
        }
    }
}

impl ServiceSegments {
    /// What it has of the disk, and its own limits.
    pub(crate) fn disk_use(&self) -> ServiceDisk {
        let limits = &self.limits;
        let age_limit_ns = limits.retain_age.map(|age| age.as_nanos());
        ServiceDisk {
            bytes: self.bytes,
            bytes_limit: limits.bytes,
            segments: self.segments.len() as u64,
            segments_limit: limits.segments.map(u64::from),
            age_limit_ns: age_limit_ns.map(|ns| u64::try_from(ns).unwrap_or(u64::MAX - 1)),
        }
    }

    /// Its oldest segment that may go. One that is being sealed may: were it passed over, what is kept would have a
    /// hole behind it.
    fn oldest_closed(&self, now: Instant) -> Option<SegmentId> {
        let closed = self
            .segments
            .iter()
            .find(|(_, segment)| segment.state != State::Open && segment.is_ready(now));
        closed.map(|(&id, _)| id)
    }

    /// Whether the service is over a limit of its own, which `oldest` has to pay for.
    fn is_over(&self, oldest: SegmentId, now_ns: u64) -> bool {
        let limits = &self.limits;
        let last_ns = self
            .segments
            .get(&oldest)
            .map_or(0, |segment| segment.last_ns);
        let age_ns = u128::from(now_ns.saturating_sub(last_ns));
        limits.bytes.is_some_and(|limit| self.bytes > limit)
            || (limits.segments).is_some_and(|limit| self.segments.len() > limit as usize)
            || (limits.retain_age).is_some_and(|limit| age_ns > limit.as_nanos())
    }
}
