//! Rules of this crate's source that no lint knows.

use std::path::Path;

fn sources(dir: &Path, visit: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(dir)
        .expect("the source is there")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, visit);
        } else {
            visit(
                &path,
                &std::fs::read_to_string(&path).expect("the source is text"),
            );
        }
    }
}

#[test]
fn atomics_come_from_the_sync_module_so_that_loom_can_stand_in() {
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut |path, text| {
            let allowed = path.ends_with("sync.rs") || !text.contains("std::sync::atomic");
            assert!(allowed, "{} imports std::sync::atomic", path.display());
        },
    );
}

#[test]
fn unsafe_stays_in_the_modules_that_the_architecture_names() {
    let allowed = [
        "region.rs",
        "region/guard.rs",
        "clock.rs",
        "layout.rs",
        "models.rs",
    ];
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut |path, text| {
            let has = text
                .lines()
                .any(|line| line.contains("unsafe {") || line.contains("unsafe impl"));
            let known = allowed.iter().any(|name| path.ends_with(name));
            assert!(known || !has, "{} has unsafe code", path.display());
        },
    );
}

#[test]
fn every_ordering_says_why() {
    sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut |path, text| {
            let uses = text.matches("Ordering::Relaxed").count()
                + text.matches("Ordering::Acquire").count();
            let reasons = text.matches("ORDERING:").count();
            let is_exempt = path.ends_with("sync.rs");
            assert!(
                is_exempt || uses == 0 || reasons > 0,
                "{} explains no ordering",
                path.display()
            );
        },
    );
}
