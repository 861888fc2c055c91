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
