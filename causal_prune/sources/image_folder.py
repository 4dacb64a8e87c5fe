"""`data=imagefolder:DIR`: one folder per split, in it one folder per class."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from causal_prune.errors import CausalPruneNote, InputError, warn
from causal_prune.progress import track
from causal_prune.sources.images import FormOf, ImageFiles, InputFormat, comma, read_image
from causal_prune.sources.splits import CUT_FROM_TRAINING, LabelledSet, Splits, labelled_set, split_validation

Files = list[tuple[Path, int]]
LEFT_BEHIND = ("__MACOSX", "__pycache__", "lost+found")
"""Folders that systems and tools make, besides those whose names begin with a dot or an @."""


def read_image_folder(folder: Path, *, name: str, form_of: FormOf, converted: bool) -> Splits:
    """Find the images of `train/`, `val/` and, where it exists, `test/`, and check each of them once.

    Without `test/`, `val/` is the test split, and the validation split is cut from `train/`. Classes are numbered as
    torchvision does: the names of their folders in order, by code points. What is hidden, and what systems and tools
    leave behind, is passed over with a note.

    Args:
        folder: Holds the splits.
        name: Description of the data.
        form_of: Gives the format of the inputs for the shape of the first image.
        converted: Whether that format converts all shapes to one; else the images must share theirs.

    Returns:
        The splits; images are read again when they are used.

    Raises:
        InputError: If a folder is missing or empty, the classes of the splits differ, an image cannot be
            read, or the shapes differ without `converted`.

    Cost:
        Every image is decoded once, by several threads.
    """
    if not folder.is_dir():
        raise InputError(f"data: there is no folder {folder}")
    splits = ["train", "val", "test"] if (folder / "test").is_dir() else ["train", "val"]
    for split in splits:
        if not (folder / split).is_dir():
            raise InputError(f"data: {folder} has no folder {split}/; imagefolder needs train/ and val/")
    classes = _classes(folder / "train")
    for split in splits[1:]:
        _check_same_classes(folder, classes, split)
    files = {split: _files(folder / split, classes) for split in splits}
    _note_passed_over(folder, splits)
    stored = _check_images(folder, [path for split in splits for path, _ in files[split]], converted)
    parts = {split: _labelled(files[split], form_of(stored)) for split in splits}
    if "test" in parts:
        return Splits(parts["train"], parts["val"], parts["test"], classes, name, harmless_views=True)
    train, validation = split_validation(parts["train"], classes)
    told = f"{name} (test: val/; {CUT_FROM_TRAINING})"
    return Splits(train, validation, parts["val"], classes, told, harmless_views=True)


def _check_same_classes(folder: Path, classes: tuple[str, ...], split: str) -> None:
    differing = sorted(set(classes) ^ set(_classes(folder / split)))
    if differing:
        present, absent = ("train", split) if differing[0] in classes else (split, "train")
        raise InputError(f"data: {folder}: class '{differing[0]}' is in {present}/ but not in {absent}/")


def _labelled(files: Files, form: InputFormat) -> LabelledSet:
    labels = np.array([label for _, label in files], dtype=np.int64)
    return labelled_set(ImageFiles([path for path, _ in files], labels, form), labels)


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not _left_behind(path))
    if not names:
        raise InputError(f"data: {folder} has no class folder")
    return tuple(names)


def _left_behind(path: Path) -> bool:
    return path.name.startswith((".", "@")) or path.name in LEFT_BEHIND


def _files(folder: Path, classes: tuple[str, ...]) -> Files:
    files: Files = []
    for label, name in enumerate(classes):
        place = folder / name
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        kept = [path for path in found if not any(map(_left_behind, _down_to(path, place)))]
        if not kept:
            raise InputError(f"data: class folder {place} has no image ({' '.join(IMG_EXTENSIONS)})")
        files += [(path, label) for path in kept]
    return files


def _down_to(path: Path, place: Path) -> list[Path]:
    """A path and the folders between it and another."""
    return [path, *(above for above in path.parents if place in above.parents)]


def _note_passed_over(folder: Path, splits: list[str]) -> None:
    """Name what was passed over: the outermost folders, and images that stand alone."""
    found: list[Path] = []
    for split in splits:
        for path in sorted((folder / split).rglob("*")):
            image = path.suffix.lower() in IMG_EXTENSIONS and path.parent != folder / split
            seen = any(above in found for above in path.parents)
            if _left_behind(path) and (path.is_dir() or image) and not seen:
                found.append(path)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        names = ", ".join(str(path.relative_to(folder)) for path in found[:3])
        warn(f"data: {folder}: passed over {names}{more}, hidden or left behind by a tool", CausalPruneNote)


def _check_images(folder: Path, paths: list[Path], converted: bool) -> tuple[int, int, int]:
    pool = ThreadPoolExecutor()
    first: tuple[int, int, int] | None = None
    try:
        shapes = pool.map(_shape, paths)
        for path, shape in zip(
            paths, track(shapes, "check images", total=len(paths), unit="image"), strict=True
        ):
            first = first or shape
            if shape != first and not converted:
                raise InputError(
                    f"data: {path.relative_to(folder)} is {comma(shape)} (channels,height,width) but "
                    f"{paths[0].relative_to(folder)} is {comma(first)}; `input_shape` resizes all to one "
                    "(bilinear with antialiasing, the aspect is not kept)"
                )
    finally:
        pool.shutdown(cancel_futures=True)
    assert first is not None  # every class folder has an image
    return first


def _shape(path: Path) -> tuple[int, int, int]:
    channels, height, width = read_image(path).shape
    return channels, height, width
