//! Products by expert: every slot (token × rank) multiplies with the rows of its own expert, nothing copied.
//!
//! ```text
//! groups.slots    [ expert 0's slots | expert 1's | … ]      slot = token·k + rank
//! weights         [experts · n, cols]                        expert e owns rows e·n .. (e+1)·n
//! out             [slots, n]                                 row of slot s
//! ```

use super::{Inputs, Matrix, TOGETHER, Tokens, Work, chunk};
use crate::Cpu;
use crate::isa::{self, Canvas};
use std::ops::Range;

/// The slots of each expert: expert e has `slots[offsets[e]..offsets[e + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// Where each expert's slots begin; one more than there are experts, ascending.
    pub offsets: &'a [u32],
    /// Slots, grouped by expert, each slot once.
    pub slots: &'a [u32],
    /// Slots of a token.
    pub k: usize,
}

/// Which row of the inputs a slot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRow {
    /// Its token's: row slot / k (gate and up).
    Token,
    /// Its own: row slot (down).
    Slot,
}

/// One product of a [`matmul_experts`].
#[derive(Debug)]
pub struct ExpertProduct<'a> {
    /// `[experts · all, cols]`
    pub weights: Matrix<'a>,
    /// Which n of each expert's rows to multiply with (gate and up may lie together).
    pub rows: Range<usize>,
    /// `[slots, n]`, row = slot.
    pub out: &'a mut [f32],
}

/// Multiplies every slot's input with its expert's rows, all `products` in one parallel region.
///
/// # Panics
/// Where shapes do not fit, `inputs` was not made for a product's format, or a slot is in two groups.
pub fn matmul_experts(cpu: Cpu, inputs: &Inputs, groups: Groups, input_row: InputRow, n_experts: usize, products: &mut [ExpertProduct]) {
    assert_eq!(groups.offsets.len(), n_experts + 1, "one group for each expert");
    let share = match input_row {
        InputRow::Token => groups.k.max(1),
        InputRow::Slot => 1,
    };
    let mean = groups.slots.len().div_ceil(n_experts.max(1));
    for products in products.chunks_mut(TOGETHER) {
        let count = products.len();
        let mut canvases = [Canvas::EMPTY; TOGETHER];
        let mut weights = [const { None }; TOGETHER];
        for ((product, canvas), weight) in products.iter_mut().zip(&mut canvases).zip(&mut weights) {
            let all = product.weights.rows.checked_div(n_experts).unwrap_or(0);
            assert_eq!(product.weights.rows, all * n_experts, "rows shared equally by the experts");
            assert!(product.rows.end <= all, "rows {:?} of {all}", product.rows);
            inputs.assert_fit(cpu, &product.weights);
            *canvas = Canvas::new(product.out, product.rows.len(), chunk(cpu, &product.weights, mean));
            *weight = Some((product.weights, all, product.rows.clone()));
        }
        isa::fill_groups(cpu, &canvases[..count], groups.offsets, groups.slots, &|which, expert, tile| {
            let Some((weights, all, rows)) = &weights[which] else { return };
            let slots = &groups.slots[groups.offsets[expert] as usize..groups.offsets[expert + 1] as usize];
            let weight = weights.slice(expert * all + rows.start..expert * all + rows.end);
            Work { weight, inputs, tokens: Tokens::Slots { slots, share }, tile }.run(cpu.level);
        });
    }
}
