//! rtrb: rings inside one process, one for each pair of sender and receiver. Its documented fast way to read: chunks.

use std::time::Duration;

use crossbeam_utils::Backoff;
use millpond_peers::Guarantees;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::peer::{
    About, Ends, Fallible, Fit, Peer, Place, Receiver, Sender, Sized2, Speed, locked, look_again,
    sized,
};
use crate::work::{End, Part, Work};

/// The peer.
pub struct Rtrb;

static SENDERS: Ends<<Rtrb as Peer>::Sender> = Ends::new();
static RECEIVERS: Ends<<Rtrb as Peer>::Receiver> = Ends::new();

impl Peer for Rtrb {
    type Sender = Sized2<Pushes<64>, Pushes<1024>>;
    type Receiver = Sized2<Pops<64>, Pops<1024>>;

    fn about(&self) -> About {
        About {
            name: "rtrb (in process)",
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
        locked("rtrb")
    }

    fn fit(&self, part: Part) -> Fit {
        match part {
            Part::Wake | Part::WakePinned => Fit::No("it has no wait: its receiver polls"),
            _ => Fit::Yes,
        }
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        for channel in 0..2 {
            if work.payload_bytes == 64 {
                rings(channel, work, Sized2::Small, Sized2::Small);
            } else {
                rings(channel, work, Sized2::Large, Sized2::Large);
            }
        }
        Ok(Place::new("rings", ()))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Self::Sender> {
        SENDERS.take(end)
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Self::Receiver> {
        RECEIVERS.take(end)
    }
}

fn rings<const N: usize>(
    channel: usize,
    work: &Work,
    sender: fn(Pushes<N>) -> <Rtrb as Peer>::Sender,
    receiver: fn(Pops<N>) -> <Rtrb as Peer>::Receiver,
) {
    let mut pops: Vec<Vec<_>> = (0..work.receivers).map(|_| Vec::new()).collect();
    for index in 0..work.senders {
        let mut pushes = Vec::new();
        for pops in &mut pops {
            let (producer, consumer) = RingBuffer::new(work.depth());
            pushes.push(producer);
            pops.push(consumer);
        }
        SENDERS.put(channel, index, sender(Pushes(pushes)));
    }
    for (index, pops) in pops.into_iter().enumerate() {
        RECEIVERS.put(channel, index, receiver(Pops(pops)));
    }
}

/// One ring for each receiver.
pub struct Pushes<const N: usize>(Vec<Producer<[u8; N]>>);

impl<const N: usize> Sender for Pushes<N> {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        for ring in &mut self.0 {
            let mut event = sized::<N>(payload)?;
            let backoff = Backoff::new();
            while let Err(PushError::Full(back)) = ring.push(event) {
                event = back;
                backoff.snooze();
            }
        }
        Ok(())
    }
}

/// One ring for each sender.
pub struct Pops<const N: usize>(Vec<Consumer<[u8; N]>>);

impl<const N: usize> Receiver for Pops<N> {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        look_again(patience, || {
            let mut seen = 0;
            for ring in &mut self.0 {
                let chunk = ring.read_chunk(ring.slots())?;
                let (first, second) = chunk.as_slices();
                first.iter().chain(second).for_each(|event| take(event));
                seen += chunk.len() as u64;
                chunk.commit_all();
            }
            Ok(seen)
        })
    }
}
