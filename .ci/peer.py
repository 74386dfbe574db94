#!/usr/bin/env python3
"""Families against llama.cpp, on small models with random weights.

    .ci/peer.py HOB 'COMMAND TO RUN llama-server' [FAMILY…]

For each header in engine/tests/headers, or those named, it writes a model of that shape in F32 with a vocabulary of bytes,
asks llama-server for the log-probabilities after each prefix of a text, and holds `hob logits` against them. Prints the
largest difference of a family beside the spread of the numbers. It needs llama.cpp, so it is no stage of `.ci/run`.

Known: GELU is a table of f16 there, which parts the two by 1e-3 to 2e-3. Some releases take no notice of the epsilon of qwen2vl (with one of 1e-9 the two agree).
"""
import json, math, os, random, shlex, struct, subprocess, sys, tempfile, time, urllib.request

HEADERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../engine/tests/headers")
VOCAB = 320
TOKENS = [1, 44, 71, 71, 200, 79, 12, 5, 266, 131, 62, 18, 44, 9, 171, 23, 50, 301, 37, 60, 15, 28, 77, 240, 16, 81, 99, 300, 4, 150]
# Beyond it two logits differ; differences of order and of an f16 table (GELU) stay far below.
BOUND = 2e-3
# Layers and lengths that llama.cpp has in its code, not in the file: keys, widths in their place, and how near so many layers come.
# (Gemma 3n: the table of GELU parts them by a little more with each layer, as does a deviation over n - 1, hence the width.)
OVERRIDES = {
    "exaone4": ({"block_count": 64}, {}, BOUND),
    "gemma3n": (
        {"block_count": 25, "attention.shared_kv_layers": 5, "feed_forward_length": 4096, "activation_sparsity_scale": [1.6448533535003662] * 10 + [0.0] * 15},
        {1536: 6400, 96: 4096},
        0.2,
    ),
    "smallthinker": ({"attention.sliding_window": 4096}, {}, BOUND),
}


def text(s):
    s = s.encode()
    return struct.pack("<Q", len(s)) + s


def value(v):
    """A value as GGUF writes it: its type, then it."""
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    kind = value(v[0])[:4]
    if type(v[0]) is int:
        kind = struct.pack("<I", 5)  # arrays of integers are signed there
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(v)) + b"".join(value(x)[4:] for x in v)


def parse(s):
    if "," in s:
        return [parse(x) for x in s.split(",")]
    if s in ("true", "false"):
        return s == "true"
    for kind in (int, float):
        try:
            return kind(s)
        except ValueError:
            pass
    return s


def read(family):
    metadata, tensors = {}, []
    for line in open(f"{HEADERS}/{family}.txt"):
        line = line.rstrip("\n")
        if " = " in line:
            key, v = line.split(" = ", 1)
            metadata[key] = parse(v)
        elif line:
            name, _, *dims = line.split(" ")
            tensors.append((name, [int(d) for d in dims]))
    keys, widths, _ = OVERRIDES.get(family, ({}, {}, BOUND))
    metadata.update({f"{metadata['general.architecture']}.{key}": value for key, value in keys.items()})
    layers = metadata[f"{metadata['general.architecture']}.block_count"]
    blocks = [t for t in tensors if t[0].startswith("blk.*")]
    tensors = [t for t in tensors if not t[0].startswith("blk.*")]
    tensors += [(n.replace("*", str(i)), d) for i in range(layers) for n, d in blocks]
    widths = {80: VOCAB, **widths}
    return metadata, [(n, [widths.get(d, d) for d in dims]) for n, dims in tensors]


def weights(name, dims, noise):
    n = math.prod(dims)
    if name.endswith("ssm_a"):
        centre, spread = -1.0, 0.5
    elif name.endswith(".bias") or "_probs_b" in name:
        centre, spread = 0.0, 0.2
    elif len(dims) == 1:
        centre, spread = 1.0, 0.3
    else:
        centre, spread = 0.0, 1.7 / math.sqrt(dims[0])
    return struct.pack(f"<{n}f", *(centre + spread * noise.uniform(-1, 1) for _ in range(n)))


def write(path, metadata, tensors):
    noise = random.Random(7)
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + [f"\u2581w{i}" for i in range(VOCAB - 259)]
    arch = metadata["general.architecture"]
    metadata = dict(metadata)
    metadata.update({
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [-float(i) for i in range(VOCAB)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (VOCAB - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    })
    if f"{arch}.vocab_size" in metadata:
        metadata[f"{arch}.vocab_size"] = VOCAB
    blobs, head, at = [], b"", 0
    for name, dims in tensors:
        blob = weights(name, dims, noise)
        head += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", 0, at)
        blob += bytes(-len(blob) % 32)
        at += len(blob)
        blobs.append(blob)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(text(k) + value(v) for k, v in metadata.items()) + head
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32) + b"".join(blobs))


def npy(path):
    data = open(path, "rb").read()
    length = struct.unpack("<H", data[8:10])[0]
    rows = struct.unpack(f"<{(len(data) - 10 - length) // 4}f", data[10 + length:])
    return [rows[i:i + VOCAB] for i in range(0, len(rows), VOCAB)]


def log_softmax(row):
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]


def ask(child, port, body, patience=20):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    until = time.time() + patience
    while True:
        try:
            return json.load(urllib.request.urlopen(request, timeout=30))
        except (urllib.error.URLError, ConnectionError) as error:
            if child.poll() is not None or time.time() > until or isinstance(error, urllib.error.HTTPError) and error.code != 503:
                raise
            time.sleep(0.1)


def peer(server, model, port, log):
    flags = f"-m {model} --port {port} -c 256 -t 1 -np 1 -ngl 0 -ctk f32 -ctv f32 -fa off --no-warmup --no-webui --no-jinja --chat-template chatml --swa-full"
    child = subprocess.Popen([*shlex.split(server), *shlex.split(flags)], stdout=log, stderr=log, cwd=os.path.dirname(model))
    try:
        rows = []
        for end in range(1, len(TOKENS) + 1):
            body = dict(prompt=TOKENS[:end], n_predict=1, n_probs=VOCAB, cache_prompt=False, temperature=1.0, samplers=["temperature"], logit_bias=[[300, 1000.0]])
            top = ask(child, port, body)["completion_probabilities"][0]["top_logprobs"]
            row = [None] * VOCAB
            for entry in top:
                row[entry["id"]] = entry["logprob"]
            rows.append(row)
        return rows
    finally:
        subprocess.run(["pkill", "-f", f"port {port} "], check=False)
        child.terminate()
        child.wait()


def main():
    hob, server, *names = sys.argv[1:]
    names = names or sorted(n[:-4] for n in os.listdir(HEADERS))
    failed = 0
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:
        for i, name in enumerate(names):
            model, log = f"{folder}/{name}.gguf", open(f"{folder}/{name}.log", "wb")
            write(model, *read(name))
            out = f"{folder}/{name}.npy"
            flags = ["-c", "256", "-ctk", "f32", "-ctv", "f32", "--tokens", ",".join(map(str, TOKENS)), "--out", out]
            ran = subprocess.run([hob, "logits", model, *flags], capture_output=True, text=True)
            if ran.returncode:
                print(f"{name:16} hob: {ran.stderr.strip()[:300]}")
                failed += 1
                continue
            ours = [log_softmax(row) for row in npy(out)]
            try:
                theirs = peer(server, model, 18100 + i, log)
            except Exception as error:
                theirs = None
                print(f"{name:16} {error}")
            if theirs is None:
                log.close()
                lines = [l for l in open(f"{folder}/{name}.log", errors="replace") if "rror" in l or "ssert" in l or "fail" in l]
                print(f"{name:16} llama.cpp: {' / '.join(l.strip() for l in lines[:3])[:300]}")
                failed += 1
                continue
            worst = max(abs(a - b) for o, t in zip(ours, theirs) for a, b in zip(o, t) if b is not None)
            seen = sum(b is not None for t in theirs for b in t)
            spread = (sum(x * x for o in ours for x in o) / (len(ours) * VOCAB) - (sum(map(sum, ours)) / (len(ours) * VOCAB)) ** 2) ** 0.5
            bound = OVERRIDES.get(name, ({}, {}, BOUND))[2]
            first = next((p for p, (o, t) in enumerate(zip(ours, theirs)) if any(b is not None and abs(a - b) > bound for a, b in zip(o, t))), None)
            good = worst <= bound and seen == len(TOKENS) * VOCAB
            failed += not good
            print(f"{name:16} {'agrees ' if good else 'DIFFERS'} largest difference {worst:.1e} of logits spread {spread:.2f}, {seen} numbers" + ("" if first is None else f", from position {first}"), flush=True)
    print(f"{len(names) - failed} agree, {failed} do not")
    sys.exit(failed > 0)


main()
