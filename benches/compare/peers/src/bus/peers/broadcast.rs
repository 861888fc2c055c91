//! tokio's broadcast channel: senders and receivers of one process; a receiver that is too slow is told how many it
//! missed. Each receiver has a current-thread runtime for its timeouts, as a thread that blocks on async code has.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::peer::{Fallible, Receiver, Sender, sized};
use crate::threads::{Local, Made};
use crate::work::Work;

/// Events taken before the caller looks at anything else.
const RUN: u64 = 1024;

/// The peer.
pub struct Broadcast;

impl Local for Broadcast {
    type Sender<const N: usize> = Sends<N>;
    type Receiver<const N: usize> = Takes<N>;
    const NAME: &'static str = "tokio broadcast, in process";
    const CRATE: &'static str = "tokio";
    const IS_BLOCKING: bool = false;

    fn make<const N: usize>(&self, work: &Work) -> Fallible<Made<Sends<N>, Takes<N>>> {
        let (sends, _) = broadcast::channel(work.depth());
        let mut receivers = Vec::new();
        for _ in 0..work.receivers {
            receivers.push(Takes {
                runtime: Builder::new_current_thread().enable_time().build()?,
                end: sends.subscribe(),
            });
        }
        let senders = (0..work.senders).map(|_| Sends(sends.clone()));
        Ok((senders.collect(), receivers))
    }
}

/// The side that sends. It never waits.
pub struct Sends<const N: usize>(broadcast::Sender<[u8; N]>);

impl<const N: usize> Sender for Sends<N> {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        // Fails when nobody receives any more, who then has all that was wanted.
        drop(self.0.send(sized::<N>(payload)?));
        Ok(())
    }
}

/// The side that receives.
pub struct Takes<const N: usize> {
    runtime: Runtime,
    end: broadcast::Receiver<[u8; N]>,
}

impl<const N: usize> Receiver for Takes<N> {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let mut seen = 0;
        while seen < RUN {
            match self.end.recv().now_or_never() {
                Some(Ok(event)) => {
                    take(&event);
                    seen += 1;
                }
                // It was told of a loss; what is missing is counted by its number.
                Some(Err(RecvError::Lagged(_))) => {}
                Some(Err(RecvError::Closed)) | None => break,
            }
        }
        if seen > 0 || patience.is_zero() {
            return Ok(seen);
        }
        let next = self
            .runtime
            .block_on(async { tokio::time::timeout(patience, self.end.recv()).await });
        if let Ok(Ok(event)) = next {
            take(&event);
            seen += 1;
        }
        Ok(seen)
    }
}
