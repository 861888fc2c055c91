//! Samples in a file: played instead of a driver, and written down beside one.
//!
//! # The file
//! One JSON object a line (`docs/guide/telemetry.md`, "Recordings"):
//! ```text
//! {"recording":"millpond-gpu","version":1,"made_by":"..."}                                         first
//! {"connected":{"driver_version":"550.54.15","devices":[{"name":"..","uuid":"..","pci_bus_id":".."}]}}
//! {"connect_failed":{"trouble":"driver-gone","reason":".."}}                                       one for each attempt
//! {"gpu":0,"group":"fast","at_ns":100,"readings":{"power_draw_watts":412.5}}                       what is not there is NaN
//! {"gpu":0,"group":"processes","at_ns":100,"processes":[{"pid":7,"memory_used_bytes":1024}]}
//! {"gpu":3,"group":"fast","at_ns":100,"failed":{"trouble":"gpu-lost","reason":".."}}
//! ```
//! # How it is played
//! Not by time but in turn: each question about a group of a GPU gets the next answer that the file has to this
//! question, and after the last the first again. So what is played depends on nothing but the file, at any speed.
//! Attempts to connect get the file's attempts in turn, and once they are used up, the last that worked.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Device, Driver, DriverError, Gpus, Group, ProcessMemory, Readings, Trouble};

/// What the first line says it is.
const FORMAT: &str = "millpond-gpu";
const VERSION: u32 = 1;
/// No line of a recording is longer.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Why a file is no recording, with the line.
///
/// ```
/// use millpond_telemetry::gpu::Recording;
/// let error = Recording::read("{\"recording\":\"of rain\"}".as_bytes()).unwrap_err();
/// assert!(error.to_string().starts_with("line 1"));
/// ```
#[derive(Debug)]
pub struct RecordingError {
    line: usize,
    why: String,
}

impl fmt::Display for RecordingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for RecordingError {}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    recording: String,
    version: u32,
    made_by: String,
}

/// One line behind the first. Exactly one of the options that say what it is, is there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    connected: Option<Connected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_failed: Option<DriverError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    readings: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<ProcessMemory>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<DriverError>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Connected {
    driver_version: String,
    devices: Vec<DeviceEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum DeviceEntry {
    Failed { failed: DriverError },
    Found(Device),
}

#[derive(Debug, Clone)]
enum Answer {
    Readings(Readings),
    Processes(Option<Vec<ProcessMemory>>),
    Failed(DriverError),
}

/// Samples of GPUs, as they were written down.
///
/// ```
/// use millpond_telemetry::gpu::{Driver, Group, Readings, Recording, RecordedDriver};
/// let text = r#"{"recording":"millpond-gpu","version":1,"made_by":"hand"}
/// {"connected":{"driver_version":"1","devices":[{"name":"one GPU"}]}}
/// {"gpu":0,"group":"fast","at_ns":0,"readings":{"power_draw_watts":300}}
/// {"gpu":0,"group":"fast","at_ns":1,"readings":{"power_draw_watts":310}}
/// "#;
/// let mut driver = RecordedDriver::new(Recording::read(text.as_bytes())?);
/// let gpus = driver.connect()?;
/// let mut readings = Readings::NONE;
/// for watts in [300.0, 310.0, 300.0] {
///     gpus.read(0, Group::Fast, &mut readings)?;
///     assert_eq!(readings.power_draw_watts, watts);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Recording {
    made_by: String,
    connects: Vec<Result<Connected, DriverError>>,
    answers: HashMap<(u32, Group), Vec<Answer>>,
    lines: usize,
}

impl Recording {
    /// Reads one to its end.
    ///
    /// # Errors
    /// The first line that is none, and what is wrong with it; any bytes at all may be given.
    pub fn read(mut input: impl BufRead) -> Result<Self, RecordingError> {
        let mut recording = Recording {
            made_by: String::new(),
            connects: Vec::new(),
            answers: HashMap::new(),
            lines: 0,
        };
        let mut text = String::new();
        loop {
            let line = recording.lines + 1;
            let wrong = |why: String| RecordingError { line, why };
            text.clear();
            let read = io::Read::take(&mut input, LINE_BYTES_MAX).read_line(&mut text);
            match read {
                Ok(0) if line == 1 => return Err(wrong("the file is empty".to_owned())),
                Ok(0) => break,
                Ok(length) if length as u64 == LINE_BYTES_MAX => {
                    return Err(wrong(format!("longer than {LINE_BYTES_MAX} bytes")));
                }
                Ok(_) => {}
                Err(error) => return Err(wrong(error.to_string())),
            }
            match line {
                1 => recording.made_by = read_head(&text).map_err(wrong)?,
                _ => recording.add(&text).map_err(wrong)?,
            }
            recording.lines = line;
        }
        if !recording.connects.iter().any(Result::is_ok) {
            let why = "no line says `connected`: there is no GPU in it".to_owned();
            return Err(RecordingError {
                line: recording.lines,
                why,
            });
        }
        Ok(recording)
    }

    /// Who made it, as its first line says.
    pub fn made_by(&self) -> &str {
        &self.made_by
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if let Some(connected) = line.connected {
            self.connects.push(Ok(connected));
            return Ok(());
        }
        if let Some(failed) = line.connect_failed {
            self.connects.push(Err(failed));
            return Ok(());
        }
        let (Some(gpu), Some(group)) = (line.gpu, line.group) else {
            return Err("says neither `connected`, `connect_failed`, nor `gpu` and `group`".into());
        };
        let answer = match (line.failed, line.readings, line.processes) {
            (Some(failed), _, _) => Answer::Failed(failed),
            (None, Some(map), _) => Answer::Readings(read_readings(&map)?),
            (None, None, processes) if group == Group::Processes => Answer::Processes(processes),
            _ => return Err("has neither `readings` nor `failed`".to_owned()),
        };
        self.answers.entry((gpu, group)).or_default().push(answer);
        Ok(())
    }
}

fn read_head(text: &str) -> Result<String, String> {
    let head: Head = serde_json::from_str(text).map_err(|error| {
        format!("no recording: it must begin with {{\"recording\":\"{FORMAT}\",..}} ({error})")
    })?;
    if head.recording != FORMAT {
        return Err(format!(
            "a recording of {:?}, {FORMAT:?} is expected",
            head.recording
        ));
    }
    if head.version != VERSION {
        return Err(format!(
            "version {} of the format; this release reads {VERSION}",
            head.version
        ));
    }
    Ok(head.made_by)
}

fn read_readings(map: &Map<String, Value>) -> Result<Readings, String> {
    let mut readings = Readings::NONE;
    for (name, value) in map {
        let number = value
            .as_f64()
            .ok_or_else(|| format!("{name} is {value}, which is no number"))?;
        if !readings.set(name, number) {
            return Err(format!("there is no reading {name:?}"));
        }
    }
    Ok(readings)
}

/// Plays a [`Recording`] in the place of a driver.
///
/// See [`Recording`] for an example.
#[derive(Debug)]
pub struct RecordedDriver {
    recording: Arc<Recording>,
    connects: usize,
    /// Answers that were given so far. Kept over connections, so that a GPU that came back goes on where it was.
    given: Arc<Mutex<HashMap<(u32, Group), usize>>>,
}

impl RecordedDriver {
    /// From its beginning.
    pub fn new(recording: Recording) -> Self {
        RecordedDriver {
            recording: Arc::new(recording),
            connects: 0,
            given: Arc::default(),
        }
    }
}

impl Driver for RecordedDriver {
    fn connect(&mut self) -> Result<Arc<dyn Gpus>, DriverError> {
        let connects = &self.recording.connects;
        let next = connects.get(self.connects).cloned();
        self.connects += 1;
        let last_good = || connects.iter().rev().find(|it| it.is_ok()).cloned();
        let nothing = || Err(DriverError::new(Trouble::LibraryAbsent, "nothing recorded"));
        let connected = next.or_else(last_good).unwrap_or_else(nothing)?;
        Ok(Arc::new(Played {
            recording: Arc::clone(&self.recording),
            given: Arc::clone(&self.given),
            connected,
        }))
    }
}

struct Played {
    recording: Arc<Recording>,
    given: Arc<Mutex<HashMap<(u32, Group), usize>>>,
    connected: Connected,
}

impl Played {
    fn next(&self, index: u32, group: Group) -> Option<&Answer> {
        let answers = self.recording.answers.get(&(index, group))?;
        let mut given = lock(&self.given);
        let number = given.entry((index, group)).or_insert(0);
        let answer = answers.get(*number % answers.len());
        *number += 1;
        answer
    }
}

impl Gpus for Played {
    fn driver_version(&self) -> String {
        self.connected.driver_version.clone()
    }

    fn devices(&self) -> Result<Vec<Result<Device, DriverError>>, DriverError> {
        let devices = self.connected.devices.iter().cloned();
        Ok(devices
            .map(|entry| match entry {
                DeviceEntry::Found(device) => Ok(device),
                DeviceEntry::Failed { failed } => Err(failed),
            })
            .collect())
    }

    fn read(&self, index: u32, group: Group, readings: &mut Readings) -> Result<(), DriverError> {
        match self.next(index, group) {
            Some(Answer::Readings(recorded)) => readings.take(group, recorded),
            Some(Answer::Failed(error)) => return Err(error.clone()),
            Some(Answer::Processes(_)) => {}
            // Nobody asked when it was recorded.
            None => readings.take(group, &Readings::NONE),
        }
        Ok(())
    }

    fn processes(&self, index: u32) -> Result<Option<Vec<ProcessMemory>>, DriverError> {
        match self.next(index, Group::Processes) {
            Some(Answer::Processes(processes)) => Ok(processes.clone()),
            Some(Answer::Failed(error)) => Err(error.clone()),
            _ => Ok(None),
        }
    }
}

/// Any driver, with every answer it gives written down: a [`Recording`] of it.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use millpond_telemetry::gpu::{Driver, NvmlDriver, RecordingDriver};
/// let (mut driver, handle) = RecordingDriver::new(Box::new(NvmlDriver::new()), Vec::new(), "doctest")?;
/// let _ = driver.connect();
/// assert_eq!(handle.finish()?, 2); // lines: the head, and what became of the attempt
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct RecordingDriver {
    driver: Box<dyn Driver>,
    log: Arc<Mutex<Log>>,
}

impl fmt::Debug for RecordingDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingDriver").finish_non_exhaustive()
    }
}

/// The end of a recording: see [`RecordingDriver`].
pub struct RecordingHandle(Arc<Mutex<Log>>);

impl fmt::Debug for RecordingHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingHandle").finish_non_exhaustive()
    }
}

impl RecordingHandle {
    /// Writes what is buffered. How many lines there are.
    ///
    /// # Errors
    /// The first error of writing; from there on nothing was recorded.
    pub fn finish(&self) -> io::Result<u64> {
        let mut log = lock(&self.0);
        if let Some(error) = log.failed.take() {
            return Err(error);
        }
        log.out.flush()?;
        Ok(log.lines)
    }
}

struct Log {
    out: Box<dyn Write + Send>,
    lines: u64,
    failed: Option<io::Error>,
}

impl Log {
    /// A full disk must not stop the samples: it ends the recording.
    fn write(&mut self, line: &impl Serialize) {
        if self.failed.is_some() {
            return;
        }
        let text = serde_json::to_string(line).map_err(io::Error::from);
        match text.and_then(|text| writeln!(self.out, "{text}")) {
            Ok(()) => self.lines += 1,
            Err(error) => self.failed = Some(error),
        }
    }
}

impl RecordingDriver {
    /// Writes the head to `out` at once. `made_by`: machine, driver, date; for whoever reads the file in a year.
    ///
    /// # Errors
    /// The head cannot be written.
    pub fn new(
        driver: Box<dyn Driver>,
        out: impl Write + Send + 'static,
        made_by: &str,
    ) -> io::Result<(Self, RecordingHandle)> {
        let mut log = Log {
            out: Box::new(out),
            lines: 0,
            failed: None,
        };
        log.write(&Head {
            recording: FORMAT.to_owned(),
            version: VERSION,
            made_by: made_by.to_owned(),
        });
        if let Some(error) = log.failed.take() {
            return Err(error);
        }
        let log = Arc::new(Mutex::new(log));
        let handle = RecordingHandle(Arc::clone(&log));
        Ok((RecordingDriver { driver, log }, handle))
    }
}

impl Driver for RecordingDriver {
    fn connect(&mut self) -> Result<Arc<dyn Gpus>, DriverError> {
        let failed = |error: &DriverError| Line {
            connect_failed: Some(error.clone()),
            ..Line::default()
        };
        let gpus = self
            .driver
            .connect()
            .inspect_err(|error| lock(&self.log).write(&failed(error)))?;
        let devices = gpus
            .devices()
            .inspect_err(|error| lock(&self.log).write(&failed(error)))?;
        let entries = devices.iter().cloned().map(|device| match device {
            Ok(device) => DeviceEntry::Found(device),
            Err(failed) => DeviceEntry::Failed { failed },
        });
        lock(&self.log).write(&Line {
            connected: Some(Connected {
                driver_version: gpus.driver_version(),
                devices: entries.collect(),
            }),
            ..Line::default()
        });
        Ok(Arc::new(Recorded {
            gpus,
            devices,
            log: Arc::clone(&self.log),
        }))
    }

    fn is_slow(&self) -> bool {
        self.driver.is_slow()
    }
}

struct Recorded {
    gpus: Arc<dyn Gpus>,
    devices: Vec<Result<Device, DriverError>>,
    log: Arc<Mutex<Log>>,
}

impl Recorded {
    fn write(&self, index: u32, group: Group, what: Line) {
        lock(&self.log).write(&Line {
            gpu: Some(index),
            group: Some(group),
            // When it was read: only for people who look at the file.
            at_ns: Some(crate::time::monotonic_ns()),
            ..what
        });
    }

    fn write_failed(&self, index: u32, group: Group, error: &DriverError) {
        let line = Line {
            failed: Some(error.clone()),
            ..Line::default()
        };
        self.write(index, group, line);
    }
}

impl Gpus for Recorded {
    fn driver_version(&self) -> String {
        self.gpus.driver_version()
    }

    fn devices(&self) -> Result<Vec<Result<Device, DriverError>>, DriverError> {
        Ok(self.devices.clone())
    }

    fn read(&self, index: u32, group: Group, readings: &mut Readings) -> Result<(), DriverError> {
        let mut answer = Readings::NONE;
        self.gpus
            .read(index, group, &mut answer)
            .inspect_err(|error| self.write_failed(index, group, error))?;
        let known = answer.known();
        let known = known.map(|(name, value)| (name.to_owned(), json!(value)));
        let line = Line {
            readings: Some(known.collect()),
            ..Line::default()
        };
        self.write(index, group, line);
        readings.take(group, &answer);
        Ok(())
    }

    fn processes(&self, index: u32) -> Result<Option<Vec<ProcessMemory>>, DriverError> {
        let group = Group::Processes;
        let processes = self
            .gpus
            .processes(index)
            .inspect_err(|error| self.write_failed(index, group, error))?;
        let line = Line {
            processes: processes.clone(),
            ..Line::default()
        };
        self.write(index, group, line);
        Ok(processes)
    }
}

/// Whoever panicked with it left numbers that are still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
