//! Against a hub on this machine: what it should give, and everything that may go wrong on the way.

mod faults;
mod protocol;
mod server;
mod tls;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use server::Server;

use super::client::Patience;
use super::layout::Links;
use super::{Event, Hub, HubOptions, Remote};
use crate::error::{Error, Result, Trouble};

/// An empty folder of this test run, which goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("hob-hub-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings that know nothing of the environment, and do not wait.
fn options(server: &Server, cache: &Path) -> HubOptions {
    HubOptions {
        endpoint: server.endpoint.clone(),
        token: Some("hf_secret".into()),
        offline: None,
        cache: Some(cache.to_owned()),
        folder: None,
        links: Links::Symbolic,
        proxy: false,
        trusted: Some(Vec::new()),
        patience: Patience { tries: 3, first: Duration::from_millis(1), most: Duration::from_secs(5), silence: Duration::from_millis(300) },
    }
}

fn hub(server: &Server, cache: &Path) -> Hub {
    options(server, cache).build().expect("a hub")
}

fn find(hub: &Hub, name: &str) -> Result<Remote> {
    hub.find(&name.parse()?)
}

fn pull(hub: &Hub, name: &str) -> Result<PathBuf> {
    hub.pull(&find(hub, name)?, &mut |_| ControlFlow::Continue(()))
}

#[track_caller]
fn trouble<T>(result: Result<T>) -> (Trouble, String) {
    match result {
        Err(Error::Network(trouble, fault)) => (trouble, fault.to_string()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it went well"),
    }
}

/// Bytes that look like nothing, the same for the same seed (xorshift, Marsaglia).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}
