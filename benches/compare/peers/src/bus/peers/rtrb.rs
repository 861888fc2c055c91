//! rtrb: rings inside one process, one for each pair of sender and receiver. Its documented fast way to read: chunks.

use std::time::Duration;

use crossbeam_utils::Backoff;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::peer::{Fallible, Fit, Receiver, Sender, look_again, sized};
use crate::threads::{Local, Made};
use crate::work::{Part, Work};

/// The peer.
pub struct Rtrb;

impl Local for Rtrb {
    type Sender<const N: usize> = Pushes<N>;
    type Receiver<const N: usize> = Pops<N>;
    const NAME: &'static str = "rtrb, in process";
    const CRATE: &'static str = "rtrb";

    fn fit(&self, part: Part) -> Fit {
        match part {
            Part::Wake | Part::WakePinned => Fit::No("it has no wait: its receiver polls"),
            _ => Fit::Yes,
        }
    }

    fn make<const N: usize>(&self, work: &Work) -> Fallible<Made<Pushes<N>, Pops<N>>> {
        let mut receivers: Vec<_> = (0..work.receivers).map(|_| Pops(Vec::new())).collect();
        let mut senders = Vec::new();
        for _ in 0..work.senders {
            let mut pushes = Vec::new();
            for Pops(pops) in &mut receivers {
                let (producer, consumer) = RingBuffer::new(work.depth());
                pushes.push(producer);
                pops.push(consumer);
            }
            senders.push(Pushes(pushes));
        }
        Ok((senders, receivers))
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
