//! Takes whatever comes, and says nothing: what a flood costs the machine that it is sent from.

use crate::net::TcpStream;
use tokio::io::AsyncReadExt as _;

pub(super) async fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}
