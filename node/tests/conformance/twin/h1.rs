//! The twin over HTTP/1.1: bytes, but for the first head of each direction.

use super::Twin;
use crate::caller::WITHIN;
use pontoon::net::{self, TcpStream};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The most that a first head may have.
const HEAD_MAX: usize = 256 << 10;

/// Passes one connection.
pub(super) async fn serve(client: TcpStream, behind: &str, twin: Twin) -> io::Result<()> {
    let server = net::dial(behind, WITHIN).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let change = match twin {
            Twin::RequestText(change) => Some(change),
            _ => None,
        };
        pass(&mut from_client, &mut to_server, change).await.ok();
        to_server.shutdown().await
    };
    let down = async {
        let change = match twin {
            Twin::AnswerText(change) => Some(change),
            _ => None,
        };
        pass(&mut from_server, &mut to_client, change).await.ok();
        to_client.shutdown().await
    };
    let (up, down) = tokio::join!(up, down);
    up.and(down)
}

async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    change: Option<fn(String) -> String>,
) -> io::Result<()> {
    if let Some(change) = change {
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") && head.len() < HEAD_MAX {
            if from.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        let end = head.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.map_or(head.len(), |at| at + 4);
        let text = String::from_utf8_lossy(&head[..end]).into_owned();
        to.write_all(change(text).as_bytes()).await?;
        to.write_all(&head[end..]).await?;
    }
    tokio::io::copy(from, to).await?;
    Ok(())
}
