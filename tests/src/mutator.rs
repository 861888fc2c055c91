//! Inputs for the bodies in [`crate::fuzz_targets`], in ordinary tests.

use std::time::{Duration, Instant};

use crate::Random;
use crate::fuzz_targets::scratch_base;

/// So many seeds are run however slow the machine is.
const SEEDS_MIN: u64 = 8;

/// Makes inputs: random bytes, and seeds with all that usually goes wrong.
pub struct Mutator {
    random: Random,
    seeds: Vec<Vec<u8>>,
    /// Longest input, in bytes.
    length_max: usize,
}

impl Mutator {
    /// From these seeds.
    pub fn new(random: Random, seeds: Vec<Vec<u8>>) -> Self {
        let longest = seeds.iter().map(Vec::len).max().unwrap_or(0);
        Mutator {
            random,
            seeds,
            length_max: 2 * longest + 1024,
        }
    }

    /// Runs `run` with a new input again and again for `duration`, the seeds as they are first, for half of it; how often.
    /// The input in hand is left in a file where `run` panics, and the file is named.
    ///
    /// # Panics
    /// Where `run` does.
    pub fn run_for(&mut self, name: &str, duration: Duration, run: fn(&[u8])) -> u64 {
        let started = Instant::now();
        let mut runs = 0;
        let mut seeds = self.seeds.clone();
        // Where there is not the time for all, other ones each time.
        let first = self.below(seeds.len());
        seeds.rotate_left(first);
        for seed in seeds {
            if runs >= SEEDS_MIN && started.elapsed() > duration / 2 {
                break;
            }
            run_kept(name, &seed, run);
            runs += 1;
        }
        while started.elapsed() < duration {
            let input = self.input();
            run_kept(name, &input, run);
            runs += 1;
        }
        runs
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let count = self.seeds.len() as u64;
        if count == 0 || self.random.below(16) == 0 {
            return (0..self.random.below(300)).map(|_| self.byte()).collect();
        }
        let mut input = self.seeds[self.random.below(count) as usize].clone();
        let most = 1 << self.random.below(5);
        for _ in 0..1 + self.random.below(most) {
            self.mutate(&mut input);
        }
        input.truncate(self.length_max);
        input
    }

    fn byte(&mut self) -> u8 {
        self.random.below(256) as u8
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.below(end.max(1) as u64) as usize
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        // Numbers that sit at some limit.
        const ODD: [u64; 14] = [
            0,
            1,
            7,
            8,
            0x7f,
            0xff,
            0x7fff,
            0xffff,
            0x7fff_ffff,
            0xffff_ffff,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 7,
            u64::MAX,
        ];
        let at = self.below(input.len() + 1);
        let length = self.below(32).min(input.len() - at);
        match self.random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.byte(),
            2 => {
                let odd = ODD[self.below(ODD.len())].to_le_bytes();
                let width = (1 << self.below(4)).min(input.len() - at);
                input[at..at + width].copy_from_slice(&odd[..width]);
            }
            3 => input.truncate(at),
            4 => {
                input.drain(at..at + length);
            }
            5 => {
                let copy = input[at..at + length].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            6 => {
                let more: Vec<u8> = (0..self.below(16)).map(|_| self.byte()).collect();
                input.splice(at..at, more);
            }
            7 => {
                let other = self.below(self.seeds.len());
                let other = self.seeds[other].clone();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                for byte in &mut input[at..at + length] {
                    *byte = 0;
                }
            }
        }
    }
}

/// Removes the file again unless `run` panics.
struct Kept(std::path::PathBuf);

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is in {}", self.0.display());
        } else {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

fn run_kept(name: &str, input: &[u8], run: fn(&[u8])) {
    let file = format!("millpond-fuzz-{name}-{}", std::process::id());
    let kept = Kept(scratch_base().join(file));
    // Best effort: it is there for whoever looks for the reason of a panic.
    let _ = std::fs::write(&kept.0, input);
    run(input);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz_targets::canary;

    #[test]
    fn inputs_that_kill_the_canary_are_found() {
        // One byte from death: some 50 of four million inputs are expected to find it, so that no seed misses it.
        let near = [&b"millpomd"[..], &[0xff, 0]].concat();
        let random = Random::seeded();
        let mut mutator = Mutator::new(random, vec![near]);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let dead = (0..4_000_000).any(|_| {
            let input = mutator.input();
            std::panic::catch_unwind(|| canary(&input)).is_err()
        });
        std::panic::set_hook(hook);
        assert!(dead, "none of four million inputs");
    }
}
