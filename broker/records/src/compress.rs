//! Compression of record batches, with a limit on what comes out.
//!
//! A few hundred bytes can decompress to gigabytes, so every decompression names its limit (`max.decompressed.message.bytes`) and stops
//! when it is passed; nothing is allocated by a size that the data claims. Snappy comes in two framings: Java's (xerial blocks
//! after a magic) and raw, as some other clients send it.

use std::io::{self, Read, Write};

use bytes::Bytes;

use crate::batch::Compression;

/// Java's snappy framing: magic, version and compatible version, then blocks of {length u32 big-endian, raw snappy}.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// Uncompressed bytes of a block that we write, as the Java client does.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// The first step of a growing output.
const FIRST_CAPACITY: usize = 16 * 1024;

/// Why bytes could not be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    #[error("the batch is over {limit} bytes when decompressed; max.decompressed.message.bytes sets the limit")]
    TooLarge { limit: usize },
    #[error("the {codec:?} data is damaged: {reason}")]
    Damaged { codec: Compression, reason: String },
}

fn damaged(codec: Compression, error: impl std::fmt::Display) -> CompressionError {
    CompressionError::Damaged { codec, reason: error.to_string() }
}

/// Decompresses `bytes` to at most `limit` bytes. Uncompressed data is returned as it is, without a copy.
///
/// # Errors
/// [`CompressionError`]: over the limit, or not what the codec writes.
pub fn decompress(codec: Compression, bytes: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    match codec {
        Compression::None if bytes.len() > limit => Err(CompressionError::TooLarge { limit }),
        Compression::None => Ok(bytes.clone()),
        Compression::Gzip => read_all(codec, flate2::read::MultiGzDecoder::new(bytes.as_ref()), limit),
        Compression::Lz4 => read_all(codec, lz4_flex::frame::FrameDecoder::new(bytes.as_ref()), limit),
        Compression::Zstd => {
            let decoder =
                zstd::stream::read::Decoder::with_buffer(bytes.as_ref()).map_err(|error| damaged(codec, error))?;
            read_all(codec, decoder, limit)
        }
        Compression::Snappy => unsnap(bytes, limit),
    }
}

fn read_all(codec: Compression, reader: impl Read, limit: usize) -> Result<Bytes, CompressionError> {
    let mut out = Vec::with_capacity(FIRST_CAPACITY.min(limit));
    // One byte over the limit tells that there is more.
    let mut bounded = reader.take(limit as u64 + 1);
    bounded.read_to_end(&mut out).map_err(|error| damaged(codec, error))?;
    if out.len() > limit {
        return Err(CompressionError::TooLarge { limit });
    }
    Ok(out.into())
}

fn unsnap(bytes: &[u8], limit: usize) -> Result<Bytes, CompressionError> {
    let mut out = Vec::new();
    if bytes.starts_with(XERIAL_MAGIC) {
        let mut rest = bytes
            .get(XERIAL_HEADER_BYTES..)
            .ok_or_else(|| damaged(Compression::Snappy, "the header of the framing is cut off"))?;
        while !rest.is_empty() {
            let (length, after) = rest
                .split_first_chunk::<4>()
                .ok_or_else(|| damaged(Compression::Snappy, "a block's length is cut off"))?;
            let length = u32::from_be_bytes(*length) as usize;
            let block = after.get(..length).ok_or_else(|| damaged(Compression::Snappy, "a block is cut off"))?;
            unsnap_block(block, &mut out, limit)?;
            rest = &after[length..];
        }
    } else {
        unsnap_block(bytes, &mut out, limit)?;
    }
    Ok(out.into())
}

fn unsnap_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CompressionError> {
    let claimed = snap::raw::decompress_len(block).map_err(|error| damaged(Compression::Snappy, error))?;
    if claimed > limit - out.len() {
        return Err(CompressionError::TooLarge { limit });
    }
    // Snappy's best ratio is about 21, so a claim far over that is a lie that must not allocate.
    if claimed > block.len().saturating_mul(32).saturating_add(64) {
        return Err(damaged(Compression::Snappy, "it claims more bytes than it can hold"));
    }
    let start = out.len();
    out.resize(start + claimed, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(|error| damaged(Compression::Snappy, error))?;
    out.truncate(start + written);
    Ok(())
}

/// Compresses records. `level` is the codec's own; `None` is its default. Snappy is framed as Java frames it.
///
/// # Errors
/// The encoder's own, which do not happen on memory.
pub fn compress(codec: Compression, bytes: &[u8], level: Option<i32>) -> io::Result<Vec<u8>> {
    match codec {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => {
            let level = match level.and_then(|level| u32::try_from(level).ok()) {
                Some(level) => flate2::Compression::new(level.min(9)),
                None => flate2::Compression::default(),
            };
            let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(bytes.len() / 2), level);
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::with_capacity(bytes.len() / 2));
            encoder.write_all(bytes)?;
            encoder.finish().map_err(io::Error::other)
        }
        Compression::Zstd => zstd::stream::encode_all(bytes, level.unwrap_or(3)),
        Compression::Snappy => {
            let mut out = Vec::with_capacity(bytes.len() / 2 + XERIAL_HEADER_BYTES);
            out.extend_from_slice(XERIAL_MAGIC);
            out.extend_from_slice(&1_i32.to_be_bytes());
            out.extend_from_slice(&1_i32.to_be_bytes());
            let mut encoder = snap::raw::Encoder::new();
            for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
                let packed = encoder.compress_vec(block).map_err(io::Error::other)?;
                out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                out.extend_from_slice(&packed);
            }
            Ok(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..100_000)) {
            for codec in CODECS {
                let packed = Bytes::from(compress(codec, &bytes, None).unwrap());
                prop_assert_eq!(decompress(codec, &packed, bytes.len()).unwrap(), &bytes);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            for codec in CODECS {
                let _ = decompress(codec, &bytes, 10_000);
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 20 << 20];
        for codec in &CODECS[1..] {
            let bomb = Bytes::from(compress(*codec, &zeros, None).unwrap());
            assert_eq!(
                decompress(*codec, &bomb, 1 << 20),
                Err(CompressionError::TooLarge { limit: 1 << 20 }),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn raw_snappy_is_understood() {
        let packed = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
        let bytes = decompress(Compression::Snappy, &packed.into(), 100).unwrap();
        assert_eq!(bytes, b"hello hello hello".as_slice());
    }

    #[test]
    fn a_claim_allocates_nothing() {
        // A raw snappy block that claims 4 GiB - 1 and holds nothing.
        let lie = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        assert!(decompress(Compression::Snappy, &lie, usize::MAX).is_err());
    }
}
