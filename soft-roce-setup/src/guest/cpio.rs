//! A writer for the one archive format that the kernel unpacks as its first file system: cpio "newc".

/// Alignment of names and data in the archive.
const ALIGN: usize = 4;
const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory. Its parents must have been added before.
    pub fn dir(&mut self, path: &str) {
        self.entry(path, DIR | 0o755, &[]);
    }

    /// Adds a file with the permissions `mode`.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entry(path, FILE | mode, data);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        let links = if mode & DIR != 0 { 2 } else { 1 };
        self.bytes.extend_from_slice(b"070701");
        let size = u32::try_from(data.len()).expect("a file of an initramfs is below 4 GiB");
        let name = u32::try_from(path.len() + 1).expect("a path is short");
        // inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), name, check
        for field in [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name,
            0,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.entries += 1;
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        let end = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive as the kernel does: name, mode and data of every entry.
    fn read(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let field = |n: usize| {
                let from = at + 6 + n * 8;
                let text = std::str::from_utf8(&bytes[from..from + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, size, name_len) = (field(1), field(6) as usize, field(11) as usize);
            let name = &bytes[at + 110..at + 110 + name_len - 1];
            let name = String::from_utf8(name.to_vec()).unwrap();
            let data = (at + 110 + name_len).next_multiple_of(4);
            at = (data + size).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(at, bytes.len());
                return found;
            }
            found.push((name, mode, bytes[data..data + size].to_vec()));
        }
    }

    #[test]
    fn entries_come_back() {
        let mut archive = Archive::default();
        archive.dir("bin");
        archive.file("bin/sh", 0o755, b"\x7fELF\0");
        archive.file("empty", 0o644, b"");
        let found = read(&archive.finish());
        assert_eq!(
            found,
            [
                ("bin".to_owned(), 0o040_755, vec![]),
                ("bin/sh".to_owned(), 0o100_755, b"\x7fELF\0".to_vec()),
                ("empty".to_owned(), 0o100_644, vec![]),
            ]
        );
    }

    #[test]
    fn every_length_is_padded() {
        for len in 0..9 {
            let mut archive = Archive::default();
            let name = "n".repeat(len + 1);
            archive.file(&name, 0o600, &vec![7; len]);
            assert_eq!(
                read(&archive.finish()),
                [(name, 0o100_600, vec![7; len])],
                "{len}"
            );
        }
    }
}
