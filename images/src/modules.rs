//! Which of a kernel's modules the guest needs, and in what order they load.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::ImageError;
use crate::kernel::{Kernel, Modules};

/// What the guest needs before it can speak with the host. Debian builds most of them in.
pub(crate) const NEEDED: &[&str] = &["virtio_pci", "virtio_console"];

/// What programs in the guest may want to load: swap, a disk, a power button. A kernel may have
/// been built without.
const OFFERED: &[&str] = &["zram", "loop", "button"];

/// A module for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleFile {
    /// On the host.
    pub(crate) file: PathBuf,
    /// Relative to `/lib/modules/RELEASE` in the guest, perhaps with the ending of a packer.
    pub(crate) name: PathBuf,
    /// Names of those that it needs, nearest first.
    pub(crate) needs: Vec<PathBuf>,
    /// Whether init loads it before anything else.
    pub(crate) early: bool,
}

/// The modules for [`NEEDED`] to be there, in the order that they load in, and then those for
/// [`OFFERED`].
pub(crate) fn needed(kernel: &Kernel) -> Result<Vec<ModuleFile>, ImageError> {
    let (folder, index, home) = match &kernel.modules {
        Modules::Installed(folder) => (folder, ModuleIndex::read(folder)?, ""),
        Modules::Tree(folder) => (folder, ModuleIndex::of_tree(folder)?, "kernel"),
    };
    let early = index.resolve(kernel, NEEDED)?;
    let offered: Vec<_> = OFFERED
        .iter()
        .copied()
        .filter(|name| index.loadable.contains_key(*name))
        .collect();
    let mut later = index.resolve(kernel, &offered)?;
    later.retain(|path| !early.contains(path));
    let home = Path::new(home);
    let module = |path: &PathBuf, early| ModuleFile {
        file: folder.join(path),
        name: home.join(path),
        needs: index.needs(path).map(|path| home.join(path)).collect(),
        early,
    };
    let early = early.iter().map(|path| module(path, true));
    let later = later.iter().map(|path| module(path, false));
    Ok(early.chain(later).collect())
}

/// Modules by name, and what each needs, from `modules.dep` and `modules.builtin`.
#[derive(Debug, Default)]
pub(crate) struct ModuleIndex {
    /// Path relative to the folder, and those it depends on, nearest first.
    loadable: HashMap<String, (PathBuf, Vec<PathBuf>)>,
    built_in: Vec<String>,
}

impl ModuleIndex {
    fn read(folder: &Path) -> Result<Self, ImageError> {
        Ok(Self::parse(
            &read(folder, "modules.dep")?,
            &read(folder, "modules.builtin")?,
        ))
    }

    /// Of a tree, where nobody has run depmod: only of the modules that are needed and of what
    /// they need themselves.
    fn of_tree(folder: &Path) -> Result<Self, ImageError> {
        // Without any modules there is no such file.
        let order = match folder.join("modules.order").exists() {
            true => read(folder, "modules.order")?,
            false => String::new(),
        };
        let paths: HashMap<String, PathBuf> = order
            .lines()
            .map(|line| {
                let path = Path::new(line).with_extension("ko");
                (name_of(&path), path)
            })
            .collect();
        let mut index = Self::parse("", &read(folder, "modules.builtin")?);
        for wanted in NEEDED.iter().chain(OFFERED) {
            let mut needs = Vec::new();
            let mut to_do = vec![(*wanted).to_owned()];
            while let Some(name) = to_do.pop() {
                let Some(path) = paths.get(&name) else {
                    continue; // built in, or missing: resolving it tells
                };
                // The one that is wanted is not among those that it needs.
                if name != *wanted {
                    needs.retain(|known| known != path);
                    needs.push(path.clone());
                }
                let file = folder.join(path);
                let bytes = fs::read(&file).map_err(ImageError::io("read", file))?;
                to_do.extend(depends(&bytes));
            }
            if let Some(path) = paths.get(*wanted) {
                let entry = (path.clone(), needs);
                index.loadable.insert((*wanted).to_owned(), entry);
            }
        }
        Ok(index)
    }

    fn parse(dep: &str, builtin: &str) -> Self {
        let loadable = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                let needs = needs.split_whitespace().map(PathBuf::from).collect();
                (name_of(Path::new(path)), (PathBuf::from(path), needs))
            })
            .collect();
        let built_in = builtin
            .lines()
            .map(|line| name_of(Path::new(line)))
            .collect();
        Self { loadable, built_in }
    }

    /// Paths of those that a module needs, nearest first.
    fn needs(&self, path: &Path) -> impl Iterator<Item = &PathBuf> {
        let entry = self.loadable.get(&name_of(path));
        entry.into_iter().flat_map(|(_, needs)| needs)
    }

    /// Paths to load, in order, for `wanted` to be there; those built in need none.
    pub(crate) fn resolve(
        &self,
        kernel: &Kernel,
        wanted: &[&str],
    ) -> Result<Vec<PathBuf>, ImageError> {
        let mut order: Vec<PathBuf> = Vec::new();
        for name in wanted {
            if self.built_in.iter().any(|b| b == name) {
                continue;
            }
            let (path, needs) = self
                .loadable
                .get(*name)
                .ok_or_else(|| ImageError::NoModule {
                    release: kernel.release.clone(),
                    module: (*name).to_owned(),
                })?;
            // modules.dep lists all that a module needs, each before those that it needs itself.
            for path in needs.iter().rev().chain([path]) {
                if !order.contains(path) {
                    order.push(path.clone());
                }
            }
        }
        Ok(order)
    }
}

fn read(folder: &Path, name: &str) -> Result<String, ImageError> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(ImageError::io("read", path))
}

/// The names of the modules that a module needs, from its own information: words such as
/// `depends=a,b`, each with a zero byte behind it.
fn depends(module: &[u8]) -> Vec<String> {
    let words = module.split(|byte| *byte == 0);
    let depends = words.filter_map(|word| word.strip_prefix(b"depends="));
    let names = depends.flat_map(|names| names.split(|byte| *byte == b','));
    names
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

/// The module's name: the file's without endings, `-` and `_` being the same.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

/// The program of the tool root that unpacks a module, and the file's name without the ending.
pub(crate) fn unpacker(path: &Path) -> Option<(&'static str, PathBuf)> {
    let program = match path.extension()?.to_str()? {
        "xz" => "xz",
        "zst" => "zstd",
        "gz" => "gzip",
        _ => return None,
    };
    Some((program, path.with_extension("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a.ko.xz:\n\
        kernel/b.ko.xz: kernel/a.ko.xz\n\
        kernel/drivers/virtio-c.ko: kernel/b.ko.xz kernel/a.ko.xz\n\
        kernel/d.ko.zst: kernel/a.ko.xz\n";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n";

    fn kernel() -> Kernel {
        Kernel::named("7.3")
    }

    fn resolve(wanted: &[&str]) -> Vec<String> {
        ModuleIndex::parse(DEP, BUILTIN)
            .resolve(&kernel(), wanted)
            .unwrap()
            .iter()
            .map(|p| p.display().to_string())
            .collect()
    }

    #[test]
    fn what_is_built_in_needs_no_file() {
        assert!(resolve(&["virtio_pci"]).is_empty());
    }

    #[test]
    fn what_a_module_needs_loads_first_and_once() {
        assert_eq!(
            resolve(&["virtio_c", "d"]),
            [
                "kernel/a.ko.xz",
                "kernel/b.ko.xz",
                "kernel/drivers/virtio-c.ko",
                "kernel/d.ko.zst"
            ]
        );
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let error = ModuleIndex::parse(DEP, BUILTIN)
            .resolve(&kernel(), &["nope"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("nope") && error.contains("7.3"), "{error}");
    }

    /// A tree with these modules, each with what it depends on.
    fn tree(modules: &[(&str, &str)]) -> (tempfile::TempDir, Kernel) {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, content: String| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put("modules.builtin", BUILTIN.into());
        let mut order = String::new();
        for (path, depends) in modules {
            order.push_str(&format!("{path}.o\n"));
            put(
                &format!("{path}.ko"),
                format!("\u{7f}ELF\0license=GPL\0depends={depends}\0name=x\0"),
            );
        }
        put("modules.order", order);
        let kernel = Kernel {
            modules: Modules::Tree(folder.path().to_owned()),
            ..kernel()
        };
        (folder, kernel)
    }

    #[test]
    fn modules_of_a_tree_load_after_what_they_need() {
        let (folder, kernel) = tree(&[
            ("drivers/char/virtio_console", "base-a,b"),
            ("lib/base-a", "c"),
            ("lib/b", "c"),
            ("lib/c", ""),
            ("lib/other", ""),
        ]);
        let files = needed(&kernel).unwrap();
        let names: Vec<_> = files.iter().map(|m| m.name.to_str().unwrap()).collect();
        let at = |name: &str| names.iter().position(|n| n.ends_with(name)).unwrap();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(at("c.ko") < at("base-a.ko") && at("c.ko") < at("b.ko"));
        assert_eq!(at("drivers/char/virtio_console.ko"), 3);
        assert_eq!(names[3], "kernel/drivers/char/virtio_console.ko");
        let file = folder.path().join("drivers/char/virtio_console.ko");
        assert_eq!(files[3].file, file);
        assert!(files.iter().all(|module| module.early));
    }

    #[test]
    fn what_a_kernel_can_offer_comes_later_with_what_it_needs() {
        let (_folder, kernel) = tree(&[
            ("drivers/char/virtio_console", "a"),
            ("lib/a", ""),
            ("lib/b", ""),
            ("drivers/block/zram", "b,a"),
        ]);
        let files = needed(&kernel).unwrap();
        let later: Vec<_> = files.iter().filter(|module| !module.early).collect();
        let names: Vec<_> = later.iter().map(|m| m.name.to_str().unwrap()).collect();
        assert_eq!(names, ["kernel/lib/b.ko", "kernel/drivers/block/zram.ko"]);
        let mut needs = later[1].needs.clone();
        needs.sort();
        let paths = ["kernel/lib/a.ko", "kernel/lib/b.ko"].map(PathBuf::from);
        assert_eq!(needs, paths);
    }

    #[test]
    fn a_tree_without_a_needed_module_says_which() {
        let (_folder, kernel) = tree(&[]);
        let error = needed(&kernel).unwrap_err().to_string();
        assert!(error.contains("virtio_console"), "{error}");
    }

    #[test]
    fn packed_modules_lose_their_ending() {
        assert_eq!(unpacker(Path::new("a.ko.xz")), Some(("xz", "a.ko".into())));
        assert_eq!(
            unpacker(Path::new("a.ko.zst")),
            Some(("zstd", "a.ko".into()))
        );
        assert_eq!(unpacker(Path::new("a.ko")), None);
    }
}
