//! A connection in clear text or over TLS, as one type.

use super::verify;
use crate::net::TcpStream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

/// Either of the two.
#[derive(Debug)]
pub struct Stream {
    io: Io,
    caller: Caller,
}

#[derive(Debug)]
enum Io {
    Clear(TcpStream),
    /// Boxed, because rustls's state is about 1 KiB.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Who is at the other end, by certificate.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The nodes that the certificate is for, one as a rule; `None` where none was asked for.
    pub nodes: Option<Arc<[String]>>,
}

impl Stream {
    /// A connection as it came.
    pub fn clear(stream: TcpStream) -> Self {
        Self {
            io: Io::Clear(stream),
            caller: Caller::default(),
        }
    }

    /// One whose handshake is done.
    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self {
            io: Io::Tls(Box::new(stream)),
            caller: Caller::default(),
        }
    }

    /// One whose handshake is done, with a node of this cluster.
    pub(super) fn with_node(stream: TlsStream<TcpStream>, cluster: &str) -> Self {
        let certificates = stream.get_ref().1.peer_certificates();
        let nodes = certificates
            .and_then(|certificates| Some(verify::nodes(certificates.first()?, cluster).into()));
        Self {
            io: Io::Tls(Box::new(stream)),
            caller: Caller { nodes },
        }
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match &self.io {
            Io::Clear(stream) => stream,
            Io::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Clear(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Clear(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Clear(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Stream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}
