//! The kernels in Debian's package lists: what they are called, and which one a name means.

use std::cmp::Reverse;

use super::{STABLE, Sources};

/// All suites that are looked into.
pub(crate) const ALL: Sources = Sources {
    suite: "trixie",
    added: &["trixie-backports", "forky", "sid", "experimental"],
};
/// Suites, and what a root of a kernel of each is made from. Of kernels of the same version the
/// suite that comes first here wins: it has the same compiler as the tool root's kernel.
const SUITES: &[(&str, Sources)] = &[
    ("trixie-backports", STABLE),
    ("trixie", STABLE),
    ("trixie-updates", STABLE),
    ("trixie-security", STABLE),
    (
        "forky",
        Sources {
            suite: "forky",
            added: &[],
        },
    ),
    (
        "sid",
        Sources {
            suite: "sid",
            added: &[],
        },
    ),
    (
        "experimental",
        Sources {
            suite: "sid",
            added: &["experimental"],
        },
    ),
];

/// A kernel that can be had, with headers to build modules for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchiveKernel {
    /// What `uname -r` says.
    pub(crate) release: String,
    /// Name of the package with the image.
    pub(crate) image: String,
    /// Version of that and of the headers.
    pub(crate) version: String,
    /// Index in [`SUITES`].
    suite: usize,
}

impl ArchiveKernel {
    /// Name of the package with the headers.
    pub(crate) fn headers(&self) -> String {
        format!("linux-headers-{}", self.release)
    }

    /// Where it comes from.
    pub(crate) fn sources(&self) -> Sources {
        SUITES.get(self.suite).map_or(ALL, |(_, sources)| *sources)
    }

    /// Name of its suite.
    pub(crate) fn suite(&self) -> &'static str {
        SUITES.get(self.suite).map_or("", |(name, _)| name)
    }

    /// Linux's version, for example `7.2.13` or `7.3-rc7`.
    fn linux(&self) -> String {
        upstream(&self.version).replace("~rc", "-rc")
    }

    /// Its first two numbers, for example `7.2`.
    fn series(&self) -> String {
        let version = upstream(&self.version);
        let version = version.split('~').next().unwrap_or(version);
        version.split('.').take(2).collect::<Vec<_>>().join(".")
    }

    /// Whether a name as in `debian:NAME` means this kernel: a series, a version or a release.
    fn is_called(&self, name: &str) -> bool {
        self.release == name || self.linux() == name || self.series() == name
    }

    /// Later in this order is better: released, newer, from an earlier suite of [`SUITES`].
    fn rank(&self) -> impl Ord {
        let version = upstream(&self.version);
        let released = !version.contains('~');
        let revision = self.version.strip_prefix(version).unwrap_or("");
        (
            released,
            numbers(version),
            Reverse(self.suite),
            numbers(revision),
        )
    }
}

/// The numbers in a version, in order.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The part of a package's version that is upstream's: without Debian's revision.
fn upstream(version: &str) -> &str {
    version
        .rsplit_once('-')
        .map_or(version, |(upstream, _)| upstream)
}

/// The best kernel of this name.
pub(crate) fn choose<'a>(kernels: &'a [ArchiveKernel], name: &str) -> Option<&'a ArchiveKernel> {
    kernels
        .iter()
        .filter(|kernel| kernel.is_called(name))
        .max_by_key(|kernel| kernel.rank())
}

/// The kernels in a list of lines `SUITE PACKAGE VERSION`: those of the plain flavour that have an
/// image, signed or not, and headers of the same version in one suite.
pub(crate) fn parse(list: &str) -> Vec<ArchiveKernel> {
    let packages: Vec<[&str; 3]> = list
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            words.try_into().ok()
        })
        .collect();
    let mut kernels: Vec<ArchiveKernel> = Vec::new();
    for [suite, package, version] in &packages {
        let Some(release) = package.strip_prefix("linux-headers-") else {
            continue;
        };
        let plain = release
            .strip_suffix("-amd64")
            .is_some_and(|rest| !rest.ends_with("-rt") && !rest.ends_with("-cloud"));
        let Some(index) = SUITES.iter().position(|(name, _)| name == suite) else {
            continue;
        };
        let signed = format!("linux-image-{release}");
        let unsigned = format!("{signed}-unsigned");
        let image = [signed, unsigned]
            .into_iter()
            .find(|image| packages.contains(&[suite, image, version]));
        let (true, Some(image)) = (plain, image) else {
            continue;
        };
        kernels.push(ArchiveKernel {
            release: (*release).to_owned(),
            image,
            version: (*version).to_owned(),
            suite: index,
        });
    }
    kernels
}

/// What there is, for a person: a line for each series, newest first.
pub(crate) fn shown(kernels: &[ArchiveKernel]) -> Vec<String> {
    let mut kernels: Vec<_> = kernels.iter().collect();
    kernels.sort_by_key(|kernel| Reverse((numbers(&kernel.series()), kernel.rank())));
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for kernel in kernels {
        let entry = format!("{} ({})", kernel.linux(), kernel.suite());
        match lines.last_mut() {
            Some((series, entries)) if *series == kernel.series() => entries.push(entry),
            _ => lines.push((kernel.series(), vec![entry])),
        }
    }
    lines
        .into_iter()
        .map(|(series, mut entries)| {
            entries.dedup();
            format!("debian:{series}: {}", entries.join(", "))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const LIST: &str = "\
trixie linux-image-6.12.107+deb13-amd64 6.12.107-1
trixie linux-headers-6.12.107+deb13-amd64 6.12.107-1
trixie-backports linux-image-7.1.8+deb13-amd64 7.1.8-1~bpo13+1
trixie-backports linux-image-7.2.9+deb13-amd64 7.2.9-1~bpo13+1
trixie-backports linux-headers-7.2.9+deb13-amd64 7.2.9-1~bpo13+1
trixie-backports linux-image-7.2.12+deb13-amd64 7.2.12-1~bpo13+1
trixie-backports linux-headers-7.2.12+deb13-amd64 7.2.12-1~bpo13+1
trixie-backports linux-image-7.2.12+deb13-rt-amd64 7.2.12-1~bpo13+1
trixie-backports linux-headers-7.2.12+deb13-rt-amd64 7.2.12-1~bpo13+1
trixie-backports linux-headers-7.2.12+deb13-common 7.2.12-1~bpo13+1
trixie-backports linux-image-7.3.4+deb13-amd64 7.3.4-1~bpo13+1
trixie-backports linux-headers-7.3.4+deb13-amd64 7.3.4-1~bpo13+1
forky linux-image-7.2.12+deb14-amd64 7.2.12-1
forky linux-headers-7.2.12+deb14-amd64 7.2.12-1
sid linux-image-7.2.13+deb14-amd64-unsigned 7.2.13-1
sid linux-headers-7.2.13+deb14-amd64 7.2.13-1
experimental linux-image-7.3-amd64 7.3~rc7-1~exp1
experimental linux-headers-7.3-amd64 7.3~rc7-1~exp1
experimental linux-image-7.4-amd64 7.4~rc2-1~exp1
experimental linux-headers-7.4-amd64 7.4~rc2-1~exp1
experimental linux-image-7.4-amd64 7.4~rc10-1~exp1
experimental linux-headers-7.4-amd64 7.4~rc10-1~exp1
another linux-image-7.9-amd64 7.9-1
another linux-headers-7.9-amd64 7.9-1
broken line
";

    fn chosen(name: &str) -> Option<(String, &'static str, String)> {
        let kernels = parse(LIST);
        let kernel = choose(&kernels, name)?;
        Some((
            kernel.release.clone(),
            kernel.suite(),
            kernel.version.clone(),
        ))
    }

    fn release(name: &str) -> Option<String> {
        chosen(name).map(|(release, ..)| release)
    }

    #[test]
    fn a_series_is_its_newest_kernel() {
        assert_eq!(release("7.2").as_deref(), Some("7.2.13+deb14-amd64"));
        assert_eq!(release("6.12").as_deref(), Some("6.12.107+deb13-amd64"));
    }

    #[test]
    fn released_comes_before_candidates() {
        assert_eq!(release("7.3").as_deref(), Some("7.3.4+deb13-amd64"));
        let (_, suite, version) = chosen("7.4").unwrap();
        assert_eq!(
            (suite, version.as_str()),
            ("experimental", "7.4~rc10-1~exp1")
        );
    }

    #[test]
    fn a_version_or_a_release_is_that_one() {
        assert_eq!(chosen("7.2.12").unwrap().1, "trixie-backports");
        assert_eq!(chosen("7.2.12+deb14-amd64").unwrap().1, "forky");
        assert_eq!(chosen("7.3-rc7").unwrap().1, "experimental");
        assert_eq!(release("7.2.1"), None);
        assert_eq!(release("7.3.4.1"), None);
    }

    #[test]
    fn kernels_without_headers_and_other_flavours_do_not_count() {
        assert_eq!(release("7.1"), None);
        assert_eq!(release("7.9"), None);
        assert!(parse(LIST).iter().all(|k| !k.release.contains("rt")));
    }

    #[test]
    fn an_image_may_be_unsigned() {
        let kernels = parse(LIST);
        let kernel = choose(&kernels, "7.2").unwrap();
        assert_eq!(kernel.image, "linux-image-7.2.13+deb14-amd64-unsigned");
        assert_eq!(kernel.headers(), "linux-headers-7.2.13+deb14-amd64");
        assert_eq!(kernel.sources().suite, "sid");
    }

    #[test]
    fn what_is_there_is_told_by_series_newest_first() {
        assert_eq!(
            shown(&parse(LIST)),
            [
                "debian:7.4: 7.4-rc10 (experimental), 7.4-rc2 (experimental)",
                "debian:7.3: 7.3.4 (trixie-backports), 7.3-rc7 (experimental)",
                "debian:7.2: 7.2.13 (sid), 7.2.12 (trixie-backports), 7.2.12 (forky), \
                 7.2.9 (trixie-backports)",
                "debian:6.12: 6.12.107 (trixie)",
            ]
        );
    }
}
