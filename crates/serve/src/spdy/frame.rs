//! Frames.

use super::{HeaderDecoder, HeaderEncoder, Headers, Malformed};
use bytes::{Buf, BufMut, Bytes, BytesMut};

const HEAD_BYTES: usize = 8;
/// Longest control frame that is accepted. Headers of port-forward are some dozens of bytes.
const CONTROL_BYTES_MAX: usize = 64 << 10;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;
/// Most bytes of one data frame in the making (`encode` leaves cutting to its caller; the field has 24 bits).
const STREAM_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Its number: odd from clients, even from servers.
        stream: u32,
        /// Its header.
        headers: Headers,
        /// The opener will send nothing.
        fin: bool,
        /// The other side will send nothing.
        unidirectional: bool,
    },
    /// Accepts a stream.
    SynReply {
        /// Its number.
        stream: u32,
        /// The answer's header.
        headers: Headers,
        /// The acceptor will send nothing.
        fin: bool,
    },
    /// Breaks a stream off.
    RstStream {
        /// Its number.
        stream: u32,
        /// Why: 1 protocol error, 3 refused, 5 cancelled, 6 internal error.
        status: u32,
    },
    /// To be sent back as it is.
    Ping(u32),
    /// The sender opens and accepts no more streams.
    GoAway {
        /// The last stream it accepted.
        last_stream: u32,
        /// 0 for an orderly end.
        status: u32,
    },
    /// Further header lines.
    Headers {
        /// Of this stream.
        stream: u32,
        /// The lines.
        headers: Headers,
        /// The sender will send nothing more.
        fin: bool,
    },
    /// The peer has room for more bytes.
    WindowUpdate {
        /// On this stream; 0: on the connection.
        stream: u32,
        /// So many.
        delta: u32,
    },
    /// Bytes of a stream; of a long frame, a part.
    Data {
        /// Its number.
        stream: u32,
        /// The bytes.
        data: Bytes,
        /// The sender will send nothing more.
        fin: bool,
    },
    /// Settings, and control frames of other types. To be ignored.
    Ignored(u16),
}

/// Makes frames of bytes, whatever the pieces they come in. Data frames are handed on as their bytes come, so that a
/// frame of 16 MB needs no buffer of that size.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    headers: HeaderDecoder,
    /// The data frame under way: stream, bytes missing, whether it is the stream's last.
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    /// Takes further bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or none until more bytes come. After an error the connection is of no use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        if let Some((stream, missing, fin)) = self.data {
            return Ok(self.continue_data(stream, missing, fin));
        }
        if self.buffer.len() < HEAD_BYTES {
            return Ok(None);
        }
        let mut head = &self.buffer[..HEAD_BYTES];
        let (word, rest) = (head.get_u32(), head.get_u32());
        let (flags, length) = ((rest >> 24) as u8, (rest & 0x00ff_ffff) as usize);
        if word & !STREAM_MASK == 0 {
            if word == 0 {
                return Err(Malformed::StreamZero);
            }
            self.buffer.advance(HEAD_BYTES);
            return Ok(self.continue_data(word, length, flags & FLAG_FIN != 0));
        }
        let (version, kind) = ((word >> 16) as u16 & 0x7fff, (word & 0xffff) as u16);
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        if length > CONTROL_BYTES_MAX {
            return Err(Malformed::Length { kind, length });
        }
        if self.buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        let body = self.buffer.split_to(length).freeze();
        self.control(kind, flags, body).map(Some)
    }

    fn continue_data(&mut self, stream: u32, missing: usize, fin: bool) -> Option<Frame> {
        let here = missing.min(self.buffer.len());
        if here == 0 && missing > 0 {
            self.data = Some((stream, missing, fin));
            return None;
        }
        let data = self.buffer.split_to(here).freeze();
        let missing = missing - here;
        self.data = (missing > 0).then_some((stream, missing, fin));
        Some(Frame::Data { stream, data, fin: fin && missing == 0 })
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, Malformed> {
        let length = body.len();
        let bad = Malformed::Length { kind, length };
        let (exact, at_least) = match kind {
            SYN_STREAM => (None, 10),
            SYN_REPLY | HEADERS => (None, 4),
            RST_STREAM | GOAWAY | WINDOW_UPDATE => (Some(8), 8),
            PING => (Some(4), 4),
            SETTINGS => return Ok(Frame::Ignored(kind)),
            other => return Ok(Frame::Ignored(other)),
        };
        if length < at_least || exact.is_some_and(|exact| exact != length) {
            return Err(bad);
        }
        if kind == PING {
            return Ok(Frame::Ping(body.get_u32()));
        }
        let stream = body.get_u32() & STREAM_MASK;
        if stream == 0 && !matches!(kind, GOAWAY | WINDOW_UPDATE) {
            return Err(Malformed::StreamZero);
        }
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                body.advance(6);
                let headers = self.headers.decode(&body)?;
                Frame::SynStream { stream, headers, fin, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0 }
            }
            SYN_REPLY => Frame::SynReply { stream, headers: self.headers.decode(&body)?, fin },
            HEADERS => Frame::Headers { stream, headers: self.headers.decode(&body)?, fin },
            RST_STREAM => Frame::RstStream { stream, status: body.get_u32() },
            GOAWAY => Frame::GoAway { last_stream: stream, status: body.get_u32() },
            _ => Frame::WindowUpdate { stream, delta: body.get_u32() & STREAM_MASK },
        })
    }
}

/// Appends a frame to `out`. `headers` is the connection's header encoder: blocks depend on those before.
pub fn encode(frame: &Frame, headers: &mut HeaderEncoder, out: &mut BytesMut) {
    let fin_flag = |fin: bool| if fin { FLAG_FIN } else { 0 };
    match frame {
        Frame::SynStream { stream, headers: lines, fin, unidirectional } => {
            let block = headers.encode(lines);
            let flags = fin_flag(*fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
            control(out, SYN_STREAM, flags, 10 + block.len());
            out.put_u32(*stream);
            out.put_u32(0);
            out.put_u16(0);
            out.put_slice(&block);
        }
        Frame::SynReply { stream, headers: lines, fin } => {
            with_block(out, SYN_REPLY, *stream, *fin, &headers.encode(lines))
        }
        Frame::Headers { stream, headers: lines, fin } => {
            with_block(out, HEADERS, *stream, *fin, &headers.encode(lines))
        }
        Frame::RstStream { stream, status } => pair(out, RST_STREAM, *stream, *status),
        Frame::GoAway { last_stream, status } => pair(out, GOAWAY, *last_stream, *status),
        Frame::WindowUpdate { stream, delta } => pair(out, WINDOW_UPDATE, *stream, *delta),
        Frame::Ping(id) => {
            control(out, PING, 0, 4);
            out.put_u32(*id);
        }
        Frame::Data { stream, data, fin } => {
            out.reserve(HEAD_BYTES + data.len());
            out.put_u32(*stream & STREAM_MASK);
            out.put_u32(u32::from(fin_flag(*fin)) << 24 | length24(data.len()));
            out.put_slice(data);
        }
        Frame::Ignored(_) => {}
    }
}

fn with_block(out: &mut BytesMut, kind: u16, stream: u32, fin: bool, block: &[u8]) {
    control(out, kind, if fin { FLAG_FIN } else { 0 }, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(block);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, 0, 8);
    out.put_u32(first);
    out.put_u32(second);
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length24(length));
}

/// Our own frames are cut by their makers to 32 KiB.
fn length24(length: usize) -> u32 {
    u32::try_from(length).ok().filter(|length| *length < 1 << 24).expect("frames we make are short")
}
