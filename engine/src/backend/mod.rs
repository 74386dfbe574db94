//! The seam between the decoder and what computes it.
//!
//! A [`Backend`] offers some three dozen verbs, each a step of a transformer with a name in the literature: coarse enough to
//! be one parallel region on a CPU and one kernel on a GPU. Tensors are `f32 [tokens, width]`; a verb writes into a tensor
//! it is given, so buffers are made once and decoding allocates nothing. Token ids and positions ride in the back end's
//! [`Step`](Backend::Step), filled once by [`begin`](Backend::begin); only [`read`](Backend::read) brings anything back, and
//! [`write`](Backend::write) takes it up where a model goes on on another back end. A verb cannot fail to its caller: what goes wrong
//! on a device is kept in the step until [`end`](Backend::end).

#[cfg(feature = "candle")]
pub mod candle;
pub mod cpu;
mod operands;

use crate::batch::{Canceller, Entry};
use crate::block::rope::Rope;
use crate::cache::{LayerState, Sequence, StateSpec};
use crate::error::Result;
pub use hob_kernels::attention::Window;
use hob_kernels::ops::{Activation, Router, Xielu};
pub use operands::{
    Attend, Conv, Convolved, DeltaRule, ExpertWeights, Glu, HeadInputs, HeadWeights, Indexed, Linear, Mixing, Norm, Pooled, Pooling,
    Product, Qkv, Row, Scan, Stored, Weighed,
};

/// Computes a decoder's steps.
pub trait Backend: Send + Sync + Sized + 'static {
    /// A matrix of weights.
    type Weight: Send + Sync;
    /// A small vector in f32: a norm's weight, a bias.
    type Vector: Send + Sync;
    /// Activations, `f32 [tokens, width]`.
    type Tensor: Default + Send;
    /// What a layer remembers of one sequence.
    type State: LayerState;
    /// What one step needs besides tensors: positions, angles, routing, scratch. Reused from step to step.
    type Step: Default + Send;

    /// Takes a matrix from the file.
    ///
    /// # Errors
    /// Where the device cannot hold it.
    fn weight(&self, stored: Stored) -> Result<Self::Weight>;
    /// Takes a small vector.
    ///
    /// # Errors
    /// Where the device cannot hold it.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
    /// Makes an empty state for a sequence of up to `capacity` positions.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) where there is no room for it.
    fn state(&self, spec: &StateSpec, capacity: usize) -> Result<Self::State>;

    /// Starts a step: ids, positions and the angles of every rope go where the verbs find them.
    fn begin(&self, step: &mut Self::Step, batch: &[Entry], ropes: &[Rope], stop: &Canceller);
    /// Takes `rows` rows from the host, as [`read`](Backend::read) brought them there, from this back end or another.
    fn write(&self, step: &mut Self::Step, values: &[f32], rows: usize, out: &mut Self::Tensor);
    /// `out[t] = scale · table[token of t]`, or position.
    fn embed(&self, step: &mut Self::Step, table: &Self::Weight, by: Row, scale: f32, out: &mut Self::Tensor);
    /// Normalises each row.
    fn norm(&self, step: &mut Self::Step, x: &Self::Tensor, norm: &Norm<Self>, out: &mut Self::Tensor);
    /// Normalises each run of the norm's width in place: query and key heads.
    fn norm_in_place(&self, step: &mut Self::Step, x: &mut Self::Tensor, norm: &Norm<Self>);
    /// Linear maps of one input, which is quantized once for all of them.
    fn linear(&self, step: &mut Self::Step, x: &Self::Tensor, products: &mut [Product<'_, Self>]);
    /// Linear maps of their own for the heads of `x` `[tokens, heads · cols]`: out `[tokens, heads · rows]`.
    fn linear_by_head(&self, step: &mut Self::Step, x: &Self::Tensor, weights: &HeadWeights<Self>, out: &mut Self::Tensor);
    /// Cuts each of the heads of `x` in two: its first `at` channels to `a`, the others to `b`.
    fn split(&self, step: &mut Self::Step, x: &Self::Tensor, heads: usize, at: usize, a: &mut Self::Tensor, b: &mut Self::Tensor);
    /// Lays the channels of each head of `a` and of the same head of `b` side by side: undoes [`split`](Backend::split).
    fn join(&self, step: &mut Self::Step, a: &Self::Tensor, b: &Self::Tensor, heads: usize, out: &mut Self::Tensor);
    /// Turns the heads of `x` by rope number `rope` of this step.
    fn rotate(&self, step: &mut Self::Step, x: &mut Self::Tensor, head_dim: usize, rope: usize);
    /// Appends keys and values, if any, to state `slot` of each sequence, then attends with the queries.
    fn attend(
        &self,
        step: &mut Self::Step,
        attend: &Attend<Self>,
        qkv: Qkv<'_, Self>,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Self::Tensor,
    );
    /// Convolves tensors over the tokens of each sequence, going on from state `slot`.
    fn conv(&self, step: &mut Self::Step, convs: &mut [Convolved<'_, Self>], sequences: &mut [&mut Sequence<Self::State>], slot: usize);
    /// Scans the tokens of each sequence, going on from state `slot`: for each head, with `dt = softplus(dt + bias)`,
    /// `S = exp(dt·rate)·S + k ⊗ (dt·v)`, `out = qᵀS + skip·v`.
    fn scan(
        &self,
        step: &mut Self::Step,
        scan: &Scan<Self>,
        heads: HeadInputs<'_, Self>,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Self::Tensor,
    );
    /// The gated delta rule over the tokens of each sequence, going on from state `slot`: for each head,
    /// `S = exp(softplus(dt + bias)·rate)·S` (a rate a head, or one for each row of S), `S += k ⊗ beta·(v - kᵀS)`, `out = qᵀS`;
    /// beta `[tokens, heads]`.
    #[allow(clippy::too_many_arguments)]
    fn delta(
        &self,
        step: &mut Self::Step,
        rule: &DeltaRule<Self>,
        heads: HeadInputs<'_, Self>,
        beta: &Self::Tensor,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Self::Tensor,
    );
    /// Appends keys to the window and what entries are made of to theirs, then attends with the queries over both.
    #[allow(clippy::too_many_arguments)]
    fn attend_entries(
        &self,
        step: &mut Self::Step,
        attend: &Attend<Self>,
        qk: (&Self::Tensor, &Self::Tensor),
        pooled: Pooled<'_, Self>,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Self::Tensor,
    );
    /// Raw mixes to the weights of strands, in place.
    fn strand_weights(&self, step: &mut Self::Step, mixing: &Mixing<Self>, mixes: &mut Self::Tensor);
    /// `out = Σ pre[s] · x[s]`: x `[tokens, count · width]`, `weights` as [`strand_weights`](Backend::strand_weights) left them.
    fn mix_strands(&self, step: &mut Self::Step, x: &Self::Tensor, count: usize, weights: &Self::Tensor, out: &mut Self::Tensor);
    /// `x[t] = post[t] · y + Σ comb[s, t] · x[s]`.
    fn add_to_strands(&self, step: &mut Self::Step, x: &mut Self::Tensor, count: usize, weights: &Self::Tensor, y: &Self::Tensor);
    /// `gate = activation(gate) · up`.
    fn glu(&self, step: &mut Self::Step, activation: Activation, gate: &mut Self::Tensor, up: &Self::Tensor);
    /// `x = activation(x)`.
    fn activate(&self, step: &mut Self::Step, activation: Activation, x: &mut Self::Tensor);
    /// `x = xielu(x)`.
    fn xielu(&self, step: &mut Self::Step, xielu: Xielu, x: &mut Self::Tensor);
    /// Chooses each token's experts; the choice stays in the step.
    fn route(&self, step: &mut Self::Step, logits: &Self::Tensor, router: &Router, bias: Option<&Self::Vector>);
    /// The same where `table` `[vocab, k]` settles the experts of each token.
    fn route_by_token(&self, step: &mut Self::Step, logits: &Self::Tensor, router: &Router, table: &[u32]);
    /// `out[t] = Σ weight · expert(x[t])` over the experts that [`route`](Backend::route) chose.
    fn experts(&self, step: &mut Self::Step, x: &Self::Tensor, experts: &ExpertWeights<Self>, out: &mut Self::Tensor);
    /// Each of the equal runs that make `x[t]` times sigmoid of its gate: one a token, or one a head.
    fn gate(&self, step: &mut Self::Step, x: &mut Self::Tensor, gate: &Self::Tensor);
    /// `out[t] = x[t][from..from + width]`.
    fn columns(&self, step: &mut Self::Step, x: &Self::Tensor, from: usize, width: usize, out: &mut Self::Tensor);
    /// `x[t][from..] += y[t]`: adds where [`columns`](Backend::columns) reads.
    fn add_to_columns(&self, step: &mut Self::Step, x: &mut Self::Tensor, from: usize, y: &Self::Tensor);
    /// Each of the `runs` that make a row of `x` gets the root mean square of the same row of `like`.
    fn rescale(&self, step: &mut Self::Step, x: &mut Self::Tensor, like: &Self::Tensor, runs: usize);
    /// Of each row what is more than `sigmas` standard deviations above its mean, less that; 0 for the rest.
    fn sparsify(&self, step: &mut Self::Step, x: &mut Self::Tensor, sigmas: f32);
    /// `x[t] *= by`, channel by channel.
    fn scale_by(&self, step: &mut Self::Step, x: &mut Self::Tensor, by: &Self::Vector);
    /// `out = x`.
    fn copy(&self, step: &mut Self::Step, x: &Self::Tensor, out: &mut Self::Tensor);
    /// `x += y`.
    fn add(&self, step: &mut Self::Step, x: &mut Self::Tensor, y: &Self::Tensor);
    /// `x *= factor`.
    fn scale(&self, step: &mut Self::Step, x: &mut Self::Tensor, factor: f32);
    /// x within ±`limit`.
    fn clamp(&self, step: &mut Self::Step, x: &mut Self::Tensor, limit: f32);
    /// `x = cap · tanh(x / cap)`.
    fn softcap(&self, step: &mut Self::Step, x: &mut Self::Tensor, cap: f32);
    /// The rows whose logits are wanted, in batch order.
    fn wanted(&self, step: &mut Self::Step, x: &Self::Tensor, out: &mut Self::Tensor);
    /// Ends a step: no verb follows.
    ///
    /// # Errors
    /// The first thing that went wrong in it.
    fn end(&self, step: &mut Self::Step) -> Result<()>;
    /// Brings a tensor to the host, replacing what `out` holds.
    ///
    /// # Errors
    /// Where the device fails.
    fn read(&self, step: &mut Self::Step, x: &Self::Tensor, out: &mut Vec<f32>) -> Result<()>;
}
