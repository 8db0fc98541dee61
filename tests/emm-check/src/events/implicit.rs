//! One region for the whole address space, with local and remote keys.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::Ctx;
use super::mapping::{REMOTE, expect};
use crate::mem::{Map, PAGE};
use crate::qp::Op;
use crate::system::Kind;
use crate::target::Target;
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 1 << 20;

/// The cases.
pub fn implicit(c: &Ctx<'_>) -> Result<()> {
    let can = c.env.pd.device().implicit()?;
    let has = c.kind.resolve() == Kind::Emm;
    let said = if can { "offered" } else { "not offered" };
    let work = || {
        if can != has {
            bail!("the capability bit is {}", u8::from(can));
        }
        Ok(said.into())
    };
    c.case("capability bit", work());
    let all = Mr::new(&c.env.pd, 0, usize::MAX, ALL_ACCESS | c.kind.flags());
    let mr = match (all, has) {
        (Ok(mr), _) => Arc::new(mr),
        (Err(e), false) => {
            c.case("registration", Ok(format!("refused: {e}")));
            return Ok(());
        }
        (Err(e), true) => bail!("registration: {e}"),
    };
    c.case("remote key: WRITE and READ", remote(c, &mr));
    c.case("local key: WRITE, READ and SEND", local(c, &mr));
    c.case("memory that is mapped later", later(c, &mr));
    c.case("address without memory", nothing(c, &mr));
    Ok(())
}

fn remote(c: &Ctx<'_>, mr: &Arc<Mr>) -> Result<String> {
    for round in 0..3 {
        let map = Arc::new(Map::anon(SIZE)?);
        let t = Target::sharing(c.env, map, mr.clone())?;
        t.round(1, SIZE - 1, c.seed(round))?;
    }
    Ok("three mappings, 0 wrong bytes".into())
}

fn local(c: &Ctx<'_>, mr: &Arc<Mr>) -> Result<String> {
    let len = 300_001;
    let map = Arc::new(Map::anon(SIZE)?);
    let t = Target::sharing(c.env, map, mr.clone())?;
    t.cpu_fill(5, len, c.seed(1));
    t.qp()
        .run(Op::Write, t.local(5), len as u32, t.remote(SIZE / 2 + 3))?;
    t.map.check(SIZE / 2 + 3, len, c.seed(1), 5).ok("WRITE")?;
    t.map.set(5, len, 0);
    t.qp()
        .run(Op::Read, t.local(5), len as u32, t.remote(SIZE / 2 + 3))?;
    t.map.check(5, len, c.seed(1), 5).ok("READ")?;
    t.map.set(SIZE / 2, len + PAGE, 0);
    t.qp().post_recv(t.local(SIZE / 2 + 77), len as u32)?;
    t.qp().run(Op::Send, t.local(5), len as u32, t.remote(0))?;
    t.qp().wait_recv()?;
    t.map.check(SIZE / 2 + 77, len, c.seed(1), 5).ok("SEND")?;
    t.map
        .check_byte(SIZE / 2, 77, 0)
        .ok("in front of the target")?;
    Ok(format!("{len} bytes at odd addresses, 0 wrong"))
}

fn later(c: &Ctx<'_>, mr: &Arc<Mr>) -> Result<String> {
    let map = Arc::new(Map::anon(SIZE)?);
    let t = Target::sharing(c.env, map, mr.clone())?;
    t.round(1, SIZE - 1, c.seed(1))?;
    t.map.punch(0, SIZE / 2)?;
    t.map.renew(0, SIZE / 2)?;
    t.read_cmp(0, SIZE / 2, |_, out| out.fill(0))?;
    t.round(1, SIZE - 1, c.seed(2))?;
    Ok("unmapped, mapped again: reads as zero, then holds what RDMA wrote".into())
}

fn nothing(c: &Ctx<'_>, mr: &Arc<Mr>) -> Result<String> {
    let map = Arc::new(Map::anon(SIZE)?);
    let mut t = Target::sharing(c.env, map, mr.clone())?;
    let mut said = String::new();
    // Page 0, behind user space, the last page of all.
    for address in [0x1000, 1 << 47, u64::MAX - 4095] {
        let mut piece = t.remote(0);
        piece.addr = address;
        let result = t.qp().run(Op::Write, t.bounce_piece(64), 100, piece);
        said = expect(result, &REMOTE, &format!("WRITE to {address:#x}"))?;
        t.new_qp()?;
    }
    t.round(1, SIZE - 1, c.seed(3))?;
    Ok(format!("{said}; the device works on"))
}
