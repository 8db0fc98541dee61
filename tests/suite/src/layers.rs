//! The order of the kernel module's files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use soft_roce_setup::build;

/// The names in `source` that come from its crate: those behind `crate::` or `super::`, to the end of the line, and those between the
/// braces, one line each, where there is more than one.
fn used(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for found in source
        .replace("super::", "crate::")
        .split("crate::")
        .skip(1)
    {
        let end = if found.starts_with('{') { ';' } else { '\n' };
        let text = found.split(end).next().unwrap_or_default();
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        names.extend(words.map(str::to_owned));
    }
    names
}

/// Of files and what they use: those that use each other in a circle, and what uses these.
fn circle(mut uses: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        uses.retain(|file, used| used.iter().any(|name| name != file && left.contains(name)));
        if uses.len() == left.len() {
            return left.into_iter().collect();
        }
    }
}

#[test]
fn a_circle_is_found() {
    let file = |name: &str, source: &str| (name.to_owned(), used(source));
    let mut uses = BTreeMap::from([
        file("gate", "use crate::glue;\nuse core::pin::Pin;\n"),
        file("glue", "\n"),
        file(
            "region",
            "use crate::{\n    gate::{Gated, Guard},\n    wait,\n};\n",
        ),
        file("wait", "use crate::glue;\n"),
    ]);
    assert!(circle(uses.clone()).is_empty());
    uses.extend([file("wait", "fn end() {\n    crate::region::stop();\n}\n")]);
    assert_eq!(circle(uses), ["region", "wait"]);
}

#[test]
fn no_files_of_the_module_use_each_other_in_a_circle() {
    let folder = build::workspace().join("kernel/ib_emm");
    let mut uses = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            uses.insert(name, used(&fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(uses.contains_key("region") && uses["region"].contains("notifier"));
    let circle = circle(uses);
    assert!(circle.is_empty(), "{circle:?}");
}
