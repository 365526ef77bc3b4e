//! The machines that scenarios need.

use hmmgpu_guest_protocol::stress::Machine;

use crate::profile::Profile;

/// Virtual CPUs, at least: one of them goes away in a scenario.
const CPUS: u32 = 2;
/// Few enough that RAM, the aperture and VRAM together take a good part of what there is: 64 GiB.
const FEW_BITS: u32 = 36;
/// A device with a BAR of this size, as a GPU whose VRAM is mapped has.
const APERTURE: &str = "pci-testdev,membar=17179869184";

/// The profile for a machine, made of the one that was asked for.
pub fn profile(base: &Profile, machine: Machine) -> Profile {
    let mut profile = base.clone();
    profile.cpus = Some(base.cpus().max(CPUS));
    match machine {
        Machine::Plain => {}
        // Of what there is; no memory is further away than other.
        Machine::TwoNodes => profile.kernel_args.push("numa=fake=2".to_owned()),
        Machine::Pluggable => profile.pluggable = true,
        Machine::FewAddressBits => {
            profile.phys_bits = Some(FEW_BITS);
            profile.devices.push(APERTURE.to_owned());
        }
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_differ_in_what_they_are_for() {
        let base = Profile {
            cpus: Some(1),
            ..Profile::load("stress").expect("is built in")
        };
        let of = |machine| profile(&base, machine);
        assert_eq!(of(Machine::Plain).cpus(), 2);
        assert!(of(Machine::Pluggable).pluggable && !of(Machine::Plain).pluggable);
        assert_eq!(of(Machine::TwoNodes).kernel_args, ["numa=fake=2"]);
        let few = of(Machine::FewAddressBits);
        assert_eq!((few.phys_bits, few.devices.len()), (Some(36), 1));
    }
}
