//! A driver that does what a test tells it, and an output that keeps what it is given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millpond_bus::EventLayout;
use millpond_telemetry::gpu::{
    Device, Driver, DriverError, GpuProcess, GpuSample, Gpus, Group, ProcessMemory, Readings,
    Trouble,
};
use millpond_telemetry::{Output, Policy, Sampler, State};

/// What a driver is like at the moment.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Why nobody can connect.
    pub(crate) down: Option<DriverError>,
    /// Goes up with each time that the driver comes back: older connections are dead.
    pub(crate) epoch: u64,
    /// Goes up with each reset of a GPU: connections that are there do not see it.
    pub(crate) resets: u64,
    /// Connections that live. A new one beside them is as old as they are, as NVML's are.
    living: u64,
    /// Epoch and resets of those.
    held: (u64, u64),
    /// Questions about slow groups are not answered, for as long as this is so.
    pub(crate) is_hung: bool,
    pub(crate) gpus: Vec<Gpu>,
    /// Attempts to connect.
    pub(crate) connects: u64,
    /// How often each group of each GPU was asked.
    pub(crate) asked: BTreeMap<(u32, String), u64>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Gpu {
    pub(crate) failed: Option<DriverError>,
    /// The same of one group alone.
    pub(crate) failed_group: Option<(Group, DriverError)>,
    /// Only connections that were made after so many resets can reach it.
    pub(crate) since_reset: u64,
    pub(crate) readings: BTreeMap<&'static str, f64>,
    pub(crate) processes: Option<Vec<ProcessMemory>>,
}

impl Gpu {
    pub(crate) fn drawing(watts: f64) -> Self {
        Gpu {
            readings: BTreeMap::from([("power_draw_watts", watts), ("ecc_corrected_count", 1.0)]),
            ..Gpu::default()
        }
    }
}

pub(crate) fn lost() -> DriverError {
    DriverError::new(Trouble::GpuLost, "device fell off the bus")
}

pub(crate) fn gone() -> DriverError {
    DriverError::new(Trouble::DriverGone, "NVIDIA driver is not loaded")
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDriver {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) is_slow: bool,
}

impl FakeDriver {
    pub(crate) fn new(gpus: Vec<Gpu>) -> Self {
        let driver = FakeDriver::default();
        driver.world().gpus = gpus;
        driver
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics with it")
    }
}

impl Driver for FakeDriver {
    fn connect(&mut self) -> Result<Arc<dyn Gpus>, DriverError> {
        let mut world = self.world();
        world.connects += 1;
        match &world.down {
            Some(error) => Err(error.clone()),
            None => {
                if world.living == 0 {
                    world.held = (world.epoch, world.resets);
                }
                world.living += 1;
                let (epoch, resets) = world.held;
                Ok(Arc::new(FakeGpus {
                    world: Arc::clone(&self.world),
                    epoch,
                    resets,
                }))
            }
        }
    }

    fn is_slow(&self) -> bool {
        self.is_slow
    }
}

struct FakeGpus {
    world: Arc<Mutex<World>>,
    epoch: u64,
    resets: u64,
}

impl Drop for FakeGpus {
    fn drop(&mut self) {
        // Also where a test panicked: a second panic would hide its words.
        let world = self.world.lock();
        world.unwrap_or_else(PoisonError::into_inner).living -= 1;
    }
}

impl FakeGpus {
    fn ask(&self, index: u32, group: Group) -> Result<Gpu, DriverError> {
        let mut world = self.world.lock().expect("no test panics with it");
        *world
            .asked
            .entry((index, format!("{group:?}")))
            .or_default() += 1;
        while world.is_hung && group.is_slow() {
            drop(world);
            std::thread::sleep(Duration::from_millis(1));
            world = self.world.lock().expect("no test panics with it");
        }
        if world.down.is_some() || world.epoch != self.epoch {
            return Err(gone());
        }
        // One that was taken out.
        let gpu = world.gpus.get(index as usize).cloned().ok_or_else(lost)?;
        match (&gpu.failed, &gpu.failed_group) {
            (Some(error), _) => Err(error.clone()),
            (None, Some((failed, error))) if *failed == group => Err(error.clone()),
            (None, _) if gpu.since_reset > self.resets => Err(lost()),
            (None, _) => Ok(gpu),
        }
    }
}

impl Gpus for FakeGpus {
    fn driver_version(&self) -> String {
        format!("fake {}", self.epoch)
    }

    fn devices(&self) -> Result<Vec<Result<Device, DriverError>>, DriverError> {
        let world = self.world.lock().expect("no test panics with it");
        let device = |index: usize, gpu: &Gpu| match &gpu.failed {
            Some(error) => Err(error.clone()),
            None => Ok(Device {
                name: format!("fake {index}"),
                ..Device::default()
            }),
        };
        let gpus = world.gpus.iter().enumerate();
        Ok(gpus.map(|(index, gpu)| device(index, gpu)).collect())
    }

    fn read(&self, index: u32, group: Group, readings: &mut Readings) -> Result<(), DriverError> {
        let gpu = self.ask(index, group)?;
        let mut all = Readings::NONE;
        for (name, value) in gpu.readings {
            assert!(all.set(name, value), "{name} is a reading");
        }
        readings.take(group, &all);
        Ok(())
    }

    fn processes(&self, index: u32) -> Result<Option<Vec<ProcessMemory>>, DriverError> {
        Ok(self.ask(index, Group::Processes)?.processes)
    }
}

/// Keeps everything.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) samples: Vec<(String, GpuSample)>,
    pub(crate) processes: Vec<(String, GpuProcess)>,
    pub(crate) states: Vec<State>,
}

impl Output for Kept {
    fn event<T: EventLayout>(&mut self, name: &str, event: &T) {
        let id = T::schema().id();
        if let Ok(sample) = GpuSample::decode(id, event.as_bytes()) {
            self.samples.push((name.to_owned(), sample));
        } else if let Ok(process) = GpuProcess::decode(id, event.as_bytes()) {
            self.processes.push((name.to_owned(), process));
        }
    }

    fn state(&mut self, state: &State) {
        self.states.push(state.clone());
    }
}

impl Kept {
    /// `thing state` of what was told since the last call.
    pub(crate) fn told(&mut self) -> Vec<String> {
        let states = self.states.drain(..);
        states
            .map(|state| format!("{} {}", state.thing, state.state))
            .collect()
    }

    /// Names of the samples since the last call.
    pub(crate) fn sampled(&mut self) -> Vec<String> {
        self.samples.drain(..).map(|(name, _)| name).collect()
    }
}

pub(crate) fn sampler(driver: &FakeDriver) -> Sampler<Kept> {
    let policy = Policy {
        retry_min: Duration::from_secs(1),
        retry_max: Duration::from_secs(4),
        ..Policy::default()
    };
    Sampler::new(policy, Arc::new(|| 1_000), Kept::default()).with_gpus(Box::new(driver.clone()))
}

pub(crate) fn at_ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
