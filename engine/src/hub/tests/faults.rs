//! 200 random sequences of faults. Whatever happens, and in whatever order: the file is right, or it is not there; and once the faults
//! end, it comes.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::server::{COMMIT, Fault, Server, sha256};
use super::{Event, Scratch, hub, noise, options};
use crate::error::{Error, Trouble};

const SEQUENCES: u64 = 200;

/// A random number below `most`, from the bytes of [`noise`].
struct Dice(Vec<u8>, usize);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.1 += 4;
        let bytes = self.0[self.1 - 4..self.1].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize % most.max(1)
    }

    fn fault(&mut self, length: usize) -> Fault {
        match self.below(24) {
            0..=7 => Fault::Cut(self.below(length)),
            8 => Fault::Close,
            9 => Fault::Garbage,
            10 => Fault::Status(500, ""),
            11 => Fault::Status(503, "Retry-After: 0\r\n"),
            12 => Fault::Status(429, "Retry-After: 0\r\n"),
            13 => Fault::Status(416, ""),
            14 => Fault::Status(403, ""),
            15 => Fault::NoRanges,
            16 => Fault::WrongRange,
            17..=19 => Fault::Flipped(self.below(length)),
            20 => Fault::TooMuch,
            21 => Fault::Status(404, "X-Error-Code: EntryNotFound\r\n"),
            _ => Fault::Replaced,
        }
    }
}

#[test]
fn after_any_faults_the_file_is_right_or_absent() {
    // Many at a time: most of it is waiting for sockets, and for the disk to say that it has what was written.
    std::thread::scope(|scope| {
        for first in 0..20 {
            scope.spawn(move || (first..SEQUENCES).step_by(20).for_each(sequence));
        }
    });
}

fn sequence(seed: u64) {
    let mut dice = Dice(noise(seed + 1, 4000), 0);
    let length = [1, 1000, 300_000, 700_000][dice.below(4)] + dice.below(5000);
    let file = noise(seed ^ 0xabcd, length);
    let server = Server::start(&[("loom-Q4_K_M.gguf", file.clone())]);
    let scratch = Scratch::new();
    let faults: Vec<Fault> = (0..dice.below(9)).map(|_| dice.fault(length)).collect();
    for fault in &faults {
        match fault {
            Fault::Replaced | Fault::Status(429 | 500, _) if dice.below(2) == 0 => server.fail_resolve([fault.clone()]),
            _ => server.fail_store([fault.clone()]),
        }
    }
    let mut story = vec![format!("{length} bytes, {faults:?}")];
    // Every round is another run of the program; some are killed, some find the disk full.
    for round in 0..20 {
        let calm = round > 0 && server.is_quiet();
        let hub = hub(&server, &scratch.0);
        let kill = if !calm && dice.below(4) == 0 { dice.below(length) as u64 } else { u64::MAX };
        if !calm && dice.below(6) == 0 {
            hub.room.store(dice.below(length) as u64, Ordering::Relaxed);
        }
        let pulled = super::find(&hub, "ada/Loom-GGUF").and_then(|remote| {
            hub.pull(&remote, &mut |event| match event {
                Event::Bytes { done, .. } | Event::Checking { done, .. } if done > kill => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        });
        let pointer = scratch.0.join(format!("models--ada--Loom-GGUF/snapshots/{COMMIT}/loom-Q4_K_M.gguf"));
        let blob = scratch.0.join("models--ada--Loom-GGUF/blobs").join(sha256(&file));
        story.push(format!("{:?}", pulled.as_ref().map_err(ToString::to_string)));
        for path in [&pointer, &blob] {
            right_or_absent(path, &file, &story);
        }
        match pulled {
            Ok(path) => {
                assert_eq!(std::fs::read(path).ok().as_deref(), Some(&file[..]), "{story:#?}");
                return;
            }
            Err(Error::Cancelled) => assert!(kill < u64::MAX, "{story:#?}"),
            Err(Error::Network(Trouble::DiskFull, _)) => assert!(!calm, "{story:#?}"),
            Err(Error::Network(..)) => assert!(!calm, "nothing was wrong any more: {story:#?}"),
            Err(_) => panic!("{story:#?}"),
        }
    }
    panic!("it never came: {story:#?}");
}

fn right_or_absent(path: &Path, file: &[u8], story: &[String]) {
    match std::fs::read(path) {
        Ok(bytes) => assert!(bytes == file, "{} is wrong: {story:#?}", path.display()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{story:#?}"),
    }
}

#[test]
fn a_connection_that_falls_silent_is_given_up_and_taken_up_again() {
    let file = noise(7, 200_000);
    let server = Server::start(&[("loom.gguf", file.clone())]);
    let scratch = Scratch::new();
    server.fail_store([Fault::Stall(50_000)]);
    let path = super::pull(&options(&server, &scratch.0).build().expect("a hub"), "ada/Loom-GGUF").expect("it comes");
    assert_eq!(std::fs::read(path).expect("a file"), file);
    let ranges: Vec<_> = server.asked().into_iter().filter(|asked| !asked.hub).map(|asked| asked.range).collect();
    assert_eq!(ranges.len(), 2);
    assert!(ranges[1].as_ref().is_some_and(|range| range.starts_with("bytes=") && *range != "bytes=0-"), "{ranges:?}");
}
