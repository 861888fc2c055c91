//! NVIDIA GPUs: what is sampled, and the driver behind a trait.
//!
//! ```text
//!   Driver::connect ──> Gpus::devices           who is there
//!                       Gpus::read(i, group)    numbers of one group of one GPU
//!                       Gpus::processes(i)      who uses it
//! ```
//! Three things stand behind the trait: [`NvmlDriver`] (NVIDIA's library), [`RecordedDriver`] (a file of samples), and
//! [`RecordingDriver`] (any other, with everything it says written down).
//!
//! What a GPU does not have is NaN, never an error: a data centre's GPU has no fan, a desktop's counts no memory errors.

mod nvml;
mod readings;
mod recorded;
pub(crate) mod slow;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::nvml::NvmlDriver;
pub use self::readings::{GpuProcess, GpuSample, ReadingInfo, Readings};
pub use self::recorded::{
    RecordedDriver, Recording, RecordingDriver, RecordingError, RecordingHandle,
};

/// A recording of eight GPUs that nobody has measured: limits from a data sheet, loads made up, as its first line says. For
/// tests, and for whoever wants to see what comes without having one.
///
/// ```
/// use millpond_telemetry::gpu::{Driver, RecordedDriver, Recording, SYNTHETIC};
/// let recording = Recording::read(SYNTHETIC.as_bytes())?;
/// assert!(recording.made_by().starts_with("SYNTHETIC"));
/// assert_eq!(RecordedDriver::new(recording).connect()?.devices()?.len(), 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub const SYNTHETIC: &str = include_str!("../../samples/8-gpus.ndjson");

/// What is read together, and equally often.
///
/// ```
/// use millpond_telemetry::gpu::Group;
/// assert!(!Group::Fast.is_slow());
/// assert!(Group::Pcie.is_slow());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Use, memory, temperature, fan, power, clocks, throttling: microseconds each. Read at each interval.
    Fast,
    /// The PCIe link. The driver measures its throughput while it is asked: 20 ms for each direction.
    Pcie,
    /// Counts of memory errors.
    Ecc,
    /// Who uses the GPU; a walk through all its contexts.
    Processes,
}

impl Group {
    /// Those that are read less often.
    pub const SLOW: [Group; 3] = [Group::Pcie, Group::Ecc, Group::Processes];

    /// Whether it is read less often than at each interval.
    pub fn is_slow(self) -> bool {
        self != Group::Fast
    }
}

/// What kept the driver from answering.
///
/// ```
/// use millpond_telemetry::gpu::Trouble;
/// assert!(Trouble::DriverGone.ends_connection());
/// assert!(!Trouble::GpuLost.ends_connection());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// This machine has no such library: most likely, no NVIDIA driver.
    LibraryAbsent,
    /// The driver is not loaded, was unloaded or replaced: whatever was connected is of no use any more.
    DriverGone,
    /// One GPU fell off the bus, or needs a reset. The others go on.
    GpuLost,
    /// This one question failed. The next may be answered.
    Failed,
}

impl Trouble {
    /// Whether a new connection is needed.
    pub fn ends_connection(self) -> bool {
        matches!(self, Trouble::LibraryAbsent | Trouble::DriverGone)
    }

    /// The name of the state that it is reported as.
    pub fn state(self) -> &'static str {
        match self {
            Trouble::LibraryAbsent => "absent",
            Trouble::DriverGone => "gone",
            Trouble::GpuLost => "lost",
            Trouble::Failed => "failed",
        }
    }
}

/// Why a question to the driver was not answered.
///
/// ```
/// use millpond_telemetry::gpu::{DriverError, Trouble};
/// let error = DriverError::new(Trouble::GpuLost, "device fell off the bus");
/// assert_eq!(error.to_string(), "device fell off the bus");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverError {
    /// What the sampler does about it depends on this.
    pub trouble: Trouble,
    /// What the driver says, and where there is one, the remedy.
    pub reason: String,
}

impl DriverError {
    /// An error of this kind.
    pub fn new(trouble: Trouble, reason: impl Into<String>) -> Self {
        DriverError {
            trouble,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for DriverError {}

/// Which GPU it is.
///
/// ```
/// let device = millpond_telemetry::gpu::Device { name: "NVIDIA H100 80GB HBM3".into(), ..Default::default() };
/// assert_eq!(device.uuid, "");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Its product.
    pub name: String,
    /// `GPU-` and a number that no other has; empty where the driver does not tell.
    pub uuid: String,
    /// Where it is plugged in, such as `00000000:3B:00.0`; empty where the driver does not tell.
    pub pci_bus_id: String,
}

/// What one process holds of a GPU's memory.
///
/// ```
/// let process = millpond_telemetry::gpu::ProcessMemory { pid: 4711, memory_used_bytes: None };
/// assert!(process.memory_used_bytes.is_none()); // the driver does not know
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMemory {
    /// Its number, as the driver sees it: of the host, also where we run in a container.
    pub pid: u32,
    /// Memory it holds, in bytes; `None` where the driver does not tell.
    pub memory_used_bytes: Option<u64>,
}

/// The way to GPUs: connected, and connected again when it was lost.
///
/// ```
/// use millpond_telemetry::gpu::{Driver, Group, NvmlDriver, Readings};
/// match NvmlDriver::new().connect() {
///     Ok(gpus) => {
///         let mut readings = Readings::NONE;
///         if gpus.read(0, Group::Fast, &mut readings).is_ok() {
///             println!("{} W", readings.power_draw_watts);
///         }
///     }
///     Err(why) => println!("no GPUs: {why}"), // as on most machines
/// }
/// ```
pub trait Driver: Send {
    /// Connects. May load a library and take tens of milliseconds. The sampler has let go all of the connection before.
    ///
    /// # Errors
    /// Why there is nothing to be had now. It is asked again later.
    fn connect(&mut self) -> Result<Arc<dyn Gpus>, DriverError>;

    /// Whether the slow groups take long enough to be read on a thread of their own.
    fn is_slow(&self) -> bool {
        false
    }
}

/// GPUs that a driver has connected to. Asked from two threads at the same time: one for the fast group, one for the others.
///
/// See [`Driver`] for an example.
pub trait Gpus: Send + Sync {
    /// Version of the driver, as it says it.
    fn driver_version(&self) -> String;

    /// All GPUs, in the order of their indexes; an error in the place of one that does not answer.
    ///
    /// # Errors
    /// What keeps the driver from listing them at all.
    fn devices(&self) -> Result<Vec<Result<Device, DriverError>>, DriverError>;

    /// Puts what the GPU tells of a group into `readings`, NaN for what it does not have. Leaves other groups alone. For
    /// [`Group::Processes`] there is [`Gpus::processes`].
    ///
    /// # Errors
    /// Only what concerns the GPU or the driver as a whole.
    fn read(&self, index: u32, group: Group, readings: &mut Readings) -> Result<(), DriverError>;

    /// Who uses the GPU; `None` where it does not tell.
    ///
    /// # Errors
    /// As [`Gpus::read`].
    fn processes(&self, index: u32) -> Result<Option<Vec<ProcessMemory>>, DriverError>;
}
