//! Jobs that are done several at a time.

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// Does all of `jobs`, up to `at_once` at a time, by workers that keep something for their next job. After an error nothing
/// new is begun.
pub fn side_by_side<J: Send, K: Default, R: Send>(
    jobs: Vec<J>,
    at_once: usize,
    work: impl Fn(&mut K, J) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let workers = at_once.clamp(1, jobs.len().max(1));
    let jobs = Mutex::new(jobs.into_iter());
    let lock = || jobs.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = || -> Result<Vec<R>> {
        let (mut kept, mut done) = (K::default(), Vec::new());
        loop {
            // A statement of its own: the lock is not held during the work.
            let next = lock().next();
            let Some(job) = next else { return Ok(done) };
            match work(&mut kept, job) {
                Ok(result) => done.push(result),
                Err(error) => {
                    lock().by_ref().for_each(drop);
                    return Err(error);
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let done = worker.join();
            all.extend(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_job_is_done_once() {
        for at_once in [0, 1, 3, 50] {
            let work = |kept: &mut u32, job: u32| {
                *kept += 1;
                Ok((job, *kept))
            };
            let mut done = side_by_side((0..20).collect(), at_once, work).unwrap();
            done.sort_unstable();
            assert!((0..20).eq(done.iter().map(|(job, _)| *job)));
            if at_once < 2 {
                assert_eq!(done[19], (19, 20), "one worker keeps its guest");
            }
        }
        let none = side_by_side(Vec::new(), 2, |(): &mut (), job: u32| Ok(job)).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn an_error_ends_them_all() {
        let begun = AtomicUsize::new(0);
        let fails = |(): &mut (), job: usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            anyhow::ensure!(job != 3, "the fourth fails");
            Ok(job)
        };
        let error = side_by_side((0..1000).collect(), 1, fails).unwrap_err();
        assert_eq!(error.to_string(), "the fourth fails");
        assert_eq!(begun.into_inner(), 4);
    }
}
