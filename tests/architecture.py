"""The house as it stands, read from the code: wings, faces, rooms, imports; `make architecture` prints it.

`python -m tests.architecture --write` writes the map of CONTRIBUTING.md anew.
"""

import ast
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "causal_prune"
README = ROOT / "README.md"
TOOLS = "network"
"""The wing whose rooms are its face: tools that others take from the room where they lie."""
START, END = "<!-- the map: python -m tests.architecture --write -->\n", "<!-- end of the map -->\n"


@dataclass(frozen=True)
class Room:
    """One file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def wing(self) -> str:
        """The folder that it lies in, or its own name at the top."""
        inside = self.path.relative_to(PACKAGE).parts
        return inside[0] if len(inside) > 1 else self.name

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def sentence(self) -> str:
        """The first line of its docstring."""
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]

    @property
    def lines(self) -> int:
        return len(self.path.read_text(encoding="utf-8").splitlines())

    def imports(self) -> Iterator[tuple[str, str]]:
        """Modules of the package that it imports, however deep inside, and the names that it takes from them."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                if node.module == PACKAGE.name or node.module.startswith(f"{PACKAGE.name}."):
                    yield from ((node.module, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, "") for alias in node.names if alias.name.startswith(PACKAGE.name))


def storeys() -> list[list[str]]:
    """The import contract: wings and modules by storey, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return [line.replace("|", " ").replace(":", " ").split() for line in contracts["contracts"][0]["layers"]]


def rooms() -> list[Room]:
    """Every file of the package but the faces."""
    found = [Room(path) for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
    order = [wing for storey in storeys() for wing in storey]
    return sorted(found, key=lambda room: (order.index(room.wing), room.name))


def wings() -> list[str]:
    """Names of the wings, the highest first."""
    return list(dict.fromkeys(room.wing for room in rooms() if room.path.parent != PACKAGE))


def face(wing: str) -> list[str]:
    """Names that a wing shows to others; none for a wing of tools."""
    stub = PACKAGE / wing / "__init__.pyi"
    if not stub.is_file():
        return []
    nodes = ast.parse(stub.read_text(encoding="utf-8")).body
    return sorted(alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names)


def arrows() -> Counter[tuple[str, str]]:
    """Imports from wing to wing."""
    return Counter(
        (room.wing, module.split(".")[1])
        for room in rooms()
        for module in {module for module, _ in room.imports()}
        if "." in module and module.split(".")[1] != room.wing
    )


def around_faces() -> list[str]:
    """Imports that take a room of another wing instead of its face."""
    return [
        f"{room.path.relative_to(ROOT)}: {module}"
        for room in rooms()
        for module, _ in room.imports()
        if len(parts := module.split(".")) > 2 and parts[1] not in (room.wing, TOOLS)
    ]


def taken(wing: str) -> set[str]:
    """Names of a face that other wings, the package itself, or a reader of the README take."""
    public = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body
    names = {
        a.name
        for node in public
        if isinstance(node, ast.ImportFrom) and node.module == wing
        for a in node.names
    }
    others = [room for room in rooms() if room.wing != wing]
    readme = README.read_text(encoding="utf-8")
    if f"{PACKAGE.name}.{wing}" in readme:  # what it names as code, after saying where it is found
        names |= {name for name in face(wing) if re.search(rf"`{name}`|import .*\b{name}\b", readme)}
    return names | {
        n for room in others for module, n in room.imports() if module == f"{PACKAGE.name}.{wing}"
    }


def code_lines(node: ast.FunctionDef, source: list[str]) -> int:
    """Lines of a function without its docstring, comments and blank lines."""
    first = node.body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = range(first.lineno, (first.end_lineno or 0) + 1) if text else range(0)
    return sum(
        number not in docstring and bool(line := source[number - 1].strip()) and not line.startswith("#")
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    )


def functions() -> Iterator[tuple[str, int, int, bool]]:
    """Every function: its place, lines of code, parameters, and whether a comment above it gives leave to be long."""
    for room in rooms():
        source = room.path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(room.tree):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in given)
                top = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                leave = source[top - 2].strip().startswith("# Long:")
                yield f"{room.path.relative_to(ROOT)}:{node.name}", code_lines(node, source), count, leave


def told_of(room: Room) -> Iterator[tuple[str, str]]:
    """What its docstrings and comments tell of by `owner.name`, one pair each: a room or a class, and what it holds."""
    for found in re.finditer(r"`(\w+)\.(\w+)(?:\(\))?`", room.path.read_text(encoding="utf-8")):
        yield found[1], found[2]


def held() -> dict[str, set[str]]:
    """Names that every room, wing and class holds, by its own name."""
    names: dict[str, set[str]] = {
        wing: {*face(wing), *(r.name for r in rooms() if r.wing == wing)} for wing in wings()
    }
    for room in rooms():
        for owner in ast.walk(room.tree):
            if isinstance(owner, ast.Module | ast.ClassDef):
                own = names.setdefault(room.name if isinstance(owner, ast.Module) else owner.name, set())
                for node in owner.body:
                    targets = (
                        node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
                    )
                    own |= {getattr(target, "id", getattr(target, "name", "")) for target in targets}
    return names


def map_of_rooms() -> str:
    """The map of CONTRIBUTING.md."""
    rows = ["| wing | what it is for | its rooms |", "| --- | --- | --- |"]
    for name in [entry for storey in storeys() for entry in storey]:
        inside = [room for room in rooms() if room.wing == name]
        if (PACKAGE / name).is_dir():
            sentence = Room(PACKAGE / name / "__init__.py").sentence
            rows.append(f"| `{name}/` | {sentence} | {', '.join(f'`{room.name}`' for room in inside)} |")
        else:
            rows.append(f"| `{name}.py` | {inside[0].sentence} | |")
    return "\n".join(rows) + "\n"


def described() -> Iterator[str]:
    """The house in lines."""
    yield "The contract: each may import those below it.\n"
    yield from (f"  {' | '.join(storey)}" for storey in storeys())
    counted = arrows()
    for name in [entry for storey in storeys() for entry in storey]:
        inside = [room for room in rooms() if room.wing == name]
        yield f"\n{name}: {sum(room.lines for room in inside):,} lines in {len(inside)} room(s)"
        if face(name):
            yield f"  face: {', '.join(face(name))}"
        yield f"  rooms: {', '.join(f'{room.name} {room.lines}' for room in inside)}"
        to = {target: count for (source, target), count in counted.items() if source == name}
        if to:
            yield f"  imports: {', '.join(f'{target} {count}' for target, count in sorted(to.items()))}"
    lengths = sorted((lines, place) for place, lines, _, _ in functions())
    middle = lengths[len(lengths) // 2][0]
    yield f"\n{len(rooms())} rooms in {len(wings())} wings; {sum(counted.values())} imports between them"
    longest, place = lengths[-1]
    yield f"{len(lengths)} functions of {middle} lines of code (median); the longest: {longest} ({place})"
    most, place = max((count, place) for place, _, count, _ in functions())
    yield f"most parameters: {most} ({place})"


def main(arguments: list[str]) -> None:
    """Print the house, or write its map."""
    if arguments == ["--write"]:
        path = ROOT / "CONTRIBUTING.md"
        before, _, rest = path.read_text(encoding="utf-8").partition(START)
        path.write_text(before + START + map_of_rooms() + END + rest.partition(END)[2], encoding="utf-8")
    else:
        print("\n".join(described()))


if __name__ == "__main__":
    main(sys.argv[1:])
