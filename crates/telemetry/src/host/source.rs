//! Reading files of `/proc`, with reasons that say what helps.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use procfs::ProcError;

use super::options::HostOptions;

/// No file of `/proc` that we read is longer on any host; one that is, is none.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Where the files are.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) proc_dir: PathBuf,
    pub(super) sys_dir: PathBuf,
}

impl Source {
    pub(super) fn new(options: &HostOptions) -> Self {
        Source {
            proc_dir: options.proc_dir.clone(),
            sys_dir: options.sys_dir.clone(),
        }
    }

    /// The text of a file of `/proc`. Bytes that are no UTF-8, which the name of an interface may have, become `U+FFFD`.
    pub(super) fn read(&self, name: &str) -> Result<String, String> {
        let path = self.proc_dir.join(name);
        read_text(&path).map_err(|error| self.reason(&path, &error))
    }

    /// As `read`, parsed.
    pub(super) fn parse<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, ProcError>,
    ) -> Result<T, String> {
        let text = self.read(name)?;
        parse(text.as_bytes()).map_err(|error| {
            let path = self.proc_dir.join(name);
            format!(
                "{} cannot be understood: {error}; is it this kernel's procfs?",
                path.display()
            )
        })
    }

    fn reason(&self, path: &Path, error: &io::Error) -> String {
        let shown = path.display();
        let proc_dir = self.proc_dir.display();
        let is_mounted = self.proc_dir.join("stat").exists();
        match error.kind() {
            ErrorKind::NotFound if !is_mounted => {
                format!(
                    "no procfs at {proc_dir}: mount it there, or in a container, do not mask it"
                )
            }
            ErrorKind::NotFound if path.starts_with(self.proc_dir.join("pressure")) => format!(
                "{shown} does not exist: the kernel has no pressure figures; where it was built with CONFIG_PSI, \
                 start it with psi=1"
            ),
            ErrorKind::NotFound => format!("{shown} does not exist: this kernel does not tell"),
            ErrorKind::PermissionDenied => {
                format!(
                    "{shown} may not be read: {error}; run as a user who may, or unmask it in the container"
                )
            }
            // What reading a pressure file says where the kernel was started with psi=0.
            ErrorKind::Unsupported => {
                format!("{shown} is switched off in the kernel: start it with psi=1")
            }
            _ => format!("{shown} cannot be read: {error}"),
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(8 << 10);
    let read = File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if read as u64 > FILE_BYTES_MAX {
        let message = format!("it is longer than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// A name of a device as a segment of an event's name: what cannot stand there becomes `_`.
pub(super) fn segment(device: &str) -> String {
    let is_odd = |character: char| {
        matches!(character, ':' | '*' | char::REPLACEMENT_CHARACTER)
            || character.is_whitespace()
            || character.is_control()
    };
    device.replace(is_odd, "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_is_called_becomes_a_segment_of_a_name() {
        assert_eq!(segment("nvme0n1"), "nvme0n1");
        assert_eq!(segment("cciss/c0d0"), "cciss/c0d0");
        assert_eq!(segment("a:b*c\u{1b}\u{fffd}d"), "a_b_c__d");
    }

    #[test]
    fn a_reason_names_the_file_and_the_remedy() {
        let place = tempfile::tempdir().expect("a directory");
        let options = HostOptions {
            proc_dir: place.path().to_owned(),
            ..HostOptions::default()
        };
        let source = Source::new(&options);
        let reason = source.read("meminfo").expect_err("nothing is there");
        assert!(reason.contains("no procfs at"), "{reason}");
        std::fs::write(place.path().join("stat"), "").expect("a file");
        let reason = source.read("pressure/cpu").expect_err("no such file");
        assert!(reason.contains("psi=1"), "{reason}");
        std::fs::write(place.path().join("loadavg"), b"0.\xff").expect("a file");
        assert_eq!(source.read("loadavg").as_deref(), Ok("0.\u{fffd}"));
    }
}
