//! One call of attention, cut into tiles.

use super::kernel::{ROWS, Running};
use super::kind::GROUP;
use super::shape::{Attend, CHUNK, Window};
use super::store::KvStore;
use smallvec::SmallVec;
use std::ops::Range;

/// A run of consecutive tokens of one sequence, whose keys and values are in the store already.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// Keys and values of the sequence.
    pub store: &'a KvStore,
    /// Position of the first query.
    pub position: usize,
    /// Number of queries.
    pub tokens: usize,
}

/// Query rows (query × head of a group) of a tile, where one query has no more.
const TILE_ROWS: usize = 8 * ROWS;

/// One call, cut into tiles.
pub(super) struct Work<'a> {
    pub(super) attend: &'a Attend<'a>,
    pub(super) q: &'a [f32],
    pub(super) tokens: usize,
    /// Groups of query heads.
    pub(super) panels: usize,
    /// Query heads that look at the same head of the store, or some of them where all do.
    pub(super) group: usize,
    pub(super) key_dim: usize,
    pub(super) value_dim: usize,
    /// Channels of a key, and of a value, that the stores turn together.
    pub(super) turned: (usize, usize),
    pub(super) tiles: SmallVec<[Tile<'a>; 4]>,
}

impl<'a> Work<'a> {
    pub(super) fn new(attend: &'a Attend<'a>, q: &'a [f32], lanes: &[Lane<'a>], threads: usize) -> Option<Work<'a>> {
        let first = lanes.first()?.store;
        let turned = first.turned();
        let (kv_heads, key_dim, value_dim) = (first.kv_heads(), first.key_dim(), first.value_dim());
        assert!(attend.heads > 0 && attend.heads.is_multiple_of(kv_heads), "{} heads over {kv_heads}", attend.heads);
        assert!(attend.window.reach() != Some(0), "a window of nothing");
        assert!(attend.sinks.is_none_or(|s| s.len() == attend.heads), "a sink for each of {} heads", attend.heads);
        let group = if first.is_shared() { panel(attend.heads, lanes, threads) } else { attend.heads / kv_heads };
        let per = (TILE_ROWS / group).max(1);
        let (mut tiles, mut tokens) = (SmallVec::new(), 0);
        for &Lane { store, position, tokens: n } in lanes {
            assert!(store.shape() == (kv_heads, key_dim, value_dim), "stores of different shapes");
            assert!(store.types() == first.types(), "stores of different types");
            assert!(position + n <= store.capacity(), "positions {position} to {} of {}", position + n, store.capacity());
            let seen = attend.window.first(position);
            assert!(n == 0 || store.oldest() <= seen, "positions from {seen} on, held from {} on", store.oldest());
            for t in (0..n).step_by(per) {
                tiles.push(Tile::new(store, attend.window, position + t, tokens + t, per.min(n - t)));
            }
            tokens += n;
        }
        assert!(q.len() == tokens * attend.heads * key_dim, "{tokens} queries, {} values", q.len());
        Some(Work { attend, q, tokens, panels: attend.heads / group, group, key_dim, value_dim, turned, tiles })
    }

    /// `value_dim` up to a whole number of vectors and of groups of codes.
    pub(super) fn stride(&self) -> usize {
        self.value_dim.next_multiple_of(GROUP)
    }

    /// Query rows of the largest tile.
    pub(super) fn most_rows(&self) -> usize {
        self.tiles.iter().map(|tile| tile.tokens).max().unwrap_or(0) * self.group
    }

    /// Numbers of the parts of all tiles, each of `chunks`.
    pub(super) fn parts_len(&self, chunks: usize) -> usize {
        self.tiles.len() * self.panels * chunks * self.most_rows() * self.part_len()
    }

    /// The sink of a query head.
    pub(super) fn sink(&self, head: usize) -> Option<f32> {
        self.attend.sinks.map(|sinks| sinks[head])
    }

    /// Numbers of a [`Part`].
    pub(super) fn part_len(&self) -> usize {
        Part::HEAD + self.stride()
    }
}

/// Heads of a tile where all look at the same keys: few where threads would go without, else enough for the kernel to be at its
/// best. Each tile widens its keys for itself.
fn panel(heads: usize, lanes: &[Lane<'_>], threads: usize) -> usize {
    let tokens: usize = lanes.iter().map(|lane| lane.tokens).sum();
    let shares = |n: usize| heads / n * tokens >= threads;
    [48, 32, 16, 8].into_iter().filter(|n| heads.is_multiple_of(*n)).find(|n| *n == 8 || shares(*n)).unwrap_or(heads)
}

/// Some queries of a sequence.
pub(super) struct Tile<'a> {
    pub(super) store: &'a KvStore,
    window: Window,
    /// Position of the first query.
    pub(super) position: usize,
    /// Row of the first query among the call's.
    pub(super) row: usize,
    /// Number of queries.
    pub(super) tokens: usize,
}

impl<'a> Tile<'a> {
    pub(super) fn new(store: &'a KvStore, window: Window, position: usize, row: usize, tokens: usize) -> Tile<'a> {
        Tile { store, window, position, row, tokens }
    }

    /// The positions that query `t` sees.
    pub(super) fn seen(&self, t: usize) -> Range<usize> {
        let end = self.position + t + 1;
        self.window.first(end - 1)..end
    }

    /// The chunks that some query sees.
    pub(super) fn chunks(&self) -> Range<usize> {
        self.seen(0).start / CHUNK..(self.position + self.tokens).div_ceil(CHUNK)
    }
}

/// The state of a row after a chunk, as it is handed from thread to thread: m, padding, the 16 l, o.
pub(super) struct Part<'a> {
    pub(super) running: Running,
    pub(super) o: &'a [f32],
}

impl Part<'_> {
    /// Numbers before o.
    pub(super) const HEAD: usize = 32;

    pub(super) fn write(running: &Running, o: &[f32], to: &mut [f32]) {
        to[0] = running.m;
        to[16..32].copy_from_slice(&running.l);
        to[Part::HEAD..].copy_from_slice(o);
    }

    pub(super) fn read(from: &[f32]) -> Part<'_> {
        let mut running = Running { m: from[0], ..Running::START };
        running.l.copy_from_slice(&from[16..32]);
        Part { running, o: &from[Part::HEAD..] }
    }
}
