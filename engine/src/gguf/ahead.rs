//! A model's file read ahead of its use, piece by piece in its order, by a thread of its own.
//!
//! Pages that nobody has touched would come when a product first wants them, in requests too small for a fast disk, and with
//! nothing computed meanwhile. A file that is in memory already costs this 10 ms a gigabyte, so nobody asks whether it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Bytes, Gguf};

/// Bytes asked of the system at once: long enough for a disk, short enough to tell of progress, and to stop.
const PIECE: usize = 8 << 20;

/// How much of a model's file has been read: [`Model::read_ahead`](crate::Model::read_ahead).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// Bytes read.
    pub read: u64,
    /// Bytes that will be.
    pub whole: u64,
}

impl ReadAhead {
    /// Whether all is read.
    pub fn is_done(&self) -> bool {
        self.read >= self.whole
    }
}

/// The thread that reads; it ends after its piece when this is dropped.
pub(crate) struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    read: AtomicU64,
    whole: u64,
    stop: AtomicBool,
}

impl Reader {
    /// Begins to read all of a model's files.
    pub(crate) fn start(gguf: &Gguf) -> Reader {
        Reader::start_with(gguf.parts().to_vec(), |piece| piece.fetch())
    }

    fn start_with(parts: Vec<Bytes>, mut fetch: impl FnMut(&Bytes) + Send + 'static) -> Reader {
        let whole = parts.iter().map(|part| part.len() as u64).sum();
        let shared = Arc::new(Shared { read: AtomicU64::new(0), whole, stop: AtomicBool::new(false) });
        let work = {
            let shared = Arc::clone(&shared);
            move || {
                let pieces = |part: &Bytes| {
                    let part = part.clone();
                    (0..part.len()).step_by(PIECE).map(move |start| part.slice(start..part.len().min(start + PIECE)))
                };
                for piece in parts.iter().flat_map(pieces) {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    fetch(&piece);
                    shared.read.fetch_add(piece.len() as u64, Ordering::Relaxed);
                }
            }
        };
        if std::thread::Builder::new().name("hob-read-ahead".into()).spawn(work).is_err() {
            // Then pages come as they are wanted, and nobody waits for this.
            shared.read.store(whole, Ordering::Relaxed);
        }
        Reader { shared }
    }

    pub(crate) fn progress(&self) -> ReadAhead {
        ReadAhead { read: self.shared.read.load(Ordering::Relaxed), whole: self.shared.whole }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Two parts of 20 and 9 MiB: pieces of 8, 8, 4, 8 and 1.
    fn parts() -> Vec<Bytes> {
        vec![Bytes::blank(20 << 20).unwrap(), Bytes::blank(9 << 20).unwrap()]
    }

    #[test]
    fn progress_ascends_piece_by_piece_to_the_whole() {
        // The thread goes on with a piece when it is told to.
        let ((next, wanted), (reached, pieces)) = (mpsc::channel::<()>(), mpsc::channel());
        let reader = Reader::start_with(parts(), move |piece| {
            reached.send(piece.len() >> 20).unwrap();
            wanted.recv().unwrap();
        });
        let mut read = 0;
        for expected in [8, 8, 4, 8, 1] {
            assert_eq!(pieces.recv().unwrap(), expected);
            assert_eq!(reader.progress(), ReadAhead { read, whole: 29 << 20 });
            assert!(!reader.progress().is_done());
            read += (expected as u64) << 20;
            next.send(()).unwrap();
        }
        // The thread has ended, and let go of its end of the channel.
        assert!(pieces.recv().is_err());
        assert_eq!(reader.progress(), ReadAhead { read: 29 << 20, whole: 29 << 20 });
        assert!(reader.progress().is_done());
    }

    #[test]
    fn dropping_it_stops_it_after_its_piece() {
        let ((next, wanted), (reached, pieces)) = (mpsc::channel::<()>(), mpsc::channel());
        let reader = Reader::start_with(parts(), move |piece| {
            reached.send(piece.len()).unwrap();
            wanted.recv().unwrap();
        });
        pieces.recv().unwrap();
        drop(reader);
        next.send(()).unwrap();
        assert_eq!(pieces.recv_timeout(Duration::from_secs(60)), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
