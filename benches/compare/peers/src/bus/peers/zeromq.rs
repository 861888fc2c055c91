//! ZeroMQ over `ipc`: PUSH and PULL between one receiver and its senders; XPUB and SUB to several, with
//! `ZMQ_XPUB_NODROP`, so that nothing is lost. Loaded at run time: who has no libzmq can run all the rest.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::time::Duration;

use libloading::Library;

use crate::peer::{About, Fallible, IN_PROCESS, Peer, Place, Receiver, Sender};
use crate::work::{End, Part, Work};

const LIBRARY: &str = "libzmq.so.5";
const SUB: c_int = 2;
const PULL: c_int = 7;
const PUSH: c_int = 8;
const XPUB: c_int = 9;
const SUBSCRIBE: c_int = 6;
const LINGER: c_int = 17;
const SEND_HIGH_WATER: c_int = 23;
const RECEIVE_HIGH_WATER: c_int = 24;
const RECEIVE_TIMEOUT: c_int = 27;
const XPUB_VERBOSE: c_int = 40;
const XPUB_NODROP: c_int = 69;
const DONTWAIT: c_int = 1;
const FLAGS_NONE: c_int = 0;
const AGAIN: c_int = 11;
const INTERRUPTED: c_int = 4;

/// The peer.
pub struct ZeroMq;

impl Peer for ZeroMq {
    type Sender = Sends;
    type Receiver = Takes;

    fn about(&self) -> About {
        About {
            guarantees: IN_PROCESS,
            ..About::new("zeromq ipc")
        }
    }

    fn version(&self) -> Result<String, String> {
        let library = library()?;
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: three places for three numbers, as zmq_version(3) wants them.
        unsafe { (library.version)(&mut major, &mut minor, &mut patch) };
        Ok(format!("libzmq {major}.{minor}.{patch}"))
    }

    fn open(&self, _work: &Work) -> Fallible<Place> {
        let dir = tempfile::tempdir()?;
        Ok(Place::new(dir.path().display().to_string(), dir))
    }

    fn sender(&self, end: &End<'_>) -> Fallible<Sends> {
        let kind = if end.work.part == Part::FanOut {
            XPUB
        } else {
            PUSH
        };
        let socket = Socket::new(kind)?;
        socket.set(SEND_HIGH_WATER, end.work.depth() as c_int)?;
        if kind == PUSH {
            // What is still queued when the sender ends is delivered: no linger is set.
            socket.connect(&address(end, 0))?;
            return Ok(Sends(socket));
        }
        socket.set(XPUB_NODROP, 1)?;
        // Else it would hear of the first of several equal subscriptions only.
        socket.set(XPUB_VERBOSE, 1)?;
        socket.set(RECEIVE_TIMEOUT, 10_000)?;
        socket.bind(&address(end, 0))?;
        // A publisher hears of its subscriptions; before that it would drop what it is given.
        for _ in 0..end.work.receivers {
            if socket.receive(&mut [0; 8], FLAGS_NONE)?.is_none() {
                return Err("a subscription did not come for 10 s".into());
            }
        }
        Ok(Sends(socket))
    }

    fn receiver(&self, end: &End<'_>) -> Fallible<Takes> {
        let kind = if end.work.part == Part::FanOut {
            SUB
        } else {
            PULL
        };
        let socket = Socket::new(kind)?;
        socket.set(RECEIVE_HIGH_WATER, end.work.depth() as c_int)?;
        socket.set(LINGER, 0)?;
        if kind == SUB {
            // It tries again until the publisher is there.
            socket.subscribe_to_all()?;
            socket.connect(&address(end, 0))?;
        } else {
            socket.bind(&address(end, 0))?;
        }
        Ok(Takes {
            socket,
            patience: Duration::ZERO,
        })
    }
}

fn address(end: &End<'_>, index: usize) -> String {
    format!("ipc://{}/{}", end.place, end.name(index))
}

/// What is used of libzmq, as `zmq.h` declares it.
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_int),
    errno: unsafe extern "C" fn() -> c_int,
    strerror: unsafe extern "C" fn(c_int) -> *const c_char,
    ctx_new: unsafe extern "C" fn() -> *mut c_void,
    ctx_term: unsafe extern "C" fn(*mut c_void) -> c_int,
    socket: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    close: unsafe extern "C" fn(*mut c_void) -> c_int,
    setsockopt: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> c_int,
    bind: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
    connect: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
    send: unsafe extern "C" fn(*mut c_void, *const c_void, usize, c_int) -> c_int,
    recv: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int) -> c_int,
}

fn library() -> Result<&'static Functions, String> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    let loaded = FUNCTIONS.get_or_init(|| {
        load().map_err(|error| format!("{LIBRARY} cannot be loaded (Debian: libzmq5): {error}"))
    });
    loaded.as_ref().map_err(String::clone)
}

fn load() -> Result<Functions, libloading::Error> {
    // SAFETY: libzmq has no initialisers that ask anything of who loads it.
    let library = unsafe { Library::new(LIBRARY) }?;
    // The functions are used until the process ends.
    let library: &'static Library = Box::leak(Box::new(library));
    macro_rules! function {
        ($name:literal) => {
            // SAFETY: the type is the one that `zmq.h` of version 4 declares for this name.
            *unsafe { library.get($name) }?
        };
    }
    Ok(Functions {
        version: function!(b"zmq_version\0"),
        errno: function!(b"zmq_errno\0"),
        strerror: function!(b"zmq_strerror\0"),
        ctx_new: function!(b"zmq_ctx_new\0"),
        ctx_term: function!(b"zmq_ctx_term\0"),
        socket: function!(b"zmq_socket\0"),
        close: function!(b"zmq_close\0"),
        setsockopt: function!(b"zmq_setsockopt\0"),
        bind: function!(b"zmq_bind\0"),
        connect: function!(b"zmq_connect\0"),
        send: function!(b"zmq_send\0"),
        recv: function!(b"zmq_recv\0"),
    })
}

/// A socket and the context it lives in. Used by the thread that made it.
struct Socket {
    library: &'static Functions,
    context: *mut c_void,
    socket: *mut c_void,
}

impl Socket {
    fn new(kind: c_int) -> Fallible<Self> {
        let library = library()?;
        // SAFETY: takes nothing.
        let context = unsafe { (library.ctx_new)() };
        // SAFETY: a context that was just made; a null one is refused with an error.
        let socket = unsafe { (library.socket)(context, kind) };
        if socket.is_null() {
            return Err(last_error(library));
        }
        Ok(Socket {
            library,
            context,
            socket,
        })
    }

    fn set(&self, option: c_int, value: c_int) -> Fallible<()> {
        let place = (&raw const value).cast();
        // SAFETY: the socket is open, and the options we set are an `int` each.
        let code =
            unsafe { (self.library.setsockopt)(self.socket, option, place, size_of::<c_int>()) };
        self.check(code)
    }

    fn subscribe_to_all(&self) -> Fallible<()> {
        // SAFETY: the socket is open; a prefix of no bytes is never read.
        let code =
            unsafe { (self.library.setsockopt)(self.socket, SUBSCRIBE, std::ptr::null(), 0) };
        self.check(code)
    }

    fn bind(&self, address: &str) -> Fallible<()> {
        let address = CString::new(address)?;
        // SAFETY: the socket is open, the text ends with a zero.
        let code = unsafe { (self.library.bind)(self.socket, address.as_ptr()) };
        self.check(code)
    }

    fn connect(&self, address: &str) -> Fallible<()> {
        let address = CString::new(address)?;
        // SAFETY: the socket is open, the text ends with a zero.
        let code = unsafe { (self.library.connect)(self.socket, address.as_ptr()) };
        self.check(code)
    }

    #[inline(always)]
    fn send(&self, payload: &[u8]) -> Fallible<()> {
        let bytes = payload.as_ptr().cast();
        // SAFETY: the socket is open, and so many bytes are there to be copied.
        let code = unsafe { (self.library.send)(self.socket, bytes, payload.len(), FLAGS_NONE) };
        self.check(code)
    }

    /// Length of the message; `None` when none came.
    #[inline(always)]
    fn receive(&self, buffer: &mut [u8], flags: c_int) -> Fallible<Option<usize>> {
        let bytes = buffer.as_mut_ptr().cast();
        // SAFETY: the socket is open, and there is room for so many bytes; a longer message is cut.
        let code = unsafe { (self.library.recv)(self.socket, bytes, buffer.len(), flags) };
        if code >= 0 {
            return Ok(Some((code as usize).min(buffer.len())));
        }
        // SAFETY: takes nothing.
        match unsafe { (self.library.errno)() } {
            AGAIN | INTERRUPTED => Ok(None),
            _ => Err(last_error(self.library)),
        }
    }

    fn check(&self, code: c_int) -> Fallible<()> {
        if code >= 0 {
            Ok(())
        } else {
            Err(last_error(self.library))
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: open until here.
        unsafe { (self.library.close)(self.socket) };
        // SAFETY: its only socket is closed; this waits until what it holds is delivered.
        unsafe { (self.library.ctx_term)(self.context) };
    }
}

fn last_error(library: &Functions) -> Box<dyn std::error::Error + Send + Sync> {
    // SAFETY: takes nothing.
    let code = unsafe { (library.errno)() };
    // SAFETY: any number has a text, which is never freed.
    let text = unsafe { (library.strerror)(code) };
    // SAFETY: it ends with a zero.
    let text = unsafe { CStr::from_ptr(text) };
    format!("libzmq: {}", text.to_string_lossy()).into()
}

/// The side that sends.
pub struct Sends(Socket);

impl Sender for Sends {
    #[inline(always)]
    fn send(&mut self, payload: &[u8]) -> Fallible<()> {
        self.0.send(payload)
    }
}

/// The side that receives.
pub struct Takes {
    socket: Socket,
    patience: Duration,
}

impl Receiver for Takes {
    #[inline(always)]
    fn receive(&mut self, patience: Duration, take: &mut impl FnMut(&[u8])) -> Fallible<u64> {
        if patience != self.patience {
            self.socket
                .set(RECEIVE_TIMEOUT, patience.as_millis() as c_int)?;
            self.patience = patience;
        }
        let flags = if patience.is_zero() {
            DONTWAIT
        } else {
            FLAGS_NONE
        };
        let mut payload = [0; 1024];
        match self.socket.receive(&mut payload, flags)? {
            Some(length) => take(&payload[..length]),
            None => return Ok(0),
        }
        Ok(1)
    }
}
