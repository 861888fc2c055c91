//! The consumer's half: lines into buffers, buffers into groups, completed groups back.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use millpond_bus::ServiceCommit;
use millpond_logfile::{BlockWriter, Level, SegmentId, Source, check_service_name};

use crate::error::{Error, ErrorKind};
use crate::open::{Cut, OpenedDirectory};
use crate::policy::Policy;
use crate::writer::{Backend, Group, Reply, Write, Writer, WriterStatus};

/// Most services of one directory: what the commit point has room for.
const SERVICES_MAX: usize = 1024;
/// Groups handed to the writer at a time: one being written, one behind it.
const IN_FLIGHT_MAX: usize = 2;
/// An idle writer is given a group of this size at once.
const EAGER_BYTES: usize = 256 << 10;
/// Buffers kept for reuse, together.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// A service of this sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(u32);

/// A group whose text is in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedGroup {
    /// Counts from 1 in the order of submission, which is also the order of completion.
    pub group: u64,
    /// The new state of every service that had lines in it.
    pub services: Vec<ServiceCommit>,
    /// Whether it, and everything before it, is on the disk.
    pub durable: bool,
}

/// One service's open segment, as the consumer sees it.
struct Service {
    commit: ServiceCommit,
    block: BlockWriter,
    buffer: Vec<u8>,
    /// Where in the segment the buffer begins.
    buffer_offset: u64,
    buffer_lines: u64,
    rotate: bool,
}

/// A group that is with the writer.
struct Submitted {
    group: u64,
    services: Vec<ServiceCommit>,
}

/// The consumer's half of the sink.
///
/// See the crate's front page for its use. Dropping it without [`Sink::close`] leaves what is not written
/// unwritten, as a crash would.
pub struct Sink {
    policy: Policy,
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
        let opened = OpenedDirectory::open(logs_dir, owner, committed, now_ns)?;
        let (reply, replies) = mpsc::channel();
        let writer = Writer::start(
            logs_dir,
            &policy,
            opened.lock,
            opened.catalog,
            reply,
            completed,
        )?;
        let mut sink = Sink {
            policy,
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
            sink.add_service(commit, block);
        }
        Ok((sink, opened.cuts))
    }

    fn add_service(&mut self, commit: ServiceCommit, block: BlockWriter) -> ServiceId {
        let id = ServiceId(self.services.len() as u32);
        self.ids.insert(commit.name.clone(), id);
        let buffer_offset = block.length_bytes();
        self.services.push(Service {
            commit,
            block,
            buffer: Vec::new(),
            buffer_offset,
            buffer_lines: 0,
            rotate: false,
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
        Ok(self.add_service(commit, BlockWriter::new()))
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
            if !state.rotate {
                self.touched.push(service);
            }
            self.filling_since_ns.get_or_insert(time_ns);
        }
        state
            .block
            .append(&mut state.buffer, time_ns, level, source, message);
        state.buffer_lines += 1;
        self.filling_bytes += state.buffer.len() - before;
    }

    /// Whether the group being filled may take another line.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.filling_bytes < self.policy.group_bytes_limit
    }

    /// Bytes of text in the group being filled.
    pub fn filling_bytes(&self) -> usize {
        self.filling_bytes
    }

    /// When the group being filled must go, in ns; `None` while it is empty.
    pub fn due_ns(&self) -> Option<u64> {
        let delay_ns = self.policy.flush_delay.as_nanos() as u64;
        Some(self.filling_since_ns?.saturating_add(delay_ns))
    }

    /// Whether the writer would take a group now.
    pub fn can_submit(&self) -> bool {
        self.submitted.len() < IN_FLIGHT_MAX
    }

    /// Whether it is time to submit: the group is due, large, or large enough for a writer that is idle.
    pub fn should_submit(&self, now_ns: u64) -> bool {
        let due = self.due_ns().is_some_and(|due_ns| due_ns <= now_ns);
        let large = self.filling_bytes >= self.policy.group_bytes_limit / 2;
        let eager = self.submitted.is_empty() && self.filling_bytes >= EAGER_BYTES;
        self.can_submit() && (due || large || eager)
    }

    /// Hands the group to the writer and returns its number. With `sync` it comes back durable. An empty
    /// group is allowed: it comes back after everything before it.
    pub fn submit(&mut self, now_ns: u64, sync: bool) -> u64 {
        self.groups += 1;
        let mut writes = Vec::with_capacity(self.touched.len());
        let mut services = Vec::with_capacity(self.touched.len());
        for id in std::mem::take(&mut self.touched) {
            let state = &mut self.services[id.0 as usize];
            writes.push(state.take_write(&self.policy, now_ns));
            services.push(state.commit.clone());
            state.begin_next_segment(now_ns);
        }
        self.filling_bytes = 0;
        self.filling_since_ns = None;
        self.submitted.push_back(Submitted {
            group: self.groups,
            services,
        });
        self.writer.send(Group {
            group: self.groups,
            writes,
            sync,
        });
        self.groups
    }

    /// The next group that has been written, if any. Never blocks.
    pub fn poll(&mut self) -> Option<CompletedGroup> {
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
        let services = match self.submitted.pop_front() {
            Some(submitted) if submitted.group == reply.group => submitted.services,
            _ => Vec::new(),
        };
        CompletedGroup {
            group: reply.group,
            services,
            durable: reply.durable,
        }
    }

    /// Groups that are with the writer.
    pub fn in_flight(&self) -> usize {
        self.submitted.len()
    }

    /// Closes the open segment of every service with the next group.
    pub fn rotate(&mut self) {
        (0..self.services.len()).for_each(|index| self.rotate_index(index));
    }

    /// Closes the open segment of one service with the next group; does nothing where there is no such service,
    /// or no line in its open segment.
    pub fn rotate_service(&mut self, name: &str) {
        if let Some(&ServiceId(index)) = self.ids.get(name) {
            self.rotate_index(index as usize);
        }
    }

    fn rotate_index(&mut self, index: usize) {
        let state = &mut self.services[index];
        if state.block.length_bytes() == 0 || state.rotate {
            return;
        }
        state.rotate = true;
        if state.buffer.is_empty() {
            // No new lines: the group says that the segment ends, and nothing else.
            self.touched.push(ServiceId(index as u32));
        }
        self.filling_since_ns = Some(0);
    }

    /// The backend in use, and why.
    pub fn backend(&self) -> &Backend {
        self.writer.backend()
    }

    /// How the writer is doing.
    pub fn status(&self) -> WriterStatus {
        self.writer.status()
    }

    /// Submits what is left, waits until it is on the disk, and ends the writer. Returns the last group.
    ///
    /// Groups that complete meanwhile are merged into it. `None` where the writer could not write them in
    /// time (it is given 5 s beyond its last success): they count as not written.
    pub fn close(mut self, now_ns: u64) -> Option<CompletedGroup> {
        let mut merged = CompletedGroup {
            group: 0,
            services: Vec::new(),
            durable: true,
        };
        let last = self.submit(now_ns, true);
        while merged.group < last {
            match self.replies.recv_timeout(Duration::from_secs(5)) {
                Ok(reply) => {
                    let group = self.complete(reply);
                    merged.group = group.group;
                    merged.durable = group.durable;
                    for service in group.services {
                        merged.services.retain(|known| known.name != service.name);
                        merged.services.push(service);
                    }
                }
                Err(_) if merged.group == 0 => return None,
                Err(_) => break,
            }
        }
        Some(merged)
    }
}

impl Service {
    /// What the writer has to do for this service; the commit is what is true afterwards.
    fn take_write(&mut self, policy: &Policy, now_ns: u64) -> Write {
        let opened_ns = self.commit.segment_id;
        let too_old = policy
            .segment_age_limit
            .is_some_and(|age| now_ns.saturating_sub(opened_ns) >= age.as_nanos() as u64);
        let closes =
            self.rotate || too_old || self.block.length_bytes() >= policy.segment_bytes_limit;
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
            self.commit.segment_id = now_ns.max(self.commit.segment_id + 1);
            self.commit.length_bytes = 0;
            self.commit.segments += 1;
            self.block = BlockWriter::new();
            self.buffer_offset = 0;
        }
    }
}
