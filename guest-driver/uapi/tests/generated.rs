//! The committed C header of the user interface is the one that the definitions give.

use std::fmt::Write as _;
use std::path::Path;

use hmmgpu_contract::emit::{self, CTypes};
use hmmgpu_uapi as uapi;

fn header() -> String {
    let mut out =
        String::from("/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */\n");
    out += &emit::c_comment(
        "User interface of the hmmgpu driver: ioctls of /dev/hmmgpuN.\n\n\
         Generated from the Rust definitions; HMMGPU_BLESS=1 cargo test writes it anew.",
        "",
    );
    out += "#ifndef _UAPI_HMMGPU_H\n#define _UAPI_HMMGPU_H\n\n";
    out += "#include <linux/ioctl.h>\n#include <linux/types.h>\n\n";
    out += "/* Version of this interface. */\n";
    out += &emit::c_define_line("HMMGPU_ABI_VERSION", &uapi::ABI_VERSION.to_string());
    out += "/* Folio orders that statistics tell apart. */\n";
    out += &emit::c_define_line("HMMGPU_ORDERS", &uapi::ORDERS.to_string());
    for constants in uapi::CONSTANTS {
        out += "\n";
        for def in *constants {
            out += &emit::c_comment(def.doc, "");
            let name = format!("HMMGPU_{}", def.name);
            out += &emit::c_define_line(&name, &def.value.to_string());
        }
    }
    for def in uapi::STRUCTS {
        out += "\n";
        out += &emit::c_struct(def, CTypes::Native);
    }
    out += "\n";
    for ioctl in uapi::IOCTLS {
        out += &emit::c_comment(ioctl.doc, "");
        let direction = match ioctl.access {
            "r" => "_IOR",
            "w" => "_IOW",
            _ => "_IOWR",
        };
        writeln!(
            out,
            "#define HMMGPU_IOC_{} \\\n\t{direction}('{}', {:#04x}, struct hmmgpu_{})",
            ioctl.name,
            char::from(uapi::IOC_MAGIC),
            ioctl.nr,
            ioctl.argument
        )
        .unwrap();
    }
    out += "\n#endif /* _UAPI_HMMGPU_H */\n";
    out
}

#[test]
fn c_header_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/uapi/hmmgpu.h");
    emit::check_generated(&path, &header());
}

#[test]
fn request_numbers_are_those_of_the_c_macros() {
    // _IOR('J', 0, 40 bytes), _IOWR('J', 1, 48 bytes), _IOW('J', 4, 8 bytes).
    assert_eq!(uapi::QUERY.request(), 0x8028_4a00);
    assert_eq!(uapi::MIGRATE_TO_DEVICE.request(), 0xc030_4a01);
    assert_eq!(uapi::MARK.request(), 0x4008_4a04);
}
