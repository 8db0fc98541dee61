//! The kernel's fault injection: the n-th allocation of this thread, or every n-th below a function of a module, by whomever.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::mem::PAGE;
use crate::system;

/// The count of this thread: the allocation that makes it 0 fails.
const NTH: &str = "/proc/thread-self/fail-nth";
const DEBUGFS: &str = "/sys/kernel/debug";
/// Slab objects, and pages.
const SITES: [&str; 2] = ["failslab", "fail_page_alloc"];
const SYMBOLS: &str = "/proc/kallsyms";

/// Fault injection, set up to fail nothing until asked. Dropped, it fails nothing again.
pub struct Faults {
    nth: File,
    module: Range<u64>,
}

impl Faults {
    /// Sets it up; `module` is whose allocations [`Self::below_module`] means.
    ///
    /// # Errors
    ///
    /// What of it this kernel lacks.
    pub fn new(module: &str) -> Result<Self> {
        system::debugfs()?;
        for site in SITES {
            let require = Path::new(DEBUGFS).join(site).join("require-start");
            if !require.exists() {
                bail!(
                    "{} is missing: this kernel has no fault injection with a stack filter (the debug kernel has)",
                    require.display()
                );
            }
        }
        let nth = OpenOptions::new()
            .read(true)
            .write(true)
            .open(NTH)
            .with_context(|| format!("opening {NTH}"))?;
        let text = fs::read_to_string(SYMBOLS).with_context(|| format!("reading {SYMBOLS}"))?;
        let module = code_of(module, &text)
            .with_context(|| format!("{SYMBOLS} has no function of {module}"))?;
        let this = Self { nth, module };
        this.off()?;
        // Each allocation is asked about: those that may wait and those of user pages too.
        for (site, name, value) in [
            ("failslab", "ignore-gfp-wait", "N"),
            ("fail_page_alloc", "ignore-gfp-wait", "N"),
            ("fail_page_alloc", "ignore-gfp-highmem", "N"),
            ("fail_page_alloc", "min-order", "0"),
        ] {
            set(site, name, value)?;
        }
        for site in SITES {
            set(site, "verbose", "0")?;
            set(site, "times", "-1")?;
            set(site, "space", "0")?;
            set(site, "task-filter", "N")?;
            set(site, "stacktrace-depth", "32")?;
        }
        Ok(this)
    }

    /// From now on only allocations below a function of the module count; or all.
    pub fn below_module(&self, only: bool) -> Result<()> {
        let range = if only {
            self.module.clone()
        } else {
            0..u64::MAX
        };
        for site in SITES {
            set(site, "require-start", &format!("{:#x}", range.start))?;
            set(site, "require-end", &format!("{:#x}", range.end))?;
        }
        Ok(())
    }

    /// Fails the `n`-th allocation of this thread in `work` (from 1).
    ///
    /// # Returns
    ///
    /// What `work` said, and whether there was such an allocation.
    pub fn nth<R>(&self, n: u32, work: impl FnOnce() -> R) -> Result<(R, bool)> {
        let digits = n.to_string();
        self.nth
            .write_at(digits.as_bytes(), 0)
            .with_context(|| format!("writing {n} to {NTH}"))?;
        let said = work();
        let mut text = [0; 16];
        let read = self.nth.read_at(&mut text, 0);
        self.nth
            .write_at(b"0", 0)
            .with_context(|| format!("writing 0 to {NTH}"))?;
        let text = &text[..read.with_context(|| format!("reading {NTH}"))?];
        let left: u32 = std::str::from_utf8(text)?
            .trim_matches(['\0', '\n', ' '])
            .parse()
            .with_context(|| format!("{NTH} says {text:?}"))?;
        Ok((said, left == 0))
    }

    /// Fails every `n`-th allocation below the module, in each task, during `work`.
    pub fn every<R>(&self, n: u32, work: impl FnOnce() -> R) -> Result<R> {
        self.below_module(true)?;
        for site in SITES {
            set(site, "interval", &n.to_string())?;
            set(site, "probability", "100")?;
        }
        let said = work();
        self.off()?;
        Ok(said)
    }

    /// Fails one of the first `n` allocations below the module, of slab objects or of pages, during `work`.
    ///
    /// # Returns
    ///
    /// What `work` said, and whether there were as many.
    pub fn once<R>(&self, n: u32, work: impl FnOnce() -> R) -> Result<(R, bool)> {
        for site in SITES {
            set(site, "times", "1")?;
        }
        let said = self.every(n, work);
        let mut injected = false;
        for site in SITES {
            injected |= left(site)? == 0;
            set(site, "times", "-1")?;
        }
        Ok((said?, injected))
    }

    fn off(&self) -> Result<()> {
        for site in SITES {
            set(site, "probability", "0")?;
            set(site, "interval", "1")?;
        }
        self.below_module(false)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.off().ok();
    }
}

fn set(site: &str, name: &str, value: &str) -> Result<()> {
    let path = Path::new(DEBUGFS).join(site).join(name);
    fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
}

/// How many failures are left.
fn left(site: &str) -> Result<i64> {
    let path = Path::new(DEBUGFS).join(site).join("times");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let number = text.trim().parse();
    number.with_context(|| format!("{} says {text:?}", path.display()))
}

/// From the first function of a module to the end of the page of its last one. Another module begins on a page of its own.
fn code_of(module: &str, symbols: &str) -> Option<Range<u64>> {
    let end = format!("[{module}]");
    let addresses = symbols
        .lines()
        .filter(|line| line.ends_with(&end))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            matches!(words.next()?, "t" | "T").then_some(address)
        });
    let (first, last) = addresses.fold((u64::MAX, 0), |(a, b), at| (a.min(at), b.max(at)));
    (first != 0 && first <= last).then(|| first..(last + 1).next_multiple_of(PAGE as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_module_is_where_its_functions_are() {
        let text = "ffffffff81000000 T _text\n\
            ffffffffa0004010 t one\t[ib_emm]\n\
            ffffffffa0009ff0 d data\t[ib_emm]\n\
            ffffffffa0005fff T two\t[ib_emm]\n\
            ffffffffa0006000 t other\t[rdma_rxe]\n";
        assert_eq!(
            code_of("ib_emm", text),
            Some(0xffff_ffff_a000_4010..0xffff_ffff_a000_6000)
        );
        assert_eq!(code_of("none", text), None);
        // What a user without the right to see addresses reads.
        assert_eq!(code_of("x", "0000000000000000 t one\t[x]\n"), None);
    }
}
