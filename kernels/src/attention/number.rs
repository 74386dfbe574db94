//! Numbers of a store as the kernels read them: halves or singles.

use crate::isa::Isa;

/// A stored number.
pub(super) trait Number: Copy + Default + Send + Sync + 'static {
    /// `LANES` of them, widened.
    fn load<I: Isa>(isa: I, x: &[Self]) -> I::F;
    /// `LANES` of them, rounded to nearest even.
    fn store<I: Isa>(isa: I, v: I::F, out: &mut [Self]);
}

/// The bits of a half.
impl Number for u16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[u16]) -> I::F {
        isa.load_f16(x)
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F, out: &mut [u16]) {
        isa.store_f16(v, out);
    }
}

impl Number for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, x: &[f32]) -> I::F {
        isa.load(x)
    }
    #[inline(always)]
    fn store<I: Isa>(isa: I, v: I::F, out: &mut [f32]) {
        isa.store(v, out);
    }
}
