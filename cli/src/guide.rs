//! The model in the box: hob's guide, tiny, part of the program where the cargo feature `guide` is on. It runs where no model is named.
//!
//! Its file is cli/guide/guide.gguf; how it is made: cli/guide/README.md.

use hob::gguf::Gguf;

use crate::failure::Failure;

/// The guide's file; it is said who talks.
#[cfg(feature = "guide")]
pub(crate) fn gguf() -> Result<Gguf, Failure> {
    /// A page of its own, as a mapped file has.
    #[repr(C, align(4096))]
    struct Page<T: ?Sized>(T);

    static FILE: &Page<[u8]> = &Page(*include_bytes!("../guide/guide.gguf"));

    crate::terminal::note_dim("hob's guide, a tiny model that knows hob and nothing else; a real one: hob chat MODEL");
    Ok(Gguf::from_static(&FILE.0)?)
}

/// Where it is left out, a model must be named.
#[cfg(not(feature = "guide"))]
pub(crate) fn gguf() -> Result<Gguf, Failure> {
    Err(Failure::usage("no model given", "hob chat MODEL.gguf"))
}
