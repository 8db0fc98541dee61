//! Where threads are in the kernel, which root may read.

use std::fs;

use crate::counters::folders;

/// Of one thread.
pub struct Stack {
    /// A work item's thread has the name of its queue as long as it runs or sleeps there.
    pub name: String,
    /// `R`, `S`, `D`: as in proc(5).
    state: String,
    /// Functions, the innermost first.
    pub frames: Vec<String>,
}

/// Those of the driver's work items, of this process's threads, and of all others that run or can't be interrupted.
pub fn all() -> Vec<Stack> {
    let own = folders("/proc/self/task");
    let others = folders("/proc");
    // `self` and `thread-self` are names of what is there already.
    let others = others.iter().filter(|dir| !dir.ends_with("self"));
    let others = others.filter_map(|dir| stack(dir));
    let busy = others.filter(|s| s.name.contains("rxe") || "DR".contains(&s.state));
    own.iter()
        .filter_map(|dir| stack(dir))
        .chain(busy)
        .collect()
}

/// How many threads of the kernel that do work items are in this function.
pub fn workers_in(function: &str) -> usize {
    let Workers(dirs) = Workers::now();
    let is_in = |dir: &&String| read(dir, "stack").contains(function);
    dirs.iter().filter(is_in).count()
}

/// The kernel's threads that do work items on any CPU. One at a time works for the driver that is looked at.
pub struct Workers(Vec<String>);

impl Workers {
    /// Those that are there now.
    pub fn now() -> Self {
        let mut dirs = folders("/proc");
        dirs.retain(|dir| read(dir, "comm").starts_with("kworker/u"));
        Self(dirs)
    }

    /// Whether the one that is in `module` is in its `function`.
    pub fn are_in(&mut self, module: &str, function: &str) -> bool {
        for n in 0..self.0.len() {
            let stack = read(&self.0[n], "stack");
            if stack.contains(module) {
                // It is the same most times, and a look takes a while.
                self.0.swap(0, n);
                return stack.contains(function);
            }
        }
        false
    }
}

/// A file of a thread; empty if the thread is gone meanwhile.
fn read(dir: &str, name: &str) -> String {
    fs::read_to_string(format!("{dir}/{name}")).unwrap_or_default()
}

/// `None` if the thread is gone meanwhile.
fn stack(dir: &str) -> Option<Stack> {
    let read = |name| fs::read_to_string(format!("{dir}/{name}"));
    let stat = read("stat").ok()?;
    // The name may have brackets in it.
    let state = stat.rsplit_once(')')?.1.split_whitespace().next()?;
    let frames = read("stack").unwrap_or_default();
    Some(Stack {
        name: read("comm").ok()?.trim().to_owned(),
        state: state.to_owned(),
        frames: frames
            .lines()
            .map(|frame| frame.trim_start_matches("[<0>] ").to_owned())
            .collect(),
    })
}

impl Stack {
    /// `NAME STATE: INNERMOST < … < OUTERMOST`, without places in the functions.
    pub fn line(&self) -> String {
        let function = |frame: &String| frame.split('+').next().unwrap_or_default().to_owned();
        let functions: Vec<String> = self.frames.iter().map(function).collect();
        format!("{} {}: {}", self.name, self.state, functions.join(" < "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_stack() {
        let stack = Stack {
            name: "kworker/u9:1-rxe_wq".into(),
            state: "S".into(),
            frames: vec![
                "emm_gate_wait+0x60/0x90 [ib_emm]".into(),
                "kthread+0xe1/0x120".into(),
            ],
        };
        assert_eq!(
            stack.line(),
            "kworker/u9:1-rxe_wq S: emm_gate_wait < kthread"
        );
    }

    #[test]
    fn our_threads_are_there() {
        let here = fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert!(all().iter().any(|stack| stack.name == here.trim()));
    }
}
