//! `hmmgpu kernel`: building kernels for guests, and what was built.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use hmmgpu_images::{DebugKernel, Images, ImagesOptions};
use serde::Serialize;

use super::Error;
use crate::cli::{KernelArgs, KernelBuildArgs, KernelCommand, KernelListArgs};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::vm::{VmError, interruptible};

/// Schema of the JSON.
const SCHEMA: &str = "hmmgpu.kernels/1";

pub(super) fn kernel(args: &KernelArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    match &args.command {
        KernelCommand::Build(args) => build(args, ui, interrupt),
        KernelCommand::List(args) => list(args),
    }
}

fn build(args: &KernelBuildArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    let options = ImagesOptions {
        progress: Arc::new(ui.clone()),
        ..ImagesOptions::default()
    };
    let images = Images::new(options.clone()).map_err(VmError::from)?;
    let kernel = interruptible(&options, interrupt, || {
        let root = images.tool_root()?;
        images.build_debug_kernel(&root, args.source.as_ref())
    })?;
    ui.print(&format!("{}  {}", name(&kernel), kernel.path.display()))?;
    Ok(exit::OK)
}

/// A kernel in the list.
#[derive(Debug, Serialize)]
struct Entry {
    /// For `--kernel`.
    name: String,
    release: String,
    source: String,
    /// RFC 3339.
    built: String,
    /// Whether today's recipe would build the same.
    current: bool,
    path: String,
}

#[derive(Debug, Serialize)]
struct List {
    schema: &'static str,
    kernels: Vec<Entry>,
}

fn list(args: &KernelListArgs) -> Result<u8, Error> {
    let images = Images::new(ImagesOptions::default()).map_err(VmError::from)?;
    let kernels: Vec<Entry> = images.debug_kernels().iter().map(entry).collect();
    let text = if args.json {
        let list = List {
            schema: SCHEMA,
            kernels,
        };
        let mut text =
            serde_json::to_string_pretty(&list).map_err(|error| anyhow::anyhow!(error))?;
        text.push('\n');
        text
    } else {
        render(&kernels)
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(exit::OK)
}

fn entry(kernel: &DebugKernel) -> Entry {
    let built = UNIX_EPOCH.checked_add(Duration::from_secs(kernel.built));
    Entry {
        name: name(kernel),
        release: kernel.release.clone(),
        source: kernel.source.clone(),
        built: humantime::format_rfc3339_seconds(built.unwrap_or(UNIX_EPOCH)).to_string(),
        current: kernel.is_current(),
        path: kernel.path.display().to_string(),
    }
}

/// What `--kernel` takes for it.
fn name(kernel: &DebugKernel) -> String {
    format!("debug:{}", kernel.version)
}

fn render(kernels: &[Entry]) -> String {
    if kernels.is_empty() {
        return "No kernel was built here. Build one by: hmmgpu kernel build --debug\n".to_owned();
    }
    let width = kernels.iter().map(|kernel| kernel.name.len()).max();
    let width = width.unwrap_or(0);
    kernels
        .iter()
        .map(|kernel| {
            let recipe = match kernel.current {
                true => "",
                false => "  (by an earlier recipe)",
            };
            let Entry {
                name,
                built,
                source,
                ..
            } = kernel;
            format!("{name:<width$}  {built}  {source}{recipe}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn an_entry(name: &str, current: bool) -> Entry {
        Entry {
            name: name.into(),
            release: "7.3.4-hmmgpu-debug".into(),
            source: "/linux".into(),
            built: "2026-01-01T00:00:00Z".into(),
            current,
            path: "/cache/x".into(),
        }
    }

    #[test]
    fn a_list_says_what_to_name_and_which_are_old() {
        let text = render(&[an_entry("debug:7.3.4", true), an_entry("debug:7.2", false)]);
        assert_eq!(
            text,
            "debug:7.3.4  2026-01-01T00:00:00Z  /linux\n\
             debug:7.2    2026-01-01T00:00:00Z  /linux  (by an earlier recipe)\n"
        );
        assert!(render(&[]).contains("hmmgpu kernel build --debug"));
    }
}
