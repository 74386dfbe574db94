//! Attention equals its definition bit for bit: every level, number of threads, shape, and way to feed the context.

mod oracle;

use half::f16;
use hob_kernels::attention::{Attend, Index, KvStore, KvType, Lane, Window, attend, attend_joined, choose};
use hob_kernels::naive::attention::Context;
use hob_kernels::naive::cache::keep;
use hob_kernels::{Cpu, Level, Pool, naive};
use oracle::{equal, numbers};

/// Where values are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    Apart,
    InKeys,
}

struct Case {
    heads: usize,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    types: (KvType, KvType),
    softcap: Option<f32>,
    window: Window,
    sinks: Option<&'static [f32]>,
    values: Values,
    positions: usize,
    /// Queries before this position are left out.
    from: usize,
}

const PLAIN: Case = Case {
    heads: 2,
    kv_heads: 1,
    key_dim: 16,
    value_dim: 16,
    types: (KvType::F16, KvType::F16),
    softcap: None,
    window: Window::None,
    sinks: None,
    values: Values::Apart,
    positions: 150,
    from: 0,
};

fn cases() -> Vec<Case> {
    use KvType::{Bf16, F16, F32, Q4_0, Q8_0};
    let mut cases = Vec::new();
    for (heads, kv_heads, key_dim, value_dim) in [
        (1, 1, 8, 8),
        (3, 1, 20, 20),
        (4, 2, 40, 40),
        (5, 1, 64, 64),
        (8, 2, 80, 80),
        (6, 1, 96, 96),
        (7, 1, 128, 128),
        (2, 2, 24, 16),
        (9, 1, 36, 64),
        (9, 1, 256, 256),
    ] {
        cases.push(Case { heads, kv_heads, key_dim, value_dim, positions: if key_dim < 200 { 130 } else { 70 }, ..PLAIN });
    }
    for types in [(F16, F32), (F32, F16), (F32, F32), (Bf16, Bf16), (Bf16, Q8_0), (Q4_0, F16), (Q8_0, Q4_0), (F32, Q4_0)] {
        cases.push(Case { types, heads: 4, kv_heads: 2, ..PLAIN });
    }
    // Codes: groups and turns that are whole and ragged, one row and many.
    for types in [(Q8_0, Q8_0), (Q4_0, Q4_0)] {
        for (heads, kv_heads, key_dim, value_dim) in [
            (1, 1, 8, 8),
            (2, 1, 20, 20),
            (3, 1, 64, 64),
            (4, 2, 80, 80),
            (5, 1, 96, 96),
            (6, 1, 128, 128),
            (7, 1, 24, 40),
            (8, 1, 128, 64),
            (3, 1, 256, 256),
            (2, 2, 112, 7),
        ] {
            cases.push(Case { types, heads, kv_heads, key_dim, value_dim, positions: 70, ..PLAIN });
        }
        for window in [Window::Sliding(1), Window::Sliding(20), Window::Sliding(70), Window::Chunked(50)] {
            cases.push(Case { types, heads: 3, key_dim: 64, value_dim: 64, window, softcap: Some(3.0), sinks: Some(&[0.5; 3]), ..PLAIN });
        }
        cases.push(Case { types, key_dim: 64, value_dim: 32, positions: 2100, from: 2050, ..PLAIN });
    }
    for window in [1, 7, 64, 100] {
        cases.push(Case { window: Window::Sliding(window), softcap: Some(3.0), ..PLAIN });
        cases.push(Case { window: Window::Chunked(window), ..PLAIN });
    }
    // Sinks less than any score, among them, and beyond them.
    for (window, sinks) in [(Window::None, &[-90.0, 0.5]), (Window::Sliding(20), &[2.0, 200.0])] {
        cases.push(Case { window, sinks: Some(sinks), ..PLAIN });
    }
    // Values in the keys: few heads and many, whole groups and ragged ones.
    for (heads, key_dim, value_dim) in [(1, 24, 16), (4, 96, 64), (8, 40, 40), (16, 80, 72), (20, 24, 20), (48, 20, 18)] {
        for types in [F16, F32, Q8_0, Q4_0].map(|kind| (kind, kind)) {
            cases.push(Case { heads, key_dim, value_dim, types, values: Values::InKeys, positions: 80, ..PLAIN });
        }
    }
    for types in [F16, Q8_0, Q4_0].map(|kind| (kind, kind)) {
        let latent = Case { heads: 16, key_dim: 576, value_dim: 512, values: Values::InKeys, ..PLAIN };
        cases.push(Case { types, positions: 70, from: 60, ..latent });
        cases.push(Case { types, heads: 8, window: Window::Sliding(20), values: Values::InKeys, ..PLAIN });
    }
    cases.push(Case { heads: 8, window: Window::Sliding(20), softcap: Some(3.0), values: Values::InKeys, ..PLAIN });
    cases.push(Case { heads: 8, sinks: Some(&[0.5; 8]), values: Values::InKeys, positions: 2100, from: 2080, ..PLAIN });
    // Several chunks, whole and windowed.
    cases.push(Case { positions: 2100, from: 2040, ..PLAIN });
    cases.push(Case { positions: 2100, from: 1990, window: Window::Sliding(1030), softcap: Some(20.0), ..PLAIN });
    cases.push(Case { positions: 2100, from: 1990, window: Window::Chunked(2050), sinks: Some(&[1.0, 2.0]), ..PLAIN });
    cases
}

impl Case {
    fn attend(&self) -> Attend<'_> {
        let Case { heads, softcap, window, sinks, .. } = *self;
        Attend { heads, scale: 1.0 / (self.key_dim as f32).sqrt() * 3.0, softcap, window, sinks }
    }

    fn name(&self) -> String {
        let Case { heads, kv_heads, key_dim, value_dim, types, softcap, window, sinks, values, positions, from } = self;
        let shape = format!("{heads}/{kv_heads} heads of {key_dim}, {value_dim} {values:?}");
        format!("{shape}; {types:?} {softcap:?} {window:?} {sinks:?}; {from}..{positions}")
    }

    /// Queries of every position, keys, values.
    fn data(&self) -> [Vec<f32>; 3] {
        let n = self.positions;
        let k = numbers(n * self.kv_heads * self.key_dim, 2);
        let v = match self.values {
            Values::Apart => numbers(n * self.kv_heads * self.value_dim, 3),
            Values::InKeys => k.chunks(self.key_dim).flat_map(|k| &k[..self.value_dim]).copied().collect(),
        };
        [numbers(n * self.heads * self.key_dim, 1), k, v]
    }

    /// Channels of a key and a value that are turned together.
    fn turned(&self) -> (usize, usize) {
        let ((k, v), (key_dim, value_dim)) = (self.types, (self.key_dim, self.value_dim));
        match self.values {
            Values::Apart => (k.turned(key_dim), v.turned(value_dim)),
            Values::InKeys => (k.turned(key_dim | value_dim), k.turned(key_dim | value_dim)),
        }
    }

    fn expected(&self) -> Vec<f32> {
        let [q, mut k, mut v] = self.data();
        let turned = self.turned();
        k.chunks_mut(self.key_dim).for_each(|k| keep(self.types.0, turned.0, k));
        match self.values {
            Values::Apart => v.chunks_mut(self.value_dim).for_each(|v| keep(self.types.1, turned.1, v)),
            Values::InKeys => v = k.chunks(self.key_dim).flat_map(|k| &k[..self.value_dim]).copied().collect(),
        }
        let context = Context { k: &k, v: &v, kv_heads: self.kv_heads, key_dim: self.key_dim, value_dim: self.value_dim, turned };
        let mut out = vec![0.0; (self.positions - self.from) * self.heads * self.value_dim];
        naive::attention::attend(&self.attend(), context, &q[self.from * self.heads * self.key_dim..], self.from, &mut out);
        out
    }

    /// The context fed in runs of `run` positions, into a ring where there is a window.
    fn found(&self, cpu: Cpu<'_>, run: usize) -> Vec<f32> {
        let [q, k, v] = self.data();
        let keep = self.window.reach().map_or(self.positions, |reach| reach + run);
        let (k_type, v_type) = self.types;
        let mut store = match self.values {
            Values::Apart => KvStore::ring(k_type, v_type, self.kv_heads, self.key_dim, self.value_dim, self.positions, keep).unwrap(),
            Values::InKeys => KvStore::shared(k_type, self.key_dim, self.value_dim, self.positions, keep).unwrap(),
        };
        let mut out = vec![0.0; (self.positions - self.from) * self.heads * self.value_dim];
        let (qw, kw, vw) = (self.heads * self.key_dim, self.kv_heads * self.key_dim, self.kv_heads * self.value_dim);
        let mut at = 0;
        while at < self.positions {
            let n = run.min(if at < self.from { self.from } else { self.positions } - at);
            let values = if store.is_shared() { &[] } else { &v[at * vw..(at + n) * vw] };
            store.write(cpu, at, &k[at * kw..(at + n) * kw], values);
            if at >= self.from {
                let rows = (at - self.from) * self.heads * self.value_dim..(at + n - self.from) * self.heads * self.value_dim;
                let lanes = [Lane { store: &store, position: at, tokens: n }];
                attend(cpu, &self.attend(), &q[at * qw..(at + n) * qw], &lanes, &mut out[rows]);
            }
            at += n;
        }
        out
    }
}

#[test]
fn every_shape_level_and_number_of_threads() {
    for case in cases() {
        let expected = case.expected();
        for (threads, runs) in [(1, [case.positions, 7, 64]), (3, [case.positions, 1, 100])] {
            let pool = Pool::new(threads);
            for level in Level::available() {
                for run in runs {
                    // The plain code, which nobody waits for but tests, is slow: two ways of feeding it do.
                    if level.to_string() == "scalar" && threads > 1 && run != 1 {
                        continue;
                    }
                    let what = format!("{} fed by {run}, {level}, {threads} threads", case.name());
                    equal(&case.found(Cpu::new(level, &pool), run), &expected, &what);
                }
            }
        }
    }
}

#[test]
fn lanes_of_a_batch_do_not_see_each_other() {
    let case = Case { heads: 4, kv_heads: 2, ..PLAIN };
    let expected = case.expected();
    let [q, k, v] = case.data();
    let (qw, ow) = (case.heads * case.key_dim, case.heads * case.value_dim);
    let pool = Pool::new(2);
    for level in Level::available() {
        let cpu = Cpu::new(level, &pool);
        let mut store = KvStore::new(KvType::F16, KvType::F16, 2, 16, 16, case.positions).unwrap();
        store.write(cpu, 0, &k, &v);
        // (position, tokens) of each lane, all of one store, which is read only
        let runs = [(149, 1), (0, 1), (70, 30), (64, 0), (10, 140), (3, 2)];
        let lanes: Vec<_> = runs.iter().map(|(position, tokens)| Lane { store: &store, position: *position, tokens: *tokens }).collect();
        let (mut queries, mut rows) = (Vec::new(), Vec::new());
        for (position, tokens) in runs {
            queries.extend_from_slice(&q[position * qw..(position + tokens) * qw]);
            rows.extend_from_slice(&expected[position * ow..(position + tokens) * ow]);
        }
        let mut out = vec![0.0; rows.len()];
        attend(cpu, &case.attend(), &queries, &lanes, &mut out);
        equal(&out, &rows, &format!("a batch, {level}"));
    }
}

#[test]
fn what_is_masked_is_not_multiplied() {
    let pool = Pool::new(1);
    for level in Level::available() {
        let cpu = Cpu::new(level, &pool);
        let case = Case { window: Window::Sliding(20), ..PLAIN };
        let [q, mut k, mut v] = case.data();
        let mut store = KvStore::new(KvType::F32, KvType::F32, 1, 16, 16, case.positions).unwrap();
        let (mut clean, mut dirty) = (vec![0.0; 32], vec![0.0; 32]);
        let (at, qw) = (90, 32);
        store.write(cpu, 0, &k, &v);
        let query = &q[at * qw..(at + 1) * qw];
        attend(cpu, &case.attend(), query, &[Lane { store: &store, position: at, tokens: 1 }], &mut clean);
        for p in (0..case.positions).filter(|p| *p > at || *p + 20 <= at) {
            k[p * 16..(p + 1) * 16].fill([f32::NAN, f32::INFINITY][p % 2]);
            v[p * 16..(p + 1) * 16].fill([f32::INFINITY, f32::NAN][p % 2]);
        }
        store.write(cpu, 0, &k, &v);
        attend(cpu, &case.attend(), query, &[Lane { store: &store, position: at, tokens: 1 }], &mut dirty);
        equal(&dirty, &clean, &format!("garbage outside the window, {level}"));
    }
}

#[test]
fn attention_is_near_the_truth() {
    let case = Case { positions: 1500, from: 1490, ..PLAIN };
    let [q, k, v] = case.data();
    let found = case.expected();
    let attend = case.attend();
    for (row, out) in found.chunks(16).enumerate() {
        let (at, head) = (case.from + row / 2, row % 2);
        let q = &q[(at * 2 + head) * 16..][..16];
        let half = |x: f32| f64::from(f16::from_f32(x).to_f32());
        let score = |p: usize| (0..16).map(|d| f64::from(q[d]) * half(k[p * 16 + d])).sum::<f64>() * f64::from(attend.scale);
        let e: Vec<f64> = (0..=at).map(|p| score(p).exp()).collect();
        let sum: f64 = e.iter().sum();
        for (d, out) in out.iter().enumerate() {
            let truth = e.iter().enumerate().map(|(p, e)| e * half(v[p * 16 + d])).sum::<f64>() / sum;
            assert!((f64::from(*out) - truth).abs() < 1e-6, "row {row}, channel {d}: {out}, truly {truth}");
        }
    }
}

#[test]
fn a_copy_is_a_store_of_its_own() {
    let case = Case { heads: 4, kv_heads: 2, ..PLAIN };
    let [_, k, v] = case.data();
    let pool = Pool::new(1);
    let cpu = Cpu::new(Level::best(), &pool);
    let mut store = KvStore::new(KvType::F16, KvType::F32, 2, 16, 16, case.positions).unwrap();
    store.write(cpu, 0, &k, &v);
    let before = store.read(100);
    let copy = store.copy(100).unwrap();
    store.write(cpu, 0, &v, &k);
    assert!(copy.read(100) == before && store.read(100) != before);
    assert!(copy.read(101).1[100 * 32..].iter().all(|x| *x == 0.0));
}

/// On paper: room for 10 + 6 positions is one block and a part of another, so two; position 130 takes the place of 2.
#[test]
fn a_ring_holds_what_is_looked_at_and_knows_how_far_it_goes_back() {
    let pool = Pool::new(1);
    let cpu = Cpu::new(Level::best(), &pool);
    let mut store = KvStore::ring(KvType::F32, KvType::F32, 1, 2, 2, 1000, 16).unwrap();
    assert_eq!((store.capacity(), store.bytes()), (1024, 128 * 2 * 2 * 4));
    let put = |store: &mut KvStore, positions: std::ops::Range<usize>| {
        positions.for_each(|p| store.write(cpu, p, &[p as f32; 2], &[p as f32; 2]));
    };
    put(&mut store, 0..128);
    assert_eq!((store.oldest(), store.shortest(Window::Sliding(10))), (0, 0));
    put(&mut store, 128..131);
    assert_eq!((store.oldest(), store.shortest(Window::Sliding(10)), store.shortest(Window::Chunked(48))), (64, 73, 96));
    let copy = store.copy(131).unwrap();
    let attend_at = |store: &KvStore, position| {
        let layer = Attend { heads: 1, scale: 0.0, softcap: None, window: Window::Sliding(2), sinks: None };
        let mut out = [0.0; 2];
        attend(cpu, &layer, &[0.0; 2], &[Lane { store, position, tokens: 1 }], &mut out);
        out
    };
    // Scores of nothing: the mean of two values.
    for store in [&store, &copy] {
        assert_eq!(attend_at(store, 130), [129.5; 2]);
        assert_eq!(attend_at(store, 72), [71.5; 2]);
    }
    // Cut back to 73 and gone on from there, what was let go of is still gone; from 0 on everything is new.
    put(&mut store, 73..75);
    assert_eq!(store.oldest(), 64);
    put(&mut store, 0..2);
    assert_eq!((store.oldest(), attend_at(&store, 1)), (0, [0.5; 2]));
}

#[test]
fn windows_begin_where_they_say() {
    let first = |window: Window| [0, 3, 4, 9].map(|p| window.first(p));
    assert_eq!(first(Window::None), [0; 4]);
    assert_eq!(first(Window::Sliding(4)), [0, 0, 1, 6]);
    assert_eq!(first(Window::Chunked(4)), [0, 0, 4, 8]);
}

/// On paper: scores of 0, values of 1 at two positions, a sink of ln 2: weights 1, 1 and 2 make 1/2.
#[test]
fn a_sink_takes_its_share_and_brings_nothing() {
    let pool = Pool::new(1);
    let cpu = Cpu::new(Level::best(), &pool);
    let mut store = KvStore::new(KvType::F32, KvType::F32, 1, 2, 2, 64).unwrap();
    store.write(cpu, 0, &[1.0; 4], &[1.0; 4]);
    let mut out = [0.0; 2];
    let layer = Attend { heads: 1, scale: 0.0, softcap: None, window: Window::None, sinks: Some(&[std::f32::consts::LN_2]) };
    attend(cpu, &layer, &[0.0; 2], &[Lane { store: &store, position: 1, tokens: 1 }], &mut out);
    assert!(out.iter().all(|x| (x - 0.5).abs() < 1e-6), "{out:?}");
}

#[test]
fn a_copy_of_keys_with_values_in_them() {
    let pool = Pool::new(1);
    let cpu = Cpu::new(Level::best(), &pool);
    let mut store = KvStore::shared(KvType::F32, 3, 2, 100, 100).unwrap();
    let keys = numbers(70 * 3, 5);
    store.write(cpu, 0, &keys, &[]);
    let copy = store.copy(70).unwrap();
    store.write(cpu, 0, &numbers(70 * 3, 6), &[]);
    let (k, v) = copy.read(70);
    assert_eq!(k, keys);
    assert_eq!(v, keys.chunks(3).flat_map(|k| [k[0], k[1]]).collect::<Vec<_>>());
    assert_eq!(store.bytes(), 128 * 3 * 4);
}

#[test]
fn positions_and_chosen_entries_join() {
    let (heads, dim, positions, from, count) = (10, 24, 150, 100, 1100);
    let sinks = numbers(heads, 9);
    let layer = Attend { heads, scale: 0.6, softcap: None, window: Window::Sliding(20), sinks: Some(&sinks) };
    let (q, k, e) = (numbers(positions * heads * dim, 1), numbers(positions * dim, 2), numbers(count * dim, 3));
    // None, one, every third, all.
    let chosen: Vec<Vec<u32>> = (from..positions)
        .map(|p| match p % 4 {
            0 => vec![],
            1 => vec![p as u32],
            2 => (0..count as u32).step_by(3).collect(),
            _ => (0..count as u32).collect(),
        })
        .collect();
    for (kind, threads) in [(KvType::F16, 1), (KvType::F16, 3), (KvType::Bf16, 1), (KvType::Q8_0, 3), (KvType::Q4_0, 1)] {
        let turned = (kind.turned(dim), kind.turned(dim));
        let [rk, re] = [&k, &e].map(|x| {
            let mut kept = x.clone();
            kept.chunks_mut(dim).for_each(|x| keep(kind, turned.0, x));
            kept
        });
        let context = |k| Context { k, v: k, kv_heads: 1, key_dim: dim, value_dim: dim, turned };
        let mut expected = vec![0.0; (positions - from) * heads * dim];
        naive::attention::attend_joined(&layer, context(&rk), context(&re), &chosen, &q[from * heads * dim..], from, &mut expected);
        let pool = Pool::new(threads);
        for level in Level::available() {
            let cpu = Cpu::new(level, &pool);
            let mut store = KvStore::shared(kind, dim, dim, positions, positions).unwrap();
            let mut entries = KvStore::shared(kind, dim, dim, count, count).unwrap();
            store.write(cpu, 0, &k, &[]);
            entries.write(cpu, 0, &e, &[]);
            for run in [1, 7, positions - from] {
                let mut out = vec![0.0; expected.len()];
                for at in (from..positions).step_by(run) {
                    let n = run.min(positions - at);
                    let (lane, rows) = (Lane { store: &store, position: at, tokens: n }, (at - from) * heads * dim);
                    let (q, chosen) = (&q[at * heads * dim..(at + n) * heads * dim], &chosen[at - from..at - from + n]);
                    attend_joined(cpu, &layer, q, lane, &entries, chosen, &mut out[rows..rows + n * heads * dim]);
                }
                equal(&out, &expected, &format!("{kind} joined by {run}, {level}, {threads} threads"));
            }
        }
    }
}

#[test]
fn an_index_chooses_the_best() {
    let (heads, dim, count, most) = (3, 20, 150, 7);
    let (q, weights, k) = (numbers(4 * heads * dim, 1), numbers(4 * heads, 2), numbers(count * dim, 3));
    let visible = [0, 5, 100, count];
    for kind in [KvType::F32, KvType::Q8_0, KvType::Q4_0] {
        let (mut tq, mut tk) = (q.clone(), k.clone());
        tk.chunks_mut(dim).for_each(|k| keep(kind, kind.turned(dim), k));
        naive::cache::turn(&mut tq, kind.turned(dim));
        let (q, k) = (&q, &k);
        let expected: Vec<Vec<u32>> = (0..4)
            .map(|t| {
                let dot = |h: usize, e: usize| {
                    let (q, k) = (&tq[(t * heads + h) * dim..][..dim], &tk[e * dim..][..dim]);
                    q.iter().zip(k).fold(0f32, |s, (q, k)| q.mul_add(*k, s))
                };
                let score = |e: usize| (0..heads).fold(0f32, |s, h| weights[t * heads + h].mul_add(dot(h, e).max(0.0), s));
                let mut order: Vec<usize> = (0..visible[t]).collect();
                order.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
                order.truncate(most);
                order.sort_unstable();
                order.into_iter().map(|e| e as u32).collect()
            })
            .collect();
        let pool = Pool::new(2);
        for level in Level::available() {
            let cpu = Cpu::new(level, &pool);
            let mut store = KvStore::shared(kind, dim, dim, count, count).unwrap();
            store.write(cpu, 0, k, &[]);
            let mut chosen = Vec::new();
            choose(cpu, &Index { q, weights: &weights, heads, most }, &store, &visible, &mut chosen);
            assert_eq!(chosen, expected, "{kind}, {level}");
        }
    }
}

#[test]
fn a_store_too_large_is_an_error() {
    for capacity in [usize::MAX, usize::MAX / 128, 1 << 55] {
        assert!(KvStore::new(KvType::F16, KvType::F16, 8, 128, 128, capacity).is_err(), "{capacity} positions");
    }
    let store = KvStore::new(KvType::F16, KvType::F32, 2, 8, 4, 65).unwrap();
    assert_eq!((store.capacity(), store.bytes()), (128, 128 * 2 * (8 * 2 + 4 * 4)));
}
