//! Reads certificates and keys from files, and says in one line what is wrong with a file.
//!
//! Every text names the file and what to do, and none repeats what is in it: the key is a secret.

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

/// The largest file that is read: a CA bundle of 500 certificates. The bound keeps a wrong path, to
/// a disk image say, from filling memory.
const FILE_MAX: u64 = 1 << 20;

/// The files of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The CAs whose certificates are believed, PEM.
    pub ca: PathBuf,
    /// Our certificate and those between it and the CA, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// What is wrong with a file: the key of the configuration or the flag, the path, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

/// One file and what asked for it: a key of the configuration or a flag.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) asked: &'a str,
    pub(super) path: &'a Path,
}

impl<'a> Named<'a> {
    pub(super) fn new(asked: &'a str, path: &'a Path) -> Self {
        Self { asked, path }
    }

    /// A problem of this file.
    pub(super) fn problem(&self, text: impl std::fmt::Display) -> Problem {
        Problem(format!("{}: {} {text}", self.asked, self.path.display()))
    }

    fn read(&self) -> Result<Vec<u8>, Problem> {
        let unreadable = |error: &dyn std::fmt::Display| {
            Problem(format!(
                "{}: cannot read {}: {error}",
                self.asked,
                self.path.display()
            ))
        };
        let about = std::fs::metadata(self.path).map_err(|error| unreadable(&error))?;
        if about.len() > FILE_MAX {
            return Err(self.problem("is larger than 1 MiB: it is no PEM file of certificates"));
        }
        let bytes = std::fs::read(self.path).map_err(|error| unreadable(&error))?;
        match bytes.iter().all(u8::is_ascii_whitespace) {
            true => Err(self.problem("is empty: `pontoon cert` makes development certificates")),
            false => Ok(bytes),
        }
    }

    /// All certificates of the file, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Problem> {
        let bytes = self.read()?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| self.malformed(&error))?;
        if !found.is_empty() {
            return Ok(found);
        }
        let holds = match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(_) => "holds a private key and no certificate: name the file of the certificate",
            Err(_) => "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        };
        Err(self.problem(holds))
    }

    /// The private key of the file.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, Problem> {
        let bytes = self.read()?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            PemError::NoItemsFound => {
                let encrypted = bytes
                    .windows(ENCRYPTED.len())
                    .any(|window| window == ENCRYPTED);
                self.problem(match encrypted {
                    true => {
                        "is encrypted, and nobody is here to type the pass phrase: write it \
                         without one (openssl pkey -in OLD -out NEW), readable by us only"
                    }
                    false => "holds no private key in PEM (-----BEGIN PRIVATE KEY-----)",
                })
            }
            error => self.malformed(&error),
        })
    }

    /// The CAs of the file, and when the first of them ends.
    pub(super) fn authorities(&self) -> Result<(RootCertStore, u64), Problem> {
        let mut roots = RootCertStore::empty();
        let mut ends = u64::MAX;
        for der in self.certificates()? {
            let certificate = self.parse(&der)?;
            if !certificate.is_ca() {
                return Err(self.problem(format!(
                    "holds a certificate that is no CA's ({}): name the file of the CA",
                    certificate.subject()
                )));
            }
            ends = ends.min(seconds(certificate.validity().not_after));
            roots
                .add(der.clone())
                .map_err(|error| self.problem(format!("can't be used: {error}")))?;
        }
        Ok((roots, ends))
    }

    /// Looks into a certificate of this file.
    pub(super) fn parse<'d>(
        &self,
        der: &'d CertificateDer<'_>,
    ) -> Result<X509Certificate<'d>, Problem> {
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(error) => Err(self.problem(format!("holds a malformed certificate: {error}"))),
        }
    }

    /// The library's text repeats the line that it could not read, which may be a part of a key.
    fn malformed(&self, error: &PemError) -> Problem {
        self.problem(match error {
            PemError::MissingSectionEnd { .. } => {
                "is cut off: a section has no end line (-----END ...-----)"
            }
            PemError::Base64Decode(_) => "is not PEM: a section is not base64",
            PemError::SectionTooLarge => "is not PEM: a section is too large",
            _ => "is not PEM: a section's begin or end line is malformed",
        })
    }
}

/// What an encrypted key begins with (RFC 5958, 7468).
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Seconds since 1970; what lies before counts as 0.
pub(super) fn seconds(time: ASN1Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or(0)
}

/// The DNS names and addresses that a certificate is for, as text.
pub(super) fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
                let six = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
                four.or(six).ok().map(|address| address.to_string())
            }
            _ => None,
        })
        .collect()
}
