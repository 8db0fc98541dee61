//! What the driver counts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The counters of all devices that are not 0.
pub fn counters() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for device in folders("/sys/class/infiniband") {
        let Ok(dir) = fs::read_dir(Path::new(&device).join("ports/1/hw_counters")) else {
            continue;
        };
        for file in dir.flatten() {
            let text = fs::read_to_string(file.path()).unwrap_or_default();
            if let Ok(value @ 1..) = text.trim().parse() {
                all.insert(file.file_name().to_string_lossy().into_owned(), value);
            }
        }
    }
    all
}

/// Requests that came once more, because their answer was late.
pub fn duplicates() -> u64 {
    counters().get("duplicate_request").copied().unwrap_or(0)
}

/// The entries of a folder; none if it can't be read: what is shown of a failure is no place for another.
pub fn folders(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}
