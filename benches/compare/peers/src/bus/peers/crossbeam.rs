//! crossbeam-channel: a bounded channel inside one process for each receiver; senders share it.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use millpond_peers::Guarantees;

use crate::peer::{
    About, Ends, Fallible, Peer, Place, Receiver, Sender, Sized2, Speed, locked, sized,
};
use crate::work::{End, Work};

/// Events taken before the caller looks at anything else.
const RUN: u64 = 1024;

/// The peer.
pub struct Crossbeam;

static SENDERS: Ends<<Crossbeam as Peer>::Sender> = Ends::new();
static RECEIVERS: Ends<<Crossbeam as Peer>::Receiver> = Ends::new();

impl Peer for Crossbeam {
    type Sender = Sized2<Sends<64>, Sends<1024>>;
    type Receiver = Sized2<Takes<64>, Takes<1024>>;

    fn about(&self) -> About {
        About {
            name: "crossbeam-channel (in process)",
            is_in_process: true,
            speed: Speed::Memory,
            guarantees: Guarantees {
                bounded: true,
                blocking: true,
                ..Guarantees::default()
            },
        }
    }

    fn version(&self) -> Result<String, String> {
        locked("crossbeam-channel")
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        for channel in 0..2 {
            if work.payload_bytes == 64 {
                channels(channel, work, Sized2::Small, Sized2::Small);
            } else {
                channels(channel, work, Sized2::Large, Sized2::Large);
            }
        }
        Ok(Place::new("channels", ()))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Self::Sender> {
        SENDERS.take(end)
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Self::Receiver> {
        RECEIVERS.take(end)
    }
}

fn channels<const N: usize>(
    channel: usize,
    work: &Work,
    sender: fn(Sends<N>) -> <Crossbeam as Peer>::Sender,
    receiver: fn(Takes<N>) -> <Crossbeam as Peer>::Receiver,
) {
    let ends = (0..work.receivers).map(|_| bounded(work.depth()));
    let (senders, receivers): (Vec<_>, Vec<_>) = ends.unzip();
    for index in 0..work.senders {
        SENDERS.put(channel, index, sender(Sends(senders.clone())));
    }
    for (index, end) in receivers.into_iter().enumerate() {
        RECEIVERS.put(channel, index, receiver(Takes(end)));
    }
}

/// One channel for each receiver.
pub struct Sends<const N: usize>(Vec<crossbeam_channel::Sender<[u8; N]>>);

impl<const N: usize> Sender for Sends<N> {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        for channel in &self.0 {
            channel.send(sized::<N>(payload)?)?;
        }
        Ok(())
    }
}

/// The channel that all senders share.
pub struct Takes<const N: usize>(crossbeam_channel::Receiver<[u8; N]>);

impl<const N: usize> Receiver for Takes<N> {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let mut seen = 0;
        while seen < RUN
            && let Ok(event) = self.0.try_recv()
        {
            take(&event);
            seen += 1;
        }
        if seen > 0 || patience.is_zero() {
            return Ok(seen);
        }
        match self.0.recv_timeout(patience) {
            Ok(event) => {
                take(&event);
                Ok(1)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(0),
        }
    }
}
