"""How fast a manifest is read, split and made into conversations, and how much memory that takes, by its length.

Each size in a fresh process: ``read_manifest`` alone, then all three steps at once, streaming. ``held`` is the control,
the same with all rows in a list: it must show in the memory if the figure of streaming is to mean anything. Rates go
by CPU time. Linux only.

    python benchmarks/manifest.py            # writes results/manifest.json; about a minute, 1 GB of disk
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

OUT = Path(__file__).parents[1] / "results" / "manifest.json"
SIZES = (10_000, 100_000, 1_000_000)
# The kernel's high-water mark of the resident set, reset when everything is imported.
CHILD = """
import json, pathlib, sys, time
from internvl_detect.data.conversations.from_manifest import manifest_to_conversations
from internvl_detect.data.manifest import read_manifest, split_by_group
status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
def kib(key): return int(status.read_text().split(key + ":")[1].split()[0])
source, out, held = sys.argv[1:]
reset.write_text("5")
before, began = kib("VmRSS"), time.process_time()
n = sum(1 for _ in read_manifest(source))
read_s = time.process_time() - began
rows = list(read_manifest(source)) if held == "held" else read_manifest(source)
rows = split_by_group(rows, {"train": 0.8, "val": 0.1, "test": 0.1})
manifest_to_conversations(rows, out)
all_s = time.process_time() - began - read_s
print(json.dumps({"rows": n, "way": held, "read_rows_per_s": round(n / read_s),
                  "read_split_write_rows_per_s": round(n / all_s), "peak_growth_kib": kib("VmHWM") - before}))
"""


def write(path: Path, n: int) -> None:
    """A manifest of ``n`` rows: half real, four files to a group, every seventh a clip."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("path,label,kind,generator,mask,source,licence,group_id,split\n")
        for i in range(n):
            fake, clip = i % 2, i % 7 == 0
            end, kind = ("mp4", "video") if clip else ("jpg", "photo")
            mask = f"masks/{i % 1000:03d}/{i:07d}.png" if fake and not clip else ""
            label = "tampered" if fake else "real"
            file.write(f"pictures/{i % 1000:03d}/{i:07d}.{end},{label},{kind},,{mask},camera {i % 9},CC0,g{i // 4},\n")


def main() -> None:
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for n in SIZES:
            source = Path(temporary) / f"{n}.csv"
            write(source, n)
            for way in ("streamed", "held") if n == 100_000 else ("streamed",):
                command = [sys.executable, "-c", CHILD, str(source), str(Path(temporary) / f"out{n}{way}"), way]
                found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
                print(json.dumps(found[-1]))
    OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
