//! Profiles: texts that anybody may have written.

use hmmgpu::profile::{
    Profile, ProfileError, check_cpus, check_gpus, check_kernel_arg, check_memory, check_vram,
};

const FILE: &str = "my.toml";

/// A text as a profile. Holds: it is refused with a line of it, or every value is possible; to
/// read it again, or with a comment behind it, gives the same; and values that are written for
/// people are read back as the same values.
pub fn profile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let commented = format!("{text}\n# nothing more");
    match Profile::parse(text, FILE) {
        Ok(profile) => {
            check(&profile);
            let again = Profile::parse(text, FILE).expect("what was read before");
            assert_eq!(again, profile);
            let again = Profile::parse(&commented, FILE).expect("a comment changes nothing");
            assert_eq!(again, profile);
        }
        Err(error) => {
            let shown = error.to_string();
            let ProfileError::Invalid { line, .. } = error else {
                panic!("a text is no missing file: {shown}");
            };
            let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
            assert!((1..=lines).contains(&line), "line {line} of {lines}");
            assert!(shown.starts_with("my.toml:"), "{shown}");
            // Half of an end of a line is mended by the other half.
            if !text.ends_with('\r') {
                Profile::parse(&commented, FILE).expect_err("a comment mends nothing");
            }
        }
    }
}

fn check(profile: &Profile) {
    check_memory(profile.memory).expect("possible memory");
    check_vram(profile.vram).expect("possible VRAM");
    check_gpus(profile.gpus).expect("possible GPUs");
    assert!(profile.cpus.is_none_or(|cpus| check_cpus(cpus).is_ok()));
    assert!(profile.cpus() >= 1);
    for argument in &profile.kernel_args {
        check_kernel_arg(argument).expect("a possible argument");
    }
    for size in [profile.memory, profile.vram] {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
    if let Some(kernel) = &profile.kernel {
        assert_eq!(kernel.to_string().parse().as_ref(), Ok(kernel));
    }
}
