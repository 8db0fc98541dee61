// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory regions.

use std::{
    ffi::c_void,
    fmt,
    mem::{ManuallyDrop, MaybeUninit},
    ops::Range,
};

use crate::{
    abi::{self, ON_DEMAND, Sge},
    access::{Access, Paging, Prefetch},
    copy::Shared,
    device::Domain,
    error::{AdviseError, DeregisterError, Refused, RegisterError, last, status},
    memory::{Borrowed, Memory},
};

/// Registered memory.
///
/// # Invariants
///
/// `raw` is a live region over `start` and `length`, the range of `memory`, which nothing else reaches.
pub struct Region<M: Memory> {
    raw: *mut abi::Mr,
    start: *mut u8,
    length: usize,
    domain: Domain,
    /// Not used while it is registered; this wrapper keeps the compiler from assuming that nobody else
    /// reaches what it points to.
    memory: MaybeUninit<M>,
}

// SAFETY: libibverbs' regions can be used by any thread, and the memory goes with it.
unsafe impl<M: Memory + Send> Send for Region<M> {}
// SAFETY: what a shared region can do is copying by atomic accesses, from any number of threads.
unsafe impl<M: Memory + Send> Sync for Region<M> {}

/// Where a peer finds a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Address of the first byte.
    pub addr: u64,
    /// Length in bytes.
    pub length: u64,
    /// Remote key.
    pub rkey: u32,
}

impl Domain {
    /// Registers memory, which the region owns until [`Region::deregister`].
    ///
    /// # Errors
    ///
    /// The range is empty, or the device refuses: `EINVAL` or `EOPNOTSUPP` for on-demand memory where there is none, `ENOMEM`
    /// for pinned memory beyond `RLIMIT_MEMLOCK`. The error hands the memory back, so that it can be registered in another way:
    ///
    /// ```no_run
    /// # fn f(domain: unpinned::Domain, memory: Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
    /// use unpinned::{Access, Paging};
    /// let region = domain
    ///     .register(memory, Access::LOCAL_WRITE, Paging::OnDemand)
    ///     .or_else(|refused| domain.register(refused.given, Access::LOCAL_WRITE, Paging::Pinned))?;
    /// # Ok(()) }
    /// ```
    pub fn register<M: Memory>(
        &self,
        memory: M,
        access: Access,
        paging: Paging,
    ) -> Result<Region<M>, Refused<M, RegisterError>> {
        // Wrapped before its address is taken: a `Box` that is moved afterwards may claim its memory for itself again.
        let mut memory = MaybeUninit::new(memory);
        // SAFETY: initialised here.
        let (start, length) = unsafe { memory.assume_init_mut() }.range();
        let raw = self.register_range(start, length, access, paging);
        match raw {
            Ok(raw) => Ok(Region {
                raw,
                start,
                length,
                domain: self.clone(),
                memory,
            }),
            Err(error) => {
                // SAFETY: initialised above, taken once, and no HCA was told of it.
                let given = unsafe { memory.assume_init() };
                Err(Refused { error, given })
            }
        }
    }

    fn register_range(
        &self,
        start: *mut u8,
        length: usize,
        access: Access,
        paging: Paging,
    ) -> Result<*mut abi::Mr, RegisterError> {
        if length == 0 {
            return Err(RegisterError::Empty);
        }
        let on_demand = match paging {
            // Bytes beside the region may be anybody's: no safe program is to have them changed.
            Paging::OnDemand if self.context().corrupts() => {
                return Err(RegisterError::Corrupting);
            }
            Paging::OnDemand => ON_DEMAND,
            Paging::Pinned => 0,
        };
        let reg_mr = self.context().verbs().reg_mr;
        let flags = access.bits() | on_demand;
        // SAFETY: a live domain. Making a region touches no memory; the caller keeps the memory as long as there is one.
        let raw = unsafe { reg_mr(self.raw(), start.cast(), length, start as u64, flags) };
        if raw.is_null() {
            return Err(last().into());
        }
        Ok(raw)
    }

    /// Registers borrowed memory for the time that `f` runs.
    ///
    /// The process is aborted if the region can't be ended: the HCA would go on writing to memory that is not
    /// borrowed any more.
    ///
    /// # Errors
    ///
    /// As for [`Domain::register`].
    pub fn with_borrowed<R>(
        &self,
        memory: &mut [u8],
        access: Access,
        paging: Paging,
        f: impl for<'r> FnOnce(&'r Region<Borrowed<'_>>) -> R,
    ) -> Result<R, RegisterError> {
        let region = self.register(Borrowed::new(memory), access, paging);
        let region = region.map_err(|refused| refused.error)?;
        let scope = Scope(ManuallyDrop::new(region));
        Ok(f(&scope.0))
    }
}

/// Ends a region, also when a panic passes.
struct Scope<'m>(ManuallyDrop<Region<Borrowed<'m>>>);

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        // SAFETY: nothing uses the region after this.
        if let Err(error) = unsafe { self.0.end() } {
            eprintln!("unpinned: borrowed memory can't be taken back: {error}");
            std::process::abort();
        }
        // SAFETY: the region has ended, and its domain has not been dropped.
        unsafe { std::ptr::drop_in_place(&raw mut self.0.domain) };
    }
}

impl<M: Memory> Region<M> {
    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Where a peer finds it.
    #[must_use]
    pub fn remote(&self) -> Remote {
        // SAFETY: a live region.
        let rkey = unsafe { (*self.raw).rkey };
        Remote {
            addr: self.start as u64,
            length: self.length as u64,
            rkey,
        }
    }

    /// The memory, for copies of what lies inside it.
    fn shared(&self) -> Shared<'_> {
        // SAFETY: mapped as long as it is registered. Nobody has a reference to the memory itself; other threads come by here, and the
        // HCA writes past the compiler's view, as atomic stores do.
        unsafe { Shared::new(self.start, self.length) }
    }

    /// Copies from `offset` on into `bytes`. The HCA, or another thread, may be writing at the same time: then old and new bytes
    /// mix, but not inside a word: eight bytes whose address is a multiple of eight are copied at once.
    ///
    /// # Panics
    ///
    /// The range is not inside the region.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        self.shared().read(offset, bytes);
    }

    /// Copies `bytes` to `offset`; words as in [`Region::read_at`].
    ///
    /// # Panics
    ///
    /// The range is not inside the region.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        self.shared().write(offset, bytes);
    }

    /// Has pages translated before traffic meets them: when this returns if `wait`, else soon after.
    ///
    /// # Errors
    ///
    /// The device takes no advice (rxe takes it from rdma-core 59 on), or a page can't be provided.
    ///
    /// # Panics
    ///
    /// The range is reversed, or not inside the region.
    pub fn prefetch(
        &self,
        range: Range<usize>,
        what: Prefetch,
        wait: bool,
    ) -> Result<(), AdviseError> {
        /// The most that one piece of advice covers.
        const PIECE: usize = 1 << 30;
        self.check_range(&range);
        // SAFETY: the context of a live domain is open.
        let advise = unsafe { abi::advise_mr(self.domain.context().as_raw().cast()) }
            .ok_or(AdviseError::Unsupported)?;
        let mut at = range.start;
        while at < range.end {
            let mut sge = self.sge(at..range.end.min(at + PIECE));
            // SAFETY: the operation's own domain, and one range of a region in it.
            let result =
                unsafe { advise(self.domain.raw(), what as u32, u32::from(wait), &mut sge, 1) };
            match result {
                libc::EOPNOTSUPP | libc::ENOSYS => return Err(AdviseError::Unsupported),
                other => status(other)?,
            }
            at = at.saturating_add(PIECE);
        }
        Ok(())
    }

    /// Ends the region and gives the memory back.
    ///
    /// # Errors
    ///
    /// It can't be ended, because a memory window is bound to it. The error hands the region back, which goes on as before. (A
    /// region that can't be ended when it is dropped leaks its memory: the HCA may still write to it.)
    pub fn deregister(self) -> Result<M, Refused<Self, DeregisterError>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: nothing uses the region after this if it succeeds.
        if let Err(error) = unsafe { this.end() } {
            let given = ManuallyDrop::into_inner(this);
            return Err(Refused { error, given });
        }
        // SAFETY: the region has ended, and its domain has not been dropped.
        unsafe { std::ptr::drop_in_place(&raw mut this.domain) };
        // SAFETY: initialised, taken once, and no HCA reaches it any more.
        Ok(unsafe { this.memory.assume_init_read() })
    }

    /// The key for requests on queue pairs of other crates, which name the range `remote().addr..` by it.
    #[must_use]
    pub fn lkey(&self) -> u32 {
        // SAFETY: a live region.
        unsafe { (*self.raw).lkey }
    }

    /// The `struct ibv_mr`, for verbs that this crate lacks.
    #[must_use]
    pub fn as_raw(&self) -> *mut c_void {
        self.raw.cast()
    }

    /// A piece of the region, for requests.
    pub(crate) fn sge(&self, range: Range<usize>) -> Sge {
        self.check_range(&range);
        Sge {
            addr: self.start as u64 + range.start as u64,
            length: u32::try_from(range.len()).expect("a request is shorter than 4 GiB"),
            lkey: self.lkey(),
        }
    }

    fn check_range(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end,
            "the range {range:?} is reversed: it ends before it begins"
        );
        self.check(range.start, range.len());
    }

    fn check(&self, offset: usize, length: usize) {
        let end = offset.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.length),
            "{length} bytes at {offset} are not inside a region of {} bytes",
            self.length
        );
    }

    /// # Safety
    ///
    /// The region is not used afterwards if this succeeds.
    unsafe fn end(&mut self) -> Result<(), DeregisterError> {
        let dereg_mr = self.domain.context().verbs().dereg_mr;
        // SAFETY: a live region.
        status(unsafe { dereg_mr(self.raw) }).map_err(Into::into)
    }
}

impl<M: Memory> Drop for Region<M> {
    fn drop(&mut self) {
        // SAFETY: nothing uses the region after this.
        if unsafe { self.end() }.is_ok() {
            // SAFETY: initialised, dropped once, and no HCA reaches it any more. Otherwise it is leaked.
            unsafe { self.memory.assume_init_drop() };
        }
    }
}

impl<M: Memory> fmt::Debug for Region<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}
