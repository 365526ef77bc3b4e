//! How far apt has come.

/// Makes per cent out of what apt prints: the size of all it is to download and of each item.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    total: f64,
    done: f64,
}

impl Meter {
    /// Per cent where known, and what goes on; none for lines that say nothing of it.
    pub(crate) fn line(&mut self, line: &str) -> Option<(Option<u8>, String)> {
        if let Some(rest) = line.strip_prefix("Need to get ") {
            // "247 MB of archives." or "2 MB/247 MB of archives."
            let size = rest.split(" of archives").next()?;
            self.total = size_of(size.rsplit('/').next()?)?;
            self.done = 0.0;
            return Some((Some(0), format!("downloading {size}")));
        }
        if line.starts_with("Get:") && self.total > 0.0 {
            let size = line.rsplit_once('[')?.1.strip_suffix(']')?;
            self.done += size_of(size)?;
            let share = (self.done / self.total * 100.0).clamp(0.0, 100.0);
            // In 0 to 100 by the clamp.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let percent = share as u8;
            return Some((Some(percent), "downloading packages".into()));
        }
        let step = line.strip_prefix("I: ")?;
        let step = match step.trim_end_matches('.') {
            "running apt-get update" => "reading package lists",
            "downloading packages with apt" => "choosing packages",
            "extracting archives" => "unpacking",
            _ => return None,
        };
        Some((None, step.to_owned()))
    }
}

/// Bytes of a size as apt prints it, in powers of 1000.
fn size_of(text: &str) -> Option<f64> {
    let (number, unit) = text.trim().split_once(' ')?;
    let factor = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    Some(number.replace(',', "").parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_lines_become_per_cent() {
        let mut meter = Meter::default();
        // A package list before the total is known is not counted.
        assert_eq!(meter.line("Get:1 http://h suite InRelease [140 kB]"), None);
        meter.line("Need to get 2,000 kB of archives.").unwrap();
        let (percent, _) = meter
            .line("Get:1 http://h suite/main amd64 make amd64 4.4 [500 kB]")
            .unwrap();
        assert_eq!(percent, Some(25));
        let (percent, _) = meter.line("Get:2 http://h x [9 GB]").unwrap();
        assert_eq!(percent, Some(100));
        assert_eq!(
            meter.line("I: extracting archives...").unwrap().1,
            "unpacking"
        );
        assert_eq!(meter.line("Get:3 no size"), None);
    }
}
