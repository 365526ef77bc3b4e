//! Machine profiles: what a guest's machine is made of, in TOML.

use std::path::{Path, PathBuf};

use hmmgpu_images::KernelSpec;
use hmmgpu_server::{FaultSpec, LinkSpec};
use hmmgpu_telemetry::CheckMode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::accel::Choice;
use crate::size::{MIB, Size};

/// A machine.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// One line for a person.
    #[serde(default)]
    pub description: String,
    /// Guest memory; [`DEFAULT_MEMORY`] where the profile does not say.
    #[serde(default = "default_memory")]
    pub memory: Size,
    /// Virtual CPUs; `None`: as many as the host has, at most [`MAX_DEFAULT_CPUS`].
    #[serde(default)]
    pub cpus: Option<u32>,
    /// VRAM of each device; [`DEFAULT_VRAM`] where the profile does not say.
    #[serde(default = "default_vram")]
    pub vram: Size,
    /// How closely the driver's use of VRAM is checked: `off`, `folio` (where the profile does not
    /// say) or `full`.
    #[serde(default = "folio")]
    pub check: CheckMode,
    /// hmmgpu devices, 1 to [`MAX_GPUS`]; 1 where the profile does not say.
    #[serde(default = "one")]
    pub gpus: u32,
    /// Kernel of the guest, named as by `--kernel`; `None`: the tool root's. Relative paths count
    /// from the working folder.
    #[serde(default, deserialize_with = "kernel")]
    pub kernel: Option<KernelSpec>,
    /// Accelerator.
    #[serde(default)]
    pub accel: Choice,
    /// Added to the guest kernel's command line.
    #[serde(default)]
    pub kernel_args: Vec<String>,
    /// Leave the kernel's zeroing of memory as it is. `false` switches it off under TCG only.
    #[serde(default = "yes")]
    pub zeroing: bool,
    /// Each device is behind a PCIe port of its own, and can be unplugged while the guest runs.
    #[serde(default)]
    pub pluggable: bool,
    /// Bits of a guest physical address, [`PHYS_BITS`]; `None`: as the CPU has.
    #[serde(default)]
    pub phys_bits: Option<u32>,
    /// Faults that are armed in each device, written as for `--inject`.
    #[serde(default, deserialize_with = "faults")]
    pub inject: Vec<FaultSpec>,
    /// The link that is modelled, written as for `--link`.
    #[serde(default, deserialize_with = "link")]
    pub link: Option<LinkSpec>,
    /// More devices, each the value of one QEMU `-device` option.
    #[serde(default)]
    pub devices: Vec<String>,
}

/// Virtual CPUs of a profile that does not say how many, at most.
pub const MAX_DEFAULT_CPUS: u32 = 4;
/// Virtual CPUs of any machine, at most (q35 without an interrupt remapper).
pub const MAX_CPUS: u32 = 255;
/// Guest memory of a profile that does not say how much.
pub const DEFAULT_MEMORY: Size = Size(2 << 30);
/// VRAM of a profile that does not say how much.
pub const DEFAULT_VRAM: Size = Size(1 << 30);
/// Guest memory, at least. A kernel that finds less than 512 MiB of free memory at boot (what its
/// own image and tables take not counted) switches transparent huge pages off: programs in such a
/// guest would silently measure and test single pages only.
pub const MIN_MEMORY: Size = Size(1 << 30);
/// hmmgpu devices of a machine, at most: each is a process, and a slot on the bus.
pub const MAX_GPUS: u32 = 8;
/// VRAM, at least and at most: the hardware contract's limits.
pub const VRAM_RANGE: (Size, Size) = (Size(64 * MIB), Size(64 << 30));

/// Bits of a guest physical address that a profile can ask for.
pub const PHYS_BITS: std::ops::RangeInclusive<u32> = 36..=52;

/// The profiles that are in the program: name and text.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("default", include_str!("../profiles/default.toml")),
    ("bench", include_str!("../profiles/bench.toml")),
    ("stress", include_str!("../profiles/stress.toml")),
    ("two-gpus", include_str!("../profiles/two-gpus.toml")),
];

/// A profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such name, and no such file.
    #[error(
        "there is no profile '{name}': the built-in ones are {built_in}; the path of a TOML file works too"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names of the built-in profiles.
        built_in: String,
    },
    /// The file cannot be read.
    #[error("{}: cannot read the profile: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is no valid profile.
    #[error("{file}:{line}: {}{message}", key.as_ref().map_or(String::new(), |key| format!("key '{key}': ")))]
    Invalid {
        /// Name of the file, or `built-in profile NAME`.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The offending key, where there is one.
        key: Option<String>,
        /// What is wrong and what is right.
        message: String,
    },
}

fn default_memory() -> Size {
    DEFAULT_MEMORY
}

fn default_vram() -> Size {
    DEFAULT_VRAM
}

fn folio() -> CheckMode {
    CheckMode::Folio
}

fn one() -> u32 {
    1
}

fn kernel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KernelSpec>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

fn faults<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FaultSpec>, D::Error> {
    let faults = Vec::<String>::deserialize(deserializer)?;
    let faults = faults.iter().map(|fault| fault.parse());
    faults.collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn link<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LinkSpec>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

fn yes() -> bool {
    true
}

impl Profile {
    /// The profile of this name, or in this file: what contains a `/` or ends in `.toml` is a
    /// file.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        let is_file =
            name.contains('/') || Path::new(name).extension().is_some_and(|ext| ext == "toml");
        if is_file {
            let path = PathBuf::from(name);
            let text = std::fs::read_to_string(&path).map_err(|source| ProfileError::Read {
                path: path.clone(),
                source,
            })?;
            return Self::parse(&text, name);
        }
        match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, text)) => Self::parse(text, &format!("built-in profile {name}")),
            None => Err(ProfileError::Unknown {
                name: name.to_owned(),
                built_in: BUILT_IN
                    .iter()
                    .map(|(name, _)| *name)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// Parses and validates; `file` is for the error.
    pub fn parse(text: &str, file: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let line = line_of(text, offset);
            ProfileError::Invalid {
                file: file.to_owned(),
                line,
                key: key_on_line(text, line),
                message: error.message().trim_end().to_owned(),
            }
        })?;
        if let Some((key, message)) = profile.first_fault() {
            return Err(ProfileError::Invalid {
                file: file.to_owned(),
                line: line_of_key(text, key),
                key: Some(key.to_owned()),
                message,
            });
        }
        Ok(profile)
    }

    /// The first value that cannot be: its key and what is wrong.
    fn first_fault(&self) -> Option<(&'static str, String)> {
        if let Err(message) = check_memory(self.memory) {
            return Some(("memory", message));
        }
        if let Err(message) = check_vram(self.vram) {
            return Some(("vram", message));
        }
        if let Err(message) = check_gpus(self.gpus) {
            return Some(("gpus", message));
        }
        if let Some(Err(message)) = self.cpus.map(check_cpus) {
            return Some(("cpus", message));
        }
        if let Some(bits) = self.phys_bits.filter(|bits| !PHYS_BITS.contains(bits)) {
            let message = format!("{bits} bits are not possible; a physical address has 36 to 52");
            return Some(("phys_bits", message));
        }
        for argument in &self.kernel_args {
            if let Err(message) = check_kernel_arg(argument) {
                return Some(("kernel_args", message));
            }
        }
        for device in &self.devices {
            if device.trim().is_empty() || device.starts_with('-') {
                return Some((
                    "devices",
                    format!(
                        "'{device}' is not the value of a -device option; write for example \"virtio-rng-pci\""
                    ),
                ));
            }
        }
        None
    }

    /// Virtual CPUs that the machine gets on this host.
    pub fn cpus(&self) -> u32 {
        self.cpus.unwrap_or_else(|| {
            let host = std::thread::available_parallelism().map_or(1, usize::from);
            u32::try_from(host)
                .unwrap_or(MAX_DEFAULT_CPUS)
                .clamp(1, MAX_DEFAULT_CPUS)
        })
    }
}

/// A size of guest memory is possible.
pub fn check_memory(memory: Size) -> Result<(), String> {
    if memory < MIN_MEMORY {
        return Err(format!(
            "{memory} is too little for a guest; at least {MIN_MEMORY}: with less, its kernel switches huge pages off"
        ));
    }
    if !memory.0.is_multiple_of(2 * MIB) {
        return Err(format!("{memory} is not a multiple of 2M"));
    }
    Ok(())
}

/// A size of VRAM is possible.
pub fn check_vram(vram: Size) -> Result<(), String> {
    let (least, most) = VRAM_RANGE;
    if vram < least || vram > most {
        return Err(format!("{vram} is not possible; VRAM is {least} to {most}"));
    }
    if !vram.0.is_multiple_of(2 * MIB) {
        return Err(format!("{vram} is not a multiple of 2M"));
    }
    Ok(())
}

/// A number of virtual CPUs is possible.
pub fn check_cpus(cpus: u32) -> Result<(), String> {
    if cpus == 0 || cpus > MAX_CPUS {
        return Err(format!("{cpus} is not possible; 1 to {MAX_CPUS}"));
    }
    Ok(())
}

/// A number of hmmgpu devices is possible.
pub fn check_gpus(gpus: u32) -> Result<(), String> {
    if gpus == 0 || gpus > MAX_GPUS {
        return Err(format!("{gpus} is not possible; 1 to {MAX_GPUS}"));
    }
    Ok(())
}

/// One word for the kernel's command line.
pub fn check_kernel_arg(argument: &str) -> Result<(), String> {
    if argument.trim().is_empty() || argument.contains(['\n', '\0']) {
        return Err(format!(
            "{argument:?} is no kernel argument; write for example \"transparent_hugepage=always\""
        ));
    }
    Ok(())
}

/// Line, from 1, of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The key that is set on a line, where one is; looks upwards for a value of several lines.
fn key_on_line(text: &str, line: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    lines[..line.min(lines.len())]
        .iter()
        .rev()
        .find_map(|line| {
            let key = line.split_once('=')?.0.trim();
            let plain = !key.is_empty()
                && key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
            plain.then(|| key.to_owned())
        })
}

/// Line, from 1, on which a key is set.
fn line_of_key(text: &str, key: &str) -> usize {
    text.lines()
        .position(|line| {
            line.split_once('=')
                .is_some_and(|(found, _)| found.trim() == key)
        })
        .map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (usize, Option<String>, String) {
        match Profile::parse(text, "my.toml").expect_err("must be refused") {
            error @ ProfileError::Invalid { .. } => {
                let shown = error.to_string();
                let ProfileError::Invalid { line, key, .. } = error else {
                    unreachable!()
                };
                assert!(shown.starts_with(&format!("my.toml:{line}: ")), "{shown}");
                (line, key, shown)
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn built_in_profiles_are_valid() {
        for (name, _) in BUILT_IN {
            Profile::load(name).unwrap_or_else(|error| panic!("{error}"));
        }
        assert!(Profile::load("default").expect("valid").zeroing);
        assert!(!Profile::load("bench").expect("valid").zeroing);
        assert_eq!(
            Profile::load("bench").expect("valid").check,
            CheckMode::Folio
        );
        assert_eq!(Profile::load("default").expect("valid").gpus, 1);
        assert_eq!(Profile::load("two-gpus").expect("valid").gpus, 2);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let (line, key, shown) = error("memory = \"2G\"\nvram = \"1G\"\n\nmemroy = \"2G\"\n");
        assert_eq!((line, key.as_deref()), (4, Some("memroy")));
        assert!(shown.contains("unknown field"), "{shown}");
        assert!(
            shown.contains("kernel_args"),
            "the right keys are listed: {shown}"
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        let (line, key, shown) = error("memory = \"2G\"\nvram = \"lots\"\n");
        assert_eq!((line, key.as_deref()), (2, Some("vram")));
        assert!(shown.contains("'lots' is not a size"), "{shown}");
        let (line, key, _) = error("memory = \"2G\"\nvram = \"1G\"\ncpus = \"two\"\n");
        assert_eq!((line, key.as_deref()), (3, Some("cpus")));
        let (line, key, _) = error("memory = \"2G\"\nvram = \"1G\"\naccel = \"xen\"\n");
        assert_eq!((line, key.as_deref()), (3, Some("accel")));
        let (line, key, shown) = error("memory = \"2G\"\nkernel = \"debian:sid\"\n");
        assert_eq!((line, key.as_deref()), (2, Some("kernel")));
        assert!(shown.contains("write debian:7.2"), "{shown}");
    }

    #[test]
    fn an_impossible_value_is_named_with_its_line() {
        for (setting, key) in [
            ("cpus = 0", "cpus"),
            ("cpus = 1000", "cpus"),
            ("gpus = 0", "gpus"),
            ("gpus = 9", "gpus"),
            ("kernel_args = [\"\"]", "kernel_args"),
            ("devices = [\"-device\"]", "devices"),
            ("check = \"some\"", "check"),
        ] {
            let text = format!("memory = \"2G\"\nvram = \"1G\"\n# a comment\n{setting}\n");
            let (line, found, shown) = error(&text);
            assert_eq!((line, found.as_deref()), (4, Some(key)), "{shown}");
        }
        assert_eq!(error("vram = \"1G\"\nmemory = \"1M\"\n").0, 2);
        assert_eq!(error("memory = \"2G\"\nvram = \"1M\"\n").0, 2);
        assert_eq!(error("memory = \"2G\"\nvram = \"65G\"\n").0, 2);
        assert_eq!(error("memory = \"1048577K\"\nvram = \"1G\"\n").0, 1);
    }

    #[test]
    fn what_a_profile_leaves_out_is_as_in_the_default_one() {
        let default = Profile::load("default").expect("valid");
        assert_eq!(
            (default.memory, default.vram),
            (DEFAULT_MEMORY, DEFAULT_VRAM)
        );
        let profile = Profile::parse("kernel_args = [\"quiet\"]\n", "my.toml").expect("valid");
        let expected = Profile {
            kernel_args: vec!["quiet".to_owned()],
            description: String::new(),
            ..default
        };
        assert_eq!(profile, expected);
    }

    #[test]
    fn a_profile_may_name_a_kernel() {
        let profile = Profile::parse("kernel = \"debian:7.2\"\n", "my.toml").expect("valid");
        assert_eq!(profile.kernel, "debian:7.2".parse().ok());
        assert_eq!(Profile::load("default").expect("valid").kernel, None);
    }

    #[test]
    fn a_profile_may_arm_faults() {
        let text = "inject = [\"copy:fail@3\", \"gpu:reset@9\"]\n";
        let profile = Profile::parse(text, "my.toml").expect("valid");
        let faults = profile.inject.iter().map(ToString::to_string);
        assert!(faults.eq(["copy:fail@3", "gpu:reset@9"]));
        let (line, key, shown) = error("memory = \"2G\"\ninject = [\"copy:burn\"]\n");
        assert_eq!((line, key.as_deref()), (2, Some("inject")));
        assert!(shown.contains("fail, corrupt"), "{shown}");
    }

    #[test]
    fn a_profile_may_model_a_link() {
        let profile = Profile::parse("link = \"8G/6G,2us\"\n", "my.toml").expect("valid");
        assert_eq!(profile.link, "8G/6G,2us".parse().ok());
        let (line, key, shown) = error("link = \"fast\"\n");
        assert_eq!((line, key.as_deref()), (1, Some("link")));
        assert!(shown.contains("pcie5-x16"), "{shown}");
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        assert_eq!(error("memory = \"2G\"\nvram = = 1\n").0, 2);
    }

    #[test]
    fn a_guest_without_huge_pages_is_refused_with_the_reason() {
        let (line, key, shown) = error("# small\nmemory = \"512M\"\n");
        assert_eq!((line, key.as_deref()), (2, Some("memory")));
        assert!(
            shown.contains("at least 1G") && shown.contains("huge pages"),
            "{shown}"
        );
        assert_eq!(check_memory(MIN_MEMORY), Ok(()));
    }

    #[test]
    fn an_unknown_name_lists_the_names() {
        let shown = Profile::load("nosuch").expect_err("unknown").to_string();
        assert!(
            shown.contains("default, bench, stress, two-gpus"),
            "{shown}"
        );
        let shown = Profile::load("./nosuch.toml")
            .expect_err("no file")
            .to_string();
        assert!(shown.contains("./nosuch.toml"), "{shown}");
    }

    #[test]
    fn cpus_default_to_the_host_and_stay_small() {
        let profile = Profile::load("default").expect("valid");
        assert!((1..=MAX_DEFAULT_CPUS).contains(&profile.cpus()));
        assert_eq!(
            Profile {
                cpus: Some(7),
                ..profile
            }
            .cpus(),
            7
        );
    }
}
