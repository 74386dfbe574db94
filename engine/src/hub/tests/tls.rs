//! An encrypted connection, to a server whose certificate an authority of these tests signed (`tests/data/tls`, good until 2120; its key
//! is gone).

use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::server::{Server, request};
use super::{Scratch, find, options, trouble};
use crate::error::Trouble;
use crate::hub::tls;

const AUTHORITY: &[u8] = include_bytes!("../../../tests/data/tls/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("../../../tests/data/tls/leaf.pem");
const KEY: &[u8] = include_bytes!("../../../tests/data/tls/leaf.key");

/// A hub behind TLS that has one empty repository; its address.
fn encrypted() -> String {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let Ok(tls) = rustls::ServerConnection::new(Arc::clone(&config)) else { continue };
            let mut stream = rustls::StreamOwned::new(tls, connection);
            let asked = request(&mut BufReader::new(&mut stream)).ok().flatten();
            let body = format!("{{\"sha\":\"c0ffee\",\"siblings\":[],\"token\":{}}}", asked.is_some());
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    format!("https://localhost:{port}")
}

#[test]
fn a_server_is_believed_by_its_authority_alone() {
    if tls::available("").is_err() {
        return; // which is what it is for
    }
    let (server, scratch) = (Server::start(&[]), Scratch::new());
    let at = encrypted();
    let hub = options(&server, &scratch.0).endpoint(at.as_str()).trusted(AUTHORITY.to_vec()).build().expect("a hub");
    // The connection holds; what fails is what comes over it.
    let error = find(&hub, "ada/Loom-GGUF").expect_err("the repository is empty").to_string();
    assert!(error.contains("expected GGUF files"), "{error}");

    let hub = options(&server, &scratch.0).endpoint(at.as_str()).build().expect("a hub");
    let (why, text) = trouble(find(&hub, "ada/Loom-GGUF"));
    assert_eq!(why, Trouble::Unreachable);
    assert!(text.contains("no encrypted connection") && text.contains("SSL_CERT_FILE"), "{text}");

    // Nor is a server believed that is somebody else.
    let other = at.replace("localhost", "localhost.localdomain");
    let hub = options(&server, &scratch.0).endpoint(other).trusted(AUTHORITY.to_vec()).build().expect("a hub");
    assert_eq!(trouble(find(&hub, "ada/Loom-GGUF")).0, Trouble::Unreachable);
}

#[test]
fn the_systems_certificates_or_mozillas_are_there() {
    // Whatever this machine has, there is somebody to trust.
    tls::config(None).map(drop).expect("certificates");
}
