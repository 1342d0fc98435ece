"""Options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option("--model", "-m", help="Model folder, or nano (embedded).", envvar="WEIGHT_PATH")]
Adapter = Annotated[str | None, typer.Option("--adapter", "-a", help="LoRA adapter folder; none: the base alone.")]
Tagger = Annotated[
    str, typer.Option(help="Domain tagger's folder; nano: the embedded one; none; auto: the embedded with nano.")
]
MaskAdapter = Annotated[str | None, typer.Option(help="Another adapter's folder, which draws; words stay --adapter's.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Frames = Annotated[int, typer.Option(min=1, max=512, help="Frames of a clip to look at.")]
MaxTiles = Annotated[int | None, typer.Option(min=1, max=256, help="Most tiles of a picture; default: the adapter's.")]
BatchSize = Annotated[int, typer.Option(min=1, max=1024, help="Files judged together.")]
Trust = Annotated[Path | None, typer.Option(help="PEM certificates of C2PA signers' anchors to trust.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Seed = Annotated[int, typer.Option(help="Same seed and same files: same bytes.")]
Engine = Annotated[str, typer.Option(help="processes, or ray (the extra).")]
Workers = Annotated[int, typer.Option(min=0, max=256, help="Processes; 0: as many as cores.")]
Backend = Annotated[str, typer.Option(help="local, or openai: a vLLM, LMDeploy or SGLang at --url.")]
Url = Annotated[str | None, typer.Option("--url", help="With --backend openai: http://host:port/v1.")]
ServedModel = Annotated[str | None, typer.Option(help="The model's name there; default: the first.")]
Server = Annotated[str | None, typer.Option(help="Judge by a server of 'ivdetect serve' at this address.")]
TokenEnv = Annotated[str | None, typer.Option(help="Environment variable with the server's token.")]
Timeout = Annotated[float, typer.Option(min=1, max=86400, help="Seconds for one answer of a server.")]
ScanEngine = Annotated[str, typer.Option(help="local, or ray: several processes, or a cluster at RAY_ADDRESS.")]
RayWorkers = Annotated[int, typer.Option(min=0, max=4096, help="Models on Ray; 0: one a GPU, else one a core.")]
