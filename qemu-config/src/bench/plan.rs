//! What is to be measured, validated against the machine that it runs on.

use std::str::FromStr;

use hmmgpu_guest_protocol::bench::BenchPlan;

use crate::size::{MIB, Size};

/// Folio orders of source memory, ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders(pub Vec<u8>);

/// Largest order: one 2 MiB folio.
const MAX_ORDER: u8 = 9;
/// Guest memory beside the memory that is measured: kernel, initramfs, and what a migration needs
/// of both kinds at a time.
const GUEST_RESERVE: u64 = 512 * MIB;

impl FromStr for Orders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| -> Result<u8, String> {
            let order = text
                .trim()
                .parse::<u8>()
                .ok()
                .filter(|order| *order <= MAX_ORDER);
            match order {
                Some(1) => Err("there is no anonymous memory in folios of order 1".into()),
                Some(order) => Ok(order),
                None => Err(format!("'{text}' is not an order; orders are 0 and 2 to 9")),
            }
        };
        let mut orders = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => orders.push(number(part)?),
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        return Err(format!("'{part}' ends before it begins"));
                    }
                    // A range over order 1 leaves it out, as 0-9 plainly means to.
                    orders.extend((first..=last).filter(|order| *order != 1));
                }
            }
        }
        orders.sort_unstable();
        orders.dedup();
        Ok(Self(orders))
    }
}

/// Whether a round of that size can come home half and half.
pub fn check_round(size: Size) -> Result<(), String> {
    check_two_mib(size)?;
    if size.0 < 4 * MIB {
        return Err(format!(
            "{size} is too little: at least 4M are needed, 2M for each way home"
        ));
    }
    Ok(())
}

/// Whether memory is a whole number of folios of the largest order.
pub fn check_two_mib(size: Size) -> Result<(), String> {
    if size.0 == 0 || !size.0.is_multiple_of(2 * MIB) {
        return Err(format!("{size} is not a multiple of 2M"));
    }
    Ok(())
}

/// The plan, if it fits into VRAM and guest memory.
pub fn plan(
    size: Size,
    orders: &Orders,
    repeats: u32,
    call: Size,
    vram: Size,
    memory: Size,
) -> Result<BenchPlan, String> {
    if size > vram {
        return Err(format!(
            "--size {size} does not fit into VRAM of {vram}; give --vram {size}"
        ));
    }
    let needed = size.0.saturating_add(GUEST_RESERVE);
    if needed > memory.0 {
        let needed = Size(needed.div_ceil(2 * MIB).saturating_mul(2 * MIB));
        return Err(format!(
            "--size {size} does not fit into guest memory of {memory}; give --memory {needed}"
        ));
    }
    Ok(BenchPlan {
        device: "/dev/hmmgpu0".into(),
        size_bytes: size.0,
        orders: orders.0.clone(),
        repeats,
        call_bytes: call.0.min(size.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::GIB;

    #[test]
    fn orders_are_single_or_ranges() {
        let orders = |text: &str| text.parse::<Orders>().map(|orders| orders.0);
        assert_eq!(orders("0,2-9"), Ok(vec![0, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert_eq!(orders("9"), Ok(vec![9]));
        assert_eq!(orders("9,0,9, 4"), Ok(vec![0, 4, 9]));
        assert_eq!(orders("0-3"), Ok(vec![0, 2, 3]));
    }

    #[test]
    fn other_orders_are_refused() {
        for text in ["", "1", "10", "-1", "2-", "9-2", "a", "2-1", "2,,3", "256"] {
            assert!(text.parse::<Orders>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_has_to_fit() {
        let orders = Orders(vec![0, 9]);
        let make = |size, vram, memory| {
            plan(
                Size(size),
                &orders,
                5,
                Size(32 * MIB),
                Size(vram),
                Size(memory),
            )
        };
        let made = make(256 * MIB, GIB, 2 * GIB).expect("fits");
        assert_eq!(
            (made.size_bytes, made.call_bytes, made.repeats),
            (256 * MIB, 32 * MIB, 5)
        );
        assert_eq!(made.orders, [0, 9]);
        assert_eq!(
            make(2 * MIB, GIB, 2 * GIB).expect("fits").call_bytes,
            2 * MIB
        );
        assert!(
            make(2 * GIB, GIB, 4 * GIB)
                .expect_err("VRAM")
                .contains("--vram 2G")
        );
        assert!(
            make(GIB, GIB, GIB)
                .expect_err("memory")
                .contains("--memory 1536M")
        );
        assert!(make(!(2 * MIB - 1), u64::MAX, GIB).is_err());
    }
}
