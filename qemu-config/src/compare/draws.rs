//! The comparison on samples that are made up, with known answers: no alarm where there is no
//! difference, an alarm where there is one. Every draw has its seed, so that each run of these
//! tests makes the same ones.

use std::collections::BTreeMap;

use hmmgpu_guest_protocol::bench::{Direction, Trigger};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, LogNormal};

use super::comparison::{Comparison, Settings, Verdict};
use super::sides::{Boot, Rounds};
use super::statistics::tail;
use super::verdict::{Input, compare};
use super::warnings::Warning;
use crate::bench::result::RowKey;

/// Draws for a question after something rare.
const MANY: u32 = 1000;
const DRAWS: u32 = 100;

/// What results are drawn from.
#[derive(Clone, Copy)]
struct World {
    boots: usize,
    rounds: usize,
    /// Standard deviations of the logarithms of the rounds' noise: of the calmest and of the
    /// noisiest row.
    noise: (f64, f64),
    /// The same, of what all rows of a boot have in common.
    boot_noise: f64,
    /// The same, of what the rounds of a row have in common in one boot.
    row_noise: f64,
    /// How fast the host is in each boot, measured by the boot before.
    drift: f64,
}

/// All rows of the bench.
fn rows() -> Vec<RowKey> {
    let ways = [
        (Direction::SysToDev, Trigger::Prefetch),
        (Direction::DevToSys, Trigger::Prefetch),
        (Direction::DevToSys, Trigger::CpuFault),
    ];
    let orders = [0, 2, 3, 4, 5, 6, 7, 8, 9];
    let row = |source_order| {
        ways.map(|(direction, trigger)| RowKey {
            source_order,
            direction,
            trigger,
        })
    };
    orders.into_iter().flat_map(row).collect()
}

fn factor(noise: f64, random: &mut ChaCha8Rng) -> f64 {
    LogNormal::new(0.0, noise)
        .expect("a deviation")
        .sample(random)
}

/// The boots of one side, each row `speed` times as fast as it is; the sides boot by turns, and
/// this one `after` so many boots.
fn side(
    world: World,
    after: usize,
    speed: impl Fn(RowKey) -> f64,
    random: &mut ChaCha8Rng,
) -> Vec<Boot> {
    let rows = rows();
    let last = (rows.len() - 1) as f64;
    let boot = |number: usize| {
        let late = world.drift.powf((2 * number + after) as f64);
        let common = factor(world.boot_noise, random) * late;
        let rows = rows.iter().enumerate().map(|(index, row)| {
            let (calm, wild) = world.noise;
            let noise = calm + (wild - calm) * index as f64 / last;
            let truth = if row.source_order == 9 { 12e9 } else { 0.4e9 } * speed(*row) * common;
            let truth = truth * factor(world.row_noise, random);
            let bytes_per_s = (0..world.rounds)
                .map(|_| truth * factor(noise, random))
                .collect();
            let rounds = Rounds {
                bytes_per_s,
                bytes: 64 << 20,
                latency_p50_us: 1.0,
                verified: true,
            };
            (*row, rounds)
        });
        let rows: BTreeMap<_, _> = rows.collect();
        Boot {
            number,
            rows,
            ..Boot::default()
        }
    };
    (0..world.boots).map(boot).collect()
}

/// Compares sides that are drawn with this seed; B is `speed` times as fast.
fn draw(world: World, seed: u32, speed: impl Fn(RowKey) -> f64) -> Comparison {
    draw_with(Settings::default(), world, seed, speed)
}

fn draw_with(
    settings: Settings,
    world: World,
    seed: u32,
    speed: impl Fn(RowKey) -> f64,
) -> Comparison {
    let mut random = ChaCha8Rng::seed_from_u64(seed.into());
    let a = side(world, 0, |_| 1.0, &mut random);
    let b = side(world, 1, speed, &mut random);
    let of = |name, boots| Input { name, boots };
    compare(of("a", &a), of("b", &b), settings)
}

/// How many of so many draws raise an alarm.
fn alarms(draws: u32, world: World, speed: impl Fn(RowKey) -> f64) -> u32 {
    let alarm = |seed: &u32| draw(world, *seed, &speed).verdict == Verdict::Regression;
    u32::try_from((0..draws).filter(alarm).count()).expect("few")
}

/// There are no more alarms than the stated level allows where no row is slower.
fn check_level(what: &str, world: World, speed: impl Fn(RowKey) -> f64) {
    let alarms = alarms(MANY, world, speed);
    let allowed = f64::from(MANY) * tail(Settings::default().confidence);
    assert!(f64::from(alarms) <= allowed, "{what}: {alarms} of {MANY}");
}

const ONE_BOOT: World = World {
    boots: 1,
    rounds: 5,
    noise: (0.05, 0.15),
    boot_noise: 0.0,
    row_noise: 0.0,
    drift: 1.0,
};
const BOOTS: World = World {
    boots: 7,
    rounds: 5,
    noise: (0.05, 0.15),
    boot_noise: 0.05,
    row_noise: 0.0,
    drift: 1.0,
};

#[test]
fn a_hundred_results_of_the_usual_length_raise_no_alarm() {
    assert_eq!(alarms(DRAWS, ONE_BOOT, |_| 1.0), 0);
}

#[test]
fn no_difference_raises_no_more_alarms_than_stated() {
    for rounds in [5, 10, 20] {
        let world = World { rounds, ..ONE_BOOT };
        check_level(&format!("{rounds} rounds"), world, |_| 1.0);
    }
}

#[test]
fn what_all_rows_of_a_boot_have_in_common_is_no_difference() {
    for boots in [5, 7, 10] {
        let world = World { boots, ..BOOTS };
        check_level(&format!("{boots} boots"), world, |_| 1.0);
    }
}

/// Boots that differ by far more than their rounds do, each row in its own way, as they do on a
/// busy host.
const UNEQUAL: World = World {
    noise: (0.01, 0.02),
    boot_noise: 0.25,
    row_noise: 0.15,
    ..BOOTS
};

#[test]
fn boots_that_differ_are_no_difference_of_kernels() {
    for boots in [5, 7, 10] {
        let world = World { boots, ..UNEQUAL };
        check_level(&format!("{boots} unequal boots"), world, |_| 1.0);
    }
}

#[test]
fn more_confidence_raises_no_alarm_in_a_hundred_draws() {
    let settings = Settings {
        confidence: 0.999,
        ..Settings::default()
    };
    let world = World {
        boots: 10,
        ..UNEQUAL
    };
    for seed in 0..DRAWS {
        let verdict = draw_with(settings, world, seed, |_| 1.0).verdict;
        assert_ne!(verdict, Verdict::Regression, "{seed}");
    }
}

#[test]
fn rounds_of_two_boots_cannot_say_it() {
    // The same noise: what a boot is worth is seen only from several of them.
    let world = World {
        boots: 1,
        ..UNEQUAL
    };
    assert!(alarms(DRAWS, world, |_| 1.0) > DRAWS / 2);
    let warnings = draw(world, 0, |_| 1.0).warnings;
    assert!(warnings.contains(&Warning::OneBoot), "{warnings:?}");
}

#[test]
fn a_host_that_gets_slower_is_no_difference_of_kernels() {
    for drift in [0.98, 0.95] {
        let world = World { drift, ..BOOTS };
        check_level(&format!("a drift of {drift}"), world, |_| 1.0);
    }
}

#[test]
fn gains_elsewhere_are_no_reason_for_an_alarm() {
    let world = World {
        rounds: 10,
        ..ONE_BOOT
    };
    check_level("gains", world, |row| {
        if row.source_order < 5 { 1.25 } else { 1.0 }
    });
}

#[test]
fn ten_percent_are_found() {
    let calm = World {
        rounds: 10,
        noise: (0.03, 0.05),
        ..ONE_BOOT
    };
    let noisy = World {
        rounds: 30,
        ..ONE_BOOT
    };
    for world in [calm, noisy] {
        let found = alarms(DRAWS, world, |_| 0.9);
        assert_eq!(found, DRAWS, "{} rounds", world.rounds);
    }
}

#[test]
fn ten_percent_in_a_single_order_are_found_there_and_nowhere_else() {
    let world = World {
        rounds: 20,
        noise: (0.04, 0.06),
        ..ONE_BOOT
    };
    let slower = |row: RowKey| if row.source_order == 4 { 0.9 } else { 1.0 };
    let (mut found, mut wrong) = (0, 0);
    for seed in 0..DRAWS {
        for order in draw(world, seed, slower).orders {
            match (order.source_order, order.verdict) {
                (4, Verdict::Regression) => found += 1,
                (_, Verdict::Regression) => wrong += 1,
                _ => {}
            }
        }
    }
    assert!(found >= 95, "{found}");
    assert!(
        wrong <= 5,
        "{wrong}: at most 5 % of what is named is named wrongly"
    );
}

#[test]
fn ten_percent_between_kernels_are_found_among_boots() {
    let world = World {
        boots: 7,
        noise: (0.03, 0.06),
        boot_noise: 0.02,
        ..BOOTS
    };
    assert_eq!(alarms(DRAWS, world, |_| 0.9), DRAWS);
}

#[test]
fn a_drawn_comparison_is_the_same_each_time() {
    let once = draw(ONE_BOOT, 7, |_| 1.0);
    assert_eq!(once, draw(ONE_BOOT, 7, |_| 1.0));
    assert_ne!(once, draw(ONE_BOOT, 8, |_| 1.0));
}
