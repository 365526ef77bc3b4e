#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hmmgpu_fuzz_targets::result(data));
