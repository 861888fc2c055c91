//! A lane: one publisher's ring for one prefix rule, in a shared-memory object of its own.
//!
//! The publisher creates the object, locks it (the lock is its sign of life), fills the header and only
//! then registers the lane with a single compare-and-swap in the directory. Dying at any point leaves
//! either a lane that works or an object that nobody refers to, which the consumer removes.

use std::mem::offset_of;
use std::os::fd::OwnedFd;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::control::Control;
use crate::error::{Error, ErrorKind};
use crate::layout::{
    DATA_OFFSET, LABEL_BYTES, LANE_MAGIC, LAYOUT_VERSION, LaneHeader, OUTBOX_MAGIC, RING_OFFSET,
    text_of,
};
use crate::object::{self, Access, Created, Object};
use crate::region::Pinned;
use crate::ring::{RingHeader, RingMemory};
use crate::rule::{Rule, RuleEntry};

/// Names that are tried for a new object.
const NAME_ATTEMPTS: u32 = 4;

/// What a ring object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingKind {
    /// From one publisher to the consumer.
    Lane,
    /// From the consumer to subscribers.
    Outbox,
}

impl RingKind {
    fn magic(self) -> u64 {
        match self {
            RingKind::Lane => LANE_MAGIC,
            RingKind::Outbox => OUTBOX_MAGIC,
        }
    }

    pub(crate) fn object_name(self, bus: &str, epoch: u64) -> String {
        match self {
            RingKind::Lane => object::lane_name(bus, epoch),
            RingKind::Outbox => object::outbox_name(bus, epoch),
        }
    }

    /// The size of the ring that `rule` asks for.
    pub(crate) fn capacity_bytes(self, rule: &Rule) -> u32 {
        match self {
            RingKind::Lane => rule.lane_bytes,
            RingKind::Outbox => rule.outbox_bytes,
        }
    }
}

/// A ring in a mapped lane object.
#[derive(Clone)]
pub(crate) struct LaneMemory {
    ring: Pinned<RingHeader>,
    capacity_bytes: u64,
}

impl LaneMemory {
    /// See [`crate::region::Region::populate`].
    pub(crate) fn populate(&self, for_writing: bool) {
        self.ring.region().populate(for_writing);
    }

    pub(crate) fn share(&self) -> Pinned<RingHeader> {
        self.ring.clone()
    }

    /// Whether the head of a lane is gone. Who does not touch an object between its being cut and having its length again
    /// is not told in any other way.
    pub(crate) fn is_wiped(&self) -> bool {
        let magic: U64 = self.ring.region().read(offset_of!(LaneHeader, magic));
        magic.get() != LANE_MAGIC
    }
}

impl RingMemory for LaneMemory {
    #[inline(always)]
    fn header(&self) -> &RingHeader {
        &self.ring
    }

    fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    #[inline(always)]
    fn copy_in(&self, index: usize, bytes: &[u8]) {
        self.ring.region().copy_in(DATA_OFFSET + index, bytes);
    }

    #[inline(always)]
    fn copy_in_both(&self, index: usize, bytes: &[u8], behind: &[u8]) {
        let region = self.ring.region();
        region.copy_in_both(DATA_OFFSET + index, bytes, behind);
    }

    #[inline(always)]
    fn copy_out(&self, index: usize, bytes: &mut [u8]) {
        self.ring.region().copy_out(DATA_OFFSET + index, bytes);
    }

    #[inline(always)]
    fn is_lost(&self) -> bool {
        self.ring.region().is_lost()
    }
}

/// An object that is a lane, its ring, and the descriptor that carries the liveness lock.
pub(crate) struct Lane {
    pub(crate) memory: LaneMemory,
    pub(crate) descriptor: OwnedFd,
    pub(crate) info: LaneInfo,
}

/// What a lane's header says, checked.
#[derive(Debug, Clone)]
pub(crate) struct LaneInfo {
    pub(crate) epoch: u64,
    pub(crate) publisher_pid: u32,
    pub(crate) publisher_uid: u32,
    pub(crate) created_ns: u64,
    pub(crate) label: String,
    pub(crate) rule: Rule,
}

/// Creates the object of a new lane, locked and filled in, not yet registered.
pub(crate) fn create(
    control: &Control,
    kind: RingKind,
    label: &str,
    rule: &Rule,
    created_ns: u64,
) -> Result<Lane, Error> {
    let capacity_bytes = u64::from(kind.capacity_bytes(rule));
    let length_bytes = DATA_OFFSET + capacity_bytes as usize;
    let (epoch, object) = create_object(control, length_bytes, |epoch| {
        kind.object_name(&control.bus, epoch)
    })?;
    let name = kind.object_name(&control.bus, epoch);
    object::try_lock(&object.descriptor);
    let mut label_field = [0; LABEL_BYTES];
    label_field[..label.len()].copy_from_slice(label.as_bytes());
    let publisher_pid = std::process::id();
    let publisher_uid = rustix::process::geteuid().as_raw();
    let header = LaneHeader {
        magic: U64::new(kind.magic()),
        layout_version: U32::new(LAYOUT_VERSION),
        publisher_pid: U32::new(publisher_pid),
        publisher_uid: U32::new(publisher_uid),
        label_bytes: U32::new(label.len() as u32),
        capacity_bytes: U64::new(capacity_bytes),
        epoch: U64::new(epoch),
        created_ns: U64::new(created_ns),
        label: label_field,
        rule: RuleEntry::from(rule),
    };
    object.region.populate(true);
    object.region.copy_in(0, header.as_bytes());
    // The ring itself starts as zeros, which is its empty state.
    let ring = object
        .region
        .pin::<RingHeader>(RING_OFFSET)
        .ok_or_else(|| too_small(&name))?;
    let info = LaneInfo {
        epoch,
        publisher_pid,
        publisher_uid,
        created_ns,
        label: label.to_owned(),
        rule: rule.clone(),
    };
    Ok(Lane {
        memory: LaneMemory {
            ring,
            capacity_bytes,
        },
        descriptor: object.descriptor,
        info,
    })
}

/// Creates an object under a number of its own. Anybody on the host can take the names that come next: then it takes
/// numbers that nobody can guess.
pub(crate) fn create_object(
    control: &Control,
    length_bytes: usize,
    name: impl Fn(u64) -> String,
) -> Result<(u64, Object), Error> {
    let mut taken = String::new();
    for attempt in 0..NAME_ATTEMPTS {
        let epoch = control.next_epoch(attempt > 0)?;
        taken = name(epoch);
        if let Created::New(object) =
            object::create(&taken, length_bytes, length_bytes, control.access)?
        {
            return Ok((epoch, object));
        }
    }
    let message = format!(
        "shared memory {taken} exists already, and {NAME_ATTEMPTS} names before it: somebody squats on them; remove \
         what is not yours from /dev/shm"
    );
    Err(Error::new(ErrorKind::WrongOwner, message))
}

/// Opens a registered ring, checking everything its header claims.
pub(crate) fn open(bus: &str, kind: RingKind, epoch: u64, access: Access) -> Result<Lane, Error> {
    let name = kind.object_name(bus, epoch);
    let object = object::open(&name, access)?;
    if object.region.length_bytes() < DATA_OFFSET {
        return Err(too_small(&name));
    }
    let header: LaneHeader = object.region.read(0);
    let wrong = |what: &str, found: u64, expected: u64| {
        let message = format!("lane {name} has {what} {found}, expected {expected}");
        Error::new(ErrorKind::WrongLayout, message)
    };
    if header.magic.get() != kind.magic() {
        return Err(wrong("magic", header.magic.get(), kind.magic()));
    }
    if header.layout_version.get() != LAYOUT_VERSION {
        let found = header.layout_version.get();
        return Err(wrong("layout version", found.into(), LAYOUT_VERSION.into()));
    }
    let capacity_bytes = header.capacity_bytes.get();
    let mapped_bytes = (object.region.length_bytes() - DATA_OFFSET) as u64;
    // Exactly: whoever maps it enters every page, and pages beyond the ring would only cost memory.
    if !capacity_bytes.is_power_of_two() || capacity_bytes < 4096 || capacity_bytes != mapped_bytes
    {
        return Err(wrong("capacity", capacity_bytes, mapped_bytes));
    }
    if header.epoch.get() != epoch {
        return Err(wrong("epoch", header.epoch.get(), epoch));
    }
    // It stands in gap lines and on terminals.
    let label = text_of(&header.label);
    check_label(&label)
        .map_err(|error| Error::new(ErrorKind::WrongLayout, format!("lane {name}: {error}")))?;
    let rule = Rule::try_from(&header.rule)
        .map_err(|error| Error::new(ErrorKind::WrongLayout, format!("lane {name}: {error}")))?;
    let asked_bytes = u64::from(kind.capacity_bytes(&rule));
    if capacity_bytes != asked_bytes {
        return Err(wrong("capacity", capacity_bytes, asked_bytes));
    }
    if u64::from(rule.payload_bytes_limit) > capacity_bytes / 4 {
        return Err(wrong(
            "payload limit",
            rule.payload_bytes_limit.into(),
            capacity_bytes / 4,
        ));
    }
    if object.region.is_lost() {
        return Err(too_small(&name));
    }
    let ring = object
        .region
        .pin::<RingHeader>(RING_OFFSET)
        .ok_or_else(|| too_small(&name))?;
    let info = LaneInfo {
        epoch,
        publisher_pid: header.publisher_pid.get(),
        publisher_uid: header.publisher_uid.get(),
        created_ns: header.created_ns.get(),
        label,
        rule,
    };
    Ok(Lane {
        memory: LaneMemory {
            ring,
            capacity_bytes,
        },
        descriptor: object.descriptor,
        info,
    })
}

fn too_small(name: &str) -> Error {
    Error::new(
        ErrorKind::WrongLayout,
        format!("lane {name} is smaller than its own header"),
    )
}

/// Checks the label of a publisher: it is shown in statistics and gap lines.
pub(crate) fn check_label(label: &str) -> Result<(), Error> {
    let printable = |character: char| !character.is_control() && !character.is_whitespace();
    if label.is_empty() || label.len() > LABEL_BYTES || !label.chars().all(printable) {
        let message = format!(
            "publisher label {label:?} cannot be used: 1 to {LABEL_BYTES} bytes without spaces or control \
             characters"
        );
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}
