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

use serde::Serialize;

use crate::Now;
use crate::gpu::slow::{Slot, Slow};
use crate::gpu::{
    Device, Driver, DriverError, GpuProcess, GpuSample, Gpus, Group, Readings, Trouble,
};
use crate::host::{Host, HostParts, HostPublisher, HostSample, HostTime};
use crate::output::Output;
use crate::state::{Backoff, State, States};
use crate::time::{monotonic_ns, thread_cpu_ns};

/// So long we wait for the thread of the slow groups before a new connection: one question takes it 40 ms.
const RELEASE_WAIT: Duration = Duration::from_millis(250);
const HANGS: &str = "no new connection is made while a question hangs in the driver";

type Found = (Arc<dyn Gpus>, Vec<Result<Device, DriverError>>);

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
    /// The trouble is that of a slow group: before that has answered, it is not over.
    waits_for_slow: bool,
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
    /// Of the driver, until a connection has brought a sample: one that is lost before goes on waiting longer.
    backoff: Option<Backoff>,
    /// Of the connection before: as long as its thread lives, it holds the driver.
    leaving: Option<Slow>,
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
            leaving: None,
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
    /// Blocks for as long as the driver does: tens of microseconds for a GPU. For GPUs it allocates nothing while nothing
    /// changes, except for processes; for the host, at its interval, it does: texts of the kernel and names of events.
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
        let mut tick: u64 = 0;
        loop {
            self.step(time_of(interval, tick));
            let report = &mut self.book.report;
            report.elapsed_ns = elapsed_before_ns + started.elapsed().as_nanos() as u64;
            report.cpu_ns = cpu_before_ns + thread_cpu_ns() - cpu_started_ns;
            let next = next_tick(interval, started.elapsed());
            report.ticks_skipped += next.saturating_sub(tick.saturating_add(1));
            tick = next.max(tick);
            let deadline = started.checked_add(time_of(interval, tick));
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

/// When this tick is due, since the first.
fn time_of(interval: Duration, tick: u64) -> Duration {
    // 584 years fit.
    let ns = interval.as_nanos().saturating_mul(u128::from(tick));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// The first tick that is still to come.
fn next_tick(interval: Duration, passed: Duration) -> u64 {
    let ticks = passed.as_nanos() / interval.as_nanos().max(1);
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
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
            match self.connect() {
                Ok(found) => self.come_up(found, Vec::new(), at, book),
                Err(error) => self.stay_down(&error, at, book),
            }
        }
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.slow.step(at);
        let mut gone = None;
        // It hung when a new connection was due. Now that it does not, there can be one.
        let mut is_lost_due =
            connection.slow.is_stuck() && connection.slow.has_ended(Duration::ZERO);
        for index in 0..connection.targets.len() {
            let target = &connection.targets[index];
            let trouble = target.trouble;
            let has_answered = target.waits_for_slow && !connection.slow.is_failing(index);
            if !has_answered && trouble.is_some_and(|backoff| at < backoff.retry_at) {
                continue;
            }
            match connection.sample(index, book) {
                Ok(()) => {
                    self.backoff = None;
                    connection.targets[index].recover(&connection.slow, index, book);
                }
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
            Some(error) => {
                let targets = self.let_go().map(|(targets, _)| targets);
                self.go_down(&error, targets.unwrap_or_default(), at, book);
            }
            // A GPU that comes back after a reset is known to new connections alone.
            None if is_lost_due => self.connect_anew(at, book),
            None => {}
        }
    }

    /// Never while anything holds the connection before: NVML counts who has started it, and only one that was ended by
    /// all and started anew sees a GPU that was reset.
    fn connect(&mut self) -> Result<Found, DriverError> {
        if let Some(leaving) = &mut self.leaving
            && !leaving.has_ended(RELEASE_WAIT)
        {
            return Err(DriverError::new(Trouble::DriverGone, HANGS));
        }
        self.leaving = None;
        let gpus = self.driver.connect()?;
        let devices = gpus.devices()?;
        Ok((gpus, devices))
    }

    /// Ends the connection; its thread has its share until it ends.
    fn let_go(&mut self) -> Option<(Vec<Target>, Vec<Slot>)> {
        let Connection {
            targets, mut slow, ..
        } = self.connection.take()?;
        slow.stop();
        let slots = slow.take_slots();
        self.leaving = Some(slow);
        Some((targets, slots))
    }

    /// `before`: what is known of the same GPUs from the connection before, where there was one until now.
    fn come_up<O: Output>(
        &mut self,
        (gpus, devices): Found,
        mut before: Vec<(Target, Slot)>,
        at: Duration,
        book: &mut Book<O>,
    ) {
        if devices.is_empty() {
            // There is nothing that could be sampled.
            self.backoff = None;
        }
        if before.len() != devices.len() {
            // Who is who is not known.
            before.clear();
        }
        let mut before: Vec<Option<(Target, Slot)>> = before.into_iter().map(Some).collect();
        before.resize_with(devices.len(), || None);
        for (entry, device) in before.iter_mut().zip(&devices) {
            let is_other = |(target, _): &mut (Target, Slot)| match (&target.device, device) {
                (Some(old), Ok(new)) => old != new,
                _ => false,
            };
            entry.take_if(is_other);
        }
        let (before, slots): (Vec<Option<Target>>, Vec<Slot>) = before
            .into_iter()
            .map(|entry| match entry {
                Some((target, slot)) => {
                    let slot = slot.carried(target.trouble.is_some());
                    (Some(target), slot)
                }
                None => (None, Slot::NEW),
            })
            .unzip();
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
            slots,
            intervals,
            Arc::clone(&book.now),
            on_thread.then(|| Arc::clone(&book.slow_cpu_ns)),
        );
        let names: Vec<String> = (0..devices.len()).map(|it| format!("gpu:{it}")).collect();
        let now_ns = (book.now)();
        let reason = "the driver does not list it any more";
        book.states.retire(reason, now_ns, |thing| {
            thing.starts_with("gpu:")
                && thing != "gpu:driver"
                && !names.iter().any(|name| name == thing)
        });
        let mut targets = Vec::with_capacity(devices.len());
        let devices = devices.into_iter().zip(before);
        for ((index, thing), (device, before)) in names.into_iter().enumerate().zip(devices) {
            if let Some(before) = before.filter(|target| target.trouble.is_some()) {
                // It keeps its place in the line until a sample says that it is well.
                targets.push(Target {
                    device: device.ok().or(before.device.clone()),
                    ..before
                });
                continue;
            }
            let mut target = Target {
                sample_name: format!("{thing}:sample"),
                thing,
                device: device.as_ref().ok().cloned(),
                readings: Readings::NONE,
                trouble: None,
                waits_for_slow: false,
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
    fn go_down<O: Output>(
        &mut self,
        error: &DriverError,
        targets: Vec<Target>,
        at: Duration,
        book: &mut Book<O>,
    ) {
        tracing::debug!(%error, "the driver of the GPUs is gone");
        self.stay_down(error, at, book);
        for target in targets {
            book.note(State {
                device: target.device,
                ..State::new(target.thing, "gone").because("the driver is gone")
            });
        }
    }

    /// Lets the connection go and makes a new one: only such a one sees a GPU that was reset.
    fn connect_anew<O: Output>(&mut self, at: Duration, book: &mut Book<O>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        connection.slow.stop();
        if !connection.slow.has_ended(RELEASE_WAIT) {
            // The other GPUs still answer on the connection there is: better than none.
            book.report.driver_failures += 1;
            for target in connection.targets.iter().filter(|it| it.trouble.is_some()) {
                let Some(mut state) = book.states.get(&target.thing).cloned() else {
                    continue;
                };
                let reason = state.reason.unwrap_or_default();
                state.reason = Some(match reason.ends_with(HANGS) {
                    true => reason,
                    false => format!("{reason}; {HANGS}"),
                });
                book.note(state);
            }
            return;
        }
        let Some((targets, slots)) = self.let_go() else {
            return;
        };
        let found = match self.connect() {
            Ok(found) => found,
            Err(error) => return self.go_down(&error, targets, at, book),
        };
        self.come_up(found, targets.into_iter().zip(slots).collect(), at, book);
        let Some(connection) = &mut self.connection else {
            return;
        };
        for index in 0..connection.targets.len() {
            if connection.targets[index].trouble.is_none() {
                continue;
            }
            // Asked before the sample: the thread may have the answer between the two.
            let is_failing = connection.slow.is_failing(index);
            connection.targets[index].waits_for_slow = is_failing;
            // One that is still in trouble waits for its time; a driver that is gone shows with the next step.
            if connection.sample(index, book).is_ok() {
                self.backoff = None;
                connection.targets[index].recover(&connection.slow, index, book);
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
        if let Some(error) = slow.failing() {
            return Err(error.clone());
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
        self.waits_for_slow = false;
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
        self.waits_for_slow = slow.is_failing(index);
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
        let reason = match slow.is_stuck() {
            true => format!("{}; {HANGS}", error.reason),
            false => error.reason.clone(),
        };
        let state = State::new(&self.thing, error.trouble.state()).because(reason);
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
        let time = HostTime {
            real_ns: (book.now)(),
            monotonic_ns: monotonic_ns(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_on_after_more_of_them_than_fit_into_32_bits() {
        let interval = Duration::from_millis(1);
        let day = Duration::from_secs(24 * 60 * 60);
        for days in [1, 49, 50, 400, 36_500] {
            let passed = day * days;
            let tick = next_tick(interval, passed);
            assert_eq!(time_of(interval, tick), passed + interval, "{days} days");
        }
    }
}
