//! What stands in for the parser where it was not compiled in: every grammar is refused.

use super::Source;
use crate::error::{Error, Fault, Result};
use crate::tokenizer::{Token, Tokenizer};
use std::convert::Infallible;

pub(super) const END: Token = 256;

fn absent<T>() -> Result<T> {
    let help = "build it with the cargo feature `grammar`, which is on by default";
    Err(Error::Unsupported(Fault::at("grammar").found("a build of hob without grammars").help(help)))
}

pub(super) struct Vocabulary(Infallible);

impl Vocabulary {
    pub(super) fn new(_: &Tokenizer) -> Result<Vocabulary> {
        absent()
    }

    pub(super) fn of_bytes() -> Result<Vocabulary> {
        absent()
    }

    pub(super) fn tokens(&self, _: &[u8]) -> Vec<Token> {
        match self.0 {}
    }

    pub(super) fn none(&self) -> Mask {
        match self.0 {}
    }

    pub(super) fn spelling(&self, _: Token) -> &[u8] {
        match self.0 {}
    }

    pub(super) fn bytes(&self, _: Token) -> &[u8] {
        match self.0 {}
    }
}

#[derive(Clone)]
pub(super) struct Mask(Infallible);

impl Mask {
    pub(super) fn allow(&mut self, _: Token) {
        match self.0 {}
    }

    pub(super) fn has(&self, _: Token) -> bool {
        match self.0 {}
    }

    pub(super) fn only(&self) -> Option<Token> {
        match self.0 {}
    }

    pub(super) fn apply(&self, _: &mut [f32]) {
        match self.0 {}
    }
}

#[derive(Clone, Debug)]
pub(super) struct Machine(Infallible);

impl Machine {
    pub(super) fn new(_: &Vocabulary, _: &'static str, _: &Source) -> Result<Machine> {
        absent()
    }

    pub(super) fn is_done(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn accepts(&mut self) -> Result<bool> {
        match self.0 {}
    }

    pub(super) fn mask(&mut self) -> Result<Mask> {
        match self.0 {}
    }

    pub(super) fn take(&mut self, _: Token) -> Result<()> {
        match self.0 {}
    }

    pub(super) fn take_back(&mut self, _: usize) -> Result<()> {
        match self.0 {}
    }
}
