//! QEMU as a program that its guest may have taken over.

use crate::enter::Enter;
use crate::proc::Cmd;

/// What no guest of ours needs of QEMU.
const SANDBOX: [&str; 2] = [
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// QEMU, in a root that `enter` enters, as a program that its guest may have taken over: see [`Enter::confined`]; of the devices it
/// has KVM's besides; and its own filter of system calls lets it start nothing and become nobody else.
pub fn confined(enter: Enter) -> Cmd {
    enter
        .confined()
        .device("kvm")
        .cmd("qemu-system-x86_64")
        .args(SANDBOX)
}
