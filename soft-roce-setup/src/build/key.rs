//! Keys: a hash of everything that a step's result depends on.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Collects inputs. Each is stored with its length, so that no two lists of inputs look alike.
#[derive(Debug)]
pub struct Key(Sha256);

impl Key {
    /// A key for the step `name`; `recipe` is a number that grows when the step's own doing changes.
    pub fn new(name: &str, recipe: u32) -> Self {
        Self(Sha256::new()).text(name).text(&recipe.to_string())
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.bytes(text.as_bytes());
        self
    }

    /// Adds a file's content, or all of a folder: names and contents, in order, without hidden files.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        self.tree(path)
            .with_context(|| format!("cannot read the source {}", path.display()))?;
        Ok(self)
    }

    /// The key, as text.
    pub fn finish(self) -> String {
        self.0
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn tree(&mut self, path: &Path) -> io::Result<()> {
        if !path.is_dir() {
            let mut file = File::open(path)?;
            self.0.update(file.metadata()?.len().to_le_bytes());
            io::copy(&mut file, &mut self.0)?;
            return Ok(());
        }
        let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            if name.as_bytes().starts_with(b".") || name == "target" {
                continue;
            }
            self.bytes(name.as_bytes());
            self.tree(&entry.path())?;
        }
        // The end of a folder counts too.
        self.bytes(b"");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_inputs_do_not_look_alike() {
        let one = Key::new("a", 1).text("bc").text("d").finish();
        assert_eq!(one, Key::new("a", 1).text("bc").text("d").finish());
        assert_ne!(one, Key::new("a", 1).text("b").text("cd").finish());
        assert_ne!(one, Key::new("a", 2).text("bc").text("d").finish());
        assert_eq!(one.len(), 32);
    }

    #[test]
    fn a_tree_is_its_names_and_contents() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "x").unwrap();
        let key = || Key::new("t", 1).path(dir).unwrap().finish();
        let first = key();
        fs::write(dir.join(".hidden"), "y").unwrap();
        assert_eq!(first, key());
        fs::write(dir.join("sub/file"), "y").unwrap();
        let second = key();
        assert_ne!(first, second);
        fs::rename(dir.join("sub/file"), dir.join("file")).unwrap();
        assert_ne!(second, key());
    }
}
