//! An asciicast read with nothing but the format, so that no library of ours can hide what is wrong with it.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::error::Error;

/// What a file of the raw stream holds.
///
/// ```no_run
/// let cast = millpond_loadgen::ptys::Cast::read("web.cast".as_ref())?;
/// assert_eq!(cast.size, (80, 24));
/// # Ok::<(), millpond_loadgen::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Cast {
    /// Columns and rows of the header.
    pub size: (u64, u64),
    /// Exact bytes of all output, as a terminal is given them.
    pub bytes: Vec<u8>,
    /// Sizes after the first, `80x24`.
    pub sizes: Vec<String>,
    /// Output events whose text alone is not exact.
    pub inexact_events: u64,
    /// What the last event says that the command ended with; `None`: it says something else.
    pub exit: Option<String>,
    /// Times smaller than the one before.
    pub backwards: u64,
}

impl Cast {
    /// Reads a file.
    ///
    /// # Errors
    /// It is not of the format; says which line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |number: usize, what: &str| {
            Error::new(format!("{} line {}: {what}", path.display(), number + 1))
        };
        let text = fs::read_to_string(path)
            .map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
        let mut lines = text.lines().enumerate();
        let (_, header) = lines.next().ok_or_else(|| wrong(0, "no header"))?;
        let header: Value = serde_json::from_str(header)?;
        if header["version"] != 2 {
            return Err(wrong(0, "not version 2"));
        }
        let number = |key: &str| header[key].as_u64().unwrap_or_default();
        let mut cast = Cast {
            size: (number("width"), number("height")),
            ..Cast::default()
        };
        // Where the bytes of the last output event begin: an event `b` behind it stands for them.
        let (mut last, mut time) = (None, 0.0);
        for (number, line) in lines {
            let (at, code, data): (f64, String, String) =
                serde_json::from_str(line).map_err(|error| wrong(number, &error.to_string()))?;
            cast.backwards += u64::from(at < time);
            time = at;
            cast.exit = None;
            match code.as_str() {
                "o" => {
                    last = Some(cast.bytes.len());
                    cast.bytes.extend_from_slice(data.as_bytes());
                }
                "b" => {
                    let start = last
                        .take()
                        .ok_or_else(|| wrong(number, "no `o` in front of this `b`"))?;
                    let exact = STANDARD
                        .decode(&data)
                        .map_err(|error| wrong(number, &error.to_string()))?;
                    cast.bytes.truncate(start);
                    cast.bytes.extend_from_slice(&exact);
                    cast.inexact_events += 1;
                }
                "r" => cast.sizes.push(data),
                "x" => cast.exit = Some(data),
                _ => {}
            }
        }
        Ok(cast)
    }
}
