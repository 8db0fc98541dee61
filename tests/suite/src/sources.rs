//! The names of a crate's tests as its sources have them, so that what a filter means is known before anything is built.
//!
//! The sources are as rustfmt leaves them (`host::rustfmt` sees to that), so a line's indentation tells which module it is in.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use soft_roce_setup::proc::Cmd;

/// A test program of a crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// cargo's option that builds it alone.
    pub option: Vec<String>,
    /// Its tests, as libtest names them.
    pub tests: Vec<String>,
}

/// The test programs of the crate `name` in the workspace that `metadata` describes.
pub fn targets(metadata: &Value, name: &str) -> Result<Vec<Target>> {
    let packages = metadata["packages"].as_array();
    let package = packages.and_then(|all| all.iter().find(|package| package["name"] == name));
    let package = package.with_context(|| format!("the workspace has no crate {name}"))?;
    let mut found = Vec::new();
    for target in package["targets"].as_array().into_iter().flatten() {
        let text = |key: &str| target[key].as_str().unwrap_or_default();
        let main = Path::new(text("src_path"));
        let kind = target["kind"][0].as_str().unwrap_or_default();
        let option = match kind {
            "bin" | "test" => vec![format!("--{kind}"), text("name").to_owned()],
            "bench" | "example" | "custom-build" => continue,
            _ => vec!["--lib".to_owned()],
        };
        let tests = tests(main)?;
        found.push(Target { option, tests });
    }
    Ok(found)
}

/// What cargo knows of the workspace; nothing is built or fetched for that.
pub fn metadata(cargo: Cmd) -> Result<Value> {
    let asked = cargo.args([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let output = asked.capture()?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("`{}` failed: {said}", asked.line())
    })
}

/// The tests of the program whose first file is `main`: there, and in the modules that it names.
pub fn tests(main: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let dir = main.parent().unwrap_or(Path::new("."));
    module(main, dir, "", &mut names)?;
    names.sort();
    Ok(names)
}

/// Adds the tests of the module in `file`, whose own modules are in `dir`.
fn module(file: &Path, dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    let text = read(file)?;
    names.extend(of(&text).into_iter().map(|name| format!("{prefix}{name}")));
    let mut at = None;
    for line in text.lines() {
        let path = line
            .strip_prefix("#[path = \"")
            .and_then(|rest| rest.strip_suffix("\"]"));
        if let Some(path) = path {
            at = file.parent().map(|dir| dir.join(path));
            continue;
        }
        let item = line.rsplit_once("pub").map_or(line, |(_, item)| item);
        let item = item
            .trim_start_matches("(crate)")
            .trim_start_matches("(super)")
            .trim_start();
        let Some(name) = item
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        let below = dir.join(name);
        let places = [dir.join(format!("{name}.rs")), below.join("mod.rs")];
        let place = at
            .take()
            .or_else(|| places.into_iter().find(|place| place.exists()));
        let prefix = format!("{prefix}{name}::");
        if let Some(place) = place.filter(|place| place.exists()) {
            module(&place, &below, &prefix, names)?;
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The tests in one file's text, with the modules that they are in there.
fn of(text: &str) -> Vec<String> {
    let mut modules: Vec<(usize, &str)> = Vec::new();
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines() {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if bare.is_empty() {
            continue;
        }
        modules.retain(|(outer, _)| *outer < indent || bare == "}" && *outer == indent);
        let item = bare.strip_prefix("pub ").unwrap_or(bare);
        let word = |rest: &'static str| {
            let rest = item.strip_prefix(rest)?;
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
        };
        if bare == "#[test]" {
            marked = true;
        } else if let Some(name) = word("mod ").filter(|_| bare.ends_with('{')) {
            modules.push((indent, name));
        } else if let Some(name) = word("fn ").filter(|_| marked) {
            let path: String = modules
                .iter()
                .map(|(_, part)| format!("{part}::"))
                .collect();
            names.push(format!("{path}{name}"));
            marked = false;
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_macros() {
        let text = "#[test]\nfn a() {\n}\n\nmod x {\n    #[test]\n    #[should_panic]\n    fn b() {}\n    fn no() {}\n\
                    \n    mod y {\n        proptest! {\n            #[test]\n            fn c(v in 0..3) {}\n        }\n    }\n\
                    }\n\n#[test]\nfn d() {}\n";
        assert_eq!(of(text), ["a", "x::b", "x::y::c", "d"]);
    }

    #[test]
    fn the_sources_have_the_names_that_libtest_has() {
        let own = std::env::current_exe().unwrap();
        let listed = Cmd::new(own).arg("--list").capture().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        let mut listed: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .collect();
        listed.sort_unstable();
        let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
        assert_eq!(tests(&main).unwrap(), listed);
    }
}
