//! What models are called: `user/repo:QUANT`, addresses, and what the names of their files say.
//!
//! ```text
//! user/repo                        the repository's Q4_K_M, or what it has instead: see [`choose`]
//! user/repo:Q5_K_M                 this quantization
//! user/repo@v1.1:Q5_K_M            of this branch, tag or commit
//! user/repo/folder/file.gguf       this file
//! hf.co/…, hf://…, https://huggingface.co/…      the same, as programs and browsers write it
//! https://elsewhere.org/file.gguf  an address
//! ```
//! After llama.cpp's `-hf user/repo[:quant]` and its default, and the addresses of huggingface.co.

use std::fmt;

use crate::error::{Error, Fault, Result};

/// The quantization that is meant where none is said.
pub const DEFAULT_QUANTIZATION: &str = "Q4_K_M";

/// What is taken in its stead, in this order, where a repository has none: what gpt-oss is made in, and the plainest.
const NEXT_BEST: [&str; 2] = ["MXFP4", "Q8_0"];

/// Whose addresses are read as those of a repository.
const HOSTS: [&str; 3] = ["huggingface.co", "hf.co", "www.huggingface.co"];

/// A model somewhere on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// In a repository of Hugging Face, or of a server that speaks its language.
    Repository(Repository),
    /// A file at any address.
    Address(String),
}

/// A repository, and what of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `user/repo`.
    pub id: String,
    /// Branch, tag or commit; `main` where none is said.
    pub revision: String,
    /// As `Q4_K_M`; where none is said [`DEFAULT_QUANTIZATION`].
    pub quantization: Option<String>,
    /// One file alone.
    pub file: Option<String>,
}

impl Repository {
    /// The repository's default.
    pub fn new(id: impl Into<String>) -> Repository {
        Repository { id: id.into(), revision: "main".into(), quantization: None, file: None }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        match (&self.file, &self.quantization) {
            (Some(file), _) => write!(f, "/{file}"),
            (None, Some(quantization)) => write!(f, ":{quantization}"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Repository(repository) => repository.fmt(f),
            Reference::Address(address) => f.write_str(address),
        }
    }
}

impl std::str::FromStr for Reference {
    type Err = Error;

    /// # Errors
    /// [`Error::Input`] where the text is none of the forms above.
    fn from_str(text: &str) -> Result<Reference> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            let rest = HOSTS.iter().find_map(|host| text.strip_prefix(host)?.strip_prefix('/')).unwrap_or(text);
            return short(rest, text).map(Reference::Repository);
        };
        match scheme {
            "hf" => short(rest, text).map(Reference::Repository),
            "http" | "https" => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let path = path.split(['?', '#']).next().unwrap_or_default();
                if HOSTS.contains(&host) { page(path, text).map(Reference::Repository) } else { Ok(Reference::Address(text.to_owned())) }
            }
            other => Err(refused(text, &format!("`{other}://`"))),
        }
    }
}

/// `user/repo[@revision][:QUANT]` or `user/repo/file.gguf`.
fn short(rest: &str, text: &str) -> Result<Repository> {
    let (rest, quantization) = match rest.rsplit_once(':') {
        Some((rest, quantization)) => (rest, Some(quantization)),
        None => (rest, None),
    };
    let mut pieces = rest.splitn(3, '/');
    let (user, name, file) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default(), pieces.next());
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    checked(user, name, revision, quantization, file, text)
}

/// The path of a page: `user/repo`, or with `/tree/main`, `/blob/main/file.gguf`, `/resolve/main/file.gguf`.
fn page(path: &str, text: &str) -> Result<Repository> {
    let mut pieces = path.trim_end_matches('/').splitn(5, '/');
    let (user, name) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
    let (name, quantization) = name.split_once(':').map_or((name, None), |(name, quantization)| (name, Some(quantization)));
    match (pieces.next(), pieces.next(), pieces.next()) {
        (None, _, _) => checked(user, name, "main", quantization, None, text),
        (Some("tree"), Some(revision), _) => checked(user, name, revision, quantization, None, text),
        (Some("blob" | "resolve" | "raw"), Some(revision), Some(file)) => checked(user, name, revision, None, Some(&unescaped(file)), text),
        (Some(_), _, _) => Err(refused(text, "a page that is neither a repository nor a file of one")),
    }
}

fn checked(user: &str, name: &str, revision: &str, quantization: Option<&str>, file: Option<&str>, text: &str) -> Result<Repository> {
    // As the hub has them: letters, digits, `-`, `_`, `.`; a name of dots alone would be a path.
    let word = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.chars().all(|c| c == '.')
    };
    if !word(user) || !word(name) {
        return Err(refused(text, "something else"));
    }
    if !word(revision) && !revision.split('/').all(word) {
        return Err(refused(text, &format!("revision `{revision}`")));
    }
    if let Some(quantization) = quantization.filter(|q| !word(q)) {
        return Err(refused(text, &format!("quantization `{quantization}`")));
    }
    if let Some(file) = file.filter(|file| !is_plain(file) || !file.to_ascii_lowercase().ends_with(".gguf")) {
        return Err(refused(text, &format!("`{file}`, which is no .gguf file")));
    }
    Ok(Repository {
        id: format!("{user}/{name}"),
        revision: revision.to_owned(),
        quantization: quantization.map(str::to_owned),
        file: file.map(str::to_owned),
    })
}

fn refused(text: &str, found: &str) -> Error {
    let help = "such as bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M";
    Error::Input(Fault::at(text).expected("user/repo[:QUANT] or an address").found(found).help(help))
}

/// A path of a repository that leads nowhere else: no `..`, no `\`, no drive, nothing absolute.
pub(crate) fn is_plain(path: &str) -> bool {
    !path.is_empty()
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.chars().any(|c| c.is_control() || "\\:*?\"<>|".contains(c))
}

/// `%20` and its like as what they stand for.
pub(crate) fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code.filter(|_| first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// The last part of a path.
pub(crate) fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The path without `.gguf` and without the number of a part, and that number with the count: `(1, 3)`.
pub(crate) fn stem(path: &str) -> (&str, Option<(u32, u32)>) {
    let whole = match path.len().checked_sub(5) {
        Some(at) if path.is_char_boundary(at) && path[at..].eq_ignore_ascii_case(".gguf") => &path[..at],
        Some(_) | None => path,
    };
    let five = |text: &str| text.parse::<u32>().ok().filter(|_| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()));
    let parts = whole.rsplit_once("-of-").and_then(|(rest, count)| {
        let (stem, number) = rest.rsplit_once('-')?;
        Some((stem, (five(number)?, five(count)?)))
    });
    match parts {
        Some((stem, (number, count))) if (1..=count).contains(&number) => (stem, Some((number, count))),
        Some(_) | None => (whole, None),
    }
}

/// The quantization that a file's name speaks of, as the name has it: `Q4_K_M`, `UD-Q4_K_XL`, `f16`.
///
/// ```
/// use hob::store::quantization;
///
/// assert_eq!(quantization("Q4_K_M/Qwen3-4B-Q4_K_M-00001-of-00002.gguf"), Some("Q4_K_M"));
/// assert_eq!(quantization("tinyllama-1.1b-chat-v1.0.Q8_0.gguf"), Some("Q8_0"));
/// assert_eq!(quantization("model.gguf"), None);
/// ```
pub fn quantization(path: &str) -> Option<&str> {
    let (stem, _) = stem(path);
    let name = base(stem);
    let words = name.rsplit(['-', '.']).chain(stem.rsplit('/').skip(1).take(1));
    for word in words {
        // Older names join their words by `_`, which is in the types too: `model_q4_k_m`.
        let starts = std::iter::once(0).chain(word.match_indices('_').map(|(at, _)| at + 1));
        if let Some(found) = starts.map(|at| &word[at..]).find(|tail| is_type(tail)) {
            return Some(match name.find(&format!("UD-{found}")) {
                Some(at) => &name[at..at + 3 + found.len()],
                None => found,
            });
        }
    }
    None
}

fn is_type(word: &str) -> bool {
    const PLAIN: [&str; 8] = ["F16", "FP16", "BF16", "F32", "FP32", "MXFP4", "NVFP4", "MXFP4_MOE"];
    let upper = word.to_ascii_uppercase();
    let bits = ["IQ", "TQ", "Q"].iter().find_map(|kind| upper.strip_prefix(kind));
    PLAIN.contains(&upper.as_str())
        || bits.is_some_and(|bits| {
            let mut chars = bits.chars();
            chars.next().is_some_and(|c| ('1'..='8').contains(&c)) && matches!(chars.next(), None | Some('_'))
        })
}

/// Whether a file goes with a model and is none: what sees pictures, what drafts, what a quantizer reads.
pub(crate) fn is_beside(path: &str) -> bool {
    let name = base(path).to_ascii_lowercase();
    name.contains("mmproj") || name.contains("imatrix") || ["mtp-", "eagle3-", "dflash-", "dspark-"].iter().any(|b| name.starts_with(b))
}

/// The files of one model among those of a repository, by their places in `paths`: all parts, in order.
///
/// Of several that bear the quantization the one with the shortest name is meant; `UD-Q4_K_M` passes for `Q4_K_M` where there
/// is no other. Where none is asked for: [`DEFAULT_QUANTIZATION`], else MXFP4 or Q8_0, else the only one there is.
///
/// # Errors
/// [`Error::Input`] where nothing fits, with what there is; `place` names the repository.
pub fn choose(place: &str, paths: &[&str], wanted: Option<&str>) -> Result<Vec<usize>> {
    let mut models: Vec<(&str, Vec<usize>)> = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        if !path.to_ascii_lowercase().ends_with(".gguf") || is_beside(path) {
            continue;
        }
        let (stem, _) = stem(path);
        match models.iter_mut().find(|(other, _)| *other == stem) {
            Some((_, files)) => files.push(at),
            None => models.push((stem, vec![at])),
        }
    }
    let named = |wanted: &str| {
        let fits = |stem: &str| {
            let found = quantization(stem)?;
            let rank = match found.strip_prefix("UD-") {
                _ if found.eq_ignore_ascii_case(wanted) => 0,
                Some(plain) if plain.eq_ignore_ascii_case(wanted) => 1,
                Some(_) | None => return None,
            };
            Some((rank, stem.len(), stem.to_owned()))
        };
        models.iter().filter_map(|(stem, files)| Some((fits(stem)?, files))).min().map(|(_, files)| files)
    };
    let found = match (wanted, models.as_slice()) {
        (Some(wanted), _) => named(wanted),
        (None, [(_, only)]) => Some(only),
        (None, _) => std::iter::once(DEFAULT_QUANTIZATION).chain(NEXT_BEST).find_map(named),
    };
    let Some(files) = found else {
        let mut there: Vec<&str> = models.iter().map(|(stem, _)| quantization(stem).unwrap_or_else(|| base(stem))).collect();
        there.sort_unstable();
        there.dedup();
        return Err(Error::Input(match there.first() {
            None => {
                Fault::at(place).expected("GGUF files").found("none").help("look for a repository of the model whose name ends in GGUF")
            }
            Some(first) => Fault::at(place)
                .expected(wanted.unwrap_or(DEFAULT_QUANTIZATION))
                .found(there.join(", "))
                .help(format!("say which, as {place}:{first}")),
        }));
    };
    let mut files = files.clone();
    files.sort_by_key(|at| stem(paths[*at]).1);
    let (numbers, count): (Vec<u32>, _) = {
        let parts: Vec<_> = files.iter().filter_map(|at| stem(paths[*at]).1).collect();
        (parts.iter().map(|(number, _)| *number).collect(), parts.first().map_or(0, |(_, count)| *count))
    };
    match (1..=count).find(|number| !numbers.contains(number)) {
        None => Ok(files),
        Some(lacking) => {
            let name = base(stem(paths[files[0]]).0);
            Err(Error::Input(Fault::at(format!("{place}: {name}")).expected(format!("part {lacking} of {count}")).found("no such file")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_all_their_forms() {
        let cases = [
            ("ada/Loom-GGUF", "ada/Loom-GGUF"),
            (" ada/Loom-GGUF:q5_k_m ", "ada/Loom-GGUF:q5_k_m"),
            ("hf.co/ada/Loom-GGUF:Q8_0", "ada/Loom-GGUF:Q8_0"),
            ("hf://ada/Loom@v1.1:Q8_0", "ada/Loom@v1.1:Q8_0"),
            ("ada/Loom/sub/loom-Q8_0.gguf", "ada/Loom/sub/loom-Q8_0.gguf"),
            ("https://huggingface.co/ada/Loom", "ada/Loom"),
            ("https://huggingface.co/ada/Loom/tree/main", "ada/Loom"),
            ("https://huggingface.co/ada/Loom/blob/main/a%20b.gguf?x=1", "ada/Loom/a b.gguf"),
            ("https://hf.co/ada/Loom/resolve/abc/sub/b.gguf?download=true", "ada/Loom@abc/sub/b.gguf"),
            ("https://elsewhere.org/x/y.gguf?z", "https://elsewhere.org/x/y.gguf?z"),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()).unwrap_or_else(|e| e.to_string()), want, "{text}");
        }
        for text in
            ["", "ada", "ada/", "../loom", "ada/..", "ada/loom:", "ada/loom:a b", "ada/loom/../x.gguf", "ada/loom/x.bin", "ftp://x/y"]
        {
            assert!(matches!(text.parse::<Reference>(), Err(Error::Input(_))), "{text}");
        }
    }

    #[test]
    fn file_names_tell_their_type_and_their_part() {
        let cases = [
            ("Loom-7B-Q4_K_M.gguf", Some("Q4_K_M"), None),
            ("sub/Loom-UD-Q4_K_XL-00002-of-00003.gguf", Some("UD-Q4_K_XL"), Some((2, 3))),
            ("loom.f16.GGUF", Some("f16"), None),
            ("loom_q5_1.gguf", Some("q5_1"), None),
            ("BF16/loom-00001-of-00002.gguf", Some("BF16"), Some((1, 2))),
            ("loom-IQ2_XXS.gguf", Some("IQ2_XXS"), None),
            ("gpt-oss-20b-mxfp4.gguf", Some("mxfp4"), None),
            ("Qwen3-4B-Instruct-2507.gguf", None, None),
            ("loom-00004-of-00003.gguf", None, None),
        ];
        for (path, want, part) in cases {
            assert_eq!((quantization(path), stem(path).1), (want, part), "{path}");
        }
    }

    #[test]
    fn the_file_that_is_meant_is_chosen() {
        let paths = [
            "README.md",
            "Loom-Q8_0.gguf",
            "Loom-UD-Q4_K_M.gguf",
            "Loom-Q4_K_M.gguf",
            "Loom-imatrix-Q4_K_M.gguf",
            "mmproj-Loom-Q4_K_M.gguf",
            "F16/Loom-F16-00002-of-00002.gguf",
            "F16/Loom-F16-00001-of-00002.gguf",
            "Loom-Q2_K-00001-of-00002.gguf",
            "Loom-UD-Q3_K_XL.gguf",
        ];
        let pick = |paths: &[&str], wanted| choose("ada/Loom", paths, wanted).map_err(|e| e.to_string());
        assert_eq!(pick(&paths, None), Ok(vec![3]));
        assert_eq!(pick(&paths, Some("q8_0")), Ok(vec![1]));
        assert_eq!(pick(&paths, Some("UD-Q4_K_M")), Ok(vec![2]));
        assert_eq!(pick(&paths, Some("Q3_K_XL")), Ok(vec![9]));
        assert_eq!(pick(&paths, Some("f16")), Ok(vec![7, 6]));
        assert_eq!(pick(&paths, Some("Q2_K")).unwrap_err(), "ada/Loom: Loom-Q2_K: expected part 2 of 2, found no such file");
        let none = pick(&paths, Some("Q4_K")).unwrap_err();
        assert_eq!(none, "ada/Loom: expected Q4_K, found F16, Q2_K, Q4_K_M, Q8_0, UD-Q3_K_XL, UD-Q4_K_M; say which, as ada/Loom:F16");
        assert_eq!(pick(&["oss-mxfp4.gguf", "oss-F16.gguf"], None), Ok(vec![0]));
        assert_eq!(pick(&["loom.gguf"], None), Ok(vec![0]));
        assert!(pick(&["a-Q5_0.gguf", "b-Q6_K.gguf"], None).unwrap_err().contains("found Q5_0, Q6_K"));
        assert!(pick(&["a.bin"], None).unwrap_err().contains("expected GGUF files"));
    }
}
