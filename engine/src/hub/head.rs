//! The header of a model that is not here: its first megabytes, read by ranges until it is whole.

use std::io::Read;
use std::ops::ControlFlow;

use super::client::{Ask, Client, Stumble, Tries, host_and_file};
use super::{Hub, Remote, RemoteFile, Tell};
use crate::error::{Error, Fault, Result, Trouble};
use crate::gguf::{Gguf, Head};

/// What is asked for first. A header of 150 000 tokens has five to ten megabytes, one of 32 000 less than one.
const FIRST: u64 = 2 << 20;

/// What no header has.
const MOST: u64 = 512 << 20;

impl Hub {
    /// Reads the header of a model, of all its parts: what [`crate::gguf::Gguf::has_weights`] tells from an open one.
    ///
    /// # Errors
    /// [`Error::Network`], or [`Error::Gguf`] where it is not sound.
    pub fn head(&self, remote: &Remote) -> Result<Gguf> {
        self.head_telling(remote, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Hub::head`], with somebody who is told of waits, and may end them.
    ///
    /// # Errors
    /// As [`Hub::head`]; [`Error::Cancelled`].
    pub fn head_telling(&self, remote: &Remote, tell: Tell<'_>) -> Result<Gguf> {
        let mut parts = Vec::with_capacity(remote.files.len());
        for file in &remote.files {
            parts.push(one(&self.client, file, tell)?);
        }
        match <[Gguf; 1]>::try_from(parts) {
            Ok([model]) => Ok(model),
            Err(parts) => Gguf::join(parts),
        }
    }
}

fn one(client: &Client, file: &RemoteFile, tell: Tell<'_>) -> Result<Gguf> {
    let place = host_and_file(&file.address);
    let (mut bytes, mut wanted) = (Vec::new(), FIRST.min(file.bytes));
    loop {
        more(client, file, &mut bytes, wanted, tell)?;
        match Gguf::from_head(&place, bytes.clone(), file.bytes)? {
            Head::Whole(model) => return Ok(model),
            Head::Short { needed } if needed <= MOST && wanted < file.bytes => {
                wanted = needed.max(2 * wanted).min(MOST).min(file.bytes);
            }
            Head::Short { needed } => {
                let fault = Fault::at(place).expected(format!("a header of at most {MOST} bytes")).found(needed);
                return Err(Error::Gguf(fault));
            }
        }
    }
}

/// Reads on to the `wanted`th byte.
fn more(client: &Client, file: &RemoteFile, bytes: &mut Vec<u8>, wanted: u64, tell: Tell<'_>) -> Result<()> {
    let mut tries = Tries::new(client.patience);
    while (bytes.len() as u64) < wanted {
        let from = bytes.len() as u64;
        let ask = Ask { address: &file.address, range: Some((from, Some(wanted))), same: None };
        let read = client.once(ask).and_then(|answer| {
            // A server that does not do ranges sends it all: what was read before is read again.
            let skip = match answer.status {
                206 => 0,
                200 => from,
                _ => {
                    let fault = Fault::at(host_and_file(&file.address)).expected(format!("{} bytes", file.bytes)).found("fewer (416)");
                    return Err(Error::Network(Trouble::Changed, fault.help("the file was replaced: run the same again")).into());
                }
            };
            let mut body = answer.body.take(skip + wanted - from);
            let broken = |error| Stumble::again(Trouble::Unreachable, &file.address, format!("the connection broke off ({error})"));
            std::io::copy(&mut body.by_ref().take(skip), &mut std::io::sink()).map_err(broken)?;
            body.read_to_end(bytes).map(drop).map_err(broken)
        });
        if bytes.len() as u64 > from {
            tries.progress();
        }
        match read {
            Ok(()) if bytes.len() as u64 == from => {
                tries.after(Stumble::again(Trouble::Unreachable, &file.address, "the connection broke off"), tell)?;
            }
            Ok(()) => {}
            Err(stumble) => tries.after(stumble, tell)?,
        }
    }
    Ok(())
}
