//! tokio's broadcast channel: senders and receivers of one process; a receiver that is too slow is told how many it
//! missed. Each receiver has a current-thread runtime for its timeouts, as a thread that blocks on async code has.

use std::time::Duration;

use futures_util::FutureExt;
use millpond_peers::Guarantees;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::peer::{
    About, Ends, Fallible, Peer, Place, Receiver, Sender, Sized2, Speed, locked, sized,
};
use crate::work::{End, Work};

/// Events taken before the caller looks at anything else.
const RUN: u64 = 1024;

/// The peer.
pub struct Broadcast;

static SENDERS: Ends<<Broadcast as Peer>::Sender> = Ends::new();
static RECEIVERS: Ends<<Broadcast as Peer>::Receiver> = Ends::new();

impl Peer for Broadcast {
    type Sender = Sized2<Sends<64>, Sends<1024>>;
    type Receiver = Sized2<Takes<64>, Takes<1024>>;

    fn about(&self) -> About {
        About {
            name: "tokio broadcast (in process)",
            is_in_process: true,
            speed: Speed::Memory,
            guarantees: Guarantees {
                bounded: true,
                ..Guarantees::default()
            },
        }
    }

    fn version(&self) -> Result<String, String> {
        locked("tokio")
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        for channel in 0..2 {
            if work.payload_bytes == 64 {
                channels(channel, work, Sized2::Small, Sized2::Small)?;
            } else {
                channels(channel, work, Sized2::Large, Sized2::Large)?;
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
    sender: fn(Sends<N>) -> <Broadcast as Peer>::Sender,
    receiver: fn(Takes<N>) -> <Broadcast as Peer>::Receiver,
) -> Fallible<()> {
    let (sends, _) = broadcast::channel(work.depth());
    for index in 0..work.receivers {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        RECEIVERS.put(
            channel,
            index,
            receiver(Takes {
                runtime,
                end: sends.subscribe(),
            }),
        );
    }
    for index in 0..work.senders {
        SENDERS.put(channel, index, sender(Sends(sends.clone())));
    }
    Ok(())
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
