//! Pinned and unpinned elements in one request, on both sides.

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::area::{Area, LENGTHS};
use crate::ffi;
use crate::mem::{PAGE, Rng};
use crate::pair::{Pair, SGES, Work};
use crate::verbs::ALL_ACCESS;

const SIZE: usize = 64 * PAGE;
const ROUNDS: u64 = 40;

/// The cases.
pub fn mixed(c: &Ctx<'_>) -> Result<()> {
    for (name, verb) in [
        ("SEND to RECV", Verb::Send),
        ("WRITE", Verb::Write),
        ("READ", Verb::Read),
    ] {
        c.case(name, rounds(c, verb));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Send,
    Write,
    Read,
}

/// A pinned and an unpinned region.
struct Side([Area; 2]);

/// An element: which region, offset, length.
type Element = (usize, usize, usize);

impl Side {
    fn new(c: &Ctx<'_>, seed: u64) -> Result<Self> {
        let mut areas = [c.pinned(SIZE)?, c.area(SIZE, ALL_ACCESS)?];
        for (i, area) in areas.iter_mut().enumerate() {
            area.fill(0, SIZE, c.seed(seed + i as u64));
        }
        Ok(Self(areas))
    }

    fn list(&self, elements: &[Element]) -> Vec<ffi::ibv_sge> {
        let sge = |&(area, off, len): &Element| self.0[area].sge(off, len);
        elements.iter().map(sge).collect()
    }

    fn gather(&self, elements: &[Element]) -> Vec<u8> {
        let holds = |&(area, off, len): &Element| self.0[area].holds(off, len);
        elements.iter().flat_map(holds).copied().collect()
    }

    fn scatter(&mut self, elements: &[Element], mut bytes: &[u8]) {
        for &(area, off, len) in elements {
            let (piece, rest) = bytes.split_at(len.min(bytes.len()));
            self.0[area].expect(off, piece);
            bytes = rest;
        }
    }

    fn check(&self, what: &str) -> Result<()> {
        self.0[0].check(&format!("{what}, pinned"))?;
        self.0[1].check(&format!("{what}, under test"))
    }
}

/// Elements that do not overlap, empty ones among them, in the first halves of both regions: all together fit into one.
fn elements(rng: &mut Rng) -> Vec<Element> {
    let count = 2 + rng.below(SGES - 1);
    let mut next = [rng.below(PAGE), rng.below(PAGE)];
    (0..count)
        .filter_map(|_| {
            let area = rng.below(2);
            let len = match rng.below(8) {
                0 => 0,
                _ => LENGTHS[rng.below(LENGTHS.len())],
            };
            let off = next[area] + rng.below(50);
            next[area] = off + len;
            (next[area] <= SIZE / 2).then_some((area, off, len))
        })
        .collect()
}

fn total(elements: &[Element]) -> usize {
    elements.iter().map(|e| e.2).sum()
}

fn rounds(c: &Ctx<'_>, verb: Verb) -> Result<String> {
    let pair = c.pair()?;
    let (mut near, mut far) = (Side::new(c, 1)?, Side::new(c, 3)?);
    let mut rng = Rng(c.seed(verb as u64));
    let (mut bytes, mut count) = (0, 0);
    for round in 0..ROUNDS {
        let list = elements(&mut rng);
        if round % 2 == 1 {
            near.0[1].cool()?;
            far.0[1].cool()?;
        }
        let what = format!("round {round}, elements {list:?}");
        match verb {
            Verb::Send => send(&pair, &near, &mut far, &list, &mut rng),
            Verb::Write | Verb::Read => remote(&pair, &mut near, &mut far, &list, verb, &mut rng),
        }
        .with_context(|| what.clone())?;
        near.check(&format!("{what}: near"))?;
        far.check(&format!("{what}: far"))?;
        bytes += total(&list);
        count += list.len();
    }
    Ok(format!("{count} elements, {bytes} bytes, 0 wrong"))
}

fn send(pair: &Pair, near: &Side, far: &mut Side, list: &[Element], rng: &mut Rng) -> Result<()> {
    let message = near.gather(list);
    // What the message does not reach stays as it is. A list of the same length always has room.
    let other = elements(rng);
    let into = if total(&other) < message.len() {
        list
    } else {
        &other
    };
    pair.far.post_recv(0, &far.list(into))?;
    pair.near.run_list(Work::Send, &near.list(list))?;
    let wc = pair.far.received.wait()?;
    if wc.byte_len as usize != message.len() {
        bail!("{} bytes arrived, not {}", wc.byte_len, message.len());
    }
    far.scatter(into, &message);
    Ok(())
}

fn remote(
    pair: &Pair,
    near: &mut Side,
    far: &mut Side,
    list: &[Element],
    verb: Verb,
    rng: &mut Rng,
) -> Result<()> {
    let len = total(list);
    let area = &mut far.0[rng.below(2)];
    let off = rng.below(SIZE - len + 1);
    let at = area.remote(off);
    let local = near.list(list);
    if verb == Verb::Write {
        pair.near.run_list(Work::Write(at), &local)?;
        area.expect(off, &near.gather(list));
    } else {
        pair.near.run_list(Work::Read(at), &local)?;
        near.scatter(list, area.holds(off, len));
    }
    Ok(())
}
