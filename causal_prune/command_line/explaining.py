"""What `explain` does: both networks of a bundle, some images, pictures and a table into a folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset

from causal_prune.command_line.jobs import bare_network, dense_and_data
from causal_prune.command_line.settings import RunSettings, load_settings
from causal_prune.comparison import Shown, side_by_side
from causal_prune.data import Data, evenly, loader, with_pairs
from causal_prune.errors import InputError, warn
from causal_prune.explanation import mapped, save_picture
from causal_prune.machine import check_device
from causal_prune.measure import evaluate
from causal_prune.report import (
    DRIFT_HEADS,
    MapDrift,
    Report,
    drift_rows_told,
    drift_table,
    text_to_hits,
    verify,
)
from causal_prune.sources import anchored, read_chosen
from causal_prune.surgery import load

TABLE, WORDS = "drift.json", "drift.md"


@dataclass(frozen=True)
class Explanation:
    """What `explain` found.

    Attributes:
        folder: Where it lies.
        images: What was explained, by name.
        drifts: By method.
        shown: Images in each picture.
        network: SHA-256 of the bundle's weights, which were explained.
        as_reported: Whether both networks are right on just those of the test images on which the report says so; None
            where other images were named.
    """

    folder: Path
    images: tuple[str, ...]
    drifts: tuple[MapDrift, ...]
    shown: int
    network: str
    as_reported: bool | None

    def written(self) -> list[str]:
        """What lies in the folder, for a terminal."""
        pictures = [f"picture: {self.folder}/{drift.method}.png" for drift in self.drifts]
        return [*pictures, f"table: {self.folder}/{WORDS} and {TABLE}"]

    def to_json(self) -> dict[str, object]:
        """Plain values, as `drift.json` holds them."""
        return {
            "images": list(self.images),
            "network_sha256": self.network,
            "as_reported": self.as_reported,
            "methods": [
                drift.model_dump(mode="json", exclude={"causal_minus_random"}) for drift in self.drifts
            ],
        }


def explain_job(
    bundle: Path,
    *,
    images: Sequence[Path] = (),
    methods: Sequence[str],
    all_of_them: bool = False,
    count: int,
    out: Path | None = None,
    config: Path | None = None,
    device: str | None = None,
) -> Explanation:
    """Explain images by the dense and the compressed network of a bundle.

    Args:
        bundle: Its folder.
        images: Files and folders; none for test images of the bundle's data.
        methods: Of the maps.
        all_of_them: Whether methods that cannot explain the networks are left out, with a warning.
        count: Images at most, spread evenly over those that there are.
        out: Folder for pictures and table; None for `explanation` in the bundle.
        config: A file that tells model and data; None for that of the bundle.
        device: Where to compute; None for where the run did.

    Returns:
        What was found; it lies in the folder.

    Raises:
        CausalPruneError: If the bundle, the images or the networks cannot be used.
    """
    start = Path.cwd()
    verify(bundle)
    report, settings = Report.load(bundle / "report.json"), _settings(bundle, config, device)
    with _folder(anchored(out or bundle / "explanation", start)) as partial:
        dense, data = dense_and_data(settings, start)
        data = with_pairs(data)
        if not data.task.has_classes:
            raise InputError("explain: maps explain classes, and the data of this bundle have none")
        small = load(anchored(bundle, start), lambda: bare_network(settings, data, start))
        dense, small = dense.to(settings.device).eval(), small.to(settings.device).eval()
        shown, positions = _images(images, data, count, start)
        same = (
            None
            if positions is None
            else _as_reported(report, dense, small, data, positions, settings.device)
        )
        shown = replace(shown, images=shown.images.to(settings.device))
        methods = _usable(dense, small, shown, methods, all_of_them=all_of_them)
        drifts: list[MapDrift] = []
        drawn = 0
        for each in side_by_side(
            dense, small, shown, methods, calibration=loader(data.calibration), seed=settings.seed
        ):
            save_picture(each.figure, partial / f"{each.drift.method}.png")
            drifts.append(each.drift)
            drawn = each.shown
        digest = hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest()
        place = out or bundle / "explanation"
        found = Explanation(place, tuple(shown.names), tuple(drifts), drawn, digest, same)
        (partial / TABLE).write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
        (partial / WORDS).write_text(_as_words(report, found), encoding="utf-8", newline="\n")
    return found


def _settings(bundle: Path, config: Path | None, device: str | None) -> RunSettings:
    file = bundle / "config.toml" if config is None else config
    if config is None and not file.is_file():
        raise InputError(
            f"--config: {bundle} was made in Python and does not tell its model and data; give a TOML file with "
            "model, weights and data"
        )
    settings = load_settings(file)
    if device is not None:
        check_device(device)
        settings = settings.model_copy(update={"device": device})
    return settings


def _images(paths: Sequence[Path], data: Data, count: int, start: Path) -> tuple[Shown, list[int] | None]:
    """The images, and their positions in the test split where they are of it."""
    if paths:
        names, images = read_chosen([anchored(path, start) for path in paths], data, count)
        names = [Path(name).name for name in names]
        return Shown(images, names, data.classes, data.mean, data.std), None
    positions = evenly(data.split["test"], count)
    items = [data.test[k] for k in positions]
    names = [f"test {k}: {_class(data, item[1])}" for k, item in zip(positions, items, strict=True)]
    images = torch.stack([item[0] for item in items])
    return Shown(images, names, data.classes, data.mean, data.std), positions


def _class(data: Data, label: object) -> str:
    number = data.task.label(label)
    place = None if number is None else int(number)
    return data.classes[place] if place is not None and 0 <= place < len(data.classes) else str(label)


def _as_reported(
    report: Report, dense: nn.Module, small: nn.Module, data: Data, positions: list[int], device: str
) -> bool:
    """Whether these networks are right where the report says so: weights or data may have changed since."""
    told = {"dense": report.dense, "compressed": report.causal}
    if any(arm.total != data.split["test"] for arm in told.values()):
        warn("the test split is not the one of the bundle's report")
        return False
    if any(arm.merits is None for arm in told.values()):
        warn(
            "the bundle's report does not tell image by image what was right, so the networks cannot be checked"
        )
        return False
    found = evaluate(
        {"dense": dense, "compressed": small},
        loader(Subset(data.test, positions)),
        task=data.task,
        device=device,
    )
    alike = True
    for name, arm in told.items():
        right = text_to_hits(arm.merits or "", arm.total)[positions]
        differing = int((right != found[name].merits).sum())
        if differing:
            alike = False
            warn(
                f"the {name} network is not the one of the bundle's report: {differing} of {len(positions)} test "
                "images come out otherwise; its weights or the data have changed, or it was trained anew on another "
                "machine"
            )
    return alike


def _usable(
    dense: nn.Module, small: nn.Module, shown: Shown, methods: Sequence[str], *, all_of_them: bool
) -> list[str]:
    """Methods that can explain both networks, tried on one image before much is computed."""
    usable = []
    for method in methods:
        try:
            for network in (dense, small):
                mapped(network, shown.images[:1], method=method)
        except InputError as error:
            if not all_of_them:
                raise
            warn(f"left out: {error}")
        else:
            usable.append(method)
    return usable


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder whose files are moved to their place at the end of the block, and only then."""
    if out.exists() and not out.is_dir():
        raise InputError(f"`out` {out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / TABLE).is_file():
        raise InputError(f"`out` {out}: exists and holds something else; name another folder")
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"`out` {out}: cannot be written ({error.strerror}); name another folder") from error
    try:
        yield partial
        old = _own_files(out)
        out.mkdir(exist_ok=True)
        new = {file.name for file in partial.iterdir()}
        for name in sorted(new, key=lambda name: name == TABLE):  # what tells of the others last
            (partial / name).replace(out / name)
        for name in old - new:
            (out / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _own_files(out: Path) -> set[str]:
    """Pictures of an earlier call."""
    try:
        told = json.loads((out / TABLE).read_text(encoding="utf-8"))
        return {f"{each['method']}.png" for each in told["methods"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _as_words(report: Report, found: Explanation) -> str:
    explained = (
        f"{len(found.images)} images, of which {found.shown} are drawn; both networks explain the class that the dense "
        "one predicts. Rank correlation is "
        "Spearman's; means are over images that both classify alike and whose maps are not constant. "
        f"{drift_rows_told()}"
    )
    lines = [f"# {report.title}: what the dense and the compressed network look at", "", explained]
    for drift in found.drifts:
        heads = ("maps of", *DRIFT_HEADS), ("---", *["---:"] * len(DRIFT_HEADS))
        rows = [*heads, *drift_table(drift)]
        lines += ["", f"## {drift.method}", "", f"![{drift.method}]({drift.method}.png)", ""]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"
