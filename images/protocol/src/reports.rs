//! Lines of the guest kernel's log that look like trouble and are meant to be there.

use crate::stress::PROGRAM;

/// Whether a line is a report of the kernel's own, of a mistake that no driver can avoid. There is
/// one: `tests/scenarios/upstream/remove-migration-pmd.md`. The kernel gives it once after a boot,
/// and it hides no other one.
pub fn is_upstreams(line: &str) -> bool {
    line.starts_with("WARNING: mm/huge_memory.c:") && line.contains(" at remove_migration_pmd+")
}

/// Whether a line says that a program of stress was ended because memory was over.
pub fn is_out_of_memory(line: &str) -> bool {
    line.contains("Out of memory: Killed process") && line.contains(&format!("({PROGRAM})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_these_are_expected() {
        let known =
            "WARNING: mm/huge_memory.c:4986 at remove_migration_pmd+0x5a3/0x700, CPU#1: x/77";
        assert!(is_upstreams(known));
        for other in [
            "WARNING: mm/huge_memory.c:4986 at set_pmd_migration_entry+0x5/0x70, CPU#1: x/77",
            "WARNING: mm/rmap.c:12 at remove_migration_pmd+0x5a3/0x700, CPU#1: x/77",
            "BUG: KASAN: use-after-free in remove_migration_pmd+0x5a3/0x700",
        ] {
            assert!(!is_upstreams(other), "{other}");
        }
        let killed = "Out of memory: Killed process 77 (hmmgpu-stress) total-vm:1kB";
        assert!(is_out_of_memory(killed));
        assert!(!is_out_of_memory(
            "Out of memory: Killed process 1 (init) total-vm:1kB"
        ));
    }
}
