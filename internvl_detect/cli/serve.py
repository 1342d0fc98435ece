"""``ivdetect serve``: the HTTP server and its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from internvl_detect.cli.options import Adapter, Device, Dtype, MaskAdapter, MaxTiles, Model, Tagger

serve = typer.Typer(help="Serve detection over HTTP, with a page.", invoke_without_command=True, rich_markup_mode=None)
DataDir = Annotated[
    Path, typer.Option("--data-dir", help="Jobs, results, tokens; one server at a time.", envvar="IVDETECT_DATA")
]
DEFAULT_FOLDER = Path("~/.local/share/ivdetect")


@serve.callback()
def run_server(
    context: typer.Context,
    model: Model = "nano",
    adapter: Adapter = None,
    tagger: Tagger = "auto",
    mask_adapter: MaskAdapter = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    data_dir: DataDir = DEFAULT_FOLDER,
    allow_host: Annotated[list[str] | None, typer.Option(help="A name that clients may call this server by.")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask nobody for a token, wherever it listens.")] = False,
    batch_ms: Annotated[float, typer.Option(help="How long the model waits for more files.")] = 5.0,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Most files judged together.")] = 8,
    lanes: Annotated[int, typer.Option(min=1, max=64, help="Batches at once: on a CPU, small models.")] = 1,
    decoders: Annotated[int, typer.Option(min=1, max=64, help="Processes that open files.")] = 2,
    queue: Annotated[int, typer.Option(min=1, help="Most files of direct requests; beyond: 429.")] = 64,
    job_queue: Annotated[int, typer.Option(min=1, help="Most files of jobs that wait; beyond: 429.")] = 2000,
    deadline_s: Annotated[float, typer.Option(help="Longest time of a direct request; beyond: 504.")] = 60.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the uploads of jobs until their results expire.")] = False,
    expire_h: Annotated[float, typer.Option(help="Hours until results and previews are deleted.")] = 24.0,
    cache: Annotated[bool, typer.Option(help="Answer files seen before from the cache.")] = True,
    rate_per_min: Annotated[int, typer.Option(min=1, help="Requests a minute of one token or address.")] = 600,
    concurrent: Annotated[int, typer.Option(min=1, help="Requests at once of one token or address.")] = 32,
    max_file_mb: Annotated[int, typer.Option(min=1, max=4096, help="Of one file, in MiB.")] = 256,
    max_request_mb: Annotated[int, typer.Option(min=1, max=65536, help="Of one request, in MiB.")] = 1024,
    max_files: Annotated[int, typer.Option(min=1, max=10_000, help="Of one request.")] = 64,
    max_megapixels: Annotated[float, typer.Option(help="Of a picture or frame.")] = 60.0,
    max_seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 900.0,
    max_frames: Annotated[int, typer.Option(min=1, max=512, help="Frames of a clip one may ask for.")] = 64,
    decode_mib: Annotated[int, typer.Option(help="Memory of a decoding process.")] = 2048,
    decode_s: Annotated[float, typer.Option(help="Seconds to decode a file.")] = 60.0,
    max_tiles: MaxTiles = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    calibration: Annotated[Path | None, typer.Option(help="A file from 'ivdetect calibrate --out'.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log requests, without names.")] = False,
) -> None:
    """Serve detection over HTTP, with a page, until Ctrl-C or SIGTERM; what was taken is finished.

    \b
      ivdetect serve                                  # http://127.0.0.1:8000, for this machine
      ivdetect serve token laptop                     # prints a token; then the server asks for it
      ivdetect serve --host 0.0.0.0 --allow-host detect.example.org
    """
    if context.invoked_subcommand is not None:
        return
    try:
        from internvl_detect.serve.app import run
        from internvl_detect.serve.settings import MIB, Settings
    except ImportError as error:
        raise _missing(error) from None

    settings = Settings(
        data_dir=data_dir.expanduser(),
        host=host,
        port=port,
        allow_hosts=tuple(allow_host or ()),
        no_auth=no_auth,
        batch_ms=batch_ms,
        batch_size=batch_size,
        lanes=lanes,
        decoders=decoders,
        queue=queue,
        job_queue=job_queue,
        deadline_s=deadline_s,
        keep=keep,
        expire_h=expire_h,
        cache=cache,
        rate_per_min=rate_per_min,
        concurrent=concurrent,
        max_file_bytes=max_file_mb * MIB,
        max_request_bytes=max_request_mb * MIB,
        max_files=max_files,
        max_pixels=int(max_megapixels * 1e6),
        max_duration_s=max_seconds,
        max_frames=max_frames,
        decode_mib=decode_mib,
        decode_s=decode_s,
    )

    def load() -> Any:
        from internvl_detect.detect.calibrate_files import read_calibration
        from internvl_detect.detect.detector import Detector

        if lanes > 1:  # the cores are shared out among them
            import torch

            torch.set_num_threads(max(1, torch.get_num_threads() // lanes))
        fitted = read_calibration(calibration) if calibration else None
        options: dict[str, Any] = {
            "device": device,
            "dtype": dtype,
            "max_tiles": max_tiles,
            "tagger": tagger,
            "mask_adapter": mask_adapter,
        }
        return Detector.from_pretrained(model, adapter, calibration=fitted, **options)

    run(settings, load, verbose=verbose)


@serve.command()
def token(
    name: Annotated[str | None, typer.Argument(help="What to call it; without: list the tokens.")] = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Delete the token of this name.")] = False,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Make a token for a client, and print it once; only a salted hash of it is kept.

    \b
      ivdetect serve token laptop
      ivdetect serve token laptop --withdraw
    """
    from internvl_detect.serve.tokens import Tokens

    tokens = Tokens(data_dir.expanduser())
    if name is None:
        for known, made in tokens.names():
            typer.echo(f"{known}\t{made}")
    elif withdraw:
        tokens.withdraw(name)
    else:
        typer.echo(tokens.create(name))


def _missing(error: ImportError) -> Exception:
    from internvl_detect.errors import ConfigError

    return ConfigError(
        f"the server needs {error.name}, which is not installed", do="pip install 'internvl2-8bdetect[serve]'"
    )
