//! `across`: every byte over a wire. The same command runs on two hosts, one side each; first host 1 leads, then host 2.

mod cases;
pub mod gone;
mod party;
mod talk;

use anyhow::{Context as _, Result};
use serde_json::json;

use self::cases::Lead;
pub use self::cases::{Cases, Op, State};
use self::party::Party;
use self::talk::{Line, Place};
use crate::system::Kind;
use crate::target::Env;

/// What is checked.
pub struct Plan {
    /// The operations.
    pub ops: Vec<Op>,
    /// What is copied.
    pub cases: Cases,
    /// Path MTUs in bytes.
    pub mtus: Vec<u32>,
}

/// Runs both turns. Reports those of this side.
pub fn across(env: &mut Env, kind: Kind, plan: &Plan) -> Result<()> {
    let place = Place::here()?;
    let mut line = Line::open(&place)?;
    let label: String = line.exchange(&kind.label().to_owned())?;
    let theirs = kind_of(&label)?;
    for turn in 1..=2 {
        if turn == place.host {
            lead(env, [kind, theirs], plan, &mut line)?;
            line.hand_over()?;
        } else {
            let mut party = Party::new(env, kind);
            let count = line.follow(&mut party)?;
            env.report.say(
                &format!("     {} for the other host: {count} requests", kind.label()),
                &json!({"t": "followed", "mr": kind.label(), "requests": count}),
            );
        }
    }
    Ok(())
}

fn kind_of(label: &str) -> Result<Kind> {
    let kinds = [Kind::Pinned, Kind::Emm, Kind::Odp];
    let kind = kinds.into_iter().find(|kind| kind.label() == label);
    kind.with_context(|| format!("the other side has regions of the kind {label:?}"))
}

fn lead(env: &mut Env, kinds: [Kind; 2], plan: &Plan, line: &mut Line) -> Result<()> {
    let required = kinds.iter().all(|kind| env.report.requires(*kind));
    let [mine, theirs] = kinds.map(Kind::label);
    let own = env.mtu;
    for &mtu in &plan.mtus {
        env.mtu = mtu;
        for &op in &plan.ops {
            let tally = Lead::new(env, kinds, line).run(op, &plan.cases);
            let tally = tally.with_context(|| format!("{}, MTU {mtu}", op.name()))?;
            let text = format!(
                "{mine:6} to {theirs:6} {} [MTU {mtu}]: {} of {} wrong ({} wrote outside the target, {} errors) {}",
                op.name(),
                tally.wrong,
                tally.cases,
                tally.stray,
                tally.errors,
                tally.first
            );
            env.report.fact(
                tally.wrong == 0,
                required,
                &text,
                json!({"t": "across", "mr": mine, "peer": theirs, "op": op.name(), "mtu": mtu, "cases": tally.cases,
                       "wrong": tally.wrong, "stray": tally.stray, "errors": tally.errors, "detail": tally.first}),
            );
        }
    }
    env.mtu = own;
    Ok(())
}
