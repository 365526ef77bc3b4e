//! The faults that are armed, and those that were.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hmmgpu_telemetry::snapshot::{FaultAction, FaultOutcome, FaultSite, InjectedFault};

use super::spec::{Action, FaultSpec, Part, When};
use crate::reset::ResetCause;

/// Most faults that are remembered, armed or not. Bounds what a client of the control socket can
/// make the device keep.
pub const MAX_FAULTS: usize = 64;

/// There is no room for more faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_FAULTS} faults can be armed at a time: clear those that are")]
pub struct TooManyFaults;

/// A fault, and what came of it so far.
#[derive(Debug)]
struct Fault {
    spec: FaultSpec,
    armed: bool,
    seen: u64,
    hits: u64,
    last_ns: u64,
    outcomes: Vec<(FaultOutcome, u64)>,
    /// State of its generator.
    random: u64,
    /// It has hit since the last reset of whatever kind.
    open: bool,
}

impl Fault {
    fn new(spec: FaultSpec) -> Self {
        let random = match spec.when {
            When::Rate { seed, .. } => seed,
            _ => 0,
        };
        Self {
            spec,
            armed: true,
            seen: 0,
            hits: 0,
            last_ns: 0,
            outcomes: Vec::new(),
            random,
            open: false,
        }
    }

    /// One more comes by: does it hit?
    fn comes(&mut self) -> bool {
        self.seen += 1;
        match self.spec.when {
            When::Now => true,
            When::From(first) => self.seen >= first,
            When::Every(every) => self.seen.is_multiple_of(every),
            When::Rate { probability, .. } => self.random() < probability,
        }
    }

    /// A number from 0 to below 1 (splitmix64: any seed will do).
    #[allow(clippy::cast_precision_loss)] // 53 bits are exact.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        (word >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn hit(&mut self, now_ns: u64, clears: u32) -> Hit {
        self.hits += 1;
        self.last_ns = now_ns;
        self.open = true;
        self.armed = self.spec.times.is_none_or(|times| self.hits < times);
        Hit {
            site: self.spec.site,
            action: self.spec.action,
            number: self.hits,
            clears,
        }
    }

    fn came(&mut self, outcome: FaultOutcome) {
        match self
            .outcomes
            .iter_mut()
            .find(|(known, _)| *known == outcome)
        {
            Some((_, times)) => *times += 1,
            None => self.outcomes.push((outcome, 1)),
        }
    }

    fn told(&self) -> InjectedFault {
        InjectedFault {
            spec: self.spec.to_string(),
            site: self.spec.site,
            action: self.spec.action.kind(),
            armed: self.armed,
            seen: self.seen,
            hits: self.hits,
            last_ns: self.last_ns,
            outcomes: self.outcomes.clone(),
        }
    }
}

/// A fault that hits now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) site: FaultSite,
    pub(crate) action: Action,
    /// Its hits so far, for whoever wants to vary them.
    pub(crate) number: u64,
    /// How often all faults had been disarmed before it.
    clears: u32,
}

/// The bit of a site.
const fn bit(site: FaultSite) -> u32 {
    1 << site as u32
}

/// Sites that a COPY or FILL comes by.
const TRANSFER_SITES: u32 =
    bit(FaultSite::Copy) | bit(FaultSite::Engine) | bit(FaultSite::Vram) | bit(FaultSite::Gpu);

/// All faults of a device.
#[derive(Debug, Default)]
pub(crate) struct Injector {
    /// Sites for which one is armed, as bits.
    sites: AtomicU32,
    /// How often all were disarmed: who stands still for one goes on then.
    clears: AtomicU32,
    faults: Mutex<Vec<Fault>>,
}

impl Injector {
    /// Whether anything is armed for a site.
    pub(crate) fn any(&self, site: FaultSite) -> bool {
        self.sites.load(Ordering::Relaxed) & bit(site) != 0
    }

    /// Whether anything is armed that a COPY or FILL comes by.
    pub(crate) fn any_transfer(&self) -> bool {
        self.sites.load(Ordering::Relaxed) & TRANSFER_SITES != 0
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update_sites(&self, faults: &[Fault]) {
        let armed = faults.iter().filter(|fault| fault.armed);
        let sites = armed.fold(0, |sites, fault| sites | bit(fault.spec.site));
        self.sites.store(sites, Ordering::Relaxed);
    }

    /// Arms faults, all of them or none; returns those that are to happen at once. Those that are
    /// not armed any more are forgotten if there are too many, the oldest first.
    pub(crate) fn arm(
        &self,
        specs: Vec<FaultSpec>,
        now_ns: u64,
    ) -> Result<Vec<Hit>, TooManyFaults> {
        let mut faults = self.faults();
        let armed = faults.iter().filter(|fault| fault.armed).count();
        if armed + specs.len() > MAX_FAULTS {
            return Err(TooManyFaults);
        }
        let mut over = (faults.len() + specs.len()).saturating_sub(MAX_FAULTS);
        faults.retain(|fault| {
            let keep = fault.armed || over == 0;
            over -= usize::from(!keep);
            keep
        });
        let first_new = faults.len();
        faults.extend(specs.into_iter().map(Fault::new));
        let now = faults[first_new..]
            .iter_mut()
            .filter(|fault| fault.spec.when == When::Now)
            .map(|fault| fault.hit(now_ns, self.clears()))
            .collect();
        self.update_sites(&faults);
        Ok(now)
    }

    /// Disarms all.
    pub(crate) fn disarm(&self) {
        let mut faults = self.faults();
        // Under the lock: whatever has hit is either of before, and goes on now, or hits no more.
        self.clears.fetch_add(1, Ordering::Relaxed);
        faults.iter_mut().for_each(|fault| fault.armed = false);
        self.update_sites(&faults);
    }

    fn clears(&self) -> u32 {
        self.clears.load(Ordering::Relaxed)
    }

    /// Whether nothing was disarmed since a hit.
    pub(crate) fn stands(&self, hit: &Hit) -> bool {
        self.clears() == hit.clears
    }

    /// Something comes by at a site: what goes wrong with it, if anything. All that are armed for it
    /// count; of those that hit at once, the first is taken.
    pub(crate) fn ask(&self, site: FaultSite, part: &'static str, now_ns: u64) -> Option<Hit> {
        self.ask_if(site, part, now_ns, |_| true)
    }

    /// As [`Self::ask`], of those faults alone for whose action `concerns` is true.
    pub(crate) fn ask_if(
        &self,
        site: FaultSite,
        part: &'static str,
        now_ns: u64,
        concerns: impl Fn(Action) -> bool,
    ) -> Option<Hit> {
        if !self.any(site) {
            return None;
        }
        let mut faults = self.faults();
        let mut hit = None;
        for fault in faults.iter_mut() {
            let meant = match fault.spec.part {
                Part::All => true,
                Part::Only(only) => only == part,
            };
            let here = fault.armed && fault.spec.site == site && meant;
            if here && concerns(fault.spec.action) && fault.comes() && hit.is_none() {
                hit = Some(fault.hit(now_ns, self.clears()));
            }
        }
        if hit.is_some() {
            self.update_sites(&faults);
        }
        hit
    }

    /// What came of a hit.
    pub(crate) fn came(&self, site: FaultSite, action: FaultAction, outcome: FaultOutcome) {
        let mut faults = self.faults();
        let last = faults
            .iter_mut()
            .filter(|fault| fault.spec.site == site && fault.spec.action.kind() == action)
            .max_by_key(|fault| fault.last_ns);
        if let Some(fault) = last {
            fault.came(outcome);
        }
    }

    /// The device was reset: that is what came of all that hit since the last time.
    pub(crate) fn reset(&self, cause: ResetCause) {
        let outcome = match cause {
            ResetCause::Register => FaultOutcome::ResetByDriver,
            ResetCause::Flr | ResetCause::VfioUser => FaultOutcome::ResetByBus,
            ResetCause::Disconnect => FaultOutcome::ClientLeft,
            ResetCause::Injected => return,
        };
        for fault in self.faults().iter_mut().filter(|fault| fault.open) {
            fault.open = false;
            fault.came(outcome);
        }
    }

    /// For a snapshot.
    pub(crate) fn told(&self) -> Vec<InjectedFault> {
        self.faults().iter().map(Fault::told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injector(specs: &[&str]) -> Injector {
        let injector = Injector::default();
        for spec in specs {
            let fault = spec.parse().expect("a fault");
            injector.arm(vec![fault], 0).expect("room");
        }
        injector
    }

    /// Which of so many copies are hit.
    fn hits(injector: &Injector, copies: u64) -> Vec<u64> {
        (1..=copies)
            .filter(|now| injector.ask(FaultSite::Copy, "sys_to_dev", *now).is_some())
            .collect()
    }

    #[test]
    fn a_fault_hits_when_it_says() {
        assert_eq!(hits(&injector(&["copy:fail@3"]), 10), [3]);
        assert_eq!(hits(&injector(&["copy:fail@3*2"]), 10), [3, 4]);
        assert_eq!(hits(&injector(&["copy:fail@every:4"]), 12), [4, 8, 12]);
        assert_eq!(hits(&injector(&["copy:fail@every:4*2"]), 12), [4, 8]);
        assert_eq!(hits(&injector(&["copy:fail@2", "copy:drop@5"]), 9), [2, 5]);
        assert_eq!(hits(&injector(&["copy.dev_to_sys:fail"]), 10), [0; 0]);
        assert_eq!(hits(&injector(&["fence:drop"]), 10), [0; 0]);
    }

    #[test]
    fn a_rate_is_kept_and_its_seed_repeats_it() {
        let count = |spec| hits(&injector(&[spec]), 10_000);
        let found = count("copy:fail@rate:0.1,seed:5");
        assert!((800..1200).contains(&found.len()), "{}", found.len());
        assert_eq!(found, count("copy:fail@rate:0.1,seed:5"));
        assert_ne!(found, count("copy:fail@rate:0.1,seed:6"));
    }

    #[test]
    fn nothing_is_asked_of_sites_where_nothing_is_armed() {
        let injector = injector(&["engine:hang@2"]);
        assert!(injector.any(FaultSite::Engine) && injector.any_transfer());
        assert!(!injector.any(FaultSite::Copy) && !injector.any(FaultSite::Fence));
        assert_eq!(injector.ask(FaultSite::Engine, "", 1), None);
        assert!(injector.ask(FaultSite::Engine, "", 2).is_some());
        assert!(!injector.any_transfer());
        let told = injector.told();
        assert_eq!((told[0].seen, told[0].hits, told[0].armed), (2, 1, false));
    }

    #[test]
    fn what_came_of_a_hit_is_told() {
        let injector = injector(&["fence:drop", "fence:fail@7"]);
        injector.ask(FaultSite::Fence, "copy", 1).expect("a hit");
        injector.came(FaultSite::Fence, FaultAction::Drop, FaultOutcome::Lost);
        for _ in 0..2 {
            injector.reset(ResetCause::Register);
        }
        let expected = [(FaultOutcome::Lost, 1), (FaultOutcome::ResetByDriver, 1)];
        assert_eq!(injector.told()[0].outcomes, expected);
        assert_eq!(injector.told()[1].outcomes, []);
    }

    #[test]
    fn faults_are_bounded_and_old_ones_make_room() {
        let injector = Injector::default();
        let arm = |spec: &str, count: usize| {
            let fault: FaultSpec = spec.parse().expect("a fault");
            injector.arm(vec![fault; count], 0).map(|now| now.len())
        };
        assert_eq!(arm("copy:fail@9", MAX_FAULTS), Ok(0));
        assert_eq!(arm("copy:drop", 1), Err(TooManyFaults));
        injector.disarm();
        assert!(!injector.any(FaultSite::Copy));
        assert_eq!(arm("copy:drop", 2), Ok(0));
        let told = injector.told();
        assert_eq!(told.len(), MAX_FAULTS);
        let armed = told.iter().filter(|fault| fault.armed);
        assert!(armed.map(|fault| fault.spec.as_str()).eq(["copy:drop"; 2]));
    }
}
