//! The boots of two alternating kernels and their comparison, as JSON of schema
//! `hmmgpu.alternation/1`.

use serde::{Deserialize, Serialize};

use super::comparison::{Comparison, Settings};
use super::sides::{Boot, MAX_BOOTS, Side, Unit};
use super::verdict::{Input, compare_by};
use super::warnings::Warning;
use crate::bench::result::BenchResult;

/// Schema of an alternation.
pub const SCHEMA: &str = "hmmgpu.alternation/1";

/// What `bench --kernel-a X --kernel-b Y` writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternation {
    /// [`SCHEMA`].
    pub schema: String,
    /// Kernel of side A, as it was asked for.
    pub kernel_a: String,
    /// Kernel of side B.
    pub kernel_b: String,
    /// Boots that were to be, of both sides together.
    pub planned_boots: usize,
    /// Boots that were, in their order.
    pub boots: Vec<AlternatedBoot>,
    /// What came of it, with the settings of that run.
    pub comparison: Comparison,
}

/// A boot of one of the kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlternatedBoot {
    /// Which kernel.
    pub side: Side,
    /// What was measured; `None`: nothing.
    pub result: Option<BenchResult>,
    /// Why nothing was measured, or not all.
    pub failure: Option<String>,
}

impl Alternation {
    /// Of these boots; the error says what is wrong with one.
    pub fn new(
        kernel_a: String,
        kernel_b: String,
        planned_boots: usize,
        boots: Vec<AlternatedBoot>,
        settings: Settings,
    ) -> Result<Self, String> {
        let comparison = compare_boots([&kernel_a, &kernel_b], planned_boots, &boots, settings)?;
        Ok(Self {
            schema: SCHEMA.to_owned(),
            kernel_a,
            kernel_b,
            planned_boots,
            boots,
            comparison,
        })
    }

    /// Compares again, with these settings.
    pub fn compare(&self, settings: Settings) -> Result<Comparison, String> {
        let kernels = [&self.kernel_a, &self.kernel_b].map(String::as_str);
        compare_boots(kernels, self.planned_boots, &self.boots, settings)
    }
}

fn compare_boots(
    kernels: [&str; 2],
    planned: usize,
    boots: &[AlternatedBoot],
    settings: Settings,
) -> Result<Comparison, String> {
    let mut failures = Vec::new();
    let mut sides = [Vec::new(), Vec::new()];
    for (side, boots_of) in [Side::A, Side::B].into_iter().zip(&mut sides) {
        let of_side = boots.iter().filter(|boot| boot.side == side);
        for (number, boot) in of_side.enumerate() {
            if number == MAX_BOOTS {
                return Err(format!("{side} has more than {MAX_BOOTS} boots"));
            }
            let measured = match &boot.result {
                Some(result) => Some(
                    Boot::of(number, result)
                        .map_err(|error| format!("boot {} of {side}: {error}", number + 1))?,
                ),
                None => None,
            };
            match measured {
                Some(mut measured) if !measured.rows.is_empty() => {
                    if let Some(failure) = &boot.failure {
                        measured.incomplete.get_or_insert_with(|| failure.clone());
                    }
                    boots_of.push(measured);
                }
                _ => failures.push(Warning::BootFailed {
                    side,
                    boot: number,
                    reason: boot
                        .failure
                        .clone()
                        .unwrap_or_else(|| "nothing was measured".into()),
                }),
            }
        }
    }
    let [a, b] = &sides;
    let [name_a, name_b] = kernels;
    let input = |name, boots| Input { name, boots };
    let mut comparison = compare_by(Unit::Boot, input(name_a, a), input(name_b, b), settings);
    comparison.warnings.extend(failures);
    if boots.len() < planned {
        comparison.warnings.push(Warning::Interrupted {
            planned,
            made: boots.len(),
        });
    }
    Ok(comparison)
}
