//! Prometheus' own checker of metrics, from the distribution's package, for tests.

use std::fs;
use std::path::PathBuf;

use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::debian::STABLE;
use crate::host_tools::{self, BWRAP, MMDEBSTRAP};
use crate::keys::Key;
use crate::{ImageError, run, sandbox};

/// Counts changes in what is kept and how it is fetched.
const VERSION: u32 = 1;
/// The package, and its content for a while.
const ROOM: u64 = 500 << 20;
/// The program in the package.
const PROGRAM: &str = "usr/bin/promtool";

/// Run by mmdebstrap when it has read the package lists: keeps one program of the package, and
/// installs nothing.
const FETCH: &str = r#"set -e
cd "$1"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get -o APT::Sandbox::User=root download promtool
dpkg-deb --fsys-tarfile promtool_*.deb | tar -x ./usr/bin/promtool
rm promtool_*.deb"#;

/// The program, fetched if need be. It is linked against the tool root's libraries.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
) -> Result<PathBuf, ImageError> {
    let key = Key::new("promtool", VERSION).finish();
    let artefact = Artefact {
        kind: "promtool",
        key: &key,
        what: "promtool",
        room: ROOM,
    };
    let path = cache.get(context, &artefact, |partial| {
        host_tools::ensure(context, cache, &[BWRAP, MMDEBSTRAP])?;
        sandbox::probe()?;
        fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
        let folder = fs::canonicalize(partial).map_err(ImageError::io("find", partial))?;
        let log = cache.log("promtool", &key)?;
        let mut command = STABLE.mmdebstrap(&folder);
        command
            .arg("--variant=custom")
            .arg(format!("--customize-hook={FETCH}"));
        STABLE.into_folder(&mut command, &folder, mirror);
        run::run(context, "fetching promtool", &mut command, &log, |_| {})
    })?;
    Ok(path.join(PROGRAM))
}
