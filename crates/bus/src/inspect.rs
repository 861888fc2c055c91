//! A bus as it lies in memory, for people: read without attaching, without a daemon, and without changing a byte.
//!
//! Everything else in this crate works on mapped memory and takes part in the bus. This module copies the objects with
//! plain reads and looks at the copies, so that it may be pointed at a bus whose consumer hangs or is dead, and at
//! object files that were copied from another host. Whatever bytes it finds, it reports them as damage and never
//! panics. It takes no lock that outlasts a call.
//!
//! A copy of a bus that lives is not of one moment. Positions and commit banks are read again where they moved
//! meanwhile; counters may be a moment apart.
//!
//! ```
//! use millpond_bus::inspect::Inspection;
//! use millpond_bus::{Bus, BusOptions, Level};
//!
//! let name = format!("doc-inspect-{}", std::process::id());
//! let bus = Bus::attach(&name, &BusOptions::default())?;
//! let mut publisher = bus.publisher("web")?;
//! let topic = publisher.topic("log:web:rpc")?;
//! publisher.publish(topic, Level::Info, b"never drained")?;
//!
//! let inspection = Inspection::open(&name)?;
//! let lane = &inspection.lanes[0];
//! assert!(lane.holder.is_somebody());
//! let record = inspection.undrained(lane).next().expect("one was committed")?;
//! assert_eq!((record.name.as_str(), &record.payload[..]), ("log:web:rpc", &b"never drained"[..]));
//! # drop(publisher);
//! # bus.remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod objects;
mod rings;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use self::objects::LockTable;
pub use self::objects::{Holder, ObjectKind, SHARED_MEMORY_DIR, SharedObject, list_objects};
pub use self::rings::{CommitView, InspectedRecord, RecordError, Records, RingView, Unfinished};
use crate::channel;
use crate::commit::{self, ServiceCommit};
use crate::control::{self, Control};
use crate::error::{Error, ErrorKind};
use crate::layout::{
    CHANNELS_MAX, CONSUMER_OFFSET, CONTROL_ALLOCATED_BYTES, CONTROL_BYTES, CONTROL_MAGIC,
    ConsumerLine, ControlHeader, LAYOUT_VERSION, NAMES_MAX, READY_OFFSET, SCHEMAS_MAX, SOURCES_MAX,
    load_text,
};
use crate::object::{self, Access};
use crate::region::Region;
use crate::rule::RuleTable;
use crate::stats::ConsumerInfo;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How often a copy is made again where the bus moved on meanwhile.
const COPIES_MAX: usize = 8;
/// Before another look at an entry whose lane is not there; twice as long each time.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// State of a name, schema or subscriber that is there.
const READY: u32 = 2;

/// How full a table of the control segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Places taken.
    pub used: usize,
    /// Places there are.
    pub limit: usize,
}

/// How the consumer sleeps, as the word of the doorbell says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parked {
    /// It does not.
    Awake,
    /// With nothing pending, until somebody rings.
    UntilWork,
    /// Until a threshold is reached, or its own deadline.
    UntilThreshold,
    /// Its buffers are full: until the disk takes something.
    UntilDisk,
    /// The word is none of these.
    Unknown(u32),
}

impl Parked {
    fn from_word(word: u32) -> Self {
        match word {
            0 => Parked::Awake,
            1 => Parked::UntilWork,
            2 => Parked::UntilThreshold,
            3 => Parked::UntilDisk,
            other => Parked::Unknown(other),
        }
    }
}

/// A slot in which a subscriber sleeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberView {
    /// Its number.
    pub slot: u32,
    /// Its process, by its own word.
    pub pid: u32,
    /// Its label.
    pub label: String,
    /// Its patterns, with a space between them.
    pub pattern: String,
    /// Whether it sleeps.
    pub is_parked: bool,
    /// Who holds its object.
    pub holder: Holder,
    /// Events it was given.
    pub delivered: u64,
    /// Events that were overwritten before it read them.
    pub lagged: u64,
}

/// What the control segment says.
#[derive(Debug, Clone)]
pub struct ControlView {
    /// Layout of shared memory that it was made with.
    pub layout_version: u32,
    /// Most lanes.
    pub lanes_limit: u32,
    /// Length that its header claims, in bytes.
    pub segment_bytes: u64,
    /// Most bytes of all rings.
    pub bus_bytes_limit: u64,
    /// When it was made, real time in ns.
    pub created_ns: u64,
    /// Process that made it.
    pub creator_pid: u32,
    /// User that made it.
    pub creator_uid: u32,
    /// The kernel's id of the boot in which it was made.
    pub boot_id: [u8; 16],
    /// Whether that is the boot of this host now.
    pub is_this_boot: bool,
    /// Whether its creator has finished it.
    pub is_ready: bool,
    /// How the consumer sleeps.
    pub parked: Parked,
    /// When it wakes by itself, real time in ns; 0 where it never slept so.
    pub parked_until_ns: u64,
    /// Whether publishers must run a fence of their own.
    pub is_fence_required: bool,
    /// Grows with each new rule table.
    pub rules_generation: u32,
    /// Requests of publishers to flush, ever.
    pub flush_requests: u64,
    /// Requests to rotate, ever.
    pub rotate_requests: u64,
    /// Requests to read the configuration again, ever.
    pub reload_requests: u64,
    /// The last epoch given to a lane, outbox or subscriber.
    pub last_epoch: u64,
    /// The consumer that is, or was last. Its `alive` is whether the lease is held.
    pub consumer: ConsumerInfo,
    /// Commits: the lowest bit says which bank is in force.
    pub generation: u64,
    /// The rules, or why they cannot be read.
    pub rules: Result<RuleTable, String>,
    /// How far the log of each service is committed, in both banks.
    pub services: [Vec<ServiceCommit>; 2],
    /// Subscribers that are entered.
    pub subscribers: Vec<SubscriberView>,
    /// Names told apart.
    pub names: Usage,
    /// Schemas.
    pub schemas: Usage,
    /// Patterns that the rules ever had.
    pub channels: Usage,
    /// Sources told apart in the statistics.
    pub sources: Usage,
}

impl ControlView {
    /// The bank that is in force, 0 or 1.
    pub fn bank(&self) -> usize {
        (self.generation & 1) as usize
    }

    /// Services as committed.
    pub fn committed_services(&self) -> &[ServiceCommit] {
        &self.services[self.bank()]
    }

    /// What a log directory names as its writer when this bus wrote it last: see [`crate::Bus::identity`].
    pub fn identity(&self, bus: &str) -> String {
        control::identity(bus, self.created_ns)
    }
}

/// A bus, copied.
pub struct Inspection {
    /// Its name.
    pub bus: String,
    /// Where its objects are.
    pub dir: PathBuf,
    /// What the control segment says; `None` where there is none that can be read.
    pub control: Option<ControlView>,
    /// Who holds the lease; [`Holder::Unknown`] for files that are copies.
    pub lease: Holder,
    /// All lanes: those that the directory names by their number, then those that nothing names.
    pub lanes: Vec<RingView>,
    /// All outboxes, likewise.
    pub outboxes: Vec<RingView>,
    /// All objects of this bus.
    pub objects: Vec<SharedObject>,
    /// What is not as it should be, of everything but the rings: object, place, found, expected.
    pub damage: Vec<String>,
    /// The copy, as the rest of the crate reads it.
    copied: Option<Control>,
}

impl std::fmt::Debug for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspection")
            .field("bus", &self.bus)
            .field("dir", &self.dir)
            .field("lanes", &self.lanes.len())
            .field("damage", &self.damage)
            .finish_non_exhaustive()
    }
}

impl Inspection {
    /// Copies the bus `name` of this host. Reads 3 MiB and a page of each ring.
    ///
    /// # Errors
    /// `NotFound` where no object of it exists, `InvalidInput` for a name that cannot be one, `WrongOwner` and `Io`
    /// for objects that cannot be read.
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::open_in(Path::new(SHARED_MEMORY_DIR), name)
    }

    /// As [`Inspection::open`], of object files in `dir`: copies of those of another host, say.
    ///
    /// # Errors
    /// As [`Inspection::open`].
    pub fn open_in(dir: &Path, name: &str) -> Result<Self, Error> {
        let (mut inspection, mut missing) = Self::look(dir, name)?;
        if dir == Path::new(SHARED_MEMORY_DIR) {
            // Lanes come and go between the look at the objects and the copy of the directory. Only the consumer
            // removes lanes, so that without one a second look tells; with one it may be about to clear the entry.
            for look in 0..COPIES_MAX as u32 {
                if missing.is_empty() || (look > 0 && !inspection.lease.is_somebody()) {
                    break;
                }
                std::thread::sleep(LOOK_PAUSE * (1 << look));
                let (again, still) = Self::look(dir, name)?;
                missing.retain(|entry| still.contains(entry));
                inspection = again;
            }
        }
        for (slot, epoch) in missing {
            inspection.damage.push(format!(
                "directory entry {slot} names lane {epoch:x}, and millpond.{name}.lane.{epoch:x} is not there"
            ));
        }
        Ok(inspection)
    }

    /// Copies it once; and the entries of the directory, by place and lane, whose object was not there.
    fn look(dir: &Path, name: &str) -> Result<(Self, Vec<(usize, u64)>), Error> {
        object::check_bus_name(name)?;
        let listed = list_objects(dir)
            .map_err(|error| Error::io("read", &dir.display().to_string(), error))?;
        let objects: Vec<SharedObject> = listed
            .into_iter()
            .filter(|object| object.bus == name)
            .collect();
        if objects.is_empty() {
            let message = format!("no object of bus {name:?} in {}", dir.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let mut inspection = Inspection {
            bus: name.to_owned(),
            dir: dir.to_owned(),
            control: None,
            lease: Holder::Nobody,
            lanes: Vec::new(),
            outboxes: Vec::new(),
            objects,
            damage: Vec::new(),
            copied: None,
        };
        let locks = LockTable::read();
        inspection.read_control(&locks)?;
        let missing = inspection.read_rings(&locks);
        Ok((inspection, missing))
    }

    fn read_control(&mut self, locks: &LockTable) -> Result<(), Error> {
        let Some(object) = self.objects_of(ObjectKind::Control).next().cloned() else {
            let what = "the control segment is missing: nothing says how far the lanes are drained";
            self.damage.push(what.to_owned());
            return Ok(());
        };
        let shown = object.path.display().to_string();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let message = format!(
                    "{shown} cannot be read by user {}: run as user {}, its owner",
                    rustix::process::geteuid().as_raw(),
                    object.uid
                );
                Error::new(ErrorKind::WrongOwner, message)
            }
            io::ErrorKind::NotFound => {
                let message = format!("{shown} was removed at this moment");
                Error::new(ErrorKind::NotFound, message)
            }
            _ => Error::io("read", &shown, error),
        };
        self.lease = object.holder_in(locks);
        let region = copy_control(&object.path).map_err(failed)?;
        let header: ControlHeader = region.read(0);
        if object.length_bytes < CONTROL_ALLOCATED_BYTES as u64 {
            self.damage.push(format!(
                "{shown} has {} bytes, expected {CONTROL_BYTES}: it was cut, or never finished",
                object.length_bytes
            ));
        }
        if header.magic.get() != CONTROL_MAGIC {
            let found = header.magic.get().to_le_bytes();
            self.damage.push(format!(
                "{shown} at byte 0: magic is {}, expected mpondctl",
                found.escape_ascii()
            ));
        } else if header.layout_version.get() != LAYOUT_VERSION {
            self.damage.push(format!(
                "{shown} at byte 8: layout version is {}, expected {LAYOUT_VERSION}: another release made it",
                header.layout_version.get()
            ));
        } else {
            // Of the length too much is taken, as zeros: the region is as long as it should be.
            self.copied = Control::over(&self.bus, Access::default(), region.clone()).ok();
        }
        let Some(copied) = &self.copied else {
            return Ok(());
        };
        let ready: u32 = region.read::<[u8; 4]>(READY_OFFSET).into_u32();
        if ready != 1 {
            let what = format!(
                "{shown} at byte {READY_OFFSET}: ready is {ready}, expected 1: its creator never finished it"
            );
            self.damage.push(what);
        }
        let subscribers = read_subscribers(copied, &self.objects, locks);
        let mut view = view(copied, &header, ready == 1, self.lease);
        view.subscribers = subscribers;
        if let Err(why) = &view.rules {
            self.damage.push(why.clone());
        }
        self.control = Some(view);
        Ok(())
    }

    fn objects_of(&self, kind: ObjectKind) -> impl Iterator<Item = &SharedObject> {
        self.objects
            .iter()
            .filter(move |object| object.kind == kind)
    }

    /// Returns the entries of the directory that name a lane which is not there.
    fn read_rings(&mut self, locks: &LockTable) -> Vec<(usize, u64)> {
        let copied = self.copied.as_ref();
        // ORDERING: Relaxed throughout; nobody writes to a copy.
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let outbox_words: Vec<u64> = copied
            .iter()
            .flat_map(|control| control.outboxes.iter())
            .map(|entry| word(&entry.word))
            .collect();
        let lane_words: Vec<u64> = copied
            .iter()
            .flat_map(|control| control.directory.iter())
            .map(|entry| word(&entry.word))
            .collect();
        let slot_of = |words: &[u64], epoch: u64| {
            let slot = words.iter().position(|&word| word >> 8 == epoch);
            slot.map(|slot| slot as u32)
        };
        let mut outboxes: Vec<RingView> = self
            .objects_of(ObjectKind::Outbox)
            .filter_map(|object| {
                RingView::read(object, slot_of(&outbox_words, object.epoch), locks)
            })
            .collect();
        let mut lanes: Vec<RingView> = self
            .objects_of(ObjectKind::Lane)
            .filter_map(|object| RingView::read(object, slot_of(&lane_words, object.epoch), locks))
            .collect();
        if let Some(control) = copied {
            for lane in &mut lanes {
                lane.read_commits(control, &outboxes);
            }
        }
        let by_slot = |ring: &RingView| (ring.slot.unwrap_or(u32::MAX), ring.epoch);
        lanes.sort_by_key(by_slot);
        outboxes.sort_by_key(by_slot);
        let named = lane_words.iter().enumerate();
        let missing = named
            .filter(|&(_, &word)| word != 0 && !lanes.iter().any(|lane| lane.epoch == word >> 8))
            .map(|(slot, &word)| (slot, word >> 8))
            .collect();
        (self.lanes, self.outboxes) = (lanes, outboxes);
        missing
    }

    /// Whether somebody holds the lease, a lane or a subscriber's object. Processes that are attached and have published
    /// nothing hold none of these. False for copies.
    pub fn is_alive(&self) -> bool {
        self.lease.is_somebody()
            || self.lanes.iter().any(|lane| lane.holder.is_somebody())
            || self.objects.iter().any(|object| {
                object.kind == ObjectKind::Subscriber && object.holder().is_somebody()
            })
    }

    /// Records of a lane that are committed by its publisher and not yet by the consumer: what the next consumer would
    /// take. Of an outbox: all that it holds. Copies that part of the ring.
    pub fn undrained(&self, ring: &RingView) -> Records<'_> {
        Records::undrained(ring, self.copied.as_ref())
    }

    /// What lies behind the last committed record of a lane: records that were claimed and never committed.
    pub fn unfinished(&self, ring: &RingView) -> Unfinished {
        rings::unfinished(ring, self.copied.as_ref())
    }

    /// Counts what the next consumer would take: events, their payload bytes, and what of it cannot be read.
    ///
    /// Reads all that waits.
    pub fn undrained_totals(&self) -> Undrained {
        let mut totals = Undrained::default();
        for lane in &self.lanes {
            let mut events = 0;
            for record in self.undrained(lane) {
                match record {
                    Ok(record) => {
                        events += 1;
                        totals.bytes += record.payload.len() as u64;
                    }
                    Err(_) => totals.unreadable += 1,
                }
            }
            totals.events += events;
            totals.lanes += u64::from(events > 0);
        }
        totals
    }
}

/// What waits in the lanes of a bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Undrained {
    /// Lanes that hold some.
    pub lanes: u64,
    /// Events.
    pub events: u64,
    /// Payload bytes of these.
    pub bytes: u64,
    /// Lanes in which something that waits cannot be read.
    pub unreadable: u64,
}

impl Undrained {
    /// Nothing would be lost with the bus.
    pub fn is_nothing(&self) -> bool {
        self.events == 0 && self.unreadable == 0
    }
}

trait IntoU32 {
    fn into_u32(self) -> u32;
}

impl IntoU32 for [u8; 4] {
    fn into_u32(self) -> u32 {
        u32::from_le_bytes(self)
    }
}

/// Copies the part of a control segment that is always allocated; what the file lacks is zero. Made again while commits
/// come in.
fn copy_control(path: &Path) -> io::Result<Arc<Region>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; CONTROL_ALLOCATED_BYTES];
    let generation_at = CONSUMER_OFFSET + std::mem::offset_of!(ConsumerLine, generation);
    for copy in 0..COPIES_MAX {
        if copy > 0 {
            bytes.fill(0);
        }
        read_available(&file, &mut bytes, 0)?;
        let mut now = [0; 8];
        read_available(&file, &mut now, generation_at as u64)?;
        if bytes[generation_at..generation_at + 8] == now {
            break;
        }
    }
    let region = Region::heap(CONTROL_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
    region.copy_in(0, &bytes);
    Ok(region)
}

/// Reads as much as there is; returns how much that was.
fn read_available(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// A plain structure at the start of `bytes`, zeros where they end early.
fn read_plain<T: FromBytes + IntoBytes>(bytes: &[u8]) -> T {
    let mut value = T::new_zeroed();
    let whole = value.as_mut_bytes();
    let length = whole.len().min(bytes.len());
    whole[..length].copy_from_slice(&bytes[..length]);
    value
}

fn view(control: &Control, header: &ControlHeader, is_ready: bool, lease: Holder) -> ControlView {
    // ORDERING: Relaxed throughout; nobody writes to a copy.
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let small = |word: &AtomicU32| word.load(Ordering::Relaxed);
    let usage = |used: usize, limit| Usage { used, limit };
    let (doorbell, request) = (&control.doorbell, &control.request);
    ControlView {
        layout_version: header.layout_version.get(),
        lanes_limit: header.lanes_limit.get(),
        segment_bytes: header.segment_bytes.get(),
        bus_bytes_limit: header.bus_bytes_limit.get(),
        created_ns: header.created_ns.get(),
        creator_pid: header.creator_pid.get(),
        creator_uid: header.creator_uid.get(),
        boot_id: header.boot_id,
        is_this_boot: header.boot_id == control::boot_id(),
        is_ready,
        parked: Parked::from_word(small(&doorbell.parked)),
        parked_until_ns: word(&doorbell.parked_until_ns),
        is_fence_required: small(&doorbell.fence_required) != 0,
        rules_generation: small(&doorbell.rules_generation),
        flush_requests: word(&request.flush_requests),
        rotate_requests: word(&request.rotate_requests),
        reload_requests: word(&request.reload_requests),
        last_epoch: word(&request.last_epoch),
        consumer: ConsumerInfo::read(control, lease.is_somebody()),
        generation: word(&control.consumer.generation),
        rules: control.rules().map_err(|error| error.to_string()),
        services: [0, 1].map(|bank| commit::services(control, bank)),
        subscribers: Vec::new(),
        names: usage(
            count(control.names.iter(), |slot| small(&slot.state) != 0),
            NAMES_MAX,
        ),
        schemas: usage(
            count(control.schemas.iter(), |slot| small(&slot.state) != 0),
            SCHEMAS_MAX,
        ),
        channels: usage(channel::all(control).count(), CHANNELS_MAX),
        sources: usage(
            count(control.sources.iter(), |slot| small(&slot.in_use) == 1),
            SOURCES_MAX,
        ),
    }
}

fn count<'s, T: 's>(slots: impl Iterator<Item = &'s T>, is_used: impl Fn(&T) -> bool) -> usize {
    slots.filter(|slot| is_used(slot)).count()
}

fn read_subscribers(
    control: &Control,
    objects: &[SharedObject],
    locks: &LockTable,
) -> Vec<SubscriberView> {
    // ORDERING: Relaxed throughout; nobody writes to a copy.
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let small = |word: &AtomicU32| word.load(Ordering::Relaxed);
    let slots = control.subscribers.iter().enumerate();
    slots
        .filter(|(_, slot)| small(&slot.state) == READY)
        .map(|(index, slot)| {
            let epoch = word(&slot.epoch);
            let object = objects
                .iter()
                .find(|object| object.kind == ObjectKind::Subscriber && object.epoch == epoch);
            SubscriberView {
                slot: index as u32,
                pid: small(&slot.pid),
                label: load_text(&slot.label),
                pattern: load_text(&slot.pattern),
                is_parked: small(&slot.parked) != 0,
                holder: object.map_or(Holder::Nobody, |object| object.holder_in(locks)),
                delivered: word(&slot.delivered),
                lagged: word(&slot.lagged),
            }
        })
        .collect()
}
