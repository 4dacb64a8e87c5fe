"""Modules that lie beside a file of the user's: each folder sees its own, as the imports of a script do.

Two folders may hold modules of one name. While code of a folder is imported or called, its modules are the ones that
`sys.modules` knows; those of other folders are set aside. Import statements of that code which run later, inside a
`forward` or a `__getitem__`, see the same, wherever they are called from.
"""

import builtins
import importlib
import os
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

SHARED = {"causal_prune", "torch", "torchvision", "numpy"}
"""What is the same for everybody: a second copy would not know the classes of the first, or could not be loaded."""
PREFIX = "causal_prune_user_"


@dataclass(eq=False)
class Folder:
    """A folder of the user's own code.

    Attributes:
        place: Where it lies.
        modules: What was imported from it, by name.
        stamps: Of the files that these came from: when they were changed, and their sizes.
        added: Where else its code has told Python to look.
        path: `sys.path` without this folder, while its code runs.
        loaded: What was loaded before its code ran.
    """

    place: Path
    modules: dict[str, ModuleType] = field(default_factory=dict)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.finder: Any = _Finder(self)

    def holds(self, spec: ModuleSpec | None) -> bool:
        """Whether a module is found in this folder, or where its code told Python to look.

        Args:
            spec: Of the module.

        Returns:
            The answer; a module of a package is where its package is.
        """
        if spec is None:
            return False
        name = spec.name.partition(".")[0]
        if name != spec.name:
            return name in self.modules or self.holds(_spec_of(sys.modules.get(name)))
        self.note_added()
        places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location else [])]
        roots = {Path(os.path.realpath(self.place)), *(Path(os.path.realpath(each)) for each in self.added)}
        package = spec.submodule_search_locations is not None and spec.has_location
        found = {Path(os.path.realpath(str(each))).parent for each in places}
        return bool(roots & ({each.parent for each in found} if package else found))

    def note_added(self) -> None:
        """Note where else the code that runs has told Python to look."""
        if self in _ACTIVE:
            self.added = [each for each in sys.path if each not in (*self.path, str(self.place))]

    def remember(self) -> None:
        """Note what the code that runs has imported from this folder."""
        for name in set(sys.modules) - self.loaded:
            module = sys.modules[name]
            if (
                not name.startswith(PREFIX)
                and not _shared(name, self.loaded)
                and self.holds(_spec_of(module))
            ):
                self.modules[name] = module
                self.stamps[name] = _stamp_of(module)

    def has(self, name: str) -> bool:
        """Whether a module of this name lies in this folder.

        Args:
            name: Without a dot.

        Returns:
            The answer.
        """
        package = self.place / name / "__init__.py"
        return (self.place / f"{name}.py").is_file() or package.is_file()

    def forget_if_changed(self) -> None:
        """Have everything imported anew if a file has changed since."""
        if any(_stamp_of(self.modules[name]) != stamp for name, stamp in self.stamps.items()):
            for name, module in self.modules.items():
                if sys.modules.get(name) is module:
                    del sys.modules[name]
            self.modules.clear()
            self.stamps.clear()


_FOLDERS: dict[Path, Folder] = {}
_ACTIVE: list[Folder] = []


class _Finder:
    """Finds the modules of a folder, and lets their import statements see that folder for ever."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del target
        spec = PathFinder.find_spec(name, path)
        if spec is None or _shared(name, self.folder.loaded) or not self.folder.holds(spec):
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path, self.folder)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, folder: Folder) -> None:
        super().__init__(name, path)
        self.folder = folder

    def exec_module(self, module: ModuleType) -> None:
        folder = self.folder

        def from_folder(
            name: str,
            globals: Mapping[str, object] | None = None,  # named as those of `__import__`
            locals: Mapping[str, object] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> ModuleType:
            active = bool(_ACTIVE) and _ACTIVE[-1] is folder
            known = not level and name in folder.modules and sys.modules.get(name) is folder.modules[name]
            if active or known or not (level or _concerns(folder, name.partition(".")[0])):
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            with seen_from(folder.place):
                return builtins.__import__(name, globals, locals, fromlist or (), level)

        # every function of the module takes its `__import__` from here, whenever it runs
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": from_folder}
        super().exec_module(module)


@contextmanager
def seen_from(place: Path, *, anew: bool = False) -> Iterator[Folder]:
    """Let imports look into a folder first, as Python does for a script, and see no module of another one.

    Nothing is written into the folder. At the end `sys.path` is as it was; modules whose name two folders use are known
    to neither the one nor the other outside such a block.

    Args:
        place: The folder.
        anew: Whether files that have changed since are imported again.

    Yields:
        What is known of it.
    """
    folder = _FOLDERS.setdefault(place, Folder(place))
    if anew:
        folder.forget_if_changed()
    if _ACTIVE:
        _ACTIVE[-1].remember()
    hidden = {name: sys.modules.pop(name) for name in _of_others(folder)}
    writes, path = sys.dont_write_bytecode, list(sys.path)
    if folder not in _ACTIVE:
        folder.path, folder.loaded = list(path), set(sys.modules)
    sys.modules.update(folder.modules)
    sys.path[:0] = [str(place), *folder.added]
    sys.meta_path.insert(0, folder.finder)
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    _ACTIVE.append(folder)
    try:
        yield folder
    finally:
        folder.remember()
        folder.note_added()
        _ACTIVE.pop()
        sys.meta_path.remove(folder.finder)
        sys.path[:], sys.dont_write_bytecode = path, writes
        twice = {*folder.modules} & _names_of_others(folder)
        for name in folder.modules:
            if name in twice or name in hidden or name.partition(".")[0] in sys.stdlib_module_names:
                sys.modules.pop(name, None)
        others = _modules_of_others(folder)
        back = {
            name: module for name, module in hidden.items() if name not in twice or id(module) not in others
        }
        sys.modules.update(back)


def run_file(path: Path, folder: Folder) -> ModuleType:
    """Run a file as a module, once: a neighbour that imports it gets the same.

    Args:
        path: The file.
        folder: Its folder, from `seen_from`.

    Returns:
        The module.

    Raises:
        ImportError: If it is no Python file; and whatever it raises itself.
    """
    alias = path.stem
    if alias in folder.modules:
        return folder.modules[alias]
    name = PREFIX + path.stem
    while name in sys.modules and _spec_of(sys.modules[name]) is not None and _origin(name) != str(path):
        name += "_"
    spec = spec_from_file_location(name, path, loader=_Loader(name, str(path), folder))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = module_from_spec(spec)
    aliases = {name} if _shared(alias, folder.loaded) else {name, alias}
    # dataclasses and pickling look a class's module up by name
    sys.modules.update(dict.fromkeys(aliases, module))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for each in aliases:
            sys.modules.pop(each, None)
        raise
    folder.modules.update(dict.fromkeys(aliases - {name}, module))
    folder.stamps.update({each: _stamp_of(module) for each in aliases - {name}})
    return module


def _of_others(folder: Folder) -> list[str]:
    """Loaded modules that code of a folder must not see: those of other folders, and what its own would shadow."""
    others = _modules_of_others(folder)
    tops = {name.partition(".")[0] for name in sys.modules}
    shadowed = {name for name in tops if not _shared(name, sys.modules) and folder.has(name)}
    found = [
        name
        for name, module in sys.modules.items()
        if not name.startswith(PREFIX) and (id(module) in others or name.partition(".")[0] in shadowed)
    ]
    return [name for name in found if sys.modules[name] is not folder.modules.get(name)]


def _shared(name: str, loaded: Container[str]) -> bool:
    """Whether a module is the same for all folders: ours, or one of Python's that is loaded."""
    top = name.partition(".")[0]
    return top in SHARED or (top in sys.stdlib_module_names and top in loaded)


def _modules_of_others(folder: Folder) -> set[int]:
    return {
        id(module) for other in _FOLDERS.values() if other is not folder for module in other.modules.values()
    }


def _names_of_others(folder: Folder) -> set[str]:
    return {name for other in _FOLDERS.values() if other is not folder for name in other.modules}


def _concerns(folder: Folder, name: str) -> bool:
    """Whether what a name means depends on the folder of the code that imports it."""
    known = any(name in other.modules for other in _FOLDERS.values())
    return not _shared(name, sys.modules) and (known or folder.has(name) or bool(folder.added))


def _spec_of(module: ModuleType | None) -> ModuleSpec | None:
    return getattr(module, "__spec__", None)


def _origin(name: str) -> str | None:
    spec = _spec_of(sys.modules.get(name))
    return None if spec is None else spec.origin


def _stamp_of(module: ModuleType) -> tuple[int, int]:
    spec = _spec_of(module)
    if spec is None or not spec.has_location or spec.origin is None:
        return 0, 0
    try:
        status = Path(spec.origin).stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
