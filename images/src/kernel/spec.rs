//! How a kernel is named.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::ImageError;

/// Before the name of one of Debian's kernels.
const DEBIAN: &str = "debian:";
/// The name of a kernel that was built here; a version may follow, after a colon.
const DEBUG: &str = "debug";

/// A kernel, as it is named on the command line and in profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelSpec {
    /// `debian:NAME`: a series (`7.2`: its newest), a version (`7.2.12`, `7.3-rc7`) or a release
    /// (`7.2.12+deb14-amd64`) in Debian's archive.
    Debian(String),
    /// `debug` or `debug:VERSION`: what `hmmgpu kernel build --debug` built, the newest of that
    /// series or version.
    Debug(Option<String>),
    /// A folder: a tree that a kernel was built in.
    Tree(PathBuf),
    /// `IMAGE,MODULES[,HEADERS]`: a kernel that was built elsewhere.
    Image {
        /// The bootable image (bzImage).
        image: PathBuf,
        /// What `make modules_install` made: the folder with `modules.dep`.
        modules: PathBuf,
        /// What modules are built against; `None`: `build` in `modules`.
        headers: Option<PathBuf>,
    },
}

/// A text names no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' names no kernel ({why}): write debian:7.2, debug, the folder of a built kernel tree, \
     or BZIMAGE,MODULES"
)]
pub struct SpecError {
    text: String,
    why: &'static str,
}

impl FromStr for KernelSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let refuse = |why| SpecError {
            text: text.to_owned(),
            why,
        };
        if let Some(name) = text.strip_prefix(DEBIAN) {
            return match check_name(name) {
                Ok(()) => Ok(Self::Debian(name.to_owned())),
                Err(why) => Err(refuse(why)),
            };
        }
        match text
            .strip_prefix(DEBUG)
            .map(|rest| rest.strip_prefix(':').ok_or(rest))
        {
            Some(Err("")) => return Ok(Self::Debug(None)),
            Some(Ok(name)) => {
                return match check_name(name) {
                    Ok(()) => Ok(Self::Debug(Some(name.to_owned()))),
                    Err(why) => Err(refuse(why)),
                };
            }
            // Another word that begins like this.
            Some(Err(_)) | None => {}
        }
        // A folder may have a comma in its name.
        if Path::new(text).is_dir() || !text.contains(',') {
            return match text {
                "" => Err(refuse("it is empty")),
                _ => Ok(Self::Tree(text.into())),
            };
        }
        let parts: Vec<&str> = text.split(',').collect();
        if parts.contains(&"") {
            return Err(refuse("a path is empty"));
        }
        match parts.as_slice() {
            [image, modules, headers @ ..] if headers.len() <= 1 => Ok(Self::Image {
                image: image.into(),
                modules: modules.into(),
                headers: headers.first().map(PathBuf::from),
            }),
            _ => Err(refuse("there are more than three paths")),
        }
    }
}

impl KernelSpec {
    /// Says what is wrong with the user's own kernel, before anything is made. A kernel of
    /// Debian's is looked for only when it is needed, and one that was built here by
    /// [`Images`](crate::Images), which knows where.
    ///
    /// # Errors
    /// [`ImageError::NotKernel`], [`ImageError::KernelConfig`], [`ImageError::KernelNotBuilt`].
    pub fn check(&self) -> Result<(), ImageError> {
        match self {
            Self::Debian(_) | Self::Debug(_) => Ok(()),
            Self::Tree(path) => super::tree::check_tree(path),
            Self::Image {
                image,
                modules,
                headers,
            } => super::tree::check_image(image, modules, headers.as_deref()),
        }
    }
}

/// A name is two numbers at least, and goes into names of packages.
fn check_name(name: &str) -> Result<(), &'static str> {
    let number = |text: Option<&str>| {
        text.is_some_and(|text| text.starts_with(|first: char| first.is_ascii_digit()))
    };
    let mut parts = name.split('.');
    if !number(parts.next()) || !number(parts.next()) {
        return Err("a series is two numbers");
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "+-.~".contains(c);
    if name.chars().all(fine) {
        Ok(())
    } else {
        Err("a release has letters, digits and +-.~ only")
    }
}

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian(name) => write!(f, "{DEBIAN}{name}"),
            Self::Debug(None) => f.write_str(DEBUG),
            Self::Debug(Some(name)) => write!(f, "{DEBUG}:{name}"),
            Self::Tree(path) => write!(f, "{}", path.display()),
            Self::Image {
                image,
                modules,
                headers,
            } => {
                write!(f, "{},{}", image.display(), modules.display())?;
                match headers {
                    Some(headers) => write!(f, ",{}", headers.display()),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        let image = |headers: Option<&str>| KernelSpec::Image {
            image: "/boot/vmlinuz".into(),
            modules: "/lib/modules/x".into(),
            headers: headers.map(PathBuf::from),
        };
        for (text, spec) in [
            ("debian:7.2", KernelSpec::Debian("7.2".into())),
            ("debian:7.3-rc7", KernelSpec::Debian("7.3-rc7".into())),
            (
                "debian:7.2.12+deb14-amd64",
                KernelSpec::Debian("7.2.12+deb14-amd64".into()),
            ),
            ("debug", KernelSpec::Debug(None)),
            ("debug:7.3.4", KernelSpec::Debug(Some("7.3.4".into()))),
            ("./debug", KernelSpec::Tree("./debug".into())),
            ("debugged", KernelSpec::Tree("debugged".into())),
            ("../linux", KernelSpec::Tree("../linux".into())),
            ("7.2", KernelSpec::Tree("7.2".into())),
            ("/boot/vmlinuz,/lib/modules/x", image(None)),
            ("/boot/vmlinuz,/lib/modules/x,/src", image(Some("/src"))),
        ] {
            assert_eq!(text.parse(), Ok(spec.clone()));
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_is() {
        for text in [
            "",
            "debian:",
            "debian:7",
            "debian:sid",
            "debian:7.x",
            "debian:7.2;true",
            "debian:7.2 ",
            "debug:",
            "debug:new",
            "a,",
            ",b",
            "a,b,c,d",
        ] {
            let error = text.parse::<KernelSpec>().unwrap_err().to_string();
            assert!(error.contains("debian:7.2, debug, the folder"), "{error}");
        }
    }

    #[test]
    fn a_folder_may_have_a_comma_in_its_name() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a,b");
        std::fs::create_dir(&folder).unwrap();
        let text = folder.to_str().unwrap();
        assert_eq!(text.parse(), Ok(KernelSpec::Tree(folder.clone())));
    }
}
