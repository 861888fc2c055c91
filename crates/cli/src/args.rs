//! From what was typed, the environment and the file to ready values, each with where it came from.

use std::path::PathBuf;
use std::time::Duration;

use millpond_bus::{Bus, BusOptions, Limits, RuleTable};
use millpond_daemon::{BackendChoice, Policy, SealPolicy, SyncPolicy};
use serde_json::{Map, Value, json};

use crate::config::{self, File, Services};
use crate::flags::{Cli, Color, Command, DaemonFlags, Http, parse_http};
use crate::outcome::Failure;
use crate::units::{format_duration, format_size, parse_duration, parse_size};

/// Everything a command may need, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) bus: String,
    pub(crate) logs: PathBuf,
    pub(crate) color: Color,
    pub(crate) json: bool,
    pub(crate) policy: Policy,
    pub(crate) rules: RuleTable,
    /// What the file says of single services.
    pub(crate) services: Services,
    pub(crate) limits: Limits,
    /// Where a daemon serves its pages.
    pub(crate) http: Http,
    pub(crate) group_id: Option<u32>,
    /// Whether a file was read: only then does a daemon replace the rules of a bus that exists.
    pub(crate) config: Option<PathBuf>,
    /// For `millpond config`.
    pub(crate) origins: Vec<Effective>,
}

/// One setting as it is in force.
#[derive(Debug, Clone)]
pub(crate) struct Effective {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) origin: String,
}

/// Settings by key: `{"value": .., "origin": ..}`.
pub(crate) fn settings_json(settings: &[Effective]) -> Map<String, Value> {
    let pair = |setting: &Effective| {
        let value = json!({ "value": setting.value, "origin": setting.origin });
        (setting.key.to_owned(), value)
    };
    settings.iter().map(pair).collect()
}

/// Picks values by precedence and remembers where each came from.
struct Picker {
    effective: Vec<Effective>,
    file: String,
}

impl Picker {
    /// `environment` is the variable that may have given the flag its value.
    fn pick<T>(
        &mut self,
        key: &'static str,
        flag: Option<T>,
        environment: Option<&str>,
        file: Option<T>,
        default: T,
        show: impl Fn(&T) -> String,
    ) -> T {
        let typed = environment.is_some_and(|name| {
            let dashed = format!("--{key}");
            std::env::var_os(name).is_some()
                && !std::env::args()
                    .any(|arg| arg == dashed || arg.starts_with(&format!("{dashed}=")))
        });
        let (value, origin) = match (flag, file) {
            (Some(value), _) if typed => (
                value,
                format!("environment {}", environment.unwrap_or_default()),
            ),
            (Some(value), _) => (value, "flag".to_owned()),
            (None, Some(value)) => (value, self.file.clone()),
            (None, None) => (default, "default".to_owned()),
        };
        self.effective.push(Effective {
            key,
            value: show(&value),
            origin,
        });
        value
    }
}

impl Settings {
    pub(crate) fn resolve(cli: &Cli) -> Result<Self, Failure> {
        let path = cli.global.config.clone().or_else(config::default_path);
        let file = match &path {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        let shown = path
            .as_ref()
            .map_or_else(String::new, |path| path.display().to_string());
        let mut picker = Picker {
            effective: Vec::new(),
            file: format!("file {shown}"),
        };
        let nothing = DaemonFlags::default();
        let flags = match &cli.command {
            Command::Daemon(flags) => &flags.daemon,
            Command::Config(flags) => &flags.daemon,
            _ => &nothing,
        };
        let bus = picker.pick(
            "bus",
            cli.global.bus.clone(),
            Some("MILLPOND_BUS"),
            file.bus.clone(),
            "default".to_owned(),
            String::clone,
        );
        let logs = picker.pick(
            "logs",
            cli.global.logs.clone(),
            Some("MILLPOND_LOGS"),
            file.logs.clone(),
            default_logs_dir(),
            |path| path.display().to_string(),
        );
        let shown_path = path.as_deref().unwrap_or("(none)".as_ref());
        let services = file.services(shown_path)?;
        let policy = policy(&mut picker, flags, &file, &services)?;
        let limits = limits(&mut picker, flags, &file)?;
        let http = of_file("http", file.http.as_ref(), parse_http)?;
        let http = picker.pick("http", flags.http, None, http, Http::Off, Http::to_string);
        let rules = file.rule_table(shown_path)?;
        policy.check()?;
        services.check(&policy)?;
        Ok(Settings {
            bus,
            logs,
            color: cli.global.color,
            json: cli.global.json,
            policy,
            rules,
            services,
            limits,
            http,
            group_id: file.group_id,
            config: path,
            origins: picker.effective,
        })
    }

    /// Every setting of one service, by the file that was read here.
    pub(crate) fn of_service(&self, service: &str) -> Vec<Effective> {
        let services = &self.services;
        services.effective(service, &self.policy, &self.origins)
    }

    /// Whether somebody said where the logs are: a flag, the environment, or the file.
    pub(crate) fn is_logs_dir_named(&self) -> bool {
        let origin = self.origins.iter().find(|setting| setting.key == "logs");
        origin.is_some_and(|setting| setting.origin != "default")
    }

    /// Attaches to the bus, creating it where there is none.
    pub(crate) fn attach(&self) -> Result<Bus, Failure> {
        let options = BusOptions {
            rules: self.rules.clone(),
            limits: self.limits,
            group_id: self.group_id,
        };
        Bus::attach(&self.bus, &options).map_err(|error| {
            // The kind is that of any input or output.
            match error.to_string() {
                text if text.contains("Permission denied") => Failure::new(format!(
                    "{text}: bus {:?} belongs to another user; use another bus, or have that user name a group of \
                     yours (`group-id` in the configuration of the bus)",
                    self.bus
                )),
                _ => error.into(),
            }
        })
    }
}

fn default_logs_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/log/millpond");
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/state");
    std::env::var_os("XDG_STATE_HOME")
        .map_or_else(home, PathBuf::from)
        .join("millpond/logs")
}

/// A value of the file, read as the flag would be.
fn of_file<T>(
    key: &str,
    text: Option<&String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Failure> {
    text.map(|text| {
        parse(text).map_err(|why| Failure::new(format!("configuration key {key}: {why}")))
    })
    .transpose()
}

/// A `[[service]]` with the name `*` says what the keys at the top of the file say, and goes before them.
fn policy(
    picker: &mut Picker,
    flags: &DaemonFlags,
    file: &File,
    services: &Services,
) -> Result<Policy, Failure> {
    let default = Policy::default();
    let every = &services.every.policy;
    let size = |bytes: &u64| format_size(*bytes);
    let limit = |bytes: &Option<u64>| bytes.map_or("no limit".to_owned(), format_size);
    let age = |age: &Option<Duration>| age.map_or("no limit".to_owned(), format_duration);
    let sync = picker.pick(
        "sync",
        flags.sync.clone(),
        None,
        (services.every.sync_text.clone()).or_else(|| file.sync.clone()),
        "1s".into(),
        String::clone,
    );
    let segment_bytes = of_file("segment-bytes", file.segment_bytes.as_ref(), parse_size)?;
    let segment_age = of_file("segment-age", file.segment_age.as_ref(), parse_duration)?;
    let service_bytes = of_file("service-bytes", file.service_bytes.as_ref(), parse_size)?;
    let total_bytes = of_file("total-bytes", file.total_bytes.as_ref(), parse_size)?;
    let flush_delay = of_file("flush-delay", file.flush_delay.as_ref(), parse_duration)?;
    let group_bytes = of_file("group-bytes", file.group_bytes.as_ref(), parse_size)?;
    let segment_bytes_limit = picker.pick(
        "segment-bytes",
        flags.segment_bytes,
        None,
        every.segment_bytes_limit.or(segment_bytes),
        default.segment_bytes_limit,
        size,
    );
    let segment_age_limit = picker.pick(
        "segment-age",
        flags.segment_age.map(Some),
        None,
        every.segment_age_limit.or(segment_age).map(Some),
        None,
        age,
    );
    let service_bytes_limit = picker.pick(
        "service-bytes",
        flags.service_bytes.map(Some),
        None,
        every.bytes_limit.or(service_bytes).map(Some),
        default.service_bytes_limit,
        limit,
    );
    let total_bytes_limit = picker.pick(
        "total-bytes",
        flags.total_bytes.map(Some),
        None,
        total_bytes.map(Some),
        default.total_bytes_limit,
        limit,
    );
    let keep_age = of_file("keep-age", file.keep_age.as_ref(), parse_duration)?;
    let keep_free = of_file("keep-free", file.keep_free.as_ref(), parse_size)?;
    let liveness = of_file("liveness", file.liveness.as_ref(), parse_duration)?;
    let service_segments_limit = picker.pick(
        "keep-segments",
        flags.keep_segments.map(Some),
        None,
        every.segments_limit.or(file.keep_segments).map(Some),
        default.service_segments_limit,
        |count| count.map_or("no limit".to_owned(), |count| count.to_string()),
    );
    let retain_age_limit = picker.pick(
        "keep-age",
        flags.keep_age.map(Some),
        None,
        every.retain_age_limit.or(keep_age).map(Some),
        default.retain_age_limit,
        age,
    );
    let keep_free_bytes = picker.pick(
        "keep-free",
        flags.keep_free.map(Some),
        None,
        keep_free.map(Some),
        default.keep_free_bytes,
        |bytes| bytes.map_or("1GiB or 5 %".to_owned(), format_size),
    );
    let seal = picker.pick(
        "seal",
        flags.seal.clone(),
        None,
        file.seal.as_ref().map(ToString::to_string),
        default.seal.to_string(),
        String::clone,
    );
    let liveness_interval = picker.pick(
        "liveness",
        flags.liveness.map(Some),
        None,
        every.liveness_interval.or(liveness).map(Some),
        default.liveness_interval,
        |interval| interval.map_or("never".to_owned(), format_duration),
    );
    let flush_delay = picker.pick(
        "flush-delay",
        flags.flush_delay,
        None,
        flush_delay,
        default.flush_delay,
        |delay: &Duration| format_duration(*delay),
    );
    let group_bytes = picker.pick(
        "group-bytes",
        flags.group_bytes,
        None,
        group_bytes,
        default.group_bytes_limit as u64,
        size,
    );
    let backend = picker.pick(
        "backend",
        flags.backend.clone(),
        None,
        file.backend.clone(),
        "auto".into(),
        String::clone,
    );
    Ok(Policy {
        sync: parse_sync(&sync)?,
        segment_bytes_limit,
        segment_age_limit,
        service_bytes_limit,
        service_segments_limit,
        total_bytes_limit,
        retain_age_limit,
        keep_free_bytes,
        seal: parse_seal(&seal)?,
        liveness_interval,
        flush_delay,
        group_bytes_limit: usize::try_from(group_bytes).unwrap_or(usize::MAX),
        backend: parse_backend(&backend)?,
        services: services.policies(),
        ..default
    })
}

fn limits(picker: &mut Picker, flags: &DaemonFlags, file: &File) -> Result<Limits, Failure> {
    let default = Limits::default();
    let bus_bytes = of_file("bus-bytes", file.bus_bytes.as_ref(), parse_size)?;
    Ok(Limits {
        bus_bytes: picker.pick(
            "bus-bytes",
            flags.bus_bytes,
            None,
            bus_bytes,
            default.bus_bytes,
            |bytes: &u64| format_size(*bytes),
        ),
        lanes: picker.pick(
            "lanes",
            flags.lanes,
            None,
            file.lanes,
            default.lanes,
            u32::to_string,
        ),
    })
}

/// When text is forced to the disk, as people write it.
pub(crate) fn parse_sync(text: &str) -> Result<SyncPolicy, Failure> {
    match text {
        "never" => Ok(SyncPolicy::Never),
        "always" => Ok(SyncPolicy::Always),
        _ => parse_duration(text).map(SyncPolicy::Interval).map_err(|_| {
            Failure::new(format!(
                "sync {text:?} is unknown: use never, always, or an interval such as 1s"
            ))
        }),
    }
}

fn parse_seal(text: &str) -> Result<SealPolicy, Failure> {
    if text == "never" {
        return Ok(SealPolicy::Never);
    }
    text.parse()
        .map(|level| SealPolicy::AfterRotation { level })
        .map_err(|_| {
            Failure::new(format!(
                "seal {text:?} is unknown: use never, or a zstd level from 1 to 19"
            ))
        })
}

/// The backend with this name.
pub(crate) fn parse_backend(text: &str) -> Result<BackendChoice, Failure> {
    match text {
        "auto" => Ok(BackendChoice::Auto),
        "io_uring" => Ok(BackendChoice::Uring),
        "pwrite" => Ok(BackendChoice::Pwrite),
        _ => Err(Failure::new(format!(
            "backend {text:?} is unknown: use auto, io_uring or pwrite"
        ))),
    }
}
