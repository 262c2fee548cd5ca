//! How a process hears that it should end: a signal, or the pipe from its parent.
//!
//! A parent that is killed can tell nobody, but the kernel closes its end of the pipe that each child
//! has as standard input. So no process is left behind, whatever happened to the parent.

use crate::tasks::{self, Kind};
use std::io::{self, Read as _};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT, SIGTERM, or (when `exit_with_stdin`) the end of standard input.
pub async fn told_to_end(exit_with_stdin: bool) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stdin = async {
        if exit_with_stdin {
            stdin_closed().await
        } else {
            std::future::pending().await
        }
    };
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        ended = stdin => ended,
    }
}

/// Ends this process at once when standard input closes.
pub fn end_with_stdin() {
    tasks::spawn(Kind::Worker, "leash", async {
        if stdin_closed().await.is_ok() {
            tracing::info!("standard input closed: ending with the parent");
            std::process::exit(0);
        }
    });
}

/// Waits for the end of standard input; what is written there is thrown away.
///
/// The reading thread is not one of the runtime's: it may wait for ever, and a runtime that stops
/// would wait for it.
pub async fn stdin_closed() -> io::Result<()> {
    let (closed, heard) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let (mut stdin, mut ignored) = (io::stdin().lock(), [0; 256]);
            loop {
                match stdin.read(&mut ignored) {
                    Ok(0) => break,
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                    _ => {}
                }
            }
            // Nobody listens any more when the process is already ending.
            let _ = closed.send(());
        })?;
    // The sender is dropped only by a panic of that thread: the leash is gone either way.
    let _ = heard.await;
    Ok(())
}
