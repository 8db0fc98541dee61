// SPDX-License-Identifier: MIT OR Apache-2.0

//! Two queue pairs of one device send a message to and fro, from and into memory that is not pinned. Between messages they sleep.
//!
//! `pingpong DEVICE GID_INDEX [ROUNDS]`, as in `pingpong rxe0 1`

use std::{env, error::Error, time::Duration};

use unpinned::{Access, AdviseError, Channel, Completion, Context, Paging, Prefetch, QueuePair};

const BYTES: usize = 100_003;
/// Longest time of one message.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sleeps until a request of this queue pair is done.
fn wait(queue: &QueuePair, events: &Channel) -> Result<Completion, Box<dyn Error>> {
    let done = loop {
        if let Some(done) = queue.poll()? {
            break done;
        }
        queue.request_event()?;
        // What came before it was asked for makes no event.
        if let Some(done) = queue.poll()? {
            break done;
        }
        if events.wait(Some(PATIENCE))?.is_none() {
            return Err("no request was done, and none failed".into());
        }
    };
    match done.status {
        0 => Ok(done),
        status => Err(format!("request {} failed with status {status}", done.id).into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().collect();
    let (Some(device), Some(gid)) = (args.get(1), args.get(2)) else {
        return Err("write: pingpong DEVICE GID_INDEX [ROUNDS]".into());
    };
    let rounds: u32 = args.get(3).map_or(Ok(100), |n| n.parse())?;
    let context = Context::open(device)?;
    println!("{device}: on demand {:?}", context.on_demand());
    let domain = context.alloc_domain()?;
    let gid = gid
        .parse()
        .map_err(|why| format!("GID_INDEX is a number, not `{gid}`: {why}"))?;
    let events = Channel::new(&context)?;
    let sides = [0, 1].map(|side| QueuePair::with_events(&domain, gid, 4, &events, side));
    let [left, right] = sides;
    let (left, right) = (left?, right?);
    left.connect(&right.endpoint(), Access::empty())?;
    right.connect(&left.endpoint(), Access::empty())?;

    let ours = domain.register(vec![0; BYTES], Access::LOCAL_WRITE, Paging::OnDemand)?;
    let theirs = domain.register(vec![0; BYTES], Access::LOCAL_WRITE, Paging::OnDemand)?;
    for round in 0..rounds {
        let sent: Vec<u8> = (0..BYTES).map(|at| (at as u32 * 7 + round) as u8).collect();
        ours.write_at(0, &sent);
        right.post_recv(1, &theirs, 0..BYTES)?;
        left.post_send(2, &ours, 0..BYTES)?;
        wait(&left, &events)?;
        wait(&right, &events)?;
        left.post_recv(3, &ours, 0..BYTES)?;
        right.post_send(4, &theirs, 0..BYTES)?;
        wait(&right, &events)?;
        wait(&left, &events)?;
        let mut back = vec![0; BYTES];
        ours.read_at(0, &mut back);
        if back != sent {
            return Err(format!("round {round}: other bytes came back").into());
        }
    }
    println!("{rounds} rounds of {BYTES} bytes, every byte right");

    // Memory that is only borrowed, for the time of a closure.
    let sent = ours.deregister()?;
    let mut lent = vec![0; BYTES];
    domain.with_borrowed(
        &mut lent,
        Access::LOCAL_WRITE,
        Paging::OnDemand,
        |lent| -> Result<(), Box<dyn Error>> {
            theirs.write_at(0, &sent);
            match lent.prefetch(0..BYTES, Prefetch::Write, true) {
                Ok(()) | Err(AdviseError::Unsupported) => {}
                Err(error) => return Err(error.into()),
            }
            left.post_recv(5, lent, 0..BYTES)?;
            right.post_send(6, &theirs, 0..BYTES)?;
            wait(&right, &events)?;
            wait(&left, &events)?;
            Ok(())
        },
    )??;
    if lent != sent {
        return Err("other bytes came to the borrowed memory".into());
    }
    println!("lent memory: every byte right");
    Ok(())
}
