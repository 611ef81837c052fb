"""What one call of ``dinov3 compress`` makes: one file, or with ``--compare`` several of one backbone."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from dinov3.compress.errors import CompressError
from dinov3.compress.methods import CALIBRATED
from dinov3.compress.options import check_amounts, methods_of
from dinov3.compress.written import NUMBER_FORMATS, check_format


@dataclass(frozen=True)
class Variant:
    """One compressed file."""

    method: str  # as on the command line
    number_format: str
    amount: str | None
    budget: float | None
    of: str
    out: Path

    @property
    def methods(self) -> list[str]:
        return methods_of(self.method)

    @property
    def name(self) -> str:
        """For tables and pictures."""
        unit = "" if self.of == "parameters" else f" of {self.of}"
        amount = f"{self.budget:g}{unit}" if self.budget is not None else self.amount or ""
        method = amount if "=" in amount else f"{self.method} {amount}" if self.methods else ""
        return " ".join(part for part in (method, "" if self.number_format == "none" else self.number_format) if part)


def variants_of(args: argparse.Namespace) -> list[Variant]:
    """What ``args`` ask for, checked as far as it can be without reading anything. Raises CompressError."""
    if args.compare is None:
        variants = [Variant(args.method, args.quantize, args.amount, args.budget, args.of, args.out)]
    elif args.method != "none" or args.quantize != "none":
        raise CompressError("--compare names methods and number formats itself: leave out --method and --quantize")
    else:
        variants = [_compared(word, args) for word in args.compare]
        if len({variant.out for variant in variants}) < len(variants):
            raise CompressError(f"--compare {' '.join(args.compare)}: the same twice")
    for word, variant in zip(args.compare or [None], variants, strict=True):
        try:
            _check(variant, args)
        except CompressError as error:
            raise error if word is None else CompressError(f"--compare {word}: {error}") from error
    return variants


def _compared(word: str, args: argparse.Namespace) -> Variant:
    """``METHODS``, ``FORMAT`` or ``METHODS+FORMAT``; METHODS with amounts of their own (``heads=0.5,mlp=0.9``) take no other."""
    methods, plus, number_format = word.partition("+")
    if not plus and methods in NUMBER_FORMATS:
        methods, number_format = "none", methods
    number_format = number_format or "none"
    if (plus and number_format == "none") or number_format not in NUMBER_FORMATS:
        raise CompressError(f"--compare {word}: after + comes one of {sorted(set(NUMBER_FORMATS) - {'none'})}")
    suffix = ".onnx" if number_format == "onnx-int8" else ".safetensors"
    out = args.out / (re.sub(r"[^\w.+-]+", "-", word) + suffix)
    if "=" in methods:
        names = ",".join(part.partition("=")[0] for part in methods.split(","))
        return Variant(names, number_format, methods, None, args.of, out)
    if methods == "none":
        return Variant(methods, number_format, None, None, args.of, out)
    return Variant(methods, number_format, args.amount, args.budget, args.of, out)


def _check(variant: Variant, args: argparse.Namespace) -> None:
    methods = variant.methods
    if not methods and variant.number_format == "none":
        raise CompressError("nothing to do: give --method, --quantize or both, or --compare")
    check_amounts(methods, variant.amount, variant.budget)
    calibrated = [method for method in methods if method in CALIBRATED]
    if calibrated and args.calibrate is None:
        raise CompressError(f"--method {calibrated[0]} needs --calibrate: images like those the model will see")
    check_format(variant.number_format, variant.out, args.calibrate is not None)
