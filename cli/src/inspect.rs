//! `hob inspect`: what a file holds. Whatever can be opened can be inspected, also what hob cannot run.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use hob::cache::{CacheOptions, KvType};
use hob::gguf::{Gguf, TensorType, Value};
use hob::store::file_type;
use serde_json::{Value as Json, json};

use crate::failure::{self, Failure};
use crate::models::{Absent, locate};
use crate::table::{Side, plain};
use crate::terminal::printable;
use crate::units;

const AFTER: &str = "\
Examples:
  hob inspect MODEL.gguf | less
  hob inspect MODEL.gguf --json | jq '.bits_per_weight'
  hob inspect MODEL.gguf --json | jq -r '.tensors[] | select(.type == \"Q6_K\") | .name'";

/// Flags of `hob inspect`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them
    model: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Tokens that the size of the cache is told for, where the model was trained for more.
const CONTEXT: usize = 8192;

/// Items of an array that are shown; a vocabulary is long.
const SHOWN: usize = 8;

/// Amounts of a file, or of its tensors of one type.
#[derive(Clone, Copy, Default)]
pub(crate) struct Amount {
    pub(crate) tensors: u64,
    pub(crate) params: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    fn bits_per_weight(self) -> f64 {
        8.0 * self.bytes as f64 / self.params.max(1) as f64
    }
}

/// What the tensors of a file amount to, by type, largest first.
fn by_type(gguf: &Gguf) -> Vec<(TensorType, Amount)> {
    let mut types: BTreeMap<&str, (TensorType, Amount)> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let (_, amount) = types.entry(tensor.kind.name()).or_insert((tensor.kind, Amount::default()));
        amount.tensors += 1;
        amount.params += tensor.elements();
        amount.bytes += tensor.size();
    }
    let mut types: Vec<_> = types.into_values().collect();
    types.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.bytes));
    types
}

/// What all tensors of a file amount to.
pub(crate) fn total(gguf: &Gguf) -> Amount {
    by_type(gguf).iter().fold(Amount::default(), |sum, (_, amount)| Amount {
        tensors: sum.tensors + amount.tensors,
        params: sum.params + amount.params,
        bytes: sum.bytes + amount.bytes,
    })
}

fn text(gguf: &Gguf, key: &str) -> Option<String> {
    gguf.metadata().str(key).ok().flatten().map(|text| printable(text).into_owned())
}

/// Architecture, size and type in a few words: `llama 1.24 B Q4_K_M`.
pub(crate) fn kind(gguf: &Gguf) -> String {
    let architecture = text(gguf, "general.architecture").unwrap_or_else(|| "?".into());
    format!("{architecture} {} {}", units::count(total(gguf).params), file_type(gguf))
}

/// The file's name for itself, and its [`kind`].
pub(crate) fn title(gguf: &Gguf) -> String {
    text(gguf, "general.name").filter(|name| !name.is_empty()).map_or_else(|| kind(gguf), |name| format!("{name} · {}", kind(gguf)))
}

/// What hob makes of a file.
struct Card {
    text: String,
    /// Tokens that the cache is told for, and its bytes then.
    context: usize,
    cache_bytes: u64,
}

/// The architecture card, or why there is none.
fn card(gguf: &Gguf) -> Result<Card, String> {
    let options = hob::device::LoadOptions { threads: 1, context: None, device: hob::Device::Cpu, gpu_layers: hob::GpuLayers::Auto };
    let card = hob::device::load(gguf, &options).and_then(|run| {
        // Room that is asked for and not touched takes no memory.
        let context = run.config().context.min(CONTEXT);
        let batch = hob::model::default_micro_batch(run.config());
        let options = CacheOptions { capacity: context, k: KvType::F16, v: KvType::F16, batch };
        Ok(Card { text: run.card(), context, cache_bytes: run.cache(&options)?.bytes() })
    });
    card.map_err(|error| {
        let (what, help) = failure::describe(&error);
        if help.is_empty() { what } else { format!("{what} ({help})") }
    })
}

/// Runs `hob inspect`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let gguf = Gguf::open(locate(&args.model, Absent::Refused)?)?;
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &object(&gguf)).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "{} · {} on disk", title(&gguf), units::bytes(gguf.file_bytes()))?;
    match card(&gguf) {
        Ok(card) => {
            writeln!(out, "\nArchitecture\n{}", indented(&card.text))?;
            writeln!(out, "  cache of {} tokens: {}", card.context, units::bytes(card.cache_bytes))?;
        }
        Err(why) => writeln!(out, "\nhob cannot run it: {why}")?,
    }
    writeln!(out, "\nTypes")?;
    let row = |name: &str, amount: Amount| {
        let tensors = format!("{} tensors", amount.tensors);
        let bits = format!("{:.2} bits/weight", amount.bits_per_weight());
        [name.to_owned(), tensors, units::count(amount.params), units::bytes(amount.bytes), bits]
    };
    let mut rows: Vec<_> = by_type(&gguf).iter().map(|(kind, amount)| row(kind.name(), *amount)).collect();
    rows.push(row("all", total(&gguf)));
    plain(out, [Side::Left, Side::Right, Side::Right, Side::Right, Side::Right], &rows)?;

    writeln!(out, "\nMetadata")?;
    let rows: Vec<_> = gguf.metadata().iter().map(|(key, value)| [printable(key).into_owned(), kind_of(value), shown(value)]).collect();
    plain(out, [Side::Left, Side::Left, Side::Left], &rows)?;

    writeln!(out, "\nTensors (ggml's order: the length of a row first)")?;
    let rows: Vec<_> = gguf
        .tensors()
        .map(|t| [printable(&t.name).into_owned(), format!("{:?}", t.dims), t.kind.name().to_owned(), units::bytes(t.size())])
        .collect();
    plain(out, [Side::Left, Side::Left, Side::Left, Side::Right], &rows)?;
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("{}[{}]", array.kind(), array.len()),
        other => other.kind().to_string(),
    }
}

/// A value on one line, the beginning of a long one.
fn shown(value: &Value) -> String {
    const WIDTH: usize = 80;
    let whole = match value {
        Value::Str(text) => serde_json::to_string(text).unwrap_or_default(),
        Value::Array(array) => {
            let items: Vec<String> = (0..array.len().min(SHOWN)).filter_map(|at| array.get(at)).map(|item| shown(&item)).collect();
            format!("[{}{}]", items.join(", "), if array.len() > SHOWN { ", …" } else { "" })
        }
        other => other.to_string(),
    };
    let whole = printable(&whole);
    if whole.chars().count() > WIDTH { whole.chars().take(WIDTH - 1).chain(['…']).collect() } else { whole.into_owned() }
}

fn object(gguf: &Gguf) -> Json {
    let (all, card) = (total(gguf), card(gguf));
    let types: Vec<Json> = by_type(gguf)
        .iter()
        .map(|(kind, a)| json!({ "type": kind.name(), "tensors": a.tensors, "params": a.params, "bytes": a.bytes }))
        .collect();
    let metadata: serde_json::Map<String, Json> = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), json_of(value))).collect();
    let tensors: Vec<Json> = gguf
        .tensors()
        .map(
            |t| json!({ "name": t.name, "dims": t.dims, "type": t.kind.name(), "bytes": t.size(), "part": t.part(), "offset": t.offset() }),
        )
        .collect();
    json!({
        "architecture": text(gguf, "general.architecture"),
        "name": text(gguf, "general.name"),
        "file_type": file_type(gguf),
        "file_bytes": gguf.file_bytes(),
        "params": all.params,
        "bytes": all.bytes,
        "bits_per_weight": all.bits_per_weight(),
        "card": card.as_ref().ok().map(|card| &card.text),
        "cache": card.as_ref().ok().map(|card| json!({ "tokens": card.context, "bytes": card.cache_bytes })),
        "cannot_run": card.as_ref().err(),
        "types": types,
        "metadata": metadata,
        "tensors": tensors,
    })
}

/// A metadata value as JSON; of a long array its type, its length and its beginning.
fn json_of(value: &Value) -> Json {
    const WHOLE: usize = 64;
    let items = |array: &hob::gguf::Array, n: usize| -> Json { (0..n).filter_map(|at| array.get(at)).map(|item| json_of(&item)).collect() };
    match value {
        Value::Array(array) if array.len() > WHOLE => {
            json!({ "array_of": array.kind().to_string(), "len": array.len(), "first": items(array, SHOWN) })
        }
        Value::Array(array) => items(array, array.len()),
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        // Through its shortest decimal: 1e-5, not 9.999999747378752e-6.
        Value::F32(v) => json!(v.to_string().parse::<f64>().unwrap_or_default()),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::Str(v) => json!(v),
    }
}
