//! The table as a page of the documentation, from the facts of a run.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::system;

const HEAD: &str = "\
# Programs that run unpinned, unchanged

Each program of this table runs twice on `rxe0`: as root without limits, its memory pinned as it asks for it; and as uid 1000 with
`RLIMIT_MEMLOCK` 0 and no capability, started by `verbs-shim run`. All processes of a program are looked at every 10 ms; the most that
any of them had is shown. Between two looks the kernel watches: with that limit a page that is to be pinned is an error. The entry points
are those that the shim met. A program compares what it receives where that is said; every byte of regions of ours is compared by
`emm-check verify` and `emm-check event`.

Written by these commands, from their own results; the first one builds the Rust program, which only tests need:
```
cargo run -r -- test programs::Rust
cargo run -r -- run --share \"$PWD/docs:/docs\" --share ~/.cache/ib-emm/programs:/programs:ro -- emm-check programs --page /docs/programs.md
```
";

const COMPARES: &str = "\
Which compare data: `ibv_*_pingpong` (`-c`), `rping` (`-V`), `rstream` and `riostream` (`-T v`), `fi_pingpong` (`-c`), qperf's
`ver_rc_*`, pyverbs, the MPI program (`tests/programs/mpi_collectives.c`: broadcast, allgather, alltoall, allreduce, sendrecv, put and
get, 1 to 200,001 bytes at odd addresses with guard bytes), and the Rust program (`tests/programs/ibverbs`: sends both ways of 1 byte to
1 MiB at odd offsets with guard bytes). perftest, ucx_perftest, ucmatose and udaddy compare nothing.
";

/// Writes it.
pub fn write(path: &Path, facts: &[Value]) -> Result<()> {
    let text = format!(
        "{HEAD}\nKernel {}, {}.\n\n{}\n{COMPARES}{}",
        system::kernel(),
        system::run("date", &["-u", "+%Y-%m-%d"])?.trim(),
        table(facts),
        failures(facts)
    );
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn text<'a>(fact: &'a Value, key: &str) -> &'a str {
    fact[key].as_str().unwrap_or("")
}

fn table(facts: &[Value]) -> String {
    let mut lines = vec![
        "| program | version | registers by | pinned | VmPin KiB | unpinned | VmPin, VmLck KiB |"
            .to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for pinned in facts.iter().filter(|f| text(f, "mr") == "pinned") {
        let same = |f: &&Value| {
            text(f, "program") == text(pinned, "program") && text(f, "mr") == "unpinned"
        };
        lines.push(line(pinned, facts.iter().find(same)));
    }
    lines.join("\n") + "\n"
}

fn line(pinned: &Value, unpinned: Option<&Value>) -> String {
    let version = match text(pinned, "package") {
        "" => "this repository".to_owned(),
        package => format!("{package} {}", text(pinned, "version")),
    };
    let (entries, result, memory) = match unpinned {
        None => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        Some(fact) => {
            let entries: Vec<String> = fact["entries"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|e| format!("`{}`", e.as_str().unwrap_or("")))
                .collect();
            let count = format!("{} ({} regions)", entries.join(", "), fact["on_demand"]);
            let memory = format!("{}, {}", fact["max_vmpin_kib"], fact["max_vmlck_kib"]);
            (count, outcome(fact), memory)
        }
    };
    let cells = [
        text(pinned, "program"),
        &version,
        &entries,
        &outcome(pinned),
        &pinned["max_vmpin_kib"].to_string(),
        &result,
        &memory,
    ];
    format!(
        "| {} |",
        cells.map(|cell| cell.replace('|', "/")).join(" | ")
    )
}

/// Rates of an emulated machine say nothing, so they are left out; what a program says in words is not.
fn outcome(fact: &Value) -> String {
    match (fact["ok"] == true, fact["works"] == true) {
        (false, _) => "FAILED".to_owned(),
        (true, false) => text(fact, "line").to_owned(),
        (true, true) if fact["value"].is_null() && !text(fact, "line").contains('=') => {
            format!("ok: {}", text(fact, "line"))
        }
        (true, true) => "ok".to_owned(),
    }
}

fn failures(facts: &[Value]) -> String {
    facts
        .iter()
        .filter(|f| f["ok"] == false)
        .map(|f| {
            format!(
                "\n{} ({}): {}\n",
                text(f, "program"),
                text(f, "mr"),
                text(f, "detail")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_has_both_ways() {
        let facts = [
            json!({"program": "p", "mr": "pinned", "package": "k", "version": "1", "ok": true, "works": true,
                   "value": null, "line": "7 pings", "max_vmpin_kib": 16}),
            json!({"program": "p", "mr": "unpinned", "ok": false, "works": true, "entries": ["ibv_reg_mr"], "on_demand": 3,
                   "max_vmpin_kib": 0, "max_vmlck_kib": 0, "detail": "a | b"}),
            json!({"program": "x", "mr": "pinned", "package": "", "ok": true, "works": false, "line": "not on rxe: no XRC",
                   "max_vmpin_kib": 0}),
        ];
        let table = table(&facts);
        assert!(
            table.contains(
                "| p | k 1 | `ibv_reg_mr` (3 regions) | ok: 7 pings | 16 | FAILED | 0, 0 |"
            ),
            "{table}"
        );
        assert!(
            table.contains("| x | this repository | - | not on rxe: no XRC | 0 | - | - |"),
            "{table}"
        );
        assert!(failures(&facts).contains("p (unpinned): a | b"));
    }
}
