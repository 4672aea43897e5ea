//! TLS to Postgres: rustls, with the cryptography that the requests to the API have too.
//!
//! What is verified is what the address asks for ([`Tls`]), which may be nothing: against somebody who only
//! listens, TLS helps all the same. What is wrong with a handshake is told in words of this house.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::{Address, Mode, Roots, Tls};
use crate::error::{Error, Result, lower_first};
use crate::files;

/// What makes a session of TLS as `tls` asks for it; none where it asks for none.
pub fn connector(tls: &Tls) -> Result<Option<MakeRustlsConnect>> {
    if tls.mode == Mode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier {
        anchors: if tls.mode >= Mode::VerifyCa { tls.roots.as_ref().map(Anchors::of).transpose()? } else { None },
        names: tls.mode == Mode::VerifyFull,
        algorithms: provider.signature_verification_algorithms,
    };
    let unfit = |error: rustls::Error| Error::failed(format!("cannot set up TLS: {}", lower_first(&error.to_string())));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unfit)?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => config
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| unfit(error).at(key.display().to_string()))?,
    };
    // As libpq says it; `sslnegotiation=direct` needs it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Some(MakeRustlsConnect::new(config)))
}

/// Whose signature on the server's certificate counts.
#[derive(Debug)]
struct Anchors {
    roots: RootCertStore,
    /// As they stand in the file: a server may have one of them itself, signed by nobody else.
    themselves: Vec<CertificateDer<'static>>,
}

impl Anchors {
    fn of(roots: &Roots) -> Result<Anchors> {
        let themselves = match roots {
            Roots::File(file) => certificates(file)?,
            Roots::System => system_certificates()?,
        };
        let mut store = RootCertStore::empty();
        let (_, unusable) = store.add_parsable_certificates(themselves.iter().cloned());
        match roots {
            // Of a system's hundreds some may be odd; of a file that somebody made, each is meant.
            Roots::File(file) if unusable > 0 => Err(unreadable("certificate", file)),
            Roots::File(_) => Ok(Anchors { roots: store, themselves }),
            Roots::System => Ok(Anchors { roots: store, themselves: Vec::new() }),
        }
    }
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(found.certs);
    }
    let error = Error::failed("no certificates that this system trusts were found");
    let error = found.errors.iter().fold(error, |error, cause| error.detail(format!("Tried: {cause}.")));
    Err(error.hint("Install `ca-certificates`, or name a file by `sslrootcert`."))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = files::read(file)?;
    let certificates: Option<Vec<_>> = CertificateDer::pem_slice_iter(&bytes).map(Result::ok).collect();
    certificates.filter(|certificates| !certificates.is_empty()).ok_or_else(|| unreadable("certificate", file))
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    // Its content is a secret, and so is what a parser says of it.
    PrivateKeyDer::from_pem_slice(&files::read(file)?).map_err(|_| unreadable("private key", file))
}

fn unreadable(what: &str, file: &Path) -> Error {
    let hint = match what {
        "certificate" => "Convert it: `openssl x509 -in FILE -out FILE.pem`.",
        _ => "Convert it, without a password: `openssl pkey -in FILE -out FILE.pem`.",
    };
    Error::failed(format!("`{}` holds no {what} in PEM", file.display())).hint(hint)
}

/// Looks at the server's certificate.
#[derive(Debug)]
struct Verifier {
    /// Nobody: whatever it is, it will do.
    anchors: Option<Anchors>,
    /// Whether it must be for the host that was asked for.
    names: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(anchors) = &self.anchors else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        if !anchors.themselves.contains(certificate) {
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &anchors.roots, intermediates, now, algorithms)?;
        }
        if self.names {
            verify_server_name(&parsed, host)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.anchors {
            // A signature by the key of nobody in particular; and the certificate may be of a kind that only OpenSSL reads.
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls12_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.anchors {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls13_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What is wrong, where it is TLS that failed: `doing` is the first half of the primary line.
pub fn failure(doing: &str, error: &postgres::Error, address: &Address) -> Option<Error> {
    if let Some(cause) = handshake_error(error) {
        return Some(handshake_failure(doing, cause, address));
    }
    // The crate has no other name for it.
    let offers_none = error.source().is_some_and(|cause| cause.to_string() == "server does not support TLS");
    offers_none.then(|| {
        Error::failed(format!("{doing}: the server offers no TLS"))
            .hint("Set `ssl = on` at the server; on a way that nobody listens to, `sslmode=disable` does without.")
    })
}

/// What rustls found wrong, however deep it is.
pub fn handshake_error(error: &postgres::Error) -> Option<&rustls::Error> {
    let mut next = error.source();
    while let Some(cause) = next {
        // What an io::Error was made of is not among its sources.
        let inner = cause.downcast_ref::<io::Error>().and_then(|cause| cause.get_ref());
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref());
        if found.is_some() {
            return found;
        }
        next = cause.source();
    }
    None
}

fn handshake_failure(doing: &str, error: &rustls::Error, address: &Address) -> Error {
    use CertificateError as Certificate;
    let failed = |reason: &str| Error::failed(format!("{doing}: {reason}"));
    let rustls::Error::InvalidCertificate(wrong) = error else {
        return failed(&format!("the TLS handshake failed: {}", lower_first(&error.to_string())));
    };
    match wrong {
        wrong if is_of_a_stranger(wrong) => match &address.tls.roots {
            Some(Roots::File(file)) => {
                failed(&format!("the server's certificate is not signed by one in `{}`", file.display()))
            }
            _ => failed("the server's certificate is not signed by one that this system trusts"),
        }
        .hint("Name the file of the certificate that signs the server's by `sslrootcert`."),
        Certificate::NotValidForNameContext { presented, .. } => {
            let failed = failed(&format!("the server's certificate is not for `{}`", address.host()));
            let names: Vec<String> = presented.iter().map(|name| format!("`{}`", bare(name))).collect();
            let failed = match names.as_slice() {
                [] => failed.detail("It is for no host: it has no `subjectAltName`, and a common name does not count."),
                names => failed.detail(format!("It is for {}.", names.join(", "))),
            };
            failed.hint("Connect by a name that it is for, or look at who signed it only: `sslmode=verify-ca`.")
        }
        Certificate::Expired | Certificate::ExpiredContext { .. } => failed("the server's certificate has expired"),
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
            failed("the server's certificate is not valid yet").hint("Look at the clocks of both machines.")
        }
        wrong => failed(&format!("the server's certificate is not good: {wrong:?}")),
    }
}

/// Whether nobody whom we trust has signed the certificate.
fn is_of_a_stranger(wrong: &CertificateError) -> bool {
    match wrong {
        // A signature by somebody of the right name with another key is bad.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => true,
        // Its own; rustls has no name for it.
        CertificateError::Other(cause) => format!("{cause:?}").contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

/// `localhost` of `DnsName("localhost")`, which is how rustls writes a name.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pipeline::Secret;

    fn told(wrong: CertificateError, words: &str) -> String {
        let address = Address::of(&Secret::new(format!("postgresql://me:hush@db.example/mirror?{words}"))).unwrap();
        handshake_failure("could not", &rustls::Error::InvalidCertificate(wrong), &address).to_string()
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told() {
        assert_eq!(
            told(CertificateError::UnknownIssuer, "sslmode=verify-full"),
            "could not: the server's certificate is not signed by one that this system trusts\n  \
             hint: Name the file of the certificate that signs the server's by `sslrootcert`."
        );
        let time = UnixTime::since_unix_epoch(Duration::from_secs(1));
        assert_eq!(
            told(CertificateError::ExpiredContext { time, not_after: time }, ""),
            "could not: the server's certificate has expired"
        );
        assert_eq!(
            told(CertificateError::NotValidYetContext { time, not_before: time }, ""),
            "could not: the server's certificate is not valid yet\n  hint: Look at the clocks of both machines."
        );
        assert_eq!(
            told(CertificateError::BadEncoding, ""),
            "could not: the server's certificate is not good: BadEncoding"
        );
    }

    #[test]
    fn the_names_of_a_certificate_are_told() {
        let told = |presented: &[&str]| {
            let presented = presented.iter().map(ToString::to_string).collect();
            let expected = ServerName::try_from("db.example").unwrap();
            told(CertificateError::NotValidForNameContext { expected, presented }, "")
        };
        assert_eq!(
            told(&["DnsName(\"*.other.example\")", "IpAddress(10.0.0.7)"]),
            "could not: the server's certificate is not for `db.example`\n  \
             detail: It is for `*.other.example`, `10.0.0.7`.\n  \
             hint: Connect by a name that it is for, or look at who signed it only: `sslmode=verify-ca`."
        );
        assert_eq!(
            told(&[]),
            "could not: the server's certificate is not for `db.example`\n  \
             detail: It is for no host: it has no `subjectAltName`, and a common name does not count.\n  \
             hint: Connect by a name that it is for, or look at who signed it only: `sslmode=verify-ca`."
        );
    }

    #[test]
    fn another_failure_of_the_handshake_is_told_as_rustls_tells_it() {
        let address = Address::of(&Secret::new("host=h")).unwrap();
        let error = rustls::Error::General("Odd".to_string());
        assert_eq!(
            handshake_failure("could not", &error, &address).to_string(),
            "could not: the TLS handshake failed: unexpected error: Odd"
        );
    }
}
