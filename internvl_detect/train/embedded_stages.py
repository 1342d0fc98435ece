"""What ``train.embedded`` does, stage by stage: the settings, and a function for each stage that can be called again.

Each stage reads what the ones before it left under ``Build.out`` and goes on where it was killed. Not here: their
order, what is done already (``embedded``), nor the work itself (the files beside this one).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from internvl_detect.errors import ConfigError, DataError
from internvl_detect.files import read_text, read_yaml
from internvl_detect.train import material
from internvl_detect.train.autoencoders import new_autoencoder
from internvl_detect.train.rebuild import Rebuilder
from internvl_detect.train.tag_data import TagRow

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
USED = ("tagger", "semantic", "nano_base", "nano_mask")  # recipes
FREE = ("out", "recipes", "workers", "device", "left_out")  # settings that may change between calls


@dataclass(frozen=True)
class Build:
    """The settings. ``seconds`` of training a decoder; ``share`` of the photographs that a decoder forges and
    ``rows_share`` of those that become conversations; steps and epochs are the recipes' unless given.

    ``given`` are the encoder and decoder of one network more. ``start`` "nano" goes on from the embedded base, "fresh"
    from an untrained one; ``tagger_start`` is a tagger's folder to go on from, ``semantic_start`` are weights that its
    semantic branch begins with in place of the embedded one's. ``left_out`` names decoders ("by_KIND"),
    generators or sources of photographs: for each, one more tagger is trained without it and measured on it.
    ``calibrate_real`` and ``calibrate_generated`` hold sources that nothing is trained on; where one is not given, the
    calibration is fitted on validation pictures of every third source instead, which flatters it.
    """

    photographs: Path
    out: Path
    faces: Path | None = None
    generated: Path | None = None
    given: tuple[Path, Path] | None = None
    kinds: tuple[str, ...] = material.KINDS
    seconds: float = 120.0
    share: float = 0.15
    rows_share: float = 0.22
    size: int = 448
    tagger_steps: int | None = None
    tagger_start: Path | None = None
    semantic_start: Path | None = None
    nano_epochs: float | None = None
    start: str = "nano"
    left_out: tuple[str, ...] = ()
    calibrate_real: Path | None = None
    calibrate_generated: Path | None = None
    target_error: float = 0.15
    recipes: Path = RECIPES
    workers: int = 0
    device: str = "cpu"

    @cached_property
    def real(self) -> dict[str, Path]:
        """Source -> folder of all photographs, faces among them."""
        found = sources(self.photographs)
        if twice := sorted(found.keys() & sources(self.faces).keys()):
            raise DataError(f"photographs and faces both have a source {twice[0]}", do="rename one of the folders")
        return found | sources(self.faces)

    @cached_property
    def fake(self) -> dict[str, Path]:
        """Generator -> folder."""
        return sources(self.generated)

    def kept(self) -> list[str]:
        """The sources that the calibration is fitted on where none were given for it; nothing is weighed by them."""
        if self.calibrate_real and self.calibrate_generated:
            return []
        several = [sorted(part) for part in (self.real, self.fake) if len(part) > 1]
        return [name for part in several for name in (part[2::3] or part[-1:])]

    @property
    def eyes(self) -> Path:
        """The tagger's folder, with its semantic branch where there are generators to train one on."""
        return self.out / ("semantic" if self.fake else "tagger") / "tagger"

    @property
    def work(self) -> Path:
        """Decoders and forged sets."""
        return self.out / "material"

    def settings(self) -> dict[str, Any]:
        """What decides the result, as plain JSON: two calls that differ in it do not share a folder."""
        said = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in FREE}
        plain = json.loads(json.dumps(said, default=lambda path: str(Path(path).resolve())))
        texts = {name: read_text(self.recipes / f"{name}.yaml", what="recipe") for name in USED}
        return plain | {f"{name}.yaml": hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}

    def check(self) -> None:
        """Raises ConfigError and DataError for settings that make no sense, before any work."""
        for kind in self.kinds:
            try:
                new_autoencoder(kind)
            except ValueError as error:
                raise ConfigError(str(error)) from None
        numbers = (self.seconds, self.share, self.rows_share, self.size, self.tagger_steps, self.nano_epochs)
        if any(n is not None and not n > 0 for n in numbers) or self.start not in ("nano", "fresh"):
            raise ConfigError(f"{numbers}, start {self.start!r}", expected="numbers above 0, nano or fresh")
        if self.size < 128:
            raise ConfigError(f"a size of {self.size} px", expected="128 px and more")
        if not self.calibrate_real and len(self.real) < 2:
            raise DataError(
                f"{self.photographs} is one source",
                do="sort the photographs into sub-folders, or give --calibrate-real",
            )
        apart = {*sources(self.calibrate_real), *sources(self.calibrate_generated)}
        if twice := sorted(apart & {*self.real, *self.fake}):
            raise DataError(f"{twice[0]!r} to train and to calibrate on", do="rename one, if they differ")
        known = {*self.real, *self.fake, *(f"by_{kind}" for kind in self.decoders()), "edits"}
        if unknown := sorted(set(self.left_out) - known):
            raise ConfigError(f"no source {unknown[0]!r} to leave out", expected=", ".join(sorted(known)))

    def decoders(self) -> dict[str, Rebuilder]:
        """Kind -> network, as files."""
        nets = {kind: Rebuilder(str(self.work / "decoders" / f"{kind}.safetensors")) for kind in self.kinds}
        return nets | ({material.GIVEN: Rebuilder(*map(str, self.given)).checked()} if self.given else {})


def sources(folder: Path | None) -> dict[str, Path]:
    """Name -> folder of the sub-folders of ``folder``; where there are none, of itself. Raises DataError."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder", expected="a folder whose sub-folders hold pictures")
    folder = folder.resolve()  # rows are read from anywhere
    found = {part.name: part for part in sorted(folder.iterdir()) if part.is_dir() and not part.name.startswith(".")}
    return found or {folder.name: folder}


def decoders(build: Build) -> None:
    """The networks that forge."""
    folders = list(build.real.values())
    material.train_decoders(folders, build.work, seconds=build.seconds, device=build.device, kinds=build.kinds)


def edits(build: Build) -> None:
    """Forgeries that need no network."""
    photographs, faces = list(sources(build.photographs).values()), list(sources(build.faces).values())
    material.forge_edits(photographs, faces, build.work, workers=build.workers, size=build.size)


def by_decoder(build: Build) -> None:
    """What each network makes of its share of the photographs."""
    for kind, net in build.decoders().items():
        folders, how = list(build.real.values()), {"share": build.share, "size": build.size}
        material.forge_by(kind, net, folders, build.work, workers=build.workers, **how)  # type: ignore[arg-type]


def tagger(build: Build, out: Path | None = None, left_out: str = "") -> None:
    """The domain tagger; with ``left_out`` one that never saw that source, for its measurement alone."""
    from internvl_detect.train.tagger_run import recipe_of, run
    from internvl_detect.train.tagger_start import start_of

    values = dict(read_yaml(build.recipes / "tagger.yaml"))
    values |= {"steps": build.tagger_steps} if build.tagger_steps else {}
    values["faces"] = [*sources(build.faces)]
    nets = {f"by_{kind}": net for kind, net in build.decoders().items()}
    values["decoders"] = [[p for p in (net.encoder, net.decoder) if p] for k, net in nets.items() if k != left_out]
    rows = material.all_rows(build.work, build.fake, build.real)
    if left_out in build.real:  # all that was made of its photographs too
        rows = [_of(row, left_out) for row in rows]
    start = start_of([str(build.tagger_start)] if build.tagger_start and not left_out else [])
    away, target = [left_out] if left_out else [], out or build.out / "tagger"
    run(rows, target, recipe_of(values), left_out=away, device=build.device, start=start)


def _of(row: TagRow, source: str) -> TagRow:
    return dataclasses.replace(row, source=source) if row.group.startswith(f"{source}/") else row


def semantic(build: Build) -> None:
    """The tagger's semantic branch, where there are generators."""
    import torch

    from internvl_detect.model.domain_tag import read_net
    from internvl_detect.model.embedded import FOLDER
    from internvl_detect.model.semantic_net import SemanticNet
    from internvl_detect.train.semantic import attach, recipe_of, start_from

    if not build.fake:
        print("semantic: no generated pictures, so no semantic branch", flush=True)
        return
    net, shipped = read_net(build.out / "tagger" / "tagger")[0], FOLDER / "tagger"
    torch.manual_seed(0)  # an untrained one is the same after a kill
    begun = net.semantic or (read_net(shipped)[0].semantic if shipped.is_dir() else None) or SemanticNet()
    begun = start_from(build.semantic_start, net) if build.semantic_start else begun
    given = material.all_rows(build.work, build.fake, build.real), build.out / "semantic"
    how = recipe_of(read_yaml(build.recipes / "semantic.yaml"))
    sources_of = {*build.fake, *build.real}
    print(json.dumps(attach(net, *given, how, start=begun, sources=sources_of, device=build.device)), flush=True)


def rows(build: Build) -> None:
    """Conversations about a share of everything."""
    from internvl_detect.model.domain_tag import DomainTagger
    from internvl_detect.train.nano_rows import write_rows

    eyes = DomainTagger.load(build.eyes, build.device)
    given = build.work.resolve(), build.fake, build.real, eyes, build.out / "rows"
    print(f"rows: {write_rows(*given, share=build.rows_share)}", flush=True)


def _start(build: Build) -> tuple[str, Path]:
    """Where the base begins, and its tokenizer."""
    from internvl_detect.model.embedded import FOLDER
    from internvl_detect.train.nano_weights import make_start

    if build.start == "nano" and (FOLDER / "nano").is_dir():
        return "nano", FOLDER / "nano" / "tokenizer.model"
    begun = build.out / "nano_start"
    if not (begun / "ivdetect.json").is_file():  # written last
        make_start(build.out / "rows", begun)
    return str(begun), begun / "tokenizer.model"


def _train(build: Build, recipe: str, weights: str, out: str, *more: str) -> None:
    from internvl_detect.config import load_train_config
    from internvl_detect.train.finetune import run
    from internvl_detect.train.outcome import in_words

    listed = json.loads((build.out / "rows" / "meta.json").read_text("utf-8"))
    chosen = {
        split: ",".join(name for name in (split, f"{split}_large", f"{split}_drills") if name in listed)
        for split in ("train", "val")
    }
    if missing := [split for split, names in chosen.items() if not names]:
        raise DataError(f"no conversations of the split {missing[0]}", do="give more photographs, or a larger share")
    sets = [f"output_dir={build.out / out}", f"weight_path={weights}", f"data_path={build.out / 'rows' / 'meta.json'}"]
    sets += [f"train_data_choice={chosen['train']}", f"val_data_choice={chosen['val']}", *more]
    sets += [f"epochs={build.nano_epochs}"] if build.nano_epochs else []
    print(in_words(run(load_train_config(build.recipes / f"{recipe}.yaml", sets, {}))), flush=True)


def base(build: Build) -> None:
    """All of nano trained on the conversations."""
    _train(build, "nano_base", _start(build)[0], "nano_base")


def export(build: Build) -> None:
    """The base in the original format, as it is shipped."""
    from internvl_detect.train.nano_weights import export as written

    written(build.out / "nano_base" / "model", _start(build)[1], build.out / "embedded" / "nano")


def lora(build: Build) -> None:
    """The adapter with the <SEG> row and the head that draws."""
    _train(build, "nano_mask", str(build.out / "embedded" / "nano"), "nano_lora", f"mask.tagger={build.eyes}")


def result(build: Build) -> None:
    """Tagger and adapter beside the base."""
    for name, made in (("tagger", build.eyes), ("nano_lora", build.out / "nano_lora" / "adapter")):
        target = build.out / "embedded" / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
        for file in target.iterdir():
            file.chmod(0o644)  # some are written for their owner alone, and a package carries the mode along


def fusion(build: Build) -> None:
    """How the two scores are weighed, and the calibration, into the adapter's settings."""
    from internvl_detect.train.fuse import main as fuse

    made = build.out / "embedded"
    words = [f"--model={made / 'nano'}", f"--tagger={made / 'tagger'}", f"--material={build.work}"]
    words += [f"--target-error={build.target_error}", f"--device={build.device}", f"--work={build.out / 'fusion'}"]
    parts = {"real": build.real, "generated": build.fake}
    parts |= {f"calibrate-{k}": sources(getattr(build, f"calibrate_{k}")) for k in parts}
    words += [f"--{option}={name}={folder}" for option, part in parts.items() for name, folder in part.items()]
    words += [f"--keep={name}" for name in build.kept()]
    words += ["--weigh-by-kept"] if build.calibrate_real and build.calibrate_generated else []
    fuse([*words, f"--out={made / 'nano_lora'}"])


STEPS: tuple[Callable[[Build], None], ...]
STEPS = (decoders, edits, by_decoder, tagger, semantic, rows, base, export, lora, result, fusion)


def stages(build: Build) -> dict[str, Callable[[], None]]:
    """Name -> what is to be done, in order."""
    found: dict[str, Callable[[], None]] = {step.__name__: partial(step, build) for step in STEPS}
    return found | {f"left_out/{n}": partial(tagger, build, build.out / "left_out" / n, n) for n in build.left_out}
