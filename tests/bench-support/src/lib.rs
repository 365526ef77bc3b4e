//! What benchmarks on the host have in common.
//!
//! Each row measures two sides in one run, ours and what it stands beside, which take turns: the
//! figure that counts is the quotient of a pair, and a disturbance of the host meets both sides.
//! Where memory lies can make one side a tenth faster than its twin, so that rounds make everything
//! anew, and take turns in which side is made first.

mod options;
mod row;
mod statistics;
mod table;

pub use options::Options;
pub use row::{Row, SCHEMA, Target};
pub use statistics::{Spread, median};
pub use table::Table;

/// Figures of a pair of turns: ours, and what it stands beside.
pub type Pair = [f64; 2];

/// Lets so many sides take turns, `turns` times after `warm_up` that do not count. Which side goes
/// first changes from turn to turn. `turn` gets the side and returns its figure. Returns the figures
/// of all sides for each turn.
///
/// # Errors
/// The first error of a turn.
pub fn take_turns<const SIDES: usize, E>(
    turns: usize,
    warm_up: usize,
    mut turn: impl FnMut(usize) -> Result<f64, E>,
) -> Result<Vec<[f64; SIDES]>, E> {
    let mut figures = Vec::with_capacity(turns);
    for number in 0..warm_up + turns {
        let mut all = [0.0; SIDES];
        for side in (0..SIDES).map(|place| (place + number) % SIDES) {
            all[side] = turn(side)?;
        }
        if number >= warm_up {
            figures.push(all);
        }
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_take_turns_in_going_first_and_the_warm_up_does_not_count() {
        let mut turns = Vec::new();
        let pairs = take_turns::<2, _>(2, 1, |side| {
            turns.push(side);
            #[allow(clippy::cast_precision_loss)] // A handful.
            Ok::<_, ()>(turns.len() as f64)
        });
        assert_eq!(pairs, Ok(vec![[4.0, 3.0], [5.0, 6.0]]));
        assert_eq!(turns, [0, 1, 1, 0, 0, 1]);
    }

    #[test]
    fn an_error_ends_it() {
        let pairs = take_turns::<2, _>(2, 0, |side| if side == 1 { Err("no") } else { Ok(1.0) });
        assert_eq!(pairs, Err("no"));
    }
}
