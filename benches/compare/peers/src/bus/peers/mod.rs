//! Who takes part.

use crate::peer::AnyPeer;
use crate::threads::Threads;

mod broadcast;
mod crossbeam;
mod disruptor;
mod frames;
mod iceoryx2;
mod line;
mod lttng;
mod memcpy;
pub mod millpond;
mod nats;
mod pipe;
mod posix_mq;
mod ring;
mod rtrb;
mod unix_datagram;
mod unix_stream;
mod zeromq;

static RTRB: Threads<rtrb::Rtrb> = Threads::new(rtrb::Rtrb);
static CROSSBEAM: Threads<crossbeam::Crossbeam> = Threads::new(crossbeam::Crossbeam);
static DISRUPTOR: Threads<disruptor::Disruptor> = Threads::new(disruptor::Disruptor);
static BROADCAST: Threads<broadcast::Broadcast> = Threads::new(broadcast::Broadcast);

/// All, in the order of the table: floors, millpond, the peers between processes, those inside one.
pub static ALL: &[&dyn AnyPeer] = &[
    &memcpy::Memcpy,
    &ring::Ring { by: 1 },
    &ring::Ring { by: 16 },
    &line::Line { sleeps: false },
    &line::Line { sleeps: true },
    &millpond::Millpond::Consumer,
    &millpond::Millpond::By16,
    &millpond::Millpond::Passthrough,
    &millpond::Millpond::Batch,
    &iceoryx2::Iceoryx2,
    &pipe::Pipe { is_buffered: false },
    &pipe::Pipe { is_buffered: true },
    &unix_stream::UnixStreams,
    &unix_datagram::UnixDatagrams,
    &posix_mq::PosixMq,
    &zeromq::ZeroMq,
    &nats::Nats,
    &lttng::Lttng,
    &RTRB,
    &CROSSBEAM,
    &DISRUPTOR,
    &BROADCAST,
];
