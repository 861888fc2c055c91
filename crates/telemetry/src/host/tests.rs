//! The host as it is, against readings of it that are made in another way; and hosts that are made of files, where every
//! number is known: rates, counters that go back, devices that come and go, files that are missing.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use millpond_bus::{Bus, BusOptions, EventLayout, Publisher};
use rustix::time::{ClockId, clock_gettime};

use super::*;

const SECOND_NS: u64 = 1_000_000_000;

fn at(monotonic_ns: u64) -> HostTime {
    HostTime {
        real_ns: 1_700_000_000 * SECOND_NS + monotonic_ns,
        monotonic_ns,
    }
}

fn now() -> HostTime {
    let ns = |clock: ClockId| {
        let time = clock_gettime(clock);
        time.tv_sec as u64 * SECOND_NS + time.tv_nsec as u64
    };
    HostTime {
        real_ns: ns(ClockId::Realtime),
        monotonic_ns: ns(ClockId::Monotonic),
    }
}

/// A number of a file of lines `name: number`.
fn line_number(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).expect("the file");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).expect("the line")
}

fn only<T>(troubles: &[HostTrouble], thing: &str, found: T) -> T {
    let others: Vec<_> = troubles.iter().filter(|it| it.thing != thing).collect();
    assert!(others.is_empty(), "{others:?}");
    found
}

/// A host of files.
struct Files {
    place: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        for dir in ["proc/net", "proc/pressure", "sys/class/block"] {
            fs::create_dir_all(place.path().join(dir)).expect("a directory");
        }
        Files { place }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn host(&self) -> Host {
        Host::new(HostOptions {
            proc_dir: self.path("proc"),
            sys_dir: self.path("sys"),
            logs_dir: None,
        })
    }

    /// As the kernel writes it: `reads sectors ms` of reading and of writing, ms busy, flushes.
    fn disks(&self, disks: &[(&str, [u64; 8])]) {
        let lines = disks.iter().enumerate().map(|(minor, (name, it))| {
            let [reads, read, read_ms, writes, written, write_ms, busy_ms, flushes] = it;
            format!(
                " 259 {minor} {name} {reads} 0 {read} {read_ms} {writes} 0 {written} {write_ms} 2 {busy_ms} 0 0 0 0 0 \
                 {flushes} 0\n"
            )
        });
        self.put("proc/diskstats", &lines.collect::<String>());
    }

    fn networks(&self, interfaces: &[(&str, [u64; 8])]) {
        let mut text = "Inter-| Receive\n face |bytes\n".to_owned();
        for (name, it) in interfaces {
            let [
                rx,
                rx_packets,
                rx_errors,
                rx_drops,
                tx,
                tx_packets,
                tx_errors,
                tx_drops,
            ] = it;
            text += &format!(
                "{name:>6}: {rx} {rx_packets} {rx_errors} {rx_drops} 0 0 0 0 {tx} {tx_packets} {tx_errors} {tx_drops} \
                 0 0 0 0\n"
            );
        }
        self.put("proc/net/dev", &text);
    }

    /// `proc/PID/stat` of a process that was started so many ticks after the host.
    fn process(&self, pid: u32, started_ticks: u64, cpu_ticks: u64) {
        let zeros = "0 ".repeat(28);
        let text = format!(
            "{pid} (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 {cpu_ticks} 0 0 0 20 0 3 0 {started_ticks} 9 7 {zeros}0\n"
        );
        self.put(&format!("proc/{pid}/stat"), &text);
        self.put(&format!("proc/{pid}/fd/0"), "");
    }
}

const DISKS: HostParts = HostParts {
    disks: true,
    ..HostParts::NONE
};
const NETWORKS: HostParts = HostParts {
    networks: true,
    ..HostParts::NONE
};
const PROCESSES: HostParts = HostParts {
    processes: true,
    ..HostParts::NONE
};
const CPU: HostParts = HostParts {
    cpu: true,
    ..HostParts::NONE
};
const PRESSURE: HostParts = HostParts {
    pressure: true,
    ..HostParts::NONE
};
const MEMORY: HostParts = HostParts {
    memory: true,
    ..HostParts::NONE
};

#[test]
fn every_layout_is_one_that_a_bus_takes() {
    fn check<T: EventLayout>(publisher: &mut Publisher) {
        let topic = publisher.event_topic::<T>();
        topic.unwrap_or_else(|error| panic!("{}: {error}", T::NAME));
        let schema = T::schema();
        assert_eq!(schema.size_bytes as usize, size_of::<T>());
        // Units are in the names, and said as such.
        for field in &schema.fields {
            let unit = match () {
                _ if field.name.ends_with("_bytes_per_second") => Some("B/s"),
                _ if field.name.ends_with("_per_second") => Some("1/s"),
                _ if field.name.ends_with("_ns") || field.name.ends_with("_ns_mean") => Some("ns"),
                _ if field.name.ends_with("_ratio") => Some("ratio"),
                _ if field.name.ends_with("_bytes") || field.name.ends_with("_bytes_total") => {
                    Some("B")
                }
                _ => None,
            };
            assert_eq!(field.unit.as_deref(), unit, "{}: {}", T::NAME, field.name);
        }
    }
    let name = format!("telemetry-layouts-{}", std::process::id());
    let bus = Bus::attach(&name, &BusOptions::default()).expect("a bus");
    let mut publisher = bus.publisher("host").expect("a publisher");
    check::<HostCpu>(&mut publisher);
    check::<HostMemory>(&mut publisher);
    check::<HostPressure>(&mut publisher);
    check::<HostDisk>(&mut publisher);
    check::<HostFilesystem>(&mut publisher);
    check::<HostNetwork>(&mut publisher);
    check::<HostProcess>(&mut publisher);
    drop(publisher);
    bus.remove().expect("it is ours");
}

#[test]
fn this_host_is_told_as_its_kernel_tells_it_elsewhere() {
    let logs = tempfile::tempdir().expect("a directory");
    let mut host = Host::new(HostOptions {
        logs_dir: Some(logs.path().to_owned()),
        ..HostOptions::default()
    });
    let total_of = |name: &str, which: &str| {
        let path = format!("/sys/class/net/{name}/statistics/{which}");
        fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    let network_before = total_of("lo", "rx_bytes");
    let first = host.sample(now(), HostParts::ALL, &[]);
    let network_after = total_of("lo", "rx_bytes");

    let cpu = first.cpu.expect("every Linux tells of its processors");
    assert!(cpu.user_ratio.is_nan() && cpu.busiest_cpu_ratio.is_nan() && cpu.interval_ns == 0);
    // `nproc --all` counts those that are there, this those that are online.
    let online = fs::read_to_string("/sys/devices/system/cpu/online").expect("a list");
    let online = online.trim().split(',').map(|range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        to.parse::<u32>().expect("a number") - from.parse::<u32>().expect("a number") + 1
    });
    assert_eq!(cpu.cpus, online.sum::<u32>());
    assert!(cpu.tasks > 0 && cpu.load_1m >= 0.0);

    let memory = first.memory.expect("every Linux tells of its memory");
    let kib = |name: &str| (line_number("/proc/meminfo", name) * 1024) as f64;
    assert_eq!(memory.total_bytes, kib("MemTotal:"));
    assert_eq!(memory.swap_total_bytes, kib("SwapTotal:"));
    assert!(memory.available_bytes <= memory.total_bytes);

    let filesystem = first.filesystem.expect("the directory is there");
    let output = Command::new("stat")
        .args(["-f", "-c", "%b %S"])
        .arg(logs.path())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8(output.stdout).expect("numbers");
            let numbers = text
                .split_whitespace()
                .map(|word| word.parse::<u64>().expect("a number"));
            assert_eq!(filesystem.total_bytes, numbers.product::<u64>());
        }
        _ => eprintln!("skipped: no `stat -f` to compare the file system with"),
    }
    assert!(filesystem.available_bytes <= filesystem.free_bytes);
    assert!(filesystem.free_bytes <= filesystem.total_bytes);
    assert!((0.0..=1.0).contains(&filesystem.used_ratio));
    assert_eq!(filesystem.is_read_only, 0);

    let lo = first
        .networks
        .iter()
        .find(|it| it.name == "host:network:lo");
    match (lo, network_before, network_after) {
        (Some(lo), Some(before), Some(after)) => {
            assert!((before..=after).contains(&lo.event.rx_bytes_total));
            assert!(lo.event.rx_bytes_per_second.is_nan());
        }
        _ => eprintln!("skipped: no loopback interface that was ever used"),
    }

    for Named { name, event } in &first.disks {
        let device = name.strip_prefix("host:disk:").expect("its name");
        let text = fs::read_to_string(format!("/sys/block/{}/stat", device.replace('/', "!")));
        let text = text.expect("a whole disk is in /sys/block");
        let sectors = text
            .split_whitespace()
            .nth(2)
            .and_then(|it| it.parse::<u64>().ok());
        assert!(
            event.read_bytes_total <= sectors.expect("a number") * 512,
            "{device}"
        );
    }

    match &first.pressure {
        Some(pressure) => {
            let text = fs::read_to_string("/proc/pressure/cpu").expect("it was read");
            let total = text
                .lines()
                .next()
                .and_then(|line| line.split("total=").nth(1));
            let total_us: f64 = total.and_then(|it| it.parse().ok()).expect("a number");
            assert!(pressure.cpu_some_total_ns <= total_us * 1000.0);
            assert!((0.0..=1.0).contains(&pressure.memory_some_avg10_ratio));
        }
        None => {
            let told = first.troubles.iter().any(|it| it.thing == "host:pressure");
            assert!(told, "{:?}", first.troubles);
            eprintln!("skipped: this kernel has no pressure figures");
        }
    }
    only(&first.troubles, "host:pressure", ());
}

#[test]
fn ratios_of_this_host_are_those_of_the_ticks_that_its_kernel_counts() {
    let mut host = Host::new(HostOptions::default());
    // `user nice system idle iowait irq softirq steal`, of all processors.
    let ticks = || -> Vec<u64> {
        let text = fs::read_to_string("/proc/stat").expect("every Linux has it");
        let line = text.lines().next().expect("a line");
        line.split_whitespace()
            .skip(1)
            .take(8)
            .map(|it| it.parse().expect("ticks"))
            .collect()
    };
    let outer_before = ticks();
    host.sample(now(), CPU, &[]);
    let inner_before = ticks();
    // Work, until the kernel has counted some of it.
    let mut sum = 0_u64;
    let inner_after = loop {
        for value in 0..1_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(value));
        }
        let now = ticks();
        let user = now[0] + now[1] - inner_before[0] - inner_before[1];
        if user >= 20 {
            break now;
        }
    };
    let cpu = host.sample(now(), CPU, &[]).cpu.expect("as before");
    let outer_after = ticks();
    let sum =
        cpu.user_ratio + cpu.system_ratio + cpu.iowait_ratio + cpu.steal_ratio + cpu.idle_ratio;
    assert!((sum - 1.0).abs() < 1e-9, "{cpu:?}");
    // Between the least and the most that the two pairs of readings around it allow.
    let user = |from: &[u64], to: &[u64]| (to[0] + to[1] - from[0] - from[1]) as f64;
    let total = |from: &[u64], to: &[u64]| {
        (to.iter().sum::<u64>()).saturating_sub(from.iter().sum::<u64>()) as f64
    };
    let least = user(&inner_before, &inner_after) / (total(&outer_before, &outer_after) + 2.0);
    let most =
        user(&outer_before, &outer_after) / (total(&inner_before, &inner_after) - 2.0).max(1.0);
    assert!(
        (least..=most).contains(&cpu.user_ratio),
        "{least} {cpu:?} {most}"
    );
    assert!(
        cpu.busiest_cpu_ratio >= cpu.user_ratio * 0.8 && cpu.busiest_cpu_ratio <= 1.0,
        "{cpu:?}"
    );
}

#[test]
fn rates_of_disks_are_differences_over_the_interval() {
    let files = Files::new();
    let mut host = files.host();
    files.disks(&[("nvme0n1", [10, 100, 50, 20, 200, 60, 1000, 5])]);
    let first = host.sample(at(SECOND_NS), DISKS, &[]);
    let [Named { name, event }] = &first.disks[..] else {
        panic!("{first:?}");
    };
    assert_eq!(name, "host:disk:nvme0n1");
    assert_eq!((event.interval_ns, event.read_bytes_total), (0, 100 * 512));
    assert!(event.reads_per_second.is_nan() && event.busy_ratio.is_nan());
    // Half a second later: 4 reads of 8 sectors in 20 ms, 10 writes of 100 in 30 ms, busy for 125 ms, 3 flushes.
    files.disks(&[("nvme0n1", [14, 108, 70, 30, 300, 90, 1125, 8])]);
    let time = at(SECOND_NS * 3 / 2);
    let event = host.sample(time, DISKS, &[]).disks[0].event;
    assert_eq!(event.sampled_ns, time.real_ns);
    assert_eq!(event.interval_ns, SECOND_NS / 2);
    assert_eq!(
        (event.reads_per_second, event.writes_per_second),
        (8.0, 20.0)
    );
    assert_eq!(event.read_bytes_per_second, 8.0 * 512.0 * 2.0);
    assert_eq!(event.write_bytes_per_second, 100.0 * 512.0 * 2.0);
    assert_eq!(event.flushes_per_second, 6.0);
    assert_eq!(event.busy_ratio, 0.25);
    assert_eq!(
        (event.read_latency_ns_mean, event.write_latency_ns_mean),
        (5e6, 3e6)
    );
    assert_eq!(event.requests_in_flight, 2);
    // Nothing at all: rates of 0, and no latency.
    let event = host.sample(at(SECOND_NS * 2), DISKS, &[]).disks[0].event;
    assert_eq!((event.reads_per_second, event.busy_ratio), (0.0, 0.0));
    assert!(event.read_latency_ns_mean.is_nan());
}

#[test]
fn a_counter_that_goes_back_gives_no_rate_once_and_takes_nothing_from_the_others() {
    let files = Files::new();
    let mut host = files.host();
    files.disks(&[("sda", [10, 100, 50, 20, 200, 60, 1000, 5])]);
    host.sample(at(SECOND_NS), DISKS, &[]);
    files.disks(&[("sda", [1, 8, 2, 22, 200, 60, 1000, 5])]);
    let event = host.sample(at(2 * SECOND_NS), DISKS, &[]).disks[0].event;
    assert!(event.reads_per_second.is_nan() && event.read_bytes_per_second.is_nan());
    assert!(event.read_latency_ns_mean.is_nan());
    assert_eq!(event.writes_per_second, 2.0);
    files.disks(&[("sda", [4, 8, 2, 22, 200, 60, 1000, 5])]);
    let event = host.sample(at(3 * SECOND_NS), DISKS, &[]).disks[0].event;
    assert_eq!(event.reads_per_second, 3.0);
}

#[test]
fn devices_come_and_go() {
    let files = Files::new();
    let mut host = files.host();
    let some = [10, 100, 50, 20, 200, 60, 1000, 5];
    files.disks(&[("sda", some)]);
    host.sample(at(SECOND_NS), DISKS, &[]);
    files.disks(&[("sda", some), ("sdb", some)]);
    let sample = host.sample(at(2 * SECOND_NS), DISKS, &[]);
    let names: Vec<&str> = sample.disks.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["host:disk:sda", "host:disk:sdb"]);
    assert_eq!(sample.disks[0].event.reads_per_second, 0.0);
    assert!(sample.disks[1].event.reads_per_second.is_nan());
    // Gone, and another of its name: it is a new one.
    files.disks(&[("sdb", some)]);
    assert_eq!(host.sample(at(3 * SECOND_NS), DISKS, &[]).disks.len(), 1);
    files.disks(&[("sda", [90, 100, 50, 20, 200, 60, 1000, 5]), ("sdb", some)]);
    let sample = host.sample(at(4 * SECOND_NS), DISKS, &[]);
    assert!(sample.disks[0].event.reads_per_second.is_nan());
    assert_eq!(sample.disks[0].event.interval_ns, 0);
    assert_eq!(sample.disks[1].event.reads_per_second, 0.0);
    assert!(sample.troubles.is_empty());
}

#[test]
fn what_nobody_asks_about_is_left_out_and_what_is_too_much_is_said() {
    let files = Files::new();
    let mut host = files.host();
    let some = [10, 100, 50, 20, 200, 60, 1000, 5];
    files.put("sys/class/block/sda1/partition", "1\n");
    files.put("sys/class/block/cciss!c0d0p1/partition", "1\n");
    files.disks(&[
        ("sda", some),
        ("sda1", some),
        ("loop7", some),
        ("ram0", some),
        ("loopback", some),
        ("cciss/c0d0", some),
        ("cciss/c0d0p1", some),
        ("sdz", [0; 8]),
    ]);
    let sample = host.sample(at(SECOND_NS), DISKS, &[]);
    let names: Vec<&str> = sample.disks.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "host:disk:cciss/c0d0",
            "host:disk:loopback",
            "host:disk:sda"
        ]
    );

    let many: Vec<String> = (0..DEVICES_MAX + 3)
        .map(|number| format!("nvme{number}n1"))
        .collect();
    files.disks(
        &many
            .iter()
            .map(|name| (name.as_str(), some))
            .collect::<Vec<_>>(),
    );
    let sample = host.sample(at(2 * SECOND_NS), DISKS, &[]);
    assert_eq!(sample.disks.len(), DEVICES_MAX);
    assert_eq!(sample.troubles.len(), 1);
    assert!(
        sample.troubles[0]
            .reason
            .starts_with("3 disks are not told"),
        "{sample:?}"
    );
}

#[test]
fn rates_of_networks_are_differences_over_the_interval() {
    let files = Files::new();
    let mut host = files.host();
    let some = [1000, 10, 1, 2, 2000, 20, 3, 4];
    files.networks(&[
        ("eth0", some),
        ("veth1", some),
        ("dummy0", [0; 8]),
        ("a:b*c", some),
    ]);
    let first = host.sample(at(SECOND_NS), NETWORKS, &[]);
    let names: Vec<&str> = first.networks.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["host:network:a_b_c", "host:network:eth0"]);
    assert!(first.networks[1].event.rx_bytes_per_second.is_nan());
    files.networks(&[("eth0", [5000, 20, 2, 4, 2500, 30, 3, 10])]);
    let event = host.sample(at(3 * SECOND_NS), NETWORKS, &[]).networks[0].event;
    assert_eq!(
        (event.rx_bytes_per_second, event.tx_bytes_per_second),
        (2000.0, 250.0)
    );
    assert_eq!(
        (event.rx_packets_per_second, event.tx_packets_per_second),
        (5.0, 5.0)
    );
    assert_eq!(
        (event.rx_errors_per_second, event.tx_errors_per_second),
        (0.5, 0.0)
    );
    assert_eq!(
        (event.rx_drops_per_second, event.tx_drops_per_second),
        (1.0, 3.0)
    );
    assert_eq!((event.errors_total, event.drops_total), (5, 14));
    assert_eq!((event.rx_bytes_total, event.tx_bytes_total), (5000, 2500));
}

#[test]
fn pressure_is_shares_of_the_interval_and_what_a_kernel_lacks_is_no_number() {
    let files = Files::new();
    let mut host = files.host();
    let line = |word: &str, avg10: &str, total: u64| {
        format!("{word} avg10={avg10} avg60=0.00 avg300=0.00 total={total}\n")
    };
    files.put("proc/stat", "");
    // Before Linux 5.13 there is no `full` of the processor.
    files.put("proc/pressure/cpu", &line("some", "1.07", 1_000_000));
    files.put(
        "proc/pressure/io",
        &(line("some", "50.00", 0) + &line("full", "100.00", 7)),
    );
    let first = host
        .sample(at(SECOND_NS), PRESSURE, &[])
        .pressure
        .expect("two of three");
    assert!(first.cpu_some_ratio.is_nan());
    assert_eq!(first.cpu_some_avg10_ratio, 0.0107);
    assert_eq!(first.cpu_some_total_ns, 1e9);
    assert_eq!(
        (first.io_some_avg10_ratio, first.io_full_avg10_ratio),
        (0.5, 1.0)
    );
    assert!(first.cpu_full_avg10_ratio.is_nan() && first.memory_some_total_ns.is_nan());
    files.put("proc/pressure/cpu", &line("some", "1.07", 1_500_000));
    files.put("proc/pressure/io", "some\n");
    let second = host
        .sample(at(3 * SECOND_NS), PRESSURE, &[])
        .pressure
        .expect("one of three");
    assert_eq!(second.cpu_some_ratio, 0.25);
    assert!(second.io_some_ratio.is_nan());
}

#[test]
fn processors_are_told_together_and_the_busiest_alone() {
    let files = Files::new();
    let mut host = files.host();
    files.put("proc/loadavg", "0.07 1.50 2.25 3/456 789\n");
    let stat = |all: &str, one: &str, two: &str| {
        files.put(
            "proc/stat",
            &format!("cpu  {all}\ncpu0 {one}\ncpu2 {two}\nintr 1 2 3\n"),
        );
    };
    stat(
        "10 0 10 100 5 0 0 0 0 0",
        "5 0 5 50 5 0 0 0 0 0",
        "5 0 5 50 0 0 0 0 0 0",
    );
    let first = host
        .sample(at(SECOND_NS), CPU, &[])
        .cpu
        .expect("it is there");
    assert_eq!((first.cpus, first.tasks_runnable, first.tasks), (2, 3, 456));
    assert_eq!(
        (first.load_1m, first.load_5m, first.load_15m),
        (0.07, 1.5, 2.25)
    );
    // 100 ticks of each: user 40 and nice 10, system 20 with interrupts, iowait 2, steal 8, idle the rest. One is full.
    stat(
        "50 10 20 218 7 4 6 8 0 0",
        "55 10 15 50 5 4 6 8 0 0",
        "5 0 5 150 2 0 0 0 0 0",
    );
    let second = host
        .sample(at(2 * SECOND_NS), CPU, &[])
        .cpu
        .expect("it is there");
    let total = 40.0 + 10.0 + 20.0 + 118.0 + 2.0 + 8.0;
    assert_eq!(second.user_ratio, 50.0 / total);
    assert_eq!(second.system_ratio, 20.0 / total);
    assert_eq!(second.iowait_ratio, 2.0 / total);
    assert_eq!(second.steal_ratio, 8.0 / total);
    assert_eq!(second.idle_ratio, 118.0 / total);
    assert_eq!(second.busiest_cpu_ratio, 80.0 / 88.0);
    // A processor comes online, and iowait goes back, as it may: neither takes anything from the rest.
    files.put(
        "proc/stat",
        "cpu  60 10 20 228 2 4 6 8\ncpu0 65 10 15 60 0 4 6 8\ncpu1 900 0 0 0\ncpu2 5 0 5 150 2\n",
    );
    let third = host
        .sample(at(3 * SECOND_NS), CPU, &[])
        .cpu
        .expect("it is there");
    assert_eq!(
        (third.cpus, third.user_ratio, third.iowait_ratio),
        (3, 0.5, 0.0)
    );
    assert_eq!(third.busiest_cpu_ratio, 0.5);
    // Two samples within a tick say nothing.
    let fourth = host
        .sample(at(3 * SECOND_NS + 1), CPU, &[])
        .cpu
        .expect("it is there");
    assert!(fourth.user_ratio.is_nan() && fourth.busiest_cpu_ratio.is_nan());
}

#[test]
fn a_host_without_procfs_is_a_state_and_comes_back() {
    let files = Files::new();
    let missing = files.path("nowhere");
    let mut host = Host::new(HostOptions {
        proc_dir: missing.clone(),
        logs_dir: Some(files.path("no-logs")),
        ..HostOptions::default()
    });
    let us = HostPublisher {
        pid: std::process::id(),
        started_ns: 0,
        attached_ns: u64::MAX,
    };
    let sample = host.sample(at(SECOND_NS), HostParts::ALL, &[us]);
    let things: Vec<&str> = sample.troubles.iter().map(|it| it.thing.as_str()).collect();
    let expected = [
        "host:cpu",
        "host:memory",
        "host:pressure",
        "host:disks",
        "host:filesystem:logs",
        "host:networks",
        "host:processes",
    ];
    assert_eq!(things, expected);
    let shown = missing.display().to_string();
    for trouble in sample
        .troubles
        .iter()
        .filter(|it| it.thing != "host:filesystem:logs")
    {
        assert!(
            trouble.reason.contains(&shown) && trouble.reason.contains("mount"),
            "{trouble:?}"
        );
    }
    assert_eq!(
        HostSample {
            troubles: Vec::new(),
            ..sample
        },
        HostSample::default()
    );
    fs::create_dir(&missing).expect("a directory");
    fs::write(missing.join("stat"), "cpu  1 0 1 1\ncpu0 1 0 1 1\n").expect("a file");
    let sample = host.sample(at(2 * SECOND_NS), CPU, &[]);
    let cpu = sample.cpu.expect("it is there now");
    assert!(cpu.load_1m.is_nan() && cpu.user_ratio.is_nan() && sample.troubles.is_empty());
}

#[test]
fn files_that_are_none_of_the_kernels_are_told_and_read_again() {
    let files = Files::new();
    let mut host = files.host();
    files.put("proc/stat", "cpu  1 2\n");
    files.put("proc/meminfo", "MemTotal: many kB\n");
    files.put(
        "proc/diskstats",
        " 8 0 sda x\n 8 16 sdb 1 0 1 1 1 0 1 1 0 1 1\n",
    );
    files.put("proc/net/dev", "\n\nlo:\n");
    let parts = HostParts {
        pressure: false,
        processes: false,
        ..HostParts::ALL
    };
    let sample = host.sample(at(SECOND_NS), parts, &[]);
    let things: Vec<&str> = sample.troubles.iter().map(|it| it.thing.as_str()).collect();
    assert_eq!(
        things,
        ["host:cpu", "host:memory", "host:disks", "host:networks"]
    );
    // What can be understood is told.
    assert_eq!(sample.disks.len(), 1);
    assert!(sample.disks[0].event.flushes_per_second.is_nan());
    files.put("proc/stat", "cpu  1 2 3 4\n");
    assert!(host.sample(at(SECOND_NS), CPU, &[]).troubles.is_empty());
    files.put("proc/meminfo", "");
    assert_eq!(host.sample(at(SECOND_NS), MEMORY, &[]).troubles.len(), 1);
}

/// A child that waits for its input, and does nothing.
struct Waiting(Child);

impl Waiting {
    fn start() -> Self {
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Waiting(child.expect("cat starts"))
    }

    fn publisher(&self, started_ns: u64) -> HostPublisher {
        HostPublisher {
            pid: self.0.id(),
            started_ns,
            attached_ns: now().real_ns,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_is_told_as_its_kernel_tells_it_elsewhere() {
    let before_ns = now().real_ns;
    let mut child = Waiting::start();
    let pid = child.0.id();
    let publisher = child.publisher(0);
    // It is `cat` once it has replaced our copy, and then it reads, and nothing of it moves.
    let status = format!("/proc/{pid}/status");
    while fs::read_to_string(format!("/proc/{pid}/syscall"))
        .is_ok_and(|text| !text.starts_with('0'))
        || !fs::read_to_string(&status)
            .expect("it lives")
            .contains("Name:\tcat\n")
    {
        std::thread::yield_now();
    }
    let mut host = Host::new(HostOptions::default());
    let sample = host.sample(now(), PROCESSES, &[publisher, publisher]);
    assert!(sample.troubles.is_empty(), "{sample:?}");
    let [Named { name, event }] = &sample.processes[..] else {
        panic!("once and no more: {sample:?}");
    };
    assert_eq!(*name, format!("host:process:{pid}"));
    assert!(event.cpu_ratio.is_nan() && event.interval_ns == 0);
    assert_eq!(event.threads, line_number(&status, "Threads:"));
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it is ours")
        .count();
    assert_eq!(event.fds, fds as f64);
    let rss_bytes = line_number(&status, "VmRSS:") * 1024;
    // The kernel sums up what its processors count apart, here exactly and there about.
    assert!(
        event.rss_bytes.abs_diff(rss_bytes) < 1 << 20,
        "{event:?} {rss_bytes}"
    );
    // The kernel counts starts in hundredths of a second.
    assert!(event.started_ns + SECOND_NS / 50 >= before_ns, "{event:?}");
    assert!(
        event.started_ns <= now().real_ns + SECOND_NS / 50,
        "{event:?}"
    );

    let known = child.publisher(event.started_ns);
    let event = host.sample(now(), PROCESSES, &[known]).processes[0].event;
    assert!(event.cpu_ratio >= 0.0 && event.interval_ns > 0);
    // Another process, started when this one was not.
    let other = child.publisher(event.started_ns - 60 * SECOND_NS);
    let sample = host.sample(now(), PROCESSES, &[other]);
    assert!(
        sample.processes.is_empty() && sample.troubles.is_empty(),
        "{sample:?}"
    );
    // A lane that is older than the process is another's, too.
    let older = HostPublisher {
        attached_ns: event.started_ns - 60 * SECOND_NS,
        ..publisher
    };
    assert!(host.sample(now(), PROCESSES, &[older]).processes.is_empty());

    child.0.kill().expect("it lives");
    child.0.wait().expect("it is ours");
    let sample = host.sample(now(), PROCESSES, &[known]);
    assert!(
        sample.processes.is_empty() && sample.troubles.is_empty(),
        "{sample:?}"
    );
}

#[test]
fn a_pid_that_comes_round_again_is_another_process() {
    let files = Files::new();
    let mut host = files.host();
    let tick_ns = SECOND_NS / rustix::param::clock_ticks_per_second();
    // The real clock stands still, so that a start in ticks is always the same real time, but for what the test takes.
    let stopped = |monotonic_ns: u64| HostTime {
        monotonic_ns,
        ..at(0)
    };
    // No host has that many processes: nobody has this pid but the files.
    let pid = i32::MAX as u32;
    let look = |host: &mut Host, time, publisher: &[HostPublisher]| {
        host.sample(time, PROCESSES, publisher)
    };
    files.process(pid, 100, 50);
    let any = HostPublisher {
        pid,
        started_ns: 0,
        attached_ns: u64::MAX,
    };
    let first = look(&mut host, stopped(SECOND_NS), &[any]).processes[0].event;
    assert_eq!(first.cpu_total_ns, 50 * tick_ns);
    assert_eq!(first.threads, 3);
    assert_eq!(first.rss_bytes, 7 * rustix::param::page_size() as u64);
    let known = HostPublisher {
        started_ns: first.started_ns,
        ..any
    };
    files.process(pid, 100, 250);
    let second = look(&mut host, stopped(2 * SECOND_NS), &[any]).processes[0].event;
    assert_eq!(second.cpu_ratio, (200 * tick_ns) as f64 / SECOND_NS as f64);
    // The real clock is set back by an hour: it is the same process all the same, since it was known before.
    look(&mut host, stopped(3 * SECOND_NS), &[known]);
    let back = HostTime {
        real_ns: at(0).real_ns - 3600 * SECOND_NS,
        monotonic_ns: 4 * SECOND_NS,
    };
    assert_eq!(look(&mut host, back, &[known]).processes.len(), 1);
    // Its number is another's now, which has used less: no rate from the two of them.
    files.process(pid, 100_000, 10);
    let sample = look(&mut host, stopped(5 * SECOND_NS), &[known]);
    assert!(
        sample.processes.is_empty() && sample.troubles.is_empty(),
        "{sample:?}"
    );
    let third = look(&mut host, stopped(6 * SECOND_NS), &[any]).processes[0].event;
    assert!(third.cpu_ratio.is_nan());
}

#[test]
fn processes_that_procfs_hides_are_a_state() {
    let files = Files::new();
    let mut host = files.host();
    fs::create_dir(files.path("proc/self")).expect("a directory");
    let us = HostPublisher {
        pid: std::process::id(),
        started_ns: 0,
        attached_ns: u64::MAX,
    };
    let nobody = HostPublisher {
        pid: i32::MAX as u32,
        ..us
    };
    let sample = host.sample(at(SECOND_NS), PROCESSES, &[us, nobody]);
    assert_eq!(sample.troubles.len(), 1);
    let HostTrouble { thing, reason } = &sample.troubles[0];
    assert_eq!(thing, "host:processes");
    assert!(
        reason.starts_with("1 processes") && reason.contains("hidepid"),
        "{reason}"
    );
    // One that is gone is nothing to tell.
    assert!(
        host.sample(at(SECOND_NS), PROCESSES, &[nobody])
            .troubles
            .is_empty()
    );
}
