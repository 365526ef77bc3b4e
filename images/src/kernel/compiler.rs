//! Which compiler builds modules for a kernel: the one that built the kernel, where it can be had.
//!
//! The host comes first, for whoever built a tree there has its compiler there, and the tree's own
//! programs run there. A tree that was built by the very compiler of the tool root is built for in
//! the tool root.

use std::process::{Command, Stdio};

use super::Place;
use super::config::Config;
use crate::ImageError;
use crate::host_tools;
use crate::sandbox::ToolRoot;
use crate::tool_root::COMPILER;

/// The option that says which compiler built a kernel: the first line that it prints.
const OPTION: &str = "CC_VERSION_TEXT";

/// Where a compiler runs, and words for make that name it.
pub(super) fn choose(root: &ToolRoot, config: &Config) -> Result<(Place, Vec<String>), ImageError> {
    let built_by = config.get(OPTION).unwrap_or_default();
    let words = |program: &str| words(program, config);
    let program = program(built_by);
    let path = std::env::var_os("PATH");
    let on_host = host_tools::find("make", path.as_deref()).is_some()
        && host_tools::find(program, path.as_deref()).is_some();
    if on_host && first_line(Command::new(program)).is_some_and(|line| line == built_by) {
        return Ok((Place::Host, words(program)));
    }
    let in_root = first_line(root.command(COMPILER, &[]));
    if in_root.is_some_and(|line| same_version(&line, built_by)) {
        return Ok((Place::Root(root.clone()), words(COMPILER)));
    }
    // Another version of the same compiler: kbuild accepts that, and warns.
    if on_host {
        return Ok((Place::Host, words(program)));
    }
    Err(ImageError::NoCompiler {
        built_by: built_by.to_owned(),
        program: program.to_owned(),
    })
}

/// The name that a compiler was called by.
fn program(built_by: &str) -> &str {
    if built_by.contains("clang version") {
        return "clang";
    }
    match built_by.split(' ').next() {
        Some(program) if !program.is_empty() => program,
        _ => "gcc",
    }
}

fn words(program: &str, config: &Config) -> Vec<String> {
    if program == "clang" && config.has("LD_IS_LLD") {
        vec!["LLVM=1".to_owned()]
    } else {
        vec![format!("CC={program}")]
    }
}

/// The same compiler, perhaps by another name.
fn same_version(line: &str, built_by: &str) -> bool {
    let version = |text: &str| text.split_once(' ').map(|(_, version)| version.to_owned());
    version(line).is_some() && version(line) == version(built_by)
}

fn first_line(mut compiler: Command) -> Option<String> {
    let output = compiler
        .arg("--version")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_called_by_the_name_that_the_kernel_was_built_by() {
        assert_eq!(program("gcc (Debian 12.2.0-14) 12.2.0"), "gcc");
        assert_eq!(
            program("x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"),
            "x86_64-linux-gnu-gcc-14"
        );
        assert_eq!(program("Debian clang version 19.1.7 (3)"), "clang");
        assert_eq!(program(""), "gcc");
    }

    #[test]
    fn a_kernel_of_clang_and_its_linker_gets_both() {
        let lld = Config::of("CONFIG_LD_IS_LLD=y\n");
        assert_eq!(words("clang", &lld), ["LLVM=1"]);
        assert_eq!(words("clang", &Config::default()), ["CC=clang"]);
        assert_eq!(words("gcc-14", &lld), ["CC=gcc-14"]);
    }

    #[test]
    fn names_of_one_compiler_do_not_matter() {
        let root = "gcc-14 (Debian 14.2.0-19) 14.2.0";
        assert!(same_version(
            root,
            "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"
        ));
        assert!(!same_version(root, "gcc-14 (Debian 14.2.0-20) 14.2.0"));
        assert!(!same_version("gcc", ""));
    }
}
