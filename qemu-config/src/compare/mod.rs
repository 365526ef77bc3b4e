//! Comparing two results of the bench: by how much each row differs, whether that can be chance,
//! and what is to be doubted. docs/compare.md says how and why.

pub mod comparison;
pub mod document;
mod doubts;
pub mod read;
pub mod render;
pub mod sides;
pub mod statistics;
pub mod verdict;
pub mod warnings;
mod words;

#[cfg(test)]
mod draws;
