//! `/healthz`: answered by the thread that takes the events, so that it tells whether that thread lives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_bus::SubscriptionWaker;

use super::subscriber::Visit;
use crate::error::Error;
use crate::latencies::Latencies;

const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Listens on a free port; each request becomes a visit and a wake-up.
pub(super) fn serve(waker: SubscriptionWaker) -> Result<(u16, Receiver<Visit>), Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let (visits, receiver) = mpsc::channel();
    // Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A visitor that leaves in the middle counts its visit as not answered.
            let _ = answer(stream, &visits, &waker);
        }
    });
    Ok((port, receiver))
}

fn answer(
    mut stream: TcpStream,
    visits: &Sender<Visit>,
    waker: &SubscriptionWaker,
) -> Result<(), Error> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let mut request = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (answer, answers) = mpsc::channel();
    let gone = |_| Error::new("the subscriber does not answer");
    visits
        .send(answer)
        .map_err(|_| Error::new("the subscriber has ended"))?;
    waker.wake();
    let events = answers.recv_timeout(ANSWER_LIMIT).map_err(gone)?;
    let body = format!("{{\"status\":\"ok\",\"events\":{events}}}\n");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// What the visitor found.
#[derive(Debug, Default)]
pub(super) struct Visits {
    pub(super) asked: u64,
    pub(super) answered: u64,
    pub(super) latencies: Latencies,
}

/// Asks ten times a second, from the process of the scenario.
pub(super) struct Visitor {
    stop: Sender<()>,
    thread: JoinHandle<Visits>,
}

impl Visitor {
    pub(super) fn start(port: u16) -> Result<Self, Error> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("visitor".to_owned())
            .spawn(move || visit(port, &stopped))?;
        Ok(Visitor { stop, thread })
    }

    pub(super) fn end(self) -> Result<Visits, Error> {
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
