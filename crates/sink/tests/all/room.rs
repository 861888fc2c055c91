//! How much a group takes.

use millpond_logfile::{Level, Source};
use millpond_sink::{Policy, Sink};

use crate::support::{Place, policy};

const LIMIT: usize = 4 << 20;
const ONE_SERVICE: usize = 512 << 10;

/// Lines for a service until there is no room; the bytes of the group then.
fn fill(sink: &mut Sink, service: &str, now_ns: u64) -> usize {
    let id = sink.service(service, now_ns).expect("a service");
    let source = Source::new("test");
    // The first makes the service a part of the group.
    loop {
        sink.append(id, now_ns, Level::Info, &source, &[b'x'; 900]);
        if !sink.has_room() {
            return sink.filling_bytes();
        }
    }
}

#[test]
fn group_takes_more_of_more_services_and_all_it_may_when_the_writer_stalls() {
    let dir = tempfile::tempdir().expect("a directory");
    let policy = Policy {
        group_bytes_limit: LIMIT,
        segment_bytes_limit: 64 << 20,
        ..policy()
    };
    let mut place = Place::new(dir.path());
    let mut sink = place.open(&policy);
    let is_about = |bytes: usize, wanted: usize| (wanted..wanted + 2000).contains(&bytes);

    assert!(is_about(fill(&mut sink, "a", place.now_ns), ONE_SERVICE));
    assert!(is_about(
        fill(&mut sink, "b", place.now_ns),
        2 * ONE_SERVICE
    ));
    assert_eq!(sink.more_room_ns(), None, "nothing is with the writer");
    place.submit(&mut sink);

    // However fast it is written: what was not taken back counts as being with the writer.
    let more_ns = sink.more_room_ns().expect("a group is with the writer");
    assert!(more_ns > place.now_ns);
    sink.look_for_room(more_ns - 1);
    assert!(is_about(fill(&mut sink, "a", place.now_ns), ONE_SERVICE));
    sink.look_for_room(more_ns);
    assert!(sink.has_room());
    assert_eq!(sink.more_room_ns(), None, "there is all that it may take");
    assert!(is_about(fill(&mut sink, "a", place.now_ns), LIMIT));

    place.settle(&mut sink, 0);
    sink.look_for_room(more_ns);
    place.submit(&mut sink);
    assert!(is_about(fill(&mut sink, "c", place.now_ns), ONE_SERVICE));
    place.close(sink);
}

/// What can be made and not written to is refused before it is made.
#[test]
fn directory_whose_path_leaves_no_room_for_its_files_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let long = |bytes: usize| {
        let mut path = dir.path().to_owned();
        while path.as_os_str().len() + 202 < bytes {
            path.push("d".repeat(200));
        }
        path.push("e".repeat(bytes - path.as_os_str().len() - 1));
        path
    };
    let open = |path: &std::path::Path| {
        Sink::open(
            path,
            policy(),
            "test",
            &[],
            1_795_224_593_000_000_000,
            || {},
        )
    };
    let error = open(&long(4000)).expect_err("too long").to_string();
    assert!(
        error.contains("4000 bytes") && error.contains("--logs"),
        "{error}"
    );
    assert!(
        std::fs::read_dir(dir.path())
            .expect("a directory")
            .next()
            .is_none()
    );
    // The limit that it names is one.
    let limit = error.split("the limit is ").nth(1).expect("a limit");
    let limit: usize = limit
        .split(',')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(open(&long(limit + 1)).is_err());
    let path = long(limit);
    let mut place = Place::new(&path);
    let mut sink = place.open(&policy());
    place.write(&mut sink, &"s".repeat(64), 700);
    place.write(&mut sink, &"s".repeat(64), 10);
    place.assert_complete(&"s".repeat(64));
}
