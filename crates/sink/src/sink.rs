//! The consumer's half: lines into buffers, buffers into groups, completed groups back.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use millpond_bus::{Histogram, ServiceCommit, Untold};
use millpond_logfile::{BlockWriter, Level, SegmentId, Source, check_service_name};

use crate::error::{Error, ErrorKind};
use crate::open::{Cut, OpenedDirectory};
use crate::policy::{Policy, ServiceLimits};
use crate::writer::{
    Backend, CLOSE_PATIENCE, DiskUse, Gone, Group, Reply, Write, Writer, WriterStatus,
    file_bytes_limit,
};

/// Most services of one directory: what the commit point has room for.
const SERVICES_MAX: usize = 1024;
/// The source of the lines that we write ourselves.
const OWN_SOURCE: &str = "millpond";
/// Groups handed to the writer at a time: one being written, one behind it.
pub(crate) const IN_FLIGHT_MAX: usize = 2;
/// An idle writer is given a group of this size at once.
const EAGER_BYTES: usize = 256 << 10;
/// While the writer keeps up, a group takes this much for each service in it, twice what it is submitted with behind
/// another: text of a flood is then still in the processor's cache when it is written, and of many services each has
/// a write that is worth one. Measured with one service at full rate: 4 MiB takes 1.2 times the processor time, and so
/// does half of this.
const ROOM_PER_SERVICE_BYTES: usize = 512 << 10;
/// A writer that has had a group for this long does not keep up, and a group takes all that it may, so that lanes do
/// not fill as soon.
const STALL_NS: u64 = 50_000_000;
/// One that has had it for this long is waited for in vain: people should hear of it.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Ids that the writer may have used between that of a segment and the next: it begins a segment in the place of one
/// that was removed.
pub(crate) const SPARE_IDS: u64 = 1024;
/// Buffers kept for reuse, together.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// A service of this sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(u32);

impl ServiceId {
    /// Its place in lists by service: the services of a sink are numbered from 0 on, without a gap.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A group whose text is in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedGroup {
    /// Counts from 1 in the order of submission, which is also the order of completion.
    pub group: u64,
    /// The new state of every service that had lines in it.
    pub services: Vec<ServiceCommit>,
    /// Its text, in bytes.
    pub bytes: u64,
    /// From the moment the writer took it until all of that was in the files, in ns: every attempt, no sync.
    pub write_ns: u64,
    /// Time of its first line, in ns; `None` where it has none.
    pub first_line_ns: Option<u64>,
    /// Whether it, and everything before it, is on the disk.
    pub durable: bool,
}

/// How the end of a sink went.
///
/// ```no_run
/// # fn show(sink: millpond_sink::Sink) {
/// if let Some(trouble) = sink.close(8).trouble {
///     eprintln!("what was not written counts as never appended: {trouble}");
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "only these groups are written, and each has to be committed"]
pub struct Closed {
    /// The groups that completed meanwhile, oldest first: to be committed as those from [`Sink::poll`].
    pub groups: Vec<CompletedGroup>,
    /// Why the rest could not be written; `None` when everything is, on the disk.
    pub trouble: Option<String>,
    /// As the last [`Sink::take_syncs`].
    pub syncs_ns: Histogram,
    /// As the last [`Sink::take_disk_use`].
    pub disk_use: Option<DiskUse>,
    /// As the last [`Sink::status`].
    pub status: WriterStatus,
}

/// One service's open segment, as the consumer sees it.
struct Service {
    commit: ServiceCommit,
    limits: ServiceLimits,
    block: BlockWriter,
    buffer: Vec<u8>,
    /// Where in the segment the buffer begins.
    buffer_offset: u64,
    buffer_lines: u64,
    rotate: bool,
    /// It is part of the group being filled.
    touched: bool,
    alive: Option<Alive>,
}

/// When a service says next that it is alive, and what it has to say.
struct Alive {
    due_ns: u64,
    interval_ns: u64,
    lines: u64,
}

/// A group that is with the writer.
struct Submitted {
    group: u64,
    since_ns: u64,
    since: Instant,
    first_line_ns: Option<u64>,
    services: Vec<ServiceCommit>,
}

/// What a group with so many services takes.
fn room_bytes(services: usize, is_stalled: bool, limit: usize) -> usize {
    match is_stalled {
        true => limit,
        false => (services.max(1) * ROOM_PER_SERVICE_BYTES).min(limit),
    }
}

/// The consumer's half of the sink.
///
/// See the crate's front page for its use. Dropping it without [`Sink::close`] leaves what is not written
/// unwritten, as a crash would.
pub struct Sink {
    policy: Policy,
    logs_dir: PathBuf,
    /// Segments that the writer goes on with in other files: what is committed of them is told as it is there.
    moved: Vec<Gone>,
    /// What is to be said of that, in the log and to people.
    losses: Vec<Gone>,
    told_losses: Vec<String>,
    /// What the policy says, made to fit the cap over all.
    group_bytes_limit: usize,
    /// What the group being filled takes now, at most that.
    room_bytes: usize,
    /// The writer does not keep up.
    is_stalled: bool,
    own_source: Source,
    /// The earliest of all services.
    alive_due_ns: Option<u64>,
    /// The last group that the caller has seen complete, and the last it has committed.
    seen: u64,
    services: Vec<Service>,
    ids: HashMap<String, ServiceId>,
    touched: Vec<ServiceId>,
    /// Services before this one have been handed out by `take_new_services`.
    announced: usize,
    filling_bytes: usize,
    filling_since_ns: Option<u64>,
    submitted: VecDeque<Submitted>,
    groups: u64,
    writer: Writer,
    replies: mpsc::Receiver<Reply>,
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("services", &self.services.len())
            .field("filling_bytes", &self.filling_bytes)
            .field("in_flight", &self.submitted.len())
            .finish_non_exhaustive()
    }
}

impl Sink {
    /// Opens a log directory for writing, and recovers what the last writer left in it.
    ///
    /// `owner` names whoever keeps the commit point; `committed` is what that says. It counts only if the
    /// same owner was the last to write here. `completed` is called from the writer thread after each group.
    ///
    /// # Errors
    /// The policy is wrong, the directory cannot be written or is in use, or io_uring was asked for and is
    /// refused.
    pub fn open(
        logs_dir: &Path,
        policy: Policy,
        owner: &str,
        committed: &[ServiceCommit],
        now_ns: u64,
        completed: impl Fn() + Send + 'static,
    ) -> Result<(Self, Vec<Cut>), Error> {
        policy.check()?;
        let policy = policy.within_file_limit(file_bytes_limit())?;
        let opened = OpenedDirectory::open(logs_dir, &policy, owner, committed, now_ns)?;
        let (reply, replies) = mpsc::channel();
        let writer = Writer::start(
            logs_dir,
            &policy,
            (opened.lock, owner),
            opened.catalog,
            now_ns,
            reply,
            completed,
        )?;
        let mut sink = Sink {
            group_bytes_limit: policy.effective_group_bytes(),
            room_bytes: 0,
            is_stalled: false,
            policy,
            logs_dir: logs_dir.to_owned(),
            moved: Vec::new(),
            losses: Vec::new(),
            told_losses: Vec::new(),
            own_source: Source::new(OWN_SOURCE),
            alive_due_ns: None,
            seen: 0,
            services: Vec::new(),
            ids: HashMap::new(),
            touched: Vec::new(),
            announced: 0,
            filling_bytes: 0,
            filling_since_ns: None,
            submitted: VecDeque::new(),
            groups: 0,
            writer,
            replies,
            spare: Vec::new(),
            spare_bytes: 0,
        };
        for (commit, block) in opened.services {
            sink.add_service(commit, block, now_ns);
        }
        sink.set_room();
        Ok((sink, opened.cuts))
    }

    fn add_service(&mut self, commit: ServiceCommit, block: BlockWriter, now_ns: u64) -> ServiceId {
        let id = ServiceId(self.services.len() as u32);
        self.ids.insert(commit.name.clone(), id);
        let buffer_offset = block.length_bytes();
        let limits = self.policy.limits_of(&commit.name);
        let alive = limits.liveness.map(|interval| {
            let interval_ns = interval.as_nanos() as u64;
            Alive {
                due_ns: now_ns.saturating_add(interval_ns),
                interval_ns,
                lines: 0,
            }
        });
        if let Some(alive) = &alive {
            let due_ns = self.alive_due_ns.unwrap_or(u64::MAX).min(alive.due_ns);
            self.alive_due_ns = Some(due_ns);
        }
        self.services.push(Service {
            commit,
            limits,
            block,
            buffer: Vec::new(),
            buffer_offset,
            buffer_lines: 0,
            rotate: false,
            touched: false,
            alive,
        });
        id
    }

    /// The service with this name, new or known. Touches no file.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, `LimitReached` beyond 1,024 services.
    pub fn service(&mut self, name: &str, now_ns: u64) -> Result<ServiceId, Error> {
        if let Some(&id) = self.ids.get(name) {
            return Ok(id);
        }
        check_service_name(name)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, error.to_string()))?;
        if self.services.len() == SERVICES_MAX {
            let message =
                format!("service {name:?} would be one more than the limit of {SERVICES_MAX}");
            return Err(Error::new(ErrorKind::LimitReached, message));
        }
        let commit = ServiceCommit {
            name: name.to_owned(),
            segment_id: now_ns,
            segments: 1,
            ..ServiceCommit::default()
        };
        Ok(self.add_service(commit, BlockWriter::new(), now_ns))
    }

    /// The services that are new since the last call, those found in the directory included, as they were
    /// before anything is written to them. Whoever keeps the commit point must commit these before the next
    /// [`Sink::submit`]: else what a crash leaves of their first group looks like text of an earlier owner.
    pub fn take_new_services(&mut self) -> Vec<ServiceCommit> {
        let new = &self.services[self.announced..];
        self.announced = self.services.len();
        new.iter().map(|service| service.commit.clone()).collect()
    }

    /// Appends a line to the group that is being filled. Ask [`Sink::has_room`] first.
    #[inline]
    pub fn append(
        &mut self,
        service: ServiceId,
        time_ns: u64,
        level: Level,
        source: &Source,
        message: &[u8],
    ) {
        let state = &mut self.services[service.0 as usize];
        let before = state.buffer.len();
        if before == 0 {
            if let Some(spare) = self.spare.pop() {
                self.spare_bytes -= spare.capacity();
                state.buffer = spare;
            }
            if !std::mem::replace(&mut state.touched, true) {
                self.touched.push(service);
                self.room_bytes =
                    room_bytes(self.touched.len(), self.is_stalled, self.group_bytes_limit);
            }
            self.filling_since_ns.get_or_insert(time_ns);
        }
        state
            .block
            .append(&mut state.buffer, time_ns, level, source, message);
        state.buffer_lines += 1;
        if let Some(alive) = &mut state.alive {
            alive.lines += 1;
        }
        self.filling_bytes += state.buffer.len() - before;
    }

    /// The service at this place, below the number of services: see [`ServiceId::index`].
    pub fn service_at(&self, index: usize) -> ServiceId {
        debug_assert!(index < self.services.len());
        ServiceId(index as u32)
    }

    /// The name of a service.
    pub fn service_name(&self, service: ServiceId) -> &str {
        &self.services[service.index()].commit.name
    }

    /// What was taken of a service and stands in no line yet. It becomes true with the group being filled, of
    /// which the service is a part from now on, also without a line.
    ///
    /// Call it between [`Sink::take_new_services`] and [`Sink::submit`]: a new service is committed as it is
    /// before its first group.
    pub fn set_untold(&mut self, service: ServiceId, untold: Untold) {
        self.touch(service).commit.untold = untold;
    }

    /// Pieces of text that redaction has replaced in records of a service. As [`Sink::set_untold`].
    pub fn add_redacted(&mut self, service: ServiceId, count: u64) {
        self.touch(service).commit.redacted += count;
    }

    fn touch(&mut self, service: ServiceId) -> &mut Service {
        let state = &mut self.services[service.index()];
        if !std::mem::replace(&mut state.touched, true) {
            self.touched.push(service);
        }
        state
    }

    /// Whether the group being filled may take another line.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.filling_bytes < self.room_bytes
    }

    /// Makes more room in the group being filled where the writer does not keep up. Without a call now and then a
    /// group takes less than the policy says.
    pub fn look_for_room(&mut self, now_ns: u64) {
        let is_stalled = self.stall_ns().is_some_and(|stall_ns| stall_ns <= now_ns);
        if is_stalled != self.is_stalled {
            self.is_stalled = is_stalled;
            self.set_room();
        }
    }

    /// When the group being filled gets more room, in ns, should the writer not be done by then; `None` where nothing
    /// is with the writer, or there is as much already.
    pub fn more_room_ns(&self) -> Option<u64> {
        self.stall_ns().filter(|_| !self.is_stalled)
    }

    fn stall_ns(&self) -> Option<u64> {
        let oldest = self.submitted.front()?;
        Some(oldest.since_ns.saturating_add(STALL_NS))
    }

    fn set_room(&mut self) {
        self.room_bytes = room_bytes(self.touched.len(), self.is_stalled, self.group_bytes_limit);
    }

    /// Bytes of text in the group being filled.
    pub fn filling_bytes(&self) -> usize {
        self.filling_bytes
    }

    /// When the group being filled must go, or a service has to say that it is alive, in ns; `None` while there
    /// is neither.
    pub fn due_ns(&self) -> Option<u64> {
        let delay_ns = self.policy.flush_delay.as_nanos() as u64;
        let filled = (self.filling_since_ns).map(|since| since.saturating_add(delay_ns));
        match (filled, self.alive_due_ns) {
            (Some(filled), Some(alive)) => Some(filled.min(alive)),
            (filled, alive) => filled.or(alive),
        }
    }

    /// Whether the group being filled has something to write or to say.
    pub fn is_filling(&self) -> bool {
        self.filling_since_ns.is_some()
    }

    /// Whether the writer would take a group now.
    pub fn can_submit(&self) -> bool {
        self.submitted.len() < IN_FLIGHT_MAX
    }

    /// Whether it is time to submit: the group is due, large, or large enough for a writer that is idle.
    pub fn should_submit(&self, now_ns: u64) -> bool {
        let due = self.due_ns().is_some_and(|due_ns| due_ns <= now_ns);
        let large = self.filling_bytes >= self.room_bytes / 2;
        let eager = self.submitted.is_empty() && self.filling_bytes >= EAGER_BYTES;
        self.can_submit() && (due || large || eager)
    }

    /// Lines of the services that have to say that they are alive, silent ones too.
    fn tell_alive(&mut self, now_ns: u64) {
        if self.alive_due_ns.is_none_or(|due_ns| now_ns < due_ns) {
            return;
        }
        let source = self.own_source.clone();
        let mut next_due_ns = None;
        for index in 0..self.services.len() {
            let Some(alive) = &mut self.services[index].alive else {
                continue;
            };
            let lines = (alive.due_ns <= now_ns).then(|| {
                // Late by more than an interval: one line is enough.
                alive.due_ns = now_ns.saturating_add(alive.interval_ns);
                alive.lines
            });
            next_due_ns = Some(next_due_ns.unwrap_or(u64::MAX).min(alive.due_ns));
            if let Some(lines) = lines {
                let message = format!("alive lines={lines}");
                let id = ServiceId(index as u32);
                self.append(id, now_ns, Level::Info, &source, message.as_bytes());
                if let Some(alive) = &mut self.services[index].alive {
                    alive.lines = 0;
                }
            }
        }
        self.alive_due_ns = next_due_ns;
    }

    /// Hands the group to the writer and returns its number. With `sync` it comes back durable. An empty
    /// group is allowed: it comes back after everything before it. What [`Sink::poll`] has returned before counts
    /// as committed from here on.
    pub fn submit(&mut self, now_ns: u64, sync: bool) -> u64 {
        self.writer.set_committed(self.seen);
        self.tell_alive(now_ns);
        self.tell_losses(now_ns);
        self.groups += 1;
        let mut writes = Vec::with_capacity(self.touched.len());
        let mut services = Vec::with_capacity(self.touched.len());
        for id in std::mem::take(&mut self.touched) {
            let state = &mut self.services[id.0 as usize];
            state.touched = false;
            // What reduction says of a service is committed without a write, which would make a file.
            if state.rotate || !state.buffer.is_empty() {
                writes.push(state.take_write(now_ns));
            }
            services.push(state.commit.clone());
            state.begin_next_segment(now_ns);
        }
        self.filling_bytes = 0;
        // 0 says that it was to go at once, and nothing of its lines.
        let first_line_ns = self.filling_since_ns.take().filter(|&ns| ns != 0);
        self.submitted.push_back(Submitted {
            group: self.groups,
            since_ns: now_ns,
            since: Instant::now(),
            first_line_ns,
            services,
        });
        self.set_room();
        self.writer.send(Group {
            group: self.groups,
            writes,
            sync,
            now_ns,
        });
        self.groups
    }

    /// The next group that has been written, if any. Never blocks. What an earlier call has returned counts as
    /// committed from here on: only then may its closed segments be sealed.
    pub fn poll(&mut self) -> Option<CompletedGroup> {
        self.writer.set_committed(self.seen);
        let reply = self.replies.try_recv().ok()?;
        Some(self.complete(reply))
    }

    fn complete(&mut self, reply: Reply) -> CompletedGroup {
        for mut buffer in reply.buffers {
            buffer.clear();
            let fits = self.spare_bytes + buffer.capacity() <= SPARE_BYTES_MAX;
            if fits && buffer.capacity() > 0 {
                self.spare_bytes += buffer.capacity();
                self.spare.push(buffer);
            }
        }
        let (mut services, first_line_ns) = match self.submitted.pop_front() {
            Some(submitted) if submitted.group == reply.group => {
                (submitted.services, submitted.first_line_ns)
            }
            _ => (Vec::new(), None),
        };
        self.seen = reply.group;
        for gone in reply.gone {
            self.note_gone(gone);
        }
        for commit in &mut services {
            self.move_commit(commit);
        }
        for (service, segment) in reply.too_large {
            // By the time it comes another segment may be open.
            let id = self.ids.get(&service).copied();
            if let Some(id) = id
                && self.services[id.0 as usize].commit.segment_id == segment.as_ns()
            {
                self.rotate_one(id);
            }
        }
        CompletedGroup {
            group: reply.group,
            services,
            bytes: reply.bytes,
            write_ns: reply.write_ns,
            first_line_ns,
            durable: reply.durable,
        }
    }

    /// A segment was removed under the writer's hands.
    fn note_gone(&mut self, gone: Gone) {
        let (service, segment) = (gone.service.clone(), gone.segment);
        self.losses.push(gone.clone());
        if gone.base > 0 {
            let is_same = |other: &Gone| (&other.service, other.segment) == (&service, segment);
            self.moved.retain(|other| !is_same(other));
            self.moved.push(gone);
        }
        let Some(&id) = self.ids.get(&service) else {
            return;
        };
        if self.services[id.index()].commit.segment_id == segment.as_ns() {
            self.rotate_one(id);
        }
        // So that it is told soon, whatever comes or not.
        self.filling_since_ns.get_or_insert(0);
    }

    /// What the consumer counts from the beginning of a segment that is gone is elsewhere.
    fn move_commit(&mut self, commit: &mut ServiceCommit) {
        let Some(at) = (self.moved.iter()).position(|gone| gone.service == commit.name) else {
            return;
        };
        let gone = &self.moved[at];
        if gone.segment.as_ns() == commit.segment_id {
            commit.segment_id = gone.begun.as_ns();
            commit.length_bytes = commit.length_bytes.saturating_sub(gone.base);
        } else {
            // The next one has begun.
            self.moved.swap_remove(at);
        }
    }

    /// Lines in the logs of the services whose files somebody has removed.
    fn tell_losses(&mut self, now_ns: u64) {
        let source = self.own_source.clone();
        for gone in std::mem::take(&mut self.losses) {
            let Some(&id) = self.ids.get(&gone.service) else {
                continue;
            };
            let message = format!(
                "removed bytes={} segments={} last={}",
                gone.lost_bytes, gone.lost_segments, gone.segment
            );
            self.append(id, now_ns, Level::Warn, &source, message.as_bytes());
            self.told_losses.push(format!(
                "{}: somebody removed or cut files that were being written: {} bytes of the open segment {} and {} closed \
                 segments are gone; the log goes on in a new one",
                self.logs_dir.join(&gone.service).display(),
                gone.lost_bytes,
                gone.segment,
                gone.lost_segments
            ));
        }
    }

    /// What was found to be gone of the log since the last call, because somebody removed it while it was written. Each
    /// is also a line in the log of its service.
    pub fn take_losses(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told_losses)
    }

    /// Groups that are with the writer.
    pub fn in_flight(&self) -> usize {
        self.submitted.len()
    }

    /// Closes the open segment of every service with the next group.
    pub fn rotate(&mut self) {
        for index in 0..self.services.len() {
            self.rotate_one(ServiceId(index as u32));
        }
    }

    /// The same for one service; false where it is not known.
    pub fn rotate_service(&mut self, name: &str) -> bool {
        let id = self.ids.get(name).copied();
        if let Some(id) = id {
            self.rotate_one(id);
        }
        id.is_some()
    }

    fn rotate_one(&mut self, id: ServiceId) {
        let state = &mut self.services[id.0 as usize];
        if state.block.length_bytes() == 0 || state.rotate {
            return;
        }
        state.rotate = true;
        if !std::mem::replace(&mut state.touched, true) {
            // No new lines: the group says that the segment ends, and nothing else.
            self.touched.push(id);
        }
        self.filling_since_ns = Some(0);
    }

    /// The backend in use, and why.
    pub fn backend(&self) -> &Backend {
        self.writer.backend()
    }

    /// How the writer is doing.
    pub fn status(&self) -> WriterStatus {
        let mut status = self.writer.status();
        let oldest = self.submitted.front();
        if status.trouble.is_none()
            && oldest.is_some_and(|group| group.since.elapsed() > SILENCE_MAX)
        {
            // Always the same words: it is told once.
            status.trouble = Some(format!(
                "the disk does not answer: a call on {} has not come back for more than {} s",
                self.logs_dir.display(),
                SILENCE_MAX.as_secs()
            ));
        }
        status
    }

    /// The syncs since the last call, each by its length in ns: of groups that must be durable, and beside the writes.
    pub fn take_syncs(&mut self) -> Histogram {
        self.writer.take_syncs()
    }

    /// What the log has of the disk, where the writer has looked since the last call: once a second while it writes,
    /// else every 5 s.
    pub fn take_disk_use(&mut self) -> Option<DiskUse> {
        self.writer.take_disk_use()
    }

    /// Submits what is left, waits until it is on the disk, and ends the writer.
    ///
    /// Blocks; a writer that cannot write is given about 10 s beyond its last success.
    pub fn close(mut self, now_ns: u64) -> Closed {
        let last = self.submit(now_ns, true);
        let mut groups = Vec::with_capacity(self.submitted.len());
        while self.seen < last
            && let Ok(reply) = self.replies.recv_timeout(CLOSE_PATIENCE)
        {
            groups.push(self.complete(reply));
        }
        if self.seen < last {
            // What it still manages counts too.
            self.writer.end();
            while let Ok(reply) = self.replies.try_recv() {
                groups.push(self.complete(reply));
            }
        }
        let trouble = (self.seen < last).then(|| {
            let known = self.status().trouble;
            known.unwrap_or_else(|| "the writer was too slow".to_owned())
        });
        // What it says last.
        self.writer.end();
        Closed {
            groups,
            trouble,
            syncs_ns: self.writer.take_syncs(),
            disk_use: self.writer.take_disk_use(),
            status: self.writer.status(),
        }
    }
}

impl Service {
    /// What the writer has to do for this service; the commit is what is true afterwards.
    fn take_write(&mut self, now_ns: u64) -> Write {
        self.touched = false;
        let opened_ns = self.commit.segment_id;
        let age = self.limits.segment_age;
        let too_old =
            age.is_some_and(|age| now_ns.saturating_sub(opened_ns) >= age.as_nanos() as u64);
        let bytes = self.block.length_bytes();
        // A segment without text is not there: nothing to close.
        let closes = bytes > 0 && (self.rotate || too_old || bytes >= self.limits.segment_bytes);
        if closes {
            self.block.finish(&self.buffer);
        } else {
            self.block.fold(&self.buffer);
        }
        let text = std::mem::take(&mut self.buffer);
        self.commit.length_bytes = self.block.length_bytes();
        self.commit.lines += std::mem::take(&mut self.buffer_lines);
        self.commit.bytes += text.len() as u64;
        let offset = std::mem::replace(&mut self.buffer_offset, self.block.length_bytes());
        self.rotate = closes;
        Write {
            service: self.commit.name.clone(),
            segment: SegmentId::from_ns(self.commit.segment_id),
            offset,
            text,
            entries: self.block.take_entries(),
            closes,
        }
    }

    /// After a write that closed the segment: what comes next goes to a new one. Its file is made with its
    /// first line.
    fn begin_next_segment(&mut self, now_ns: u64) {
        if std::mem::take(&mut self.rotate) {
            let least_ns = self.commit.segment_id.saturating_add(SPARE_IDS);
            self.commit.segment_id = now_ns.max(least_ns);
            self.commit.length_bytes = 0;
            self.commit.segments += 1;
            self.block = BlockWriter::new();
            self.buffer_offset = 0;
        }
    }
}
