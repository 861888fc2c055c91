//! Floor: the bytes are copied into a buffer as large as a queue, and nobody reads them.

use std::hint::black_box;
use std::time::Duration;

use millpond_peers::Guarantees;

use crate::peer::{About, Fallible, Fit, Peer, Place, Receiver, Sender};
use crate::work::{End, Part, QUEUE_BYTES, Work};

/// The floor.
pub struct Memcpy;

impl Peer for Memcpy {
    type Sender = Buffer;
    type Receiver = Nobody;

    fn about(&self) -> About {
        About {
            is_in_process: true,
            guarantees: Guarantees {
                bounded: true,
                lossy: true,
                ..Guarantees::default()
            },
            ..About::floor("memcpy")
        }
    }

    fn fit(&self, part: Part) -> Fit {
        match part {
            Part::Throughput | Part::Throughput1k | Part::Publish => Fit::Yes,
            _ => Fit::Apart,
        }
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        Ok(Place::new("", ()))
    }

    fn sender(&self, _end: &End<'_>) -> Fallible<Buffer> {
        Ok(Buffer {
            bytes: vec![0; QUEUE_BYTES],
            at: 0,
        })
    }

    fn receiver(&self, _end: &End<'_>) -> Fallible<Nobody> {
        Ok(Nobody)
    }

    fn has_receiver(&self) -> bool {
        false
    }
}

/// Where the bytes go.
pub struct Buffer {
    bytes: Vec<u8>,
    at: usize,
}

impl Sender for Buffer {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        let end = self.at + payload.len();
        self.bytes[self.at..end].copy_from_slice(payload);
        // All payloads of a round are equally long, and a power of two.
        self.at = end % QUEUE_BYTES;
        black_box(&self.bytes);
        Ok(())
    }
}

/// Is never made.
pub struct Nobody;

impl Receiver for Nobody {
    fn receive(&mut self, _patience: Duration, _take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        Ok(0)
    }
}
