//! What a process has used so far, as it tells itself: from outside its processor time is known to 10 ms, and that of
//! threads which have ended not at all.

use millpond_loadgen::{Error, process_cpu_ns};
use serde::{Deserialize, Serialize};

/// Of one process, or of several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Processor time of all threads, in ns.
    pub(crate) cpu_ns: u64,
    /// Greatest resident memory so far, in bytes, pages shared with others included.
    pub(crate) memory_bytes: u64,
}

impl Usage {
    /// Of this process, until now.
    ///
    /// # Errors
    /// Where /proc does not tell.
    pub(crate) fn own() -> Result<Self, Error> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let mut lines = status.lines();
        let greatest = lines
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok())
            .ok_or_else(|| Error::new("/proc/self/status has no VmHWM in kB"))?;
        Ok(Usage {
            cpu_ns: process_cpu_ns(),
            memory_bytes: greatest * 1024,
        })
    }

    /// The processor time since `before`; memory as it is now.
    pub(crate) fn since(self, before: Usage) -> Self {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            ..self
        }
    }

    /// Processor time in s.
    pub(crate) fn cpu_seconds(self) -> f64 {
        self.cpu_ns as f64 / 1e9
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Usage>>(all: I) -> Self {
        all.fold(Usage::default(), |sum, one| Usage {
            cpu_ns: sum.cpu_ns + one.cpu_ns,
            memory_bytes: sum.memory_bytes + one.memory_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_and_memory() {
        let before = Usage::own().expect("/proc tells");
        let filled = vec![7u8; 32 << 20];
        assert_eq!(
            filled.iter().map(|&byte| u64::from(byte)).sum::<u64>(),
            7 << 25
        );
        let after = Usage::own().expect("/proc tells");
        assert!(after.since(before).cpu_ns > 0);
        assert!(after.memory_bytes >= 32 << 20);
        let sum: Usage = [after, after].into_iter().sum();
        assert_eq!(sum.memory_bytes, 2 * after.memory_bytes);
    }
}
