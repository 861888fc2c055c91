//! What is asked when, and what becomes of answers and of silence.
//!
//! ```text
//!             connect fails: backoff                    does not answer: backoff
//!             ┌────────┐                                ┌────────┐
//!   driver  [down] ──────> [up] ── each GPU ──────>  [good] ──> [lost]
//!             ^              │                          ^          │ a new connection reads it
//!             └── it is gone ┘                          └──────────┘
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::Now;
use crate::gpu::slow::Slow;
use crate::gpu::{
    Device, Driver, DriverError, GpuProcess, GpuSample, Gpus, Group, Readings, Trouble,
};
use crate::host::{Host, HostParts, HostPublisher, HostSample, HostTime};
use crate::output::Output;
use crate::state::{Backoff, State, States};

/// How often what is asked.
///
/// ```
/// use std::time::Duration;
/// use millpond_telemetry::Policy;
/// let policy = Policy { interval: Duration::from_secs(1), ..Policy::default() };
/// assert_eq!(policy.pcie_interval, Duration::from_secs(1));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The fast group of each GPU, and the shortest interval of all others. 100 ms.
    pub interval: Duration,
    /// PCIe: each question takes the driver 20 ms for each direction. 1 s.
    pub pcie_interval: Duration,
    /// Memory errors. 10 s.
    pub ecc_interval: Duration,
    /// Processes on each GPU. 2 s.
    pub processes_interval: Duration,
    /// The host: processor, memory, pressure, disks, network. 1 s.
    pub host_interval: Duration,
    /// The processes of attached publishers. 2 s.
    pub host_processes_interval: Duration,
    /// Until what failed is tried again; twice as long after each further failure. 1 s.
    pub retry_min: Duration,
    /// No longer than this. 1 min.
    pub retry_max: Duration,
    /// All states are published again this often. 1 min.
    pub restate_interval: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            interval: Duration::from_millis(100),
            pcie_interval: Duration::from_secs(1),
            ecc_interval: Duration::from_secs(10),
            processes_interval: Duration::from_secs(2),
            host_interval: Duration::from_secs(1),
            host_processes_interval: Duration::from_secs(2),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            restate_interval: Duration::from_secs(60),
        }
    }
}

/// What a sampler has done so far.
///
/// ```
/// assert_eq!(millpond_telemetry::Report::default().ticks, 0);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Intervals in which something was asked.
    pub ticks: u64,
    /// Intervals that were left out, since the one before took so long.
    pub ticks_skipped: u64,
    /// Samples of GPUs.
    pub gpu_samples: u64,
    /// Numbers in them that the GPU has.
    pub gpu_readings: u64,
    /// Events of processes on GPUs.
    pub gpu_processes: u64,
    /// Events of the host.
    pub host_events: u64,
    /// Questions to the driver that failed, attempts to connect included.
    pub driver_failures: u64,
    /// Connections to the driver that were made.
    pub driver_connects: u64,
    /// How long it ran.
    pub elapsed_ns: u64,
    /// Processor time of its threads meanwhile.
    pub cpu_ns: u64,
}

/// Ends [`Sampler::run`] from another thread, or from a handler's.
///
/// ```
/// let stop = millpond_telemetry::Stop::new();
/// stop.stop();
/// assert!(stop.is_stopped());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Not stopped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends it, now and for good.
    pub fn stop(&self) {
        let (is_stopped, bell) = &*self.0;
        *is_stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        bell.notify_all();
    }

    /// Whether somebody has.
    pub fn is_stopped(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until `deadline`; true where it was stopped.
    fn wait_until(&self, deadline: Instant) -> bool {
        let (is_stopped, bell) = &*self.0;
        let mut guard = is_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*guard {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let (back, _) = bell
                .wait_timeout(guard, left)
                .unwrap_or_else(PoisonError::into_inner);
            guard = back;
        }
        true
    }
}

type Publishers = Box<dyn FnMut() -> Vec<HostPublisher> + Send>;

struct HostSide {
    host: Host,
    publishers: Publishers,
    due: Duration,
    processes_due: Duration,
    /// Parts that could not be read, as states.
    troubled: Vec<String>,
}

/// One GPU of a connection.
struct Target {
    /// Names of its events, made once.
    sample_name: String,
    thing: String,
    device: Option<Device>,
    readings: Readings,
    trouble: Option<Backoff>,
    /// It was said that it is well.
    is_told: bool,
}

struct Connection {
    gpus: Arc<dyn Gpus>,
    targets: Vec<Target>,
    slow: Slow,
}

struct GpuSide {
    driver: Box<dyn Driver>,
    connection: Option<Connection>,
    /// Of the driver, while there is no connection.
    backoff: Option<Backoff>,
}

/// Everything that a step changes, apart from the driver and the host.
struct Book<O> {
    policy: Policy,
    now: Now,
    output: O,
    states: States,
    report: Report,
    slow_cpu_ns: Arc<AtomicU64>,
}

/// Samples GPUs and the host, and hands what they say to an [`Output`]. See the [crate's example](crate).
pub struct Sampler<O> {
    book: Book<O>,
    gpus: Option<GpuSide>,
    host: Option<HostSide>,
}

impl<O> fmt::Debug for Sampler<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("policy", &self.book.policy)
            .field("report", &self.book.report)
            .finish_non_exhaustive()
    }
}

impl<O: Output> Sampler<O> {
    /// One that samples nothing yet. `now` tells the time of the bus.
    pub fn new(policy: Policy, now: Now, output: O) -> Self {
        Sampler {
            book: Book {
                policy,
                now,
                output,
                states: States::default(),
                report: Report::default(),
                slow_cpu_ns: Arc::default(),
            },
            gpus: None,
            host: None,
        }
    }

    /// Samples the GPUs of this driver too. Connects with the first step.
    pub fn with_gpus(mut self, driver: Box<dyn Driver>) -> Self {
        self.gpus = Some(GpuSide {
            driver,
            connection: None,
            backoff: None,
        });
        self
    }

    /// Samples the host too; `publishers` says whose processes are looked at, most often
    /// [`HostPublisher::attached`] of the bus.
    pub fn with_host(
        mut self,
        host: Host,
        publishers: impl FnMut() -> Vec<HostPublisher> + Send + 'static,
    ) -> Self {
        self.host = Some(HostSide {
            host,
            publishers: Box::new(publishers),
            due: Duration::ZERO,
            processes_due: Duration::ZERO,
            troubled: Vec::new(),
        });
        self
    }

    /// Asks what is due. `at` is the time of this step since the first, by a clock that never goes back: the time it
    /// was planned for rather than the time it is, so that what is due every tenth step is due every tenth step.
    ///
    /// Blocks for as long as the driver does: tens of microseconds for a GPU. Allocates nothing while nothing changes,
    /// except for processes.
    pub fn step(&mut self, at: Duration) {
        let Sampler { book, gpus, host } = self;
        book.report.ticks += 1;
        if let Some(gpus) = gpus {
            gpus.step(at, book);
        }
        if let Some(host) = host {
            host.step(at, book);
        }
        for state in book.states.take_unsaid(at, book.policy.restate_interval) {
            book.output.state(&state);
        }
    }

    /// Steps at each interval until it is stopped. One that took longer than the interval has those it ran over left
    /// out and counted, so that samples stay at their places.
    pub fn run(&mut self, stop: &Stop) {
        let interval = self.book.policy.interval.max(Duration::from_millis(1));
        let started = Instant::now();
        let cpu_started_ns = thread_cpu_ns();
        let elapsed_before_ns = self.book.report.elapsed_ns;
        let cpu_before_ns = self.book.report.cpu_ns;
        let mut tick: u32 = 0;
        loop {
            self.step(interval * tick);
            let report = &mut self.book.report;
            report.elapsed_ns = elapsed_before_ns + started.elapsed().as_nanos() as u64;
            report.cpu_ns = cpu_before_ns + thread_cpu_ns() - cpu_started_ns;
            let passed = started.elapsed().as_nanos() / interval.as_nanos();
            // At 1 ms it runs for 49 days until it stops at the last number.
            let next = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
            report.ticks_skipped += u64::from(next.saturating_sub(tick.saturating_add(1)));
            tick = next.max(tick);
            let deadline = started.checked_add(interval * tick);
            let Some(deadline) = deadline else { return };
            if stop.wait_until(deadline) {
                self.book.report.elapsed_ns =
                    elapsed_before_ns + started.elapsed().as_nanos() as u64;
                return;
            }
        }
    }

    /// What it has done so far.
    pub fn report(&self) -> Report {
        let mut report = self.book.report.clone();
        // ORDERING: Relaxed; a count that says only itself.
        report.cpu_ns += self.book.slow_cpu_ns.load(Ordering::Relaxed);
        report
    }

    /// How everything is doing.
    pub fn states(&self) -> impl Iterator<Item = &State> {
        self.book.states.all()
    }

    /// Where samples go.
    pub fn output(&self) -> &O {
        &self.book.output
    }

    /// The same, to change it.
    pub fn output_mut(&mut self) -> &mut O {
        &mut self.book.output
    }
}

impl<O: Output> Book<O> {
    fn note(&mut self, state: State) {
        let now_ns = (self.now)();
        self.states.note(state, now_ns);
    }
}

impl GpuSide {
    fn step<O: Output>(&mut self, at: Duration, book: &mut Book<O>) {
        if self.connection.is_none() && self.backoff.is_none_or(|it| it.retry_at <= at) {
            match self.driver.connect().and_then(|gpus| {
                let devices = gpus.devices()?;
                Ok((gpus, devices))
            }) {
                Ok((gpus, devices)) => self.come_up(gpus, devices, at, book),
                Err(error) => self.stay_down(&error, at, book),
            }
        }
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.slow.step(at);
        let mut gone = None;
        let mut is_lost_due = false;
        for index in 0..connection.targets.len() {
            let trouble = connection.targets[index].trouble;
            if trouble.is_some_and(|backoff| at < backoff.retry_at) {
                continue;
            }
            match connection.sample(index, book) {
                Ok(()) => connection.targets[index].recover(&connection.slow, index, book),
                Err(error) if error.trouble.ends_connection() => {
                    gone = Some(error);
                    break;
                }
                Err(error) => {
                    is_lost_due |= trouble.is_some();
                    connection.targets[index].fail(&connection.slow, index, &error, at, book);
                }
            }
        }
        match gone {
            Some(error) => self.go_down(&error, at, book),
            // A GPU that comes back after a reset is known to new connections alone.
            None if is_lost_due => self.connect_anew(at, book),
            None => {}
        }
    }

    fn come_up<O: Output>(
        &mut self,
        gpus: Arc<dyn Gpus>,
        devices: Vec<Result<Device, DriverError>>,
        at: Duration,
        book: &mut Book<O>,
    ) {
        self.backoff = None;
        book.report.driver_connects += 1;
        let driver_version = gpus.driver_version();
        tracing::debug!(
            driver_version,
            gpus = devices.len(),
            "connected to the driver of the GPUs"
        );
        book.note(State {
            driver_version: Some(driver_version),
            ..State::new("gpu:driver", "ok")
        });
        let policy = &book.policy;
        let intervals = [
            policy.pcie_interval,
            policy.ecc_interval,
            policy.processes_interval,
        ];
        let on_thread = self.driver.is_slow();
        let slow = Slow::start(
            Arc::clone(&gpus),
            devices.len(),
            intervals,
            Arc::clone(&book.now),
            on_thread.then(|| Arc::clone(&book.slow_cpu_ns)),
        );
        let names: Vec<String> = (0..devices.len()).map(|it| format!("gpu:{it}")).collect();
        book.states.forget(|thing| {
            thing.starts_with("gpu:")
                && thing != "gpu:driver"
                && !names.iter().any(|name| name == thing)
        });
        let mut targets = Vec::with_capacity(devices.len());
        for ((index, thing), device) in names.into_iter().enumerate().zip(devices) {
            let mut target = Target {
                sample_name: format!("{thing}:sample"),
                thing,
                device: device.as_ref().ok().cloned(),
                readings: Readings::NONE,
                trouble: None,
                is_told: false,
            };
            match device {
                Ok(_) => target.recover(&slow, index, book),
                Err(error) => target.fail(&slow, index, &error, at, book),
            }
            targets.push(target);
        }
        self.connection = Some(Connection {
            gpus,
            targets,
            slow,
        });
    }

    /// There was no connection, and there is none.
    fn stay_down<O: Output>(&mut self, error: &DriverError, at: Duration, book: &mut Book<O>) {
        book.report.driver_failures += 1;
        let (first, limit) = (book.policy.retry_min, book.policy.retry_max);
        let backoff = match &mut self.backoff {
            Some(backoff) => {
                backoff.again(at, limit);
                *backoff
            }
            none => *none.insert(Backoff::start(at, first)),
        };
        let state = match error.trouble {
            Trouble::LibraryAbsent => "absent",
            _ => "gone",
        };
        tracing::debug!(%error, retry_in = ?backoff.wait(), "no driver of GPUs");
        let state = State::new("gpu:driver", state).because(&error.reason);
        book.note(state.retried_in(backoff.wait()));
    }

    /// The connection is of no use any more.
    fn go_down<O: Output>(&mut self, error: &DriverError, at: Duration, book: &mut Book<O>) {
        tracing::debug!(%error, "the driver of the GPUs is gone");
        let targets = self.connection.take().map(|connection| connection.targets);
        self.stay_down(error, at, book);
        for target in targets.into_iter().flatten() {
            book.note(State {
                device: target.device,
                ..State::new(target.thing, "gone").because("the driver is gone")
            });
        }
    }

    /// Takes a new connection where that has more to say than the one there is; else leaves it.
    fn connect_anew<O: Output>(&mut self, at: Duration, book: &mut Book<O>) {
        let Some(connection) = &self.connection else {
            return;
        };
        let lost = |index: &usize| connection.targets[*index].trouble.is_some();
        let lost: Vec<usize> = (0..connection.targets.len()).filter(lost).collect();
        let found = self.driver.connect().and_then(|gpus| {
            let devices = gpus.devices()?;
            Ok((gpus, devices))
        });
        let Ok((gpus, devices)) = found else {
            book.report.driver_failures += 1;
            return;
        };
        let answers = |index: &usize| {
            let mut readings = Readings::NONE;
            let answer = gpus.read(*index as u32, Group::Fast, &mut readings);
            answer.is_ok() && readings.known().next().is_some()
        };
        if devices.len() != connection.targets.len() || lost.iter().any(answers) {
            // Those that are still lost keep their place in the line.
            let backoffs: Vec<_> = connection.targets.iter().map(|it| it.trouble).collect();
            self.come_up(gpus, devices, at, book);
            let targets = self.connection.iter_mut().flat_map(|it| &mut it.targets);
            for (target, backoff) in targets.zip(backoffs) {
                if target.trouble.is_some() && backoff.is_some() {
                    target.trouble = backoff;
                }
            }
        }
    }
}

impl Connection {
    /// Asks one GPU for its fast group, and publishes that with what is known of the others.
    fn sample<O: Output>(&mut self, index: usize, book: &mut Book<O>) -> Result<(), DriverError> {
        let target = &mut self.targets[index];
        let sampled_ns = (book.now)();
        self.gpus
            .read(index as u32, Group::Fast, &mut target.readings)?;
        let slow = self.slow.take(index);
        if let Some(error) = slow.failed.filter(|error| error.trouble != Trouble::Failed) {
            return Err(error);
        }
        for group in Group::SLOW {
            target.readings.take(group, &slow.readings);
        }
        let known = target.readings.known().count() as u64;
        if known == 0 {
            return Err(DriverError::new(
                Trouble::Failed,
                "the driver answers no question about it; `nvidia-smi` may say why",
            ));
        }
        let age = |at: Option<u64>| match at {
            Some(at_ns) => sampled_ns.saturating_sub(at_ns) as f64 / 1e9,
            None => f64::NAN,
        };
        let sample = GpuSample::new(sampled_ns, &target.readings, slow.sampled_ns.map(age));
        book.report.gpu_samples += 1;
        book.report.gpu_readings += known;
        book.output.event(&target.sample_name, &sample);
        let Some((sampled_ns, processes)) = slow.processes else {
            return Ok(());
        };
        for process in processes {
            let event = GpuProcess {
                sampled_ns,
                pid: process.pid.into(),
                memory_used_bytes: process
                    .memory_used_bytes
                    .map_or(f64::NAN, |bytes| bytes as f64),
            };
            let name = format!("{}:process:{}", target.thing, process.pid);
            book.report.gpu_processes += 1;
            book.output.event(&name, &event);
        }
        Ok(())
    }
}

impl Target {
    fn recover<O: Output>(&mut self, slow: &Slow, index: usize, book: &mut Book<O>) {
        if self.trouble.is_none() && self.is_told {
            return;
        }
        self.trouble = None;
        self.is_told = true;
        slow.pause(index, false);
        book.note(State {
            device: self.device.clone(),
            ..State::new(&self.thing, "ok")
        });
    }

    fn fail<O: Output>(
        &mut self,
        slow: &Slow,
        index: usize,
        error: &DriverError,
        at: Duration,
        book: &mut Book<O>,
    ) {
        book.report.driver_failures += 1;
        slow.pause(index, true);
        self.readings = Readings::NONE;
        let (first, limit) = (book.policy.retry_min, book.policy.retry_max);
        let backoff = match &mut self.trouble {
            Some(backoff) => {
                backoff.again(at, limit);
                *backoff
            }
            none => {
                tracing::debug!(gpu = index, %error, "a GPU does not answer");
                *none.insert(Backoff::start(at, first))
            }
        };
        let state = State::new(&self.thing, error.trouble.state()).because(&error.reason);
        book.note(State {
            device: self.device.clone(),
            ..state.retried_in(backoff.wait())
        });
    }
}

impl HostSide {
    fn step<O: Output>(&mut self, at: Duration, book: &mut Book<O>) {
        let is_due = at >= self.due;
        let is_processes_due = at >= self.processes_due;
        if !is_due && !is_processes_due {
            return;
        }
        let mut parts = HostParts::NONE;
        if is_due {
            self.due = at + book.policy.host_interval;
            parts = HostParts::ALL;
        }
        parts.processes = is_processes_due;
        let mut publishers = Vec::new();
        if is_processes_due {
            self.processes_due = at + book.policy.host_processes_interval;
            publishers = (self.publishers)();
        }
        let clock = clock_gettime(ClockId::Monotonic);
        let time = HostTime {
            real_ns: (book.now)(),
            monotonic_ns: clock.tv_sec as u64 * 1_000_000_000 + clock.tv_nsec as u64,
        };
        let sample = self.host.sample(time, parts, &publishers);
        macro_rules! publish {
            ($(one $one:ident $name:literal)* $(many $many:ident)*) => {
                $(if let Some(event) = &sample.$one {
                    book.report.host_events += 1;
                    book.output.event($name, event);
                })*
                $(for named in &sample.$many {
                    book.report.host_events += 1;
                    book.output.event(&named.name, &named.event);
                })*
            };
        }
        publish! {
            one cpu "host:cpu"
            one memory "host:memory"
            one pressure "host:pressure"
            one filesystem "host:filesystem:logs"
            many disks
            many networks
            many processes
        }
        self.note_troubles(&sample, parts, book);
    }

    /// States of the parts that cannot be read, and of those that can be read again.
    fn note_troubles<O: Output>(
        &mut self,
        sample: &HostSample,
        asked: HostParts,
        book: &mut Book<O>,
    ) {
        let was_asked = |thing: &str| match thing {
            "host:processes" => asked.processes,
            _ => asked.cpu,
        };
        let mut troubled = Vec::new();
        for trouble in &sample.troubles {
            book.note(State::new(&trouble.thing, "failed").because(&trouble.reason));
            troubled.push(trouble.thing.clone());
        }
        for thing in self.troubled.drain(..) {
            if !was_asked(&thing) {
                troubled.push(thing);
            } else if !troubled.contains(&thing) {
                book.note(State::new(thing, "ok"));
            }
        }
        self.troubled = troubled;
    }
}

/// Processor time of this thread so far.
pub(crate) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
