//! Writes the samples that tests and `millpond replay gpus` play: eight GPUs that nobody has measured.
//!
//! ```sh
//! cargo run -p millpond-telemetry --example 1_synthetic > crates/telemetry/samples/8-gpus.ndjson
//! ```
//! Limits and sizes are those of the data sheet of an H100 SXM; the rest is made up: some GPUs compute, one is hot, one is
//! idle. `millpond telemetry --record FILE` makes a real recording of the same form.

use std::error::Error;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

const GPUS: u64 = 8;
const MEMORY_BYTES: u64 = 81_559 << 20;
/// The lengths have no common divisor, so that what is played together changes.
const FAST: u64 = 12;
const PCIE: u64 = 5;
const ECC: u64 = 3;
const PROCESSES: u64 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let head = json!({
        "recording": "millpond-gpu",
        "version": 1,
        "made_by": "SYNTHETIC, no measurement: made by crates/telemetry/examples/1_synthetic.rs from the data sheet of an H100 SXM",
    });
    writeln!(out, "{head}")?;
    let devices: Vec<Value> = (0..GPUS).map(device).collect();
    writeln!(
        out,
        "{}",
        json!({"connected": {"driver_version": "550.54.15", "devices": devices}})
    )?;
    let mut noise = Noise(1);
    for number in 0..FAST {
        for gpu in 0..GPUS {
            let readings = fast(gpu, number, &mut noise);
            write_line(&mut out, gpu, "fast", number * 100, ("readings", readings))?;
        }
    }
    for number in 0..PCIE {
        for gpu in 0..GPUS {
            let is_idle = gpu == GPUS - 1;
            let mut readings = Map::new();
            let rate = |noise: &mut Noise| {
                if is_idle {
                    0
                } else {
                    noise.below(20_000_000) * 1000
                }
            };
            readings.insert("pcie_rx_bytes_per_second".into(), rate(&mut noise).into());
            readings.insert("pcie_tx_bytes_per_second".into(), rate(&mut noise).into());
            readings.insert(
                "pcie_link_generation".into(),
                if is_idle { 1 } else { 5 }.into(),
            );
            readings.insert("pcie_link_lanes".into(), 16.into());
            let readings = Value::Object(readings);
            write_line(&mut out, gpu, "pcie", number * 1000, ("readings", readings))?;
        }
    }
    for number in 0..ECC {
        for gpu in 0..GPUS {
            let corrected = if gpu == 2 { number } else { 0 };
            let readings = json!({"ecc_corrected_count": corrected, "ecc_uncorrected_count": 0});
            write_line(
                &mut out,
                gpu,
                "ecc",
                number * 10_000,
                ("readings", readings),
            )?;
        }
    }
    for number in 0..PROCESSES {
        for gpu in 0..GPUS {
            let trainer = json!({"pid": 40_000 + gpu, "memory_used_bytes": (60 + gpu) << 30});
            let helper = json!({"pid": 50_000, "memory_used_bytes": 512 << 20});
            let processes = match (gpu, number) {
                (7, _) => json!([]),
                (0, 1) => json!([trainer, helper]),
                _ => json!([trainer]),
            };
            write_line(
                &mut out,
                gpu,
                "processes",
                number * 2000,
                ("processes", processes),
            )?;
        }
    }
    Ok(())
}

fn write_line(
    out: &mut impl Write,
    gpu: u64,
    group: &str,
    at_ms: u64,
    (key, what): (&str, Value),
) -> Result<(), Box<dyn Error>> {
    let at_ns = at_ms * 1_000_000;
    writeln!(
        out,
        "{}",
        json!({"gpu": gpu, "group": group, "at_ns": at_ns, key: what})
    )?;
    Ok(())
}

fn device(gpu: u64) -> Value {
    json!({
        "name": "NVIDIA H100 80GB HBM3",
        "uuid": format!("GPU-00000000-0000-0000-0000-00000000000{gpu}"),
        "pci_bus_id": format!("00000000:{:02X}:00.0", 0x19 + 16 * gpu),
    })
}

fn fast(gpu: u64, number: u64, noise: &mut Noise) -> Value {
    let is_idle = gpu == GPUS - 1;
    let is_hot = gpu == 3;
    let busy = if is_idle { 0 } else { 70 + noise.below(31) };
    let used_bytes = if is_idle { 3 << 20 } else { (60 + gpu) << 30 };
    let watts = if is_idle {
        72_000
    } else {
        400_000 + busy * 2_900
    } + noise.below(5_000);
    let reasons = match (is_idle, is_hot && number.is_multiple_of(4)) {
        (true, _) => 1,
        (false, true) => 0x20,
        (false, false) => 0,
    };
    let clock_mhz = match reasons {
        1 => 345,
        0x20 => 1_410,
        _ => 1_980,
    };
    // Without `fan_speed_ratio`: the air in front of it is another's.
    json!({
        "utilization_gpu_ratio": busy as f64 / 100.0,
        "utilization_memory_ratio": (busy / 2) as f64 / 100.0,
        "utilization_encoder_ratio": 0.0,
        "utilization_decoder_ratio": if gpu == 1 { 0.12 } else { 0.0 },
        "memory_used_bytes": used_bytes,
        "memory_free_bytes": MEMORY_BYTES - used_bytes,
        "memory_total_bytes": MEMORY_BYTES,
        "temperature_gpu_celsius": if is_idle { 31 } else if is_hot { 86 } else { 60 + noise.below(6) },
        "power_draw_watts": watts as f64 / 1e3,
        "power_limit_watts": 700.0,
        "clock_graphics_mhz": clock_mhz,
        "clock_sm_mhz": clock_mhz,
        "clock_memory_mhz": 2_619,
        "throttle_reasons_bits": reasons,
        "throttled_flag": u32::from(reasons == 0x20),
    })
}

/// The same numbers each time.
struct Noise(u64);

impl Noise {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % end
    }
}
