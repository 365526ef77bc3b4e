//! What is to be measured, validated against the machine that it runs on.

use std::str::FromStr;

use hmmgpu_guest_protocol::bench::{BenchPlan, Source};

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

/// Whether memory is a whole number of folios of the largest order.
pub fn check_two_mib(size: Size) -> Result<(), String> {
    if size.0 == 0 || !size.0.is_multiple_of(2 * MIB) {
        return Err(format!("{size} is not a multiple of 2M"));
    }
    Ok(())
}

/// How much is measured where the user does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One boot that has to say it all.
    One,
    /// One of several boots, of which each is one value: more boots tell more than longer ones.
    OneOfMany,
}

impl Extent {
    /// Orders: all, or those whose folios move whole.
    pub fn orders(self) -> Orders {
        match self {
            Self::One => Orders(vec![0, 2, 3, 4, 5, 6, 7, 8, 9]),
            Self::OneOfMany => Orders(vec![0, 9]),
        }
    }

    /// Counted rounds for each order.
    pub fn repeats(self) -> u32 {
        match self {
            Self::One => 5,
            Self::OneOfMany => 3,
        }
    }

    /// Memory for each round of an order. Single pages take some thirty times longer than folios
    /// of order 9, and so do orders 2 to 8, whose folios the kernel splits.
    pub fn size(self, order: u8) -> Size {
        match (self, order) {
            (_, 2..=8) | (Self::OneOfMany, 0) => Size(64 * MIB),
            _ => Size(256 * MIB),
        }
    }
}

/// The plan, if it fits into VRAM and guest memory; `size` is the memory for each round of an
/// order.
pub fn plan(
    size: impl Fn(u8) -> Size,
    orders: &Orders,
    repeats: u32,
    call: Size,
    vram: Size,
    memory: Size,
) -> Result<BenchPlan, String> {
    let sources: Vec<Source> = orders
        .0
        .iter()
        .map(|&order| Source {
            order,
            size_bytes: size(order).0,
        })
        .collect();
    let largest = sources.iter().map(|source| source.size_bytes).max();
    let largest = Size(largest.unwrap_or(0));
    if largest > vram {
        return Err(format!(
            "rounds of {largest} do not fit into VRAM of {vram}; give --vram {largest} or a smaller --size"
        ));
    }
    let needed = largest.0.saturating_add(GUEST_RESERVE);
    if needed > memory.0 {
        let needed = Size(needed.div_ceil(2 * MIB).saturating_mul(2 * MIB));
        return Err(format!(
            "rounds of {largest} do not fit into guest memory of {memory}; give --memory {needed} or a smaller --size"
        ));
    }
    Ok(BenchPlan {
        device: "/dev/hmmgpu0".into(),
        sources,
        repeats,
        call_bytes: call.0,
        wait: true,
        floor: false,
        test_hmm: None,
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
    fn one_boot_measures_all_and_one_of_many_what_is_quick() {
        let usual = |extent: Extent| (extent.orders().0, extent.repeats());
        assert_eq!(usual(Extent::One), (vec![0, 2, 3, 4, 5, 6, 7, 8, 9], 5));
        assert_eq!(usual(Extent::OneOfMany), (vec![0, 9], 3));
    }

    #[test]
    fn other_orders_are_refused() {
        for text in ["", "1", "10", "-1", "2-", "9-2", "a", "2-1", "2,,3", "256"] {
            assert!(text.parse::<Orders>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_has_to_fit() {
        let orders = Orders(vec![0, 4, 9]);
        let call = Size(32 * MIB);
        let make =
            |size, vram, memory| plan(|_| Size(size), &orders, 5, call, Size(vram), Size(memory));
        let sizes = |made: BenchPlan| {
            let source = |source: &Source| (source.order, source.size_bytes / MIB);
            made.sources.iter().map(source).collect::<Vec<_>>()
        };
        let made = make(256 * MIB, GIB, 2 * GIB).expect("fits");
        assert_eq!((made.call_bytes, made.repeats), (32 * MIB, 5));
        assert_eq!(sizes(made), [(0, 256), (4, 256), (9, 256)]);
        let usual = |extent: Extent| {
            let size = |order| extent.size(order);
            let made = plan(size, &orders, 5, call, Size(GIB), Size(2 * GIB));
            sizes(made.expect("fits"))
        };
        assert_eq!(usual(Extent::One), [(0, 256), (4, 64), (9, 256)]);
        assert_eq!(usual(Extent::OneOfMany), [(0, 64), (4, 64), (9, 256)]);
        let error = make(2 * GIB, GIB, 4 * GIB).expect_err("VRAM");
        assert!(error.contains("--vram 2G"), "{error}");
        let error = make(GIB, GIB, GIB).expect_err("memory");
        assert!(error.contains("--memory 1536M"), "{error}");
        assert!(make(!(2 * MIB - 1), u64::MAX, GIB).is_err());
    }
}
