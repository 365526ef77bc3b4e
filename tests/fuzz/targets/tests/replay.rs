//! Every target over its seeds: what libFuzzer found worth keeping, and what was once a finding.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use hmmgpu_fuzz_targets::TARGETS;

/// Panics of all threads: those of a device's engines end no test by themselves.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The committed inputs of a target, by name.
fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../seeds")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

#[test]
fn nothing_is_found_in_any_seed() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        report(info);
    }));
    for (name, target) in TARGETS {
        // Whatever the seeds are, these hold.
        target(&[]);
        target(&[0xff; 64]);
        for seed in seeds(name) {
            let data = fs::read(&seed).unwrap_or_else(|error| panic!("{seed:?}: {error}"));
            target(&data);
            let panics = PANICS.load(Ordering::SeqCst);
            assert_eq!(panics, 0, "a thread panicked at {}", seed.display());
        }
    }
}
