//! A worker's side of `--on-end`: hears from its sidecar that sessions have ended, and why.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The longest that a POST may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);

/// Listens for as long as the test's process lives.
pub struct Told {
    /// What `--on-end` is given.
    pub url: String,
    /// The reasons by session, in the order in which they came.
    heard: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    /// Whoever holds it keeps all answers back.
    answers: Arc<Mutex<()>>,
}

impl Told {
    /// Begins to listen.
    pub fn start() -> Told {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let told = Told {
            url: format!("http://{address}/ended"),
            heard: Arc::default(),
            answers: Arc::default(),
        };
        let (heard, answers) = (Arc::clone(&told.heard), Arc::clone(&told.answers));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (heard, answers) = (Arc::clone(&heard), Arc::clone(&answers));
                std::thread::spawn(move || {
                    let Some(said) = body(&mut stream) else {
                        return;
                    };
                    let field = |name: &str| said[name].as_str().expect("text").to_owned();
                    let mut all = heard.lock().expect("no panic");
                    let reasons = all.entry(field("request_id")).or_default();
                    reasons.push(field("reason"));
                    drop(all);
                    let _may_answer = answers.lock().expect("no panic");
                    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer).ok();
                });
            }
        });
        told
    }

    /// What was said of a session, each time.
    pub fn of(&self, session: &str) -> Vec<String> {
        let heard = self.heard.lock().expect("no panic");
        heard.get(session).cloned().unwrap_or_default()
    }

    /// Keeps back all answers until what this gives is dropped.
    pub fn keep_back(&self) -> MutexGuard<'_, ()> {
        self.answers.lock().expect("no panic")
    }
}

/// The JSON that a POST brings; `None` for anything else, as a connection that only looks.
fn body(stream: &mut TcpStream) -> Option<Value> {
    stream.set_read_timeout(Some(ARRIVES_WITHIN)).ok()?;
    let mut text = Vec::new();
    let mut some = [0; 1024];
    loop {
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n")
            && let Ok(said) = serde_json::from_str(body)
        {
            assert!(head.starts_with("POST /ended "), "{head}");
            return Some(said);
        }
        match stream.read(&mut some) {
            Ok(count @ 1..) => text.extend_from_slice(&some[..count]),
            _ => return None,
        }
    }
}
