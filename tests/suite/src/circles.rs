//! No two files need each other in a circle: each can be read with only what it stands on in mind.
//!
//! The rule, for each target of a crate. A file needs another if it names, in a `use` or in a path, something that is in that file's
//! module: by `crate::`, `self::`, `super::`, or by the name of a module that it declares. Three things don't count:
//! - `mod child;`, and a `pub use` of what is in a module below, which the file does not use itself: such a file is a list. Who
//!   imports by the list needs the file that the name comes from, not the list.
//! - What is for tests alone (`#[cfg(test)] mod …`): these may use all that there is.
//! - Methods and fields, which need no path: whoever gives a value its type was counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, Macro, UseTree, Visibility};

use crate::cargo::cargo;
use crate::sources;

/// A module's path or a name's, from the root of its crate.
type Name = Vec<String>;

/// What one file says of others.
#[derive(Debug, Default)]
struct File {
    path: PathBuf,
    /// What it uses.
    uses: BTreeSet<Name>,
    /// What it hands on from modules below it, by the name that this has here.
    lists: BTreeMap<String, Name>,
}

/// The files of a crate's target, by their modules.
type Files = BTreeMap<Name, File>;

/// Reads the file of `module`, whose own modules are in `dir`, and all files below.
fn read(files: &mut Files, path: &Path, dir: &Path, module: &[String]) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parsed = syn::parse_file(&text)
        .with_context(|| format!("{} can't be understood", path.display()))?;
    let mut reader = Reader::new(module, &parsed.items);
    reader.visit_file(&parsed);
    let below = std::mem::take(&mut reader.below);
    let file = reader.file(path);
    files.insert(module.to_vec(), file);
    for (name, named) in below {
        let dir_of = dir.join(&name);
        let places = match named {
            Some(named) => vec![path.with_file_name(named)],
            None => vec![dir.join(format!("{name}.rs")), dir_of.join("mod.rs")],
        };
        let place = places.iter().find(|place| place.exists());
        let place = place.with_context(|| format!("{} has no module {name}", path.display()))?;
        let dir_of = if place.ends_with("mod.rs") {
            place.parent().unwrap_or(dir).to_owned()
        } else {
            dir_of
        };
        read(files, place, &dir_of, &[module, &[name]].concat())?;
    }
    Ok(())
}

/// Goes through one file.
struct Reader {
    /// The module of the file.
    top: Name,
    /// The module that it is in now.
    module: Name,
    /// The modules that the file declares: their names, for `use` and paths.
    children: BTreeSet<String>,
    /// Those that are files, with `#[path]` where there is one.
    below: Vec<(String, Option<String>)>,
    uses: BTreeSet<Name>,
    lists: BTreeMap<String, Name>,
    /// The first names of all paths: whether a listed name is used here, too.
    first: BTreeSet<String>,
}

impl Reader {
    fn new(module: &[String], items: &[syn::Item]) -> Self {
        let children = items.iter().filter_map(|item| match item {
            syn::Item::Mod(item) => Some(item.ident.to_string()),
            _ => None,
        });
        Self {
            top: module.to_vec(),
            module: module.to_vec(),
            children: children.collect(),
            below: Vec::new(),
            uses: BTreeSet::new(),
            lists: BTreeMap::new(),
            first: BTreeSet::new(),
        }
    }

    fn file(self, path: &Path) -> File {
        let used = self
            .lists
            .iter()
            .filter(|(name, _)| self.first.contains(*name));
        let used: Vec<Name> = used.map(|(_, from)| from.clone()).collect();
        let mut uses = self.uses;
        uses.extend(used);
        File {
            path: path.to_owned(),
            uses,
            lists: self.lists,
        }
    }

    /// A path of this file from the root of the crate; `None` if it does not lead to a module of this crate.
    fn absolute(&self, path: &[String]) -> Option<Name> {
        let mut module = self.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                module.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {}
            child if self.module == self.top && self.children.contains(child) => {}
            _ => return None,
        }
        while let Some(("super", left)) = rest.split_first().map(|(a, b)| (a.as_str(), b)) {
            module.pop()?;
            rest = left;
        }
        module.extend(rest.iter().filter(|part| *part != "self").cloned());
        Some(module)
    }

    fn path(&mut self, path: &[String]) {
        self.first.extend(path.first().cloned());
        // A word alone is a variable or an imported name.
        if path.len() > 1 {
            self.uses.extend(self.absolute(path));
        }
    }
}

impl Visit<'_> for Reader {
    fn visit_item_mod(&mut self, item: &ItemMod) {
        if item.attrs.iter().any(is_for_tests) {
            return;
        }
        let name = item.ident.to_string();
        if item.content.is_none() {
            self.below.push((name, named(&item.attrs)));
            return;
        }
        self.module.push(name);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        let mut leaves = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            let Some(from) = self.absolute(&path) else {
                continue;
            };
            let handed_on = !matches!(item.vis, Visibility::Inherited);
            if handed_on && from.starts_with(&self.top) {
                self.lists.insert(name, from);
            } else {
                self.uses.insert(from);
            }
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.path(&parts);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &Macro) {
        // Nobody but the macro knows what these tokens are: all that has the form of a path counts.
        let text = item.tokens.to_string().replace(" :: ", "::");
        let word = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
        for path in text.split(word) {
            let parts: Vec<String> = path.split("::").map(str::to_owned).collect();
            self.path(&parts);
        }
        visit::visit_macro(self, item);
    }
}

/// Whether this is `#[cfg(test)]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let list = attribute.meta.require_list();
    list.is_ok_and(|list| list.path.is_ident("cfg") && list.tokens.to_string() == "test")
}

/// The file of `#[path = "…"]`.
fn named(attributes: &[Attribute]) -> Option<String> {
    let values = attributes
        .iter()
        .filter_map(|a| a.meta.require_name_value().ok());
    let value = &values.into_iter().find(|v| v.path.is_ident("path"))?.value;
    match value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) => Some(text.value()),
        _ => None,
    }
}

/// Every path of a `use`, and the name that it has here.
fn flatten(tree: &UseTree, before: &mut Name, leaves: &mut Vec<(Name, String)>) {
    let leaf = |last: Option<String>| before.iter().cloned().chain(last).collect();
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, leaves);
            before.pop();
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            leaves.push((leaf(Some(name.clone())), name));
        }
        UseTree::Rename(name) => {
            leaves.push((leaf(Some(name.ident.to_string())), name.rename.to_string()));
        }
        UseTree::Glob(_) => leaves.push((leaf(None), "*".to_owned())),
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, leaves);
            }
        }
    }
}

/// The module that has `name`: the longest part of it that is a file, or where that file's list has it from.
fn home<'a>(files: &'a Files, name: &[String]) -> Option<&'a Name> {
    let parts = (0..=name.len()).rev();
    let (module, file) = parts
        .filter_map(|n| files.get_key_value(&name[..n]))
        .next()?;
    let listed = name.get(module.len()).and_then(|next| file.lists.get(next));
    match listed {
        // A list has names of modules below it only, so this ends.
        Some(from) if from.len() > module.len() + 1 => home(files, from),
        _ => Some(module),
    }
}

/// The shortest circle through each file that is on one.
fn circles(files: &Files) -> BTreeSet<Vec<&Path>> {
    let needs: BTreeMap<&Name, BTreeSet<&Name>> = files
        .iter()
        .map(|(module, file)| {
            let homes = file.uses.iter().filter_map(|name| home(files, name));
            (module, homes.filter(|other| *other != module).collect())
        })
        .collect();
    let mut found = BTreeSet::new();
    for start in files.keys() {
        let mut from: BTreeMap<&Name, &Name> = BTreeMap::new();
        let mut next = VecDeque::from([start]);
        while let Some(module) = next.pop_front().filter(|_| !from.contains_key(start)) {
            for other in &needs[module] {
                if !from.contains_key(other) {
                    from.insert(other, module);
                    next.push_back(other);
                }
            }
        }
        let mut circle = Vec::new();
        let mut at = from.get(start);
        while let Some(module) = at {
            circle.push(files[*module].path.as_path());
            at = from.get(module).filter(|_| *module != start);
        }
        circle.reverse();
        // Each of its files finds it again.
        let first = circle.iter().enumerate().min_by_key(|(_, path)| **path);
        let first = first.map_or(0, |(at, _)| at);
        circle.rotate_left(first);
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found
}

/// The circles of the target whose first file is `main`, a line each.
fn of(main: &Path) -> Result<Vec<String>> {
    let mut files = Files::new();
    let dir = main.parent().unwrap_or(Path::new("."));
    read(&mut files, main, dir, &[])?;
    let circles = circles(&files);
    let name = |path: &&Path| path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let line = |circle: &Vec<&Path>| {
        let names: Vec<String> = circle.iter().chain(circle.first()).map(name).collect();
        names.join(" -> ")
    };
    Ok(circles.iter().map(line).collect())
}

/// The kernel module, which cargo does not know.
const KERNEL: (&str, &str) = ("ib_emm.ko", "kernel/ib_emm/main.rs");
/// Not asked yet: in emm-check the lists of the cases and the cases need each other.
const LEFT_OUT: &str = "emm-check";

#[test]
fn no_two_files_need_each_other_in_a_circle() {
    let metadata = sources::metadata(cargo()).unwrap();
    let kernel = soft_roce_setup::build::workspace().join(KERNEL.1);
    let mut mains = vec![(KERNEL.0, kernel)];
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let targets = package["targets"].as_array().unwrap();
        let paths = targets
            .iter()
            .map(|t| PathBuf::from(t["src_path"].as_str().unwrap()));
        mains.extend(paths.map(|path| (name, path)));
    }
    let mut found = Vec::new();
    for (name, main) in mains.iter().filter(|main| main.0 != LEFT_OUT) {
        let circles = of(main).unwrap();
        found.extend(
            circles
                .into_iter()
                .map(|circle| format!("{name}: {circle}")),
        );
    }
    assert!(found.is_empty(), "in a circle:\n{}", found.join("\n"));
}

/// The circles of a crate with these files.
fn planted(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    of(&dir.path().join("lib.rs")).unwrap()
}

#[test]
fn circles_are_found() {
    let lib = ("lib.rs", "mod a;\nmod b;\nmod c;\n");
    let a = ("a.rs", "use crate::{b::{self, B}, c};\n");
    let b = (
        "b.rs",
        "use std::fmt;\npub struct B;\nfn f() -> super::c::C { todo!() }\n",
    );
    let c = ("c.rs", "pub struct C;\n");
    assert_eq!(planted(&[lib, a, b, c]), [""; 0]);
    // Three files; in a macro, as the last one does it.
    let c = (
        "c.rs",
        "pub struct C;\nfn f() { println!(\"{}\", crate::a::f()) }\n",
    );
    let circles = ["a.rs -> b.rs -> c.rs -> a.rs", "a.rs -> c.rs -> a.rs"];
    assert_eq!(planted(&[lib, a, b, c]), circles);
    // What is for tests alone does not count.
    let c = (
        "c.rs",
        "pub struct C;\n#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n",
    );
    assert_eq!(planted(&[lib, a, b, c]), [""; 0]);
    // In a module of its own within the file, it does.
    let c = (
        "c.rs",
        "pub struct C;\nmod inner {\n    use super::super::a;\n}\n",
    );
    assert_eq!(planted(&[lib, a, b, c]), circles);
}

#[test]
fn a_list_is_on_no_circle() {
    let lib = ("lib.rs", "mod p;\npub use p::X;\n");
    let list = "mod x;\nmod y;\npub use self::{x::X, y::Y};\n";
    let x = ("p/x.rs", "use super::Y;\npub struct X;\n");
    let y = ("p/y.rs", "pub struct Y;\n");
    assert_eq!(planted(&[lib, ("p/mod.rs", list), x, y]), [""; 0]);
    // By way of the list of a list.
    let y_with_x = ("p/y.rs", "use crate::X;\npub struct Y;\n");
    let circle = "p/x.rs -> p/y.rs -> p/x.rs";
    assert_eq!(planted(&[lib, ("p/mod.rs", list), x, y_with_x]), [circle]);
    // A parent with something of its own is no list, if it uses what is below.
    let own = format!("{list}pub struct Own;\n");
    let y_with_own = ("p/y.rs", "use super::Own;\npub struct Y;\n");
    assert_eq!(planted(&[lib, ("p/mod.rs", &own), x, y_with_own]), [""; 0]);
    let circle = "p/mod.rs -> p/y.rs -> p/mod.rs";
    for used in ["fn f() { y::f() }\n", "fn f(_: Y) {}\n"] {
        let own = format!("{own}{used}");
        assert_eq!(planted(&[lib, ("p/mod.rs", &own), x, y_with_own]), [circle]);
    }
}
