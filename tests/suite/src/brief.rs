//! What a test printed, short enough for a report: long lines are cut, and of a suite that ran several times, what all runs
//! say of a test is counted instead of repeated.

use std::collections::{BTreeMap, BTreeSet};

/// The longest line, in characters.
const WIDTH: usize = 160;

/// The text, shortened.
pub fn brief(text: &str) -> String {
    let runs: BTreeSet<&str> = text.lines().filter_map(run).collect();
    let of_run = |line| -> Option<&str> {
        let (name, said) = str::split_once(line, ": ")?;
        (runs.contains(name) && run(line).is_none()).then_some(said)
    };
    let mut said = BTreeMap::new();
    for text in text.lines().filter_map(of_run) {
        *said.entry(text).or_insert(0) += 1;
    }
    let common = |text| runs.len() > 1 && said[text] == runs.len();
    let mut lines: Vec<String> = text
        .trim_end()
        .lines()
        .filter(|line| !of_run(line).is_some_and(common))
        .map(cut)
        .collect();
    match said.keys().filter(|text| common(text)).count() {
        0 => {}
        n => lines.push(format!("(and {n} lines that all {} runs have)", runs.len())),
    }
    lines.join("\n")
}

/// The run whose sum this line is: `Shim: 390 tests, 142 passed, …`.
fn run(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(": ")?;
    let (tests, rest) = rest.split_once(" tests, ")?;
    (tests.parse::<u32>().is_ok() && rest.contains(" passed")).then_some(name)
}

fn cut(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH - 2).chain(" …".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_runs_say_is_counted() {
        let text = "Asked: 3 tests, 1 passed, 2 skipped, 0 failed\nShim: 3 tests, 0 passed, 2 skipped, 1 failed\n\
                    Asked: t.a: no XRC\nAsked: t.b: no DM\nShim: t.a: no XRC\nShim: t.b: no DM\nShim: t.c: wrong\nother: x\n";
        assert_eq!(
            brief(text),
            "Asked: 3 tests, 1 passed, 2 skipped, 0 failed\nShim: 3 tests, 0 passed, 2 skipped, 1 failed\n\
             Shim: t.c: wrong\nother: x\n(and 2 lines that all 2 runs have)"
        );
    }

    #[test]
    fn one_run_says_all() {
        let text = "Asked: 1 tests, 0 passed, 1 skipped\nAsked: t.a: no XRC";
        assert_eq!(brief(text), text);
    }

    #[test]
    fn long_lines_are_cut() {
        let short = brief(&"ä".repeat(2 * WIDTH));
        assert_eq!(short.chars().count(), WIDTH);
        assert!(short.ends_with(" …"));
        assert_eq!(brief("x"), "x");
    }
}
