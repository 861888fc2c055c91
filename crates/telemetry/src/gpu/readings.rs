//! The numbers of a GPU, and the events they travel in.

use millpond_derive::Event;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Group;

/// One kind of reading.
///
/// ```
/// use millpond_telemetry::gpu::Readings;
/// let power = Readings::FIELDS.iter().find(|field| field.name == "power_draw_watts").unwrap();
/// assert_eq!(power.unit, "W");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadingInfo {
    /// Its name in events, recordings and tables; the unit is its last word.
    pub name: &'static str,
    /// The unit as it is written behind a number.
    pub unit: &'static str,
    /// What it is read with.
    pub group: Group,
}

/// One table for all of it: what a reading is called, its unit, and its group.
macro_rules! readings {
    ($($(#[$doc:meta])* $name:ident, $unit:literal, $group:ident;)*) => {
        /// What a GPU tells, NaN for what it does not have or was not asked yet.
        ///
        /// ```
        /// use millpond_telemetry::gpu::Readings;
        /// let mut readings = Readings::NONE;
        /// assert!(readings.power_draw_watts.is_nan());
        /// assert!(readings.set("power_draw_watts", 412.5));
        /// assert_eq!(readings.known().collect::<Vec<_>>(), [("power_draw_watts", 412.5)]);
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct Readings {
            $($(#[$doc])* pub $name: f64,)*
        }

        impl Readings {
            /// Nothing is known.
            pub const NONE: Readings = Readings { $($name: f64::NAN,)* };

            /// Every reading, in the order of [`GpuSample`].
            pub const FIELDS: &'static [ReadingInfo] = &[
                $(ReadingInfo { name: stringify!($name), unit: $unit, group: Group::$group },)*
            ];

            /// The numbers in the order of [`Readings::FIELDS`].
            pub fn values(&self) -> impl Iterator<Item = f64> {
                [$(self.$name),*].into_iter()
            }

            /// Sets the reading of this name; false where there is none.
            pub fn set(&mut self, name: &str, value: f64) -> bool {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => return false,
                }
                true
            }

            /// Takes over what another knows of a group.
            pub fn take(&mut self, group: Group, other: &Readings) {
                $(if group == Group::$group {
                    self.$name = other.$name;
                })*
            }
        }

        /// One sample of one GPU, published as `gpu:INDEX:sample`. All numbers are `f64`, so that NaN can say that
        /// a GPU does not have one; those of the slow groups repeat what was read last, and say how old it is.
        ///
        /// ```
        /// use millpond_bus::EventLayout;
        /// use millpond_telemetry::gpu::{GpuSample, Readings};
        /// let readings = Readings { power_draw_watts: 412.5, ..Readings::NONE };
        /// let sample = GpuSample::new(1_700_000_000_000_000_000, &readings, [0.2, f64::NAN, 0.7]);
        /// assert_eq!(sample.power_draw_watts, 412.5);
        /// assert_eq!(GpuSample::schema().name, "gpu:sample");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[event(name = "gpu:sample", crate = "millpond_bus")]
        pub struct GpuSample {
            /// When the fast group was read: ns since 1970 by the clock of the bus, so that its difference to the event's
            /// own time is how long it took to be published.
            #[event(unit = "ns")]
            pub sampled_ns: u64,
            $($(#[$doc])* #[event(unit = $unit)] pub $name: f64,)*
            /// How long before `sampled_ns` the PCIe link was read. NaN: not yet.
            #[event(unit = "s")]
            pub pcie_age_seconds: f64,
            /// How long before `sampled_ns` memory errors were read. NaN: not yet.
            #[event(unit = "s")]
            pub ecc_age_seconds: f64,
            /// How long before `sampled_ns` processes were counted. NaN: not yet.
            #[event(unit = "s")]
            pub processes_age_seconds: f64,
        }

        impl GpuSample {
            /// A sample of these readings; `ages_seconds` in the order of [`Group::SLOW`].
            pub fn new(sampled_ns: u64, readings: &Readings, ages_seconds: [f64; 3]) -> Self {
                GpuSample {
                    sampled_ns,
                    $($name: readings.$name,)*
                    pcie_age_seconds: ages_seconds[0],
                    ecc_age_seconds: ages_seconds[1],
                    processes_age_seconds: ages_seconds[2],
                }
            }

            /// The readings in it.
            pub fn readings(&self) -> Readings {
                Readings { $($name: self.$name,)* }
            }
        }
    };
}

readings! {
    /// Share of the driver's last sampling period (a sixth of a second to a second) in which a kernel ran, 0 to 1.
    utilization_gpu_ratio, "ratio", Fast;
    /// Share of that period in which device memory was read or written, 0 to 1.
    utilization_memory_ratio, "ratio", Fast;
    /// Share of that period in which the video encoder was busy, 0 to 1.
    utilization_encoder_ratio, "ratio", Fast;
    /// Share of that period in which the video decoder was busy, 0 to 1.
    utilization_decoder_ratio, "ratio", Fast;
    /// Device memory that is allocated.
    memory_used_bytes, "B", Fast;
    /// Device memory that is free.
    memory_free_bytes, "B", Fast;
    /// Device memory in all, what the driver keeps for itself included.
    memory_total_bytes, "B", Fast;
    /// The processor's own sensor.
    temperature_gpu_celsius, "°C", Fast;
    /// The first fan, of its full speed; NaN where it has none.
    fan_speed_ratio, "ratio", Fast;
    /// What it draws; on recent boards the average of a second.
    power_draw_watts, "W", Fast;
    /// The limit in force, the lowest of all that were set.
    power_limit_watts, "W", Fast;
    /// The graphics clock.
    clock_graphics_mhz, "MHz", Fast;
    /// The clock of the multiprocessors.
    clock_sm_mhz, "MHz", Fast;
    /// The clock of the memory.
    clock_memory_mhz, "MHz", Fast;
    /// Why clocks are lower than they could be, as NVML's bits: 1 idle, 2 application clocks, 4 power cap, 8 hardware slowdown,
    /// 16 sync boost, 32 thermal (software), 64 thermal (hardware), 128 power brake, 256 display clocks.
    throttle_reasons_bits, "bits", Fast;
    /// 1 where heat or power holds the clocks down (bits 4, 8, 32, 64 or 128), else 0: the mean over a window is the share
    /// of it.
    throttled_flag, "0/1", Fast;
    /// Received over PCIe, in the driver's last 20 ms.
    pcie_rx_bytes_per_second, "B/s", Pcie;
    /// Sent over PCIe, in the driver's last 20 ms.
    pcie_tx_bytes_per_second, "B/s", Pcie;
    /// Generation that the link runs at; it is lowered while the GPU is idle.
    pcie_link_generation, "gen", Pcie;
    /// Lanes that the link has.
    pcie_link_lanes, "lanes", Pcie;
    /// Memory errors that were corrected since the driver was loaded; NaN where they are not counted.
    ecc_corrected_count, "errors", Ecc;
    /// Memory errors that were not corrected since the driver was loaded.
    ecc_uncorrected_count, "errors", Ecc;
    /// Processes with a context on it.
    process_count, "processes", Processes;
}

impl Readings {
    /// What is known, by name.
    pub fn known(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let fields = Self::FIELDS.iter().zip(self.values());
        fields
            .filter(|(_, value)| !value.is_nan())
            .map(|(field, value)| (field.name, value))
    }
}

/// What one process holds of one GPU, published as `gpu:INDEX:process:PID` each time processes are counted.
///
/// ```
/// use millpond_bus::EventLayout;
/// assert_eq!(millpond_telemetry::gpu::GpuProcess::schema().name, "gpu:process");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Event, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[event(name = "gpu:process", crate = "millpond_bus")]
pub struct GpuProcess {
    /// When processes were counted: ns since 1970 by the clock of the bus.
    #[event(unit = "ns")]
    pub sampled_ns: u64,
    /// Its number, as the driver sees it.
    #[event(unit = "pid")]
    pub pid: u64,
    /// Device memory it holds; NaN where the driver does not tell.
    #[event(unit = "B")]
    pub memory_used_bytes: f64,
}
