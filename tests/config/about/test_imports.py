"""What a file can come to."""

from __future__ import annotations

from dinov3.config.about.imports import reached

FILES = {
    "a/__init__.py": "",
    "a/root.py": "class Root: pass",
    "a/user.py": "def f():\n    from a.root import Root\n    import a.deep",
    "a/deep.py": "from a import deeper",
    "a/deeper.py": "from a import user, nothing",
    "a/other.py": "import a.deep",
}


def test_what_knows_a_name_is_reached_with_all_it_imports_and_nothing_else() -> None:
    assert [*reached(FILES, "Root")] == ["a/__init__.py", "a/root.py", "a/user.py", "a/deep.py", "a/deeper.py"]
    assert reached(FILES, "Unknown") == {}
