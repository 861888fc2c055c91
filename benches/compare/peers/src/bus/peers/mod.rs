//! Who takes part.

use crate::peer::AnyPeer;

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

/// All, in the order of the table: floors, millpond, the peers between processes, those inside one.
pub const ALL: &[&dyn AnyPeer] = &[
    &memcpy::Memcpy,
    &ring::Ring { by: 1 },
    &ring::Ring { by: 16 },
    &line::Line,
    &line::Futex,
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
    &rtrb::Rtrb,
    &crossbeam::Crossbeam,
    &disruptor::Disruptor,
    &broadcast::Broadcast,
];
