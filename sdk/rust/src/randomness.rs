//! Randomness for libraries that ask the system for it, through the `getrandom` crate: to seed hash maps, mostly.
//!
//! A plugin has no system to ask, and nothing that it sees may differ between two tries of a batch. So they get the same numbers in every
//! instance: good to spread things, and no secret. Randomness that differs from batch to batch comes with its context
//! ([`Context::random`](crate::Context::random)).

use crate::hash;

/// What `getrandom` 0.3 calls where it is built with `--cfg getrandom_backend="custom"`, as `tidegate plugin build` does.
///
/// # Safety
/// `bytes` points to `length` bytes that may be written: the contract of `getrandom`.
#[allow(unsafe_code, reason = "the name and the pointer are getrandom's")]
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(bytes: *mut u8, length: usize) -> Result<(), getrandom::Error> {
    for index in 0..length {
        // SAFETY: the caller's bytes, one after the other.
        unsafe { bytes.add(index).write((hash::mix(index as u64 + 1) >> 32) as u8) };
    }
    Ok(())
}
