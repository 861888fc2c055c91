//! The services file: TOML, with every mistake at its line and column, before anything is started.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use millpond_bus::Level;
use millpond_capture::{CommandSpec, Mode, Newlines, Spec, View, WindowSize};
use millpond_logfile::check_service_name;
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::order::{cycle, start_order};
use super::restart::{Policy, When};
use crate::commands::pipe::parse_level;
use crate::config::nearest_name;
use crate::flags::{NewlinesFlag, ViewFlag};
use crate::units::{format_duration, parse_duration, parse_terminal_size};

/// Keys that `[defaults]` may have too.
const SHARED_KEYS: [&str; 15] = [
    "directory",
    "environment",
    "restart",
    "restart-delay",
    "restart-delay-limit",
    "restart-limit",
    "stop-signal",
    "stop-timeout",
    "terminal",
    "view",
    "partial-delay",
    "level",
    "size",
    "newlines",
    "linger",
];
/// Keys of one service alone.
const OWN_KEYS: [&str; 4] = ["name", "command", "after", "raw-to"];

/// Signals that may be asked for.
const SIGNALS: [i32; 7] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGKILL];

/// A service, ready to be run.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) spec: Spec,
    pub(super) restart: Policy,
    /// What asks the command to end.
    pub(super) stop_signal: i32,
    /// How long it may take to end then.
    pub(super) stop_timeout: Duration,
    /// The services that are started before this one, by their place in the file.
    pub(super) after: Vec<usize>,
}

impl Service {
    pub(super) fn name(&self) -> &str {
        &self.spec.service
    }
}

/// A services file without a mistake.
#[derive(Debug)]
pub(super) struct Services {
    /// In the order of the file.
    pub(super) services: Vec<Service>,
    /// Places in `services`, in the order in which they are started.
    pub(super) order: Vec<usize>,
}

/// What is wrong, and where. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// Reads a file that was found at `path`.
///
/// # Errors
/// All mistakes, in the order of the file; where it is no TOML, those alone.
pub(super) fn parse(text: &str, path: &Path) -> Result<Services, Vec<Mistake>> {
    let base = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // What is written to the log and given to commands must not depend on where we are.
    let base = absolute(base.to_owned());
    let mut reader = Reader {
        text,
        base: &base,
        mistakes: Vec::new(),
    };
    let services = reader.document();
    if reader.mistakes.is_empty() {
        let after: Vec<Vec<usize>> = (services.iter())
            .map(|service| service.after.clone())
            .collect();
        let order = start_order(&after);
        return Ok(Services { services, order });
    }
    let mut mistakes = reader.mistakes;
    mistakes.sort_by_key(|(offset, _)| *offset);
    // One in `[defaults]` shows in every service.
    mistakes.dedup();
    let mistakes = mistakes.into_iter();
    Err(mistakes
        .map(|(offset, message)| {
            let (line, column) = line_and_column(text.as_bytes(), offset);
            Mistake {
                line,
                column,
                message,
            }
        })
        .collect())
}

/// Where an offset is, for people.
pub(super) fn line_and_column(text: &[u8], offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = 1 + memchr::memchr_iter(b'\n', before).count();
    let start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
    (line, column)
}

/// The name of a signal that may be asked for: `SIGTERM`.
pub(super) fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal of no name")
}

fn parse_signal(text: &str) -> Result<i32, String> {
    let short_name = |signal: i32| signal_name(signal).trim_start_matches("SIG");
    let short = text.strip_prefix("SIG").unwrap_or(text);
    let known = SIGNALS.iter().find(|signal| short_name(**signal) == short);
    known.copied().ok_or_else(|| {
        let names = SIGNALS.map(short_name);
        format!("{text:?} is unknown: use one of {}", names.join(", "))
    })
}

fn parse_flag<F: ValueEnum>(text: &str) -> Result<F, String> {
    F::from_str(text, false).map_err(|_| {
        let values = F::value_variants().iter().filter_map(F::to_possible_value);
        let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        format!("{text:?} is unknown: use {}", or(&names))
    })
}

/// `a, b or c`.
fn or(names: &[String]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// What a service, or `[defaults]`, says; `None`: nothing.
#[derive(Debug, Clone, Default)]
struct Values {
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    restart: Option<When>,
    restart_delay: Option<Duration>,
    restart_delay_limit: Option<Duration>,
    restart_limit: Option<u32>,
    stop_signal: Option<i32>,
    stop_timeout: Option<Duration>,
    terminal: Option<bool>,
    view: Option<View>,
    partial_delay: Option<Duration>,
    level: Option<Option<Level>>,
    size: Option<WindowSize>,
    newlines: Option<Newlines>,
    linger: Option<Duration>,
    /// Of what was said last of the delays, for a mistake in both together.
    delay_span: Option<Range<usize>>,
}

/// What is said of one service, and where, until all names are known.
struct Draft {
    /// Of its `[[service]]`, for what is missing.
    span: Range<usize>,
    name: Option<(String, Range<usize>)>,
    has_name: bool,
    command: Option<(OsString, Vec<OsString>)>,
    has_command: bool,
    after: Vec<(String, Range<usize>)>,
    raw_to: Option<(PathBuf, Range<usize>)>,
    values: Values,
}

type Entry<'a, 'i> = (
    &'a Spanned<std::borrow::Cow<'i, str>>,
    &'a Spanned<DeValue<'i>>,
);

struct Reader<'t> {
    text: &'t str,
    /// The directory of the file.
    base: &'t Path,
    /// By offset.
    mistakes: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn wrong(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.mistakes.push((span.start, message.into()));
    }

    fn document(&mut self) -> Vec<Service> {
        let text = self.text;
        let (document, errors) = DeTable::parse_recoverable(text);
        if let Some(error) = errors.first() {
            // The others, and what a misread document would lack, mostly follow from it.
            self.wrong(error.span().unwrap_or_default(), error.message());
            return Vec::new();
        }
        let mut defaults = Values::default();
        let mut drafts = Vec::new();
        for (key, value) in in_order(document.get_ref()) {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("defaults", DeValue::Table(table)) => {
                    for entry in in_order(table) {
                        self.shared(entry, &mut defaults, "[defaults]");
                    }
                }
                ("defaults", other) => {
                    self.wrong(
                        key.span(),
                        wrong_type("defaults", "a table: write [defaults]", other),
                    );
                }
                ("service", DeValue::Array(tables)) => {
                    for table in tables {
                        match table.get_ref() {
                            DeValue::Table(fields) => drafts.push((table.span(), fields)),
                            other => self.wrong(
                                table.span(),
                                wrong_type("service", "a table: write [[service]]", other),
                            ),
                        }
                    }
                }
                ("service", other) => {
                    self.wrong(
                        key.span(),
                        wrong_type("service", "a list: write [[service]]", other),
                    );
                }
                (unknown, _) => {
                    let message = unknown_key(unknown, "the file", &["service", "defaults"]);
                    self.wrong(key.span(), message);
                }
            }
        }
        let drafts: Vec<Draft> = (drafts.into_iter())
            .map(|(span, fields)| self.draft(span, fields, &defaults))
            .collect();
        if drafts.is_empty() && self.mistakes.is_empty() {
            self.wrong(
                0..0,
                "there is no service: write [[service]], name = \"..\" and command = \"..\"",
            );
        }
        self.join(drafts)
    }

    /// One `[[service]]` by itself.
    fn draft(&mut self, span: Range<usize>, fields: &DeTable<'_>, defaults: &Values) -> Draft {
        let mut draft = Draft {
            span,
            name: None,
            has_name: false,
            command: None,
            has_command: false,
            after: Vec::new(),
            raw_to: None,
            values: defaults.clone(),
        };
        for entry in in_order(fields) {
            let (key, value) = entry;
            match key.get_ref().as_ref() {
                "name" => {
                    draft.has_name = true;
                    let name = self.parsed(entry, |text| {
                        check_service_name(text).map_err(|error| error.to_string())?;
                        Ok(text.to_owned())
                    });
                    draft.name = name.map(|name| (name, value.span()));
                }
                "command" => {
                    draft.has_command = true;
                    draft.command = self.command(value);
                }
                "after" => draft.after = self.strings("after", value),
                "raw-to" => {
                    let path = self.path(entry);
                    draft.raw_to = path.map(|path| (path, value.span()));
                }
                _ => {
                    self.shared(entry, &mut draft.values, "a service");
                }
            }
        }
        draft
    }

    /// A key that services and `[defaults]` share, or an unknown one.
    fn shared(&mut self, entry: Entry<'_, '_>, into: &mut Values, whom: &str) {
        let (key, value) = entry;
        let at_least = |limit: Duration| {
            move |text: &str| match parse_duration(text)? {
                duration if duration < limit => Err(format!(
                    "{text:?} is below the least of {}",
                    format_duration(limit)
                )),
                duration => Ok(duration),
            }
        };
        match key.get_ref().as_ref() {
            "directory" => {
                let directory = self.path(entry);
                if let Some(missing) = directory.as_ref().filter(|path| !path.is_dir()) {
                    let message = format!("directory: there is no directory {}", missing.display());
                    self.wrong(value.span(), message);
                }
                into.directory = directory.or(into.directory.take());
            }
            "environment" => self.environment(value, &mut into.environment),
            "restart" => into.restart = self.parsed(entry, When::parse).or(into.restart),
            "restart-delay" => {
                // Without any delay, a command that cannot run would take a whole core.
                let delay = self.parsed(entry, at_least(Duration::from_millis(1)));
                into.restart_delay = delay.or(into.restart_delay);
                into.delay_span = Some(value.span());
            }
            "restart-delay-limit" => {
                let limit = self.parsed(entry, at_least(Duration::from_millis(1)));
                into.restart_delay_limit = limit.or(into.restart_delay_limit);
                into.delay_span = Some(value.span());
            }
            "restart-limit" => into.restart_limit = self.count(entry).or(into.restart_limit),
            "stop-signal" => {
                into.stop_signal = self.parsed(entry, parse_signal).or(into.stop_signal)
            }
            "stop-timeout" => {
                into.stop_timeout = self.parsed(entry, parse_duration).or(into.stop_timeout);
            }
            "terminal" => match value.get_ref() {
                DeValue::Boolean(terminal) => into.terminal = Some(*terminal),
                other => self.wrong(value.span(), wrong_type("terminal", "true or false", other)),
            },
            "view" => {
                let view = self.parsed(entry, parse_flag::<ViewFlag>);
                into.view = view.map(Into::into).or(into.view);
            }
            "partial-delay" => {
                into.partial_delay = self.parsed(entry, parse_duration).or(into.partial_delay);
            }
            "level" => {
                let level = self.parsed(entry, |text| match text {
                    "auto" => Ok(None),
                    _ => parse_level(text)
                        .map(Some)
                        .map_err(|failure| failure.to_string()),
                });
                into.level = level.or(into.level);
            }
            "size" => into.size = self.parsed(entry, parse_terminal_size).or(into.size),
            "newlines" => {
                let newlines = self.parsed(entry, parse_flag::<NewlinesFlag>);
                into.newlines = newlines.map(Newlines::from).or(into.newlines);
            }
            "linger" => into.linger = self.parsed(entry, parse_duration).or(into.linger),
            unknown => {
                let is_default = whom == "[defaults]";
                let message = if is_default && OWN_KEYS.contains(&unknown) {
                    format!("{unknown} is a matter of one service: {whom} has no such key")
                } else {
                    let mut keys = SHARED_KEYS.to_vec();
                    if !is_default {
                        keys.extend(OWN_KEYS);
                    }
                    unknown_key(unknown, whom, &keys)
                };
                self.wrong(key.span(), message);
            }
        }
    }

    /// What only shows between services; then they are ready.
    fn join(&mut self, drafts: Vec<Draft>) -> Vec<Service> {
        let names: Vec<Option<&str>> = (drafts.iter())
            .map(|draft| draft.name.as_ref().map(|(name, _)| name.as_str()))
            .collect();
        let mut services = Vec::with_capacity(drafts.len());
        let mut after = vec![Vec::new(); drafts.len()];
        for (place, draft) in drafts.iter().enumerate() {
            if let Some((name, span)) = &draft.name {
                let first = names.iter().position(|other| *other == Some(name.as_str()));
                if let Some(first) = first.filter(|&first| first < place) {
                    let start = drafts[first]
                        .name
                        .as_ref()
                        .map_or(0, |(_, span)| span.start);
                    let (line, _) = line_and_column(self.text.as_bytes(), start);
                    let message = format!(
                        "name {name:?} is that of the service in line {line}: a service has one command"
                    );
                    self.wrong(span.clone(), message);
                }
            } else if !draft.has_name {
                self.wrong(
                    draft.span.clone(),
                    "service without a name: write name = \"..\"",
                );
            }
            if !draft.has_command {
                let whom = draft
                    .name
                    .as_ref()
                    .map_or_else(String::new, |(name, _)| format!(" {name:?}"));
                let message =
                    format!("service{whom} without a command: write command = [\"..\"] or \"..\"");
                self.wrong(draft.span.clone(), message);
            }
            for (name, span) in &draft.after {
                match names.iter().position(|other| *other == Some(name.as_str())) {
                    Some(earlier) => after[place].push(earlier),
                    None => {
                        let known = names.iter().flatten().copied();
                        let mut message = format!("after: there is no service {name:?}");
                        if let Some(near) = nearest_name(name, known) {
                            message.push_str(&format!("; did you mean {near:?}?"));
                        }
                        self.wrong(span.clone(), message);
                    }
                }
            }
            if let Some((path, span)) = &draft.raw_to {
                let twice = |other: &Draft| {
                    other
                        .raw_to
                        .as_ref()
                        .is_some_and(|(other, _)| other == path)
                };
                if drafts[..place].iter().any(twice) {
                    let message =
                        format!("raw-to: another service writes {} already", path.display());
                    self.wrong(span.clone(), message);
                }
            }
        }
        self.circles(&drafts, &names, after.clone());
        for (draft, after) in drafts.into_iter().zip(after) {
            services.extend(self.service(draft, after));
        }
        services
    }

    /// Each circle once, at the `after` that closes it.
    fn circles(&mut self, drafts: &[Draft], names: &[Option<&str>], mut after: Vec<Vec<usize>>) {
        while let Some(cycle) = cycle(&after) {
            // Each was found by its name.
            let named = |place: &usize| names[*place].unwrap_or_default();
            let next = named(cycle.get(1).unwrap_or(&cycle[0]));
            let way: Vec<&str> = cycle.iter().chain(cycle.first()).map(named).collect();
            let said = drafts[cycle[0]].after.iter().find(|(name, _)| name == next);
            let message = format!(
                "after: {} is a circle: nothing of it can be first",
                way.join(" after ")
            );
            self.wrong(said.map_or(0..0, |(_, span)| span.clone()), message);
            for place in cycle {
                after[place].clear();
            }
        }
    }

    /// `None` where something is missing, which has been said.
    fn service(&mut self, draft: Draft, after: Vec<usize>) -> Option<Service> {
        let Draft { values, .. } = draft;
        let normal = Policy::default();
        let delay = values.restart_delay.unwrap_or(normal.delay);
        // Somebody who only asks for a longer delay does not mean the limit.
        let delay_limit = values
            .restart_delay_limit
            .unwrap_or(normal.delay_limit.max(delay));
        if let Some(span) = values.delay_span.filter(|_| delay_limit < delay) {
            let (limit, delay) = (format_duration(delay_limit), format_duration(delay));
            self.wrong(
                span,
                format!("restart-delay-limit {limit} is below the restart-delay of {delay}"),
            );
        }
        let (service, _) = draft.name?;
        let (program, arguments) = draft.command?;
        let directory = values.directory.unwrap_or_else(|| self.base.to_owned());
        let program = match program.as_encoded_bytes().contains(&b'/') {
            // Of two readings, where we are and where the command is, always the second.
            true => absolute(directory.join(program)).into_os_string(),
            false => program,
        };
        let environment = values.environment.into_iter();
        Some(Service {
            spec: Spec {
                service,
                command: CommandSpec {
                    program,
                    arguments,
                    directory: Some(directory),
                    environment: environment
                        .map(|(name, value)| (name.into(), value.into()))
                        .collect(),
                },
                mode: match values.terminal.unwrap_or(true) {
                    true => Mode::Pty {
                        size: values.size.unwrap_or(WindowSize {
                            columns: 80,
                            rows: 24,
                        }),
                        newlines: values.newlines.unwrap_or_default(),
                    },
                    false => Mode::Pipe,
                },
                view: values.view.unwrap_or(View::Terminal),
                partial_delay: values.partial_delay.unwrap_or(Duration::from_secs(1)),
                level: values.level.flatten(),
                raw_to: draft.raw_to.map(|(path, _)| path),
                linger: values.linger.unwrap_or(Duration::from_millis(100)),
            },
            restart: Policy {
                when: values.restart.unwrap_or_default(),
                delay,
                delay_limit,
                limit: values.restart_limit,
            },
            stop_signal: values.stop_signal.unwrap_or(SIGTERM),
            stop_timeout: values.stop_timeout.unwrap_or(Duration::from_secs(10)),
            after,
        })
    }

    /// Text, read as the flag would be; a mistake names its key.
    fn parsed<T>(
        &mut self,
        (key, value): Entry<'_, '_>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let key = key.get_ref();
        match value.get_ref() {
            DeValue::String(text) => match parse(text) {
                Ok(parsed) => return Some(parsed),
                Err(why) => self.wrong(value.span(), format!("{key}: {why}")),
            },
            other => self.wrong(value.span(), wrong_type(key, "text in quotes", other)),
        }
        None
    }

    fn count(&mut self, (key, value): Entry<'_, '_>) -> Option<u32> {
        let key = key.get_ref();
        match value.get_ref() {
            DeValue::Integer(number) => {
                match u32::from_str_radix(number.as_str(), number.radix()) {
                    Ok(count @ 1..) => return Some(count),
                    _ => self.wrong(
                        value.span(),
                        format!(
                            "{key} {number} is not from 1 to {}: for none, write restart = \"no\"",
                            u32::MAX
                        ),
                    ),
                }
            }
            other => self.wrong(value.span(), wrong_type(key, "a number", other)),
        }
        None
    }

    /// A path; a relative one starts at the directory of the file.
    fn path(&mut self, entry: Entry<'_, '_>) -> Option<PathBuf> {
        let base = self.base;
        self.parsed(entry, |text| match text {
            "" => Err("it is empty: write a path".to_owned()),
            _ => no_nul(text).map(|text| absolute(base.join(text))),
        })
    }

    fn strings(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Vec<(String, Range<usize>)> {
        let DeValue::Array(items) = value.get_ref() else {
            let message = wrong_type(key, "a list: write [\"..\", \"..\"]", value.get_ref());
            self.wrong(value.span(), message);
            return Vec::new();
        };
        let mut strings = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => strings.push((text.to_string(), item.span())),
                other => {
                    let message = wrong_type(&format!("{key}: an item"), "text in quotes", other);
                    self.wrong(item.span(), message);
                }
            }
        }
        strings
    }

    /// A program and its arguments, or a line for the shell.
    fn command(&mut self, value: &Spanned<DeValue<'_>>) -> Option<(OsString, Vec<OsString>)> {
        let texts = match value.get_ref() {
            DeValue::String(line) if line.trim().is_empty() => Vec::new(),
            DeValue::String(line) => ["/bin/sh", "-c", line]
                .map(|text| (text.to_owned(), value.span()))
                .to_vec(),
            DeValue::Array(items) => {
                let texts = self.strings("command", value);
                if texts.len() < items.len() {
                    return None;
                }
                texts
            }
            other => {
                let message = wrong_type(
                    "command",
                    "a list [\"program\", \"argument\"] or text for a shell",
                    other,
                );
                self.wrong(value.span(), message);
                return None;
            }
        };
        if texts.first().is_none_or(|(program, _)| program.is_empty()) {
            self.wrong(
                value.span(),
                "command is empty: write [\"program\", \"argument\"], or text for a shell",
            );
            return None;
        }
        let mistakes = self.mistakes.len();
        for (text, span) in &texts {
            if let Err(why) = no_nul(text) {
                self.wrong(span.clone(), format!("command: {why}"));
            }
        }
        let mut texts = texts.into_iter().map(|(text, _)| OsString::from(text));
        let program = texts.next()?;
        (self.mistakes.len() == mistakes).then(|| (program, texts.collect()))
    }

    fn environment(&mut self, value: &Spanned<DeValue<'_>>, into: &mut Vec<(String, String)>) {
        let DeValue::Table(table) = value.get_ref() else {
            let message = wrong_type(
                "environment",
                "a table: write { NAME = \"value\" }",
                value.get_ref(),
            );
            return self.wrong(value.span(), message);
        };
        for entry in in_order(table) {
            let (key, value) = entry;
            let name = key.get_ref().to_string();
            if name.is_empty() || name.contains(['=', '\0']) {
                let message =
                    format!("environment: {name:?} is no name: it is empty, or has a `=` or a NUL");
                self.wrong(key.span(), message);
                continue;
            }
            let text = match value.get_ref() {
                DeValue::String(text) => match no_nul(text) {
                    Ok(text) => text.to_owned(),
                    Err(why) => {
                        self.wrong(value.span(), format!("environment: {name}: {why}"));
                        continue;
                    }
                },
                other => {
                    let message =
                        wrong_type(&format!("environment: {name}"), "text in quotes", other);
                    self.wrong(value.span(), message);
                    continue;
                }
            };
            into.retain(|(known, _)| *known != name);
            into.push((name, text));
        }
    }
}

/// The entries as they stand in the file; the parser sorts them by name.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<Entry<'_, '_>> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Without `.`; links stay as they are.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn no_nul(text: &str) -> Result<&str, String> {
    match text.contains('\0') {
        true => Err(format!(
            "{text:?} has a NUL in it, which no command can be given"
        )),
        false => Ok(text),
    }
}

fn unknown_key(unknown: &str, whom: &str, keys: &[&str]) -> String {
    let underscored = unknown.replace('_', "-");
    match nearest_name(&underscored, keys.iter().copied()) {
        Some(near) => format!("{unknown:?} is no key of {whom}; did you mean `{near}`?"),
        None => format!(
            "{unknown:?} is no key of {whom}: those are {}",
            keys.join(", ")
        ),
    }
}

fn wrong_type(key: &str, wanted: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("{key} is {found} here, and has to be {wanted}")
}
