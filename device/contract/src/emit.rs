//! Text from the definitions: the C header for the driver, and the reference in Markdown.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use crate::{ConstantDef, FieldDef, StructDef, compute, desc, mmu, pci, queue, regs};

/// Line that tells a reader how the file came about.
const GENERATED: &str =
    "Generated from the Rust definitions; HMMGPU_BLESS=1 cargo test writes it anew.";

/// The byte order of a structure's fields in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CTypes {
    /// `__le32` and so on: shared with the device.
    LittleEndian,
    /// `__u32` and so on: shared with programs on the same machine.
    Native,
}

/// A group of constants: heading, prefix in C, digits, definitions.
struct Group {
    title: &'static str,
    prefix: &'static str,
    hex: bool,
    constants: &'static [ConstantDef],
}

const GENERAL: &[ConstantDef] = &[
    ConstantDef {
        name: "CONTRACT_VERSION",
        value: crate::CONTRACT_VERSION as u64,
        doc: " Version of the contract, major << 16 | minor.",
    },
    ConstantDef {
        name: "MAX_ORDER",
        value: crate::MAX_ORDER as u64,
        doc: " Orders that the format can name are 0 to this.",
    },
    ConstantDef {
        name: "MAX_TRANSFER_BYTES",
        value: crate::MAX_TRANSFER_BYTES,
        doc: " Most bytes that one COPY or FILL may cover.",
    },
    ConstantDef {
        name: "VRAM_BLOCK_BYTES",
        value: crate::VRAM_BLOCK_BYTES,
        doc: " VRAM is a whole number of blocks of this size.",
    },
    ConstantDef {
        name: "PHASE_UNIT_NS",
        value: desc::PHASE_UNIT_NS as u64,
        doc: " Unit of the times in NOTE phases, in nanoseconds.",
    },
];

const GROUPS: &[Group] = &[
    Group {
        title: "Version and limits",
        prefix: "",
        hex: true,
        constants: GENERAL,
    },
    Group {
        title: "PCI function",
        prefix: "",
        hex: true,
        constants: pci::PCI,
    },
    Group {
        title: "Registers in BAR 0",
        prefix: "REG_",
        hex: true,
        constants: regs::Reg::DEFS,
    },
    Group {
        title: "Registers of a queue or context",
        prefix: "",
        hex: true,
        constants: regs::QueueReg::DEFS,
    },
    Group {
        title: "Values of registers",
        prefix: "",
        hex: true,
        constants: regs::REGISTER_VALUES,
    },
    Group {
        title: "Limits of queues",
        prefix: "",
        hex: false,
        constants: queue::QUEUE_LIMITS,
    },
    Group {
        title: "Opcodes",
        prefix: "",
        hex: false,
        constants: desc::OPCODES,
    },
    Group {
        title: "Flags",
        prefix: "",
        hex: true,
        constants: desc::FLAGS,
    },
    Group {
        title: "Directions",
        prefix: "",
        hex: false,
        constants: desc::DIRECTIONS,
    },
    Group {
        title: "Triggers",
        prefix: "",
        hex: false,
        constants: desc::TRIGGERS,
    },
    Group {
        title: "Kinds of notes",
        prefix: "",
        hex: false,
        constants: desc::NOTES,
    },
    Group {
        title: "Why large folios did not move whole",
        prefix: "",
        hex: false,
        constants: desc::FALLBACKS,
    },
    Group {
        title: "Status of descriptors",
        prefix: "",
        hex: false,
        constants: desc::Status::DEFS,
    },
    Group {
        title: "Address spaces",
        prefix: "",
        hex: false,
        constants: mmu::ADDRESS_SPACES,
    },
    Group {
        title: "Bits of page-table entries",
        prefix: "",
        hex: true,
        constants: mmu::PTE_BITS,
    },
    Group {
        title: "Opcodes of the invalidation queue",
        prefix: "",
        hex: false,
        constants: mmu::MMU_OPCODES,
    },
    Group {
        title: "What faulted",
        prefix: "",
        hex: false,
        constants: mmu::FaultAccess::DEFS,
    },
    Group {
        title: "Reasons of faults",
        prefix: "",
        hex: false,
        constants: mmu::FaultReason::DEFS,
    },
    Group {
        title: "Opcodes of jobs",
        prefix: "",
        hex: false,
        constants: compute::JOB_OPCODES,
    },
    Group {
        title: "Flags of jobs",
        prefix: "",
        hex: true,
        constants: compute::JOB_FLAGS,
    },
    Group {
        title: "Values of jobs",
        prefix: "",
        hex: true,
        constants: compute::JOB_VALUES,
    },
];

const STRUCTS: &[StructDef] = &[
    desc::Desc::DEF,
    queue::QueueHeader::DEF,
    queue::FenceRecord::DEF,
    mmu::FaultRecord::DEF,
    compute::Job::DEF,
    compute::JobRecord::DEF,
];

/// The driver's hardware header.
pub fn c_header() -> String {
    let mut out =
        String::from("/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT */\n");
    out += &c_comment(&format!("The hmmgpu hardware contract.\n\n{GENERATED}"), "");
    out += "#ifndef HMMGPU_HW_H\n#define HMMGPU_HW_H\n\n#include <linux/types.h>\n";
    for group in GROUPS {
        out += "\n";
        out += &c_comment(group.title, "");
        for constant in group.constants {
            out += &c_define(group, constant);
        }
    }
    out += "\n/* Offset in BAR 0 of register @reg of queue @queue. */\n";
    out += "#define HMMGPU_QUEUE_REG(queue, reg) \\\n";
    out += "\t(HMMGPU_QUEUE_BASE + (queue) * HMMGPU_QUEUE_STRIDE + (reg))\n";
    out += "\n/* Offset in BAR 0 of register @reg of context @context. */\n";
    out += "#define HMMGPU_CONTEXT_REG(context, reg) \\\n";
    out += "\t(HMMGPU_CONTEXT_BASE + (context) * HMMGPU_CONTEXT_STRIDE + (reg))\n";
    for def in STRUCTS {
        out += "\n";
        out += &c_struct(def, CTypes::LittleEndian);
    }
    out += "\n#endif /* HMMGPU_HW_H */\n";
    out
}

fn c_define(group: &Group, constant: &ConstantDef) -> String {
    let name = format!("HMMGPU_{}{}", group.prefix, constant.name);
    let value = number(constant.value, group.hex);
    let suffix = if constant.value > u64::from(u32::MAX) {
        "ULL"
    } else {
        ""
    };
    c_define_line(&name, &format!("{value}{suffix}"))
}

/// A definition in C, its value in a column of its own.
pub fn c_define_line(name: &str, value: &str) -> String {
    let tabs = "\t".repeat(5usize.saturating_sub((8 + name.len()) / 8).max(1));
    format!("#define {name}{tabs}{value}\n")
}

/// A structure in C, with kernel-doc.
pub fn c_struct(def: &StructDef, types: CTypes) -> String {
    let mut doc = format!("struct hmmgpu_{} -", def.name);
    let (summary, rest) = split_doc(def.doc);
    doc += &format!(" {summary}\n");
    for field in def.fields {
        doc += &format!("@{}: {}\n", field.name, field.doc.trim());
    }
    if !rest.is_empty() {
        doc += &format!("\n{rest}\n");
    }
    let mut out = c_kernel_doc(doc.trim_end());
    out += &format!("struct hmmgpu_{} {{\n", def.name);
    for field in def.fields {
        out += &format!("\t{};\n", c_field(field, types));
    }
    out += "};\n";
    out
}

fn c_field(field: &FieldDef, types: CTypes) -> String {
    let (element, count) = element_and_count(field.ty);
    let prefix = match types {
        _ if element == "u8" => "__u",
        CTypes::LittleEndian => "__le",
        CTypes::Native => "__u",
    };
    let bits = element.trim_start_matches('u');
    match count {
        Some(count) => format!("{prefix}{bits} {}[{count}]", field.name),
        None => format!("{prefix}{bits} {}", field.name),
    }
}

/// Splits `[u32; 4]` or `u32` into its parts.
fn element_and_count(ty: &str) -> (&str, Option<&str>) {
    match ty.trim_matches(['[', ']']).split_once(';') {
        Some((element, count)) => (element.trim(), Some(count.trim())),
        None => (ty, None),
    }
}

/// First sentence and the rest of a doc text, with line breaks folded except between paragraphs.
fn split_doc(doc: &str) -> (String, String) {
    let paragraphs: Vec<String> = doc
        .split("\n\n")
        .flat_map(|part| part.split("\n \n"))
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|part| !part.is_empty())
        .collect();
    let first = paragraphs.first().cloned().unwrap_or_default();
    match first.split_once(". ") {
        Some((summary, more)) => {
            let mut rest = Vec::from([more.to_string()]);
            rest.extend_from_slice(&paragraphs[1..]);
            (format!("{summary}."), rest.join("\n\n"))
        }
        None => (first, paragraphs.get(1..).unwrap_or_default().join("\n\n")),
    }
}

fn number(value: u64, hex: bool) -> String {
    if hex {
        format!("{value:#x}")
    } else {
        value.to_string()
    }
}

/// A C comment, folded to the kernel's line length.
pub fn c_comment(text: &str, indent: &str) -> String {
    let lines = fold(text, 76);
    if let [line] = lines.as_slice() {
        return format!("{indent}/* {line} */\n");
    }
    let mut out = format!("{indent}/*\n");
    for line in lines {
        out += format!("{indent} * {line}").trim_end();
        out += "\n";
    }
    out + indent + " */\n"
}

fn c_kernel_doc(text: &str) -> String {
    c_comment(text, "").replacen("/*\n", "/**\n", 1)
}

/// Folds every line of `text` at `width`.
fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        for word in line.split_whitespace() {
            if !current.is_empty() && current.len() + 1 + word.len() > width {
                lines.push(core::mem::take(&mut current));
                // A continued kernel-doc member is indented.
                if line.starts_with('@') {
                    current.push_str("       ");
                }
            }
            if !current.is_empty() && !current.ends_with("       ") {
                current.push(' ');
            }
            current.push_str(word);
        }
        lines.push(current);
    }
    lines
}

/// `docs/hardware.md`: the introductions are the module texts of this crate's own sources.
pub fn markdown() -> String {
    let mut out = String::from("# The hmmgpu hardware\n\n");
    out += &format!("<!-- {GENERATED} -->\n\n");
    out += &module_doc(include_str!("lib.rs"));
    out += "\n## PCI function\n\n";
    out += &module_doc(include_str!("pci.rs"));
    out += &table(&GROUPS[0]);
    out += &table(&GROUPS[1]);
    out += "\n## Registers\n\n";
    out += &module_doc(include_str!("regs.rs"));
    for group in &GROUPS[2..5] {
        out += &table(group);
    }
    out += "\n## Queues\n\n";
    out += &module_doc(include_str!("queue.rs"));
    out += &table(&GROUPS[5]);
    for def in &STRUCTS[1..3] {
        out += &struct_table(def);
    }
    out += "\n## Descriptors\n\n";
    out += &module_doc(include_str!("desc.rs"));
    out += &struct_table(&STRUCTS[0]);
    for group in &GROUPS[6..12] {
        out += &table(group);
    }
    out += "\n## Address spaces\n\n";
    out += &module_doc(include_str!("mmu.rs"));
    for group in &GROUPS[12..17] {
        out += &table(group);
    }
    out += &struct_table(&STRUCTS[3]);
    out += "\n## Compute queues\n\n";
    out += &module_doc(include_str!("compute.rs"));
    out += &struct_table(&STRUCTS[4]);
    out += &struct_table(&STRUCTS[5]);
    for group in &GROUPS[17..] {
        out += &table(group);
    }
    out
}

/// The `//!` text at the top of a source file.
fn module_doc(source: &str) -> String {
    let mut out = String::new();
    for line in source.lines().take_while(|line| line.starts_with("//!")) {
        out += line.trim_start_matches("//!").trim();
        out += "\n";
    }
    out
}

fn table(group: &Group) -> String {
    let mut out = format!(
        "\n### {}\n\n| Name | Value | Meaning |\n|---|---|---|\n",
        group.title
    );
    for constant in group.constants {
        out += &format!(
            "| {} | {} | {} |\n",
            constant.name,
            number(constant.value, group.hex),
            constant.doc.trim().replace('|', "\\|"),
        );
    }
    out
}

fn struct_table(def: &StructDef) -> String {
    let mut out = format!("\n### struct {} ({} bytes)\n\n", def.name, def.size);
    out += &def.doc.split_whitespace().collect::<Vec<_>>().join(" ");
    out += "\n\n| Offset | Size | Field | Meaning |\n|---|---|---|---|\n";
    for field in def.fields {
        out += &format!(
            "| {:#x} | {} | {} | {} |\n",
            field.offset,
            field.size,
            field.name,
            field.doc.trim()
        );
    }
    out
}

/// Compares generated text with a committed file, or writes the file when `HMMGPU_BLESS` is set.
///
/// # Panics
/// When the file is stale or cannot be read or written: this is for tests.
pub fn check_generated(path: &std::path::Path, text: &str) {
    if std::env::var_os("HMMGPU_BLESS").is_some() {
        std::fs::write(path, text)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
    let committed = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    assert!(
        committed == text,
        "{} is stale: run `HMMGPU_BLESS=1 cargo test -p hmmgpu-contract -p hmmgpu-uapi` and commit it",
        path.display()
    );
}
