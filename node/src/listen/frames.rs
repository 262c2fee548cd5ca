//! Counts the frames of one direction of an HTTP/2 connection, and weighs those that lead nowhere.
//!
//! [`Frames`] walks over bytes as they pass and reads frame headers only (RFC 9113 4.1). [`Balance`]
//! is the account that both directions of a connection write to.

use pontoon_proto::connect::PREFACE;

/// How far the account of a connection may be overdrawn (C-LSN-3), and how much it can save.
pub(super) const FRAMES_MAX: i64 = 10_000;

/// The length of a frame header.
const HEADER: usize = 9;

/// Frame types (RFC 9113 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// Flags. END_STREAM and ACK are the same bit of different types.
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// One frame, by its header, and by its first byte where it is padded DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// The payload's length without padding.
    content: u32,
}

impl Frame {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Where in the bytes of one direction we are.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface that are still to come.
    preface: usize,
    header: [u8; HEADER],
    /// How much of the header is there.
    filled: usize,
    /// Payload bytes that are still to come.
    payload: u32,
    /// A frame whose first payload byte says how long its padding is.
    padded: Option<Frame>,
    /// Whether the frame that passes is a part of a header block, and whether it is the last one.
    block: Option<Last>,
}

/// Whether a header block ends with its present frame.
type Last = bool;

impl Frames {
    /// What a client sends.
    pub(super) fn of_client() -> Self {
        Self {
            preface: PREFACE.len(),
            ..Self::of_server()
        }
    }

    /// What a server sends.
    pub(super) fn of_server() -> Self {
        Self {
            preface: 0,
            header: [0; HEADER],
            filled: 0,
            payload: 0,
            padded: None,
            block: None,
        }
    }

    /// Walks over more bytes and gives each frame as soon as its header is complete.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        bytes = &bytes[preface..];
        while let Some(first) = bytes.first() {
            if let Some(frame) = self.padded.take() {
                let around = 1 + u32::from(*first);
                each(Frame {
                    content: frame.content.saturating_sub(around),
                    ..frame
                });
            }
            let skipped = bytes.len().min(self.payload as usize);
            self.payload -= skipped as u32;
            bytes = &bytes[skipped..];
            if self.payload == 0 && self.filled == 0 && self.block == Some(true) {
                self.block = None;
            }
            let taken = bytes.len().min(HEADER - self.filled);
            self.header[self.filled..][..taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEADER {
                self.filled = 0;
                self.begin(&mut each);
            }
        }
    }

    /// Whether a header block has begun and has not come to its end: what a complete head is measured
    /// by.
    pub(super) fn in_header_block(&self) -> bool {
        self.block.is_some()
    }

    fn begin(&mut self, each: &mut impl FnMut(Frame)) {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        let frame = Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
            content: self.payload,
        };
        if matches!(kind, HEADERS | CONTINUATION) {
            let last = frame.has(END_HEADERS);
            self.block = (!last || self.payload > 0).then_some(last);
        }
        match kind == DATA && frame.has(PADDED) && self.payload > 0 {
            true => self.padded = Some(frame),
            false => each(frame),
        }
    }
}

/// How many frames a client may still send that lead nowhere.
///
/// Work that a connection does pays for the frames that go with it, so what clients really send never
/// counts, however long a stream lasts:
///
/// * An answer that ends settles every debt.
/// * DATA that we send pays for four: WINDOW_UPDATE of stream and connection, one PING by which gRPC
///   clients measure the bandwidth-delay product (at most one is under way, and it is sent when data
///   arrived), and SETTINGS with the window that follows from it.
/// * A new stream pays for two: its trailers or its RST_STREAM, and a PRIORITY in front of it.
/// * DATA with content from the client pays for one: grpc-core sends a PING with the first message
///   after a pause.
/// * A second pays for one, because keepalive PINGs come by time; gRPC's libraries refuse or warn of
///   intervals below 10 s.
///
/// Everything else is overdrawn. A client that wants more than the limit has to make as many calls or
/// take as much data, which have bounds of their own.
#[derive(Debug)]
pub(super) struct Balance {
    left: i64,
    /// The highest stream that the client has opened.
    opened: u32,
    /// PINGs of ours that are not answered yet.
    asked: u32,
    /// The second up to which time was paid out.
    paid: u64,
}

impl Balance {
    pub(super) fn new() -> Self {
        Self {
            left: 0,
            opened: 0,
            asked: 0,
            paid: 0,
        }
    }

    /// Time has passed; `seconds` count from the connection's beginning.
    pub(super) fn at(&mut self, seconds: u64) {
        let more = seconds.saturating_sub(self.paid);
        self.paid += more;
        self.pay(i64::try_from(more).unwrap_or(FRAMES_MAX));
    }

    /// The client sent a frame.
    pub(super) fn received(&mut self, frame: Frame) {
        match frame.kind {
            DATA if frame.content > 0 => self.pay(1),
            DATA if frame.has(END_STREAM) => {}
            HEADERS if frame.stream > self.opened => {
                self.opened = frame.stream;
                self.pay(2);
            }
            // A fragment with content is bounded by the length of header lists.
            CONTINUATION if frame.content > 0 => {}
            PING if frame.has(ACK) => match self.asked.checked_sub(1) {
                Some(asked) => self.asked = asked,
                // The library below ignores it and writes a line of log, which a flood of them would
                // fill: each weighs as much as 100 others.
                None => self.left -= 100,
            },
            // An acknowledgement of settings that nobody sent is an error of its own.
            SETTINGS if frame.has(ACK) => {}
            _ => self.left -= 1,
        }
    }

    /// We sent a frame.
    pub(super) fn sent(&mut self, frame: Frame) {
        match frame.kind {
            DATA | HEADERS if frame.has(END_STREAM) => self.left = self.left.max(0),
            DATA if frame.content > 0 => self.pay(4),
            PING if !frame.has(ACK) => self.asked = self.asked.saturating_add(1),
            _ => {}
        }
    }

    /// Whether the client has sent more than it may.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.left < -FRAMES_MAX
    }

    fn pay(&mut self, amount: i64) {
        self.left = self.left.saturating_add(amount).min(FRAMES_MAX);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame as bytes.
    pub(in crate::listen) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// The account after a client has sent these.
    fn after(frames: &[(u8, u8, u32, &[u8])], times: usize) -> Balance {
        let mut balance = Balance::new();
        let mut walk = Frames::of_client();
        walk.pass(PREFACE, |_| panic!("the preface is no frame"));
        for _ in 0..times {
            for (kind, flags, stream, payload) in frames {
                let bytes = frame(*kind, *flags, *stream, payload);
                walk.pass(&bytes, |frame| balance.received(frame));
            }
        }
        balance
    }

    const EVERY_KIND: &[(u8, u8, u32, &[u8])] = &[
        (PING, 0, 0, &[0; 8]),
        (SETTINGS, 0, 0, &[]),
        (DATA, 0, 1, &[]),
        (DATA, PADDED, 1, &[3, 0, 0, 0]),
        (2, 0, 1, &[0; 5]),
        (3, 0, 1, &[0; 4]),
        (8, 0, 0, &[0, 0, 0, 1]),
        (CONTINUATION, 0, 1, &[]),
        (77, 0, 0, b"unknown"),
    ];

    #[test]
    fn c_lsn_3_ten_thousand_frames_of_any_kind_that_lead_nowhere_are_too_many() {
        for one in EVERY_KIND {
            let balance = after(std::slice::from_ref(one), 10_000);
            assert!(!balance.is_overdrawn(), "{one:?}");
            let balance = after(std::slice::from_ref(one), 10_001);
            assert!(balance.is_overdrawn(), "{one:?}");
        }
        assert!(after(EVERY_KIND, 10_000 / EVERY_KIND.len() + 1).is_overdrawn());
    }

    #[test]
    fn c_lsn_3_answers_to_pings_that_we_sent_are_free_and_others_are_dear() {
        let pong = (PING, ACK, 0, &[0; 8][..]);
        assert!(!after(&[pong], 100).is_overdrawn());
        assert!(after(&[pong], 101).is_overdrawn());
        let mut balance = Balance::new();
        for _ in 0..20_000 {
            Frames::of_server().pass(&frame(PING, 0, 0, &[0; 8]), |frame| balance.sent(frame));
            let ping = frame(PING, ACK, 0, &[0; 8]);
            Frames::of_server().pass(&ping, |frame| balance.received(frame));
        }
        assert_eq!(balance.left, 0);
    }

    #[test]
    fn c_lsn_3_what_goes_with_calls_and_data_never_counts() {
        let mut balance = Balance::new();
        let sends = |balance: &mut Balance, kind, flags, payload: &[u8]| {
            let bytes = frame(kind, flags, 1, payload);
            Frames::of_server().pass(&bytes, |frame| balance.sent(frame));
        };
        let receives = |balance: &mut Balance, kind, flags, stream, payload: &[u8]| {
            let bytes = frame(kind, flags, stream, payload);
            Frames::of_server().pass(&bytes, |frame| balance.received(frame));
        };
        // A stream of 100,000 messages to the client, with all that a client may say to it.
        for _ in 0..100_000 {
            sends(&mut balance, DATA, 0, b"message");
            receives(&mut balance, 8, 0, 0, &[0, 0, 0, 7]);
            receives(&mut balance, 8, 0, 1, &[0, 0, 0, 7]);
            receives(&mut balance, PING, 0, 0, &[0; 8]);
            receives(&mut balance, SETTINGS, 0, 0, &[0; 6]);
        }
        assert!(balance.left >= 0);
        // A message to us, with a PING in front of each.
        for _ in 0..100_000 {
            receives(&mut balance, PING, 0, 0, &[0; 8]);
            receives(&mut balance, DATA, 0, 1, b"message");
        }
        assert!(balance.left >= 0);
        // Calls that are opened and given up: others count those.
        for stream in 0..100_000 {
            receives(&mut balance, HEADERS, END_HEADERS, 2 * stream + 1, b"head");
            receives(&mut balance, 3, 0, 2 * stream + 1, &[0; 4]);
        }
        assert!(balance.left >= 0);
        // One PING a second, for a day.
        let mut balance = Balance::new();
        for second in 1..=86_400 {
            balance.at(second);
            receives(&mut balance, PING, 0, 0, &[0; 8]);
        }
        assert_eq!(balance.left, 0);
    }

    #[test]
    fn c_lsn_3_the_end_of_an_answer_settles_what_was_overdrawn() {
        for (kind, flags) in [(HEADERS, END_HEADERS | END_STREAM), (DATA, END_STREAM)] {
            let mut balance = after(&[EVERY_KIND[0]], 10_000);
            let end = frame(kind, flags, 1, b"");
            Frames::of_server().pass(&end, |frame| balance.sent(frame));
            assert_eq!(balance.left, 0);
        }
        // What was saved has a bound, so that a flood after long work is one all the same.
        let mut balance = Balance::new();
        balance.at(1 << 40);
        assert_eq!(balance.left, FRAMES_MAX);
    }

    #[test]
    fn c_lsn_3_a_header_block_is_open_until_its_last_byte() {
        let mut walk = Frames::of_client();
        let mut pass = |bytes: &[u8]| {
            walk.pass(bytes, |_| {});
            walk.in_header_block()
        };
        assert!(!pass(PREFACE));
        assert!(!pass(&frame(SETTINGS, 0, 0, &[0; 6])));
        let head = frame(HEADERS, END_HEADERS, 1, b"head");
        assert!(pass(&head[..9]));
        assert!(pass(&head[9..12]));
        assert!(!pass(&head[12..]));
        assert!(!pass(&frame(HEADERS, END_HEADERS, 3, b"")));
        assert!(pass(&frame(HEADERS, END_STREAM, 5, b"part")));
        assert!(pass(&frame(CONTINUATION, 0, 5, b"")));
        assert!(pass(&frame(CONTINUATION, END_HEADERS, 5, b"rest")[..10]));
        assert!(!pass(b"est"));
        assert!(!pass(&frame(DATA, 0, 5, b"data")[..9]));
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_their_bytes_are_cut(
            all in proptest::collection::vec(
                (0_u8..12, any::<u8>(), 0_u32..9, proptest::collection::vec(any::<u8>(), 0..40)),
                1..20,
            ),
            cuts in proptest::collection::vec(1_usize..30, 1..200),
        ) {
            let mut bytes = PREFACE.to_vec();
            for (kind, flags, stream, payload) in &all {
                bytes.extend(frame(*kind, *flags, *stream, payload));
            }
            let mut whole = Vec::new();
            Frames::of_client().pass(&bytes, |frame| whole.push(frame));
            let mut pieces = Vec::new();
            let mut walk = Frames::of_client();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*cut));
                walk.pass(piece, |frame| pieces.push(frame));
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&whole, &pieces);
            prop_assert_eq!(whole.len(), all.len());
        }
    }
}
