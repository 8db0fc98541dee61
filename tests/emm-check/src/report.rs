//! What the program says: one line per fact, for people or as JSON.

use std::sync::Mutex;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use crate::system::Kind;

/// Collects and prints facts.
pub struct Report {
    json: bool,
    odp_is_repaired: bool,
    start: Instant,
    last: Mutex<Instant>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    known: u32,
    skipped: u32,
}

impl Report {
    /// A report in JSON lines or in text. In-tree on-demand paging is known to be wrong, unless it is the repaired one.
    pub fn new(json: bool, odp_is_repaired: bool) -> Self {
        Self {
            json,
            odp_is_repaired,
            start: Instant::now(),
            last: Mutex::new(Instant::now()),
            counts: Mutex::default(),
        }
    }

    /// Whether regions of this kind have to be right.
    pub fn requires(&self, kind: Kind) -> bool {
        kind.resolve() != Kind::Odp || self.odp_is_repaired
    }

    fn print(&self, text: &str, value: &Value) {
        if self.json {
            println!("{value}");
        } else {
            println!("{text}");
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Seconds since the last call, to one decimal.
    fn lap(&self) -> f64 {
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let secs = last.elapsed().as_secs_f64();
        *last = Instant::now();
        (secs * 10.0).round() / 10.0
    }

    /// A line that is no fact of its own.
    pub fn say(&self, text: &str, value: &Value) {
        self.print(text, value);
    }

    /// A headline.
    pub fn phase(&self, name: &str) {
        self.lap();
        self.print(&format!("== {name}"), &json!({"t": "phase", "name": name}));
    }

    /// A fact: `value` gets `ok` and `required`; one that is not required is a known weakness of what it is about.
    pub fn fact(&self, ok: bool, required: bool, text: &str, mut value: Value) {
        value["ok"] = json!(ok);
        value["required"] = json!(required);
        let mark = match (ok, required) {
            (true, _) => "ok   ",
            (false, true) => "FAIL ",
            (false, false) => "known",
        };
        {
            let mut counts = self.counts();
            match (ok, required) {
                (true, _) => counts.passed += 1,
                (false, true) => counts.failed += 1,
                (false, false) => counts.known += 1,
            }
        }
        self.print(&format!("{mark} {text}"), &value);
    }

    /// One case of an event.
    pub fn case(
        &self,
        mr: &str,
        event: &str,
        case: &str,
        required: bool,
        outcome: Result<String>,
    ) -> bool {
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(e) => (false, format!("{e:#}")),
        };
        let secs = self.lap();
        let text = format!("{mr:6} {event}: {case}: {detail} ({secs} s)");
        self.fact(
            ok,
            required,
            &text,
            json!({"t": "event", "mr": mr, "event": event, "case": case, "detail": detail, "secs": secs}),
        );
        ok
    }

    /// Something that was not done; a required one counts as failure.
    pub fn skip(&self, what: &str, reason: &str, required: bool) {
        {
            let mut counts = self.counts();
            counts.skipped += 1;
            counts.failed += u32::from(required);
        }
        let mark = if required { "FAIL " } else { "skip " };
        self.print(
            &format!("{mark} {what}: {reason}"),
            &json!({"t": "skip", "what": what, "reason": reason, "required": required}),
        );
    }

    /// The last line. Returns whether every required fact held.
    pub fn verdict(&self) -> bool {
        let c = self.counts();
        let ok = c.failed == 0;
        let secs = (self.start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let text = format!(
            "{}: {} passed, {} failed, {} known wrong, {} skipped in {secs} s",
            if ok { "PASS" } else { "FAIL" },
            c.passed,
            c.failed,
            c.known,
            c.skipped
        );
        self.print(
            &text,
            &json!({"t": "verdict", "ok": ok, "passed": c.passed, "failed": c.failed, "known": c.known, "skipped": c.skipped, "secs": secs}),
        );
        ok
    }
}
