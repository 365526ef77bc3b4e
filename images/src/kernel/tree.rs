//! Kernels that the user has built. Their folders are only read.

use std::fs;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::{Build, Kernel, Modules, Place, Source, boot_image, compiler};
use crate::ImageError;
use crate::keys::Key;
use crate::sandbox::{Bind, ToolRoot};

/// Counts changes in what a kernel's identity is made of.
const VERSION: u32 = 1;
/// The bootable image in a tree.
const IMAGE: &str = "arch/x86/boot/bzImage";
/// What the build system keeps of `.config`.
pub(super) const BUILT_CONFIG: &str = "include/config/auto.conf";
/// The release that modules are built for.
const RELEASE: &str = "include/generated/utsrelease.h";
/// Symbols that modules may use.
pub(super) const SYMBOLS: &str = "Module.symvers";
/// What a built tree has beside its configuration.
const BUILT: &[&str] = &[IMAGE, SYMBOLS, RELEASE, "scripts/mod/modpost"];
/// What to build against has these.
const HEADERS: &[&str] = &["Makefile", BUILT_CONFIG, SYMBOLS, RELEASE];
/// Where device-private memory says whether it can be huge: the callback for a split.
const PAGEMAP: (&str, &str) = ("include/linux/memremap.h", "(*folio_split)");
/// Folders of a sandbox that nothing can be put into.
const OCCUPIED: &[&str] = &["/usr", "/etc"];
/// Where a tree in one of those is seen.
const ELSEWHERE: &str = "/kernel";

/// A tree that is complete and fit for the guest.
#[derive(Debug)]
struct Tree {
    folder: PathBuf,
    /// The top folder of its source: another one, if it was built by `make O=`.
    source: PathBuf,
    config: Config,
    release: String,
}

/// Refuses a tree that no guest could run.
pub(super) fn check_tree(path: &Path) -> Result<(), ImageError> {
    Tree::open(path).map(|_| ())
}

/// The kernel of a tree.
pub(crate) fn of_tree(root: &ToolRoot, path: &Path) -> Result<Kernel, ImageError> {
    let tree = Tree::open(path)?;
    let image = tree.folder.join(IMAGE);
    let mut identity = Key::new("tree", VERSION);
    identity.file("image", &image)?;
    for file in [BUILT_CONFIG, SYMBOLS] {
        identity.file(file, &tree.folder.join(file))?;
    }
    let mut build = build(root, &tree.folder, &tree.config)?;
    if tree.source != tree.folder {
        build.binds.push(Bind::read_only(&tree.source));
    }
    Ok(Kernel {
        release: tree.release,
        image,
        modules: Modules::Tree(tree.folder),
        build,
        source: Source::Tree(tree.source),
        identity: identity.finish(),
    })
}

impl Tree {
    fn open(path: &Path) -> Result<Self, ImageError> {
        let refuse = |why: &str| ImageError::NotKernel {
            path: path.to_owned(),
            why: why.to_owned(),
        };
        if path.is_file() {
            return Err(refuse(
                "it is a file; with an image its modules have to be named: BZIMAGE,MODULES",
            ));
        }
        if !path.is_dir() {
            return Err(refuse(
                "there is no such folder; one of Debian's kernels is named as debian:7.2",
            ));
        }
        let folder = absolute(path)?;
        let has = |name: &str| folder.join(name).exists();
        if !has("Makefile") {
            return Err(refuse("it has no Makefile; name the top folder of a tree"));
        }
        let source = match folder.join("Kconfig").is_file() {
            true => folder.clone(),
            false => fs::canonicalize(folder.join("source")).unwrap_or_else(|_| folder.clone()),
        };
        if !source.join("Kconfig").is_file() {
            return Err(refuse("it has no Kconfig; name the top folder of a tree"));
        }
        if !has(".config") {
            return Err(refuse("it has no .config; configure it and run make in it"));
        }
        let config_file = folder.join(".config");
        let config = Config::read(&config_file)?;
        config.check(&config_file)?;
        check_pagemap(&source).map_err(|why| refuse(&why))?;

        let not_built = |why: String| ImageError::KernelNotBuilt {
            path: folder.clone(),
            why,
        };
        if let Some(missing) = BUILT.iter().find(|name| !has(name)) {
            return Err(not_built(format!("it has no {missing}")));
        }
        let built_config = Config::read(&folder.join(BUILT_CONFIG))?;
        if let Some(option) = config.first_difference(&built_config) {
            return Err(not_built(format!(
                "its .config has changed since then (CONFIG_{option})"
            )));
        }
        let release = boot_image::release(&folder.join(IMAGE))?;
        let headers = release_of(&folder)?;
        if release != headers {
            return Err(not_built(format!(
                "its bzImage is of {release}, and it is {headers} now"
            )));
        }
        Ok(Self {
            folder,
            source,
            config,
            release,
        })
    }
}

/// Refuses an image with its modules and headers that no guest could run.
pub(super) fn check_image(
    image: &Path,
    modules: &Path,
    headers: Option<&Path>,
) -> Result<(), ImageError> {
    open_image(image, modules, headers).map(|_| ())
}

/// The kernel in an image.
pub(crate) fn of_image(
    root: &ToolRoot,
    image: &Path,
    modules: &Path,
    headers: Option<&Path>,
) -> Result<Kernel, ImageError> {
    let (release, headers, config) = open_image(image, modules, headers)?;
    let (image, modules) = (absolute(image)?, absolute(modules)?);
    let mut identity = Key::new("image", VERSION);
    identity.file("image", &image)?;
    for file in [BUILT_CONFIG, SYMBOLS] {
        identity.file(file, &headers.join(file))?;
    }
    let source = if headers.join("mm/memory.c").is_file() {
        Source::Tree(headers.clone())
    } else {
        Source::Unknown
    };
    Ok(Kernel {
        release,
        image,
        modules: Modules::Installed(modules),
        build: build(root, &headers, &config)?,
        source,
        identity: identity.finish(),
    })
}

/// Release, folder to build against, and configuration.
pub(super) fn open_image(
    image: &Path,
    modules: &Path,
    headers: Option<&Path>,
) -> Result<(String, PathBuf, Config), ImageError> {
    let release = boot_image::release(image)?;
    let refuse = |path: &Path, why: String| ImageError::NotKernel {
        path: path.to_owned(),
        why,
    };
    for name in ["modules.dep", "modules.builtin"] {
        if !modules.join(name).is_file() {
            return Err(refuse(
                modules,
                format!(
                    "it has no {name}; name the folder lib/modules/{release} that \
                     make modules_install INSTALL_MOD_PATH=... has made"
                ),
            ));
        }
    }
    let build = modules.join("build");
    let headers = headers.unwrap_or(&build);
    if let Some(missing) = HEADERS.iter().find(|name| !headers.join(name).is_file()) {
        return Err(refuse(
            headers,
            format!(
                "it has no {missing}, and the driver is built against it; name the folder of the \
                 headers or the tree: BZIMAGE,MODULES,HEADERS"
            ),
        ));
    }
    let headers = absolute(headers)?;
    let config_file = headers.join(BUILT_CONFIG);
    let config = Config::read(&config_file)?;
    config.check(&config_file)?;
    if headers.join(PAGEMAP.0).is_file() {
        check_pagemap(&headers).map_err(|why| refuse(&headers, why))?;
    }
    let built_for = release_of(&headers)?;
    if built_for != release {
        return Err(refuse(
            &headers,
            format!("it is of Linux {built_for}, and the image is of {release}"),
        ));
    }
    Ok((release, headers, config))
}

/// Absolute and without links: sandboxes need that.
fn absolute(path: &Path) -> Result<PathBuf, ImageError> {
    fs::canonicalize(path).map_err(ImageError::io("find", path))
}

/// Refuses a source that is older than huge device-private pages.
pub(super) fn check_pagemap(source: &Path) -> Result<(), String> {
    let (file, callback) = PAGEMAP;
    let path = source.join(file);
    let text = fs::read_to_string(&path)
        .map_err(|error| ImageError::io("read", path)(error).to_string())?;
    if text.contains(callback) {
        return Ok(());
    }
    Err("device-private memory cannot be huge in it; Linux 7.2 or later is needed".to_owned())
}

/// The release that a folder builds modules for.
fn release_of(headers: &Path) -> Result<String, ImageError> {
    let path = headers.join(RELEASE);
    let text = fs::read_to_string(&path).map_err(ImageError::io("read", &path))?;
    // #define UTS_RELEASE "7.3.4"
    let release = text.split('"').nth(1);
    release
        .map(str::to_owned)
        .ok_or_else(|| ImageError::NotKernel {
            path,
            why: "it says no release".to_owned(),
        })
}

fn build(root: &ToolRoot, headers: &Path, config: &Config) -> Result<Build, ImageError> {
    let (place, arguments) = compiler::choose(root, config)?;
    let occupied = OCCUPIED.iter().any(|folder| headers.starts_with(folder));
    let inside = match &place {
        Place::Root(_) if occupied => PathBuf::from(ELSEWHERE),
        _ => headers.to_owned(),
    };
    Ok(Build {
        place,
        headers: inside.clone(),
        binds: vec![Bind {
            host: headers.to_owned(),
            inside,
            writable: false,
        }],
        arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::super::boot_image::tests::header;
    use super::super::config::tests::complete;
    use super::*;

    /// A tree that has all that is looked at.
    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        for name in ["Makefile", "Kconfig", SYMBOLS, "scripts/mod/modpost"] {
            put(name, b"");
        }
        put(PAGEMAP.0, b"void (*folio_split)(void);\n");
        let config = format!("{}CONFIG_NAME=\"x\"\n", complete());
        put(".config", config.as_bytes());
        // Without quotes, and nothing of what is not set.
        let built = format!("{}CONFIG_NAME=x\n", complete());
        put(BUILT_CONFIG, built.as_bytes());
        put(RELEASE, b"#define UTS_RELEASE \"7.3.4-own\"\n");
        put(IMAGE, &header("7.3.4-own (a@b) #1"));
        folder
    }

    fn error(path: &Path) -> String {
        Tree::open(path).unwrap_err().to_string()
    }

    #[test]
    fn a_built_tree_is_fine() {
        let folder = tree();
        let tree = Tree::open(folder.path()).unwrap();
        assert_eq!(tree.release, "7.3.4-own");
        assert_eq!(tree.source, tree.folder);
    }

    #[test]
    fn a_tree_built_elsewhere_has_its_source_elsewhere() {
        let (folder, source) = (tree(), tree());
        fs::remove_file(folder.path().join("Kconfig")).unwrap();
        assert!(error(folder.path()).contains("Kconfig"));
        std::os::unix::fs::symlink(source.path(), folder.path().join("source")).unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        assert_eq!(tree.source, source.path().canonicalize().unwrap());
    }

    #[test]
    fn what_is_not_built_says_make() {
        for missing in BUILT {
            let folder = tree();
            fs::remove_file(folder.path().join(missing)).unwrap();
            let error = error(folder.path());
            assert!(error.contains(missing), "{error}");
            assert!(error.contains("run make"), "{error}");
        }
    }

    #[test]
    fn a_configuration_that_has_changed_says_make() {
        let folder = tree();
        let path = folder.path().join(".config");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{config}CONFIG_KASAN=y\n")).unwrap();
        let error = error(folder.path());
        assert!(error.contains("CONFIG_KASAN"), "{error}");
        assert!(error.contains("run make"), "{error}");
    }

    #[test]
    fn a_missing_option_is_named_before_anything_is_built() {
        let folder = tree();
        fs::remove_file(folder.path().join(IMAGE)).unwrap();
        let path = folder.path().join(".config");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(&path, config.replace("CONFIG_DEVICE_PRIVATE=y", "")).unwrap();
        let error = error(folder.path());
        assert!(error.contains("CONFIG_DEVICE_PRIVATE=y"), "{error}");
    }

    #[test]
    fn an_image_of_another_release_says_make() {
        let folder = tree();
        fs::write(folder.path().join(IMAGE), header("7.3.3 (a@b)")).unwrap();
        let error = error(folder.path());
        assert!(
            error.contains("7.3.3") && error.contains("7.3.4-own"),
            "{error}"
        );
    }

    #[test]
    fn older_kernels_are_refused_by_what_they_lack() {
        let folder = tree();
        fs::write(folder.path().join(PAGEMAP.0), "void (*page_free)(void);").unwrap();
        assert!(error(folder.path()).contains("cannot be huge"));
    }

    #[test]
    fn what_is_no_tree_is_told_what_to_name() {
        let folder = tree();
        let image = folder.path().join(IMAGE);
        assert!(error(&image).contains("BZIMAGE,MODULES"));
        assert!(error(Path::new("7.2")).contains("debian:7.2"));
        let empty = tempfile::tempdir().unwrap();
        assert!(error(empty.path()).contains("Makefile"));
        fs::remove_file(folder.path().join(".config")).unwrap();
        assert!(error(folder.path()).contains("no .config"));
    }

    #[test]
    fn an_image_needs_modules_and_headers_of_its_release() {
        let folder = tree();
        let image = folder.path().join(IMAGE);
        let modules = tempfile::tempdir().unwrap();
        let open = |headers| {
            open_image(&image, modules.path(), headers)
                .map(|(release, ..)| release)
                .map_err(|error| error.to_string())
        };
        assert!(open(None).unwrap_err().contains("modules_install"));
        for name in ["modules.dep", "modules.builtin"] {
            fs::write(modules.path().join(name), "").unwrap();
        }
        assert!(open(None).unwrap_err().contains("BZIMAGE,MODULES,HEADERS"));
        assert_eq!(open(Some(folder.path())), Ok("7.3.4-own".to_owned()));
        std::os::unix::fs::symlink(folder.path(), modules.path().join("build")).unwrap();
        assert_eq!(open(None), Ok("7.3.4-own".to_owned()));
        fs::write(&image, header("7.3.3 (a@b)")).unwrap();
        assert!(open(None).unwrap_err().contains("the image is of 7.3.3"));
    }
}
