//! What people look at: `hmmgpu smi` and `hmmgpu top`, both made of snapshots.

pub mod checks;
pub mod events;
mod figures;
mod histogram;
pub mod smi;
pub mod top;
mod units;

#[cfg(test)]
#[path = "../../tests/views/sample.rs"]
mod made_up;

#[cfg(test)]
pub(crate) mod sample {
    pub(crate) use super::made_up::{before, hello, now};

    /// The GPU as `hmmgpu smi` sees it.
    pub(crate) fn gpu() -> super::smi::Gpu {
        super::smi::Gpu {
            control: "/run/4711.control".into(),
            state: Ok(super::smi::Sample::of(hello(), &before(), now())),
        }
    }
}
