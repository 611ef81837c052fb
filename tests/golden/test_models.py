"""The models reproduce the official numbers, names and shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.golden.case import Case
from tests.golden.cases_models import RUNNERS, compare, init_problem
from tests.golden.registry import longest_prefix

DATA = Path(__file__).parent / "data"
