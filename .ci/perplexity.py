#!/usr/bin/env python3
"""perplexity.py HOB KIT: `hob perplexity` on the kit's trained models against llama-perplexity's values, within 0.5 %."""
import re
import subprocess
import sys

RECORDED = {"stories260K-f32": 70.1900, "stories260K-q8_0": 70.2871, "stories260K-q4_0": 74.8564, "llama2xs-260K-f32": 133.4546}

hob, kit = sys.argv[1:]
failed = 0
for name, expected in RECORDED.items():
    command = [hob, "perplexity", f"{kit}/trained/{name}.gguf", "-f", f"{kit}/text/english-200k.txt", "-c", "256"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    numbers = re.findall(r"\d+\.\d+", (done.stdout.strip().splitlines() or [""])[-1])
    found = float(numbers[-1]) if done.returncode == 0 and numbers else None
    good = found is not None and abs(found / expected - 1) <= 0.005
    failed += not good
    print(f"{name}: {found}, recorded {expected}{'' if good else ' FAILED ' + done.stderr.strip()[-300:]}")
print(f"{len(RECORDED) - failed} passed, {failed} failed")
sys.exit(bool(failed))
