//! The parts of the host, one by one: what is read and what becomes of it.

use std::collections::HashMap;
use std::path::Path;

use procfs::net::{DeviceStatus, InterfaceDeviceStatus};
use procfs::prelude::{FromBufRead, FromRead};
use procfs::{DiskStat, LoadAverage, Meminfo, PressureRecord};
use rustix::fs::{StatVfsMountFlags, major, minor, stat, statvfs};

use super::counters::{Interval, Memory, growth};
use super::events::{HostCpu, HostDisk, HostFilesystem, HostMemory, HostNetwork, HostPressure};
use super::source::{Source, segment};
use super::{DEVICES_MAX, HostTime, Named};

/// What `/proc/diskstats` counts in, whatever the device's own blocks are.
const SECTOR_BYTES: u64 = 512;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_US: f64 = 1000.0;

/// A line `cpu..` of `/proc/stat`, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    user: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

impl Ticks {
    /// `user nice system idle iowait irq softirq steal guest guest_nice`: guests are counted in the first two already.
    fn parse(words: &str) -> Option<Self> {
        let mut column = [0_u64; 8];
        let mut words = words.split_ascii_whitespace();
        for (index, value) in column.iter_mut().enumerate() {
            *value = match words.next() {
                Some(word) => word.parse().ok()?,
                // The first four are in every kernel, the others came one by one.
                None if index >= 4 => break,
                None => return None,
            };
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal] = column;
        Some(Ticks {
            user: user.saturating_add(nice),
            system: system.saturating_add(irq).saturating_add(softirq),
            idle,
            iowait,
            steal,
        })
    }

    /// What each went up by. `iowait` and `idle` of an idle processor may go back by a little: that is no time at all.
    fn since(self, before: Ticks) -> Ticks {
        let up = |now: u64, before: u64| growth(Some(before), now).unwrap_or(0);
        Ticks {
            user: up(self.user, before.user),
            system: up(self.system, before.system),
            idle: up(self.idle, before.idle),
            iowait: up(self.iowait, before.iowait),
            steal: up(self.steal, before.steal),
        }
    }

    fn total(self) -> u64 {
        [self.user, self.system, self.idle, self.iowait, self.steal]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// NaN where no tick has gone by.
    fn share(self, part: u64) -> f64 {
        match self.total() {
            0 => f64::NAN,
            total => part as f64 / total as f64,
        }
    }

    fn busy(self) -> f64 {
        self.share(self.user.saturating_add(self.system))
    }
}

/// Read by ourselves: `procfs` also parses the line of interrupts, which has thousands of words on a large host.
fn parse_stat(text: &str) -> Option<(Ticks, HashMap<u32, Ticks>)> {
    let mut all = None;
    let mut each = HashMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("cpu") else {
            break;
        };
        let (number, words) = rest.split_once(' ')?;
        match number {
            "" => all = Some(Ticks::parse(words)?),
            number => {
                each.insert(number.parse().ok()?, Ticks::parse(words)?);
            }
        }
    }
    Some((all?, each))
}

/// `host:cpu`.
#[derive(Debug, Default)]
pub(super) struct CpuPart {
    before: Option<(u64, Ticks, HashMap<u32, Ticks>)>,
}

impl CpuPart {
    pub(super) fn read(&mut self, source: &Source, time: HostTime) -> Result<HostCpu, String> {
        let text = source.read("stat")?;
        let Some((all, each)) = parse_stat(&text) else {
            return Err(
                "the file stat of procfs has no lines `cpu`: is it this kernel's?".to_owned(),
            );
        };
        // Its absence takes nothing from the rest.
        let load = source.parse("loadavg", |text| LoadAverage::from_read(text));
        let load = load.ok();
        let interval = Interval::since(self.before.as_ref().map(|(ns, ..)| *ns), time.monotonic_ns);
        let (past, busiest) = match &self.before {
            Some((_, before, each_before)) => {
                let busy = each.iter().filter_map(|(number, ticks)| {
                    // One that came online just now has no interval.
                    Some(ticks.since(*each_before.get(number)?).busy())
                });
                // `max` of a number and NaN is the number.
                (all.since(*before), busy.fold(f64::NAN, f64::max))
            }
            None => (Ticks::default(), f64::NAN),
        };
        let cpus = each.len() as u32;
        self.before = Some((time.monotonic_ns, all, each));
        let mean = |pick: fn(&LoadAverage) -> f32| {
            // By its decimal text: 0.07 as f32 is 0.07000000029802322 as f64.
            let value = load.as_ref().map(pick)?;
            value.to_string().parse().ok()
        };
        Ok(HostCpu {
            sampled_ns: time.real_ns,
            interval_ns: interval.ns,
            user_ratio: past.share(past.user),
            system_ratio: past.share(past.system),
            iowait_ratio: past.share(past.iowait),
            steal_ratio: past.share(past.steal),
            idle_ratio: past.share(past.idle),
            busiest_cpu_ratio: busiest,
            load_1m: mean(|load| load.one).unwrap_or(f64::NAN),
            load_5m: mean(|load| load.five).unwrap_or(f64::NAN),
            load_15m: mean(|load| load.fifteen).unwrap_or(f64::NAN),
            cpus,
            tasks_runnable: load.as_ref().map_or(0, |load| load.cur),
            tasks: load.as_ref().map_or(0, |load| load.max),
            reserved: 0,
        })
    }
}

/// `host:memory`.
pub(super) fn memory(source: &Source, time: HostTime) -> Result<HostMemory, String> {
    let info = source.parse("meminfo", |text| Meminfo::from_buf_read(text))?;
    let known = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64);
    Ok(HostMemory {
        sampled_ns: time.real_ns,
        total_bytes: info.mem_total as f64,
        available_bytes: known(info.mem_available),
        free_bytes: info.mem_free as f64,
        cached_bytes: info.cached as f64,
        shmem_bytes: known(info.shmem),
        dirty_bytes: info.dirty as f64,
        writeback_bytes: info.writeback as f64,
        swap_total_bytes: info.swap_total as f64,
        swap_used_bytes: info.swap_total.saturating_sub(info.swap_free) as f64,
    })
}

/// The two lines of a file of `/proc/pressure`. `None`: no such line, as `full` of the processor before Linux 5.13.
#[derive(Debug, Default)]
struct Pressure {
    some: Option<PressureRecord>,
    full: Option<PressureRecord>,
}

impl Pressure {
    fn parse(text: &str) -> Self {
        let record = |word: &str| {
            let line = text.lines().find(|line| {
                // The blank too: the parser takes it for given.
                line.strip_prefix(word)
                    .is_some_and(|rest| rest.starts_with(' '))
            })?;
            procfs::parse_pressure_record(line).ok()
        };
        Pressure {
            some: record("some"),
            full: record("full"),
        }
    }
}

/// `host:pressure`.
#[derive(Debug, Default)]
pub(super) struct PressurePart {
    before_ns: Option<u64>,
    /// Sums in us, in the order of the event.
    before: [Option<u64>; 6],
}

impl PressurePart {
    pub(super) fn read(&mut self, source: &Source, time: HostTime) -> Result<HostPressure, String> {
        let read = |name: &str| source.read(name).map(|text| Pressure::parse(&text));
        let [cpu, memory, io] = ["pressure/cpu", "pressure/memory", "pressure/io"].map(read);
        let is_nothing = |read: &Result<Pressure, String>| !matches!(read, Ok(read) if read.some.is_some() || read.full.is_some());
        if [&cpu, &memory, &io].into_iter().all(is_nothing) {
            self.before_ns = None;
            let why = "the files of pressure are empty".to_owned();
            return Err(cpu.err().unwrap_or(why));
        }
        let [cpu, memory, io] = [cpu, memory, io].map(Result::unwrap_or_default);
        let records = [
            cpu.some,
            cpu.full,
            memory.some,
            memory.full,
            io.some,
            io.full,
        ];
        let interval =
            Interval::since(self.before_ns.replace(time.monotonic_ns), time.monotonic_ns);
        let totals = records
            .each_ref()
            .map(|record| record.as_ref().map(|record| record.total));
        let before = std::mem::replace(&mut self.before, totals);
        let ratio = |index: usize| {
            totals[index].map_or(f64::NAN, |total| {
                let ns = |us: u64| us.saturating_mul(NS_PER_US as u64);
                let before = before[index].filter(|_| interval.ns > 0);
                interval.share(before.map(ns), ns(total))
            })
        };
        let avg10 = |index: usize| {
            let record: Option<&PressureRecord> = records[index].as_ref();
            // The kernel tells hundredths of a percent: round to them, since f32 does not hold them.
            record.map_or(f64::NAN, |record| {
                (f64::from(record.avg10) * 100.0).round() / 1e4
            })
        };
        let total = |index: usize| totals[index].map_or(f64::NAN, |total| total as f64 * NS_PER_US);
        Ok(HostPressure {
            sampled_ns: time.real_ns,
            interval_ns: interval.ns,
            cpu_some_ratio: ratio(0),
            cpu_some_avg10_ratio: avg10(0),
            cpu_some_total_ns: total(0),
            cpu_full_ratio: ratio(1),
            cpu_full_avg10_ratio: avg10(1),
            cpu_full_total_ns: total(1),
            memory_some_ratio: ratio(2),
            memory_some_avg10_ratio: avg10(2),
            memory_some_total_ns: total(2),
            memory_full_ratio: ratio(3),
            memory_full_avg10_ratio: avg10(3),
            memory_full_total_ns: total(3),
            io_some_ratio: ratio(4),
            io_some_avg10_ratio: avg10(4),
            io_some_total_ns: total(4),
            io_full_ratio: ratio(5),
            io_full_avg10_ratio: avg10(5),
            io_full_total_ns: total(5),
        })
    }
}

/// The counters of a disk that become rates.
#[derive(Debug, Clone, Copy)]
struct DiskCounters {
    reads: u64,
    writes: u64,
    flushes: Option<u64>,
    read_bytes: u64,
    write_bytes: u64,
    read_ns: u64,
    write_ns: u64,
    busy_ns: u64,
}

/// `host:disk:<device>`.
#[derive(Debug, Default)]
pub(super) struct DisksPart {
    memory: Memory<String, DiskCounters>,
}

impl DisksPart {
    /// `logs_device` is told even where its kind is not.
    pub(super) fn read(
        &mut self,
        source: &Source,
        time: HostTime,
        logs_device: Option<(u32, u32)>,
        disks: &mut Vec<Named<HostDisk>>,
    ) -> Result<(), String> {
        let text = source.read("diskstats")?;
        let mut left_out = 0;
        let mut broken = None;
        for line in text.lines() {
            let Ok(disk) = DiskStat::from_line(line) else {
                broken = Some(line);
                continue;
            };
            let is_logs = logs_device == Some((disk.major as u32, disk.minor as u32));
            if !is_logs && !is_told(source, &disk) {
                continue;
            }
            if disks.len() >= DEVICES_MAX {
                left_out += 1;
                continue;
            }
            let event = self.event(&disk, time);
            let name = format!("host:disk:{}", segment(&disk.name));
            disks.push(Named { name, event });
        }
        self.memory.turn();
        disks.sort_by(|a, b| a.name.cmp(&b.name));
        match broken {
            Some(line) => Err(format!(
                "a line of diskstats cannot be understood: {line:?}"
            )),
            None => told(left_out, DEVICES_MAX, "disks"),
        }
    }

    fn event(&mut self, disk: &DiskStat, time: HostTime) -> HostDisk {
        let counters = DiskCounters {
            reads: disk.reads,
            writes: disk.writes,
            flushes: disk.flushes,
            read_bytes: disk.sectors_read.saturating_mul(SECTOR_BYTES),
            write_bytes: disk.sectors_written.saturating_mul(SECTOR_BYTES),
            read_ns: disk.time_reading.saturating_mul(NS_PER_MS),
            write_ns: disk.time_writing.saturating_mul(NS_PER_MS),
            busy_ns: disk.time_in_progress.saturating_mul(NS_PER_MS),
        };
        let key = disk.name.clone();
        let (before, interval) = (self.memory).replace(key, time.monotonic_ns, counters);
        let was = |pick: fn(&DiskCounters) -> u64| before.as_ref().map(pick);
        let latency = |took: fn(&DiskCounters) -> u64, done: fn(&DiskCounters) -> u64| {
            let took = growth(was(took), took(&counters));
            let done = growth(was(done), done(&counters)).filter(|&done| done > 0);
            match (took, done) {
                (Some(took), Some(done)) => took as f64 / done as f64,
                _ => f64::NAN,
            }
        };
        let rate = |pick: fn(&DiskCounters) -> u64| interval.per_second(was(pick), pick(&counters));
        let flushes_before = before.and_then(|before| before.flushes);
        HostDisk {
            sampled_ns: time.real_ns,
            interval_ns: interval.ns,
            read_bytes_per_second: rate(|it| it.read_bytes),
            write_bytes_per_second: rate(|it| it.write_bytes),
            reads_per_second: rate(|it| it.reads),
            writes_per_second: rate(|it| it.writes),
            flushes_per_second: counters.flushes.map_or(f64::NAN, |flushes| {
                interval.per_second(flushes_before, flushes)
            }),
            busy_ratio: interval.share(was(|it| it.busy_ns), counters.busy_ns),
            read_latency_ns_mean: latency(|it| it.read_ns, |it| it.reads),
            write_latency_ns_mean: latency(|it| it.write_ns, |it| it.writes),
            requests_in_flight: disk.in_progress,
            read_bytes_total: counters.read_bytes,
            write_bytes_total: counters.write_bytes,
        }
    }
}

/// A disk, and one that was ever used: see the module's front page.
fn is_told(source: &Source, disk: &DiskStat) -> bool {
    let is_used = disk.reads > 0 || disk.writes > 0;
    let is_file = ["loop", "ram"]
        .iter()
        .filter_map(|kind| disk.name.strip_prefix(kind))
        .any(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    // sysfs writes `!` for the `/` of names such as cciss/c0d0.
    let in_sysfs = || {
        source
            .sys_dir
            .join("class/block")
            .join(disk.name.replace('/', "!"))
    };
    is_used && !is_file && !in_sysfs().join("partition").exists()
}

/// The device that a directory's file system is on, as numbers; `None` also for one that is on no device (tmpfs).
pub(super) fn device_of(dir: &Path) -> Option<(u32, u32)> {
    let device = stat(dir).ok()?.st_dev;
    (major(device) != 0).then(|| (major(device), minor(device)))
}

/// `host:filesystem:logs`.
pub(super) fn filesystem(dir: &Path, time: HostTime) -> Result<HostFilesystem, String> {
    let stat = statvfs(dir).map_err(|error| {
        let shown = dir.display();
        format!("the free space of {shown} is not known: {error}; is it the log directory?")
    })?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    // As `df`: what only root may use counts neither as used nor as free.
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let usable = used.saturating_add(stat.f_bavail);
    let ratio = match usable {
        0 => f64::NAN,
        usable => used as f64 / usable as f64,
    };
    let files = |count: u64| match stat.f_files {
        0 => f64::NAN,
        _ => count as f64,
    };
    Ok(HostFilesystem {
        sampled_ns: time.real_ns,
        total_bytes: bytes(stat.f_blocks),
        free_bytes: bytes(stat.f_bfree),
        available_bytes: bytes(stat.f_bavail),
        used_ratio: ratio,
        files_total: files(stat.f_files),
        files_free: files(stat.f_ffree),
        is_read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY).into(),
    })
}

/// The counters of an interface that become rates.
#[derive(Debug, Clone, Copy)]
struct NetworkCounters {
    bytes: [u64; 2],
    packets: [u64; 2],
    errors: [u64; 2],
    drops: [u64; 2],
}

/// `host:network:<interface>`.
#[derive(Debug, Default)]
pub(super) struct NetworkPart {
    memory: Memory<String, NetworkCounters>,
}

impl NetworkPart {
    pub(super) fn read(
        &mut self,
        source: &Source,
        time: HostTime,
        networks: &mut Vec<Named<HostNetwork>>,
    ) -> Result<(), String> {
        // `net` is a link to `self/net`: the interfaces of our own name space.
        let read = source.parse("net/dev", |text| InterfaceDeviceStatus::from_buf_read(text))?;
        let mut interfaces: Vec<DeviceStatus> = read.0.into_values().collect();
        interfaces.retain(|it| {
            let is_used = it.recv_packets > 0 || it.sent_packets > 0;
            is_used && !it.name.starts_with("veth")
        });
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        let left_out = interfaces.len().saturating_sub(DEVICES_MAX);
        interfaces.truncate(DEVICES_MAX);
        for interface in interfaces {
            let name = format!("host:network:{}", segment(&interface.name));
            let event = self.event(interface, time);
            networks.push(Named { name, event });
        }
        self.memory.turn();
        told(left_out, DEVICES_MAX, "network interfaces")
    }

    fn event(&mut self, it: DeviceStatus, time: HostTime) -> HostNetwork {
        let counters = NetworkCounters {
            bytes: [it.recv_bytes, it.sent_bytes],
            packets: [it.recv_packets, it.sent_packets],
            errors: [it.recv_errs, it.sent_errs],
            drops: [it.recv_drop, it.sent_drop],
        };
        let (before, interval) = (self.memory).replace(it.name, time.monotonic_ns, counters);
        let rate = |pick: fn(&NetworkCounters) -> u64| {
            interval.per_second(before.as_ref().map(pick), pick(&counters))
        };
        let sum = |both: [u64; 2]| both[0].saturating_add(both[1]);
        HostNetwork {
            sampled_ns: time.real_ns,
            interval_ns: interval.ns,
            rx_bytes_per_second: rate(|it| it.bytes[0]),
            tx_bytes_per_second: rate(|it| it.bytes[1]),
            rx_packets_per_second: rate(|it| it.packets[0]),
            tx_packets_per_second: rate(|it| it.packets[1]),
            rx_errors_per_second: rate(|it| it.errors[0]),
            tx_errors_per_second: rate(|it| it.errors[1]),
            rx_drops_per_second: rate(|it| it.drops[0]),
            tx_drops_per_second: rate(|it| it.drops[1]),
            rx_bytes_total: counters.bytes[0],
            tx_bytes_total: counters.bytes[1],
            errors_total: sum(counters.errors),
            drops_total: sum(counters.drops),
        }
    }
}

/// An error where some were left out.
pub(super) fn told(left_out: usize, limit: usize, things: &str) -> Result<(), String> {
    match left_out {
        0 => Ok(()),
        left_out => Err(format!(
            "{left_out} {things} are not told: at most {limit} are"
        )),
    }
}
