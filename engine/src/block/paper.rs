//! What the organs' tests share: matrices of numbers written out, a step over rows of them, and what comes back beside what a
//! pencil gives.

use super::Work;
use super::rope::{Pairing, Rope};
use crate::backend::cpu::{CpuBackend, State};
use crate::backend::{Backend, Linear, Norm, Row, Stored};
use crate::batch::{Canceller, Entry, Logits};
use crate::cache::{CacheOptions, KvType, Sequence, StateSpec};
use crate::config::{NormKind, RopeConfig, Scaling};
use hob_kernels::Format;

/// A tensor of the CPU's.
pub(super) type Tensor = <CpuBackend as Backend>::Tensor;

/// How states are made here.
pub(super) const OPTIONS: CacheOptions = CacheOptions { capacity: 8, k: KvType::F32, v: KvType::F32, batch: 8 };

/// A matrix with rows of `cols`.
pub(super) fn matrix(values: &[f32], cols: usize) -> Stored {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Stored { name: "on paper".into(), format: Format::F32, rows: values.len() / cols, cols, bytes: bytes.into() }
}

/// A linear map without a bias, of rows of `cols`.
pub(super) fn linear(values: &[f32], cols: usize) -> Linear<CpuBackend> {
    Linear { weight: matrix(values, cols), bias: None }
}

/// A root-mean-square norm with these weights.
pub(super) fn norm(weight: &[f32]) -> Norm<CpuBackend> {
    Norm { kind: NormKind::Rms, weight: weight.to_vec(), bias: None, eps: 0.0, width: weight.len() }
}

/// One pair of channels that turns by this angle a position.
pub(super) fn rope(angle: f64) -> Rope {
    let config = RopeConfig {
        base: 1e4,
        window_base: None,
        rotary: 2,
        window_rotary: None,
        scaling: Scaling::None,
        original_context: 8,
        attention_factor: 1.0,
        yarn_log_multiplier: None,
    };
    let mut rope = Rope::new(&config, Pairing::Halves, config.base, config.scaling, None);
    rope.frequencies = vec![angle];
    rope
}

/// `x · σ(x)`
pub(super) fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `1 / (1 + e⁻ˣ)`
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A step of one sequence from position 0 on.
pub(super) struct Paper {
    pub(super) backend: CpuBackend,
    pub(super) work: Work<CpuBackend>,
    rows: usize,
}

impl Paper {
    /// A step over the rows of `h`, each `width` long.
    pub(super) fn new(h: &[f32], width: usize, ropes: &[Rope]) -> Paper {
        let rows = h.len() / width;
        let mut paper = Paper { backend: CpuBackend::new(1).unwrap(), work: Work::default(), rows };
        let entry = |token| Entry { token, sequence: 0, position: token, logits: Logits::Want };
        let batch: Vec<Entry> = (0..rows as u32).map(entry).collect();
        paper.backend.begin(&mut paper.work.step, &batch, ropes, &Canceller::new());
        paper.work.h = paper.tensor(h);
        paper
    }

    /// A tensor of as many rows.
    pub(super) fn tensor(&mut self, values: &[f32]) -> Tensor {
        let mut tensor = Tensor::default();
        self.backend.embed(&mut self.work.step, &matrix(values, values.len() / self.rows), Row::Token, 1.0, &mut tensor);
        tensor
    }

    /// What a sequence remembers at first.
    pub(super) fn sequence(&self, spec: &StateSpec) -> Sequence<State> {
        Sequence::new(vec![self.backend.state(spec, OPTIONS.capacity).unwrap()], &OPTIONS)
    }

    /// Holds `x` against what the pencil gave.
    pub(super) fn near(&mut self, x: &Tensor, want: &[f64]) {
        let mut found = Vec::new();
        self.backend.read(&mut self.work.step, x, &mut found).unwrap();
        let near = |(x, want): (&f32, &f64)| (f64::from(*x) - want).abs() < 1e-5 * want.abs().max(1.0);
        assert!(found.len() == want.len() && found.iter().zip(want).all(near), "{found:?}, on paper {want:?}");
    }
}
