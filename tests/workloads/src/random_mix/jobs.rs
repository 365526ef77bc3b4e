//! The GPU's part of the mix: jobs that are under way while the process goes on.
//!
//! At most one job is under way. What it reads is known when it is submitted, and nothing changes
//! it before the job has ended; mappings may change, and then the job says how far it came.

use std::ops::Range;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use super::Counts;
use crate::gpu::{Command, Gpu, Job, Policy, Report};
use crate::reference::Checksum;
use crate::region::{Content, Region};
use crate::rng::Rng;
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES, WORDS};

/// Most additions of one job.
const MOST_ADDITIONS: usize = 2000;

/// A process's GPU.
#[derive(Debug)]
pub(super) struct Jobs {
    gpu: Gpu,
    under_way: Option<UnderWay>,
    /// A word of each of these pages is counted up, by CPU and GPU.
    counters: Memory,
    counted: Vec<u64>,
}

/// Pages of a region, where they were when the job was submitted.
#[derive(Clone, Debug)]
struct Pages {
    region: usize,
    pages: Range<usize>,
    address: u64,
}

impl Pages {
    fn of(regions: &[Region], region: usize, pages: Range<usize>) -> Pages {
        let address = regions[region].memory().page_address(pages.start) as u64;
        Pages {
            region,
            pages,
            address,
        }
    }

    fn bytes(&self) -> u64 {
        (self.pages.len() * PAGE) as u64
    }
}

/// A job that was submitted, and what has to come of it.
#[derive(Debug)]
struct UnderWay {
    job: Job,
    name: &'static str,
    /// What it reads.
    source: Option<Pages>,
    /// What it writes, and with what each page.
    destination: Option<(Pages, Vec<Content>)>,
    /// The pages before the first that it cannot access.
    pages: usize,
    /// All of its pages.
    of: usize,
    /// Elements of a page.
    elements: u64,
    /// Its result, if it comes to its end.
    value: u64,
    /// Mappings have changed since: it may have met a page that could be accessed, or not.
    disturbed: bool,
}

impl Jobs {
    /// A GPU for this process.
    pub(super) fn new(gpu: Gpu) -> Result<Jobs> {
        Ok(Jobs {
            gpu,
            under_way: None,
            counters: Memory::anonymous(UNIT).context("cannot map memory")?,
            counted: vec![0; UNIT_PAGES],
        })
    }

    /// Whether the job that is under way writes to this region: what it holds is not known then.
    pub(super) fn writes(&self, region: usize) -> bool {
        let destination = self
            .under_way
            .as_ref()
            .and_then(|job| job.destination.as_ref());
        destination.is_some_and(|(pages, _)| pages.region == region)
    }

    /// Whether the job that is under way uses this region.
    pub(super) fn uses(&self, region: usize) -> bool {
        let source = self.under_way.as_ref().and_then(|job| job.source.as_ref());
        self.writes(region) || source.is_some_and(|pages| pages.region == region)
    }

    /// The mappings of a region change.
    pub(super) fn disturb(&mut self) {
        if let Some(job) = &mut self.under_way {
            job.disturbed = true;
        }
    }

    /// Writes a word over pages.
    pub(super) fn fill(
        &mut self,
        regions: &[Region],
        region: usize,
        range: Range<usize>,
        word: u64,
    ) -> Result<()> {
        let pages = range.len();
        let to = Pages::of(regions, region, range.clone());
        let job = self.gpu.submit(Command::Fill {
            dst: to.address,
            pattern: word,
            bytes: to.bytes(),
        })?;
        let accessible = range.take_while(|&page| regions[region].writable(page));
        self.under_way = Some(UnderWay {
            job,
            name: "fill",
            source: None,
            destination: Some((to, vec![Content::Repeated(word); pages])),
            pages: accessible.count(),
            of: pages,
            elements: PAGE as u64,
            value: 0,
            disturbed: false,
        });
        Ok(())
    }

    /// Copies pages from one region to another.
    pub(super) fn copy(
        &mut self,
        regions: &[Region],
        from: (usize, Range<usize>),
        to: (usize, usize),
    ) -> Result<()> {
        let (source, range) = from;
        let (region, first) = to;
        let pages = range.len();
        let from = Pages::of(regions, source, range.clone());
        let to = Pages::of(regions, region, first..first + pages);
        let job = self.gpu.submit(Command::Copy {
            dst: to.address,
            src: from.address,
            bytes: to.bytes(),
        })?;
        let accessible = range.clone().zip(first..).take_while(|&(from, to)| {
            regions[source].readable(from) && regions[region].writable(to)
        });
        // Pages that it does not come to are not looked at afterwards.
        let contents = range.map(|page| regions[source].content(page).unwrap_or(Content::Zero));
        self.under_way = Some(UnderWay {
            job,
            name: "copy",
            pages: accessible.count(),
            source: Some(from),
            destination: Some((to, contents.collect())),
            of: pages,
            elements: PAGE as u64,
            value: 0,
            disturbed: false,
        });
        Ok(())
    }

    /// Has pages read.
    pub(super) fn checksum(
        &mut self,
        regions: &[Region],
        region: usize,
        range: Range<usize>,
    ) -> Result<()> {
        let from = Pages::of(regions, region, range.clone());
        let job = self.gpu.submit(Command::Checksum {
            src: from.address,
            words: from.bytes() / 8,
        })?;
        let readable = range
            .clone()
            .take_while(|&page| regions[region].readable(page));
        let pages = readable.count();
        self.under_way = Some(UnderWay {
            job,
            name: "checksum",
            value: checksum(&regions[region], range.start..range.start + pages)?,
            source: Some(from),
            destination: None,
            pages,
            of: range.len(),
            elements: WORDS as u64,
            disturbed: false,
        });
        Ok(())
    }

    /// Counts up one word, CPU and GPU at once.
    pub(super) fn count_up(&mut self, rng: &mut Rng) -> Result<()> {
        let page = rng.below(UNIT_PAGES);
        let (times, value) = (1 + rng.below(MOST_ADDITIONS) as u64, rng.next());
        if rng.one_in(4) {
            let policy = Policy::ALL[rng.below(Policy::ALL.len())];
            let address = self.counters.page_address(page);
            self.gpu.advise(address, PAGE, policy)?;
        }
        let word = self.counters.atomic(page, 0);
        let job = self.gpu.submit(Command::AtomicAdd {
            word: word.as_ptr() as u64,
            value,
            times,
        })?;
        for _ in 0..times {
            word.fetch_add(1, Ordering::Relaxed);
        }
        let report = self.gpu.wait(job)?.complete()?;
        ensure!(report.done == times, "{} additions of {times}", report.done);
        let counted = &mut self.counted[page];
        *counted = counted
            .wrapping_add(times)
            .wrapping_add(value.wrapping_mul(times));
        let found = word.load(Ordering::Relaxed);
        ensure!(
            found == *counted,
            "counter {page} is {found:#x} instead of {counted:#x}"
        );
        Ok(())
    }

    /// Gives advice about pages.
    pub(super) fn advise(
        &self,
        region: &Region,
        range: &Range<usize>,
        policy: Policy,
    ) -> Result<()> {
        let address = region.memory().page_address(range.start);
        self.gpu.advise(address, range.len() * PAGE, policy)
    }

    /// Makes pages accessible to the GPU.
    pub(super) fn prefetch(
        &self,
        region: &Region,
        range: &Range<usize>,
        write: bool,
    ) -> Result<()> {
        let bytes = (range.len() * PAGE) as u64;
        let address = region.memory().page_address(range.start);
        let outputs = self.gpu.prefetch(address, range.len() * PAGE, write)?;
        // What moves may do so more than once, if something else takes it home meanwhile.
        ensure!(
            outputs.mapped_bytes <= bytes,
            "more than {bytes} bytes: {outputs:?}"
        );
        Ok(())
    }

    /// Waits for the job that is under way and checks what came of it.
    pub(super) fn settle(&mut self, regions: &mut [Region], counts: &mut Counts) -> Result<()> {
        let Some(job) = self.under_way.take() else {
            return Ok(());
        };
        let report = self.gpu.wait(job.job)?;
        counts.job_faults += u64::from(report.faults);
        let how = match report.error {
            None => "done",
            Some(_) if job.disturbed => "cut off",
            Some(_) => "refused",
        };
        *counts
            .jobs
            .entry(format!("{} {how}", job.name))
            .or_default() += 1;
        job.check(&report)
            .with_context(|| format!("{report:?} of {job:?}"))?;
        if let Some((to, contents)) = &job.destination {
            let done = usize::try_from(report.done / job.elements)?;
            for (page, &content) in to.pages.clone().zip(contents).take(done) {
                regions[to.region].written(page, content);
            }
        }
        Ok(())
    }
}

impl UnderWay {
    fn check(&self, report: &Report) -> Result<()> {
        let all = self.of as u64 * self.elements;
        match report.error {
            None => {
                ensure!(
                    self.disturbed || self.pages == self.of,
                    "it accessed what it must not"
                );
                ensure!(report.done == all, "it did not do all {all} elements");
                ensure!(
                    self.pages != self.of || report.value == self.value,
                    "its result should be {:#x}",
                    self.value
                );
            }
            Some(Errno::FAULT) => {
                let page = report.done / self.elements;
                ensure!(
                    report.done.is_multiple_of(self.elements) && page < self.of as u64,
                    "it ended at no page's beginning"
                );
                ensure!(
                    self.disturbed || page == self.pages as u64,
                    "it should have come to page {}",
                    self.pages
                );
                let operands = [
                    self.source.as_ref(),
                    self.destination.as_ref().map(|to| &to.0),
                ];
                let offset = page * PAGE as u64;
                ensure!(
                    operands
                        .into_iter()
                        .flatten()
                        .any(|pages| report.fault_address == pages.address + offset),
                    "the address is not that of page {page}"
                );
            }
            Some(error) => bail!("it ended with {error}"),
        }
        Ok(())
    }
}

/// The checksum of what pages must hold.
fn checksum(region: &Region, pages: Range<usize>) -> Result<u64> {
    let mut checksum = Checksum::new();
    for page in pages {
        let content = region.content(page).context("the page is not mapped")?;
        checksum.add(content.words().context("the content is not known")?);
    }
    Ok(checksum.value())
}

/// Checks what a GPU reads from pages, all of which can be read.
pub(super) fn reads_right(gpu: &Gpu, region: &Region, pages: Range<usize>) -> Result<()> {
    let expected = checksum(region, pages.clone())?;
    let report = gpu.run(Command::Checksum {
        src: region.memory().page_address(pages.start) as u64,
        words: (pages.len() * WORDS) as u64,
    })?;
    ensure!(
        report.value == expected,
        "the GPU has {:#x} for pages {pages:?} instead of {expected:#x}",
        report.value
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A fill of four pages of which the third cannot be written.
    fn job() -> UnderWay {
        let to = Pages {
            region: 0,
            pages: 8..12,
            address: 0x10_0000,
        };
        UnderWay {
            job: Job(1),
            name: "fill",
            source: None,
            destination: Some((to, vec![Content::Repeated(7); 4])),
            pages: 2,
            of: 4,
            elements: PAGE as u64,
            value: 0,
            disturbed: false,
        }
    }

    fn report(error: Option<Errno>, pages: u64, fault_address: u64) -> Report {
        Report {
            error,
            value: 0,
            done: pages * PAGE as u64,
            faults: 0,
            fault_address,
            time: Duration::ZERO,
        }
    }

    #[test]
    fn a_job_has_to_stop_where_access_ends() {
        let job = job();
        let fault = Some(Errno::FAULT);
        job.check(&report(fault, 2, 0x10_2000)).unwrap();
        // Not at all, too late, elsewhere, or for another reason.
        assert!(job.check(&report(None, 4, 0)).is_err());
        assert!(job.check(&report(fault, 3, 0x10_3000)).is_err());
        assert!(job.check(&report(fault, 2, 0x10_1000)).is_err());
        assert!(job.check(&report(Some(Errno::IO), 2, 0x10_2000)).is_err());
    }

    #[test]
    fn a_disturbed_job_may_stop_at_any_page_or_go_on() {
        let mut job = job();
        job.disturbed = true;
        job.check(&report(None, 4, 0)).unwrap();
        job.check(&report(Some(Errno::FAULT), 1, 0x10_1000))
            .unwrap();
        assert!(job.check(&report(None, 3, 0)).is_err());
        assert!(
            job.check(&report(Some(Errno::FAULT), 1, 0x10_2000))
                .is_err()
        );
    }

    #[test]
    fn results_are_compared() {
        let mut job = job();
        (job.pages, job.value) = (4, 5);
        assert!(job.check(&report(None, 4, 0)).is_err());
        job.value = 0;
        job.check(&report(None, 4, 0)).unwrap();
    }
}
