use proptest::prelude::*;

use super::*;

fn body(timestamp_delta: i64, offset_delta: i32, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let mut out = vec![0];
    put_varlong(&mut out, timestamp_delta);
    put_varlong(&mut out, i64::from(offset_delta));
    for field in [key, value] {
        put_varlong(&mut out, field.map_or(-1, |bytes| bytes.len() as i64));
        out.extend_from_slice(field.unwrap_or_default());
    }
    out
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varlong(&mut out, body.len() as i64);
    out.extend_from_slice(body);
    out
}

type Taken<'a> = (i64, i32, &'a [u8], Option<&'a [u8]>, Option<&'a [u8]>, usize, &'a [u8]);

fn taken(parts: Parts<'_>) -> Taken<'_> {
    let Parts { timestamp_delta, offset_delta, payload, key, value, headers_count, headers } = parts;
    (timestamp_delta, offset_delta, payload, key, value, headers_count, headers)
}

fn delta() -> impl Strategy<Value = i64> {
    prop_oneof![-200_i64..200, -20_000_i64..20_000, any::<i64>()]
}

fn field() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop_oneof![prop::collection::vec(any::<u8>(), 0..100), Just(vec![7; 8191]), Just(vec![7; 8192]),])
}

proptest! {
    #[test]
    fn numbers_survive(value in delta()) {
        let mut out = Vec::new();
        put_varlong(&mut out, value);
        prop_assert_eq!(out.len(), varlong_bytes(value));
        prop_assert_eq!(varlong(&out), Ok((value, &[][..])));
        for cut in 0..out.len() {
            prop_assert!(varlong(&out[..cut]).is_err());
            prop_assert!(varint(&out[..cut]).is_err());
        }
        if let Ok(small) = i32::try_from(value) {
            prop_assert_eq!(varint(&out), Ok((small, &[][..])));
        } else {
            prop_assert_eq!(varint(&out), Err(RecordFault::Varint));
        }
    }

    #[test]
    fn records_survive(
        timestamp_delta in delta(), offset_delta in any::<i16>(), key in field(), value in field(),
        headers in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), field()), 0..4),
    ) {
        let mut body = body(timestamp_delta, i32::from(offset_delta), key.as_deref(), value.as_deref());
        put_varlong(&mut body, headers.len() as i64);
        for (name, value) in &headers {
            put_varlong(&mut body, name.len() as i64);
            body.extend_from_slice(name);
            put_varlong(&mut body, value.as_ref().map_or(-1, |bytes| bytes.len() as i64));
            body.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        let bytes = framed(&body);
        let record = Records::new(&bytes, 1).next().unwrap().unwrap();
        prop_assert_eq!((record.timestamp_delta, record.offset_delta), (timestamp_delta, i32::from(offset_delta)));
        prop_assert_eq!((record.key, record.value), (key.as_deref(), value.as_deref()));
        prop_assert_eq!(record.bytes, &bytes);
        let read: Vec<_> = record.headers().map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec))).collect();
        prop_assert_eq!(read, headers);
        let mut again = Vec::new();
        crate::build::put_record(&mut again, timestamp_delta, i32::from(offset_delta), record.payload);
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn the_quick_way_says_what_the_slow_way_says(
        timestamp_delta in delta(), offset_delta in any::<i16>(), key in field(), value in field(),
        tail in prop::collection::vec(any::<u8>(), 0..12), damaged in prop::option::of((0_usize..12, any::<u8>())),
    ) {
        let mut body = body(timestamp_delta, i32::from(offset_delta), key.as_deref(), value.as_deref());
        body.extend_from_slice(&tail);
        if let Some((at, byte)) = damaged && at < body.len() {
            body[at] = byte;
        }
        if let Some(parts) = quick_parts(&body) {
            prop_assert_eq!(Ok(taken(parts)), parts_of(&body).map(taken));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), count in any::<i32>()) {
        let mut walked = 0;
        let result = walk::<RecordError>(&bytes, count.min(1000), |index, record| {
            assert_eq!(index, walked);
            assert!(record.headers().count() <= bytes.len());
            walked += 1;
            Ok(())
        });
        let all: Result<Vec<_>, _> = Records::new(&bytes, count.min(1000)).collect();
        prop_assert_eq!(result.is_ok(), all.is_ok());
        prop_assert_eq!(result.err(), all.err());
    }
}

#[test]
fn each_fault_is_told() {
    fn check(bytes: &[u8], fault: RecordFault) {
        let error = Records::new(bytes, 1).next().unwrap().unwrap_err();
        assert_eq!(error, RecordError { index: 0, fault }, "{bytes:?}");
    }
    check(&[], RecordFault::Truncated);
    check(&[0x80], RecordFault::Truncated);
    check(&[14, 0, 0, 0], RecordFault::Truncated);
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01], RecordFault::Varint);
    check(&[0xff, 0xff, 0xff, 0xff, 0x7f], RecordFault::Varint);
    check(&[1], RecordFault::Length);
    check(&[0], RecordFault::Length);
    let with = |tail: &[u8]| framed(&[&[0, 0, 0], tail].concat());
    check(&with(&[]), RecordFault::Length);
    check(&with(&[3, 1, 0]), RecordFault::Length);
    check(&with(&[1, 1, 1]), RecordFault::Length);
    check(&with(&[1, 1, 2]), RecordFault::Length);
    check(&with(&[1, 1, 2, 0]), RecordFault::Length);
    check(&with(&[1, 1, 2, 4, b'a', b'b', 4, b'c']), RecordFault::Length);
    check(&with(&[1, 1, 2, 1, 1]), RecordFault::NullHeaderKey);
    check(&with(&[1, 1, 0, 9]), RecordFault::Trailing);
    check(&with(&[1, 1, 2, 0, 1, 9]), RecordFault::Trailing);
    // A timestamp delta of ten bytes whose last says more than 64 bits.
    let long = [&[0xff; 9][..], &[2], &[0, 1, 1, 0]].concat();
    check(&framed(&[&[0][..], &long].concat()), RecordFault::Varint);
    let good = with(&[1, 1, 2, 0, 1]);
    let record = Records::new(&good, 1).next().unwrap().unwrap();
    assert_eq!(record.headers().collect::<Vec<_>>(), [(&[][..], None)]);
}

#[test]
fn an_error_ends_the_walk_and_names_its_record() {
    let good = framed(&[0, 0, 0, 1, 1, 0]);
    let bytes = [good.clone(), good, vec![0]].concat();
    let mut records = Records::new(&bytes, 5);
    assert!(records.next().unwrap().is_ok());
    assert!(records.next().unwrap().is_ok());
    assert_eq!(records.next().unwrap(), Err(RecordError { index: 2, fault: RecordFault::Length }));
    assert_eq!(records.next(), None);
    assert_eq!(Records::new(&bytes, -1).next(), None);
}
