//! Jobs of the GPU on the memory of a process.

mod access;
mod changes;
mod descriptors;
mod kernels;
mod policies;
mod stuck;
mod submit;

use std::ops::Range;

pub(super) use descriptors::kept_gpu;

use super::Scenario;
use super::setup::Filled;
use crate::gpu::Command;
use crate::pattern;
use crate::reference::Checksum;
use crate::sys::memory::{Memory, PAGE, WORDS};

pub(super) const SCENARIOS: &[Scenario] = &[
    ("jobs_on_bytes", kernels::bytes),
    ("jobs_on_words", kernels::words),
    ("jobs_on_floats", kernels::floats),
    ("jobs_with_indices", kernels::indices),
    ("jobs_on_lists", kernels::lists),
    ("jobs_that_add_atomically", kernels::additions),
    ("one_fault_moves_2_mib", policies::one_fault_moves_2_mib),
    (
        "faults_move_single_pages",
        policies::faults_move_single_pages,
    ),
    (
        "prefetched_memory_does_not_fault",
        policies::prefetched_memory_does_not_fault,
    ),
    (
        "prefer_system_brings_home",
        policies::prefer_system_brings_home,
    ),
    ("access_in_place_leaves", policies::access_in_place_leaves),
    (
        "faults_make_room_in_vram",
        policies::faults_make_room_in_vram,
    ),
    (
        "prefer_device_stays_longest",
        policies::prefer_device_stays_longest,
    ),
    (
        "atomics_in_place_are_exclusive",
        policies::atomics_in_place_are_exclusive,
    ),
    (
        "read_only_memory_refuses_writes",
        access::read_only_memory_refuses_writes,
    ),
    (
        "inaccessible_memory_ends_jobs",
        access::inaccessible_memory_ends_jobs,
    ),
    (
        "unmapped_memory_ends_jobs",
        access::unmapped_memory_ends_jobs,
    ),
    (
        "kernel_addresses_end_jobs",
        access::kernel_addresses_end_jobs,
    ),
    (
        "untouched_memory_reads_as_zero",
        access::untouched_memory_reads_as_zero,
    ),
    (
        "file_memory_is_used_in_place",
        access::file_memory_is_used_in_place,
    ),
    (
        "private_file_memory_is_copied_on_write",
        access::private_file_memory_is_copied_on_write,
    ),
    (
        "shared_memory_is_used_in_place",
        access::shared_memory_is_used_in_place,
    ),
    (
        "huge_page_pool_is_used_in_place",
        access::huge_page_pool_is_used_in_place,
    ),
    (
        "atomics_need_anonymous_memory",
        access::atomics_need_anonymous_memory,
    ),
    ("munmap_during_a_job", changes::munmap_during_a_job),
    ("mprotect_during_a_job", changes::mprotect_during_a_job),
    ("mremap_during_a_job", changes::mremap_during_a_job),
    ("dontneed_during_a_job", changes::dontneed_during_a_job),
    ("fork_during_a_job", changes::fork_during_a_job),
    (
        "a_stuck_job_stops_no_other",
        stuck::a_stuck_job_stops_no_other,
    ),
    (
        "a_stuck_job_can_be_unmapped",
        stuck::a_stuck_job_can_be_unmapped,
    ),
    ("exit_during_a_job", stuck::exit_during_a_job),
    ("close_during_a_job", stuck::close_during_a_job),
    ("killed_during_a_fault", stuck::killed_during_a_fault),
    ("wait_has_a_limit", stuck::wait_has_a_limit),
    (
        "a_full_queue_refuses_jobs",
        stuck::a_full_queue_refuses_jobs,
    ),
    ("jobs_are_checked", submit::jobs_are_checked),
    (
        "jobs_that_break_a_rule_end",
        submit::jobs_that_break_a_rule_end,
    ),
    (
        "results_are_kept_for_a_while",
        submit::results_are_kept_for_a_while,
    ),
    ("advice_is_checked", submit::advice_is_checked),
    (
        "inherited_gpu_means_the_opener",
        descriptors::inherited_gpu_means_the_opener,
    ),
    (
        "a_gpu_of_a_process_that_is_gone",
        descriptors::a_gpu_of_a_process_that_is_gone,
    ),
    (
        "exec_ends_what_a_gpu_means",
        descriptors::exec_ends_what_a_gpu_means,
    ),
    (
        "processes_work_at_once",
        descriptors::processes_work_at_once,
    ),
    (
        "descriptors_of_a_process_share_memory",
        descriptors::descriptors_of_a_process_share_memory,
    ),
];

/// Bytes of pages.
fn bytes(pages: &Range<usize>) -> u64 {
    (pages.len() * PAGE) as u64
}

/// Has pages read.
fn checksum(memory: &Memory, pages: Range<usize>) -> Command {
    Command::Checksum {
        src: memory.page_address(pages.start) as u64,
        words: (pages.len() * WORDS) as u64,
    }
}

/// Has pages written.
fn fill(memory: &Memory, pages: Range<usize>, pattern: u64) -> Command {
    Command::Fill {
        dst: memory.page_address(pages.start) as u64,
        pattern,
        bytes: bytes(&pages),
    }
}

/// The checksum of pages with a pattern.
fn expected(filled: &Filled, pages: Range<usize>) -> u64 {
    let mut checksum = Checksum::new();
    for page in pages {
        let base = pattern::page_base(filled.seed, page);
        checksum.add((0..WORDS).map(|index| pattern::word(base, index)));
    }
    checksum.value()
}

/// Whether all words of pages are this one.
fn verify_word(memory: &Memory, pages: Range<usize>, word: u64) -> anyhow::Result<()> {
    for page in pages {
        let wrong = pattern::bytes_unlike(memory.words(page), word);
        anyhow::ensure!(wrong == 0, "page {page}: {wrong} bytes are not {word:#x}");
    }
    Ok(())
}
