//! Core NATS: a `nats-server` of our own on a free port of the loopback, and its official client. A subscriber that is
//! too slow loses messages: at most once is what core NATS promises.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use millpond_peers::Guarantees;
use tokio::runtime::{Builder, Runtime};

use crate::peer::{About, Fallible, IN_PROCESS, Peer, Place, Receiver, Sender, Speed, locked};
use crate::work::{End, Work};

const SERVER: &str = "nats-server";
/// Events taken before the caller looks at anything else.
const RUN: u64 = 1024;

/// The peer.
pub struct Nats;

impl Peer for Nats {
    type Sender = Publishes;
    type Receiver = Subscribes;

    fn about(&self) -> About {
        About {
            speed: Speed::Server,
            guarantees: Guarantees {
                lossy: true,
                ..IN_PROCESS
            },
            ..About::new("nats core")
        }
    }

    fn version(&self) -> Result<String, String> {
        let output = Command::new(SERVER).arg("--version").output();
        let output = output.map_err(|error| format!("{SERVER} (Debian: nats-server): {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout)
            .trim()
            .replace(": v", " ");
        Ok(format!("{text}, {}", locked("async-nats")))
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let server = Server::start()?;
        Ok(Place {
            address: format!("nats://127.0.0.1:{}", server.port),
            servers: vec![server.child.id()],
            keep: Box::new(server),
        })
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Publishes> {
        let runtime = runtime()?;
        let client = runtime.block_on(ConnectOptions::new().connect(end.place))?;
        Ok(Publishes {
            runtime,
            client,
            subject: subject(end),
        })
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Subscribes> {
        let runtime = runtime()?;
        // Its queue of 65,536 messages, the default, is no shallower than anybody's here.
        let client = runtime.block_on(ConnectOptions::new().connect(end.place))?;
        let subscriber = runtime.block_on(client.subscribe(subject(end)))?;
        // The server knows of the subscription before anyone sends.
        runtime.block_on(client.flush())?;
        Ok(Subscribes {
            runtime,
            subscriber,
            _client: client,
        })
    }
}

fn subject(end: &End<'_>) -> Subject {
    format!("events.{}", end.channel).into()
}

/// The client's connection lives on a thread of its own, as in any program that uses it.
fn runtime() -> Fallible<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

/// A server that goes with the round.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Fallible<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = free.local_addr()?.port();
        drop(free);
        let child = Command::new(SERVER)
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Server { child, port };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(format!("{SERVER} does not listen after 10 s").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing that a kill could harm.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The side that publishes.
pub struct Publishes {
    runtime: Runtime,
    client: Client,
    subject: Subject,
}

impl Sender for Publishes {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        let publish = || {
            self.client
                .publish(self.subject.clone(), payload.to_vec().into())
        };
        // Ready at once, except where the client's queue is full: then nothing was taken, and it is done again.
        match publish().now_or_never() {
            Some(done) => done?,
            None => self.runtime.block_on(publish())?,
        }
        Ok(())
    }

    fn flush(&mut self) -> Fallible<()> {
        Ok(self.runtime.block_on(self.client.flush())?)
    }
}

/// The side that subscribes.
pub struct Subscribes {
    runtime: Runtime,
    subscriber: Subscriber,
    _client: Client,
}

impl Receiver for Subscribes {
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        let mut seen = 0;
        while seen < RUN
            && let Some(Some(message)) = self.subscriber.next().now_or_never()
        {
            take(&message.payload);
            seen += 1;
        }
        if seen > 0 || patience.is_zero() {
            return Ok(seen);
        }
        let subscriber = &mut self.subscriber;
        let next = self
            .runtime
            .block_on(async { tokio::time::timeout(patience, subscriber.next()).await });
        if let Ok(Some(message)) = next {
            take(&message.payload);
            seen += 1;
        }
        Ok(seen)
    }
}
