// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fuzz targets without a fuzzer: their corpus, and a second of random bytes each.

use ib_emm_models::bytes::{self, Target};
use proptest::{
    prelude::RngCore,
    test_runner::{RngAlgorithm, TestRng},
};
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long each target gets random bytes.
const TIME: Duration = Duration::from_secs(1);
/// The longest input.
const BYTES: usize = 4096;

/// Says which input it was, if the target panics.
struct Input(String);

impl Drop for Input {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("with {}", self.0);
        }
    }
}

fn random(seed: u64) -> Vec<u8> {
    let mut key = [1; 16];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::XorShift, &key);
    let mut bytes = vec![0; rng.next_u32() as usize % BYTES];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Runs `target` on what is in its folder of the corpus, then on random bytes.
fn run(name: &str, target: Target) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = fs::read_dir(corpus.join(name)).expect("every target has a corpus");
    for file in files {
        let path = file.unwrap().path();
        let _input = Input(path.display().to_string());
        target(&fs::read(&path).unwrap());
    }
    let start = Instant::now();
    let mut seed = 0;
    while start.elapsed() < TIME {
        let _input = Input(format!("random({seed})"));
        target(&random(seed));
        seed += 1;
    }
    println!("{name}: {seed} random inputs");
}

#[test]
fn hold() {
    run("hold", bytes::hold);
}

#[test]
fn range() {
    run("range", bytes::range);
}

#[test]
fn region() {
    run("region", bytes::region);
}

#[test]
fn table() {
    run("table", bytes::table);
}
