//! The cargo that the host's tests are run by.

use soft_roce_setup::proc::Cmd;

/// The cargo that runs this tool, or the host's.
pub fn cargo() -> Cmd {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Cmd::new(cargo).dir(soft_roce_setup::build::workspace())
}
