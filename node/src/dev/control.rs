//! How `pontoon dev stop|start|kill NAME` reaches the running `pontoon dev`.
//!
//! One JSON object per line each way, over a unix socket that only its owner may open: a request is
//! `{"verb": "stop", "name": "us-east-1"}`, an answer `{"ok": true, "text": "..."}`.

use super::Error;
use crate::net::{UnixListener, UnixStream};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// The longest line either way.
const LINE_MAX: u64 = 64 << 10;

/// How long a request may take to arrive once its connection is open.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// How long an answer may take: more than stopping a process and starting it again.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// What to do with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    Stop,
    Start,
    Kill,
}

/// A wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    ok: bool,
    text: String,
}

/// Binds the socket; nobody else may open it.
pub(super) fn listen(path: &Path) -> Result<UnixListener, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let listener =
        UnixListener::bind(path).map_err(|error| Error::file("listen on", path, &error))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| Error::file("protect", path, &error))?;
    Ok(listener)
}

/// Serves one connection: a request, what becomes of it, an answer.
pub(super) async fn serve<F>(stream: UnixStream, act: impl FnOnce(Request) -> F)
where
    F: Future<Output = Result<String, Error>>,
{
    let (read, mut write) = stream.into_split();
    let line = tokio::time::timeout(REQUEST_WITHIN, read_line(read)).await;
    let outcome = match line {
        Ok(Ok(line)) => match serde_json::from_str(&line) {
            Ok(request) => act(request).await,
            Err(error) => Err(Error::new(format!("malformed request: {error}"))),
        },
        _ => return,
    };
    let answer = match outcome {
        Ok(text) => Answer { ok: true, text },
        Err(error) => Answer {
            ok: false,
            text: error.to_string(),
        },
    };
    if let Ok(line) = serde_json::to_string(&answer) {
        // Whoever asked may be gone; what was asked is done.
        let _ = write.write_all((line + "\n").as_bytes()).await;
    }
}

/// Asks the running `pontoon dev`; the answer's text, for people.
pub(super) async fn ask(socket: &Path, request: &Request) -> Result<String, Error> {
    let gone = |error: std::io::Error| {
        Error::new(format!(
            "no `pontoon dev` answers on {}: {error}",
            socket.display()
        ))
    };
    let line = serde_json::to_string(request).map_err(|error| Error::new(error.to_string()))?;
    let mut stream = UnixStream::connect(socket).await.map_err(gone)?;
    stream
        .write_all((line + "\n").as_bytes())
        .await
        .map_err(gone)?;
    let line = tokio::time::timeout(ANSWER_WITHIN, read_line(stream))
        .await
        .map_err(|_| Error::new(format!("no answer within {ANSWER_WITHIN:?}")))?
        .map_err(gone)?;
    let answer: Answer = serde_json::from_str(&line)
        .map_err(|error| Error::new(format!("`pontoon dev` ended before it answered ({error})")))?;
    match answer.ok {
        true => Ok(answer.text),
        false => Err(Error::new(answer.text)),
    }
}

async fn read_line(read: impl tokio::io::AsyncRead + Unpin) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(read.take(LINE_MAX))
        .read_line(&mut line)
        .await?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{self, Kind};

    #[tokio::test]
    async fn a_wish_is_carried_out_and_its_failure_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = listen(&path).unwrap();
        let server = tasks::spawn(Kind::Worker, "server", async move {
            for _ in 0..2 {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, async |request| match request.verb {
                    Verb::Kill => Ok(format!("{} killed", request.name)),
                    _ => Err(Error::new("no")),
                })
                .await;
            }
        });
        let mut request = Request {
            verb: Verb::Kill,
            name: "us-east-1".to_owned(),
        };
        assert_eq!(ask(&path, &request).await.unwrap(), "us-east-1 killed");
        request.verb = Verb::Stop;
        assert_eq!(ask(&path, &request).await.unwrap_err().to_string(), "no");
        server.await.unwrap();
        let error = ask(&path, &request).await.unwrap_err().to_string();
        assert!(error.contains("no `pontoon dev` answers"), "{error}");
    }
}
