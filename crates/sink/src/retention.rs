//! Which closed segments go, and when.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use millpond_logfile::SegmentId;

use crate::policy::Policy;

/// All segments of a directory and their sizes. The newest of a service is its open one.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    services: BTreeMap<String, BTreeMap<SegmentId, u64>>,
}

/// What a trim removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
}

impl Catalog {
    /// Notes how long a segment is.
    pub(crate) fn set(&mut self, service: &str, id: SegmentId, bytes: u64) {
        match self.services.get_mut(service) {
            Some(segments) => {
                segments.insert(id, bytes);
            }
            None => {
                self.services
                    .insert(service.to_owned(), BTreeMap::from([(id, bytes)]));
            }
        }
    }

    fn service_bytes(&self, service: &str) -> u64 {
        self.services
            .get(service)
            .map_or(0, |segments| segments.values().sum())
    }

    fn total_bytes(&self) -> u64 {
        self.services.values().flat_map(BTreeMap::values).sum()
    }

    /// The oldest closed segment of one service.
    fn oldest_closed(&self, service: &str) -> Option<SegmentId> {
        let segments = self.services.get(service)?;
        (segments.len() > 1).then(|| segments.keys().next().copied())?
    }

    /// The next segment that the policy wants gone.
    fn next_victim(&self, policy: &Policy) -> Option<(String, SegmentId)> {
        if let Some(limit) = policy.service_bytes_limit {
            let over = self.services.keys().find_map(|service| {
                let victim = self.oldest_closed(service)?;
                (self.service_bytes(service) > limit).then(|| (service.clone(), victim))
            });
            if over.is_some() {
                return over;
            }
        }
        let limit = policy.total_bytes_limit?;
        if self.total_bytes() <= limit {
            return None;
        }
        let closed = self
            .services
            .keys()
            .filter_map(|service| Some((self.oldest_closed(service)?, service)));
        closed
            .min()
            .map(|(victim, service)| (service.clone(), victim))
    }

    /// Removes segments until the policy is satisfied. The text goes first: an index without text is
    /// removed at the next open, a text without index would only be slow.
    pub(crate) fn trim(&mut self, logs_dir: &Path, policy: &Policy) -> io::Result<Trimmed> {
        let mut trimmed = Trimmed::default();
        while let Some((service, victim)) = self.next_victim(policy) {
            let dir = logs_dir.join(&service);
            for path in [victim.log_path(&dir), victim.index_path(&dir)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            if let Some(bytes) = self
                .services
                .get_mut(&service)
                .and_then(|segments| segments.remove(&victim))
            {
                trimmed.segments += 1;
                trimmed.bytes += bytes;
            }
        }
        Ok(trimmed)
    }
}
