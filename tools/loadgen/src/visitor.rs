//! Who asks the daemon's pages while something else happens: `/healthz` and `/metrics`, in turn, with the time of each
//! answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::latencies::Latencies;

/// An answer that comes later counts as none.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Both pages this often: more than 1,000 times in a minute.
const ASK_EVERY: Duration = Duration::from_millis(40);

/// What the visitor found of one page.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) latencies: Latencies,
}

/// Of all that is asked.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) healthz: Visits,
    pub(crate) metrics: Visits,
}

/// Asks from the process of the scenario.
pub(crate) struct Visitor {
    stop: Sender<()>,
    thread: JoinHandle<Found>,
}

impl Visitor {
    pub(crate) fn start(address: SocketAddr) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("visitor".to_owned())
            .spawn(move || visit(address, &stopped))?;
        Ok(Visitor { stop, thread })
    }

    pub(crate) fn end(self) -> Result<Found, Error> {
        drop(self.stop);
        let ended = self.thread.join();
        ended.map_err(|_| Error::new("the visitor of the pages panicked"))
    }
}

fn visit(address: SocketAddr, stopped: &Receiver<()>) -> Found {
    let mut found = Found::default();
    loop {
        found.healthz.ask(address, "/healthz");
        found.metrics.ask(address, "/metrics");
        match stopped.recv_timeout(ASK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return found,
        }
    }
}

impl Visits {
    fn ask(&mut self, address: SocketAddr, path: &str) {
        let started = Instant::now();
        self.asked += 1;
        if get(address, path).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            self.answered += 1;
            self.latencies.record(started.elapsed().as_nanos() as u64);
        }
    }
}

/// The whole answer, head and body.
fn get(address: SocketAddr, path: &str) -> Result<String, Error> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
