//! Says what is missing where there is no CUDA compiler.

use std::env::{self, consts::EXE_SUFFIX};
use std::path::PathBuf;

/// Variables that name a toolkit's folder.
const FOLDERS: [&str; 2] = ["CUDA_HOME", "CUDA_PATH"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if !cfg!(feature = "cuda") {
        return;
    }
    for name in FOLDERS.iter().chain(&["PATH"]) {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // On the PATH is where cudarc's build looks for it.
    let nvcc = format!("nvcc{EXE_SUFFIX}");
    if env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(&nvcc).is_file())) {
        return;
    }
    println!("cargo::error=the feature `cuda` needs NVIDIA's compiler, and `{nvcc}` is not on the PATH");
    let named = FOLDERS.iter().filter_map(env::var_os).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from);
    match named.chain(usual).map(|folder| folder.join("bin")).find(|folder| folder.join(&nvcc).is_file()) {
        Some(folder) => println!("cargo::error=it is in {}: put that folder on the PATH", folder.display()),
        None => {
            println!("cargo::error=nor is it in the folder `bin` of CUDA_HOME, CUDA_PATH, /usr/local/cuda or /opt/cuda");
            println!(
                "cargo::error=install the CUDA toolkit, 12 or later (https://developer.nvidia.com/cuda-downloads), and put its `bin` on the PATH"
            );
        }
    }
    println!("cargo::error=without `--features cuda` hob needs nothing but Rust, and the CPU computes");
}
