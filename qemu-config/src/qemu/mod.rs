//! QEMU: its command line as data, and its control socket.

pub mod command_line;
pub mod qmp;
pub mod ticks;
