//! What a kernel must be configured for, and whether one is.

use std::collections::BTreeMap;
use std::path::Path;

use crate::ImageError;

/// How an option has to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    BuiltIn,
    BuiltInOrModule,
    Off,
}

use Wanted::{BuiltIn, BuiltInOrModule, Off};

/// Options, without `CONFIG_`, and what the guest needs them for.
const REQUIRED: &[(&str, Wanted, &str)] = &[
    ("64BIT", BuiltIn, "the device has 64-bit addresses"),
    (
        "DEVICE_PRIVATE",
        BuiltIn,
        "memory of a device; needs MEMORY_HOTREMOVE and ZONE_DEVICE",
    ),
    (
        "TRANSPARENT_HUGEPAGE",
        BuiltIn,
        "huge pages, which are what migrates",
    ),
    (
        "HMM_MIRROR",
        BuiltIn,
        "the GPU's page tables; has no prompt: TEST_HMM=m turns it on",
    ),
    (
        "MMU_NOTIFIER",
        BuiltIn,
        "the GPU's page tables; comes with HMM_MIRROR",
    ),
    ("MIGRATION", BuiltIn, "migration"),
    ("MODULES", BuiltIn, "the driver is a module"),
    (
        "MODULE_SIG_FORCE",
        Off,
        "the driver is built here and not signed",
    ),
    ("PCI", BuiltIn, "the device is on PCI"),
    ("PCI_MSI", BuiltIn, "the device's interrupts"),
    ("ACPI", BuiltIn, "switching the machine off"),
    ("BLK_DEV_INITRD", BuiltIn, "all files are in an initramfs"),
    ("BINFMT_ELF", BuiltIn, "programs"),
    ("BINFMT_SCRIPT", BuiltIn, "scripts"),
    ("FUTEX", BuiltIn, "programs with threads"),
    ("EVENTFD", BuiltIn, "the guest's init"),
    ("INOTIFY_USER", BuiltIn, "the guest's init"),
    ("PROC_FS", BuiltIn, "/proc"),
    ("SYSFS", BuiltIn, "/sys"),
    ("DEVTMPFS", BuiltIn, "/dev"),
    ("TMPFS", BuiltIn, "/tmp and /run"),
    ("PRINTK", BuiltIn, "the console's messages"),
    ("SERIAL_8250_CONSOLE", BuiltIn, "the console"),
    ("VIRTIO_PCI", BuiltInOrModule, "the line to the host"),
    (
        "VIRTIO_CONSOLE",
        BuiltInOrModule,
        "the line to the host; needs VIRTIO_MENU",
    ),
];

/// A kernel's configuration: options that are set, without `CONFIG_`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config(BTreeMap<String, String>);

impl Config {
    pub(crate) fn read(path: &Path) -> Result<Self, ImageError> {
        let text = std::fs::read_to_string(path).map_err(ImageError::io("read", path))?;
        Ok(Self::of(&text))
    }

    /// Of the text of a `.config` or `auto.conf`.
    pub(super) fn of(text: &str) -> Self {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            let value = value.trim();
            (value != "n").then(|| (name.to_owned(), value.to_owned()))
        });
        Self(options.collect())
    }

    /// The value of an option, without quotes.
    pub(crate) fn get(&self, option: &str) -> Option<&str> {
        let value = self.0.get(option)?;
        let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        Some(inner.unwrap_or(value))
    }

    /// Whether an option is built in.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.get(option) == Some("y")
    }

    /// The first option that is on or off here and otherwise in the other configuration. Strings
    /// do not count: not every file writes them alike.
    pub(crate) fn first_difference<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let switches = |config: &'a Self| {
            let is_switch = |(_, value): &(&String, &String)| matches!(value.as_str(), "y" | "m");
            config.0.iter().filter(is_switch)
        };
        let (ours, theirs): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (switches(self).collect(), switches(other).collect());
        let differs = |name: &&&String| ours.get(*name) != theirs.get(*name);
        let name = ours.keys().chain(theirs.keys()).find(differs)?;
        Some(name.as_str())
    }

    /// A line for each option that is not as the guest needs it: how it should be, and for what.
    pub(super) fn faults(&self) -> Vec<String> {
        let fault = |&(option, wanted, why): &(&str, Wanted, &str)| {
            let value = self.get(option);
            let (fine, should) = match wanted {
                BuiltIn => (value == Some("y"), "=y"),
                BuiltInOrModule => (matches!(value, Some("y" | "m")), "=y or =m"),
                Off => (value.is_none(), " off"),
            };
            (!fine).then(|| format!("CONFIG_{option}{should}: {why}"))
        };
        REQUIRED.iter().filter_map(fault).collect()
    }

    /// Refuses a kernel that the guest could not run on, with all that it lacks. `file`: where
    /// the configuration is.
    pub(crate) fn check(&self, file: &Path) -> Result<(), ImageError> {
        let missing = self.faults();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ImageError::KernelConfig {
            file: file.to_owned(),
            missing,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A configuration with all that is needed.
    pub(in crate::kernel) fn complete() -> String {
        let lines = REQUIRED.iter().map(|(option, wanted, _)| match wanted {
            BuiltIn => format!("CONFIG_{option}=y\n"),
            BuiltInOrModule => format!("CONFIG_{option}=m\n"),
            Off => format!("# CONFIG_{option} is not set\n"),
        });
        lines.collect()
    }

    fn error(text: &str) -> String {
        let config = Config::of(text);
        config
            .check(Path::new("/linux/.config"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_complete_configuration_is_fine() {
        assert_eq!(Config::of(&complete()).check(Path::new("x")).ok(), Some(()));
    }

    #[test]
    fn each_missing_option_is_named() {
        for (option, wanted, why) in REQUIRED {
            let text = match wanted {
                Off => format!("{}CONFIG_{option}=y\n", complete()),
                _ => complete().replace(&format!("CONFIG_{option}="), "# "),
            };
            let error = error(&text);
            assert!(error.contains("/linux/.config"), "{error}");
            assert!(error.contains(&format!("CONFIG_{option}")), "{error}");
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn all_of_them_are_named_at_once() {
        let error = error("CONFIG_64BIT=y\nCONFIG_PCI_MSI=m\n# CONFIG_FUTEX is not set\n");
        for option in [
            "DEVICE_PRIVATE=y",
            "TRANSPARENT_HUGEPAGE=y",
            "PCI_MSI=y",
            "FUTEX=y",
        ] {
            assert!(error.contains(&format!("CONFIG_{option}")), "{error}");
        }
        assert!(!error.contains("64BIT"), "{error}");
    }

    #[test]
    fn a_difference_is_one_of_switches() {
        let of = Config::of;
        let base = of("CONFIG_A=y\nCONFIG_B=m\nCONFIG_S=\"x\"\n");
        let same = of("CONFIG_S=x\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n");
        assert_eq!(base.first_difference(&same), None);
        let module = of("CONFIG_A=m\nCONFIG_B=m\n");
        assert_eq!(base.first_difference(&module), Some("A"));
        let less = of("CONFIG_A=y\n");
        assert_eq!(base.first_difference(&less), Some("B"));
        assert_eq!(less.first_difference(&base), Some("B"));
    }

    #[test]
    fn values_have_no_quotes() {
        let config = Config::of("CONFIG_CC_VERSION_TEXT=\"gcc (x) 14.2\"\nCONFIG_A=n\n");
        assert_eq!(config.get("CC_VERSION_TEXT"), Some("gcc (x) 14.2"));
        assert_eq!(config.get("A"), None);
        assert!(!config.has("CC_VERSION_TEXT"));
    }
}
