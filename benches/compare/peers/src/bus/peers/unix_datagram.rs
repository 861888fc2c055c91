//! Unix datagram sockets: one for each receiver. They lose nothing: a send waits while the receiver has
//! `net.unix.max_dgram_qlen` datagrams before it.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::peer::{About, Fallible, Peer, Place, Receiver, Sender, kernel};
use crate::work::{End, Work};

/// The peer.
pub struct UnixDatagrams;

impl Peer for UnixDatagrams {
    type Sender = Sends;
    type Receiver = Takes;

    fn about(&self) -> About {
        About::new("unix datagram socket")
    }

    fn version(&self) -> Result<String, String> {
        let depth = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen");
        Ok(format!(
            "{}, {} deep",
            kernel(),
            depth.unwrap_or_default().trim()
        ))
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let dir = tempfile::tempdir()?;
        Ok(Place::new(dir.path().display().to_string(), dir))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Sends> {
        let mut sockets = Vec::new();
        for index in 0..end.work.receivers {
            let socket = UnixDatagram::unbound()?;
            socket.connect(Path::new(end.place).join(end.name(index)))?;
            sockets.push(socket);
        }
        Ok(Sends(sockets))
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Takes> {
        let socket = UnixDatagram::bind(Path::new(end.place).join(end.name(end.index)))?;
        socket.set_nonblocking(end.work.part.polls())?;
        Ok(Takes {
            socket,
            patience: Duration::ZERO,
        })
    }
}

/// A socket to each receiver.
pub struct Sends(Vec<UnixDatagram>);

impl Sender for Sends {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        for socket in &self.0 {
            socket.send(payload)?;
        }
        Ok(())
    }
}

/// The socket of one receiver.
pub struct Takes {
    socket: UnixDatagram,
    patience: Duration,
}

impl Receiver for Takes {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        if patience != self.patience {
            self.socket.set_read_timeout(Some(patience))?;
            self.patience = patience;
        }
        let mut payload = [0; 1024];
        match self.socket.recv(&mut payload) {
            Ok(length) => take(&payload[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(1)
    }
}
