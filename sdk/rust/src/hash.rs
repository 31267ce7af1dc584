//! A hash for placing records: the same in every version, on every machine.

/// FNV-1a of 64 bits, and then mixed as SplitMix64 does: FNV alone leaves the high bits of short keys nearly alike.
///
/// What is placed by it stays where it is: the function is part of the SDK's contract and never changes. It is not for
/// secrets, and whoever chooses the keys can choose the places.
#[must_use]
pub fn stable(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(fnv)
}

/// Two numbers as one, such as a hash and what it is to be combined with.
#[must_use]
pub fn with(hash: u64, other: u64) -> u64 {
    mix(hash.wrapping_add(other.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of FNV-1a (64 bits) from its authors' `test_fnv.c`, mixed by the reference code of SplitMix64: computed apart
    /// from this file. A change here would move every record that was placed by this hash.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(stable(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(stable(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(stable(b"foobar"), mix(0x8594_4171_f739_67e8));
        // SplitMix64 seeded with 0 gives 0xe220a8397b1dcdaf first: the mix of the golden gamma.
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
        assert_eq!(with(0, 1), 0xe220_a839_7b1d_cdaf);
    }
}
