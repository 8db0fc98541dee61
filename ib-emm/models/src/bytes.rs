// SPDX-License-Identifier: MIT OR Apache-2.0

//! The models, driven by bytes: what fuzz targets run, and `tests/fuzz.rs` without a fuzzer.

use super::{hold, range, region, table};
use arbitrary::{Arbitrary, Unstructured};

/// A fuzz target: panics if the core does something else than its model.
pub type Target = fn(&[u8]);

fn each<'a, T: Arbitrary<'a>>(bytes: &mut Unstructured<'a>, mut step: impl FnMut(T)) {
    while !bytes.is_empty() {
        let Ok(item) = bytes.arbitrary() else { return };
        step(item);
    }
}

/// Hold-off.
pub fn hold(bytes: &[u8]) {
    let mut model = hold::Model::default();
    each(&mut Unstructured::new(bytes), |op| model.step(op));
    model.finish();
}

/// Ranges and geometry.
pub fn range(bytes: &[u8]) {
    each(&mut Unstructured::new(bytes), |(pages, bytes)| {
        range::check_ranges(pages);
        range::check_geometry(bytes);
    });
}

/// A region.
pub fn region(bytes: &[u8]) {
    let mut model = region::Model::default();
    each(&mut Unstructured::new(bytes), |op| model.step(op));
    model.finish();
}

/// A table.
pub fn table(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let mut model = table::Model::new(bytes.arbitrary::<u8>().unwrap_or(0).into());
    each(&mut bytes, |op| model.step(op));
    model.finish();
}
