//! Events of a fixed length out of byte streams: pipes and stream sockets.
//!
//! One stream that may sleep is read blocking, as anyone would; several, or one that is only looked at, without blocking
//! and with `poll`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_getfd, ioctl_fionbio, read};

use crate::peer::{Fallible, Receiver};
use crate::work::Work;

const BUFFER_BYTES: usize = 64 << 10;

/// Streams, each with what has come of an event that is not whole yet.
pub struct Frames {
    streams: Vec<Stream>,
    payload_bytes: usize,
    blocks: bool,
}

struct Stream {
    file: OwnedFd,
    buffer: Vec<u8>,
    filled: usize,
    has_ended: bool,
}

impl Frames {
    /// Of these streams.
    ///
    /// # Errors
    /// When one of them is not open.
    pub fn new(work: &Work, files: Vec<OwnedFd>) -> Fallible<Self> {
        let blocks = files.len() == 1 && !work.part.polls();
        let mut streams = Vec::new();
        for file in files {
            fcntl_getfd(&file)?;
            ioctl_fionbio(&file, !blocks)?;
            let buffer = vec![0; BUFFER_BYTES];
            streams.push(Stream {
                file,
                buffer,
                filled: 0,
                has_ended: false,
            });
        }
        Ok(Frames {
            streams,
            payload_bytes: work.payload_bytes,
            blocks,
        })
    }

    fn look(&mut self, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let mut seen = 0;
        for stream in &mut self.streams {
            if !stream.has_ended {
                seen += stream.read(self.payload_bytes, take)?;
            }
        }
        Ok(seen)
    }
}

impl Stream {
    #[inline(always)]
    fn read(&mut self, payload_bytes: usize, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let count = match read(&self.file, &mut self.buffer[self.filled..]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        self.has_ended = count == 0;
        self.filled += count;
        let whole = self.filled / payload_bytes * payload_bytes;
        self.buffer[..whole]
            .chunks_exact(payload_bytes)
            .for_each(take);
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Ok((whole / payload_bytes) as u64)
    }
}

impl Receiver for Frames {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let seen = self.look(take)?;
        if seen > 0 || self.blocks || patience.is_zero() {
            return Ok(seen);
        }
        let streams = self.streams.iter().filter(|stream| !stream.has_ended);
        let mut ready: Vec<_> = streams
            .map(|stream| PollFd::new(&stream.file, PollFlags::IN))
            .collect();
        poll(&mut ready, Some(&Timespec::try_from(patience)?))?;
        drop(ready);
        self.look(take)
    }
}
