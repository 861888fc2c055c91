//! What the daemon says of itself: by level, in the form that suits who reads, and without ever waiting for them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use millpond_tests::Watchdog;
use rustix::pipe::{PipeFlags, pipe, pipe_with};

use crate::support::{Daemon, Place, code, text};

/// Runs a daemon with this standard error, gives it something to say, and has it write all the same.
fn writes_on(place: &mut Place, stderr: Stdio) {
    let config = place.dir.path().join("rules.toml");
    std::fs::write(&config, "total-bytes = \"1GiB\"\n").expect("a file");
    let with_config = |command: &mut Command| {
        let _ = command.arg("--config").arg(&config);
    };
    let mut command = place.command(&["daemon", "--log-level", "trace"]);
    with_config(&mut command);
    place.daemon = Some(Daemon::start(command.stderr(stderr)));
    for number in 0..3 {
        // In force: the notice of it comes before the next step of the consumer.
        let mut reload = place.command(&["config", "reload"]);
        with_config(&mut reload);
        assert_eq!(code(&reload.output().expect("it starts")), 0);
        let publish = [
            "publish",
            "log:web:a",
            "x",
            "--wait",
            "written",
            "--timeout",
            "60s",
        ];
        assert_eq!(
            code(&place.run(&publish)),
            0,
            "{number}: the daemon goes on"
        );
        assert_eq!(code(&place.run(&["rotate"])), 0);
    }
    place.stop();
}

#[test]
fn a_standard_error_that_is_full_or_closed_stops_nobody() {
    let _watchdog = Watchdog::start("a full standard error", Duration::from_secs(300));
    // Non-blocking: else it could not be filled. It is one file description with what the daemon has: this tells of both
    // ways in which a write may be refused.
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).expect("a pipe");
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    writes_on(&mut Place::new("log-full"), writer.into());
    drop(reader);
    let (reader, writer) = pipe().expect("a pipe");
    let is_blocking = |end: &OwnedFd, blocks: bool| {
        let flags = match blocks {
            true => rustix::fs::OFlags::empty(),
            false => rustix::fs::OFlags::NONBLOCK,
        };
        rustix::fs::fcntl_setfl(end, flags).expect("it is a pipe of ours");
    };
    is_blocking(&writer, false);
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    is_blocking(&writer, true);
    writes_on(&mut Place::new("log-blocked"), writer.into());
    drop(reader);
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    writes_on(&mut Place::new("log-closed"), writer.into());
}

#[test]
fn levels_choose_and_the_journal_gets_priorities() {
    let mut place = Place::new("log-levels");
    let path = place.dir.path().join("stderr");
    let said = |place: &mut Place, levels: &str, is_journal: bool| {
        let file = File::create(&path).expect("a file");
        let found = file.metadata().expect("it is there");
        let stream = match is_journal {
            true => format!("{}:{}", found.dev(), found.ino()),
            // Inherited from whoever started us, and of another stream.
            false => "8:1".to_owned(),
        };
        let mut command = place.command(&["daemon", "--backend", "pwrite"]);
        command
            .env("MILLPOND_LOG", levels)
            .env("JOURNAL_STREAM", stream);
        place.daemon = Some(Daemon::start(command.stderr(file)));
        assert_eq!(
            code(&place.run(&["publish", "log:web:a", "x", "--wait", "written"])),
            0
        );
        place.stop();
        std::fs::read_to_string(&path).expect("text")
    };
    let notice = "warning: writing with pwrite: chosen by configuration\n";
    assert_eq!(
        said(&mut place, "warn", false),
        notice,
        "notices alone, as ever"
    );
    let info = said(&mut place, "info", false);
    assert!(
        info.contains(" INFO  daemon: consumer started bus="),
        "{info}"
    );
    assert!(info.contains(" INFO  daemon: consumer stopped"), "{info}");
    assert!(
        info.starts_with(&format!("{}-", &info[..4])) && !info.contains('\u{1b}'),
        "{info}"
    );
    let one = said(&mut place, "off,daemon=info", true);
    assert!(one.contains("<4>warning: writing with pwrite"), "{one}");
    assert!(one.contains("\n<6>daemon: consumer stopped"), "{one}");
    let bad = place.run(&["stats", "--log-level", "loud"]);
    assert_eq!(code(&bad), 2);
    assert!(text(&bad.stderr).contains("write off, error, warn"));
}
