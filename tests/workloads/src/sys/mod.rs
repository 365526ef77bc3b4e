//! The calls that the compiler cannot check, each kind in one small module.

pub(crate) mod call;
pub(crate) mod fork;
pub(crate) mod ioctl;
pub(crate) mod memory;
pub(crate) mod numa;
pub(crate) mod pin;
pub(crate) mod uffd;
