//! The control segment: created by whoever comes first, read by everyone.
//!
//! Ordering pair C1, `ready`: Release by the creator after everything else -> Acquire by all who attach.
//! Rules are replaced by the consumer: it writes the bank that is not in force, and one store of `rules_sequence` puts it
//! in force (R1: Release -> Acquire by readers, who look again afterwards). Killed in between, it leaves the old table.

use std::hash::{BuildHasher, RandomState};
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::bus::Limits;
use crate::clock::{self, CalibrationPage};
use crate::doorbell::{self, DoorbellLine};
use crate::error::{Error, ErrorKind};
use crate::layout::{
    BELLS_OFFSET, CALIBRATION_OFFSET, CHANNELS_MAX, CHANNELS_OFFSET, CONSUMER_OFFSET,
    CONTROL_ALLOCATED_BYTES, CONTROL_BYTES, CONTROL_MAGIC, ChannelBell, ChannelOutbox,
    ConsumerLine, ConsumerText, ControlHeader, DATA_OFFSET, DIRECTORY_OFFSET, DOORBELL_OFFSET,
    DirectoryEntry, FIGURES_OFFSET, FiguresPage, HISTORIES_MAX, HISTORIES_OFFSET,
    HISTORY_MARKS_OFFSET, HistoryBlock, HistoryMark, LANE_COMMITS_OFFSET, LANES_MAX,
    LAYOUT_VERSION, LaneCommitSlot, NAMES_MAX, NAMES_OFFSET, NameSlot, ORIGINS_OFFSET,
    OUTBOXES_OFFSET, OriginSlot, READY_OFFSET, REQUEST_OFFSET, RULES_MAX, RULES_OFFSET, ReadyLine,
    RequestLine, SCHEMAS_MAX, SCHEMAS_OFFSET, SERVICE_COMMITS_OFFSET, SERVICE_DISKS_OFFSET,
    SERVICES_MAX, SOURCE_ORIGINS_OFFSET, SOURCES_MAX, SOURCES_OFFSET, SUBSCRIBERS_MAX,
    SUBSCRIBERS_OFFSET, SchemaSlot, ServiceCommitSlot, ServiceDiskSlot, SourceSlot, SubscriberSlot,
    TEXT_OFFSET,
};
use crate::names;
use crate::object::{self, Access, Created, Object};
use crate::region::{Pinned, Region};
use crate::rule::{Rule, RuleEntry, RuleTable};
use crate::sync::atomic::{Ordering, fence};

/// How long an attacher waits for a creator that is still at work, before it takes over.
const CREATOR_PATIENCE: Duration = Duration::from_millis(500);
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// The mapped control segment, with its parts.
pub(crate) struct Control {
    pub(crate) bus: String,
    pub(crate) access: Access,
    pub(crate) limits: Limits,
    pub(crate) created_ns: u64,
    pub(crate) doorbell: Pinned<DoorbellLine>,
    pub(crate) request: Pinned<RequestLine>,
    pub(crate) consumer: Pinned<ConsumerLine>,
    pub(crate) calibration: Pinned<CalibrationPage>,
    pub(crate) commit_bell: Pinned<crate::commit_bell::CommitBellLine>,
    pub(crate) directory: Pinned<[DirectoryEntry; LANES_MAX]>,
    pub(crate) names: Pinned<[NameSlot; NAMES_MAX]>,
    pub(crate) sources: Pinned<[SourceSlot; SOURCES_MAX]>,
    /// `[bank][lane]`
    pub(crate) lane_commits: Pinned<[[LaneCommitSlot; LANES_MAX]; 2]>,
    /// `[bank][service]`
    pub(crate) service_commits: Pinned<[[ServiceCommitSlot; SERVICES_MAX]; 2]>,
    /// The patterns that the rules of this bus ever had; a pattern keeps its number.
    pub(crate) channels: Pinned<[NameSlot; CHANNELS_MAX]>,
    pub(crate) bells: Pinned<[ChannelBell; CHANNELS_MAX]>,
    pub(crate) outboxes: Pinned<[ChannelOutbox; CHANNELS_MAX]>,
    pub(crate) subscribers: Pinned<[SubscriberSlot; SUBSCRIBERS_MAX]>,
    pub(crate) schemas: Pinned<[SchemaSlot; SCHEMAS_MAX]>,
    /// By lane.
    pub(crate) origins: Pinned<[OriginSlot; LANES_MAX]>,
    /// By source, of the lane that was seen last.
    pub(crate) source_origins: Pinned<[OriginSlot; SOURCES_MAX]>,
    pub(crate) figures: Pinned<FiguresPage>,
    /// By slot in the commit point.
    pub(crate) service_disks: Pinned<[ServiceDiskSlot; SERVICES_MAX]>,
    pub(crate) history_marks: Pinned<[HistoryMark; HISTORIES_MAX]>,
    /// Touch none whose mark is not set: it has no memory.
    pub(crate) histories: Pinned<[HistoryBlock; HISTORIES_MAX]>,
    ready: Pinned<ReadyLine>,
    region: Arc<Region>,
}

impl Control {
    /// Attaches to the bus; where there is none, creates it with these rules and limits.
    pub(crate) fn attach(
        bus: &str,
        access: Access,
        rules: &RuleTable,
        limits: Limits,
    ) -> Result<Self, Error> {
        object::check_bus_name(bus)?;
        let name = object::control_name(bus);
        match object::create(&name, CONTROL_BYTES, CONTROL_ALLOCATED_BYTES, access)? {
            Created::New(object) => {
                kill_point!("creator.object_made");
                object::try_lock(&object.descriptor);
                initialise(&object.region, rules, limits)?;
                kill_point!("creator.ready");
                object::unlock(&object.descriptor);
                Self::over(bus, access, object.region)
            }
            Created::Exists => Self::attach_existing(bus, access, &name, Some((rules, limits))),
        }
    }

    /// Attaches to a bus that must exist.
    pub(crate) fn open(bus: &str, access: Access) -> Result<Self, Error> {
        object::check_bus_name(bus)?;
        let name = object::control_name(bus);
        let access = match access.group_id {
            // What we made ourselves for a group we need not be told again.
            None => object::own_access(&name),
            Some(_) => access,
        };
        Self::attach_existing(bus, access, &name, None)
    }

    /// The object exists; its creator may be at work in it, or may have died in the middle.
    fn attach_existing(
        bus: &str,
        access: Access,
        name: &str,
        remake: Option<(&RuleTable, Limits)>,
    ) -> Result<Self, Error> {
        let patience = (CREATOR_PATIENCE.as_nanos() / RETRY_INTERVAL.as_nanos()) as u32;
        for _ in 0..patience {
            match object::open(name, access) {
                Ok(object) if is_ready(&object.region) => {
                    return Self::over(bus, access, object.region);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let message = format!(
                        "bus {bus:?} does not exist: start `millpond daemon --bus {bus}` or a publisher"
                    );
                    return Err(Error::new(ErrorKind::NotFound, message));
                }
                // Opened before its creator has sized it: the mapping of nothing is refused.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Io => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        let Some((rules, limits)) = remake else {
            let message = format!(
                "bus {bus:?} was never finished by its creator, or was truncated or wiped: stop its processes, and \
                 start `millpond daemon --bus {bus}` or a publisher, which makes it anew"
            );
            return Err(Error::new(ErrorKind::WrongLayout, message));
        };
        let descriptor = object::open_descriptor(name)?;
        Self::take_over(bus, access, name, &descriptor, rules, limits)
    }

    /// The creator is gone: whoever gets its lock finishes the work.
    fn take_over(
        bus: &str,
        access: Access,
        name: &str,
        descriptor: &OwnedFd,
        rules: &RuleTable,
        limits: Limits,
    ) -> Result<Self, Error> {
        if !object::try_lock(descriptor) {
            let message = format!("bus {bus:?} is being created by a process that does not finish");
            return Err(Error::new(ErrorKind::WrongLayout, message));
        }
        object::allocate(descriptor, name, 0, CONTROL_ALLOCATED_BYTES)?;
        rustix::fs::ftruncate(descriptor, CONTROL_BYTES as u64)
            .map_err(|errno| Error::io("size", name, errno))?;
        let Object { region, .. } = object::open(name, access)?;
        if !is_ready(&region) {
            initialise(&region, rules, limits)?;
        }
        object::unlock(descriptor);
        Self::over(bus, access, region)
    }

    /// The parts of a segment that is mapped or copied, after a check of its header.
    pub(crate) fn over(bus: &str, access: Access, region: Arc<Region>) -> Result<Self, Error> {
        let name = object::control_name(bus);
        let header: ControlHeader = region.read(0);
        let wrong = |what: &str, found: u64, expected: u64| {
            let message = format!(
                "shared memory {name} has {what} {found}, expected {expected}: another millpond release made \
                 it; drain it with that one (`millpond daemon --drain`), or see `millpond gc --bus {bus}` before \
                 /dev/shm{name} is removed"
            );
            Error::new(ErrorKind::WrongLayout, message)
        };
        if header.magic.get() != CONTROL_MAGIC {
            return Err(wrong("magic", header.magic.get(), CONTROL_MAGIC));
        }
        if header.layout_version.get() != LAYOUT_VERSION {
            let found = header.layout_version.get();
            return Err(wrong("layout version", found.into(), LAYOUT_VERSION.into()));
        }
        if region.length_bytes() < CONTROL_BYTES {
            return Err(wrong(
                "length",
                region.length_bytes() as u64,
                CONTROL_BYTES as u64,
            ));
        }
        let short = || wrong("length", region.length_bytes() as u64, CONTROL_BYTES as u64);
        Ok(Control {
            bus: bus.to_owned(),
            access,
            limits: Limits {
                bus_bytes: header.bus_bytes_limit.get(),
                lanes: header.lanes_limit.get().min(LANES_MAX as u32),
            },
            created_ns: header.created_ns.get(),
            doorbell: region.pin(DOORBELL_OFFSET).ok_or_else(short)?,
            request: region.pin(REQUEST_OFFSET).ok_or_else(short)?,
            consumer: region.pin(CONSUMER_OFFSET).ok_or_else(short)?,
            calibration: region.pin(CALIBRATION_OFFSET).ok_or_else(short)?,
            commit_bell: region
                .pin(crate::layout::COMMIT_BELL_OFFSET)
                .ok_or_else(short)?,
            directory: region.pin(DIRECTORY_OFFSET).ok_or_else(short)?,
            names: region.pin(NAMES_OFFSET).ok_or_else(short)?,
            sources: region.pin(SOURCES_OFFSET).ok_or_else(short)?,
            lane_commits: region.pin(LANE_COMMITS_OFFSET).ok_or_else(short)?,
            service_commits: region.pin(SERVICE_COMMITS_OFFSET).ok_or_else(short)?,
            channels: region.pin(CHANNELS_OFFSET).ok_or_else(short)?,
            bells: region.pin(BELLS_OFFSET).ok_or_else(short)?,
            outboxes: region.pin(OUTBOXES_OFFSET).ok_or_else(short)?,
            subscribers: region.pin(SUBSCRIBERS_OFFSET).ok_or_else(short)?,
            schemas: region.pin(SCHEMAS_OFFSET).ok_or_else(short)?,
            origins: region.pin(ORIGINS_OFFSET).ok_or_else(short)?,
            source_origins: region.pin(SOURCE_ORIGINS_OFFSET).ok_or_else(short)?,
            figures: region.pin(FIGURES_OFFSET).ok_or_else(short)?,
            service_disks: region.pin(SERVICE_DISKS_OFFSET).ok_or_else(short)?,
            history_marks: region.pin(HISTORY_MARKS_OFFSET).ok_or_else(short)?,
            histories: region.pin(HISTORIES_OFFSET).ok_or_else(short)?,
            ready: region.pin(READY_OFFSET).ok_or_else(short)?,
            region,
        })
    }

    /// A number for a new object, which no other object of this bus has. `is_squatted`: the name of the last one was
    /// taken, by somebody who guesses names and may have taken the next ones too, so it goes somewhere else.
    pub(crate) fn next_epoch(&self, is_squatted: bool) -> Result<u64, Error> {
        let step = match is_squatted {
            true => RandomState::new().hash_one(self.created_ns) >> 32,
            false => 0,
        } + 1;
        let last_epoch = &self.request.last_epoch;
        // ORDERING: Relaxed; the number only has to be unique.
        let epoch = last_epoch
            .fetch_add(step, Ordering::Relaxed)
            .wrapping_add(step);
        // Directory words have room for 56 bits. No bus gets there: somebody has written over the counter.
        if epoch == 0 || epoch >> 56 != 0 {
            let message = format!(
                "the control segment of bus {:?} is damaged: its last epoch is {epoch}, the limit is 2^56; stop \
                 its processes and remove the bus",
                self.bus
            );
            return Err(Error::new(ErrorKind::WrongLayout, message));
        }
        Ok(epoch)
    }

    /// Whether this is still the bus that was attached to: its memory may have been truncated, or wiped. A few loads.
    ///
    /// # Errors
    /// `Lost`, with the object and what to do.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let created_ns: U64 = self.region.read(offset_of!(ControlHeader, created_ns));
        // ORDERING: Acquire (C1).
        let is_ready = self.ready.ready.load(Ordering::Acquire) == 1;
        if is_ready && created_ns.get() == self.created_ns && !self.region.is_lost() {
            return Ok(());
        }
        let bus = &self.bus;
        let message = format!(
            "the shared memory of bus {bus:?} was truncated or wiped while it was in use: a process that may write to \
             /dev/shm{} did that; stop the processes of this bus, remove /dev/shm/millpond.{bus}.*, and start them \
             again. Logs are not affected",
            object::control_name(bus)
        );
        Err(Error::new(ErrorKind::Lost, message))
    }

    /// The rule table as it stands. Retries while the consumer replaces it.
    pub(crate) fn rules(&self) -> Result<RuleTable, Error> {
        for _ in 0..1000 {
            // ORDERING: Acquire (R1); the copies below come after it.
            let before = self.consumer.rules_sequence.load(Ordering::Acquire);
            let bank = (before & 1) as usize;
            // ORDERING: Relaxed; validated by the second look at the sequence.
            let count = self.consumer.rules_counts[bank].load(Ordering::Relaxed) as usize;
            let entries: Vec<RuleEntry> = (0..count.min(RULES_MAX))
                .map(|index| self.region.read(rule_offset(bank, index)))
                .collect();
            // ORDERING: Acquire fence; the copies above come before the second look.
            fence(Ordering::Acquire);
            // ORDERING: Relaxed; ordered by the fence. The bank is only written to after the word has moved on.
            if self.consumer.rules_sequence.load(Ordering::Relaxed) == before {
                return decode_rules(&self.bus, &entries);
            }
            std::thread::yield_now();
        }
        let message = format!("the rules of bus {:?} never came to rest", self.bus);
        Err(Error::new(ErrorKind::WrongLayout, message))
    }

    /// Consumer only: replaces the rule table. Publishers follow at their next publish, subscribers at
    /// their next look.
    pub(crate) fn install_rules(&self, rules: &RuleTable) {
        write_rules(&self.region, &self.consumer, rules);
        kill_point!("rules.in_force");
        self.announce_rules();
    }

    /// Consumer only: has everybody follow the rules in force. True where they had not been told, also because an
    /// earlier consumer died before it did.
    pub(crate) fn announce_rules(&self) -> bool {
        // ORDERING: Relaxed; only consumers write it, one after the other.
        let sequence = self.consumer.rules_sequence.load(Ordering::Relaxed);
        // ORDERING: AcqRel; the table before the number that announces it.
        let before = (self.doorbell.rules_generation).swap(sequence, Ordering::AcqRel);
        before != sequence
    }

    /// Consumer only: what people should know about it.
    pub(crate) fn store_text(&self, text: &ConsumerText) {
        let sequence = &self.consumer.text_sequence;
        // ORDERING: Relaxed load; the consumer is the only writer.
        let odd = sequence.load(Ordering::Relaxed) | 1;
        // ORDERING: Relaxed store, then a Release fence (seqlock): odd is seen before the new text.
        sequence.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        self.region.copy_in(TEXT_OFFSET, text.as_bytes());
        // ORDERING: Release (seqlock): the text before the even number.
        sequence.store(odd.wrapping_add(1), Ordering::Release);
    }

    /// The consumer's words; torn ones are better than none for a person, so it does not insist.
    pub(crate) fn load_text(&self) -> ConsumerText {
        let mut text = ConsumerText::new_zeroed();
        for _ in 0..100 {
            // ORDERING: Acquire (seqlock).
            let before = self.consumer.text_sequence.load(Ordering::Acquire);
            text = self.region.read(TEXT_OFFSET);
            // ORDERING: Acquire fence (seqlock).
            fence(Ordering::Acquire);
            // ORDERING: Relaxed; ordered by the fence.
            if before.is_multiple_of(2)
                && self.consumer.text_sequence.load(Ordering::Relaxed) == before
            {
                break;
            }
        }
        text
    }

    /// Checks the rings that exist plus a new one of `ring_bytes` against the limit of the bus.
    pub(crate) fn check_budget(&self, ring_bytes: u64) -> Result<(), Error> {
        let lanes = self.directory.iter().map(|entry| &entry.word);
        let outboxes = self.outboxes.iter().map(|entry| &entry.word);
        let used_bytes: u64 = lanes
            .chain(outboxes)
            // ORDERING: Relaxed; only sizes are summed.
            .map(|word| word.load(Ordering::Relaxed))
            .filter(|&word| word != 0)
            // Others may have written any sizes.
            .fold(0, |sum: u64, word| {
                sum.saturating_add(DATA_OFFSET as u64 + (1 << (word & 0x3f)))
            });
        let limit_bytes = self.limits.bus_bytes;
        let with_it = used_bytes.saturating_add(DATA_OFFSET as u64 + ring_bytes);
        if with_it > limit_bytes {
            let message = format!(
                "a ring of {ring_bytes} bytes does not fit: bus {:?} uses {used_bytes} of its {limit_bytes} \
                 bytes; stop some publishers, lower `lane-bytes` or `outbox-bytes` of the rule, or raise \
                 `bus-bytes`",
                self.bus
            );
            return Err(Error::new(ErrorKind::LimitReached, message));
        }
        Ok(())
    }

    /// Rings whatever the consumer is doing. At most one system call.
    pub(crate) fn ring(&self) {
        doorbell::full_fence();
        if self.doorbell.unpark() {
            doorbell::wake(&self.doorbell.parked);
        }
    }
}

/// Tells a bus from every other one, also from a later one of the same name.
pub(crate) fn identity(bus: &str, created_ns: u64) -> String {
    format!("{bus} {created_ns:x}")
}

fn is_ready(region: &Arc<Region>) -> bool {
    match region.pin::<ReadyLine>(READY_OFFSET) {
        // ORDERING: Acquire (C1).
        Some(line) => line.ready.load(Ordering::Acquire) == 1,
        None => false,
    }
}

fn decode_rules(bus: &str, entries: &[RuleEntry]) -> Result<RuleTable, Error> {
    let wrong = |why: String| {
        Error::new(
            ErrorKind::WrongLayout,
            format!("the rules of bus {bus:?} cannot be read: {why}"),
        )
    };
    let rules = entries
        .iter()
        .map(Rule::try_from)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    RuleTable::new(rules).map_err(|error| wrong(error.to_string()))
}

fn rule_offset(bank: usize, index: usize) -> usize {
    RULES_OFFSET + (bank * RULES_MAX + index) * size_of::<RuleEntry>()
}

/// Writes the bank that is not in force and puts it in force with one store.
fn write_rules(region: &Region, consumer: &Pinned<ConsumerLine>, rules: &RuleTable) {
    // ORDERING: Relaxed load; there is one writer, the creator or the holder of the lease.
    let next = (consumer.rules_sequence.load(Ordering::Relaxed)).wrapping_add(1);
    let bank = (next & 1) as usize;
    // ORDERING: Release fence. Whoever sees an entry of this bank change sees as well, when it looks again, that the
    // other bank was in force: the reader's Acquire fence is the other end.
    fence(Ordering::Release);
    for (index, rule) in rules.iter().enumerate() {
        region.copy_in(rule_offset(bank, index), RuleEntry::from(rule).as_bytes());
        kill_point!("rules.entry_written");
    }
    // ORDERING: Relaxed; published by the Release below.
    consumer.rules_counts[bank].store(rules.len() as u32, Ordering::Relaxed);
    // ORDERING: Release (R1). The bank before the word that puts it in force.
    consumer.rules_sequence.store(next, Ordering::Release);
}

/// Fills in a fresh segment; `ready` last. The memory is zero, which is right for everything else.
fn initialise(region: &Arc<Region>, rules: &RuleTable, limits: Limits) -> Result<(), Error> {
    let short = || {
        Error::new(
            ErrorKind::WrongLayout,
            "the control segment is too small".to_owned(),
        )
    };
    let consumer: Pinned<ConsumerLine> = region.pin(CONSUMER_OFFSET).ok_or_else(short)?;
    let calibration: Pinned<CalibrationPage> = region.pin(CALIBRATION_OFFSET).ok_or_else(short)?;
    let doorbell: Pinned<DoorbellLine> = region.pin(DOORBELL_OFFSET).ok_or_else(short)?;
    let ready: Pinned<ReadyLine> = region.pin(READY_OFFSET).ok_or_else(short)?;
    clock::initialise(&calibration);
    let header = ControlHeader {
        magic: U64::new(CONTROL_MAGIC),
        layout_version: U32::new(LAYOUT_VERSION),
        lanes_limit: U32::new(limits.lanes),
        segment_bytes: U64::new(CONTROL_BYTES as u64),
        bus_bytes_limit: U64::new(limits.bus_bytes),
        created_ns: U64::new(clock::realtime_ns()),
        creator_pid: U32::new(std::process::id()),
        creator_uid: U32::new(rustix::process::geteuid().as_raw()),
        boot_id: boot_id(),
    };
    region.copy_in(0, header.as_bytes());
    // Until a consumer says that it can use membarrier, publishers fence.
    // ORDERING: Relaxed; published by `ready` (C1).
    doorbell.fence_required.store(1, Ordering::Relaxed);
    write_rules(region, &consumer, rules);
    // ORDERING: Relaxed; published by `ready` (C1).
    let sequence = consumer.rules_sequence.load(Ordering::Relaxed);
    doorbell.rules_generation.store(sequence, Ordering::Relaxed);
    // Subscribers may come before the first publisher: the channels are there from the start.
    let channels: Pinned<[NameSlot; CHANNELS_MAX]> =
        region.pin(CHANNELS_OFFSET).ok_or_else(short)?;
    for rule in rules.iter() {
        names::intern(&channels, rule.pattern.as_str());
    }
    kill_point!("creator.filled");
    // ORDERING: Release (C1).
    ready.ready.store(1, Ordering::Release);
    Ok(())
}

/// The kernel's random id of this boot, so that an inspector can tell a copied segment from a live one.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}
