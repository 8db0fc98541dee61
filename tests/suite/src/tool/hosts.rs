//! `run --hosts 2`, as a user starts it.

use anyhow::Result;

use super::program::Tool;
use crate::tally::Outcome;

/// What two hosts may differ in, and how their output and their statuses come together.
pub(super) const BOTH: &str = "tool::two_hosts";
/// Nothing is left of two hosts either.
pub(super) const CTRL_C: &str = "tool::ctrl_c_leaves_nothing_of_two_hosts";

/// As the README has it; the second command fails in the end.
const SCRIPT: &str = "echo preload ${LD_PRELOAD:-none}; ip link show eth9; printf 'no end of line'
    [ $HOST = 1 ] && ibv_rc_pingpong -d rxe0 -g 1 -c -n 100 || { sleep 2; ibv_rc_pingpong -d rxe0 -g 1 -c -n 100 $PEER && exit 7; }";

pub(super) fn both(tool: &Tool) -> Result<Outcome> {
    let options = [
        "--hosts",
        "2",
        "--mr",
        "unpinned,pinned",
        "--rxe",
        "ours,stock",
        "--wire",
        "mtu=4200,delay=1ms",
    ];
    let output = tool.run(&options, SCRIPT)?;
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    let wanted = [
        "1: preload /emm/lib/libverbs_shim.so\n",
        "2: preload none\n",
        "1: no end of line",
        "2: no end of line",
    ];
    let lacks = wanted.iter().find(|want| !out.contains(**want));
    let each = |prefix: &str, part: &str| {
        let mut lines = out.lines().filter(|line| line.starts_with(prefix));
        lines.any(|line| line.contains(part))
    };
    let parts = ["mtu 4200 qdisc netem", "100 iters in"];
    let right = ["1: ", "2: "]
        .iter()
        .all(|prefix| parts.iter().all(|part| each(prefix, part)));
    let strange = out
        .lines()
        .any(|line| !line.starts_with("1: ") && !line.starts_with("2: "));
    let held = output.status.code() == Some(7) && lacks.is_none() && right && !strange;
    Ok(if held {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("{}, without {lacks:?}\n{out}{err}", output.status))
    })
}
