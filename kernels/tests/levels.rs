//! Matrix products: every level, format, shape and number of threads gives the bits of `naive`.

use hob_kernels::matmul::{ExpertProduct, Groups, InputRow, Inputs, Matrix, Product, matmul, matmul_experts};
use hob_kernels::{Cpu, Format, Level, Pool, naive};

/// A generator of numbers, the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next() as f32 / (1u64 << 31) as f32 - 1.0).collect()
    }

    /// Rows of blocks of random bits with scales of ordinary size.
    fn weights(&mut self, format: Format, rows: usize, cols: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap()).map(|_| self.next() as u8).collect();
        // Where the halves of a block lie; an exponent of 8 to 15 (0.002 … 1) replaces theirs.
        let halves: &[usize] = match format {
            Format::F32 | Format::BF16 | Format::MXFP4 => &[],
            Format::F16 => &[0],
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q2_K => &[80, 82],
            Format::Q3_K => &[108],
            Format::Q6_K => &[208],
            Format::IQ4_XS | Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S => &[0],
            // Only the highest four bits are there.
            Format::IQ1_M => &[54],
            Format::TQ1_0 => &[52],
            Format::TQ2_0 => &[64],
        };
        for block in bytes.chunks_mut(format.block_bytes()) {
            for &at in halves {
                block[at + 1] = block[at + 1] & 0x9f | 0x20;
            }
            match format {
                Format::F32 => block.copy_from_slice(&self.floats(1)[0].to_le_bytes()),
                Format::MXFP4 => block[0] = block[0] & 0x0f | 0x70,
                Format::BF16 => block[1] = block[1] & 0x83 | 0x3c,
                _ => {}
            }
        }
        bytes
    }
}

fn expected(format: Format, rows: usize, cols: usize, bytes: &[u8], x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / cols * rows];
    naive::matmul(format, rows, cols, bytes, x, &mut out);
    out
}

/// Equal bits, any NaN for any NaN.
fn assert_same(found: &[f32], expected: &[f32], what: &dyn Fn() -> String) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits() || f.is_nan() && e.is_nan(), "{}: element {i} is {f}, not {e}", what());
    }
}

fn cols_of(format: Format) -> [usize; 4] {
    match format.block_len() {
        1 => [3, 67, 256, 80],
        32 => [32, 288, 544, 512],
        _ => [256, 768, 1280, 1024],
    }
}

#[test]
fn every_level_format_and_shape_is_naive() {
    let pools = [Pool::new(1), Pool::new(3)];
    let mut inputs = Inputs::new();
    for format in Format::ALL {
        let mut numbers = Numbers(format as u64 + 1);
        for (cols, rows) in cols_of(format).into_iter().zip([1, 77, 37, 77]) {
            let bytes = numbers.weights(format, rows, cols);
            let x = numbers.floats(33 * cols);
            let all = expected(format, rows, cols, &bytes, &x);
            let weight = Matrix::new(format, rows, cols, &bytes).unwrap();
            for (level, pool) in Level::available().flat_map(|level| pools.iter().map(move |pool| (level, pool))) {
                for tokens in [1, 2, 3, 4, 5, 8, 9, 17, 33] {
                    let cpu = Cpu::new(level, pool);
                    inputs.set(cpu, &x[..tokens * cols], cols, [format].into_iter());
                    let mut out = vec![f32::NAN; tokens * rows];
                    matmul(cpu, &inputs, &mut [Product { weight, out: &mut out }]);
                    let what = || format!("{level} {} {rows}x{cols} by {tokens}, {} threads", format.name(), pool.threads());
                    assert_same(&out, &all[..tokens * rows], &what);
                }
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_overflow() {
    for format in Format::ALL.into_iter().filter(|format| format.block_len() > 1) {
        let (rows, cols) = (17, 512);
        let mut numbers = Numbers(99);
        for (fill, sign) in [(0xff, 1.0), (0xff, -1.0), (0x80, 1.0), (0x80, -1.0), (0x00, 1.0), (0x7f, -1.0)] {
            // All codes and sub-block scales alike, d and m from a sound block.
            let sound = numbers.weights(format, rows, cols);
            let mut bytes = vec![fill; sound.len()];
            let scales = match format {
                Format::Q2_K => 80..84,
                Format::Q3_K => 108..110,
                Format::Q6_K => 208..210,
                Format::IQ1_M => 48..56,
                Format::TQ1_0 => 52..54,
                Format::TQ2_0 => 64..66,
                _ => 0..4,
            };
            for (block, sound) in bytes.chunks_mut(format.block_bytes()).zip(sound.chunks(format.block_bytes())) {
                block[scales.clone()].copy_from_slice(&sound[scales.clone()]);
            }
            let x = vec![sign; 9 * cols];
            let all = expected(format, rows, cols, &bytes, &x);
            for level in Level::available() {
                let pool = Pool::new(1);
                let cpu = Cpu::new(level, &pool);
                let mut inputs = Inputs::new();
                inputs.set(cpu, &x, cols, [format].into_iter());
                let mut out = vec![0.0; 9 * rows];
                let weight = Matrix::new(format, rows, cols, &bytes).unwrap();
                matmul(cpu, &inputs, &mut [Product { weight, out: &mut out }]);
                assert_same(&out, &all, &|| format!("{level} {} filled with {fill:x}, x = {sign}", format.name()));
            }
        }
    }
}

#[test]
fn several_products_share_their_inputs() {
    let mut numbers = Numbers(7);
    let cols = 512;
    // More products than share one region, of all kinds.
    let shapes = [16, 8, 40, 3, 24, 24, 9, 100, 64, 5, 33, 48, 17].into_iter().cycle();
    let weights: Vec<_> = Format::ALL.into_iter().zip(shapes).map(|(f, rows)| (f, rows, numbers.weights(f, rows, cols))).collect();
    let pool = Pool::new(2);
    for (level, tokens) in Level::available().flat_map(|level| [1, 3, 20].map(|tokens| (level, tokens))) {
        let cpu = Cpu::new(level, &pool);
        let mut x = numbers.floats(tokens * cols);
        x[0] = f32::INFINITY;
        x[cols - 1] *= 1e-38;
        let mut inputs = Inputs::new();
        inputs.set(cpu, &x, cols, Format::ALL.into_iter());
        let mut outs: Vec<_> = weights.iter().map(|(_, rows, _)| vec![0.0; tokens * rows]).collect();
        let mut products = Vec::new();
        for ((format, rows, bytes), out) in weights.iter().zip(&mut outs) {
            products.push(Product { weight: Matrix::new(*format, *rows, cols, bytes).unwrap(), out });
        }
        matmul(cpu, &inputs, &mut products);
        for ((format, rows, bytes), out) in weights.iter().zip(&outs) {
            assert_same(out, &expected(*format, *rows, cols, bytes, &x), &|| format!("{level} {} by {tokens}", format.name()));
        }
    }
}

#[test]
fn strange_activations_follow_the_rule() {
    let (rows, cols) = (9, 256);
    let pool = Pool::new(1);
    for format in Format::ALL {
        let bytes = Numbers(5).weights(format, rows, cols);
        let weight = Matrix::new(format, rows, cols, &bytes).unwrap();
        for strange in [0.0, 1e-45, 1e-38, 7.8e-31, 7.9e-31, 3e38, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            let mut x = vec![0.0; 2 * cols];
            (x[3], x[200], x[cols + 17]) = (strange, -strange / 3.0, strange);
            x[cols..cols + 16].fill(1.0);
            let all = expected(format, rows, cols, &bytes, &x);
            for level in Level::available() {
                let cpu = Cpu::new(level, &pool);
                let mut inputs = Inputs::new();
                inputs.set(cpu, &x, cols, [format].into_iter());
                let mut out = vec![0.0; 2 * rows];
                matmul(cpu, &inputs, &mut [Product { weight, out: &mut out }]);
                assert_same(&out, &all, &|| format!("{level} {} with {strange}", format.name()));
            }
        }
    }
}

#[test]
fn experts_multiply_their_own_slots() {
    let (experts, n, cols, k) = (5, 21, 256, 2);
    let pool = Pool::new(3);
    for (format, tokens) in [Format::Q4_K, Format::Q8_0, Format::F16, Format::Q6_K, Format::MXFP4, Format::IQ4_XS, Format::IQ2_XS]
        .into_iter()
        .flat_map(|f| [1, 6, 40].map(|t| (f, t)))
    {
        let mut numbers = Numbers(tokens as u64);
        let bytes = numbers.weights(format, experts * n, cols);
        let weights = Matrix::new(format, experts * n, cols, &bytes).unwrap();
        // Expert 3 gets nothing, expert 0 the second rank of every token.
        let chosen: Vec<usize> = (0..tokens * k).map(|slot| if slot % 2 == 1 { 0 } else { [1, 2, 4][slot / 2 % 3] }).collect();
        let (mut offsets, mut slots) = (vec![0u32], Vec::new());
        for expert in 0..experts {
            slots.extend((0..tokens * k).filter(|&slot| chosen[slot] == expert).map(|slot| slot as u32));
            offsets.push(slots.len() as u32);
        }
        let groups = Groups { offsets: &offsets, slots: &slots, k };
        for (level, input_row) in Level::available().flat_map(|level| [InputRow::Token, InputRow::Slot].map(|row| (level, row))) {
            let cpu = Cpu::new(level, &pool);
            let rows = if input_row == InputRow::Token { tokens } else { tokens * k };
            let x = numbers.floats(rows * cols);
            let mut inputs = Inputs::new();
            inputs.set(cpu, &x, cols, [format].into_iter());
            let (mut first, mut second) = (vec![0.0; tokens * k * n], vec![0.0; tokens * k * (n - 3)]);
            let mut products =
                [ExpertProduct { weights, rows: 0..n, out: &mut first }, ExpertProduct { weights, rows: 3..n, out: &mut second }];
            matmul_experts(cpu, &inputs, groups, input_row, experts, &mut products);
            for slot in 0..tokens * k {
                let input = if input_row == InputRow::Token { slot / k } else { slot };
                let own = weights.slice(chosen[slot] * n..(chosen[slot] + 1) * n);
                let y = expected(format, n, cols, own.bytes(), &x[input * cols..(input + 1) * cols]);
                let what = || format!("{level} {} {input_row:?}, {tokens} tokens, slot {slot}", format.name());
                assert_same(&first[slot * n..(slot + 1) * n], &y, &what);
                assert_same(&second[slot * (n - 3)..(slot + 1) * (n - 3)], &y[3..], &what);
            }
        }
    }
}

#[test]
#[should_panic(expected = "two groups")]
fn a_slot_in_two_groups_is_refused() {
    let bytes = vec![0; 2 * 4 * 256];
    let pool = Pool::new(1);
    let cpu = Cpu::new(Level::best(), &pool);
    let mut inputs = Inputs::new();
    inputs.set(cpu, &[0.0; 512], 256, [Format::F32].into_iter());
    let weights = Matrix::new(Format::F32, 2, 256, &bytes).unwrap();
    let groups = Groups { offsets: &[0, 1, 2], slots: &[1, 1], k: 1 };
    matmul_experts(cpu, &inputs, groups, InputRow::Slot, 2, &mut [ExpertProduct { weights, rows: 0..1, out: &mut [0.0; 2] }]);
}

#[test]
fn a_matrix_is_whole_blocks() {
    assert!(Matrix::new(Format::Q4_K, 2, 256, &[0; 288]).is_some());
    assert!(Matrix::new(Format::Q4_K, 2, 128, &[0; 144]).is_none());
    assert!(Matrix::new(Format::Q4_K, 2, 256, &[0; 287]).is_none());
    assert!(Matrix::new(Format::F32, usize::MAX, usize::MAX / 4, &[]).is_none());
}
