// SPDX-License-Identifier: MIT OR Apache-2.0

//! The preload library against a fake libibverbs, on a host without RDMA.
//!
//! `fake.c` stands for libibverbs and the kernel, and `client.c` for a program. Both are C, so that symbol
//! versions, procedure linkage and layouts are those of the real ones.

mod audit;
mod build;
mod copies;
mod costs;
mod crowd;
mod harm;
mod implicit;
mod life;
mod mlx5;
mod policy;
mod prefetch;
mod program;
