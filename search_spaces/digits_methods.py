"""Handwritten digits, with the method of distillation searched beside its own parameters."""

from dataclasses import replace

from search_spaces._methods import all_methods
from search_spaces.digits import SPACE as DIGITS

_BLOCKS = ("block1", "block2")  # 4x4 and 2x2 positions

SPACE = replace(DIGITS, distillation=all_methods(student_layers=_BLOCKS, teacher_layers=_BLOCKS))
