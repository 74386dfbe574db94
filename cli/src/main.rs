//! hob on the command line.
#![allow(dead_code)]
mod failure;
mod interrupt;
mod line;
mod npy;
mod report;
mod table;
mod terminal;
mod units;
fn main() {}
