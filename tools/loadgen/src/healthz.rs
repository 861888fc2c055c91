//! `/healthz`, as the daemon is going to answer it: from the statistics in shared memory, by a thread of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_bus::{Bus, SourceStats};

use crate::error::Error;
use crate::latencies::Latencies;

const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Listens on a free port, until the process ends.
pub(crate) fn serve(bus: Bus) -> Result<u16, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new()
        .name("healthz".to_owned())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                // A visitor that leaves in the middle counts its visit as not answered.
                let _ = answer(stream, &bus);
            }
        })?;
    Ok(port)
}

fn answer(mut stream: TcpStream, bus: &Bus) -> Result<(), Error> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut request = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let stats = bus.stats();
    let sum = |of: fn(&SourceStats) -> u64| stats.sources.iter().map(of).sum::<u64>();
    let consumer = stats.consumer.as_ref();
    let is_well = consumer.is_some_and(|consumer| consumer.alive && consumer.trouble.is_empty());
    let status = if is_well {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    let body = serde_json::json!({
        "delivered": sum(|source| source.delivered),
        "in_flight": sum(|source| source.in_flight),
        "trouble": consumer.map(|consumer| &consumer.trouble),
    });
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// What the visitor found.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) latencies: Latencies,
}

/// Asks ten times a second, from the process of the scenario.
pub(crate) struct Visitor {
    stop: Sender<()>,
    thread: JoinHandle<Visits>,
}

impl Visitor {
    pub(crate) fn start(port: u16) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("visitor".to_owned())
            .spawn(move || visit(port, &stopped))?;
        Ok(Visitor { stop, thread })
    }

    pub(crate) fn end(self) -> Result<Visits, Error> {
        drop(self.stop);
        let ended = self.thread.join();
        ended.map_err(|_| Error::new("the visitor of /healthz panicked"))
    }
}

fn visit(port: u16, stopped: &Receiver<()>) -> Visits {
    let mut visits = Visits::default();
    loop {
        let started = Instant::now();
        visits.asked += 1;
        if ask(port).is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            visits.answered += 1;
            visits.latencies.record(started.elapsed().as_nanos() as u64);
        }
        match stopped.recv_timeout(ASK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return visits,
        }
    }
}

fn ask(port: u16) -> Result<String, Error> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
