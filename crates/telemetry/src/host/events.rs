//! What is published of the host: one struct of fixed layout per kind of event.
//!
//! A number that the kernel does not tell, and a rate of the first sample, is NaN (`null` in JSON). Ratios go from
//! 0 to 1. `sampled_ns` is when the reading was made, real time of the bus's clock, apart from the stamp that the
//! event gets when it is published; `interval_ns` is the time that rates are over, 0 in the first sample.

use millpond_derive::Event;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `host:cpu`: what the processors did, over all of them.
///
/// The five ratios of time add up to 1. Time of virtual machines that run here is in `user_ratio`.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::host::HostCpu::NAME, "host:cpu");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "host:cpu", crate = "millpond_bus")]
pub struct HostCpu {
    /// When it was read, real time.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// Time since the sample before; 0 in the first.
    #[event(unit = "ns")]
    pub interval_ns: u64,
    /// Programs, those of low priority included.
    #[event(unit = "ratio")]
    pub user_ratio: f64,
    /// The kernel, its interrupts included.
    #[event(unit = "ratio")]
    pub system_ratio: f64,
    /// Idle while something waited for a disk.
    #[event(unit = "ratio")]
    pub iowait_ratio: f64,
    /// Taken by the hypervisor for other machines.
    #[event(unit = "ratio")]
    pub steal_ratio: f64,
    /// Idle.
    #[event(unit = "ratio")]
    pub idle_ratio: f64,
    /// How busy (user and system) the busiest of them was: 1 where one thread is the limit, whatever the rest does.
    #[event(unit = "ratio")]
    pub busiest_cpu_ratio: f64,
    /// Tasks that run, want to, or wait for a disk: mean that fades over a minute.
    pub load_1m: f64,
    /// The same over five minutes.
    pub load_5m: f64,
    /// The same over fifteen minutes.
    pub load_15m: f64,
    /// Processors that are online.
    pub cpus: u32,
    /// Tasks that run or want to, now; 0 where unknown.
    pub tasks_runnable: u32,
    /// Tasks (threads) there are; 0 where unknown.
    pub tasks: u32,
    /// Zero.
    pub reserved: u32,
}

/// `host:memory`: what memory is used for.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::host::HostMemory::NAME, "host:memory");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "host:memory", crate = "millpond_bus")]
pub struct HostMemory {
    /// When it was read, real time.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// All there is.
    #[event(unit = "B")]
    pub total_bytes: f64,
    /// What programs can still get without swapping, as the kernel estimates it.
    #[event(unit = "B")]
    pub available_bytes: f64,
    /// Used for nothing at all.
    #[event(unit = "B")]
    pub free_bytes: f64,
    /// Files that are kept in memory, shared memory included.
    #[event(unit = "B")]
    pub cached_bytes: f64,
    /// Shared memory and tmpfs: the rings of every bus are here.
    #[event(unit = "B")]
    pub shmem_bytes: f64,
    /// Waits to be written to disk.
    #[event(unit = "B")]
    pub dirty_bytes: f64,
    /// Is being written to disk.
    #[event(unit = "B")]
    pub writeback_bytes: f64,
    /// Swap there is.
    #[event(unit = "B")]
    pub swap_total_bytes: f64,
    /// Swap in use.
    #[event(unit = "B")]
    pub swap_used_bytes: f64,
}

/// `host:pressure`: how much time was lost waiting (PSI). `some`: at least one task waited; `full`: all did.
///
/// `_ratio` is over the interval since the sample before, `_avg10_ratio` the kernel's mean that fades over 10 s,
/// `_total_ns` the sum since the host was started.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::host::HostPressure::NAME, "host:pressure");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "host:pressure", crate = "millpond_bus")]
pub struct HostPressure {
    /// When it was read, real time.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// Time since the sample before; 0 in the first.
    #[event(unit = "ns")]
    pub interval_ns: u64,
    /// Some waited for a processor, over the interval.
    #[event(unit = "ratio")]
    pub cpu_some_ratio: f64,
    /// The same, over about 10 s.
    #[event(unit = "ratio")]
    pub cpu_some_avg10_ratio: f64,
    /// The same, since the start.
    #[event(unit = "ns")]
    pub cpu_some_total_ns: f64,
    /// All waited for a processor, over the interval: of a whole host always 0.
    #[event(unit = "ratio")]
    pub cpu_full_ratio: f64,
    /// The same, over about 10 s.
    #[event(unit = "ratio")]
    pub cpu_full_avg10_ratio: f64,
    /// The same, since the start.
    #[event(unit = "ns")]
    pub cpu_full_total_ns: f64,
    /// Some waited for memory, over the interval.
    #[event(unit = "ratio")]
    pub memory_some_ratio: f64,
    /// The same, over about 10 s.
    #[event(unit = "ratio")]
    pub memory_some_avg10_ratio: f64,
    /// The same, since the start.
    #[event(unit = "ns")]
    pub memory_some_total_ns: f64,
    /// All waited for memory, over the interval.
    #[event(unit = "ratio")]
    pub memory_full_ratio: f64,
    /// The same, over about 10 s.
    #[event(unit = "ratio")]
    pub memory_full_avg10_ratio: f64,
    /// The same, since the start.
    #[event(unit = "ns")]
    pub memory_full_total_ns: f64,
    /// Some waited for a disk, over the interval.
    #[event(unit = "ratio")]
    pub io_some_ratio: f64,
    /// The same, over about 10 s.
    #[event(unit = "ratio")]
    pub io_some_avg10_ratio: f64,
    /// The same, since the start.
    #[event(unit = "ns")]
    pub io_some_total_ns: f64,
    /// All waited for a disk, over the interval.
    #[event(unit = "ratio")]
    pub io_full_ratio: f64,
    /// The same, over about 10 s.
    #[event(unit = "ratio")]
    pub io_full_avg10_ratio: f64,
    /// The same, since the start.
    #[event(unit = "ns")]
    pub io_full_total_ns: f64,
}

/// `host:disk:<device>`: one block device.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::host::HostDisk::NAME, "host:disk");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "host:disk", crate = "millpond_bus")]
pub struct HostDisk {
    /// When it was read, real time.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// Time since the sample before; 0 in the first.
    #[event(unit = "ns")]
    pub interval_ns: u64,
    /// Bytes read.
    #[event(unit = "B/s")]
    pub read_bytes_per_second: f64,
    /// Bytes written.
    #[event(unit = "B/s")]
    pub write_bytes_per_second: f64,
    /// Reads that were completed.
    #[event(unit = "1/s")]
    pub reads_per_second: f64,
    /// Writes that were completed.
    #[event(unit = "1/s")]
    pub writes_per_second: f64,
    /// Syncs that were completed.
    #[event(unit = "1/s")]
    pub flushes_per_second: f64,
    /// Share of the time in which it had something to do. 1 says little of a disk that does many things at once.
    #[event(unit = "ratio")]
    pub busy_ratio: f64,
    /// How long a read took, in the mean, its time in the queue included; NaN where there was none.
    #[event(unit = "ns")]
    pub read_latency_ns_mean: f64,
    /// How long a write took, as above.
    #[event(unit = "ns")]
    pub write_latency_ns_mean: f64,
    /// Requests that are in it now.
    pub requests_in_flight: u64,
    /// Bytes read since the device came.
    #[event(unit = "B")]
    pub read_bytes_total: u64,
    /// Bytes written since the device came.
    #[event(unit = "B")]
    pub write_bytes_total: u64,
}

/// `host:filesystem:logs`: the file system that the log directory is on.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::host::HostFilesystem::NAME, "host:filesystem");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "host:filesystem", crate = "millpond_bus")]
pub struct HostFilesystem {
    /// When it was read, real time.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// Its size.
    #[event(unit = "B")]
    pub total_bytes: u64,
    /// Used by nobody.
    #[event(unit = "B")]
    pub free_bytes: u64,
    /// What programs without privileges can still write: less than `free_bytes` where some is kept for root.
    #[event(unit = "B")]
    pub available_bytes: u64,
    /// How full it is for those programs, as `df` tells it.
    #[event(unit = "ratio")]
    pub used_ratio: f64,
    /// Files it can hold; NaN where it has no such limit.
    pub files_total: f64,
    /// Files that can still be made; NaN where it has no such limit.
    pub files_free: f64,
    /// 1: it is mounted read-only, which is also what some do after an error.
    pub is_read_only: u64,
}

/// `host:network:<interface>`: one network interface, in the name space that the sampler lives in.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::host::HostNetwork::NAME, "host:network");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "host:network", crate = "millpond_bus")]
pub struct HostNetwork {
    /// When it was read, real time.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// Time since the sample before; 0 in the first.
    #[event(unit = "ns")]
    pub interval_ns: u64,
    /// Bytes received.
    #[event(unit = "B/s")]
    pub rx_bytes_per_second: f64,
    /// Bytes sent.
    #[event(unit = "B/s")]
    pub tx_bytes_per_second: f64,
    /// Packets received.
    #[event(unit = "1/s")]
    pub rx_packets_per_second: f64,
    /// Packets sent.
    #[event(unit = "1/s")]
    pub tx_packets_per_second: f64,
    /// Packets that arrived broken.
    #[event(unit = "1/s")]
    pub rx_errors_per_second: f64,
    /// Packets that could not be sent.
    #[event(unit = "1/s")]
    pub tx_errors_per_second: f64,
    /// Packets that arrived and were thrown away, for want of room or of anybody who wants them.
    #[event(unit = "1/s")]
    pub rx_drops_per_second: f64,
    /// Packets thrown away before they were sent.
    #[event(unit = "1/s")]
    pub tx_drops_per_second: f64,
    /// Bytes received since the interface came.
    #[event(unit = "B")]
    pub rx_bytes_total: u64,
    /// Bytes sent since the interface came.
    #[event(unit = "B")]
    pub tx_bytes_total: u64,
    /// All broken ones since the interface came, both ways.
    pub errors_total: u64,
    /// All thrown away since the interface came, both ways.
    pub drops_total: u64,
}

/// `host:process:<pid>`: a process that publishes to the bus.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::host::HostProcess::NAME, "host:process");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "host:process", crate = "millpond_bus")]
pub struct HostProcess {
    /// When it was read, real time.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// Time since the sample before; 0 in the first.
    #[event(unit = "ns")]
    pub interval_ns: u64,
    /// When the process was started, real time, to a hundredth of a second: with the pid it says who it is.
    #[event(unit = "ns")]
    pub started_ns: u64,
    /// Processor time per time: 2 where two processors are full. In steps of 10 ms per interval.
    #[event(unit = "ratio")]
    pub cpu_ratio: f64,
    /// Processor time since its start, its children not included.
    #[event(unit = "ns")]
    pub cpu_total_ns: u64,
    /// Memory it has touched and still has, shared memory included.
    #[event(unit = "B")]
    pub rss_bytes: u64,
    /// Its threads.
    pub threads: u64,
    /// Its open files and sockets; NaN where we may not look (a process of another user).
    pub fds: f64,
}
