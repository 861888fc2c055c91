//! The host: processor, memory, pressure, disks, network, and the processes of attached publishers.
//!
//! [`Host::sample`] reads `/proc` and gives events of fixed layout ([`HostCpu`] and its siblings) to whoever publishes
//! them. Nothing here publishes, sleeps, or keeps a thread. What cannot be read is a [`HostTrouble`] in the sample and
//! never an error: the other parts are there all the same, and the next sample tries again.
//!
//! # Rates
//! A rate is over the time since the sample before of the same thing, so the first sample of each has NaN in its
//! place, also that of a disk that was plugged in a moment ago. Where a counter went back (the device was taken out
//! and another of its name put in, a driver was loaded anew) the interval says nothing: NaN for that counter, once.
//!
//! # What is bounded
//! At most [`DEVICES_MAX`] disks, as many interfaces, and [`PROCESSES_MAX`] processes are told; that some were left out is
//! a [`HostTrouble`]. Partitions, `loop` and `ram` devices, disks and interfaces that were never used, and the `veth`
//! ends of containers are left out without a word, since on some hosts there are hundreds of them and their names never
//! come back; the device that the logs are on is told whatever it is. A file longer than 16 MiB is not read.

mod counters;
mod events;
mod options;
mod parts;
mod processes;
mod source;
#[cfg(test)]
mod tests;

use millpond_bus::Clock;

pub use events::{
    HostCpu, HostDisk, HostFilesystem, HostMemory, HostNetwork, HostPressure, HostProcess,
};
pub use options::{HostOptions, HostParts};
pub use processes::HostPublisher;

use parts::{CpuPart, DisksPart, NetworkPart, PressurePart};
use processes::ProcessesPart;
use source::Source;

/// The most disks that are told, and the most network interfaces.
pub const DEVICES_MAX: usize = 64;
/// The most processes that are told.
pub const PROCESSES_MAX: usize = 256;

/// When a sample is made.
///
/// ```
/// use millpond_telemetry::host::HostTime;
/// let time = HostTime { real_ns: 1_700_000_000_000_000_000, monotonic_ns: 5_000_000_000 };
/// assert!(time.real_ns > time.monotonic_ns);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostTime {
    /// Real time of the bus's clock: it becomes `sampled_ns`, and is compared with the stamps of events.
    pub real_ns: u64,
    /// Time that no setting of the clock moves: intervals are differences of it.
    pub monotonic_ns: u64,
}

impl HostTime {
    /// Now. One system call, or none where the kernel's page of times serves it.
    ///
    /// ```
    /// # use millpond_bus::{Bus, BusOptions};
    /// use millpond_telemetry::host::HostTime;
    /// # let bus = Bus::attach(&format!("doc-host-time-{}", std::process::id()), &BusOptions::default())?;
    /// let clock = bus.clock();
    /// let (earlier, later) = (HostTime::now(&clock), HostTime::now(&clock));
    /// assert!(earlier.real_ns <= later.real_ns && earlier.monotonic_ns <= later.monotonic_ns);
    /// # bus.remove()?;
    /// # Ok::<(), millpond_bus::Error>(())
    /// ```
    pub fn now(clock: &Clock) -> Self {
        HostTime {
            real_ns: clock.now_ns(),
            monotonic_ns: crate::time::monotonic_ns(),
        }
    }
}

/// An event with the name that it is published under, such as `host:disk:nvme0n1`.
///
/// ```
/// use millpond_telemetry::host::Named;
/// let named = Named { name: "host:disk:sda".to_owned(), event: 7 };
/// assert_eq!(named.event, 7);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Named<T> {
    /// The name of the event. What a device is called is in it, with `_` for what a name of an event cannot hold.
    pub name: String,
    /// The event.
    pub event: T,
}

/// Something that could not be read, or not wholly.
///
/// ```
/// use millpond_telemetry::host::HostTrouble;
/// let trouble = HostTrouble { thing: "host:pressure".to_owned(), reason: "..".to_owned() };
/// assert_eq!(trouble.thing, "host:pressure");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTrouble {
    /// What is missing: `host:cpu`, `host:memory`, `host:pressure`, `host:disks`, `host:filesystem:logs`,
    /// `host:networks`, `host:processes`. One trouble for each at most.
    pub thing: String,
    /// Why, and what helps.
    pub reason: String,
}

/// What [`Host::sample`] found. Parts that were not asked for, or could not be read, are empty.
///
/// ```
/// let nothing = millpond_telemetry::host::HostSample::default();
/// assert!(nothing.cpu.is_none() && nothing.disks.is_empty() && nothing.troubles.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostSample {
    /// `host:cpu`.
    pub cpu: Option<HostCpu>,
    /// `host:memory`.
    pub memory: Option<HostMemory>,
    /// `host:pressure`.
    pub pressure: Option<HostPressure>,
    /// `host:disk:<device>`, by name.
    pub disks: Vec<Named<HostDisk>>,
    /// `host:filesystem:logs`.
    pub filesystem: Option<HostFilesystem>,
    /// `host:network:<interface>`, by name.
    pub networks: Vec<Named<HostNetwork>>,
    /// `host:process:<pid>`, by pid. Those that are gone are not in it.
    pub processes: Vec<Named<HostProcess>>,
    /// What could not be read. Everything that is not in here is well.
    pub troubles: Vec<HostTrouble>,
}

impl HostSample {
    fn trouble(&mut self, thing: &str, reason: String) {
        self.troubles.push(HostTrouble {
            thing: thing.to_owned(),
            reason,
        });
    }

    /// The value, or a trouble in its place.
    fn take<T>(&mut self, thing: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|reason| self.trouble(thing, reason)).ok()
    }
}

/// Reads the host. Keeps the counters of the sample before, for rates.
///
/// ```
/// use millpond_telemetry::host::{Host, HostOptions, HostParts, HostTime};
/// let mut host = Host::new(HostOptions::default());
/// let time = |seconds: u64| HostTime { real_ns: seconds * 1_000_000_000, monotonic_ns: seconds * 1_000_000_000 };
/// let first = host.sample(time(1), HostParts::ALL, &[]);
/// let second = host.sample(time(2), HostParts::ALL, &[]);
/// let (Some(first), Some(second)) = (first.cpu, second.cpu) else { return };
/// assert!(first.user_ratio.is_nan());
/// assert_eq!(second.interval_ns, 1_000_000_000);
/// ```
#[derive(Debug)]
pub struct Host {
    source: Source,
    options: HostOptions,
    cpu: CpuPart,
    pressure: PressurePart,
    disks: DisksPart,
    networks: NetworkPart,
    processes: ProcessesPart,
}

impl Host {
    /// A reader that has seen nothing yet. Opens nothing.
    pub fn new(options: HostOptions) -> Self {
        Host {
            source: Source::new(&options),
            options,
            cpu: CpuPart::default(),
            pressure: PressurePart::default(),
            disks: DisksPart::default(),
            networks: NetworkPart::default(),
            processes: ProcessesPart::default(),
        }
    }

    /// Reads `parts` of the host, and the processes among `publishers`.
    ///
    /// A part that is asked for less often than another keeps its own interval. Opens and reads about ten files, and
    /// three for each process; `/proc/stat` is the dear one where there are hundreds of processors. Blocks where the
    /// file system of the log directory does (a dead network mount); `/proc` never does.
    pub fn sample(
        &mut self,
        time: HostTime,
        parts: HostParts,
        publishers: &[HostPublisher],
    ) -> HostSample {
        let mut sample = HostSample::default();
        if parts.cpu {
            let read = self.cpu.read(&self.source, time);
            sample.cpu = sample.take("host:cpu", read);
        }
        if parts.memory {
            let read = parts::memory(&self.source, time);
            sample.memory = sample.take("host:memory", read);
        }
        if parts.pressure {
            let read = self.pressure.read(&self.source, time);
            sample.pressure = sample.take("host:pressure", read);
        }
        if parts.disks {
            let logs_dir = self.options.logs_dir.as_deref();
            let logs_device = logs_dir.and_then(parts::device_of);
            if let Err(reason) = self
                .disks
                .read(&self.source, time, logs_device, &mut sample.disks)
            {
                sample.trouble("host:disks", reason);
            }
            if let Some(logs_dir) = logs_dir {
                let read = parts::filesystem(logs_dir, time);
                sample.filesystem = sample.take("host:filesystem:logs", read);
            }
        }
        if parts.networks
            && let Err(reason) = self.networks.read(&self.source, time, &mut sample.networks)
        {
            sample.trouble("host:networks", reason);
        }
        if parts.processes
            && let Err(reason) =
                (self.processes).read(&self.source, time, publishers, &mut sample.processes)
        {
            sample.trouble("host:processes", reason);
        }
        sample
    }
}
