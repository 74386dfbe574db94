//! Small models made from a header: metadata and tensor shapes as a real file of the family has them, weights at random.
//!
//! A header has lines `key = value` and lines `name TYPE dims…` (row length first); `blk.*` stands for every layer.

use hob::gguf::{Gguf, GgufWriter, TensorType, Value};
use hob_kernels::Format;
use hob_kernels::format::quantize;

/// Deterministic noise (SplitMix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// One tensor of a header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) dims: Vec<u64>,
}

/// A header, to be changed and made into a model.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) tensors: Vec<Line>,
}

impl Header {
    /// The header of a family.
    pub(crate) fn read(family: &str) -> Header {
        let path = format!("{}/../engine/tests/headers/{family}.txt", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("every family needs a header: {path}: {e}"));
        let mut header = Header { metadata: Vec::new(), tensors: Vec::new() };
        for line in text.lines() {
            if let Some((key, value)) = line.split_once(" = ") {
                header.metadata.push((key.into(), value.into()));
                continue;
            }
            let words: Vec<_> = line.split(' ').collect();
            let dims = words[2..].iter().map(|d| d.parse().unwrap()).collect();
            header.tensors.push(Line { name: words[0].into(), kind: words[1].into(), dims });
        }
        let layers: usize = header.value("block_count").parse().unwrap();
        let (blocks, mut all): (Vec<_>, Vec<_>) = header.tensors.into_iter().partition(|t| t.name.starts_with("blk.*"));
        for i in 0..layers {
            all.extend(blocks.iter().map(|t| Line { name: t.name.replace('*', &i.to_string()), ..t.clone() }));
        }
        Header { tensors: all, ..header }
    }

    fn value(&self, key: &str) -> &str {
        &self.metadata.iter().find(|(k, _)| k.ends_with(key)).unwrap().1
    }

    /// Whether some layer has keys and no values.
    #[allow(dead_code)] // not every test that reads headers asks
    pub(crate) fn values_from_keys(&self) -> bool {
        let has = |name: &str| self.tensors.iter().any(|t| t.name == name);
        self.tensors.iter().any(|t| t.name.ends_with(".attn_k.weight") && !has(&t.name.replace("attn_k.", "attn_v.")))
    }

    /// The model, in memory.
    pub(crate) fn build(&self) -> Gguf {
        Gguf::from_vec(self.bytes()).unwrap()
    }

    /// The bytes of its file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with(|_| {})
    }

    /// The same with more in its metadata.
    pub(crate) fn bytes_with(&self, more: impl FnOnce(&mut GgufWriter)) -> Vec<u8> {
        let mut writer = GgufWriter::new();
        more(&mut writer);
        for (key, value) in &self.metadata {
            let value = if value.contains(',') {
                list(value)
            } else if let Ok(truth) = value.parse::<bool>() {
                Value::from(truth)
            } else if let Ok(n) = value.parse::<u32>() {
                Value::from(n)
            } else if let Ok(x) = value.parse::<f32>() {
                Value::from(x)
            } else {
                Value::from(value.as_str())
            };
            writer.set(key, value);
        }
        for t in &self.tensors {
            writer.tensor(&t.name, &t.dims, TensorType::from_name(&t.kind).unwrap()).unwrap();
        }
        let mut body = writer.start(Vec::new()).unwrap();
        let mut noise = Noise(7);
        for t in &self.tensors {
            let n: u64 = t.dims.iter().product();
            // Norms and divisors about one, matrices such that widths keep the size of what goes through; rates of decay below 0.
            let (centre, spread) = if t.name.ends_with("ssm_a") {
                (-1.0, 0.5)
            } else if t.dims.len() == 1 {
                (1.0, 0.1)
            } else {
                (0.0, 1.5 / (t.dims[0] as f32).sqrt())
            };
            let x: Vec<f32> = (0..n).map(|_| centre + spread * noise.next()).collect();
            match Format::from_name(&t.kind) {
                Some(format) => {
                    let mut bytes = vec![0; format.row_bytes(x.len()).unwrap()];
                    quantize(format, &x, None, &mut bytes);
                    body.append(&bytes).unwrap();
                }
                None => body.append(&vec![0; TensorType::from_name(&t.kind).unwrap().bytes(&t.dims).unwrap() as usize]).unwrap(),
            }
        }
        body.finish().unwrap()
    }
}

/// An array of numbers, or else of truths.
fn list(value: &str) -> Value {
    let parts = || value.split(',');
    if let Ok(numbers) = parts().map(str::parse).collect::<Result<Vec<u32>, _>>() {
        return Value::from(numbers);
    }
    match parts().map(str::parse).collect::<Result<Vec<f32>, _>>() {
        Ok(numbers) => Value::from(numbers),
        Err(_) => Value::from(parts().map(|v| v == "true").collect::<Vec<bool>>()),
    }
}
