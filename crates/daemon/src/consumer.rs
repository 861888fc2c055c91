//! The consumer loop as a state machine: each step reaps, commits, drains, submits, and says how to wait.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_bus::{
    Bus, ConsumerNotice, Doorbell, Drain, FlushRequest, GroupFigures, Item, Mark, RuleTable, Scope,
    Sleep, UpkeepFigures, Verdict,
};
use millpond_logfile::Level;
use millpond_sink::{CompletedGroup, Cut, DiskUse, Policy, Sink, SyncPolicy, WriterStatus};

use crate::error::Error;
use crate::gaps::Gaps;
use crate::life::{Life, Phase};
use crate::reduce::{Reducers, Reductions};
use crate::router::Router;
use crate::schemas::Schemas;
use crate::subscribers::Subscribers;

/// Liveness, heartbeat and clock are looked after this often.
const HOUSEKEEPING_NS: u64 = 1_000_000_000;
/// While a publisher that is gone has something uncommitted, after this long.
const CLOSING_NS: u64 = 20_000_000;
/// No wait is longer than this, whatever rings or does not.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A pass that took fewer records than this came too soon: more would make the publishers' cache lines
/// travel for little.
const FEW_RECORDS: u64 = 64;
/// How long the loop looks out for more before it parks, in rounds of `PAUSE_SPINS`.
const IDLE_ROUNDS: u32 = 8;
const PAUSE_SPINS: u32 = 100;
/// At a stop, publishers that go on at full speed do not keep us for ever: what they publish after this
/// many steps waits in their lanes for the next consumer.
const STOP_STEPS_MAX: u32 = 10_000;
/// So long it waits then for a writer that has no room. What is not taken waits in the lanes, too.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Something that people should hear of.
///
/// ```
/// use millpond_daemon::Notice;
/// let notice = Notice::Recovered("web: cut 17 bytes".into());
/// assert_eq!(notice.to_string(), "web: cut 17 bytes");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// What recovery cut from a log.
    Recovered(String),
    /// A lane was given up.
    Lane(String),
    /// The writer cannot write; it goes on trying.
    Trouble(String),
    /// The writer writes again.
    TroubleOver,
    /// Something beside the writing does not succeed and is tried again: a sync, or a segment that cannot be
    /// compressed.
    Upkeep(String),
    /// Part of the log is gone: somebody removed files while they were written.
    Lost(String),
    /// New rules are in force.
    Reloaded(String),
    /// New rules were asked for and are not in force: the old ones are.
    NotReloaded(String),
}

impl Notice {
    /// As an event of `tracing`: for a consumer whose notices nobody takes.
    fn trace(&self) {
        match self {
            Notice::TroubleOver | Notice::Reloaded(_) => tracing::info!("{self}"),
            Notice::NotReloaded(_) => tracing::error!("{self}"),
            _ => tracing::warn!("{self}"),
        }
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Notice::Recovered(text)
            | Notice::Lane(text)
            | Notice::Trouble(text)
            | Notice::Upkeep(text)
            | Notice::Lost(text)
            | Notice::Reloaded(text)
            | Notice::NotReloaded(text) => f.write_str(text),
            Notice::TroubleOver => f.write_str("the log is being written again"),
        }
    }
}

/// How a step ended: what to do before the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There was work; step again.
    Busy {
        /// Records that were drained.
        records: u64,
    },
    /// Nothing to do until then, or until someone rings.
    Idle {
        /// What may ring.
        sleep: Sleep,
        /// How long at most.
        timeout: Duration,
    },
}

/// How a consumer is set up.
///
/// ```no_run
/// use millpond_bus::{Bus, BusOptions};
/// use millpond_daemon::{Daemon, Policy};
/// let bus = Bus::attach("default", &BusOptions::default())?;
/// let policy = Policy { segment_bytes_limit: 16 << 20, ..Policy::default() };
/// let running = Daemon::builder(&bus, "/var/log/millpond".as_ref()).policy(policy).spawn()?;
/// # running.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Builder {
    bus: Bus,
    logs_dir: PathBuf,
    policy: Policy,
    rules: Option<RuleTable>,
    reductions: Reductions,
    reload: Option<Reload>,
    life: Life,
}

/// What a consumer goes by and can change while it runs.
///
/// ```
/// let configuration = millpond_daemon::Configuration::default();
/// assert!(configuration.reductions.default.repeats);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// The rules of the bus.
    pub rules: RuleTable,
    /// What is reduced of each service's records on their way into the log.
    pub reductions: Reductions,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            rules: RuleTable::defaults(),
            reductions: Reductions::default(),
        }
    }
}

/// Reads the configuration again.
type Reload = Box<dyn FnMut() -> Result<Configuration, String> + Send>;

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("bus", &self.bus)
            .field("logs_dir", &self.logs_dir)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// How to write. Default: [`Policy::default`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// What becomes lines, by service. Default: repeats are told in one line, nothing else is reduced.
    #[must_use]
    pub fn reductions(mut self, reductions: Reductions) -> Self {
        self.reductions = reductions;
        self
    }

    /// Where rules and reductions come from when somebody asks for a reload ([`Bus::request_reload`]). An error
    /// leaves the old ones in force and becomes a notice. Default: a request is refused with a notice.
    #[must_use]
    pub fn reload_with(
        mut self,
        read: impl FnMut() -> Result<Configuration, String> + Send + 'static,
    ) -> Self {
        self.reload = Some(Box::new(read));
        self
    }

    /// Where it tells how far it is. Default: nobody is told.
    #[must_use]
    pub fn life(mut self, life: &Life) -> Self {
        self.life = life.clone();
        self
    }

    /// Rules to put in force. Default: those the bus has. Publishers that are attached follow.
    #[must_use]
    pub fn rules(mut self, rules: RuleTable) -> Self {
        self.rules = Some(rules);
        self
    }

    /// Takes the lease, recovers the log directory and starts the writer.
    ///
    /// # Errors
    /// `Bus` when the bus has a consumer already, `Sink` when the directory cannot be written.
    pub fn open(self) -> Result<Daemon, Error> {
        let life = self.life;
        life.enter(Phase::Lease);
        let mut drain = self.bus.drain()?;
        life.enter(Phase::Rules);
        let mut subscribers = Subscribers::new();
        let mut rules = self.bus.rules()?;
        if let Some(wanted) = self.rules
            && rules != wanted
        {
            drain.install_rules(&wanted)?;
            rules = wanted;
        }
        subscribers.set_rules(&drain, &rules);
        subscribers.follow_outboxes(&drain);
        life.enter(Phase::Recovery);
        let has_completed = Arc::new(AtomicBool::new(false));
        let completed = {
            let (has_completed, doorbell) = (Arc::clone(&has_completed), drain.doorbell());
            move || {
                // ORDERING: Release; pairs with the Acquire of the consumer's last look before it parks.
                has_completed.store(true, Ordering::Release);
                doorbell.ring();
            }
        };
        let committed = drain.committed_services().to_vec();
        let now_ns = drain.clock().now_ns();
        let flush_delay_ns = self.policy.flush_delay.as_nanos() as u64;
        let syncs_always = self.policy.sync == SyncPolicy::Always;
        let (mut sink, cuts) = Sink::open(
            &self.logs_dir,
            self.policy,
            &self.bus.identity(),
            &committed,
            now_ns,
            completed,
        )?;
        let mut reducers = Reducers::new(self.reductions);
        reducers.restore(&committed, &mut sink, now_ns);
        let mut daemon = Daemon {
            stop: StopHandle {
                wanted: Arc::default(),
                doorbell: drain.doorbell(),
            },
            failure: None,
            logs_dir: self.logs_dir,
            bus_name: self.bus.name().to_owned(),
            life,
            drain,
            subscribers,
            schemas: Schemas::new(&self.bus),
            reload: self.reload,
            sink,
            router: Router::default(),
            gaps: Gaps::new(),
            reducers,
            flush_delay_ns,
            syncs_always,
            marks: VecDeque::new(),
            has_completed,
            flush: None,
            next_housekeeping_ns: 0,
            trouble: None,
            upkeep: [None, None, None, None],
            upkeep_counted: UpkeepFigures::default(),
            notices: cuts
                .iter()
                .map(|cut| Notice::Recovered(describe_cut(cut)))
                .collect(),
        };
        daemon.describe();
        // What is in the directory counts from now on, also for a service that never writes again.
        daemon.commit_new_services();
        // What the one before us had counted and not told. Until this is committed, it is in the commit point.
        daemon.reducers.tell_all(&mut daemon.sink);
        let (backend, _) = daemon.backend();
        tracing::info!(
            bus = daemon.bus_name,
            logs = %daemon.logs_dir.display(),
            backend,
            services = committed.len(),
            recovered = daemon.notices.len(),
            "consumer started"
        );
        // The last sign of life was before recovery, which may have taken long.
        daemon.drain.beat();
        daemon.life.enter(Phase::Running);
        Ok(daemon)
    }

    /// Opens it and runs it on a thread of its own. What people should hear of becomes events of `tracing`.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn spawn(self) -> Result<Running, Error> {
        let mut daemon = self.open()?;
        let stop = daemon.stop_handle();
        let thread = std::thread::Builder::new()
            .name("millpond-consumer".to_owned())
            .spawn(move || {
                daemon.run(&mut |notice| notice.trace());
                daemon.close()
            })
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Running { stop, thread })
    }
}

/// A consumer on a thread of its own.
///
/// See the crate's front page.
#[derive(Debug)]
pub struct Running {
    stop: StopHandle,
    thread: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Drains everything, writes it, and ends the thread.
    ///
    /// # Errors
    /// `NotWritten` when the last records could not be written.
    pub fn stop(self) -> Result<(), Error> {
        self.stop.stop();
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Thread("it panicked".to_owned())),
        }
    }
}

/// Ends a consumer's loop from anywhere.
#[derive(Clone)]
pub struct StopHandle {
    wanted: Arc<AtomicBool>,
    doorbell: Doorbell,
}

impl std::fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StopHandle")
            .field("wanted", &self.is_wanted())
            .finish_non_exhaustive()
    }
}

impl StopHandle {
    /// Asks the loop to end.
    pub fn stop(&self) {
        // ORDERING: Release; pairs with the Acquire of the consumer's last look before it parks.
        self.wanted.store(true, Ordering::Release);
        self.doorbell.ring();
    }

    fn is_wanted(&self) -> bool {
        // ORDERING: Acquire; see `stop`.
        self.wanted.load(Ordering::Acquire)
    }
}

/// The consumer. [`Daemon::run`] is the loop; [`Daemon::step`] is for programs that have one of their own.
pub struct Daemon {
    drain: Drain,
    subscribers: Subscribers,
    schemas: Schemas,
    reload: Option<Reload>,
    sink: Sink,
    router: Router,
    gaps: Gaps,
    reducers: Reducers,
    flush_delay_ns: u64,
    /// Every group is on the disk before it counts as written.
    syncs_always: bool,
    /// What each group that is with the writer makes true, oldest first.
    marks: VecDeque<Mark>,
    has_completed: Arc<AtomicBool>,
    /// Somebody waits for everything that has been published.
    flush: Option<FlushRequest>,
    next_housekeeping_ns: u64,
    life: Life,
    logs_dir: PathBuf,
    bus_name: String,
    trouble: Option<String>,
    /// What fails beside the writing: syncs, seals, indexes. And, last, a writer that had to give its way of writing up.
    upkeep: [Option<String>; 4],
    /// What of that is in the figures already.
    upkeep_counted: UpkeepFigures,
    notices: Vec<Notice>,
    stop: StopHandle,
    /// What ended it: see [`Daemon::failure`].
    failure: Option<millpond_bus::Error>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon")
            .field("drain", &self.drain)
            .field("logs_dir", &self.logs_dir)
            .finish_non_exhaustive()
    }
}

impl Daemon {
    /// A consumer of `bus` that writes to `logs_dir`.
    pub fn builder(bus: &Bus, logs_dir: &Path) -> Builder {
        Builder {
            bus: bus.clone(),
            logs_dir: logs_dir.to_owned(),
            policy: Policy::default(),
            rules: None,
            reductions: Reductions::default(),
            reload: None,
            life: Life::default(),
        }
    }

    /// A handle that ends [`Daemon::run`].
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// The writer's backend, and why it was chosen. As of the last step, should it have had to give one up.
    pub fn backend(&self) -> (&'static str, &str) {
        let backend = self.sink.backend();
        match &self.upkeep[3] {
            Some(reason) => ("pwrite", reason),
            None => (backend.name, &backend.reason),
        }
    }

    /// Why it does nothing any more: another process has truncated or wiped the shared memory that it works on. Then
    /// call [`Daemon::close`], which writes what was taken and returns this error.
    pub fn failure(&self) -> Option<&millpond_bus::Error> {
        self.failure.as_ref()
    }

    /// Runs until [`StopHandle::stop`] or a [`Daemon::failure`], telling `observe` what people should hear of, on this
    /// thread: an `observe` that waits, as for a standard error that nobody reads, keeps the bus waiting.
    pub fn run(&mut self, observe: &mut dyn FnMut(Notice)) {
        let mut idle_rounds = 0;
        while !self.stop.is_wanted() && self.failure.is_none() {
            let step = self.step();
            self.notices.drain(..).for_each(&mut *observe);
            match step {
                Step::Busy { records } => {
                    idle_rounds = 0;
                    if records < FEW_RECORDS {
                        pause();
                    }
                }
                Step::Idle { .. } if idle_rounds < IDLE_ROUNDS => {
                    idle_rounds += 1;
                    pause();
                }
                Step::Idle { sleep, timeout } => {
                    idle_rounds = 0;
                    self.park(sleep, timeout);
                }
            }
        }
        self.life.enter(Phase::Stopping);
        self.take_what_waits();
        self.notices.drain(..).for_each(observe);
    }

    /// Sleeps as an idle step asks for.
    pub fn park(&mut self, sleep: Sleep, timeout: Duration) {
        let (has_completed, stop) = (&self.has_completed, &self.stop);
        self.drain.park(sleep, timeout, || {
            // ORDERING: Acquire; set before the ring that we may have missed.
            has_completed.load(Ordering::Acquire) || stop.is_wanted()
        });
    }

    /// At a stop: everything that has been published by then, unless the writer makes no room for it.
    fn take_what_waits(&mut self) {
        let (mut steps, mut since) = (0, Instant::now());
        while steps < STOP_STEPS_MAX {
            match self.step() {
                Step::Busy { .. } => (steps, since) = (steps + 1, Instant::now()),
                Step::Idle { .. } if !self.sink.has_room() && since.elapsed() < STOP_PATIENCE => {
                    let has_completed = &self.has_completed;
                    let left = STOP_PATIENCE.saturating_sub(since.elapsed());
                    self.drain.park(Sleep::UntilWork, left, || {
                        // ORDERING: Acquire; as in `park`.
                        has_completed.load(Ordering::Acquire)
                    });
                }
                Step::Idle { .. } => return,
            }
        }
    }

    /// What happened since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Does everything that can be done now, without waiting for anything. Nothing after a [`Daemon::failure`].
    pub fn step(&mut self) -> Step {
        if self.failure.is_none() {
            self.failure = self.drain.check().err();
        }
        if self.failure.is_some() {
            let (sleep, timeout) = (Sleep::UntilWork, WAIT_MAX);
            return Step::Idle { sleep, timeout };
        }
        self.reap();
        let now_ns = self.drain.clock().now_ns();
        if now_ns >= self.next_housekeeping_ns || self.drain.directory_changed() {
            self.housekeep(now_ns);
        }
        // Nothing asked is less than anything asked.
        self.flush = self.flush.max(self.drain.flush_requested());
        if self.drain.rotation_requested() {
            tracing::debug!("rotation asked for");
            self.sink.rotate();
        }
        if self.drain.reload_requested() {
            self.reload();
        }
        let passthrough = self.drain.take_passthrough();
        let all = self.flush.is_some();
        let batched = (self.subscribers).deliver(&mut self.drain, &self.schemas, now_ns, all);
        self.sink.look_for_room(now_ns);
        if self.sink.has_room() {
            self.reducers.tell_due(&mut self.sink, now_ns);
        }
        let (records, stopped, pressure) = self.drain_persisted();
        kill_point!("consumer.drained");
        let submitted = self.submit_if_due(now_ns, stopped, pressure);
        let records = records + passthrough + batched;
        if records > 0 || submitted {
            Step::Busy { records }
        } else {
            self.idle(now_ns)
        }
    }

    /// Puts the rules and reductions in force that the program has now.
    fn reload(&mut self) {
        let read = match self.reload.as_mut() {
            Some(read) => read(),
            None => Err("this consumer was started without a source of rules".to_owned()),
        };
        let installed = read.and_then(|Configuration { rules, reductions }| {
            self.drain
                .install_rules(&rules)
                .map_err(|error| error.to_string())?;
            self.subscribers.set_rules(&self.drain, &rules);
            let now_ns = self.drain.clock().now_ns();
            (self.reducers).configure(reductions, &mut self.sink, now_ns);
            Ok(rules.len())
        });
        self.notices.push(match installed {
            Ok(rules) => Notice::Reloaded(format!("{rules} rules are in force")),
            Err(why) => Notice::NotReloaded(format!("the old rules stay in force: {why}")),
        });
    }

    /// Commits the groups that are written.
    fn reap(&mut self) {
        // ORDERING: AcqRel; a completion after this sets it again.
        if !self.has_completed.swap(false, Ordering::AcqRel) {
            return;
        }
        while let Some(group) = self.sink.poll() {
            commit(&mut self.drain, &mut self.marks, &group);
        }
        self.drain.count_syncs(&self.sink.take_syncs());
    }

    /// Formats what waits in persisted lanes into the group being filled.
    fn drain_persisted(&mut self) -> (u64, bool, bool) {
        if !self.sink.has_room() {
            return (0, true, false);
        }
        let (sink, router, gaps) = (&mut self.sink, &mut self.router, &mut self.gaps);
        let (schemas, reducers) = (&self.schemas, &mut self.reducers);
        // By reference: a record that was just put together and is copied as a whole is waited for.
        let pass = self.drain.pass(Scope::Persisted, &mut |item| match &item {
            Item::Gap(gap) => {
                gaps.add(gap);
                Verdict::Keep
            }
            Item::Record(_) if !sink.has_room() => Verdict::Stop,
            Item::Record(record) => match &router.route(record, sink).target {
                None => Verdict::Reject,
                Some((service, source)) => {
                    let level = Level::from_u8(record.level);
                    let shown = schemas.show(record);
                    let message = shown.as_deref().map_or(record.payload, str::as_bytes);
                    reducers.take(sink, *service, record.time_ns, level, source, message)
                }
            },
        });
        (pass.records, pass.stopped, pass.pressure)
    }

    /// Hands the group to the writer if it is time; true if it did.
    fn submit_if_due(&mut self, now_ns: u64, stopped: bool, pressure: bool) -> bool {
        if !self.sink.can_submit() {
            return false;
        }
        let is_empty = self.sink.filling_bytes() == 0;
        // What reduction swallowed waits as long as a line would.
        let reduced_due_ns = self.reduced_due_ns();
        let is_reduced_due = reduced_due_ns.is_some_and(|due_ns| due_ns <= now_ns);
        let is_pending = !is_empty || reduced_due_ns.is_some();
        // Gaps and refused records change what is true without adding a byte.
        let only_marks = !is_pending && self.drain.has_uncommitted(Scope::Persisted);
        let wanted = match self.flush {
            None => false,
            Some(FlushRequest::Durable) => true,
            Some(FlushRequest::Room) => is_pending,
            // Also for what is committed as a count, and stands in no line.
            Some(FlushRequest::Written) => is_pending || self.reducers.due_ns().is_some(),
        };
        let is_due = self.sink.should_submit(now_ns) || is_reduced_due;
        if !(is_due || only_marks || wanted || (pressure && is_pending)) {
            self.flush = None;
            return false;
        }
        let durable = self.flush == Some(FlushRequest::Durable);
        if self.flush >= Some(FlushRequest::Written) || self.syncs_always {
            // Whoever asks for the file finds it there. And the commit point does not outlive a power cut: what is
            // said to be on the disk stands in a line.
            self.reducers.tell_all(&mut self.sink);
        }
        self.gaps.write(&self.router, &mut self.sink, now_ns);
        self.commit_new_services();
        self.reducers.hand_over(&mut self.sink);
        self.sink.submit(now_ns, durable);
        let mark = self.drain.mark(Scope::Persisted);
        self.marks.push_back(mark);
        kill_point!("consumer.submitted");
        if !stopped {
            self.flush = None;
        }
        true
    }

    /// When what reduction swallowed must go into a group.
    fn reduced_due_ns(&self) -> Option<u64> {
        let since_ns = self.reducers.changed_since_ns()?;
        Some(since_ns.saturating_add(self.flush_delay_ns))
    }

    /// A service is committed as it is before its first write: a crash in that write is then undone.
    fn commit_new_services(&mut self) {
        let new = self.sink.take_new_services();
        if !new.is_empty() {
            self.drain.commit(Mark::default(), &new, false);
            kill_point!("open.services_committed");
        }
    }

    /// How to wait when there was nothing to do.
    fn idle(&self, now_ns: u64) -> Step {
        let until = |due_ns: u64| Duration::from_nanos(due_ns.saturating_sub(now_ns)).min(WAIT_MAX);
        let housekeeping = until(self.next_housekeeping_ns);
        let delivery = self.subscribers.due_ns().map(until);
        let (sleep, timeout) = if !self.sink.has_room() {
            let more_room = self.sink.more_room_ns().map(until);
            let timeout = more_room.map_or(housekeeping, |until| until.min(housekeeping));
            (Sleep::UntilDisk, timeout)
        } else if !self.sink.can_submit() {
            (Sleep::UntilThreshold, housekeeping)
        } else {
            let reduced_due_ns = self.reduced_due_ns();
            let is_filling = self.sink.is_filling() || reduced_due_ns.is_some();
            match self.sink.due_ns().into_iter().chain(reduced_due_ns).min() {
                Some(due_ns) if is_filling => {
                    (Sleep::UntilThreshold, until(due_ns).min(housekeeping))
                }
                // A service is to say that it is alive; what comes before is taken at once as ever.
                Some(due_ns) => (Sleep::UntilWork, until(due_ns).min(housekeeping)),
                None => (Sleep::UntilWork, housekeeping),
            }
        };
        // Lines that reduction has to tell, where there is room for them.
        let told = self.reducers.due_ns().filter(|_| self.sink.has_room());
        let timeout = told.map(until).map_or(timeout, |told| timeout.min(told));
        match (delivery, sleep) {
            (None, _) => Step::Idle { sleep, timeout },
            // Something is pending: what comes meanwhile rings when it would be due before we wake.
            (Some(delivery), Sleep::UntilWork) => Step::Idle {
                sleep: Sleep::UntilThreshold,
                timeout: timeout.min(delivery),
            },
            (Some(delivery), _) => Step::Idle {
                sleep,
                timeout: timeout.min(delivery),
            },
        }
    }

    fn housekeep(&mut self, now_ns: u64) {
        let closing = self.drain.housekeep();
        self.subscribers.follow_outboxes(&self.drain);
        self.next_housekeeping_ns = now_ns
            + match closing {
                true => CLOSING_NS,
                false => HOUSEKEEPING_NS,
            };
        (self.notices).extend(
            self.subscribers
                .take_warnings()
                .into_iter()
                .map(Notice::Lane),
        );
        for notice in self.drain.take_notices() {
            self.notices.push(Notice::Lane(match notice {
                ConsumerNotice::Quarantined { label, pid, damage } => {
                    format!("lane of {label:?} (process {pid}) is given up: {damage}")
                }
                ConsumerNotice::Unreadable { error } => error,
            }));
        }
        // Those beside the writes come without a group.
        self.drain.count_syncs(&self.sink.take_syncs());
        if let Some(found) = self.sink.take_disk_use() {
            tell_disk(&self.drain, &found);
        }
        let status = self.sink.status();
        self.count_upkeep(&status);
        let losses = self.sink.take_losses();
        self.notices.extend(losses.into_iter().map(Notice::Lost));
        let upkeep = [
            status.sync_error,
            status.seal_error,
            status.index_error,
            status.fallen_back,
        ];
        if status.trouble == self.trouble && upkeep == self.upkeep {
            return;
        }
        if status.trouble != self.trouble {
            self.notices.push(match &status.trouble {
                Some(trouble) => Notice::Trouble(trouble.clone()),
                None => Notice::TroubleOver,
            });
        }
        for (new, old) in upkeep.iter().zip(&self.upkeep) {
            self.notices
                .extend((new.clone()).filter(|_| new != old).map(Notice::Upkeep));
        }
        self.life.set_can_write(status.trouble.is_none());
        (self.trouble, self.upkeep) = (status.trouble, upkeep);
        self.describe();
    }

    /// Counts what the writer did beside writing since the last time.
    fn count_upkeep(&mut self, status: &WriterStatus) {
        let now = upkeep_of(status);
        if now != self.upkeep_counted {
            self.drain.count_upkeep(&now.since(&self.upkeep_counted));
            self.upkeep_counted = now;
        }
    }

    fn describe(&mut self) {
        let (name, reason) = self.backend();
        let backend = format!("{name} ({reason})");
        let logs_dir = self.logs_dir.to_string_lossy();
        // The worst first: there is room for so much only.
        let troubles: Vec<&str> = std::iter::once(&self.trouble)
            .chain(&self.upkeep)
            .filter_map(Option::as_deref)
            .collect();
        self.drain
            .describe(&backend, &logs_dir, &troubles.join("; "));
    }

    /// Writes what is left, syncs it, and gives the lease back.
    ///
    /// After a [`Daemon::failure`] too: what was taken from the lanes stands in the files then, but nothing is committed
    /// that rests on memory which is gone. A consumer that finds the bus again cuts what was not committed and takes it
    /// from the lanes once more; on a new bus the text stays as it is.
    ///
    /// # Errors
    /// `Bus` with the failure, where there was one.
    /// `NotWritten` where the writer did not manage within a few seconds: nothing is lost, the records wait
    /// in their lanes.
    pub fn close(mut self) -> Result<(), Error> {
        self.life.enter(Phase::Stopping);
        self.reap();
        let now_ns = self.drain.clock().now_ns();
        if self.failure.is_some() {
            // Lanes that are whole are not read again on a new bus.
            self.drain_persisted();
        }
        if self.failure.is_none() {
            // What is pending goes out, due or not.
            (self.subscribers).deliver(&mut self.drain, &self.schemas, now_ns, true);
        }
        self.gaps.write(&self.router, &mut self.sink, now_ns);
        self.reducers.tell_all(&mut self.sink);
        self.commit_new_services();
        self.reducers.hand_over(&mut self.sink);
        self.marks.push_back(self.drain.mark(Scope::Persisted));
        let closed = self.sink.close(now_ns);
        kill_point!("closing.written");
        // Each with its own mark: what was not written is not committed.
        for group in &closed.groups {
            commit(&mut self.drain, &mut self.marks, group);
        }
        self.drain.count_syncs(&closed.syncs_ns);
        if let Some(found) = &closed.disk_use {
            tell_disk(&self.drain, found);
        }
        let upkeep = upkeep_of(&closed.status).since(&self.upkeep_counted);
        self.drain.count_upkeep(&upkeep);
        kill_point!("closing.committed");
        if let Some(failure) = self.failure {
            return Err(Error::Bus(failure));
        }
        if let Some(trouble) = closed.trouble {
            return Err(Error::NotWritten { trouble });
        }
        self.drain.housekeep();
        tracing::info!(
            bus = self.bus_name,
            "consumer stopped, everything is written"
        );
        Ok(())
    }
}

/// A line that says that it is older is counted as so old.
const DELAY_NS_MAX: u64 = 24 * 3600 * 1_000_000_000;

/// Makes a group true that is written, the oldest that is not true yet.
fn commit(drain: &mut Drain, marks: &mut VecDeque<Mark>, group: &CompletedGroup) {
    if let Some(mark) = marks.pop_front() {
        // Nothing where the bus is lost.
        if let Some(events) = drain.commit(mark, &group.services, group.durable) {
            let now_ns = drain.clock().now_ns();
            // The stamp is a publisher's word: a wrong one must not fill the sum for good.
            let delay = |first_ns| now_ns.saturating_sub(first_ns).min(DELAY_NS_MAX);
            drain.count_group(&GroupFigures {
                events,
                bytes: group.bytes,
                write_ns: group.write_ns,
                delay_ns: group.first_line_ns.map(delay),
            });
        }
    }
    if group.durable {
        drain.mark_durable();
    }
}

fn upkeep_of(status: &WriterStatus) -> UpkeepFigures {
    UpkeepFigures {
        write_failures: status.failures,
        seal_failures: status.seal_failures,
        sealed_segments: status.sealed_segments,
        sealed_saved_bytes: status.saved_bytes,
        trimmed_segments: status.trimmed_segments,
        trimmed_bytes: status.trimmed_bytes,
    }
}

fn tell_disk(drain: &Drain, found: &DiskUse) {
    let services = found.services.iter();
    drain.tell_disk(
        &found.disk,
        services.map(|(name, of_service)| (name.as_str(), *of_service)),
    );
}

fn pause() {
    for _ in 0..PAUSE_SPINS {
        std::hint::spin_loop();
    }
}

fn describe_cut(cut: &Cut) -> String {
    let Cut {
        service,
        cut_bytes,
        missing_bytes,
        kept_bytes,
        why,
    } = cut;
    match missing_bytes {
        0 if *kept_bytes > 0 => format!("{service}: kept {kept_bytes} bytes of its log: {why}"),
        0 => format!("{service}: cut {cut_bytes} bytes from the end of its log: {why}"),
        _ => format!("{service}: {missing_bytes} bytes of its log are gone that were committed"),
    }
}
