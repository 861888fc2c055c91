//! Random sequences of everything that happens to a log directory.

use millpond_sink::{Policy, Sink};
use proptest::prelude::*;

use crate::support::{Place, disk_bytes, policy, sealing};

/// One thing that happens.
#[derive(Debug, Clone)]
enum Act {
    Write {
        service: usize,
        lines: u64,
    },
    Rotate,
    RotateOne {
        service: usize,
    },
    /// The process dies; of what was on its way, the last group is committed or not.
    Kill {
        commits: bool,
    },
    Close,
    /// So long that a seal may begin, or be half done.
    Wait {
        ms: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..3_usize, 1..900_u64).prop_map(|(service, lines)| Act::Write { service, lines }),
        1 => Just(Act::Rotate),
        2 => (0..3_usize).prop_map(|service| Act::RotateOne { service }),
        1 => any::<bool>().prop_map(|commits| Act::Kill { commits }),
        1 => Just(Act::Close),
        1 => (0..30_u64).prop_map(|ms| Act::Wait { ms }),
    ]
}

fn restart(place: &mut Place, policy: &Policy) -> Sink {
    place.resume();
    place.now_ns += 1_000_000_000;
    let mut sink = place.open(policy);
    let new = sink.take_new_services();
    place.commit(new);
    sink
}

fn plays(acts: &[Act], policy: &Policy) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut place = Place::new(dir.path());
    let mut sink = restart(&mut place, policy);
    for act in acts {
        match act {
            Act::Write { service, lines } => {
                place.append(&mut sink, &format!("s{service}"), *lines);
                place.submit(&mut sink);
            }
            Act::Rotate => sink.rotate(),
            Act::RotateOne { service } => {
                sink.rotate_service(&format!("s{service}"));
            }
            Act::Kill { commits } => {
                if *commits {
                    place.settle(&mut sink, 0);
                }
                drop(sink);
                sink = restart(&mut place, policy);
            }
            Act::Close => {
                place.close(sink);
                sink = restart(&mut place, policy);
            }
            Act::Wait { ms } => std::thread::sleep(std::time::Duration::from_millis(*ms)),
        }
        if let Some(cap) = policy.total_bytes_limit {
            let bytes = disk_bytes(dir.path());
            prop_assert!(bytes <= cap, "{} > {} after {:?}", bytes, cap, act);
        }
    }
    place.close(sink);
    for service in ["s0", "s1", "s2"] {
        let first = place.assert_suffix(service);
        prop_assert!(first == 0 || policy.total_bytes_limit.is_some());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn lines_are_there_once_without_a_cap(acts in prop::collection::vec(act(), 1..40)) {
        plays(&acts, &sealing())?;
    }

    #[test]
    fn lines_are_there_once_and_the_cap_is_kept(
        acts in prop::collection::vec(act(), 1..40),
        seals in any::<bool>(),
    ) {
        let base = if seals { sealing() } else { policy() };
        plays(&acts, &Policy { total_bytes_limit: Some(600 << 10), ..base })?;
    }
}
