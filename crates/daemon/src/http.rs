//! Health, readiness and metrics over HTTP, from one thread that shares nothing with the consumer but read-only
//! statistics: it answers while the consumer floods, recovers, hangs or cannot write.
//!
//! | page | says | 503 when |
//! |---|---|---|
//! | `/livez` | the consumer moves | only a restart mends it: [`Health::deadly`] |
//! | `/healthz` | it does its work, or is about to | that, or the log cannot be written: [`Health::problems`] |
//! | `/readyz` | it drains the bus into the log | that, or it is not there yet: [`Health::waits_for`] |
//! | `/metrics` | everything counted, as Prometheus reads it | shared memory was wiped or truncated |
//! | `/stats.json` | the same as one JSON object | the same |
//!
//! # Bounds
//! One thread, at most 32 connections, one request on each and 5 s for it, 16 KiB for its head; a body is not read.
//! Where all connections are taken, a new one takes the place of the oldest: whoever sends slowly keeps nobody out. In
//! the worst case each holds a page, 2 KiB for each source of the bus.
//!
//! ```
//! use std::io::{Read, Write};
//! use millpond_bus::{Bus, BusOptions};
//! use millpond_daemon::{Daemon, Life, http::Listener};
//!
//! # let dir = tempfile::tempdir()?;
//! # let logs_dir = dir.path();
//! # let name = format!("doc-http-{}", std::process::id());
//! # let name = name.as_str();
//! // First the address, so that a port in use is known before anything else is begun; then the pages; then the consumer.
//! let listener = Listener::bind("127.0.0.1:0".parse()?)?;
//! let bus = Bus::attach(name, &BusOptions::default())?;
//! let life = Life::default();
//! let server = listener.serve(Bus::open(name)?, &life)?;
//! let daemon = Daemon::builder(&bus, logs_dir).life(&life).spawn()?;
//!
//! let mut stream = std::net::TcpStream::connect(server.address())?;
//! stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer)?;
//! assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
//! assert!(answer.contains(r#""ready":true"#));
//! # daemon.stop()?;
//! # bus.remove()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use millpond_bus::{Bus, prometheus_text};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;

use crate::error::Error;
use crate::health::Health;
use crate::life::Life;
use crate::report::stats_json;

/// Enough for a few probes, scrapers and people at a time.
const CONNECTIONS_MAX: usize = 32;
/// The request line and all headers.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// From the first byte to the last, of request and answer together.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);
/// When no connection can be taken for want of file handles, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The text exposition format of `prometheus_text`.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

const INDEX: &str = "\
millpond

/livez       200 while the consumer moves, 503 when only a restart helps
/healthz     200 while it also can write the log
/readyz      200 when it drains the bus; 503 says what it waits for
/metrics     everything counted, for Prometheus
/stats.json  the same as `millpond stats --json`
";

/// An address that is taken and not yet served.
///
/// See the front page of the module.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes the address; port 0 is any that is free.
    ///
    /// ```
    /// use millpond_daemon::http::Listener;
    /// let taken = Listener::bind("[::1]:0".parse()?).or_else(|_| Listener::bind("127.0.0.1:0".parse().unwrap()))?;
    /// let error = Listener::bind(taken.address()).unwrap_err();
    /// assert!(error.to_string().contains("another process listens there"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Http`, with what to do: the port is in use, the address is not of this host, or the port is for root alone.
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::Http {
            address,
            why: explain(&error, address.port()),
        };
        let socket = TcpListener::bind(address).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Listener { socket, address })
    }

    /// The address, with the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether other hosts may reach it: then everyone there can read the names of services, users and programs.
    ///
    /// ```
    /// use millpond_daemon::http::Listener;
    /// assert!(!Listener::bind("127.0.0.1:0".parse()?)?.is_open_to_others());
    /// assert!(Listener::bind("0.0.0.0:0".parse()?)?.is_open_to_others());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_open_to_others(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }

    /// Answers until the server is dropped. `bus` is best a mapping of its own ([`Bus::open_shared`]); `life` is that of
    /// the consumer, which may not have begun yet.
    ///
    /// # Errors
    /// `Http` where no thread can be started.
    pub fn serve(self, bus: Bus, life: &Life) -> Result<Server, Error> {
        let Listener { socket, address } = self;
        let failed = |error: io::Error| Error::Http {
            address,
            why: error.to_string(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(failed)?;
        let socket = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(socket).map_err(failed)?
        };
        let pages = Arc::new(Pages {
            bus,
            life: life.clone(),
        });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("millpond-http".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(&socket, &pages) => {}
                        // Also when nobody is left to stop it.
                        _ = stopped => {}
                    }
                });
            })
            .map_err(failed)?;
        Ok(Server {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

/// What to do where an address cannot be taken.
fn explain(error: &io::Error, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{error}: another process listens there (`ss -ltnp 'sport = :{port}'` shows which): stop it, or take \
             another port"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{error}: this host has no such address: take 127.0.0.1, [::1], or one that `ip address` shows"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{error}: ports below 1024 are for root: take a higher one")
        }
        _ => error.to_string(),
    }
}

/// The thread that answers; ends when this is dropped, with whatever it was answering.
///
/// See the front page of the module.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been told when it happened; there is nothing left to do about it.
            let _ = thread.join();
        }
    }
}

/// Takes connections for ever.
async fn accept(socket: &tokio::net::TcpListener, pages: &Arc<Pages>) {
    let mut open: VecDeque<Task<()>> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                open.retain(|task| !task.is_finished());
                if open.len() == CONNECTIONS_MAX
                    && let Some(oldest) = open.pop_front()
                {
                    // It had its time: an answer takes milliseconds.
                    oldest.abort();
                }
                open.push_back(tokio::spawn(converse(stream, Arc::clone(pages))));
            }
            // No file handle, or a visitor that has left already: others may have more luck.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, pages: Arc<Pages>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = pages.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever goes wrong with it, the visitor has the loss; nobody else needs to hear of it.
    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await;
}

/// What is answered, from statistics alone.
struct Pages {
    bus: Bus,
    life: Life,
}

impl Pages {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        type Page = fn(&Pages) -> Response<Full<Bytes>>;
        let page: Page = match path {
            "/" => |_| text(StatusCode::OK, PLAIN, INDEX.to_owned()),
            "/livez" => |pages| pages.livez(),
            "/healthz" => |pages| pages.healthz(),
            "/readyz" => |pages| pages.readyz(),
            "/metrics" => |pages| pages.metrics(),
            "/stats.json" => |pages| pages.stats(),
            _ => {
                let words = format!("there is no such page; there are:\n\n{INDEX}");
                return text(StatusCode::NOT_FOUND, PLAIN, words);
            }
        };
        // Of HEAD, the head alone is sent.
        if method == Method::GET || method == Method::HEAD {
            return page(self);
        }
        let words = "pages are only read: use GET or HEAD\n".to_owned();
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, words);
        let allowed = HeaderValue::from_static("GET, HEAD");
        answer.headers_mut().insert(ALLOW, allowed);
        answer
    }

    fn livez(&self) -> Response<Full<Bytes>> {
        let health = Health::read(&self.bus, &self.life);
        self.verdict("live", "problems", &health, health.deadly())
    }

    fn healthz(&self) -> Response<Full<Bytes>> {
        let health = Health::read(&self.bus, &self.life);
        self.verdict("healthy", "problems", &health, health.problems())
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        let health = Health::read(&self.bus, &self.life);
        self.verdict("ready", "waits_for", &health, health.waits_for())
    }

    /// `reasons` that it is not so, none where it is.
    fn verdict(
        &self,
        word: &str,
        key: &str,
        health: &Health,
        reasons: Vec<String>,
    ) -> Response<Full<Bytes>> {
        let status = match reasons.is_empty() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let age = health.heartbeat_age;
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let body = json!({
            "version": 1,
            word: reasons.is_empty(),
            key: reasons,
            "bus": self.bus.name(),
            "pid": std::process::id(),
            "phase": health.phase.to_string(),
            "heartbeat_age_ns": (health.heartbeat_ns != 0).then_some(age_ns),
            "trouble": health.trouble,
        });
        text(status, JSON, format!("{body}\n"))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.with_bus(|bus| text(StatusCode::OK, EXPOSITION, prometheus_text(&bus.stats())))
    }

    fn stats(&self) -> Response<Full<Bytes>> {
        self.with_bus(|bus| {
            let value = stats_json(&bus.stats(), &bus.history(), None);
            text(StatusCode::OK, JSON, format!("{value}\n"))
        })
    }

    /// A page of statistics, where they mean something.
    fn with_bus(&self, page: impl Fn(&Bus) -> Response<Full<Bytes>>) -> Response<Full<Bytes>> {
        let answer = page(&self.bus);
        // Numbers out of memory that was wiped meanwhile are worth nothing.
        match self.bus.check() {
            Ok(()) => answer,
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
