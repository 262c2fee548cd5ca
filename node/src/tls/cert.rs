//! A development certificate authority (`pontoon cert`). Not for production: its key lies in a file.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// An authority that can issue.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub struct Issued {
    /// The chain: the certificate itself.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// Makes a new authority with a fresh key.
    ///
    /// # Errors
    ///
    /// When the name can't be put into a certificate.
    pub fn new(name: &str) -> Result<Authority, rcgen::Error> {
        let params = params_of(name);
        let key = KeyPair::generate()?;
        Ok(Authority {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Takes up an authority of this name that was made before.
    ///
    /// # Errors
    ///
    /// When the key is not a private key in PEM.
    pub fn from_pem(name: &str, certificate: &str, key: &str) -> Result<Authority, rcgen::Error> {
        Ok(Authority {
            certificate: certificate.into(),
            key: key.into(),
            issuer: Issuer::new(params_of(name), KeyPair::from_pem(key)?),
        })
    }

    /// The authority's certificate, PEM: what others trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's key, PEM: who has it can issue.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Issues a certificate for these DNS names or addresses, good for servers and clients.
    ///
    /// # Errors
    ///
    /// When a name is not a DNS name or an address.
    pub fn issue(&self, names: &[String]) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::new(names.to_vec())?;
        if let Some(first) = names.first() {
            params.distinguished_name.push(DnType::CommonName, first);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn params_of(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
