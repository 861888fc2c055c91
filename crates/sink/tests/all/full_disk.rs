//! A file system without room.

use std::fs;

use crate::support::{Place, SmallDisk, policy, sealing, wait_until};

#[test]
fn full_disk_takes_the_oldest_and_loses_nothing_that_is_new() {
    let Some(disk) = SmallDisk::mount(4 << 20) else {
        return;
    };
    for policy in [policy(), sealing()] {
        let logs = disk.path().join("logs");
        let mut place = Place::new(&logs);
        let mut sink = place.open(&policy);
        for _ in 0..120 {
            place.write(&mut sink, "web", 700);
        }
        let first = place.assert_suffix("web");
        let status = sink.status();
        assert!(first > 0 && status.trimmed_segments > 0, "{status:?}");
        assert_eq!(status.trouble, None, "it never had to wait");
        place.close(sink);
        place.assert_suffix("web");
        fs::remove_dir_all(&logs).expect("removed");
    }
}

#[test]
fn disk_that_others_fill_is_trouble_until_they_make_room() {
    let Some(disk) = SmallDisk::mount(2 << 20) else {
        return;
    };
    let mut place = Place::new(&disk.path().join("logs"));
    let large = millpond_sink::Policy {
        group_bytes_limit: 1 << 20,
        ..policy()
    };
    let mut sink = place.open(&large);
    place.write(&mut sink, "web", 100);
    let others = disk.path().join("others");
    // All there is, to the last page.
    let _ = fs::write(&others, vec![7; 4 << 20]);
    // More than is reserved for the service.
    place.append(&mut sink, "web", 2000);
    place.submit(&mut sink);
    wait_until("trouble", || sink.status().trouble.is_some());
    let trouble = sink.status().trouble.unwrap_or_default();
    assert!(
        trouble.contains("No space left") && trouble.contains("free space"),
        "{trouble}"
    );
    fs::remove_file(others).expect("removed");
    place.settle(&mut sink, 0);
    assert_eq!(sink.status().trouble, None);
    place.assert_complete("web");
}
