//! What was computed once is not computed again: saved or copied, in memory or in a file, whole or cut, it gives the same bits.

mod synthetic;

use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{Cache, CacheOptions, KvType, Part, Saved};
use hob::decoder::Run;
use hob::device::{LoadOptions, load};
use hob::family::FAMILIES;
use hob::prefix::Folder;
use hob::{Device, GpuLayers, Model, ModelOptions, Sampler, Sampling, Session};
use std::path::{Path, PathBuf};
use std::time::Duration;
use synthetic::Header;

/// Of these the ones that say most.
const FEW: [&str; 5] = ["llama", "gpt-oss", "deepseek4", "mamba2", "qwen35"];

/// Full, window, latent keys, window with entries, chunks, recurrent, and several of them.
const KINDS: [&str; 10] = ["llama", "gpt-oss", "deepseek2", "deepseek4", "llama4", "mamba2", "qwen35", "falcon-h1", "lfm2", "kimi-linear"];

fn decoder(family: &str) -> Box<dyn Run> {
    load(&Header::read(family).build(), &LoadOptions { threads: 1, context: Some(256), device: Device::Cpu, gpu_layers: GpuLayers::Auto })
        .unwrap()
}

fn cache(model: &dyn Run, capacity: usize, batch: usize) -> Cache {
    model.cache(&CacheOptions { capacity, k: KvType::F16, v: KvType::F16, batch }).unwrap()
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7 % 79 + i / 50) % 80).collect()
}

/// Appends tokens in steps of `batch`; the bits of the last one's logits.
fn feed(model: &dyn Run, cache: &mut Cache, tokens: &[u32], batch: usize) -> Vec<u32> {
    let mut logits = Vec::new();
    for part in tokens.chunks(batch) {
        let entry = |(i, token): (usize, &u32)| {
            let logits = if i + 1 == part.len() { Logits::Want } else { Logits::Skip };
            Entry { token: *token, sequence: 0, position: (cache.len() + i) as u32, logits }
        };
        let entries: Vec<Entry> = part.iter().enumerate().map(entry).collect();
        model.step(&entries, &mut [cache], &Canceller::new(), &mut logits).unwrap();
    }
    logits.iter().map(|x| x.to_bits()).collect()
}

/// All parts of a sequence, cut at `at`.
fn parts(from: &Cache, at: usize) -> Vec<(Part, Vec<u8>)> {
    let len = from.len();
    let wanted = [Part::Positions(0..at), Part::Positions(at / 64 * 64..len), Part::Whole(len)];
    let save = |part: Part| {
        let mut bytes = Vec::new();
        from.save(&part, None, &mut bytes).unwrap();
        assert_eq!(bytes.len(), from.part_bytes(&part));
        (part, bytes)
    };
    wanted.map(save).into_iter().collect()
}

fn borrowed(parts: &[(Part, Vec<u8>)]) -> Vec<(Part, &[u8])> {
    parts.iter().map(|(part, bytes)| (part.clone(), bytes.as_slice())).collect()
}

#[test]
fn every_family_goes_on_from_what_was_saved_with_the_same_bits() {
    let all = tokens(30);
    for name in FAMILIES.iter().flat_map(|f| f.names) {
        let model = decoder(name);
        let mut first = cache(&*model, 64, 16);
        feed(&*model, &mut first, &all[..21], 16);
        let parts = parts(&first, 10);
        let want = feed(&*model, &mut first, &all[21..], 16);
        let mut second = cache(&*model, 200, 7);
        second.resume(21, &borrowed(&parts)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(feed(&*model, &mut second, &all[21..], 7), want, "{name}");
    }
}

#[test]
fn every_kind_of_state_goes_on_in_a_cache_of_another_size() {
    let all = tokens(240);
    for name in KINDS {
        let model = decoder(name);
        let mut first = cache(&*model, 256, 16);
        feed(&*model, &mut first, &all[..201], 16);
        let parts = parts(&first, 128);
        let want = feed(&*model, &mut first, &all[201..], 16);
        for (capacity, batch) in [(240, 240), (4000, 16), (300, 1)] {
            // Into an empty one, and behind what it has computed itself.
            for own in [0, 150] {
                let mut second = cache(&*model, capacity, batch);
                feed(&*model, &mut second, &all[..own], batch);
                second.resume(201, &borrowed(&parts)).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(second.len(), 201);
                assert_eq!(feed(&*model, &mut second, &all[201..], batch), want, "{name}, {capacity}, {batch}, {own}");
                // How far it says that it can be cut back is how far it can.
                let back = (1..240).find(|len| second.holds(*len, 240));
                if let Some(back) = back {
                    second.truncate(back).unwrap();
                    assert_eq!(feed(&*model, &mut second, &all[back..], batch), want, "{name} cut back to {back}");
                }
            }
        }
        // What does not fit is refused, and nothing has changed.
        let mut second = cache(&*model, 200, 16);
        assert!(second.resume(201, &borrowed(&parts)).is_err());
        let mut second = cache(&*model, 256, 16);
        let mut cut = borrowed(&parts);
        cut.iter_mut().for_each(|(_, bytes)| *bytes = &bytes[..bytes.len().saturating_sub(1)]);
        assert!(second.resume(201, &cut).is_err() && second.resume(202, &borrowed(&parts)).is_err() && second.resume(201, &[]).is_err());
        assert_eq!((second.len(), feed(&*model, &mut second, &all, 16)), (0, want));
        let grows = first.saved() == Saved::ByPosition;
        assert_eq!(grows, name == "llama" || name == "deepseek2");
    }
}

/// The 80 tokens of the small models: what the template below needs.
fn vocabulary() -> Vec<String> {
    let letters = ('a'..='z').chain('A'..='Z').chain('0'..='9').chain("ĠĊ.,?!:;-+/=()".chars()).map(String::from);
    letters.chain(["<|im_start|>", "<|im_end|>", "<think>", "</think>"].map(String::from)).collect()
}

/// As Qwen 3's: thinking is begun by the prompt and left out of what was said before.
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";

/// A small model that can be talked to.
fn talking(family: &str, options: ModelOptions) -> Model {
    let tokens = vocabulary();
    assert_eq!(tokens.len(), 80);
    let kinds: Vec<i32> = tokens.iter().map(|t| if t.len() > 4 { 3 } else { 1 }).collect();
    let more = |writer: &mut hob::gguf::GgufWriter| {
        writer.set("tokenizer.ggml.model", "gpt2");
        writer.set("tokenizer.ggml.pre", "gpt-2");
        writer.set("tokenizer.ggml.tokens", tokens);
        writer.set("tokenizer.ggml.token_type", kinds);
        writer.set("tokenizer.ggml.merges", vec!["a b".to_owned()]);
        writer.set("tokenizer.ggml.eos_token_id", 77u32);
        writer.set("tokenizer.chat_template", TEMPLATE);
    };
    let mut header = Header::read(family);
    header.metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
    let gguf = hob::gguf::Gguf::from_vec(header.bytes_with(more)).unwrap();
    options.device(Device::Cpu).threads(1).build(gguf).unwrap()
}

fn options() -> ModelOptions {
    Model::options().context(1024).micro_batch(16)
}

/// A folder of a test's own, empty.
fn folder(name: &str) -> Folder {
    let path = std::env::temp_dir().join(format!("hob-prefix-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    Folder::new(path).least(Duration::ZERO)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for inside in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        all.extend(std::fs::read_dir(inside.path()).unwrap().flatten().map(|entry| entry.path()));
    }
    all.sort();
    all
}

fn bits(session: &Session) -> Vec<u32> {
    assert!(!session.logits().is_empty());
    session.logits().iter().map(|x| x.to_bits()).collect()
}

fn fed(model: &Model, tokens: &[u32]) -> Session {
    let mut session = model.session().unwrap();
    session.feed(tokens).unwrap();
    session
}

/// Sequences of 330 tokens that are alike up to 300.
fn pair() -> (Vec<u32>, Vec<u32>) {
    let one = tokens(330);
    let mut two = one.clone();
    two[300..].iter_mut().for_each(|t| *t = (*t + 3) % 76);
    (one, two)
}

#[test]
fn sessions_of_a_process_share_what_they_have_computed() {
    let (one, two) = pair();
    for name in KINDS {
        let alone = talking(name, options());
        let (want_one, want_two) = (bits(&fed(&alone, &one)), bits(&fed(&alone, &two)));
        let model = talking(name, options().prefix_cache(64 << 20));
        let first = fed(&model, &one);
        assert_eq!((bits(&first), first.stats().from_memory), (want_one.clone(), 0));
        let second = fed(&model, &two);
        assert_eq!(bits(&second), want_two, "{name}");
        // All that is alike, or what comes before the mark near the end of the first.
        let (stats, whole) = (second.stats(), alone.run().cache(alone.cache_options()).unwrap().saved() == Saved::Whole);
        assert_eq!((stats.from_memory, stats.prompt_tokens), if whole { (298, 32) } else { (300, 30) }, "{name}");
        let again = fed(&model, &one);
        assert_eq!((bits(&again), again.stats().from_memory > 290), (want_one, true), "{name}");
        assert!(model.prefix_bytes() > 0 && model.prefix_bytes() <= 64 << 20);
        // A budget too small for anything changes nothing.
        let poor = talking(name, options().prefix_cache(1000));
        drop(fed(&poor, &one));
        let second = fed(&poor, &two);
        assert_eq!((bits(&second), second.stats().from_memory, poor.prefix_bytes() <= 1000), (want_two, 0, true), "{name}");
    }
}

#[test]
fn what_was_computed_yesterday_is_there_today() {
    let (one, two) = pair();
    for name in FEW {
        let folder = folder(name);
        let alone = talking(name, options());
        let want = bits(&fed(&alone, &two));
        let model = talking(name, options().prefix_folder(folder.clone()));
        let mut session = fed(&model, &one);
        let said: Vec<u32> =
            session.generate(Sampler::new(&Sampling::greedy()).unwrap()).max_tokens(9).ignore_end().map(Result::unwrap).collect();
        drop((session, model));
        // In a context of another size, with other batches: the bits are the same.
        for today in [options(), options().context(600).micro_batch(50)] {
            let model = talking(name, today.prefix_folder(folder.clone()));
            let session = fed(&model, &two);
            assert_eq!(bits(&session), want, "{name}");
            assert!(session.stats().from_disk >= 298, "{name}: {:?}", session.stats());
            // The conversation goes on where it was.
            let longer = [one.as_slice(), &said, &[1, 2, 3]].concat();
            let session = fed(&model, &longer);
            assert_eq!(bits(&session), bits(&fed(&alone, &longer)), "{name}");
            assert!(session.stats().from_disk >= 330, "{name}: {:?}", session.stats());
        }
        let other = talking(name, options().cache_types(KvType::F32, KvType::F16).prefix_folder(folder.clone()));
        if alone.config().architecture != "mamba2" {
            assert_eq!(fed(&other, &one).stats().from_disk, 0, "{name}: another type of cache has other bits");
        }
        drop(other);
        let kept = folder.list();
        assert!(!kept.is_empty() && kept.iter().any(|kept| kept.tokens >= 338), "{kept:?}");
        let bytes: u64 = files(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(kept.iter().map(|kept| kept.bytes).sum::<u64>(), bytes);
        assert_eq!(folder.clear(Some("no such model")).unwrap().files, 0);
        assert!(folder.clear(None).unwrap().files > 0 && folder.list().is_empty() && files(folder.path()).is_empty());
        std::fs::remove_dir_all(folder.path()).unwrap();
    }
}

#[test]
fn turn_twenty_starts_as_fast_as_turn_two() {
    for name in FEW {
        let model = talking(name, options().context(2048));
        let mut chat = model.chat().system("You are kind and brief.").sampling(Sampling::greedy()).max_tokens(12);
        let mut counts = Vec::new();
        for turn in 0..20 {
            chat.say(&format!("Tell me of number {turn}, will you?")).unwrap().text().unwrap();
            counts.push(chat.stats().prompt_tokens);
            if turn == 19 {
                let before = chat.messages()[..39].to_vec();
                let mut anew = model.chat().sampling(Sampling::greedy()).max_tokens(12).history(before);
                anew.say("Tell me of number 19, will you?").unwrap().text().unwrap();
                assert_eq!(anew.messages().last(), chat.messages().last(), "{name}");
                assert!(anew.stats().prompt_tokens > 900, "{name}: {}", anew.stats());
            }
        }
        // A question with what the template puts around it, and the answer before it, without its thinking.
        assert!(counts[1..].iter().all(|n| *n <= 100), "{name}: {counts:?}");
    }
}

#[test]
fn an_edited_message_is_read_from_where_it_begins() {
    for name in FEW {
        let model = talking(name, options().context(2048));
        let mut session = model
            .chat()
            .system("You are kind and brief, and speak of nothing but the sea, at length.")
            .sampling(Sampling::greedy())
            .max_tokens(90);
        session.say("First question?").unwrap().text().unwrap();
        session.clear();
        session.say("Another question?").unwrap().text().unwrap();
        let stats = session.stats();
        assert!(stats.prompt_tokens < 45 && stats.reused_tokens > 80, "{name}: {stats:?}");
    }
}

#[test]
fn forks_marks_and_files_go_on_with_the_same_bits() {
    let (one, two) = pair();
    for name in KINDS {
        let model = talking(name, options());
        let (want_one, want_two) = (bits(&fed(&model, &one)), bits(&fed(&model, &two)));
        let mut session = fed(&model, &one[..300]);
        let mark = session.checkpoint().unwrap();
        let mut fork = session.fork().unwrap();
        session.feed(&one[300..]).unwrap();
        fork.feed(&two[300..]).unwrap();
        assert_eq!((bits(&session), bits(&fork)), (want_one.clone(), want_two.clone()), "{name}");
        for _ in 0..2 {
            session.restore(&mark).unwrap();
            assert_eq!((session.len(), session.computed(), session.logits().len()), (300, 300, 80), "{name}");
            session.feed(&two[300..]).unwrap();
            assert_eq!(bits(&session), want_two, "{name}");
        }
        // A mark of one session serves another, if need be by computing.
        let mut other = fed(&model, &two[..10]);
        other.restore(&mark).unwrap();
        other.feed(&one[300..]).unwrap();
        assert_eq!(bits(&other), want_one, "{name}");

        // The last token that was said has not been computed yet, and is part of what is saved.
        other.generate(Sampler::new(&Sampling::greedy()).unwrap()).max_tokens(3).ignore_end().for_each(|token| assert!(token.is_ok()));
        let path = std::env::temp_dir().join(format!("hob-session-{name}-{}", std::process::id()));
        other.save(&path).unwrap();
        let mut loaded = model.load_session(&path).unwrap();
        assert_eq!((loaded.tokens(), loaded.computed()), (other.tokens(), 332));
        loaded.feed(&[5, 6]).unwrap();
        other.feed(&[5, 6]).unwrap();
        assert_eq!((bits(&loaded), loaded.stats().prompt_tokens), (bits(&other), 3), "{name}");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(model.load_session(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}

/// Deterministic choices (SplitMix64).
fn random(seed: &mut u64, below: usize) -> usize {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % below.max(1) as u64) as usize
}

#[test]
fn damaged_files_are_never_believed() {
    let (all, longer) = (tokens(70), tokens(80));
    for name in ["llama", "gpt-oss", "qwen35", "deepseek4"] {
        let folder = folder(&format!("damage-{name}"));
        let model = talking(name, options().prefix_folder(folder.clone()));
        drop(fed(&model, &all));
        drop(model);
        let sound: Vec<(PathBuf, Vec<u8>)> =
            files(folder.path()).into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        // One that keeps nothing itself, so that what is there stays as it is.
        let model = talking(name, options().prefix_folder(folder.clone().least(Duration::from_secs(1000))));
        let want = bits(&fed(&talking(name, options()), &longer));
        assert!(fed(&model, &longer).stats().from_disk > 0, "{name}");
        for seed in 0..50 {
            let mut state = seed;
            for (path, bytes) in &sound {
                std::fs::write(path, bytes).unwrap();
            }
            let (path, bytes) = &sound[random(&mut state, sound.len())];
            let mut other = bytes.clone();
            let at = random(&mut state, other.len());
            match random(&mut state, 6) {
                0 => other.truncate(at),
                1 => other.extend_from_slice(&[0; 9]),
                2 => other = vec![at as u8; at],
                3 => other = sound[random(&mut state, sound.len())].1.clone(),
                _ => other[at] ^= 1 << random(&mut state, 8),
            }
            std::fs::write(path, &other).unwrap();
            let session = fed(&model, &longer);
            assert_eq!(bits(&session), want, "{name}, seed {seed}");
            assert!(other == *bytes || session.stats().from_disk == 0 || session.stats().from_disk < 71);
        }
        // Strangers, and what a killed process leaves, are no matter.
        let strange = sound[0].0.parent().unwrap();
        for stranger in ["p-0-70-00-00", "p-5-3-0000000000000000-0000000000000000", "w-99-zz", "notes.txt", "p-0-70.1.1.part"] {
            std::fs::write(strange.join(stranger), b"half of it").unwrap();
        }
        assert_eq!(bits(&fed(&model, &longer)), want, "{name}");
        assert!(strange.join("notes.txt").exists());
        std::fs::remove_dir_all(folder.path()).unwrap();
    }
}

#[test]
fn a_folder_stays_within_its_budget() {
    for name in ["llama", "qwen35"] {
        let alone = talking(name, options());
        let folder = folder(&format!("budget-{name}"));
        let model = talking(name, options().prefix_folder(folder.clone()));
        drop(fed(&model, &tokens(100)));
        drop(model);
        let size = |folder: &Folder| files(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
        // Room for two such sequences and a half.
        let budget = size(&folder) * 5 / 2;
        let folder = folder.clone().budget(budget);
        for round in 0..6u32 {
            let all: Vec<u32> = tokens(100).iter().map(|t| (t + 7 * round) % 76).collect();
            let model = talking(name, options().prefix_folder(folder.clone()));
            assert_eq!(bits(&fed(&model, &all)), bits(&fed(&alone, &all)));
            drop(model);
            assert!(size(&folder) <= budget && size(&folder) > 0);
            let model = talking(name, options().prefix_folder(folder.clone()));
            assert!(fed(&model, &all).stats().from_disk > 60, "{name}: the latest stays");
        }
        std::fs::remove_dir_all(folder.path()).unwrap();
    }
}

#[test]
fn processes_that_share_a_folder_do_not_harm_each_other() {
    let folder = folder("shared").budget(400_000);
    let alone = talking("qwen35", options());
    let sequences: Vec<Vec<u32>> = (0..4u32).map(|i| tokens(120).iter().map(|t| (t + i) % 76).collect()).collect();
    let want: Vec<_> = sequences.iter().map(|all| bits(&fed(&alone, all))).collect();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (folder, sequences, want) = (&folder, &sequences, &want);
            // A model of its own is as good as a process of its own.
            scope.spawn(move || {
                for round in 0..4 {
                    let model = talking("qwen35", options().prefix_folder(folder.clone()));
                    let at = (thread + round) % sequences.len();
                    assert_eq!(bits(&fed(&model, &sequences[at])), want[at]);
                }
            });
        }
    });
    let bytes: u64 = files(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes > 0 && bytes < 800_000, "{bytes}");
    std::fs::remove_dir_all(folder.path()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_said_once() {
    let path = std::env::temp_dir().join(format!("hob-prefix-file-{}", std::process::id()));
    std::fs::write(&path, b"a file where a folder should be").unwrap();
    let model = talking("llama", options().prefix_folder(Folder::new(&path).least(Duration::ZERO)));
    let mut session = fed(&model, &tokens(100));
    session.keep();
    drop(session);
    drop(fed(&model, &tokens(100)));
    model.flush_prefixes();
    assert!(model.prefix_trouble().is_some_and(|why| why.contains("hob-prefix-file")));
    assert!(model.prefix_trouble().is_none());
    std::fs::remove_file(&path).unwrap();
}
