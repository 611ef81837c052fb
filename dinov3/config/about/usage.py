"""Which source lines read which key, found in the syntax tree: ``cfg.optim.lr``, and ``lr`` of anything bound to a block.

What is followed: parameters and attributes annotated with a block class, ``x = cfg.optim``, ``self.cfg = cfg.gram``
(also in subclasses), ``for s in (cfg.a, cfg.b)``, ``getattr`` with names written out, and ``asdict(cfg.gram)``.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dinov3.config.about.imports import reached
from dinov3.config.about.tasks import PRETRAIN, root_of
from dinov3.config.run_config import AdamWConfig, RunConfig
from dinov3.config.spec import Leaf, block_of, blocks_in, choices_of, hints, leaves
from dinov3.config.unbuilt import feature_of

DERIVES = {"derived", "gram_source", "official", "students"}  # files of the config folder
ROOT = Path(__file__).resolve().parents[3]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
BINDINGS = (ast.Assign, ast.NamedExpr, ast.AnnAssign, ast.For, ast.comprehension)
MAY_READ = re.compile(
    r"cfg|[cC]onfig|\bclass \w+\("
)  # blocks and what holds them are called so, or come from a base class
Read = tuple[type, str]  # a block class and one of its fields
Types = frozenset[type]  # block classes an expression may have; empty for anything else
NONE: Types = frozenset()


class Blocks:
    """The blocks of one kind of run, by what they are called."""

    def __init__(self, root: type) -> None:
        self.root = root
        self.by_key = {name: block_of(hint) for name, hint in hints(root).items()}  # as attributes of a config
        self.by_class: dict[str, type] = {}  # with their base classes
        todo: list[type] = [root]
        while todo:
            for block in [c for c in todo.pop().__mro__ if is_dataclass(c) and c.__name__ not in self.by_class]:
                self.by_class[block.__name__] = block
                todo += [inner for hint in hints(block).values() for inner in blocks_in(hint)]
        optim = self.by_key["optim"]
        assert optim is not None
        self.by_class |= {RunConfig.__name__: root, AdamWConfig.__name__: optim}  # what every kind of run has


@dataclass
class _Scope:
    """What the names visible in one function stand for."""

    known: Blocks
    blocks: dict[str, Types] = field(default_factory=dict)  # variable -> block classes
    words: dict[str, list[str]] = field(default_factory=dict)  # variable -> texts it takes
    attributes: dict[str, Types] = field(default_factory=dict)  # of self

    def inner(self) -> _Scope:
        return _Scope(self.known, dict(self.blocks), dict(self.words), self.attributes)


def _annotated(node: ast.expr | None, known: Blocks) -> Types:
    """The block classes an annotation names."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    parts = ast.walk(node) if node is not None else ()
    return frozenset(known.by_class[_name(part)] for part in parts if _name(part) in known.by_class)


def _inner(block: type | None) -> Types:
    return NONE if block is None else frozenset([block])


def _name(node: ast.AST) -> str:
    """The last word of ``x`` or ``a.x``, else nothing."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _infer(node: ast.expr, scope: _Scope) -> Types:
    """The block classes an expression may have."""
    if isinstance(node, ast.Name):
        by_name = (
            scope.known.by_key.get(node.id.removesuffix("_cfg").removesuffix("_config")) if "_c" in node.id else None
        )
        return scope.blocks.get(node.id) or _inner(by_name)
    if isinstance(node, ast.Attribute):
        if _name(node.value) == "self" and node.attr in scope.attributes:
            return scope.attributes[node.attr]
        if bases := _infer(node.value, scope):
            return NONE.union(*(_inner(block_of(hints(base).get(node.attr))) for base in bases))
        is_config = "cfg" in _name(node.value) or "config" in _name(node.value)
        return _inner(scope.known.by_key.get(node.attr)) if is_config else NONE
    if isinstance(node, ast.IfExp):
        return _infer(node.body, scope) | _infer(node.orelse, scope)
    if isinstance(node, ast.BoolOp):
        return NONE.union(*(_infer(value, scope) for value in node.values))
    if isinstance(node, ast.Call) and node.args and _name(node.func) in {"replace", "deepcopy"}:
        return _infer(node.args[0], scope)
    return NONE


def _texts(node: ast.expr, scope: _Scope) -> list[str]:
    """The texts in a list written out, or bound to a name; ``[f.name for f in fields(cls)]`` gives the class's fields."""
    if isinstance(node, ast.Name):
        return scope.words.get(node.id, [])
    if isinstance(node, ast.ListComp) and _name(node.elt) == "name":
        source = node.generators[0].iter
        if isinstance(source, ast.Call) and _name(source.func) == "fields" and source.args:
            return scope.words.get(_name(source.args[0]), [])
    items = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else []
    return [i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)]


class _Body:
    """What matters of a scope's own nodes, not those inside its functions and classes."""

    def __init__(self, body: list[ast.AST]) -> None:
        self.bindings: list[ast.AST] = []
        self.inner: list[Any] = []  # functions and classes
        self.reads: list[ast.AST] = []
        todo = list(body)
        while todo:
            node = todo.pop()
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                self.inner.append(node)
                continue
            if isinstance(node, BINDINGS):
                self.bindings.append(node)
            elif isinstance(node, ast.Attribute | ast.Call):
                self.reads.append(node)
            todo.extend(ast.iter_child_nodes(node))


def _bind(target: ast.expr, value: ast.expr, scope: _Scope) -> None:
    """Note what ``target = value`` tells about names."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for t, v in zip(target.elts, value.elts, strict=True):
            _bind(t, v, scope)
        return
    blocks, texts = _infer(value, scope), _texts(value, scope)
    if isinstance(target, ast.Name) and blocks:
        scope.blocks[target.id] = blocks
    if isinstance(target, ast.Name) and texts:
        scope.words[target.id] = texts
    if isinstance(target, ast.Attribute) and _name(target.value) == "self" and blocks:
        scope.attributes[target.attr] = blocks


def _bind_all(bindings: list[ast.AST], scope: _Scope) -> None:
    for _ in range(2):  # the walk is in no order, and one binding may need another
        for node in bindings:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    _bind(target, node.value, scope)
            elif isinstance(node, ast.NamedExpr | ast.AnnAssign) and node.value is not None:
                _bind(node.target, node.value, scope)
            if isinstance(node, ast.AnnAssign) and (blocks := _annotated(node.annotation, scope.known)):
                known = scope.attributes if isinstance(node.target, ast.Attribute) else scope.blocks
                known[_name(node.target)] = blocks
            if isinstance(node, ast.For | ast.comprehension):
                _bind_loop(node.target, node.iter, scope)


def _bind_loop(target: ast.expr, items: ast.expr, scope: _Scope) -> None:
    if not isinstance(target, ast.Name):
        return
    if texts := _texts(items, scope):
        scope.words[target.id] = texts
    if isinstance(items, ast.Tuple | ast.List):
        scope.blocks[target.id] = NONE.union(*(_infer(item, scope) for item in items.elts))


class _Scanner:
    """Reads of one file. ``classes``: attributes of ``self`` by class name, over all files; ``bodies``: of nodes seen before."""

    def __init__(self, classes: dict[str, dict[str, Types]], bodies: dict[ast.AST, _Body]) -> None:
        self.classes, self.bodies = classes, bodies
        self.reads: list[tuple[Read, int]] = []

    def scan(
        self, owner: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef, scope: _Scope
    ) -> None:
        if owner not in self.bodies:
            self.bodies[owner] = _Body([owner.body] if isinstance(owner, ast.Lambda) else list(owner.body))
        body = self.bodies[owner]
        _bind_all(body.bindings, scope)
        for node in body.inner:
            if isinstance(node, ast.ClassDef):
                self._scan_class(node, scope)
            elif not getattr(node, "name", "").endswith("checks"):  # of a schema: they read what nobody else may read
                self._scan_function(node, scope)
        for node in body.reads:
            self._note(node, scope)

    def _scan_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: _Scope) -> None:
        inner = scope.inner()
        for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            inner.blocks.pop(arg.arg, None)
            if blocks := _annotated(arg.annotation, scope.known):
                inner.blocks[arg.arg] = blocks
        self.scan(node, inner)

    def _scan_class(self, node: ast.ClassDef, scope: _Scope) -> None:
        inner = scope.inner()
        inner.attributes = self.classes.setdefault(node.name, {})
        for base in node.bases:
            inner.attributes |= self.classes.get(_name(base), {})
        fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        inner.attributes |= {
            _name(s.target): blocks for s in fields if (blocks := _annotated(s.annotation, scope.known))
        }
        inner.words["cls"] = [_name(s.target) for s in fields]
        self.scan(node, inner)

    def _note(self, node: ast.AST, scope: _Scope) -> None:
        names: list[str] = []
        base: ast.expr | None = None
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            base, names = node.value, [node.attr]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            base, word = node.args[0], node.args[1]
            names = [str(word.value)] if isinstance(word, ast.Constant) else _texts(word, scope)
        for block in _infer(base, scope) if base is not None else NONE:
            self.reads += [((block, name), base.lineno) for name in names if base is not None and name in hints(block)]
        if isinstance(node, ast.Call) and _name(node.func) == "asdict":
            blocks = _infer(node.args[0], scope)
            self.reads += [((block, name), node.lineno) for block in blocks for name in hints(block)]


def read_places(sources: dict[str, str], known: Blocks) -> dict[Read, list[str]]:
    """``file:line`` of every read of a block of ``known``. ``sources``: file name -> Python text."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    classes: dict[str, dict[str, Types]] = {}
    bodies: dict[ast.AST, _Body] = {}
    places: dict[Read, list[str]] = {}
    for last in (False, False, True):  # attributes of a base class may be known only after its file was seen
        for name, tree in trees.items():
            scanner = _Scanner(classes, bodies)
            scanner.scan(tree, _Scope(known))
            for read, line in scanner.reads if last else ():
                places.setdefault(read, []).append(f"{name}:{line}")
    return {read: sorted(set(found), key=_file_and_line) for read, found in places.items()}


def _file_and_line(place: str) -> tuple[str, int]:
    name, _, line = place.rpartition(":")
    return name, int(line)


@cache
def places_by_key(task: str = PRETRAIN) -> dict[str, tuple[str, ...]]:
    """For every leaf, the lines of this project that read it. Of the config folder only what derives values counts."""
    known, places = Blocks(root_of(task)), read_places(_sources(task), Blocks(root_of(task)))

    def readers(leaf: Leaf) -> list[str]:
        owners = [block for block in leaf.owner.__mro__ if (block, leaf.name) in places]
        return sorted({place for block in owners for place in places[block, leaf.name]}, key=_file_and_line)

    return {leaf.key: tuple(readers(leaf)) for leaf in leaves(known.root, known.root())}


def _sources(task: str) -> dict[str, str]:
    """File name -> text of what may read keys of a task."""
    files = [p for room in ("dinov3", "utility") for p in sorted((ROOT / room).rglob("*.py"))]
    own = Path(__file__).parents[1]
    texts = {
        p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8")
        for p in files
        if own not in p.parents or p.stem in DERIVES
    }
    if task != PRETRAIN:  # a block of other runs may be called the same: only what this kind of run can come to counts
        texts = reached(texts, root_of(task).__name__)
    return {name: text for name, text in texts.items() if MAY_READ.search(text)}


def unread_keys(task: str = PRETRAIN) -> list[str]:
    """Leaves that no code reads although nothing says so: neither dead, nor unbuilt, nor with a single legal value."""
    places, root = places_by_key(task), root_of(task)

    def excused(leaf: Leaf) -> bool:
        return leaf.spec.dead or feature_of(leaf.key) is not None or len(choices_of(leaf.hint)) == 1

    return [leaf.key for leaf in leaves(root, root()) if not places[leaf.key] and not excused(leaf)]


def dead_but_read(task: str = PRETRAIN) -> list[str]:
    """Leaves the schema calls dead and some code reads."""
    places, root = places_by_key(task), root_of(task)
    return [leaf.key for leaf in leaves(root, root()) if leaf.spec.dead and places[leaf.key]]
