//! Layouts and names of the contract.

use std::collections::HashSet;

use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::mmu::{
    PT_BITS, PT_LEVELS, PTE_ADDRESS, PTE_ATOMIC, PTE_LEAF, PTE_VALID, PTE_VRAM, PTE_WRITE, VA_BITS,
};
use hmmgpu_contract::queue::{FenceRecord, QueueHeader};
use hmmgpu_contract::regs::{self, QueueReg, Reg, context_reg, queue_reg};
use hmmgpu_contract::{pci, queue};

#[test]
fn descriptor_has_its_documented_little_endian_form() {
    let desc = Desc {
        opcode: 1,
        order: 9,
        flags: 0x0203,
        count: 0x0405_0607,
        dst: 0x1112_1314_1516_1718,
        src: 0x2122_2324_2526_2728,
        arg: 0x3132_3334_3536_3738,
    };
    let bytes = desc.to_le_bytes();
    assert_eq!(bytes[..8], [1, 9, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04]);
    assert_eq!(bytes[8..16], 0x1112_1314_1516_1718u64.to_le_bytes());
    assert_eq!(bytes[16..24], 0x2122_2324_2526_2728u64.to_le_bytes());
    assert_eq!(bytes[24..], 0x3132_3334_3536_3738u64.to_le_bytes());
    assert_eq!(Desc::from_le_bytes(&bytes), desc);
}

#[test]
fn polled_words_have_cache_lines_of_their_own() {
    let offset = |name| {
        QueueHeader::DEF
            .fields
            .iter()
            .find(|f| f.name == name)
            .unwrap()
            .offset
    };
    assert_eq!(
        [offset("producer"), offset("need_kick"), offset("consumer")],
        [0, 64, 128]
    );
}

#[test]
fn a_fence_record_does_not_straddle_a_cache_line() {
    assert_eq!(
        FenceRecord::SIZE,
        usize::try_from(queue::FENCE_ALIGN).unwrap()
    );
    assert_eq!(64 % FenceRecord::SIZE, 0);
}

#[test]
fn register_offsets_are_distinct_aligned_words_inside_the_bar() {
    let mut seen = HashSet::new();
    for def in Reg::DEFS {
        assert!(
            def.value % 4 == 0 && def.value < u64::from(regs::QUEUE_BASE),
            "{}",
            def.name
        );
        assert!(seen.insert(def.value), "{} shares its offset", def.name);
    }
    let mut seen = HashSet::new();
    for def in QueueReg::DEFS {
        assert!(
            def.value % 4 == 0 && def.value < u64::from(regs::QUEUE_STRIDE),
            "{}",
            def.name
        );
        assert!(seen.insert(def.value), "{} shares its offset", def.name);
    }
    let last = queue_reg(regs::FAULT_QUEUE, QueueReg::QUEUE_DOORBELL);
    assert!(last + 4 <= pci::BAR_REGISTERS_SIZE);
}

const _: () = {
    assert!(pci::MSIX_TABLE_OFFSET + pci::MSIX_VECTORS * 16 <= pci::MSIX_PBA_OFFSET);
    assert!(pci::MSIX_PBA_OFFSET + pci::MSIX_VECTORS.div_ceil(64) * 8 <= pci::BAR_MSIX_SIZE);
};

#[test]
fn unknown_values_of_open_enums_can_be_shown() {
    assert_eq!(
        format!("{:?}", Status::STATUS_BAD_ORDER),
        "STATUS_BAD_ORDER"
    );
    assert_eq!(format!("{:?}", Status(77)), "Status(0x4d)");
    assert_eq!(Reg(0x7fc).name(), None);
}

#[test]
fn contexts_lie_behind_queues_and_inside_the_bar() {
    let fault = queue_reg(regs::FAULT_QUEUE, QueueReg::QUEUE_DOORBELL);
    assert!(fault < regs::CONTEXT_BASE);
    let last = context_reg(regs::MAX_CONTEXTS - 1, QueueReg::CONTEXT_ROOT_HI);
    assert!(last < pci::BAR_REGISTERS_SIZE);
    const { assert!(QueueReg::CONTEXT_ROOT_HI.0 < regs::CONTEXT_STRIDE) };
}

#[test]
fn interrupt_causes_are_apart() {
    let fault = regs::INT_QUEUE0 << regs::FAULT_QUEUE;
    assert!(fault < regs::INT_COMPUTE);
    assert_eq!(regs::INT_COMPUTE.count_ones(), 1);
}

#[test]
fn entries_of_page_tables_have_no_bit_twice() {
    let bits = [
        PTE_VALID,
        PTE_WRITE,
        PTE_ATOMIC,
        PTE_VRAM,
        PTE_LEAF,
        PTE_ADDRESS,
    ];
    let all = bits.iter().fold(0, |all, bit| all | bit);
    let sum: u32 = bits.iter().map(|bit| bit.count_ones()).sum();
    assert_eq!(all.count_ones(), sum);
    assert_eq!(PT_LEVELS * PT_BITS + 12, VA_BITS);
}
