//! crossbeam-channel: a bounded channel inside one process for each receiver; senders share it.

use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::peer::{Fallible, Receiver, Sender, sized};
use crate::threads::{Local, Made};
use crate::work::Work;

/// Events taken before the caller looks at anything else.
const RUN: u64 = 1024;

/// The peer.
pub struct Crossbeam;

impl Local for Crossbeam {
    type Sender<const N: usize> = Sends<N>;
    type Receiver<const N: usize> = Takes<N>;
    const NAME: &'static str = "crossbeam-channel, in process";
    const CRATE: &'static str = "crossbeam-channel";

    fn make<const N: usize>(&self, work: &Work) -> Fallible<Made<Sends<N>, Takes<N>>> {
        let ends = (0..work.receivers).map(|_| bounded(work.depth()));
        let (sends, takes): (Vec<_>, Vec<_>) = ends.unzip();
        let senders = (0..work.senders).map(|_| Sends(sends.clone()));
        Ok((senders.collect(), takes.into_iter().map(Takes).collect()))
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
