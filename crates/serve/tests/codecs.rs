//! Codecs under arbitrary input: what was encoded is decoded, in whatever pieces; noise ends in an error, not a panic.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serve::remote::channel::{self, Input, Malformed};
use serve::spdy::{Decoder, Frame, HeaderEncoder, Headers, encode};

fn headers() -> impl Strategy<Value = Headers> {
    prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,200}"), 0..6)
}

fn frame() -> impl Strategy<Value = Frame> {
    let stream = 1_u32..0x7fff_ffff;
    let data = prop::collection::vec(any::<u8>(), 0..5_000).prop_map(Bytes::from);
    prop_oneof![
        (stream.clone(), headers(), any::<bool>(), any::<bool>()).prop_map(|(stream, headers, fin, unidirectional)| {
            Frame::SynStream { stream, headers, fin, unidirectional }
        }),
        (stream.clone(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::SynReply {
            stream,
            headers,
            fin
        }),
        (stream.clone(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::Headers {
            stream,
            headers,
            fin
        }),
        (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        any::<u32>().prop_map(Frame::Ping),
        (stream.clone(), any::<u32>()).prop_map(|(last_stream, status)| Frame::GoAway { last_stream, status }),
        (stream.clone(), stream.clone()).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        (stream, data, any::<bool>()).prop_map(|(stream, data, fin)| Frame::Data { stream, data, fin }),
    ]
}

/// Joins the parts of data frames that were handed on in pieces; a ping stands between two frames.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    for frame in frames {
        match (out.last_mut(), frame) {
            (Some(Frame::Data { data: before, fin, .. }), Frame::Data { data, fin: last, .. }) => {
                *before = [before.as_ref(), data.as_ref()].concat().into();
                *fin = last;
            }
            (_, frame) => out.push(frame),
        }
    }
    out
}

proptest! {
    #[test]
    fn frames_come_back(frames in prop::collection::vec(frame(), 1..12), piece in 1_usize..4_000) {
        let sent: Vec<Frame> = frames.into_iter().flat_map(|frame| [frame, Frame::Ping(7)]).collect();
        let (mut encoder, mut bytes) = (HeaderEncoder::default(), BytesMut::new());
        sent.iter().for_each(|frame| encode(frame, &mut encoder, &mut bytes));
        let (mut decoder, mut received) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                received.push(frame);
            }
        }
        prop_assert_eq!(joined(received), sent);
    }

    #[test]
    fn noise_does_not_panic(noise in prop::collection::vec(any::<u8>(), 0..2_000), kind in 0_u8..12) {
        let mut decoder = Decoder::default();
        let length = u16::try_from(noise.len()).unwrap().to_be_bytes();
        decoder.push(&[0x80, 3, 0, kind, 0, 0, length[0], length[1]]);
        decoder.push(&noise);
        decoder.push(&noise);
        for _ in 0..100 {
            if !matches!(decoder.next_frame(), Ok(Some(_))) {
                break;
            }
        }
        let _ = channel::decode(noise.into(), true);
    }
}

/// Two SYN_STREAM frames of a port-forward as spdystream v0.5.1 writes them.
#[test]
fn a_recorded_block_is_read() {
    let hex = include_str!("syn_stream.hex").trim();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    for (stream, kind) in [(1, "error"), (3, "data")] {
        let Some(Frame::SynStream { stream: got, mut headers, .. }) = decoder.next_frame().unwrap() else { panic!() };
        headers.sort();
        let expected = [("port", "8080"), ("requestid", "0"), ("streamtype", kind)];
        assert_eq!((got, headers), (stream, expected.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec()));
    }
    assert_eq!(decoder.next_frame(), Ok(None));
}

#[test]
fn a_small_block_that_inflates_to_much_is_refused() {
    let block = HeaderEncoder::default().encode(&vec![("a".to_owned(), "x".repeat(1 << 20))]);
    let mut bytes = BytesMut::from(&[0x80, 3, 0, 2, 0, 0][..]);
    bytes.extend_from_slice(&u16::try_from(block.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    assert!(decoder.next_frame().unwrap_err().to_string().contains("too large"));
}

#[test]
fn channel_messages() {
    let size = |width, height| Ok(Input::Resize { width, height });
    let cases: [(&[u8], bool, Result<Input, Malformed>); 12] = [
        (b"", true, Err(Malformed::Empty)),
        (b"\0", true, Ok(Input::Nothing)),
        (b"\0abc", true, Ok(Input::Stdin(Bytes::from_static(b"abc")))),
        (b"\x01abc", true, Ok(Input::Nothing)),
        (b"\x04{\"Width\":80,\"Height\":24}", false, size(80, 24)),
        (b"\x04{\"Width\":80}", false, Err(Malformed::Resize)),
        (b"\x04{\"Width\":80,\"Height\":70000}", false, Err(Malformed::Resize)),
        (b"\x04", false, Err(Malformed::Resize)),
        (b"\xff\0", true, Ok(Input::StdinEnd)),
        (b"\xff\x01", true, Ok(Input::Nothing)),
        (b"\xff\0", false, Err(Malformed::UnknownChannel(255))),
        (b"\x09", true, Err(Malformed::UnknownChannel(9))),
    ];
    for (message, closes, expected) in cases {
        assert_eq!(channel::decode(Bytes::from_static(message), closes), expected, "{message:?}");
    }
    assert_eq!(channel::encode(3, b"x").as_ref(), b"\x03x");
}
