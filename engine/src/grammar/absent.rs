//! What stands in for the parser where it was not compiled in: every grammar is refused.

use super::Source;
use crate::error::{Error, Fault, Result};
use crate::tokenizer::{Token, Tokenizer};

pub(super) const END: Token = 256;

fn absent<T>() -> Result<T> {
    let help = "build it with the cargo feature `grammar`, which is on by default";
    Err(Error::Unsupported(Fault::at("grammar").found("a build of hob without grammars").help(help)))
}

pub(super) enum Vocabulary {}

impl Vocabulary {
    pub(super) fn new(_: &Tokenizer) -> Result<Vocabulary> {
        absent()
    }

    pub(super) fn of_bytes() -> Result<Vocabulary> {
        absent()
    }

    pub(super) fn tokens(&self, _: &[u8]) -> Vec<Token> {
        match *self {}
    }

    pub(super) fn none(&self) -> Mask {
        match *self {}
    }

    pub(super) fn spelling(&self, _: Token) -> &[u8] {
        match *self {}
    }

    pub(super) fn bytes(&self, _: Token) -> &[u8] {
        match *self {}
    }
}

#[derive(Clone)]
pub(super) enum Mask {}

impl Mask {
    pub(super) fn allow(&mut self, _: Token) {
        match *self {}
    }

    pub(super) fn has(&self, _: Token) -> bool {
        match *self {}
    }

    pub(super) fn only(&self) -> Option<Token> {
        match *self {}
    }

    pub(super) fn apply(&self, _: &mut [f32]) {
        match *self {}
    }
}

#[derive(Clone, Debug)]
pub(super) enum Machine {}

impl Machine {
    pub(super) fn new(_: &Vocabulary, _: &'static str, _: &Source) -> Result<Machine> {
        absent()
    }

    pub(super) fn is_done(&self) -> bool {
        match *self {}
    }

    pub(super) fn accepts(&mut self) -> Result<bool> {
        match *self {}
    }

    pub(super) fn mask(&mut self) -> Result<Mask> {
        match *self {}
    }

    pub(super) fn take(&mut self, _: Token) -> Result<()> {
        match *self {}
    }

    pub(super) fn take_back(&mut self, _: usize) -> Result<()> {
        match *self {}
    }
}
