//! Machine profiles, QEMU command line, launch and supervision; the hmmgpu command.
