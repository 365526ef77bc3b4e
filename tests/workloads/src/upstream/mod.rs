//! Reproducers of the kernel's own mistakes: one program each, described in
//! `tests/scenarios/upstream/`. A program succeeds if it has shown the mistake.

mod kernel_log;
pub(crate) mod remove_migration_pmd;
pub(crate) mod soft_dirty;
pub(crate) mod zap_huge_pmd_folio;
