//! Unix stream sockets: each sender is connected to each receiver.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::frames::Frames;
use crate::peer::{About, Fallible, Peer, Place, Receiver, Sender};
use crate::work::{End, Work};

/// The peer.
pub struct UnixStreams;

impl Peer for UnixStreams {
    type Sender = Streams;
    type Receiver = Accepts;

    fn about(&self) -> About {
        About::new("unix stream socket")
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let dir = tempfile::tempdir()?;
        Ok(Place::new(dir.path().display().to_string(), dir))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Streams> {
        let mut streams = Vec::new();
        for index in 0..end.work.receivers {
            streams.push(UnixStream::connect(
                Path::new(end.place).join(end.name(index)),
            )?);
        }
        Ok(Streams(streams))
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Accepts> {
        let path = Path::new(end.place).join(end.name(end.index));
        Ok(Accepts {
            listener: UnixListener::bind(path)?,
            work: end.work.clone(),
            frames: None,
        })
    }
}

/// A connection to each receiver.
pub struct Streams(Vec<UnixStream>);

impl Sender for Streams {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        Ok(self
            .0
            .iter_mut()
            .try_for_each(|stream| stream.write_all(payload))?)
    }
}

/// The connections of all senders, once they are there.
pub struct Accepts {
    listener: UnixListener,
    work: Work,
    frames: Option<Frames>,
}

impl Receiver for Accepts {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let frames = match &mut self.frames {
            Some(frames) => frames,
            none => {
                let mut streams = Vec::new();
                for _ in 0..self.work.senders {
                    streams.push(OwnedFd::from(self.listener.accept()?.0));
                }
                none.insert(Frames::new(&self.work, streams)?)
            }
        };
        frames.receive(patience, take)
    }
}
