//! POSIX message queues: one for each receiver, as deep as an ordinary user may make one (`fs.mqueue.msg_max`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_open, mq_send, mq_timedreceive, mq_unlink};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;

use crate::peer::{About, Fallible, Peer, Place, Receiver, Sender, kernel};
use crate::work::{End, Work};

const DEPTH_FILE: &str = "/proc/sys/fs/mqueue/msg_max";

/// The peer.
pub struct PosixMq;

impl Peer for PosixMq {
    type Sender = Sends;
    type Receiver = Takes;

    fn about(&self) -> About {
        About::new("posix message queue")
    }

    fn version(&self) -> Result<String, String> {
        let depth = depth().map_err(|error| format!("{DEPTH_FILE}: {error}"))?;
        Ok(format!("{}, {depth} deep", kernel()))
    }

    fn open(&self, work: &Work) -> Fallible<Place> {
        let place = format!("/millpond-peers-{}", std::process::id());
        let mut queues = Queues(Vec::new());
        for channel in 0..2 {
            for index in 0..work.receivers {
                let name = format!("{place}-{channel}-{index}");
                let attributes = MqAttr::new(0, depth()?, work.payload_bytes as i64, 0);
                let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR;
                let mode = Mode::S_IRUSR | Mode::S_IWUSR;
                mq_open(name.as_str(), flags, mode, Some(&attributes))?;
                queues.0.push(name);
            }
        }
        Ok(Place::new(place, queues))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Sends> {
        let mut queues = Vec::new();
        for index in 0..end.work.receivers {
            let name = format!("{}-{}", end.place, end.name(index));
            queues.push(mq_open(
                name.as_str(),
                MQ_OFlag::O_WRONLY,
                Mode::empty(),
                None,
            )?);
        }
        Ok(Sends(queues))
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Takes> {
        let name = format!("{}-{}", end.place, end.name(end.index));
        let nonblocking = match end.work.part.polls() {
            true => MQ_OFlag::O_NONBLOCK,
            false => MQ_OFlag::empty(),
        };
        let queue = mq_open(
            name.as_str(),
            MQ_OFlag::O_RDONLY | nonblocking,
            Mode::empty(),
            None,
        )?;
        Ok(Takes(queue))
    }
}

fn depth() -> Fallible<i64> {
    Ok(std::fs::read_to_string(DEPTH_FILE)?.trim().parse()?)
}

/// Removes its queues.
struct Queues(Vec<String>);

impl Drop for Queues {
    fn drop(&mut self) {
        for name in &self.0 {
            // What is left where this fails is a queue, and there is nobody to tell.
            let _ = mq_unlink(name.as_str());
        }
    }
}

/// A queue to each receiver.
pub struct Sends(Vec<MqdT>);

impl Sender for Sends {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        Ok(self
            .0
            .iter()
            .try_for_each(|queue| mq_send(queue, payload, 0))?)
    }
}

/// The queue of one receiver.
pub struct Takes(MqdT);

impl Receiver for Takes {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let mut payload = [0; 1024];
        let until = SystemTime::now().duration_since(UNIX_EPOCH)? + patience;
        match mq_timedreceive(&self.0, &mut payload, &mut 0, &TimeSpec::from(until)) {
            Ok(length) => take(&payload[..length]),
            Err(Errno::EAGAIN | Errno::ETIMEDOUT | Errno::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
        Ok(1)
    }
}
