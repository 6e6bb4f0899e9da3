//! SCTP (RFC 9260): the common header, and its checksum after a change.
//!
//! The checksum is a CRC32c over the packet alone, with no pseudo-header: addresses may change, ports may not. A CRC
//! is linear: that of a changed packet is that of the packet, plus that of the change, which is a polynomial shifted
//! by what follows it. So the new one is found without a look at the payload, and damage stays detectable, which a
//! checksum computed anew would hide.

/// The common header: ports, verification tag, checksum.
pub const HEADER_BYTES: usize = 12;
/// Where the checksum is, in bytes from the start of the header.
pub const CHECKSUM_OFFSET: usize = 8;

/// Chunk types that end an association, each the only or the first of its packet (RFC 9260 sections 3.3.7, 3.3.13).
const ABORT: u8 = 6;
/// See [`ABORT`].
const SHUTDOWN_COMPLETE: u8 = 14;

/// Whether a packet whose first chunk is of this type ends its association.
#[must_use]
pub const fn ends_association(first_chunk: u8) -> bool {
    matches!(first_chunk, ABORT | SHUTDOWN_COMPLETE)
}

/// Castagnoli's polynomial with its bits reversed: the highest bit is the coefficient of x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// `a * b` modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, ONE);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = b >> 1 ^ if b & 1 != 0 { POLYNOMIAL } else { 0 };
        bit >>= 1;
    }
    product
}

/// x to the power of 8 * 2^k: shifting by 2^k bytes.
const SHIFTS: [u32; 32] = {
    let mut shifts = [ONE >> 8; 32];
    let mut k = 1;
    while k < 32 {
        shifts[k] = multiply(shifts[k - 1], shifts[k - 1]);
        k += 1;
    }
    shifts
};

/// The checksum field (which is little-endian) after four bytes that it covers changed from `old` to `new`, with
/// `behind_bytes` bytes of the packet behind them. A field of zero is a checksum that is not there (RFC 9653, or left
/// to the hardware), and stays zero.
#[must_use]
pub fn update_checksum(field: [u8; 4], old: [u8; 4], new: [u8; 4], behind_bytes: u32) -> [u8; 4] {
    if field == [0; 4] {
        return field;
    }
    let mut change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    // The four bytes themselves are shifted by their own length.
    let mut bytes = behind_bytes.saturating_add(4);
    for shift in SHIFTS {
        if bytes & 1 != 0 {
            change = multiply(change, shift);
        }
        bytes >>= 1;
    }
    (u32::from_le_bytes(field) ^ change).to_le_bytes()
}

/// The checksum bit by bit (RFC 9260, appendix A).
#[cfg(test)]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { POLYNOMIAL } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_check_value_of_the_polynomial() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_is_not_there_stays_away() {
        assert_eq!(update_checksum([0; 4], [1; 4], [2; 4], 100), [0; 4]);
    }

    proptest! {
        #[test]
        fn a_change_is_as_though_computed_anew(
            mut packet in prop::collection::vec(any::<u8>(), 12..2000),
            new in any::<[u8; 4]>(),
        ) {
            let seal = |packet: &mut Vec<u8>| {
                packet[8..12].fill(0);
                let crc = crc32c(packet);
                packet[8..12].copy_from_slice(&crc.to_le_bytes());
            };
            seal(&mut packet);
            let (field, old) = (packet[8..12].try_into().unwrap(), packet[..4].try_into().unwrap());
            let updated = update_checksum(field, old, new, packet.len() as u32 - 4);
            packet[..4].copy_from_slice(&new);
            seal(&mut packet);
            prop_assert_eq!(&updated[..], &packet[8..12]);
        }
    }
}
