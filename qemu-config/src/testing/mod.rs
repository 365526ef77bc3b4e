//! Tests in guests: what is made of what their runner says.

pub mod record;
pub mod result;
pub mod tap;
