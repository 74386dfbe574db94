//! Instruction sets behind one trait.
