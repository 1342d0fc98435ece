"""Peak memory and time of loading an original checkpoint, against the size of its weights and of one shard.

Writes a bf16 checkpoint of about 1.2 GB in four shards, loads it in a fresh process and compares the growth of the
resident set (mapped file pages included) with weights + one shard. Linux only.

    python benchmarks/load.py            # writes results/load.json; needs 2.5 GB of disk for the moment
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from original_model import make_config, make_tensors, write_checkpoint  # noqa: E402

OUT = Path(__file__).parents[1] / "results" / "load.json"
SHARDS = 4
# The kernel's high-water mark of the resident set, reset first: getrusage's would include the parent's before exec.
CHILD = """
import pathlib, sys, time
from internvl_detect.model.checkpoint import load_base
status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
def kib(key): return int(status.read_text().split(key + ":")[1].split()[0])
reset.write_text("5")
before, began = kib("VmRSS"), time.perf_counter()
loaded = load_base(sys.argv[1], dtype="bfloat16", device="cpu")
print((kib("VmHWM") - before) * 1024, time.perf_counter() - began)
"""


def main() -> None:
    config = make_config(
        v_hidden_size=1024, v_num_hidden_layers=6, v_num_attention_heads=16, v_intermediate_size=4096, v_image_size=448,
        t_hidden_size=2048, t_num_hidden_layers=9, t_num_attention_heads=16, t_num_key_value_heads=8,
        t_intermediate_size=8192, t_vocab_size=4096,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        tensors = {name: t.to(torch.bfloat16) for name, t in make_tensors(config).items()}
        folder = write_checkpoint(Path(temporary) / "model", config, tensors, shards=SHARDS)
        del tensors
        sizes = [p.stat().st_size for p in folder.glob("*.safetensors")]
        ran = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True)
    grown, seconds = map(float, ran.stdout.split())
    allowed = sum(sizes) + max(sizes)
    found = {
        "weights_bytes": sum(sizes),
        "largest_shard_bytes": max(sizes),
        "peak_growth_bytes": int(grown),
        "peak_over_weights_plus_shard": round(grown / allowed, 3),
        "seconds": round(seconds, 2),
    }
    print(json.dumps(found, indent=1))
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
