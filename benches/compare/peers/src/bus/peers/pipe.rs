//! Pipes (named, so that any two processes have them): one for each receiver; senders share it, since a write of up to
//! 4096 bytes is never torn.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::frames::Frames;
use crate::peer::{About, Fallible, Fit, Peer, Place, Sender, Speed};
use crate::work::{End, Part, Work};

const BUFFER_BYTES: usize = 64 << 10;

/// The peer.
pub struct Pipe {
    /// Whether the sender gathers 64 KiB for each write.
    pub is_buffered: bool,
}

impl Peer for Pipe {
    type Sender = Writes;
    type Receiver = Frames;

    fn about(&self) -> About {
        match self.is_buffered {
            false => About::new("pipe"),
            true => About {
                speed: Speed::Memory,
                ..About::new("pipe, 64 KiB writes")
            },
        }
    }

    fn fit(&self, part: Part) -> Fit {
        match part {
            _ if !self.is_buffered => Fit::Yes,
            Part::Throughput | Part::Throughput1k | Part::FanOut => Fit::Yes,
            _ => Fit::Apart,
        }
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        let dir = tempfile::tempdir()?;
        for channel in 0..2 {
            for index in 0..work.receivers {
                let path = dir.path().join(format!("{channel}-{index}"));
                mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
            }
        }
        Ok(Place::new(dir.path().display().to_string(), dir))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Writes> {
        let mut pipes = Vec::new();
        for index in 0..end.work.receivers {
            let path = Path::new(end.place).join(end.name(index));
            pipes.push(OpenOptions::new().write(true).open(path)?);
        }
        Ok(match self.is_buffered {
            false => Writes::Each(pipes),
            true => {
                let buffered = pipes
                    .into_iter()
                    .map(|pipe| BufWriter::with_capacity(BUFFER_BYTES, pipe));
                Writes::Gathered(buffered.collect())
            }
        })
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Frames> {
        let path = Path::new(end.place).join(end.name(end.index));
        // Else the open would wait for a sender, and senders wait until all receivers are there.
        let flags = OFlags::NONBLOCK.bits() as i32;
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        Frames::new(end.work, vec![OwnedFd::from(pipe)])
    }
}

/// The side that writes: a pipe for each receiver.
pub enum Writes {
    /// A write an event.
    Each(Vec<File>),
    /// A write when 64 KiB are full.
    Gathered(Vec<BufWriter<File>>),
}

impl Sender for Writes {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        match self {
            Writes::Each(pipes) => pipes
                .iter_mut()
                .try_for_each(|pipe| pipe.write_all(payload))?,
            Writes::Gathered(pipes) => pipes
                .iter_mut()
                .try_for_each(|pipe| pipe.write_all(payload))?,
        }
        Ok(())
    }

    fn flush(&mut self) -> Fallible<()> {
        match self {
            Writes::Each(_) => Ok(()),
            Writes::Gathered(pipes) => Ok(pipes.iter_mut().try_for_each(|pipe| pipe.flush())?),
        }
    }
}
