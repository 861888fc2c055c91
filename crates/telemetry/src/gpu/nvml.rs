//! NVIDIA's management library, loaded when somebody connects.

use std::collections::BTreeMap;
use std::sync::Arc;

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor,
};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;

use super::{Device, Driver, DriverError, Gpus, Group, ProcessMemory, Readings, Trouble};

/// Heat or power: software power cap, hardware slowdown, thermal by software and by hardware, power brake.
const THROTTLED_BITS: u64 = 0x4 | 0x8 | 0x20 | 0x40 | 0x80;

/// The driver of NVIDIA through `libnvidia-ml.so.1`.
///
/// Connecting loads the library and starts it (10 to 500 ms); without one the error is
/// [`Trouble::LibraryAbsent`]. A reading costs 1 to 50 us, PCIe throughput 20 ms for each direction.
///
/// ```
/// use millpond_telemetry::gpu::{Driver, NvmlDriver, Trouble};
/// if let Err(error) = NvmlDriver::new().connect() {
///     assert!(error.trouble.ends_connection(), "{error}");
/// }
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NvmlDriver;

impl NvmlDriver {
    /// Loads nothing yet.
    pub fn new() -> Self {
        NvmlDriver
    }
}

impl Driver for NvmlDriver {
    fn connect(&mut self) -> Result<Arc<dyn Gpus>, DriverError> {
        let nvml = Nvml::init().map_err(|error| {
            let found = translate(&error);
            // Whatever it is, there is no connection.
            match found.trouble.ends_connection() {
                true => found,
                false => DriverError::new(Trouble::DriverGone, found.reason),
            }
        })?;
        Ok(Arc::new(Connected { nvml }))
    }

    fn is_slow(&self) -> bool {
        true
    }
}

struct Connected {
    nvml: Nvml,
}

impl Gpus for Connected {
    fn driver_version(&self) -> String {
        self.nvml.sys_driver_version().unwrap_or_default()
    }

    fn devices(&self) -> Result<Vec<Result<Device, DriverError>>, DriverError> {
        let count = self.nvml.device_count().map_err(|it| translate(&it))?;
        Ok((0..count).map(|index| self.device(index)).collect())
    }

    fn read(&self, index: u32, group: Group, readings: &mut Readings) -> Result<(), DriverError> {
        let device = self.nvml.device_by_index(index);
        let device = device.map_err(|error| translate(&error))?;
        match group {
            Group::Fast => read_fast(&device, readings),
            Group::Pcie => read_pcie(&device, readings),
            Group::Ecc => read_ecc(&device, readings),
            Group::Processes => Ok(()),
        }
    }

    fn processes(&self, index: u32) -> Result<Option<Vec<ProcessMemory>>, DriverError> {
        let device = self.nvml.device_by_index(index);
        let device = device.map_err(|error| translate(&error))?;
        let lists = [
            known(device.running_compute_processes())?,
            known(device.running_graphics_processes())?,
        ];
        if lists.iter().all(Option::is_none) {
            return Ok(None);
        }
        // One that computes and draws is in both lists, and holds what it holds once.
        let mut by_pid = BTreeMap::new();
        for process in lists.into_iter().flatten().flatten() {
            let used = match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) => Some(bytes),
                UsedGpuMemory::Unavailable => None,
            };
            let entry = by_pid.entry(process.pid).or_insert(used);
            *entry = (*entry).max(used);
        }
        let processes = by_pid.into_iter();
        Ok(Some(
            processes
                .map(|(pid, memory_used_bytes)| ProcessMemory {
                    pid,
                    memory_used_bytes,
                })
                .collect(),
        ))
    }
}

impl Connected {
    fn device(&self, index: u32) -> Result<Device, DriverError> {
        let device = self.nvml.device_by_index(index);
        let device = device.map_err(|error| translate(&error))?;
        Ok(Device {
            name: known(device.name())?.unwrap_or_default(),
            uuid: known(device.uuid())?.unwrap_or_default(),
            pci_bus_id: known(device.pci_info())?.map_or_else(String::new, |pci| pci.bus_id),
        })
    }
}

fn read_fast(
    device: &nvml_wrapper::Device<'_>,
    readings: &mut Readings,
) -> Result<(), DriverError> {
    let utilization = known(device.utilization_rates())?;
    readings.utilization_gpu_ratio = number(utilization.as_ref().map(|it| it.gpu)) / 100.0;
    readings.utilization_memory_ratio = number(utilization.map(|it| it.memory)) / 100.0;
    let encoder = known(device.encoder_utilization())?;
    readings.utilization_encoder_ratio = number(encoder.map(|it| it.utilization)) / 100.0;
    let decoder = known(device.decoder_utilization())?;
    readings.utilization_decoder_ratio = number(decoder.map(|it| it.utilization)) / 100.0;
    let memory = known(device.memory_info())?;
    let bytes = |of: Option<u64>| of.map_or(f64::NAN, |bytes| bytes as f64);
    readings.memory_used_bytes = bytes(memory.as_ref().map(|it| it.used));
    readings.memory_free_bytes = bytes(memory.as_ref().map(|it| it.free));
    readings.memory_total_bytes = bytes(memory.map(|it| it.total));
    readings.temperature_gpu_celsius = number(known(device.temperature(TemperatureSensor::Gpu))?);
    readings.fan_speed_ratio = number(known(device.fan_speed(0))?) / 100.0;
    readings.power_draw_watts = number(known(device.power_usage())?) / 1e3;
    readings.power_limit_watts = number(known(device.enforced_power_limit())?) / 1e3;
    readings.clock_graphics_mhz = number(known(device.clock_info(Clock::Graphics))?);
    readings.clock_sm_mhz = number(known(device.clock_info(Clock::SM))?);
    readings.clock_memory_mhz = number(known(device.clock_info(Clock::Memory))?);
    let reasons = known(device.current_throttle_reasons())?.map(|reasons| reasons.bits());
    readings.throttle_reasons_bits = bytes(reasons);
    readings.throttled_flag =
        reasons.map_or(f64::NAN, |bits| f64::from(bits & THROTTLED_BITS != 0));
    Ok(())
}

fn read_pcie(
    device: &nvml_wrapper::Device<'_>,
    readings: &mut Readings,
) -> Result<(), DriverError> {
    // The driver says kB/s, and means 1000.
    let rx = known(device.pcie_throughput(PcieUtilCounter::Receive))?;
    readings.pcie_rx_bytes_per_second = number(rx) * 1e3;
    let tx = known(device.pcie_throughput(PcieUtilCounter::Send))?;
    readings.pcie_tx_bytes_per_second = number(tx) * 1e3;
    readings.pcie_link_generation = number(known(device.current_pcie_link_gen())?);
    readings.pcie_link_lanes = number(known(device.current_pcie_link_width())?);
    Ok(())
}

fn read_ecc(device: &nvml_wrapper::Device<'_>, readings: &mut Readings) -> Result<(), DriverError> {
    let count = |kind| known(device.total_ecc_errors(kind, EccCounter::Volatile));
    let count_of = |found: Option<u64>| found.map_or(f64::NAN, |count| count as f64);
    readings.ecc_corrected_count = count_of(count(MemoryError::Corrected)?);
    readings.ecc_uncorrected_count = count_of(count(MemoryError::Uncorrected)?);
    Ok(())
}

fn number(found: Option<u32>) -> f64 {
    found.map_or(f64::NAN, f64::from)
}

/// What the driver knows; `None` for what this GPU, this driver or this user cannot know. What concerns more than
/// this one reading is an error.
fn known<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, DriverError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) => match translate(&error) {
            found if found.trouble == Trouble::Failed => Ok(None),
            found => Err(found),
        },
    }
}

fn translate(error: &NvmlError) -> DriverError {
    let (trouble, remedy) = match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => (
            Trouble::LibraryAbsent,
            "; the NVIDIA driver brings libnvidia-ml.so.1: install it, or in a container pass it in",
        ),
        NvmlError::DriverNotLoaded => (
            Trouble::DriverGone,
            "; load it (`modprobe nvidia`), or pass the device in",
        ),
        NvmlError::LibRmVersionMismatch => (
            Trouble::DriverGone,
            "; the driver was updated: load the new module or restart",
        ),
        NvmlError::Uninitialized => (Trouble::DriverGone, ""),
        NvmlError::GpuLost => (Trouble::GpuLost, "; see `dmesg` for its last Xid"),
        NvmlError::ResetRequired => (
            Trouble::GpuLost,
            "; stop whatever holds it, this sampler too, then `nvidia-smi --gpu-reset`",
        ),
        _ => (Trouble::Failed, ""),
    };
    DriverError::new(trouble, format!("{error}{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gpu_does_not_have_is_no_error() {
        for error in [
            NvmlError::NotSupported,
            NvmlError::NoPermission,
            NvmlError::NotFound,
            NvmlError::FailedToLoadSymbol("nvmlNew_v9".to_owned()),
            NvmlError::Unknown,
            NvmlError::InvalidArg,
        ] {
            assert_eq!(known::<u32>(Err(error)), Ok(None));
        }
        assert!(number(known(Err(NvmlError::NotSupported)).unwrap()).is_nan());
    }

    #[test]
    fn a_lost_gpu_and_a_driver_that_is_gone_are_told_apart() {
        let trouble = |error| known::<u32>(Err(error)).unwrap_err().trouble;
        assert_eq!(trouble(NvmlError::GpuLost), Trouble::GpuLost);
        assert_eq!(trouble(NvmlError::ResetRequired), Trouble::GpuLost);
        assert_eq!(trouble(NvmlError::Uninitialized), Trouble::DriverGone);
        assert_eq!(trouble(NvmlError::DriverNotLoaded), Trouble::DriverGone);
        assert_eq!(
            trouble(NvmlError::LibRmVersionMismatch),
            Trouble::DriverGone
        );
    }
}
