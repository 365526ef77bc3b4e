//! The machines that scenarios need.

use hmmgpu_guest_protocol::stress::Machine;

use crate::profile::Profile;
use crate::size::{MIB, Size};

/// Virtual CPUs, at least: one of them goes away in a scenario.
const CPUS: u32 = 2;
/// Memory that a guest of little memory has, at most: several times its VRAM even so.
const LITTLE: Size = Size(768 * MIB);
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
        Machine::LittleMemory => profile.memory = Size(base.memory.0.min(LITTLE.0)),
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

/// Why a scenario cannot be run with this version of QEMU.
pub fn unsupported(scenario: &str, qemu: (u32, u32)) -> Option<&'static str> {
    let breaks_down = scenario == UNPLUG && qemu <= LAST_WITHOUT_UNPLUG;
    breaks_down.then_some(
        "QEMU up to 11.1 aborts when a vfio-user device is unplugged \
         (memory_region_del_subregion: Assertion `subregion->container == mr')",
    )
}

/// The scenario that has QEMU unplug the device, and the last version of QEMU that breaks down then.
const UNPLUG: &str = "unplug";
const LAST_WITHOUT_UNPLUG: (u32, u32) = (11, 1);

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
        assert_eq!(of(Machine::LittleMemory).memory, LITTLE);
        let few = of(Machine::FewAddressBits);
        assert_eq!((few.phys_bits, few.devices.len()), (Some(36), 1));
    }

    #[test]
    fn unplugging_waits_for_a_qemu_that_survives_it() {
        assert!(hmmgpu_guest_protocol::stress::scenario(UNPLUG).is_some());
        assert!(unsupported(UNPLUG, (11, 1)).is_some());
        assert_eq!(unsupported(UNPLUG, (11, 2)), None);
        assert_eq!(unsupported("unbind", (10, 1)), None);
    }
}
