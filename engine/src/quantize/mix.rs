//! Which tensor of a file gets which format.
//!
//! A file type is a base format and a few exceptions, for tensors in which errors cost most. The exceptions, and what is never
//! quantized at all, are those of llama.cpp's `llama-quantize` (llama-quant.cpp), so that a file made here is the peer of one made there.
//!
//! ```text
//! output.weight (token_embd.weight where there is none)   Q6_K; Q8_0 for base Q8_0 or rows that are no whole blocks
//! attn_v, attn_qkv, attn_kv_b; ffn_down; attn_output      by the table below; with 8 experts attn_k and attn_v Q8_0
//! other matrices                                          the base
//! file type MXFP4_MOE                                     experts MXFP4, all other matrices Q8_0
//! file types TQ1_0, TQ2_0                                 token_embd Q4_K where there is an output.weight
//! vectors, norms, routers, convolutions                   as they are
//! rows that are no multiple of 256                        Q2_K, Q3_K, IQ4_XS -> IQ4_NL, Q4_K -> Q5_0, Q5_K -> Q5_1, Q6_K -> Q8_0,
//!                                                         TQ1_0, TQ2_0 -> Q4_0
//! rows that are no multiple of 32                         F16
//! ```

use hob_kernels::Format;

use crate::gguf::{Gguf, TensorInfo, TensorType, Value};

/// The kind of a whole file: what most of its weights are. Names and numbers are llama.cpp's (`general.file_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs)]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4_MOE,
    TQ1_0,
    TQ2_0,
}

/// Which of the layers' tensors of a role get the better format.
#[derive(Clone, Copy)]
enum Share {
    Nothing,
    All,
    /// The first so many.
    First(usize),
    /// The first layers, one of so many.
    Part(usize),
    /// The first and the last eighth, and every third between.
    Spread,
    /// All where four or more query heads share a value head.
    Grouped,
}

/// A better format for some, another for the rest.
#[derive(Clone, Copy)]
struct Raise {
    share: Share,
    to: Format,
    rest: Format,
}

/// What a file type means.
struct Recipe {
    kind: FileType,
    name: &'static str,
    id: u32,
    base: Format,
    /// attn_v, attn_qkv, attn_kv_b.
    value: Raise,
    down: Raise,
    /// attn_output; the second one in models of 8 experts.
    output: [Format; 2],
}

const fn recipe(kind: FileType, name: &'static str, id: u32, base: Format, value: Raise, down: Raise, output: [Format; 2]) -> Recipe {
    Recipe { kind, name, id, base, value, down, output }
}

const fn plain(kind: FileType, name: &'static str, id: u32, base: Format) -> Recipe {
    recipe(kind, name, id, base, raise(Share::Nothing, base, base), raise(Share::Nothing, base, base), [base, base])
}

const fn raise(share: Share, to: Format, rest: Format) -> Raise {
    Raise { share, to, rest }
}

use Format::{IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};

#[rustfmt::skip]
const RECIPES: [Recipe; 22] = [
    plain(FileType::F32, "F32", 0, Format::F32),
    plain(FileType::F16, "F16", 1, Format::F16),
    plain(FileType::BF16, "BF16", 32, Format::BF16),
    plain(FileType::Q4_0, "Q4_0", 2, Format::Q4_0),
    plain(FileType::Q4_1, "Q4_1", 3, Format::Q4_1),
    plain(FileType::Q5_0, "Q5_0", 8, Format::Q5_0),
    plain(FileType::Q5_1, "Q5_1", 9, Format::Q5_1),
    plain(FileType::Q8_0, "Q8_0", 7, Format::Q8_0),
    //                                              attn_v                               ffn_down                          attn_output
    recipe(FileType::Q2_K, "Q2_K", 10, Q2_K,        raise(Share::Grouped, Q4_K, Q3_K),   raise(Share::All, Q3_K, Q3_K),      [Q3_K, Q5_K]),
    recipe(FileType::Q3_K_S, "Q3_K_S", 11, Q3_K,    raise(Share::Nothing, Q3_K, Q3_K),   raise(Share::Nothing, Q3_K, Q3_K),  [Q3_K, Q5_K]),
    recipe(FileType::Q3_K_M, "Q3_K_M", 12, Q3_K,    raise(Share::First(2), Q5_K, Q4_K),  raise(Share::Part(16), Q5_K, Q4_K), [Q4_K, Q5_K]),
    recipe(FileType::Q3_K_L, "Q3_K_L", 13, Q3_K,    raise(Share::All, Q5_K, Q5_K),       raise(Share::All, Q5_K, Q5_K),      [Q5_K, Q3_K]),
    recipe(FileType::Q4_K_S, "Q4_K_S", 14, Q4_K,    raise(Share::First(4), Q5_K, Q4_K),  raise(Share::Part(8), Q5_K, Q4_K),  [Q4_K, Q5_K]),
    recipe(FileType::Q4_K_M, "Q4_K_M", 15, Q4_K,    raise(Share::Spread, Q6_K, Q4_K),    raise(Share::Spread, Q6_K, Q4_K),   [Q4_K, Q5_K]),
    plain(FileType::Q5_K_S, "Q5_K_S", 16, Q5_K),
    recipe(FileType::Q5_K_M, "Q5_K_M", 17, Q5_K,    raise(Share::Spread, Q6_K, Q5_K),    raise(Share::Spread, Q6_K, Q5_K),   [Q5_K, Q5_K]),
    plain(FileType::Q6_K, "Q6_K", 18, Q6_K),
    recipe(FileType::IQ4_NL, "IQ4_NL", 25, IQ4_NL,  raise(Share::Grouped, Q5_K, IQ4_NL), raise(Share::Part(8), Q5_K, IQ4_NL), [IQ4_NL, Q5_K]),
    recipe(FileType::IQ4_XS, "IQ4_XS", 30, IQ4_XS,  raise(Share::Grouped, Q5_K, IQ4_XS), raise(Share::Part(8), Q5_K, IQ4_XS), [IQ4_XS, Q5_K]),
    plain(FileType::MXFP4_MOE, "MXFP4_MOE", 38, Format::MXFP4),
    plain(FileType::TQ1_0, "TQ1_0", 36, Format::TQ1_0),
    plain(FileType::TQ2_0, "TQ2_0", 37, Format::TQ2_0),
];

/// Short names for the usual size of a family.
const ALIASES: [(&str, FileType); 3] = [("Q3_K", FileType::Q3_K_M), ("Q4_K", FileType::Q4_K_M), ("Q5_K", FileType::Q5_K_M)];

impl FileType {
    /// All of them, from plain to small.
    pub fn all() -> impl Iterator<Item = FileType> {
        RECIPES.iter().map(|r| r.kind)
    }

    fn recipe(self) -> &'static Recipe {
        // Every variant has its row, in the order of the variants: a test holds the table to that.
        &RECIPES[self as usize]
    }

    /// `Q4_K_M` and its like.
    pub fn name(self) -> &'static str {
        self.recipe().name
    }

    /// The type of this name, in capitals or not; `Q4_K` is short for `Q4_K_M`, and so on.
    pub fn from_name(name: &str) -> Option<FileType> {
        let names = RECIPES.iter().map(|r| (r.name, r.kind)).chain(ALIASES);
        names.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, kind)| kind)
    }

    /// Its number in `general.file_type`.
    pub fn id(self) -> u32 {
        self.recipe().id
    }

    /// What most of its weights are.
    pub fn format(self) -> Format {
        self.recipe().base
    }
}

impl std::fmt::Display for FileType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Parts of names of matrices that stay as they are: small, or hurt by any error.
const KEPT: [&str; 19] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "position_embd",
    "token_types.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "attn_rel_b.weight",
    "time_mix_first.weight",
    "time_mix_lerp_fused.weight",
    "time_mix_decay_w",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
];

/// RWKV's low-rank matrices, `time_mix_` and one of these.
const KEPT_TIME_MIX: [&str; 11] = ["w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2"];

/// Whether the tensor stays what it is in every file type.
fn kept(tensor: &TensorInfo) -> bool {
    // Trailing dimensions of 1 make no matrix.
    let dimensions = tensor.dims.iter().rposition(|&d| d > 1).map_or(0, |i| i + 1);
    let name = tensor.name.as_str();
    let time_mix = name.split_once("time_mix_").is_some_and(|(_, rest)| KEPT_TIME_MIX.iter().any(|k| rest.starts_with(k)));
    dimensions < 2 || !name.ends_with("weight") || time_mix || KEPT.iter().any(|k| name.contains(k))
}

/// What a matrix is for, as far as the choice of a format goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Output,
    Embedding,
    Key,
    Value,
    AttentionOutput,
    Down,
    Other,
}

fn role(name: &str) -> Role {
    const PARTS: [(&str, Role); 6] = [
        ("attn_qkv.weight", Role::Value),
        ("attn_kv_b.weight", Role::Value),
        ("attn_v.weight", Role::Value),
        ("attn_k.weight", Role::Key),
        ("attn_output.weight", Role::AttentionOutput),
        ("ffn_down", Role::Down),
    ];
    match name {
        "output.weight" => Role::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
        _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Role::Other, |(_, role)| *role),
    }
}

/// The number of the block that a tensor belongs to.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// What the choice depends on besides the tensor itself.
struct Model {
    layers: usize,
    experts: usize,
    /// Query heads that share a value head.
    grouped: usize,
    /// Tensors of [`Role::Value`].
    values: usize,
    tied: bool,
}

impl Model {
    fn of(gguf: &Gguf) -> Model {
        let metadata = gguf.metadata();
        let architecture = metadata.str("general.architecture").ok().flatten().unwrap_or_default();
        // Some models have a number for every layer: the first one's counts.
        let number = |key: &str| match metadata.get(&format!("{architecture}.{key}"))? {
            Value::Array(numbers) => numbers.get(0)?.integer(),
            number => number.integer(),
        };
        let number = |key: &str| number(key).and_then(|n| usize::try_from(n).ok());
        let heads = number("attention.head_count").unwrap_or(1);
        let names = || gguf.tensors().map(|t| t.name.as_str());
        Model {
            layers: number("block_count").unwrap_or_else(|| names().filter_map(layer).max().map_or(0, |last| last + 1)),
            experts: number("expert_count").unwrap_or(0),
            grouped: heads.checked_div(number("attention.head_count_kv").unwrap_or(heads)).unwrap_or(1),
            values: names().filter(|name| role(name) == Role::Value).count(),
            tied: gguf.tensor("output.weight").is_none(),
        }
    }

    /// A model of 80 layers with grouped heads has value matrices that are small beside the others: they can afford more bits.
    fn is_70b(&self) -> bool {
        self.layers == 80 && self.grouped > 1
    }

    fn chosen(&self, raise: Raise, at: usize, of: usize) -> Format {
        let better = match raise.share {
            Share::Nothing => false,
            Share::All => true,
            Share::First(n) => at < n,
            Share::Part(n) => at < of / n,
            Share::Spread => at < of / 8 || at >= 7 * of / 8 || (at - of / 8) % 3 == 2,
            Share::Grouped => self.grouped >= 4,
        };
        if better { raise.to } else { raise.rest }
    }
}

/// The type that every tensor of `gguf` gets in a file of this kind, in the order of the file, and whether it is one that its rows
/// forced upon it.
pub(super) fn plan(gguf: &Gguf, kind: FileType) -> Vec<(TensorType, Fit)> {
    let model = Model::of(gguf);
    let tensors: Vec<&TensorInfo> = gguf.tensors().collect();
    // "The first", "every third": by layer, in whatever order the file has them.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (layer(&tensors[i].name), &tensors[i].name));
    let mut plan = vec![(TensorType::F32, Fit::Wanted); tensors.len()];
    let (mut values, mut downs) = (0, 0);
    for i in order {
        let tensor = tensors[i];
        plan[i] = if kept(tensor) {
            (tensor.kind, Fit::Wanted)
        } else if matches!(kind, FileType::F32 | FileType::F16 | FileType::BF16) {
            (kind.format().into(), Fit::Wanted)
        } else {
            let role = role(&tensor.name);
            let format = wanted(kind.recipe(), &model, role, tensor, values, downs);
            values += usize::from(role == Role::Value);
            downs += usize::from(role == Role::Down);
            let fitting = fitting(format, tensor.dims[0]);
            (fitting.into(), if fitting == format { Fit::Wanted } else { Fit::InsteadOf(format) })
        };
    }
    plan
}

/// Whether a tensor has the format its file type wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Wanted,
    /// Its rows are no whole blocks of this one.
    InsteadOf(Format),
}

fn wanted(recipe: &Recipe, model: &Model, role: Role, tensor: &TensorInfo, values: usize, downs: usize) -> Format {
    let eight = model.experts == 8;
    if recipe.kind == FileType::MXFP4_MOE {
        // Matrices of several experts are one tensor of three dimensions.
        return if tensor.dims.get(2).is_some_and(|&experts| experts > 1) { Format::MXFP4 } else { Format::Q8_0 };
    }
    match role {
        Role::Embedding if !model.tied && matches!(recipe.base, Format::TQ1_0 | Format::TQ2_0) => Q4_K,
        Role::Embedding if !model.tied => recipe.base,
        Role::Output | Role::Embedding => {
            let whole = tensor.dims[0].is_multiple_of(recipe.base.block_len() as u64);
            if whole && recipe.base != Format::Q8_0 { Format::Q6_K } else { Format::Q8_0 }
        }
        Role::Key | Role::Value if eight => Format::Q8_0,
        Role::Key | Role::Other => recipe.base,
        Role::Value => match model.chosen(recipe.value, values, model.values) {
            Format::Q3_K | Format::Q4_K if model.is_70b() => Format::Q5_K,
            format => format,
        },
        // Experts of several layers can lie in any order: their names say where they belong.
        Role::Down if model.experts > 1 => model.chosen(recipe.down, layer(&tensor.name).unwrap_or(downs), model.layers),
        Role::Down => model.chosen(recipe.down, downs, model.layers),
        Role::AttentionOutput => recipe.output[usize::from(eight)],
    }
}

/// `format`, or the nearest one whose blocks rows of `cols` can be cut into.
fn fitting(format: Format, cols: u64) -> Format {
    let whole = |format: Format| cols.is_multiple_of(format.block_len() as u64);
    if whole(format) {
        return format;
    }
    let smaller = match format {
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        Format::TQ1_0 | Format::TQ2_0 => Format::Q4_0,
        Format::Q2_K | Format::Q3_K | Format::IQ4_XS | Format::IQ3_S | Format::IQ3_XXS => Format::IQ4_NL,
        Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => Format::IQ4_NL,
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 | Format::IQ4_NL | Format::MXFP4 => Format::F16,
        Format::F16 | Format::BF16 | Format::F32 => Format::F16,
    };
    if whole(smaller) { smaller } else { Format::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_type_is_found_by_its_name() {
        for (i, kind) in FileType::all().enumerate() {
            assert_eq!((kind as usize, FileType::from_name(&kind.name().to_lowercase())), (i, Some(kind)));
        }
        assert_eq!(FileType::from_name("q4_k"), Some(FileType::Q4_K_M));
        assert_eq!(FileType::from_name("Q9_K"), None);
    }

    #[test]
    fn better_formats_are_spread_as_described() {
        let model = Model { layers: 32, experts: 0, grouped: 4, values: 32, tied: false };
        let raised = |share| (0..32).filter(|&i| model.chosen(raise(share, Q6_K, Q4_K), i, 32) == Q6_K).collect::<Vec<_>>();
        assert_eq!(raised(Share::Spread), [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(raised(Share::Part(8)), [0, 1, 2, 3]);
        assert_eq!(raised(Share::First(2)), [0, 1]);
        assert_eq!((raised(Share::Grouped).len(), raised(Share::Nothing).len()), (32, 0));
    }

    #[test]
    fn rows_decide_what_fits() {
        assert_eq!([512, 288, 100].map(|cols| fitting(Q4_K, cols)), [Q4_K, Format::Q5_0, Format::F16]);
        assert_eq!([Q2_K, Q3_K, Q5_K, Q6_K].map(|f| fitting(f, 64)), [IQ4_NL, IQ4_NL, Format::Q5_1, Format::Q8_0]);
        assert_eq!(fitting(Format::Q8_0, 48), Format::F16);
    }

    #[test]
    fn vectors_norms_and_small_things_stay() {
        let tensor = |name: &str, dims: &[u64]| {
            let mut writer = crate::gguf::GgufWriter::new();
            writer.tensor(name, dims, TensorType::F32).unwrap();
            let mut body = writer.start(Vec::new()).unwrap();
            body.append(&vec![0; 4 * dims.iter().product::<u64>() as usize]).unwrap();
            let gguf = Gguf::from_vec(body.finish().unwrap()).unwrap();
            kept(gguf.tensors().next().unwrap())
        };
        for (name, dims) in [
            ("blk.0.attn_norm.weight", &[32, 4][..]),
            ("blk.0.attn_q.bias", &[32, 4]),
            ("output_norm.weight", &[32]),
            ("blk.0.ffn_gate_inp.weight", &[32, 4]),
            ("blk.0.attn_q.weight", &[32, 1]),
            ("blk.0.time_mix_w1.weight", &[32, 4]),
        ] {
            assert!(tensor(name, dims), "{name}");
        }
        for name in ["blk.0.attn_q.weight", "output.weight", "blk.3.ffn_down_exps.weight", "blk.0.time_mix_gate.weight"] {
            assert!(!tensor(name, &[32, 4]), "{name}");
        }
    }
}
