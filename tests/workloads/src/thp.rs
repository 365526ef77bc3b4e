//! The kernel's controls of transparent huge pages, by folio order.
//!
//! Each order has an `enabled` file of its own. Only those are set here, never to `inherit`, so
//! the global switch of the same name does not matter.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/kernel/mm/transparent_hugepage";

/// Whether reading untouched memory may map the huge zero page.
const ZERO_PAGE: &str = "use_zero_page";

/// The controls as they were; they are put back when this value is dropped.
#[derive(Debug)]
pub(crate) struct Controls {
    before: Vec<(PathBuf, String)>,
}

impl Controls {
    /// Notes how the controls are, and keeps the background collapser from changing what was
    /// set up: between two of its scans lies more time than these programs take.
    pub(crate) fn take() -> Result<Controls> {
        let mut before = Vec::new();
        for (_, path) in sizes()? {
            before.push(remember(&path.join("enabled"))?);
        }
        let zero = Path::new(ROOT).join(ZERO_PAGE);
        if zero.exists() {
            before.push(remember(&zero)?);
        }
        let scan = Path::new(ROOT).join("khugepaged/scan_sleep_millisecs");
        if scan.exists() {
            before.push(remember(&scan)?);
            write(&scan, "600000")?;
        }
        Ok(Controls { before })
    }

    /// Allows the orders that `mode` gives a mode (`always`, `madvise`) for, and no other.
    pub(crate) fn set(&self, mode: impl Fn(u8) -> Option<&'static str>) -> Result<()> {
        for (order, path) in sizes()? {
            write(&path.join("enabled"), mode(order).unwrap_or("never"))?;
        }
        Ok(())
    }

    /// Anonymous memory shall have folios of this order alone (0: single pages).
    pub(crate) fn only(&self, wanted: u8) -> Result<()> {
        self.set(|order| (order == wanted).then_some("always"))
    }

    /// Reading huge memory that nobody wrote shall map the huge zero page. A kernel with little
    /// memory starts with that switched off.
    pub(crate) fn huge_zero_page(&self) -> Result<()> {
        write(&Path::new(ROOT).join(ZERO_PAGE), "1")
    }
}

impl Drop for Controls {
    fn drop(&mut self) {
        for (path, value) in &self.before {
            // The next program sets what it needs itself.
            let _ = fs::write(path, value);
        }
    }
}

/// Whether this kernel can give anonymous memory folios of this order.
pub(crate) fn available(order: u8) -> bool {
    order == 0 || directory(order).join("enabled").exists()
}

/// How often the kernel has split a folio of this order, or zero where it does not count.
pub(crate) fn splits(order: u8) -> u64 {
    fs::read_to_string(directory(order).join("stats/split"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn directory(order: u8) -> PathBuf {
    Path::new(ROOT).join(format!("hugepages-{}kB", 4u64 << order))
}

/// The orders that have controls, with the directory of each.
fn sizes() -> Result<Vec<(u8, PathBuf)>> {
    let sizes: Vec<_> = (0..=18)
        .map(|order| (order, directory(order)))
        .filter(|(_, path)| path.join("enabled").exists())
        .collect();
    anyhow::ensure!(
        !sizes.is_empty(),
        "{ROOT} has no sizes: this kernel has no transparent huge pages of chosen sizes"
    );
    Ok(sizes)
}

/// The value of a control file; of several in a row, the one in brackets.
fn remember(path: &Path) -> Result<(PathBuf, String)> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value = match (text.find('['), text.find(']')) {
        (Some(start), Some(end)) if start < end => &text[start + 1..end],
        _ => text.trim(),
    };
    Ok((path.to_owned(), value.to_owned()))
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| {
        format!(
            "cannot write {value:?} to {}; are you root?",
            path.display()
        )
    })
}
