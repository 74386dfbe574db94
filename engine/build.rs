//! Refuses the feature of a GPU that the target does not have: elsewhere than on Apple's systems nothing of `metal` is built, so this
//! is all that is said. What `cuda` needs, `nvcc/build.rs` looks for.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let apple = std::env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple");
    if cfg!(feature = "metal") && !apple {
        println!("cargo::error=the feature `metal` is for Apple's GPUs: NVIDIA's are `cuda`, and without either the CPU computes");
    }
    if cfg!(feature = "cuda") && apple {
        println!("cargo::error=the feature `cuda` is for NVIDIA's GPUs, which Apple's systems do not drive: theirs are `metal`");
    }
}
