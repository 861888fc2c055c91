//! Samples of NVIDIA GPUs and of the host, published to the bus as events of fixed layout.
//!
//! A [`Sampler`] asks a [`gpu::Driver`] and a [`host::Host`] at fixed intervals and hands what they say to an [`Output`],
//! most often a [`BusOutput`]. Whatever goes wrong with either is a [`State`], published like everything else and tried again
//! later, never an end.
//!
//! | event | what | how often |
//! |---|---|---|
//! | `gpu:INDEX:sample` | [`gpu::GpuSample`] | each interval |
//! | `gpu:INDEX:process:PID` | [`gpu::GpuProcess`] | [`Policy::processes_interval`] |
//! | `host:cpu`, `host:memory`, .. | see [`host`] | [`Policy::host_interval`] |
//! | `telemetry:state:THING` | [`State`], as JSON | when it changes, and each [`Policy::restate_interval`] |
//!
//! ```
//! use std::time::Duration;
//! use millpond_bus::{Bus, BusOptions};
//! use millpond_telemetry::gpu::NvmlDriver;
//! use millpond_telemetry::{BusOutput, Policy, Sampler, bus_time};
//!
//! let bus = Bus::attach(&format!("doc-telemetry-{}", std::process::id()), &BusOptions::default())?;
//! let output = BusOutput::new(bus.publisher("telemetry")?, || bus.publisher("telemetry"));
//! let mut sampler = Sampler::new(Policy::default(), bus_time(&bus), output)
//!     .with_gpus(Box::new(NvmlDriver::new()));
//! // Most often `Sampler::run` does this, at each interval.
//! sampler.step(Duration::ZERO);
//! // Without a GPU that is a state, and nothing else.
//! assert_eq!(sampler.states().next().map(|state| state.thing.as_str()), Some("gpu:driver"));
//! # drop(sampler);
//! # bus.remove()?;
//! # Ok::<(), millpond_bus::Error>(())
//! ```

#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use millpond_bus::Bus;

pub mod gpu;
pub mod host;

mod output;
mod sampler;
mod state;
mod time;

pub use self::output::{BusOutput, Output};
pub use self::sampler::{Policy, Report, Sampler, Stop};
pub use self::state::State;

/// Tells the time of the bus, ns since 1970: [`bus_time`], or what a test says. Asked from two threads.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The time of a bus.
///
/// ```
/// use millpond_bus::{Bus, BusOptions};
/// let bus = Bus::attach(&format!("doc-bus-time-{}", std::process::id()), &BusOptions::default())?;
/// let now = millpond_telemetry::bus_time(&bus);
/// assert!(now() > 0);
/// # bus.remove()?;
/// # Ok::<(), millpond_bus::Error>(())
/// ```
pub fn bus_time(bus: &Bus) -> Now {
    // A clock is for one thread. The lock is free: the other thread asks once a second.
    let clock = Mutex::new(bus.clock());
    Arc::new(move || {
        clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .now_ns()
    })
}
