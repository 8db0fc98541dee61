// SPDX-License-Identifier: MIT OR Apache-2.0

//! A program as users of the crate `ibverbs` write it: registers memory, moves bytes both ways between two queue pairs, and
//! compares every byte of both regions, also those around what was moved.
//!
//! `ibverbs-both-ways DEVICE GID_INDEX`, as in `ibverbs-both-ways rxe0 1`. The crate knows sends and receives.

use std::{env, error::Error, process::ExitCode};

use ibverbs::{CompletionQueue, MemoryRegion, QueuePair, ibv_qp_type::IBV_QPT_RC, ibv_wc};

/// Lengths of messages, in bytes.
const LENGTHS: [usize; 8] = [1, 7, 63, 4096, 4097, 65_537, 200_001, 1 << 20];
/// Where in its region a message begins; most not at a page's or a word's.
const OFFSETS: [usize; 4] = [0, 1, 2049, 4095];
/// Bytes of a region: the longest message anywhere, and some behind it.
const SIZE: usize = (1 << 20) + 8192;
/// What is where no message goes.
const GUARD: u8 = 0xa5;

/// Byte `at` of message `number`.
fn byte(number: u64, at: usize) -> u8 {
    (at as u64 * 7 + number * 31 + (at as u64 >> 8)) as u8
}

/// Waits for the completions of a send and of its receive, as two queue pairs of one queue tell them.
fn wait(queue: &CompletionQueue<'_>, mut wanted: Vec<u64>) -> Result<(), Box<dyn Error>> {
    let mut done = [ibv_wc::default(); 4];
    while !wanted.is_empty() {
        for completion in queue.poll(&mut done)? {
            if let Some((status, vendor)) = completion.error() {
                let id = completion.wr_id();
                return Err(format!("request {id} failed: {status:?}, vendor {vendor}").into());
            }
            wanted.retain(|id| *id != completion.wr_id());
        }
    }
    Ok(())
}

/// A queue pair with its region.
struct Side<'a> {
    pair: QueuePair<'a>,
    region: MemoryRegion<u8>,
}

/// Sends message `number` from one side to the other, at `offset` of both regions. Returns how many bytes are wrong.
fn send(
    queue: &CompletionQueue<'_>,
    from: &mut Side<'_>,
    to: &mut Side<'_>,
    number: u64,
    offset: usize,
    length: usize,
) -> Result<usize, Box<dyn Error>> {
    from.region.fill(GUARD);
    to.region.fill(GUARD);
    let range = offset..offset + length;
    for (at, place) in from.region[range.clone()].iter_mut().enumerate() {
        *place = byte(number, at);
    }
    let (sent, received) = (2 * number, 2 * number + 1);
    // SAFETY: the region is not touched before the completion has been seen.
    unsafe {
        to.pair
            .post_receive(&mut to.region, range.clone(), received)?
    };
    // SAFETY: the same.
    unsafe { from.pair.post_send(&mut from.region, range.clone(), sent)? };
    wait(queue, vec![sent, received])?;
    let wrong = |region: &[u8]| {
        let expected = |at: usize| {
            if range.contains(&at) {
                byte(number, at - offset)
            } else {
                GUARD
            }
        };
        let bytes = region.iter().enumerate();
        bytes.filter(|(at, byte)| **byte != expected(*at)).count()
    };
    Ok(wrong(&from.region) + wrong(&to.region))
}

fn run(device: &str, gid: u32) -> Result<usize, Box<dyn Error>> {
    let devices = ibverbs::devices()?;
    let device = devices
        .iter()
        .find(|found| {
            found
                .name()
                .is_some_and(|name| name.to_bytes() == device.as_bytes())
        })
        .ok_or_else(|| format!("libibverbs knows no device {device}"))?;
    let context = device.open()?;
    let queue = context.create_cq(16, 0)?;
    let domain = context.alloc_pd()?;
    let make = || {
        let mut builder = domain.create_qp(&queue, &queue, IBV_QPT_RC);
        builder.set_gid_index(gid).build()
    };
    let (left, right) = (make()?, make()?);
    let ends = (left.endpoint(), right.endpoint());
    let mut left = Side {
        pair: left.handshake(ends.1)?,
        region: domain.allocate(SIZE)?,
    };
    let mut right = Side {
        pair: right.handshake(ends.0)?,
        region: domain.allocate(SIZE)?,
    };
    let (mut number, mut wrong) = (0, 0);
    for length in LENGTHS {
        for offset in OFFSETS {
            wrong += send(&queue, &mut left, &mut right, number, offset, length)?;
            wrong += send(&queue, &mut right, &mut left, number + 1, offset, length)?;
            number += 2;
        }
    }
    let compared = 2 * SIZE * number as usize;
    println!("{number} messages both ways, compared {compared} bytes: {wrong} wrong");
    Ok(wrong)
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let [_, device, gid] = &args[..] else {
        eprintln!("write: ibverbs-both-ways DEVICE GID_INDEX");
        return ExitCode::from(2);
    };
    let Ok(gid) = gid.parse() else {
        eprintln!("GID_INDEX is a number, not `{gid}`");
        return ExitCode::from(2);
    };
    match run(device, gid) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ibverbs-both-ways: {error}");
            ExitCode::FAILURE
        }
    }
}
