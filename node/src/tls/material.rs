//! Certificates and key, checked against each other, as rustls wants them.

use super::files::{Files, Named, Problem, names, seconds};
use super::verify::{AnyNode, Callers, list};
use super::{Expiry, explain, node_name};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;

/// HTTP/2, and HTTP/1.1 for CONNECT (RFC 7301's registry).
pub(super) const H2: &[u8] = b"h2";
pub(super) const HTTP1: &[u8] = b"http/1.1";

/// What one reading of the files gave.
pub(super) struct Material {
    pub(super) nodes: Arc<ServerConfig>,
    pub(super) others: Arc<ServerConfig>,
    pub(super) to_node: Arc<ClientConfig>,
    pub(super) to_any: Arc<ClientConfig>,
    pub(super) expiry: Expiry,
}

/// The one provider of cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What the certificate and the key are checked with and turned into.
struct Checked {
    roots: Arc<RootCertStore>,
    key: Arc<CertifiedKey>,
    servers: Arc<WebPkiServerVerifier>,
    callers: Arc<dyn ClientCertVerifier>,
    expiry: Expiry,
}

impl Material {
    /// Reads the files and checks that they fit each other, this node and the present time.
    pub(super) fn load(
        files: &Files,
        node: &str,
        cluster: &str,
        now: u64,
    ) -> Result<Self, Problem> {
        let checked = check(files, &node_name(node, cluster), now)?;
        let expiry = checked.expiry;
        checked
            .configure(cluster)
            .map(|(nodes, others, to_node, to_any)| Self {
                nodes: Arc::new(nodes),
                others: Arc::new(others),
                to_node: Arc::new(to_node),
                to_any: Arc::new(to_any),
                expiry,
            })
            .map_err(|error| Problem(format!("tls: these files can't be used: {error}")))
    }
}

fn check(files: &Files, name: &str, now: u64) -> Result<Checked, Problem> {
    let ca = Named::new("tls.ca_file", &files.ca);
    let cert = Named::new("tls.cert_file", &files.cert);
    let key = Named::new("tls.key_file", &files.key);
    let (roots, ca_ends) = ca.authorities()?;
    let chain = cert.certificates()?;
    let ends = judge(&cert, &chain[0], name, now)?;
    let certified = certified(&cert, chain, &key)?;
    let roots = Arc::new(roots);
    let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider()).build();
    let callers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
    let (Ok(servers), Ok(callers)) = (servers, callers) else {
        return Err(ca.problem("can't be used: it has no CA"));
    };
    let checked = Checked {
        roots,
        key: certified,
        servers,
        callers,
        expiry: Expiry {
            node: ends,
            ca: ca_ends,
        },
    };
    checked
        .by_our_own_rules(name, now)
        .map_err(|error| match error {
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => cert.problem(format!(
                "is not signed by a CA in tls.ca_file, {}: put together what was issued together",
                files.ca.display()
            )),
            error => cert.problem(format!(
                "would be refused by the other nodes: {}",
                explain::tls(&error)
            )),
        })?;
    Ok(checked)
}

/// A certificate with its key, which must be its own.
pub(super) fn certified(
    cert: &Named<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: &Named<'_>,
) -> Result<Arc<CertifiedKey>, Problem> {
    let signing = provider()
        .key_provider
        .load_private_key(key.key()?)
        .map_err(|_| {
            key.problem("holds a key of an unknown kind: use ECDSA P-256, P-384, Ed25519 or RSA")
        })?;
    let certified = Arc::new(CertifiedKey::new(chain, signing));
    match certified.keys_match() {
        Err(Error::InconsistentKeys(_)) => Err(key.problem(format!(
            "is not the key of the certificate in {}: put the two that were made together",
            cert.path.display()
        ))),
        _ => Ok(certified),
    }
}

/// Checks name and time of our own certificate; gives its end.
fn judge(cert: &Named<'_>, der: &CertificateDer<'_>, name: &str, now: u64) -> Result<u64, Problem> {
    let leaf = cert.parse(der)?;
    let ends = in_force(cert, &leaf, now)?;
    let names = names(&leaf);
    if !names.iter().any(|one| one == name) {
        return Err(cert.problem(format!(
            "is for {}, and not for {name} (<name>.<cluster.name>.pontoon): give this node its own \
             certificate, or correct `name` or `cluster.name`",
            list(&names)
        )));
    }
    Ok(ends)
}

/// Checks that a certificate is good at this time; gives its end.
pub(super) fn in_force(
    cert: &Named<'_>,
    leaf: &X509Certificate<'_>,
    now: u64,
) -> Result<u64, Problem> {
    let (starts, ends) = (
        seconds(leaf.validity().not_before),
        seconds(leaf.validity().not_after),
    );
    if ends < now {
        return Err(cert.problem(format!(
            "expired on {}: issue a new certificate (`pontoon cert node` makes one for development)",
            explain::date(ends)
        )));
    }
    if starts > now {
        return Err(cert.problem(format!(
            "is not valid before {}: is this machine's clock right?",
            explain::date(starts)
        )));
    }
    Ok(ends)
}

impl Checked {
    /// Whether other nodes with the same CA file would take our certificate, as theirs do.
    fn by_our_own_rules(&self, name: &str, now: u64) -> Result<(), Error> {
        use rustls::client::danger::ServerCertVerifier as _;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let Some((leaf, between)) = self.key.cert.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        let name = ServerName::try_from(name)
            .map_err(|error| Error::General(format!("{name} is no DNS name: {error}")))?;
        self.servers
            .verify_server_cert(leaf, between, &name, &[], now)?;
        self.callers.verify_client_cert(leaf, between, now)?;
        Ok(())
    }

    /// The two servers and the two clients.
    fn configure(
        self,
        cluster: &str,
    ) -> Result<(ServerConfig, ServerConfig, ClientConfig, ClientConfig), Error> {
        let own = Arc::new(SingleCertAndKey::from(self.key));
        let callers = Callers {
            chain: self.callers,
            cluster: cluster.to_owned(),
        };
        let any = AnyNode {
            roots: self.roots,
            algorithms: provider().signature_verification_algorithms,
            plain: self.servers.clone(),
            cluster: cluster.to_owned(),
        };
        let server =
            || ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let mut nodes = server()?
            .with_client_cert_verifier(Arc::new(callers))
            .with_cert_resolver(own.clone());
        nodes.alpn_protocols = vec![H2.to_vec()];
        // A resumed session would not be judged again.
        nodes.session_storage = Arc::new(NoServerSessionStorage {});
        nodes.send_tls13_tickets = 0;
        let mut others = server()?
            .with_no_client_auth()
            .with_cert_resolver(own.clone());
        others.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        let client =
            || ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let mut to_node = client()?
            .with_webpki_verifier(self.servers)
            .with_client_cert_resolver(own.clone());
        let mut to_any = client()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(any))
            .with_client_cert_resolver(own);
        for client in [&mut to_node, &mut to_any] {
            client.alpn_protocols = vec![H2.to_vec()];
            client.resumption = Resumption::disabled();
        }
        Ok((nodes, others, to_node, to_any))
    }
}

/// A client that believes the CAs and shows nothing.
pub(super) fn outsider(roots: RootCertStore, protocol: &[u8]) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}
