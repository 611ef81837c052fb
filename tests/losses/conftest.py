"""Inductor imports setuptools, which refuses to be imported after the standard library's distutils. In a process of many
tests another one may have imported that before: setuptools comes first here, when tests are collected.
"""

import setuptools  # noqa: F401
