//! hob on the command line.
fn main() {}
