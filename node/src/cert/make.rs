//! Makes certificates: a CA, and nodes' certificates signed by it.
//!
//! Keys are ECDSA P-256, which every TLS library of today knows and signs with fast.

use crate::tls::node_name;
use crate::{config, random};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

const DAY: u64 = 24 * 60 * 60;

/// How long before now a certificate begins, for machines whose clocks are behind.
const BEFORE: u64 = 60 * 60;

/// From when until when, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Span {
    /// So many days from now.
    pub(crate) fn of_days(now: u64, days: u64) -> Self {
        Self {
            from: now.saturating_sub(BEFORE),
            until: now + days * DAY,
        }
    }
}

/// A certificate and its key, PEM.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// A CA that can sign.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) cluster: String,
    pub(crate) until: u64,
}

impl Authority {
    /// Reads what [`authority`] made.
    pub(crate) fn parse(cert: &str, key: &str) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|_| "ca.pem holds no certificate in PEM".to_owned())?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| format!("ca.pem is malformed: {error}"))?;
        let cluster = parsed
            .subject()
            .iter_organization()
            .find_map(|name| name.as_str().ok())
            .ok_or("ca.pem was not made by `pontoon cert ca`: it names no cluster")?
            .to_owned();
        let key = KeyPair::from_pem(key).map_err(|_| "ca.key holds no private key in PEM")?;
        if parsed.public_key().subject_public_key.data != rcgen::PublicKeyData::der_bytes(&key) {
            return Err("ca.key is not the key of ca.pem".into());
        }
        let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| format!("ca.pem can't sign: {error}"))?;
        Ok(Self {
            issuer,
            cluster,
            until,
        })
    }
}

/// Makes a CA. Its name ends in random digits, so that CAs of clusters of the same name are told
/// apart by name already.
pub(crate) fn authority(cluster: &str, span: Span) -> Result<Pair, String> {
    check_label("--cluster", cluster)?;
    let mark: String = random::bytes::<4>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut params = params(span);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let names = &mut params.distinguished_name;
    names.push(DnType::OrganizationName, cluster);
    names.push(
        DnType::CommonName,
        format!("Pontoon development CA of {cluster} {mark}"),
    );
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let cert = params
        .self_signed(&key)
        .map_err(|error| error.to_string())?;
    Ok(Pair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

/// Makes a node's certificate, good for dialing and for being dialed.
pub(crate) fn node(
    authority: &Authority,
    name: &str,
    further: &[String],
    span: Span,
) -> Result<Pair, String> {
    check_label("--name", name)?;
    let full = node_name(name, &authority.cluster);
    let mut names = vec![full.clone()];
    names.extend_from_slice(further);
    let of = CertificateParams::new(names)
        .map_err(|error| format!("--san: not a host name or an address: {error}"))?;
    let mut params = params(span);
    params.subject_alt_names = of.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, full);
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let cert = params
        .signed_by(&key, &authority.issuer)
        .map_err(|error| error.to_string())?;
    Ok(Pair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

fn params(span: Span) -> CertificateParams {
    let at = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut params = CertificateParams::default();
    params.not_before = at(span.from);
    params.not_after = at(span.until);
    params.distinguished_name = DistinguishedName::new();
    params
}

fn check_label(flag: &str, text: &str) -> Result<(), String> {
    match config::is_label(text) {
        true => Ok(()),
        false => Err(format!(
            "{flag} {text:?} is not a DNS label: a-z, 0-9, inner hyphens, at most 63 characters"
        )),
    }
}
