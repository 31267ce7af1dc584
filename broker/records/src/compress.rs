//! Compression of record batches, with a limit on what comes out.
//!
//! A few hundred bytes can decompress to gigabytes, so every decompression names its limit (`max.decompressed.message.bytes`) and stops
//! when it is passed. A size that the data claims is a hint that may reserve up to the limit, and never fills memory by itself. Snappy
//! comes in two framings: Java's (xerial blocks after a magic), which we write, and raw, as librdkafka and franz-go send it. LZ4 is the
//! frame format with independent blocks, the only one that Java reads.

use std::{
    cell::RefCell,
    io::{self, BufRead, Read, Write},
};

use bytes::Bytes;
use flate2::bufread::{GzDecoder, MultiGzDecoder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use zstd::zstd_safe::{self, CCtx, DCtx, InBuffer, OutBuffer, ResetDirective};

use crate::batch::Compression;

/// Java's snappy framing: magic, version and compatible version, then blocks of {length u32 big-endian, raw snappy}.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// Uncompressed bytes of a block that we write, as the Java client does.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// What a frame of LZ4 begins with.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// What a member of gzip begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The first step of a growing output, and the room that the first read of a codec is given at least.
const FIRST_CAPACITY: usize = 16 * 1024;
/// Records rarely shrink to less than this part: a guess that spares most batches the growing.
const GUESSED_RATIO: usize = 6;

/// A zstd context that a large window has made larger than this is not kept.
const ZSTD_CONTEXT_BYTES_MAX: usize = 4 << 20;

thread_local! {
    // To make a context costs 8 and 14 us, many times the work on a small batch. Each use begins and ends with a clean session.
    static ZSTD_DECODER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    static ZSTD_ENCODER: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
}

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
    decompress_stream(codec, bytes, limit).map(|(decompressed, _)| decompressed)
}

/// As [`decompress`], and how many of the bytes were read. Java's readers of gzip and LZ4 end with the stream and never see what follows it,
/// so Apache Kafka accepts it; other readers take it for damage.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_stream(codec: Compression, bytes: &Bytes, limit: usize) -> Result<(Bytes, usize), CompressionError> {
    let whole = |decompressed| (decompressed, bytes.len());
    match codec {
        Compression::None if bytes.len() > limit => Err(CompressionError::TooLarge { limit }),
        Compression::None => Ok(whole(bytes.clone())),
        Compression::Gzip => ungzip(bytes, limit),
        Compression::Lz4 => unframe_lz4(bytes, limit),
        Compression::Zstd => ZSTD_DECODER.with_borrow_mut(|context| {
            let out = unzstd(context, bytes, limit);
            if out.is_err() {
                let _ = context.reset(ResetDirective::SessionOnly);
            }
            if context.sizeof() > ZSTD_CONTEXT_BYTES_MAX {
                *context = DCtx::create();
            }
            out.map(whole)
        }),
        Compression::Snappy => unsnap(bytes, limit).map(whole),
    }
}

/// Room for what `packed` becomes, most often.
fn guessed_bytes(packed: &[u8], limit: usize) -> usize {
    packed.len().saturating_mul(GUESSED_RATIO).max(FIRST_CAPACITY).min(limit)
}

fn ungzip(packed: &[u8], limit: usize) -> Result<(Bytes, usize), CompressionError> {
    let error = match read_all(packed, &mut MultiGzDecoder::new(packed), limit) {
        Ok(out) => return Ok((out, packed.len())),
        Err(error) => error,
    };
    // A single member, as all producers write, and what no other begins with. Not one after another: each costs a decoder.
    let mut member = GzDecoder::new(packed);
    let out = read_all(packed, &mut member, limit)?;
    let tail = member.into_inner();
    if tail.starts_with(&GZIP_MAGIC) { Err(error) } else { Ok((out, packed.len() - tail.len())) }
}

fn read_all(packed: &[u8], reader: &mut impl Read, limit: usize) -> Result<Bytes, CompressionError> {
    let mut out = Vec::with_capacity(guessed_bytes(packed, limit));
    // One byte over the limit tells that there is more.
    let mut bounded = reader.take((limit as u64).saturating_add(1));
    bounded.read_to_end(&mut out).map_err(|error| damaged(Compression::Gzip, error))?;
    if out.len() > limit {
        return Err(CompressionError::TooLarge { limit });
    }
    Ok(out.into())
}

/// Frames that say their size are decompressed in one pass, straight into their place; others through a window.
fn unzstd(context: &mut DCtx<'_>, bytes: &[u8], limit: usize) -> Result<Bytes, CompressionError> {
    let fails = |code| damaged(Compression::Zstd, zstd_safe::get_error_name(code));
    let claimed = zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let room = match claimed.map(usize::try_from) {
        Some(Ok(claimed)) if claimed <= limit => claimed,
        Some(_) => return Err(CompressionError::TooLarge { limit }),
        None => guessed_bytes(bytes, limit),
    };
    // One byte more than the content lets the end of the frame be seen, and one over the limit tells that there is more.
    let mut out = Vec::with_capacity(room.saturating_add(1));
    let mut input = InBuffer::around(bytes);
    loop {
        let position = out.len();
        let mut output = OutBuffer::around_pos(&mut out, position);
        let frame_ended = context.decompress_stream(&mut output, &mut input).map_err(fails)? == 0;
        let input_ended = input.pos() == bytes.len();
        if out.len() > limit {
            return Err(CompressionError::TooLarge { limit });
        }
        if input_ended && frame_ended {
            return Ok(out.into());
        }
        if out.len() == out.capacity() {
            out.reserve(out.len().min((limit - out.len()).saturating_add(1)));
        } else if input_ended {
            return Err(damaged(Compression::Zstd, "the frame ends too early"));
        }
    }
}

/// Takes the blocks of a frame out of the decoder's own buffer, one copy less than reading them.
fn unframe_lz4(bytes: &[u8], limit: usize) -> Result<(Bytes, usize), CompressionError> {
    // The decoder takes the end of its input for the end of the frame; Java's does not, and could not read what was accepted.
    let frame_bytes =
        lz4_frame_bytes(bytes).ok_or_else(|| damaged(Compression::Lz4, "it is no frame, or ends too early"))?;
    let mut decoder = FrameDecoder::new(&bytes[..frame_bytes]);
    let mut out = Vec::new();
    loop {
        let block = decoder.fill_buf().map_err(|error| damaged(Compression::Lz4, error))?;
        if block.is_empty() {
            return Ok((out.into(), frame_bytes));
        }
        if block.len() > limit - out.len() {
            return Err(CompressionError::TooLarge { limit });
        }
        out.extend_from_slice(block);
        let taken = block.len();
        decoder.consume(taken);
    }
}

/// Where a frame ends, by its own lengths. Source: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>.
fn lz4_frame_bytes(bytes: &[u8]) -> Option<usize> {
    let flags = *bytes.strip_prefix(&LZ4_MAGIC)?.first()?;
    let has = |flag: u8| usize::from(flags & flag != 0);
    let (block_checksum, content_size, content_checksum, dictionary) =
        (4 * has(0x10), 8 * has(0x08), 4 * has(0x04), 4 * has(0x01));
    // Magic, both flags and their checksum.
    let mut at = LZ4_MAGIC.len() + 3 + content_size + dictionary;
    loop {
        let size = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        at += 4;
        if size == 0 {
            at += content_checksum;
            return (at <= bytes.len()).then_some(at);
        }
        // The highest bit says that the block is not compressed.
        at += (size & 0x7fff_ffff) as usize + block_checksum;
    }
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
            let (block, after) =
                after.split_at_checked(length).ok_or_else(|| damaged(Compression::Snappy, "a block is cut off"))?;
            unsnap_block(block, &mut out, limit)?;
            rest = after;
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
    // A copy of 64 bytes takes three, so a claim far over that ratio is a lie that must not allocate.
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

/// Compresses records. `level` is the codec's own, of gzip and zstd; `None` is its default. Snappy is framed as Java frames it.
///
/// # Errors
/// The encoder's own, which do not happen on memory.
pub fn compress(codec: Compression, bytes: &[u8], level: Option<i32>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    compress_into(&mut out, codec, bytes, level)?;
    Ok(out)
}

/// As [`compress`], after what `out` already holds.
///
/// # Errors
/// As [`compress`].
pub fn compress_into(out: &mut Vec<u8>, codec: Compression, bytes: &[u8], level: Option<i32>) -> io::Result<()> {
    match codec {
        Compression::None => out.extend_from_slice(bytes),
        Compression::Gzip => {
            let level = match level.and_then(|level| u32::try_from(level).ok()) {
                Some(level) => flate2::Compression::new(level.min(9)),
                None => flate2::Compression::default(),
            };
            let mut encoder = flate2::write::GzEncoder::new(out, level);
            encoder.write_all(bytes)?;
            encoder.finish()?;
        }
        Compression::Lz4 => {
            // Readers reserve the largest block that the frame says, whatever it holds: 64 KiB, as the Java client writes it.
            let frame = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut encoder = FrameEncoder::with_frame_info(frame, out);
            encoder.write_all(bytes)?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Compression::Zstd => {
            // In one call, so that the frame says how long its content is: readers then allocate once.
            let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
            let start = out.len();
            out.reserve(zstd_safe::compress_bound(bytes.len()));
            let mut cursor = io::Cursor::new(out);
            cursor.set_position(start as u64);
            ZSTD_ENCODER.with_borrow_mut(|context| {
                let result = context.compress(&mut cursor, bytes, level);
                if context.sizeof() > ZSTD_CONTEXT_BYTES_MAX {
                    *context = CCtx::create();
                }
                result.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))
            })?;
        }
        Compression::Snappy => {
            out.extend_from_slice(XERIAL_MAGIC);
            out.extend_from_slice(&1_i32.to_be_bytes());
            out.extend_from_slice(&1_i32.to_be_bytes());
            let mut encoder = snap::raw::Encoder::new();
            for block in bytes.chunks(XERIAL_BLOCK_BYTES) {
                let length_at = out.len();
                out.resize(length_at + 4 + snap::raw::max_compress_len(block.len()), 0);
                let packed = encoder.compress(block, &mut out[length_at + 4..]).map_err(io::Error::other)?;
                out[length_at..length_at + 4].copy_from_slice(&(packed as u32).to_be_bytes());
                out.truncate(length_at + 4 + packed);
            }
        }
    }
    Ok(())
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
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), limit in 0_usize..10_000) {
            let bytes = Bytes::from(bytes);
            for codec in CODECS {
                if let Ok(out) = decompress(codec, &bytes, limit) {
                    prop_assert!(out.len() <= limit);
                }
            }
        }

        #[test]
        fn damage_is_an_error_or_stays_within_the_limit(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let plain = b"some text that repeats, some text that repeats, some text that repeats".repeat(20);
            for codec in CODECS {
                let mut packed = compress(codec, &plain, None).unwrap();
                let at = at.index(packed.len());
                packed[at] = byte;
                if let Ok(out) = decompress(codec, &packed.into(), plain.len() + 100) {
                    prop_assert!(out.len() <= plain.len() + 100);
                }
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error_or_shorter() {
        let plain = b"some text that repeats, some text that repeats, some text that repeats".repeat(2000);
        for codec in &CODECS[1..] {
            let packed = Bytes::from(compress(*codec, &plain, None).unwrap());
            for cut in 0..packed.len() {
                if let Ok(out) = decompress(*codec, &packed.slice(..cut), plain.len()) {
                    assert!(out.len() < plain.len(), "{codec:?} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0; 20 << 20];
        for codec in &CODECS[1..] {
            let bomb = Bytes::from(compress(*codec, &zeros, None).unwrap());
            let limit = 1 << 20;
            assert_eq!(decompress(*codec, &bomb, limit), Err(CompressionError::TooLarge { limit }), "{codec:?}");
            assert_eq!(decompress(*codec, &bomb, zeros.len()).unwrap().len(), zeros.len(), "{codec:?}");
            assert!(decompress(*codec, &bomb, zeros.len() - 1).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn levels_are_the_codecs_own() {
        let plain: Vec<u8> =
            (0..5_000_u32).flat_map(|n| format!("row {n} of {}; ", n * 7919 % 1009).into_bytes()).collect();
        for (codec, low, high) in [(Compression::Gzip, 1, 9), (Compression::Zstd, -5, 19)] {
            let packed = |level| Bytes::from(compress(codec, &plain, Some(level)).unwrap());
            assert!(packed(low).len() > packed(high).len(), "{codec:?}");
            assert_eq!(decompress(codec, &packed(low), plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn concatenated_members_are_one_text() {
        for codec in [Compression::Gzip, Compression::Zstd] {
            let mut packed = compress(codec, b"one", None).unwrap();
            compress_into(&mut packed, codec, b"two", None).unwrap();
            assert_eq!(decompress(codec, &packed.into(), 10).unwrap(), b"onetwo".as_slice());
        }
    }

    /// A frame that lacked its end mark was accepted, and no Java consumer came past it.
    #[test]
    fn an_lz4_frame_has_its_end() {
        let plain = b"some text that repeats, some text that repeats, some text that repeats".repeat(3000);
        for flags in 0..8_u8 {
            let info = FrameInfo::new()
                .block_size(BlockSize::Max64KB)
                .block_mode(BlockMode::Independent)
                .block_checksums(flags & 1 != 0)
                .content_checksum(flags & 2 != 0)
                .content_size((flags & 4 != 0).then_some(plain.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&plain).unwrap();
            let frame = Bytes::from(encoder.finish().unwrap());
            assert_eq!(
                decompress_stream(Compression::Lz4, &frame, plain.len()).unwrap(),
                (plain.clone().into(), frame.len())
            );
            for cut in 0..frame.len() {
                assert!(decompress(Compression::Lz4, &frame.slice(..cut), plain.len()).is_err(), "{flags} {cut}");
            }
        }
    }

    /// As in Apache Kafka 4.3: gzip and LZ4 end where their stream ends, with the others every byte counts.
    #[test]
    fn what_follows_a_stream_is_not_read() {
        for codec in CODECS {
            let packed = compress(codec, b"some text that repeats, some text that repeats", None).unwrap();
            for tail in [b"\0".as_slice(), b"\xff", b"123456789", &[0; 600]] {
                let with_tail = Bytes::from([&packed[..], tail].concat());
                match (codec, decompress_stream(codec, &with_tail, 1000)) {
                    (Compression::None, _) => {}
                    (Compression::Gzip | Compression::Lz4, Ok((_, read))) => assert_eq!(read, packed.len(), "{tail:?}"),
                    (Compression::Gzip | Compression::Lz4, Err(error)) => panic!("{codec:?} {tail:?}: {error}"),
                    (_, result) => assert!(result.is_err(), "{codec:?} {tail:?}"),
                }
            }
            assert_eq!(decompress_stream(codec, &packed.clone().into(), 1000).unwrap().1, packed.len(), "{codec:?}");
        }
        let member = compress(Compression::Gzip, b"text", None).unwrap();
        let cut = Bytes::from([&member[..], &member[..member.len() / 2]].concat());
        assert!(decompress(Compression::Gzip, &cut, 1000).is_err(), "what begins as a member must be one");
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
        // A zstd frame that claims 2^62 bytes and a window of 2 GiB, and holds nothing.
        let lie = Bytes::from_static(&[0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xa8, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0]);
        assert!(decompress(Compression::Zstd, &lie, 1 << 20).is_err());
    }
}
