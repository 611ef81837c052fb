"""The rows of a list of images: text, CSV, TSV, JSON lines or Parquet, in the forms that people and programs write.

Text is UTF-8, or UTF-16 with its mark, with any line ends. A text line is a path; a path, a tab and a class; or, when every
line is so, a path that ends as images do, a space, comma or semicolon, and a class. A table has a header; its names are
found whatever their case and the spaces around them, and its columns may be parted by semicolons.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from dinov3.data.decode import SUFFIXES
from dinov3.data.errors import DataError
from dinov3.data.storage.arrow import column_of, optional_column_of
from dinov3.data.storage.extras import need
from dinov3.system.errors import first_line
from dinov3.system.json_file import JsonError, parse

DELIMITERS = {".csv": ",", ".tsv": "\t"}
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
IMAGE = "(?:" + "|".join(re.escape(suffix.decode()) for suffix in SUFFIXES) + ")"
ENDS_AS_IMAGE = re.compile(rf".*{IMAGE}", re.IGNORECASE | re.DOTALL)
PATH_AND_CLASS = re.compile(rf"(.*{IMAGE})(?:[ \t]+|[ ]*[,;][ ]*)([^\s,;]+)[ \t]*", re.IGNORECASE)


class Columns(NamedTuple):
    """Where paths and classes are in a table. None: ``label``, if there is such a column."""

    path: str
    label: str | None


class Rows(NamedTuple):
    """What a list holds."""

    names: list[bytes]
    labels: Sequence[object] | None


def rows_of(path: Path, columns: Columns) -> Rows:
    """The paths and classes in a list of any kind. Raises DataError, and OSError when it cannot be read."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _rows_of_parquet(path, columns)
    text = text_in(path)
    if not text.strip():
        raise DataError(f"{path}: names no images: it is empty")
    if "\0" in text:  # UTF-16 or UTF-32 that does not say so
        raise DataError(f"{path}: has zero bytes: save it as UTF-8 text")
    if suffix in DELIMITERS:
        return _rows_of_table(path, text, columns, DELIMITERS[suffix])
    if suffix in (".jsonl", ".ndjson"):
        return _rows_of_json_lines(path, text, columns)
    return _rows_of_text(path, text)


def text_in(path: Path) -> str:
    """The text of a file; bytes that are none are kept as surrogates, so that they are names again later."""
    data = path.read_bytes()
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    try:
        return data[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise DataError(f"{path}: begins as UTF-16 and is not: save it as UTF-8") from None


def _rows_of_text(path: Path, text: str) -> Rows:
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    lines = [line for line in lines if not line.startswith("#") or ENDS_AS_IMAGE.fullmatch(line.rstrip())]
    if "\t" not in text:
        matches = [PATH_AND_CLASS.fullmatch(line) for line in lines]
        if all(matches):
            return Rows(_names([m[1] for m in matches if m]), [m[2] for m in matches if m])
    parts = [line.partition("\t") for line in lines]
    if wrong := next((i for i, (name, _, label) in enumerate(parts, 1) if not name or "\t" in label), None):
        raise DataError(f"{path}: image {wrong}: a line is a path, or a path, a tab and a class")
    return Rows(_names([name for name, _, _ in parts]), [label.strip() for _, _, label in parts])


def _names(texts: Sequence[str]) -> list[bytes]:
    """Paths as bytes; spaces behind a suffix do not belong to it."""
    return [
        os.fsencode(text.rstrip() if text[-1:].isspace() and ENDS_AS_IMAGE.fullmatch(text.rstrip()) else text)
        for text in texts
    ]


def _rows_of_table(path: Path, text: str, columns: Columns, delimiter: str) -> Rows:
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = delimiter if delimiter in first else next((d for d in ";\t|," if d in first), delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=f"{delimiter} " in first)
    try:
        header = next((row for row in reader if row), [])
        if any(ENDS_AS_IMAGE.fullmatch(name.strip()) for name in header):
            raise DataError(f"{path}: begins with an image: put a line with the names of its columns first: path,label")
        place = header.index(column_of(header, columns.path, "column", path))
        label = optional_column_of(header, columns.label, "label", path)
        rows = [row for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    if short := next((row for row in rows if len(row) != len(header)), None):
        raise DataError(f"{path}: {delimiter.join(short)[:80]}: has {len(short)} values, the header {len(header)}")
    names = list(map(itemgetter(place), rows))
    if "" in names:
        raise DataError(f"{path}: {delimiter.join(rows[names.index('')])[:80]}: has no {header[place].strip()}")
    return Rows(_names(names), None if label is None else list(map(itemgetter(header.index(label)), rows)))


def _rows_of_json_lines(path: Path, text: str, columns: Columns) -> Rows:
    names, labels = [], []
    wanted = columns.label or "label"
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a text may hold U+2028
        if not line.strip():
            continue
        try:
            row = parse(line)
        except JsonError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get(columns.path), str) or not row[columns.path]:
            raise DataError(f"{path}: line {number}: is not a JSON object with a text {columns.path}: say column=NAME")
        names.append(row[columns.path])
        labels.append(row.get(wanted))
    if columns.label and not any(label is not None for label in labels):
        raise DataError(f"{path}: no line has {columns.label}: say label=NAME")
    if any(isinstance(label, dict | list) for label in labels):
        raise DataError(f"{path}: {wanted} is a list or an object: classes are numbers or names")
    return Rows(_names(names), labels)


def _rows_of_parquet(path: Path, columns: Columns) -> Rows:
    arrow, parquet = need("pyarrow"), need("pyarrow.parquet")
    try:
        header = parquet.read_schema(path).names
        place = column_of(header, columns.path, "column", path)
        label = optional_column_of(header, columns.label, "label", path)
        table = parquet.read_table(path, columns=[place, *([label] if label else [])], use_threads=False)
    except arrow.ArrowException as error:
        raise DataError(f"{path}: is not a Parquet file that can be read: {first_line(error)}") from None
    names = table[place].to_pylist()
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: column {place} does not hold paths; if it holds images, use Parquet:root={path}")
    return Rows([os.fsencode(name) for name in names], None if label is None else table[label].to_pylist())
