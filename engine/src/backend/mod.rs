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

use crate::batch::{Canceller, Entry};
use crate::block::Norm;
use crate::block::compressed::Pooled;
use crate::block::rope::Rope;
use crate::block::strands::Strands;
use crate::cache::{LayerState, Sequence, StateSpec};
use crate::error::Result;
use crate::gguf::Bytes;
use hob_kernels::Format;
pub use hob_kernels::attention::Window;
use hob_kernels::ops::{Activation, Router, Xielu};
use hob_kernels::recurrent::Shape;
use std::ops::Range;

/// A matrix of weights as it lies in the file: `[rows, cols]`, or for a stack of experts `[experts · rows, cols]`.
#[derive(Clone)]
pub struct Stored {
    /// Tensor name, for errors.
    pub name: String,
    /// Block format.
    pub format: Format,
    /// Outputs, of all experts together.
    pub rows: usize,
    /// Inputs: the length of a row.
    pub cols: usize,
    /// `rows` rows, each a whole number of blocks.
    pub bytes: Bytes,
}

/// A linear map with its optional bias.
pub struct Linear<B: Backend> {
    /// `[outputs, inputs]`.
    pub weight: B::Weight,
    /// `[outputs]`.
    pub bias: Option<B::Vector>,
}

/// A linear map of its own for each head.
pub struct HeadWeights<B: Backend> {
    /// A matrix a head, one after the other: `[heads · all, cols]`.
    pub stack: B::Weight,
    /// How many.
    pub heads: usize,
    /// The rows of each that count: all, but where two maps of a head lie in one matrix.
    pub rows: Range<usize>,
}

/// A linear map in a call: the map, and where its result goes.
pub type Product<'a, B> = (&'a Linear<B>, &'a mut <B as Backend>::Tensor);

/// The projections of a layer's experts, each a stack `[experts · rows, cols]`.
pub struct ExpertWeights<B: Backend> {
    /// What the activation works on, `[experts, ff, width]`, or with the rows of `up` behind its own in each expert,
    /// `[experts, 2·ff, width]`.
    pub gate: B::Weight,
    /// `[experts, ff, width]`; `None` where `gate` holds both, or there is nothing to gate.
    pub up: Option<B::Weight>,
    /// Whether there is.
    pub glu: Glu,
    /// `[experts, width, ff]`.
    pub down: B::Weight,
    /// `[experts · ff]`: added to what `gate` gives.
    pub gate_bias: Option<B::Vector>,
    /// `[experts · ff]`.
    pub up_bias: Option<B::Vector>,
    /// `[experts · width]`.
    pub down_bias: Option<B::Vector>,
    /// `[experts]`: a factor on each expert's weight, after the routing.
    pub scale: Option<B::Vector>,
    /// Where the weights of the routing come in.
    pub weighed: Weighed,
    /// How many there are.
    pub count: usize,
    /// Their hidden width.
    pub ff: usize,
    /// Activation of the gate.
    pub activation: Activation,
}

/// What becomes of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glu {
    /// It gates a second map.
    Gated,
    /// It goes on as it is (Nemotron-H).
    Plain,
}

/// Which row of a table a token gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// That of its id.
    Token,
    /// That of its position (GPT-2).
    Position,
}

/// What an expert's weight multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// What it gives.
    Output,
    /// What it gets (Llama 4).
    Input,
}

/// What an attention layer asks of [`Backend::attend`].
pub struct Attend<B: Backend> {
    /// Query heads.
    pub heads: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// `cap · tanh(s / cap)` on the scaled scores.
    pub softcap: Option<f32>,
    /// Which positions a query sees.
    pub window: Window,
    /// `[heads]`: a score that takes part in the softmax and brings no value.
    pub sinks: Option<B::Vector>,
}

/// Queries, keys and values of a step.
pub struct Qkv<'a, B: Backend> {
    /// `[tokens, heads · key_dim]`.
    pub q: &'a B::Tensor,
    /// Keys `[tokens, kv_heads · key_dim]` and values `[tokens, kv_heads · value_dim]`, to be appended; no values where they are
    /// the first channels of the keys ([`StateSpec::Latent`]). `None` where an earlier layer has appended its own to this state
    /// in this step, and they are looked at again.
    pub kv: Option<(&'a B::Tensor, Option<&'a B::Tensor>)>,
}

/// A causal convolution of each channel with taps of its own.
pub struct Conv<B: Backend> {
    /// `[taps, channels]`, oldest first.
    pub weight: B::Vector,
    /// `[channels]`.
    pub bias: Option<B::Vector>,
    /// What becomes of the sum: silu, or nothing.
    pub activation: Activation,
    /// Its first channel among those that the state remembers.
    pub first: usize,
    /// Its channels.
    pub channels: usize,
}

/// A convolution in a call: what, and of which tensor, in place.
pub type Convolved<'a, B> = (&'a Conv<B>, &'a mut <B as Backend>::Tensor);

/// What a state space layer asks of [`Backend::scan`].
pub struct Scan<B: Backend> {
    /// Heads.
    pub shape: Shape,
    /// `[heads]`: added to the time steps.
    pub bias: B::Vector,
    /// `[heads]`: the rates A, none above 0.
    pub rate: B::Vector,
    /// `[heads]`: how much of its input a head lets through.
    pub skip: B::Vector,
}

/// What a delta layer asks of [`Backend::delta`].
pub struct DeltaRule<B: Backend> {
    /// Heads.
    pub shape: Shape,
    /// `[heads]`, or `[heads · keys]`: added to the time steps.
    pub bias: B::Vector,
    /// As long: the rates of decay, none above 0.
    pub rate: B::Vector,
}

/// What goes into heads that remember by a matrix, in the words of linear attention.
pub struct HeadInputs<'a, B: Backend> {
    /// `[tokens, key_heads · keys]`.
    pub q: &'a B::Tensor,
    /// `[tokens, key_heads · keys]`.
    pub k: &'a B::Tensor,
    /// `[tokens, heads · values]`.
    pub v: &'a B::Tensor,
    /// Time steps, `[tokens, heads]` or `[tokens, heads · keys]`, before bias and softplus; used up.
    pub dt: &'a mut B::Tensor,
}

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
        sequences: &mut [&mut Sequence<Self>],
        slot: usize,
        out: &mut Self::Tensor,
    );
    /// Convolves tensors over the tokens of each sequence, going on from state `slot`.
    fn conv(&self, step: &mut Self::Step, convs: &mut [Convolved<'_, Self>], sequences: &mut [&mut Sequence<Self>], slot: usize);
    /// Scans the tokens of each sequence, going on from state `slot`: for each head, with `dt = softplus(dt + bias)`,
    /// `S = exp(dt·rate)·S + k ⊗ (dt·v)`, `out = qᵀS + skip·v`.
    fn scan(
        &self,
        step: &mut Self::Step,
        scan: &Scan<Self>,
        heads: HeadInputs<'_, Self>,
        sequences: &mut [&mut Sequence<Self>],
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
        sequences: &mut [&mut Sequence<Self>],
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
        sequences: &mut [&mut Sequence<Self>],
        slot: usize,
        out: &mut Self::Tensor,
    );
    /// Raw mixes to the weights of strands, in place.
    fn strand_weights(&self, step: &mut Self::Step, strands: &Strands<Self>, mixes: &mut Self::Tensor);
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
