//! What in a guest's kernel log is a problem: panic, oops, warning, hung task, lockdep, KASAN and their like.
//!
//! kmemleak's "new suspected memory leaks" is none by itself: it counts what the whole kernel leaked or seems to have. Whether
//! an object is ours, its backtrace says, and `emm-check leaks` reads that.

/// Beginnings of a line, after its time, that start a report.
const BEGINS: &[&str] = &[
    "Kernel panic",
    "Oops",
    "BUG:",
    // A slab object that was written where it must not be: "BUG kmalloc-64 (Tainted: …): Poison overwritten".
    "BUG ",
    "kernel BUG at",
    "WARNING:",
    "general protection fault",
    "Unable to handle",
    "double fault",
    "UBSAN:",
    "DEADLOCK",
    "watchdog: BUG:",
    "[ BUG:",
    "list_add corruption",
    "list_del corruption",
    "rust_kernel: panicked",
    "INFO: possible ",
    "INFO: trying to register non-static key",
    "INFO: Slab ",
    "INFO: Object ",
    "ODEBUG:",
    "DEBUG_LOCKS_WARN_ON",
    "page dumped because:",
    "refcount_t:",
    "kasan:",
];

/// Pairs that start a report when both are in a line, in this order.
const PAIRS: &[(&str, &str)] = &[
    ("INFO: task ", "blocked for more than"),
    ("INFO: task ", "blocked in I/O wait for more than"),
    ("rcu: INFO:", "stall"),
    ("INFO: rcu", "stall"),
    ("watchdog:", "LOCKUP"),
];

/// Lines that look like the start of a report and are none.
const HARMLESS: &[&str] = &["kasan: KernelAddressSanitizer initialized"];

/// Beginnings of the line that closes a report.
const ENDS: &[&str] = &["---[ end "];

/// A line of the console without its time and its thread.
pub fn message(line: &str) -> &str {
    let mut rest = line.trim_end_matches('\r');
    // "[   12.345678] [  T123] text", the second part only with CONFIG_PRINTK_CALLER.
    for _ in 0..2 {
        let Some((stamp, after)) = rest
            .strip_prefix('[')
            .and_then(|inner| inner.split_once(']'))
        else {
            break;
        };
        let stamp = stamp.trim();
        let stamped = !stamp.is_empty()
            && stamp
                .trim_start_matches(['T', 'C'])
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !stamped {
            break;
        }
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    rest
}

/// Whether this line of the console starts a report.
pub fn starts(line: &str) -> bool {
    let text = message(line);
    if HARMLESS.iter().any(|known| text.starts_with(known)) {
        return false;
    }
    BEGINS.iter().any(|begin| text.starts_with(begin))
        || PAIRS.iter().any(|(first, then)| {
            text.find(first)
                .is_some_and(|at| text[at + first.len()..].contains(then))
        })
}

/// Whether this line of the console ends a report.
pub fn ends(line: &str) -> bool {
    let text = message(line);
    ENDS.iter().any(|end| text.starts_with(end))
}

/// Lines kept before the one that starts a report.
const BEFORE: usize = 4;
/// Most lines of a report that are kept.
const MOST: usize = 160;

/// Collects the first report of a log from its lines, as they come.
#[derive(Debug, Default)]
pub struct Collector {
    before: Vec<String>,
    report: Vec<String>,
    closed: bool,
}

impl Collector {
    /// Takes the next line. Returns whether it started the first report.
    pub fn line(&mut self, line: &str) -> bool {
        if !self.report.is_empty() {
            if self.report.len() < MOST {
                self.report.push(line.to_owned());
            }
            self.closed |= ends(line);
            return false;
        }
        if starts(line) {
            self.report = std::mem::take(&mut self.before);
            self.report.push(line.to_owned());
            return true;
        }
        if self.before.len() == BEFORE {
            self.before.remove(0);
        }
        self.before.push(line.to_owned());
        false
    }

    /// Whether there is a report.
    pub fn found(&self) -> bool {
        !self.report.is_empty()
    }

    /// Whether the report's last line was seen.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// The report's lines, and a few before it.
    pub fn lines(&self) -> &[String] {
        &self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_found() {
        for line in [
            "[    9.117403] Kernel panic - not syncing: sysrq triggered crash",
            "[   12.345678] Oops: Oops: 0002 [#1] SMP NOPTI",
            "[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[   12.345678][  T123] BUG: KASAN: slab-use-after-free in foo+0x1/0x2",
            "[   12.345678] [  T123] BUG: KASAN: slab-use-after-free in foo+0x1/0x2",
            "[    5.000000] WARNING: CPU: 1 PID: 77 at mm/gup.c:12 try_grab_folio+0x1/0x2",
            "[    5.000000] WARNING: mm/gup.c:12 at try_grab_folio+0x1/0x2, CPU#1: a/77",
            "[    5.000000] WARNING: possible circular locking dependency detected",
            "[    5.000000] kernel BUG at mm/rmap.c:1!",
            "[  120.000000] INFO: task ib_write_bw:123 blocked for more than 30 seconds.",
            "[   60.000000] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[   60.000000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[   60.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [x:1]",
            "[   70.000000] WARNING: possible recursive locking detected",
            "[   70.000000] WARNING: inconsistent lock state",
            "[   70.000000] WARNING: possible irq lock inversion dependency detected",
            "[   70.000000] WARNING: suspicious RCU usage",
            "[   70.000000] WARNING: bad unlock balance detected!",
            "[   70.000000] WARNING: lock held when returning to user space!",
            "[   70.000000] [ BUG: Invalid wait context ]",
            "[   70.000000] DEBUG_LOCKS_WARN_ON(!test_bit(class_idx, lock_classes_in_use))",
            "[   70.000000] INFO: trying to register non-static key.",
            "[   70.000000] BUG: sleeping function called from invalid context at mm/page_alloc.c:1",
            "[   70.000000] BUG: scheduling while atomic: x/12/0x00000002",
            "[   70.000000] BUG: workqueue leaked atomic, lock or RCU: kworker/0:1[9]",
            "[   70.000000] BUG kmalloc-64 (Tainted: G O): Poison overwritten",
            "[   70.000000] BUG: KFENCE: use-after-free read in x",
            "[   70.000000] ODEBUG: free active (active state 0) object: 1 object type: work_struct hint: x",
            "[   70.000000] page dumped because: VM_BUG_ON_FOLIO(1)",
            "[   70.000000] refcount_t: underflow; use-after-free.",
            "[   60.000000] UBSAN: array-index-out-of-bounds in a.c:1:2",
            "[   60.000000] rust_kernel: panicked at a.rs:1:2:",
            "WARNING: no time on this line\r",
        ] {
            assert!(starts(line), "{line}");
        }
    }

    #[test]
    fn ordinary_lines_are_not() {
        for line in [
            "[    3.000000] ib_emm: loading out-of-tree module taints kernel.",
            "[    3.000000] ib_emm: module verification failed: signature and/or required key missing - tainting kernel",
            "[    3.000000] traps: a.out[12] general protection fault ip:1 sp:2 error:0 in x",
            "[    3.000000] a.out[12]: segfault at 0 ip 1 sp 2 error 4 in x",
            "[    3.000000] Out of memory: Killed process 12 (x)",
            "[    3.000000] clocksource: Watchdog remote CPU 1 read timed out",
            "[    3.000000] workqueue: rxe_do_task hogged CPU for >10000us 4 times",
            "[    3.000000] eth9 speed is unknown, defaulting to 1000",
            "[    3.000000] x86/mm: Checked W+X mappings: passed, no W+X pages found.",
            "[    3.000000] INFO: lockdep is turned off.",
            "[   60.000000] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[   60.000000] FAULT_INJECTION: forcing a failure.",
            "[    3.000000] kmemleak: Kernel memory leak detector initialized (mem pool available: 1)",
            "[    3.000000] kasan: KernelAddressSanitizer initialized (generic)",
            "",
        ] {
            assert!(!starts(line), "{line}");
        }
    }

    #[test]
    fn time_and_thread_are_taken_off() {
        assert_eq!(message("[    1.500000] text"), "text");
        assert_eq!(message("[    1.500000][    T1] text\r"), "text");
        assert_eq!(message("[    1.500000] [   C0] text"), "text");
        assert_eq!(message("[ BUG: bad unlock ]"), "[ BUG: bad unlock ]");
        assert_eq!(message("plain"), "plain");
    }

    #[test]
    fn a_report_is_collected_with_what_stood_before_it() {
        let mut collector = Collector::default();
        for line in ["1", "2", "3", "4", "5", "6"] {
            assert!(!collector.line(line));
        }
        assert!(!collector.found());
        assert!(collector.line("BUG: x"));
        assert!(!collector.line("Call Trace:"));
        assert!(!collector.closed());
        assert!(!collector.line("---[ end trace 0000 ]---"));
        assert!(collector.closed());
        assert_eq!(
            collector.lines(),
            [
                "3",
                "4",
                "5",
                "6",
                "BUG: x",
                "Call Trace:",
                "---[ end trace 0000 ]---"
            ]
        );
    }
}
