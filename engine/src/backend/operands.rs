//! What verbs are given: weights with what belongs to them, and the tensors of a step that go together.

use std::fmt;
use std::ops::Range;

use hob_kernels::Format;
use hob_kernels::attention::Window;
use hob_kernels::ops::Activation;
use hob_kernels::recurrent::Shape;

use super::Backend;
use crate::block::rope::Rope;
use crate::config::NormKind;
use crate::gguf::Bytes;

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

/// A normalisation and what it normalises over.
pub struct Norm<B: Backend> {
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// `[width]`, or `[groups, width]` that neighbours take in turns.
    pub weight: B::Vector,
    /// `[width]`.
    pub bias: Option<B::Vector>,
    /// Added under the root.
    pub eps: f32,
    /// Channels.
    pub width: usize,
}

impl<B: Backend> fmt::Display for Norm<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            NormKind::Rms => "rms",
            NormKind::Layer => "layernorm",
        })
    }
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
    /// Keys `[tokens, kv_heads · key_dim]` and values `[tokens, kv_heads · value_dim]`, to be appended; no values where they are the
    /// first channels of the keys ([`StateSpec::Latent`](crate::cache::StateSpec::Latent)). `None` where an earlier layer has
    /// appended its own to this state in this step, and they are looked at again.
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

/// How entries are made of positions.
pub struct Pooling<B: Backend> {
    /// Positions of an entry.
    pub ratio: usize,
    /// 2 where an entry reaches into the positions of the one before it.
    pub halves: usize,
    /// `[ratio, halves · dim]`: added to the scores by place.
    pub places: B::Vector,
    /// Of an entry.
    pub norm: Norm<B>,
    /// Turns the last channels of entry j as those of position j · ratio.
    pub rope: Rope,
}

/// What a step hands to [`Backend::attend_entries`] beside queries and keys.
pub struct Pooled<'a, B: Backend> {
    /// `[tokens, halves · dim]`
    pub values: &'a B::Tensor,
    /// `[tokens, halves · dim]`
    pub scores: &'a B::Tensor,
    /// How entries are made of them.
    pub pooling: &'a Pooling<B>,
    /// What chooses among them; all that are there where `None`.
    pub index: Option<Indexed<'a, B>>,
}

/// An index's share of that.
pub struct Indexed<'a, B: Backend> {
    /// `[tokens, heads · dim]`
    pub q: &'a B::Tensor,
    /// `[tokens, heads]`
    pub weights: &'a B::Tensor,
    /// `[tokens, halves · dim]`
    pub values: &'a B::Tensor,
    /// `[tokens, halves · dim]`
    pub scores: &'a B::Tensor,
    /// How its entries are made.
    pub pooling: &'a Pooling<B>,
    /// Its heads.
    pub heads: usize,
    /// Entries to choose.
    pub most: usize,
}

/// How raw mixes become the weights of strands.
pub struct Mixing<B: Backend> {
    /// How many strands there are.
    pub count: usize,
    /// Factors on the raw mixes, one for each of their parts.
    pub scale: B::Vector,
    /// Added to the raw mixes.
    pub base: B::Vector,
    /// Rounds of Sinkhorn's normalisation.
    pub iterations: usize,
    /// Added to weights and sums.
    pub eps: f32,
}
