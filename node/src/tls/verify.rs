//! The part of the verdict on a certificate that is ours: is it one of a node of this cluster.
//!
//! Chain, time, purpose and, where one node is meant, its name are judged by webpki.

use super::{SUFFIX, files};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// A certificate of our CA that is no node's of this cluster.
#[derive(Debug, thiserror::Error)]
#[error(
    "its certificate is for {}, and not for a node of the cluster {cluster} \
     (NAME.{cluster}.{SUFFIX}): issue it one with `pontoon cert node` or its like",
    list(.names)
)]
pub(super) struct NoNode {
    names: Vec<String>,
    cluster: String,
}

/// Names for a sentence.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => "no name".to_owned(),
        names => names.join(", "),
    }
}

/// The nodes of a cluster that a certificate is for.
pub(super) fn nodes(certificate: &CertificateDer<'_>, cluster: &str) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = files::names(&certificate).into_iter();
    names
        .filter_map(|name| {
            let node = name.strip_suffix(SUFFIX)?.strip_suffix('.')?;
            let node = node.strip_suffix(cluster)?.strip_suffix('.')?;
            (!node.is_empty() && !node.contains(['.', '*'])).then(|| node.to_owned())
        })
        .collect()
}

fn is_node(certificate: &CertificateDer<'_>, cluster: &str) -> Result<(), Error> {
    if !nodes(certificate, cluster).is_empty() {
        return Ok(());
    }
    let names = X509Certificate::from_der(certificate)
        .map(|(_, certificate)| files::names(&certificate))
        .unwrap_or_default();
    let other = OtherError(Arc::new(NoNode {
        names,
        cluster: cluster.to_owned(),
    }));
    Err(CertificateError::Other(other).into())
}

/// Takes the certificate of any node of this cluster from whoever dials us.
#[derive(Debug)]
pub(super) struct Callers {
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    pub(super) cluster: String,
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verdict = self.chain.verify_client_cert(certificate, between, now)?;
        is_node(certificate, &self.cluster)?;
        Ok(verdict)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Takes the certificate of any node of this cluster from whom we dial, whatever name was asked for.
#[derive(Debug)]
pub(super) struct AnyNode {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// For the signatures of the handshake.
    pub(super) plain: Arc<WebPkiServerVerifier>,
    pub(super) cluster: String,
}

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            between,
            now,
            self.algorithms.all,
        )?;
        is_node(certificate, &self.cluster)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.plain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.plain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.plain.supported_verify_schemes()
    }
}
