//! The rows of the study: one table's worth of log lines, the same for every store, from one seed.

use millpond_bus::Level;

const SEED: u64 = 0x6d69_6c6c_706f_6e64;
/// Rows are made before anything is measured, and then used over and over.
const COUNT: usize = 8192;
/// Bytes of a row's content; what the failed system's lines had.
const CONTENT_BYTES_MIN: usize = 100;
const CONTENT_BYTES_MAX: usize = 143;
/// What the reader searches for. No generated row holds it: a store is asked for it where it was planted.
pub(crate) const NEEDLE: &str = "xyzzy";
/// The service whose newest rows the reader asks for.
pub(crate) const ASKED_SERVICE: &str = "web";

const SERVICES: [&str; 24] = [
    "web",
    "api",
    "auth",
    "billing",
    "build",
    "cache",
    "camera",
    "chat",
    "cron",
    "db",
    "docs",
    "embed",
    "gateway",
    "gpu-train",
    "indexer",
    "mail",
    "monitor",
    "proxy",
    "queue",
    "scheduler",
    "search",
    "speech",
    "storage",
    "worker",
];
const SOURCES: [&str; 4] = ["pty:out", "pty:err", "rpc", "tracing"];
const WORDS: [&str; 24] = [
    "request", "accepted", "upstream", "retry", "session", "flush", "queue", "depth", "cache",
    "miss", "worker", "finished", "status", "bytes", "handler", "timeout", "index", "page", "user",
    "login", "closed", "served", "from", "after",
];

/// One row of the table, and the same as one line.
pub(crate) struct Row {
    pub(crate) service: &'static str,
    pub(crate) source: &'static str,
    pub(crate) tags: String,
    pub(crate) level: Level,
    pub(crate) error: Option<String>,
    pub(crate) content: String,
    /// What a line says beyond time, level and source: content, tags and error.
    pub(crate) message: String,
}

impl Row {
    /// The level as the failed system's table had it.
    pub(crate) fn level_name(&self) -> &'static str {
        match self.level {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Fatal => "FATAL",
        }
    }

    /// The name that a publisher gives the event.
    pub(crate) fn topic(&self) -> String {
        format!("log:{}:{}", self.service, self.source)
    }
}

/// The rows, always the same ones.
pub(crate) fn rows() -> Vec<Row> {
    let mut dice = Dice(SEED);
    (0..COUNT).map(|_| row(&mut dice)).collect()
}

/// A row that the reader's search finds.
pub(crate) fn needle() -> Row {
    let mut row = row(&mut Dice(SEED ^ 1));
    row.content.push(' ');
    row.content.push_str(NEEDLE);
    row.message.push(' ');
    row.message.push_str(NEEDLE);
    row
}

fn row(dice: &mut Dice) -> Row {
    let level = match dice.below(100) {
        0..70 => Level::Info,
        70..90 => Level::Debug,
        90..96 => Level::Warn,
        96..99 => Level::Error,
        _ => Level::Trace,
    };
    let length = CONTENT_BYTES_MIN + dice.below(CONTENT_BYTES_MAX - CONTENT_BYTES_MIN + 1);
    let mut content = format!("id={:08x} {} ms", dice.next() as u32, dice.below(5000));
    while content.len() < length {
        content.push(' ');
        content.push_str(dice.pick(&WORDS));
    }
    content.truncate(length);
    let tags = match dice.below(10) {
        0..7 => String::new(),
        _ => format!("{},{}", dice.pick(&WORDS), dice.pick(&WORDS)),
    };
    let error = (level == Level::Error).then(|| {
        let code = dice.below(600);
        format!("{} failed with code {code}", dice.pick(&WORDS))
    });
    let mut message = content.clone();
    if !tags.is_empty() {
        message.push_str(" tags=");
        message.push_str(&tags);
    }
    if let Some(error) = &error {
        message.push_str(" error=");
        message.push_str(error);
    }
    Row {
        service: dice.pick(&SERVICES),
        source: dice.pick(&SOURCES),
        tags,
        level,
        error,
        content,
        message,
    }
}

/// xorshift64*: the study needs no better chance than this.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}
