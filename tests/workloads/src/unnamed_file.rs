//! Files that go away with their last user.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

/// An empty file in a folder, without a name.
pub(crate) fn create(folder: &Path) -> Result<File> {
    let path = folder.join(format!("hmmgpu-{}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
