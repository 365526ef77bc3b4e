//! Tool root, driver build, guest programs and initramfs.
