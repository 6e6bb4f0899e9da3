//! The mixer of the datapath's hashes.

/// Multiplies, and folds the product (the mixer of wyhash): every bit of the result depends on all of both.
#[inline]
pub(crate) fn folded_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
