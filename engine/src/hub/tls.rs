//! TLS without a C compiler: rustls on graviola.
//!
//! rustls leaves the cryptography to a provider. Its two usual ones, ring and aws-lc, are built from C and assembler by a C compiler;
//! RustCrypto's is an alpha on crates of 2023. graviola, by rustls's author, is Rust with inline assembler, much of it s2n-bignum's, proven
//! formally, and needs rustc alone. Its price: x86-64 with AES, PCLMULQDQ, AVX2, BMI, ADX (Intel since Broadwell, AMD since Zen)
//! and ARM64 with AES and SHA-2 (not the Raspberry Pi 4). On anything else `https` is refused by name, before graviola would panic.
//!
//! Whom to trust: the files that `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE` name, else the system's certificates, which
//! know a company's own proxy; Mozilla's where the system has none.

use std::path::PathBuf;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::error::{Error, Fault, Result};

/// Whether this machine can speak TLS.
///
/// # Errors
/// [`Error::Unsupported`] with the reason.
pub(super) fn available(address: &str) -> Result<()> {
    let lacking = lacking();
    if lacking.is_empty() {
        return Ok(());
    }
    let help = "download the file with another program, such as curl, and give hob its path";
    Err(Error::Unsupported(Fault::at(address).expected("a processor that hob's encryption runs on").found(lacking).help(help)))
}

#[cfg(target_arch = "x86_64")]
fn lacking() -> String {
    let has = [
        ("AES", std::is_x86_feature_detected!("aes")),
        ("PCLMULQDQ", std::is_x86_feature_detected!("pclmulqdq")),
        ("BMI1", std::is_x86_feature_detected!("bmi1")),
        ("BMI2", std::is_x86_feature_detected!("bmi2")),
        ("ADX", std::is_x86_feature_detected!("adx")),
        ("AVX", std::is_x86_feature_detected!("avx")),
        ("AVX2", std::is_x86_feature_detected!("avx2")),
    ];
    without(&has)
}

#[cfg(target_arch = "aarch64")]
fn lacking() -> String {
    let has = [
        ("NEON", std::arch::is_aarch64_feature_detected!("neon")),
        ("AES", std::arch::is_aarch64_feature_detected!("aes")),
        ("PMULL", std::arch::is_aarch64_feature_detected!("pmull")),
        ("SHA-2", std::arch::is_aarch64_feature_detected!("sha2")),
    ];
    without(&has)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn without(has: &[(&str, bool)]) -> String {
    let lacking: Vec<&str> = has.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if lacking.is_empty() { String::new() } else { format!("one without {}", lacking.join(", ")) }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn lacking() -> String {
    std::env::consts::ARCH.to_owned()
}

/// The settings of every connection. `trusted` stands for all other certificates.
///
/// # Errors
/// [`Error::Input`] where a file of certificates that was named cannot be read.
pub(super) fn config(trusted: Option<&[u8]>) -> Result<TlsConfig> {
    let roots = match trusted {
        Some(pem) => certificates(pem),
        None => roots()?,
    };
    let config = TlsConfig::builder().provider(TlsProvider::Rustls).root_certs(RootCerts::new_with_certs(&roots));
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let config = config.unversioned_rustls_crypto_provider(std::sync::Arc::new(rustls_graviola::default_provider()));
    Ok(config.build())
}

fn roots() -> Result<Vec<Certificate<'static>>> {
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from) else { continue };
        let pem = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let found = certificates(&pem);
        if found.is_empty() {
            let fault = Fault::at(format!("{name}={}", path.display())).expected("certificates in PEM form").found("none");
            return Err(Error::Input(fault.help(format!("name another file, or unset {name} to use the system's"))));
        }
        return Ok(found);
    }
    let system = rustls_native_certs::load_native_certs();
    system.errors.iter().for_each(|error| tracing::debug!(%error, "certificates of the system"));
    let mut roots: Vec<_> = system.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    if roots.is_empty() {
        roots.extend(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| Certificate::from_der(der).to_owned()));
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        Ok(_) | Err(_) => None,
    });
    items.collect()
}
