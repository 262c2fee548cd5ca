//! Files that are wrong, each in its way; files that change; and what operators read about it.

use super::*;
use crate::cert::make::{self, Authority, Pair, Span};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tracing::subscriber::DefaultGuard;

pub(crate) const CLUSTER: &str = "dev";

/// A CA with a folder of its own, for tests.
pub(crate) struct Ca {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pair = make::authority(CLUSTER, span()).unwrap();
        fs::write(folder.path().join("ca.pem"), &pair.cert).unwrap();
        let authority = Authority::parse(&pair.cert, &pair.key).unwrap();
        Self { folder, authority }
    }

    pub(crate) fn pem(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn issue(&self, node: &str, span: Span) -> Pair {
        make::node(&self.authority, node, &["127.0.0.1".to_owned()], span).unwrap()
    }

    /// The files of a node, made now.
    pub(crate) fn files(&self, node: &str) -> Files {
        self.put(node, &self.issue(node, span()))
    }

    /// Puts a pair where this node's files are.
    pub(crate) fn put(&self, node: &str, pair: &Pair) -> Files {
        let path = |end: &str| self.folder.path().join(format!("{node}{end}"));
        let files = Files {
            ca: self.pem(),
            cert: path(".pem"),
            key: path(".key"),
        };
        fs::write(&files.cert, &pair.cert).unwrap();
        fs::write(&files.key, &pair.key).unwrap();
        files
    }

    pub(crate) fn tls(&self, node: &str) -> Tls {
        Tls::open(self.files(node), node, CLUSTER).unwrap()
    }

    /// A node whose certificate ended an hour ago, and which has not noticed.
    pub(crate) fn expired(&self, node: &str) -> Tls {
        let now = clock::unix_seconds();
        let past = Span {
            from: now - 7200,
            until: now - 3600,
        };
        let files = self.put(node, &self.issue(node, past));
        Tls::open_at(files, node, CLUSTER, now - 5400).unwrap()
    }
}

fn span() -> Span {
    Span::of_days(clock::unix_seconds(), 30)
}

/// Everything that this thread logs while it lives.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How many lines have this text.
    pub(crate) fn lines(&self, with: &str) -> usize {
        self.text()
            .lines()
            .filter(|line| line.contains(with))
            .count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is said about the files of the node `n1` of the cluster `dev`.
fn problem(files: &Files) -> String {
    match Tls::open(files.clone(), "n1", CLUSTER) {
        Ok(_) => panic!("{files:?} were taken"),
        Err(problem) => problem.0,
    }
}

#[test]
fn o_cfg_1_each_wrong_file_is_named_with_what_is_wrong_and_what_to_do() {
    let ca = Ca::new();
    let good = ca.files("n1");
    let other = ca.files("n2");
    let stranger = Ca::new();
    let foreign = stranger.files("n1");
    let wrong = |change: &dyn Fn(&mut Files)| {
        let mut files = good.clone();
        change(&mut files);
        problem(&files)
    };
    let file = |name: &str, text: &str| {
        let path = ca.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let cut = fs::read_to_string(&good.cert).unwrap();
    let cut = file("cut.pem", &cut[..cut.len() - 40]);
    let sealed = file(
        "sealed.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let (empty, text) = (file("empty.pem", "\n"), file("text.pem", "hello\n"));
    let missing = ca.folder.path().join("missing.pem");
    let (ca_pem, cert, key) = (&good.ca, &good.cert, &good.key);
    type Change<'a> = &'a dyn Fn(&mut Files);
    let cases: [(Change<'_>, &str, &std::path::Path, &str); 14] = [
        (
            &|f| f.ca = missing.clone(),
            "tls.ca_file",
            &missing,
            "cannot read",
        ),
        (
            &|f| f.cert = missing.clone(),
            "tls.cert_file",
            &missing,
            "cannot read",
        ),
        (
            &|f| f.key = missing.clone(),
            "tls.key_file",
            &missing,
            "cannot read",
        ),
        (&|f| f.ca = empty.clone(), "tls.ca_file", &empty, "is empty"),
        (
            &|f| f.key = empty.clone(),
            "tls.key_file",
            &empty,
            "is empty",
        ),
        (
            &|f| f.cert = text.clone(),
            "tls.cert_file",
            &text,
            "no certificate in PEM",
        ),
        (
            &|f| f.key = text.clone(),
            "tls.key_file",
            &text,
            "no private key in PEM",
        ),
        (
            &|f| f.cert = cut.clone(),
            "tls.cert_file",
            &cut,
            "is cut off",
        ),
        (
            &|f| f.ca = key.clone(),
            "tls.ca_file",
            key,
            "a private key and no certificate",
        ),
        (&|f| f.ca = cert.clone(), "tls.ca_file", cert, "no CA's"),
        (
            &|f| f.key = cert.clone(),
            "tls.key_file",
            cert,
            "no private key in PEM",
        ),
        (
            &|f| f.key = sealed.clone(),
            "tls.key_file",
            &sealed,
            "is encrypted",
        ),
        (
            &|f| f.key = other.key.clone(),
            "tls.key_file",
            &other.key,
            "made together",
        ),
        (
            &|f| *f = other.clone(),
            "tls.cert_file",
            &other.cert,
            "n2.dev.pontoon, 127.0.0.1, and not for n1.dev.pontoon",
        ),
    ];
    for (change, asked, path, what) in cases {
        let text = wrong(change);
        assert!(text.starts_with(asked), "{asked}: {text}");
        assert!(text.contains(&*path.to_string_lossy()), "{text}");
        assert!(text.contains(what), "{what}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let text = wrong(&|f| {
        *f = Files {
            ca: ca_pem.clone(),
            ..foreign.clone()
        }
    });
    let both = text.starts_with("tls.cert_file") && text.contains(&*ca_pem.to_string_lossy());
    assert!(both && text.contains("not signed by a CA"), "{text}");
}

#[test]
fn o_cfg_1_a_certificate_out_of_its_time_is_refused_with_the_day() {
    let ca = Ca::new();
    let now = clock::unix_seconds();
    let at = |from, until| {
        let files = ca.put("n1", &ca.issue("n1", Span { from, until }));
        problem(&files)
    };
    let over = at(now - 90_000, now - 60);
    assert!(
        over.contains(&format!("expired on {}", explain::date(now - 60))),
        "{over}"
    );
    let early = at(now + 90_000, now + 180_000);
    assert!(early.contains("clock"), "{early}");
}

/// Waits for the log, in time that passes only while nothing else happens.
async fn logged(log: &Log, text: &str) {
    let give_up = clock::now() + Duration::from_secs(60);
    while log.lines(text) == 0 {
        assert!(clock::now() < give_up, "{text} is not in\n{}", log.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn o_log_1_changed_files_are_taken_up_broken_ones_reported_once_and_no_key_is_logged() {
    let (log, _guard) = Log::start();
    let ca = Ca::new();
    let tls = ca.tls("n1");
    let before = tls.expiry();
    let following = crate::tasks::spawn(
        crate::tasks::Kind::Worker,
        "test",
        reload::follow(tls.clone()),
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(log.lines("certificates"), 0, "{}", log.text());

    let longer = Span::of_days(clock::unix_seconds(), 60);
    let pair = ca.issue("n1", longer);
    let files = ca.put("n1", &pair);
    logged(&log, "new certificates are in use").await;
    assert_ne!(tls.expiry(), before);
    let taken = tls.expiry();

    let broken = ca.issue("n1", span());
    fs::write(&files.key, &broken.key).unwrap();
    logged(&log, "the old ones stay in force").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(log.lines("the old ones stay in force"), 1, "{}", log.text());
    assert_eq!(log.lines("made together"), 1, "{}", log.text());
    assert_eq!(tls.expiry(), taken);

    // A part of a key in the wrong file is not repeated either.
    let (half, _) = pair.key.split_at(pair.key.len() / 2);
    fs::write(&files.key, half).unwrap();
    logged(&log, "is cut off").await;

    let mut short = Span::of_days(clock::unix_seconds(), 3);
    short.until -= 3600;
    ca.put("n1", &ca.issue("n1", short));
    logged(&log, "expires in 2 days").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(log.lines("expires in 2 days"), 1, "{}", log.text());
    following.abort();
    let text = log.text();
    for key in [&pair.key, &broken.key] {
        for line in key.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!text.contains(line), "a key is in the log");
        }
    }
}

#[tokio::test]
async fn a_port_for_others_takes_clear_text_only_where_that_is_allowed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt as _;
    let (log, _guard) = Log::start();
    let ca = Ca::new();
    for allowed in [true, false] {
        let port = accept::Port::new("worker", Some(ca.tls("n1")), accept::For::Others)
            .and_clear_text(allowed);
        let listener = crate::net::listen("tests", "127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut incoming = accept::incoming(listener, port);
        let within = Duration::from_secs(5);
        let mut clear = crate::net::dial(&address, within).await.unwrap();
        clear.write_all(b"CONNECT / HTTP/1.1\r\n").await.unwrap();
        if allowed {
            let mut stream = incoming.next().await.unwrap().unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'C');
        } else {
            assert_eq!(clear.read_u8().await.unwrap(), 21, "an alert");
            assert_eq!(
                log.lines("it speaks clear text, and this port speaks TLS"),
                1
            );
        }
        let trust = dial::Trust::open(&ca.pem()).unwrap();
        let socket = crate::net::dial(&address, within).await.unwrap();
        let (dialed, accepted) = tokio::join!(trust.http1(socket, &address), incoming.next());
        dialed.unwrap().write_all(b"x").await.unwrap();
        assert_eq!(accepted.unwrap().unwrap().read_u8().await.unwrap(), b'x');
    }
}
