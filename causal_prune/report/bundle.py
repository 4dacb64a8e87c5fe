"""Bundles: written whole beside their place and moved into it, checked by SHA256SUMS."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from causal_prune.errors import InputError

SUMS = "SHA256SUMS"
EXPLAINED = "drift.json"
"""In a folder of maps of the network that is replaced; they are not those of the new one."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def is_bundle(folder: Path) -> bool:
    """Say whether a folder is a bundle, or one of a frontier.

    Args:
        folder: Any path.

    Returns:
        Whether it holds `report.json` or `frontier.json`, and `SHA256SUMS`.
    """
    written = any((folder / name).is_file() for name in ("report.json", "frontier.json"))
    return written and (folder / SUMS).is_file()


def check_out(out: Path, *, force: bool) -> Path:
    """Check that a bundle may be written to `out`; creates and changes nothing.

    Allowed are a path that does not exist yet, an empty folder, a bundle (a re-run replaces its own output)
    and, with `force`, any other folder.

    Args:
        out: The folder to be written.
        force: Whether a folder that is no bundle may be replaced.

    Returns:
        `out`, absolute and without symbolic links.

    Raises:
        InputError: Where `out` must not be replaced or cannot be written.
    """
    place = Path(os.path.realpath(out))
    if place.exists() and not place.is_dir():
        raise InputError(f"`out` {out}: is a file; name a folder")
    if os.path.ismount(place):
        raise InputError(f"`out` {out}: is a mount point and cannot be replaced; name a folder inside it")
    for kept, meaning in ((Path.cwd(), "the current folder"), (Path.home(), "the home folder")):
        if kept.resolve().is_relative_to(place):
            raise InputError(f"`out` {out}: is or holds {meaning}; name a folder of its own")
    try:
        used = place.is_dir() and any(place.iterdir())
    except OSError as error:
        raise InputError(f"`out` {out}: cannot be read ({error.strerror}); name another folder") from error
    if used and not is_bundle(place) and not force:
        raise InputError(
            f"`out` {out}: exists and is no bundle; name another folder, or pass `force` to replace it"
        )
    above = next(parent for parent in place.parents if parent.exists())
    if not above.is_dir():
        raise InputError(f"`out` {out}: {above} is a file; name a folder under a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"`out` {out}: {above} cannot be written; name a folder that can")
    return place


@contextmanager
def staged(out: Path, *, force: bool) -> Iterator[Path]:
    """Write a bundle whole or not at all.

    The block fills a temporary folder beside `out`. At its end `SHA256SUMS` is written and the folder is
    renamed to `out`; on an exception or an interrupt it is removed, and a bundle that was there before stays.
    Files in an old bundle that its `SHA256SUMS` does not list (a baseline, somebody's notes) are carried
    over, unless the new bundle has a file of that name; but for folders of maps that `explain` drew of the old
    network. Leftovers of killed processes are put right at the start.

    Args:
        out: The folder to be written; missing parents are made.
        force: Whether a folder that is no bundle may be replaced, with everything in it.

    Yields:
        The temporary folder, empty.

    Raises:
        InputError: As `check_out`, and where the temporary folder cannot be made.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "bundle"
        >>> with staged(out, force=False) as folder:
        ...     _ = (folder / "report.json").write_text("{}")
        >>> sorted(path.name for path in out.iterdir())
        ['SHA256SUMS', 'report.json']
    """
    place = Path(os.path.realpath(out))
    _recover(place)
    check_out(out, force=force)
    missing = [parent for parent in place.parents if not parent.exists()]
    partial = _beside(place, "partial", os.getpid())
    try:
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"`out` {out}: cannot be written ({error.strerror}); name another folder"
            ) from error
        yield partial
        write_sums(partial)
        if is_bundle(place):
            _carry_over(place, partial)
        _swap(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def write_sums(folder: Path) -> None:
    """Write `SHA256SUMS` over all files of a folder, as `sha256sum -c` reads it.

    Args:
        folder: The bundle.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(folder / name)}  {name}\n" for name in files if name != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def verify(folder: Path) -> None:
    """Check a bundle against its `SHA256SUMS`; files that are not listed are nobody's business.

    Args:
        folder: The bundle.

    Raises:
        InputError: Where it is no bundle, or naming the first file that is missing or damaged.
    """
    sums = _read_sums(folder)
    for name, digest in sums.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: is missing from the bundle; make the bundle again")
        if _digest(folder / name) != digest:
            raise InputError(f"{folder / name}: is damaged, {SUMS} says otherwise; make the bundle again")
    if "report.json" not in sums:
        raise InputError(f"{folder / SUMS}: does not list report.json; make the bundle again")


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: holds no readable {SUMS}; name the folder of a bundle") from error
    sums = {}
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or PurePosixPath(match[2]).is_absolute() or ".." in PurePosixPath(match[2]).parts:
            raise InputError(f"{folder / SUMS}: line {number} is damaged; make the bundle again")
        sums[match[2]] = match[1]
    return sums


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _carry_over(old: Path, new: Path) -> None:
    try:
        owned = {*_read_sums(old), SUMS}
    except InputError:
        # nothing is known to be the bundle's own: nothing is given up but what is written anew
        owned = {SUMS}
    for folder, folders, files in os.walk(old):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in files + linked:
            source = Path(folder) / name
            inside = source.relative_to(old)
            target = new / inside
            if inside.as_posix() in owned or os.path.lexists(target):
                continue
            if any(
                (above / EXPLAINED).is_file() for above in (source, *source.parents) if old in above.parents
            ):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _swap(partial: Path, place: Path) -> None:
    aside = _beside(place, "replaced", os.getpid())
    try:
        if place.exists():
            place.rename(aside)
        partial.rename(place)
    except BaseException:
        if place.exists() and not partial.exists():
            place.rename(partial)  # interrupted after the last rename: back to the old bundle, or to none
        if aside.exists():
            aside.rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _beside(place: Path, role: str, process: int) -> Path:
    return place.parent / f".{place.name}.{role}-{process}"


def _recover(place: Path) -> None:
    """Remove what killed processes left beside `place`, and put back a bundle that one had moved aside.

    A leftover under this process's own number is stale as well: containers hand out the same numbers again.
    One process must therefore not stage the same folder twice at a time.

    Args:
        place: The folder to be written.
    """
    if not place.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(place.name)}\.(partial|replaced)-(\d+)")
    for path in sorted(place.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None or (int(match[2]) != os.getpid() and _alive(int(match[2]))):
            continue
        if match[1] == "replaced" and not place.exists():
            path.rename(place)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:  # no process has such a number
        return False
    return True
