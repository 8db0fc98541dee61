//! What a kernel has to have, or has in one of several forms: told by its configuration and its source, not by its version.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// What a stock kernel is configured with, and what for.
const CONFIGURED: [(&str, &str); 5] = [
    ("CONFIG_RUST=y", "ib_emm is written in Rust"),
    ("CONFIG_RDMA_RXE=m", "rdma_rxe is made of its own driver"),
    (
        "CONFIG_INFINIBAND_ON_DEMAND_PAGING=y",
        "regions are on-demand MRs",
    ),
    (
        "CONFIG_MMU_NOTIFIER=y",
        "ib_emm has to hear of invalidations",
    ),
    ("CONFIG_MODULES=y", "what is built here are modules"),
];
/// What would keep modules from loading that are built here: versions of symbols are not made.
const REFUSED: &str = "CONFIG_MODVERSIONS=y";
/// The compiler of the kernel's Rust code: its name is part of the names of all that is exported in Rust.
const COMPILER: &str = "CONFIG_RUSTC_VERSION_TEXT=";

/// Fails, in one line, if modules for a kernel of this configuration can't be built by this `rustc` (what `rustc --version` says).
pub fn require(release: &str, config: &str, rustc: &str) -> Result<()> {
    match lacks(config, rustc) {
        None => Ok(()),
        Some(what) => {
            bail!("the kernel {release} {what}\n  what to do: take another one with --kernel")
        }
    }
}

fn lacks(config: &str, rustc: &str) -> Option<String> {
    let has = |line: &str| config.lines().any(|own| own == line);
    if let Some((option, why)) = CONFIGURED.into_iter().find(|(option, _)| !has(option)) {
        return Some(format!("is built without {option}: {why}"));
    }
    if has(REFUSED) {
        return Some(format!(
            "is built with {REFUSED}: it takes no modules that are built without"
        ));
    }
    let own = config.lines().find_map(|line| line.strip_prefix(COMPILER));
    let own = own.unwrap_or_default().trim_matches('"');
    let rustc = rustc.trim();
    (own != rustc).then(|| {
        format!("was built by `{own}`, and the root has `{rustc}`: Rust code of one does not find that of the other")
    })
}

/// In a list of patches: the beginning of a line `# if FILE has TEXT`, or `# if FILE lacks TEXT`.
const IF: &str = "# if ";

/// Whether a list of patches is for this kernel source: what its lines that begin with `# if` say is so. Without such a line it is
/// for no source in particular.
pub fn is_for(list: &str, source: &Path) -> Result<bool> {
    let mut conditions = list
        .lines()
        .filter_map(|line| line.strip_prefix(IF))
        .peekable();
    if conditions.peek().is_none() {
        return Ok(false);
    }
    for condition in conditions {
        let mut words = condition.split_whitespace();
        let (Some(file), Some(verb), Some(text)) = (words.next(), words.next(), words.next())
        else {
            bail!("`{IF}{condition}`: a file, `has` or `lacks`, and a word are wanted");
        };
        let path = source.join(file);
        let code =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let holds = match verb {
            "has" => code.contains(text),
            "lacks" => !code.contains(text),
            _ => bail!("`{IF}{condition}`: neither `has` nor `lacks`"),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUSTC: &str = "rustc 1.85.1 (4eb161250 2025-03-15)";

    fn config() -> String {
        let options: String = CONFIGURED.map(|(option, _)| format!("{option}\n")).concat();
        format!("# CONFIG_MODVERSIONS is not set\n{options}{COMPILER}\"{RUSTC}\"\n")
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let good = config();
        let said = |config: &str| require("7.4.1", config, RUSTC).unwrap_err().to_string();
        require("7.4.1", &good, &format!("{RUSTC}\n")).unwrap();
        let no_rxe = said(&good.replace("CONFIG_RDMA_RXE=m", "# CONFIG_RDMA_RXE is not set"));
        assert!(no_rxe.starts_with("the kernel 7.4.1 is built without CONFIG_RDMA_RXE=m"));
        assert!(said(&format!("{good}{REFUSED}\n")).contains(REFUSED));
        let other = said(&good.replace("1.85.1", "1.92.0"));
        assert!(
            other.contains("`rustc 1.92.0") && other.contains(RUSTC),
            "{other}"
        );
    }

    #[test]
    fn a_list_asks_the_source() {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("include")).unwrap();
        fs::write(source.path().join("include/a.h"), "int new_form(void);\n").unwrap();
        let is = |list: &str| is_for(list, source.path());
        assert!(is("# if include/a.h has new_form\n0001-a.patch\n").unwrap());
        assert!(!is("# if include/a.h lacks new_form\n0001-a.patch\n").unwrap());
        let both = "# if include/a.h has new_form\n# if include/a.h has old_form\n";
        assert!(!is(both).unwrap());
        assert!(!is("# whatever\n0001-a.patch\n").unwrap());
        assert!(is("# if include/b.h has new_form\n").is_err());
        assert!(is("# if include/a.h\n").is_err());
        assert!(is("# if include/a.h likes it\n").is_err());
    }
}
