//! Nothing: its build script looks for `nvcc`. It is a crate of its own because cargo starts first what most others wait for: as a build
//! dependency it comes before the crates that fail without the compiler, whose messages do not say what to do.
