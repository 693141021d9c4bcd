"""Makes mkdocs see what docs/ links to outside of it: results, examples, the changelog.

In the repository a page links to `../results/...`. On the site these files lie beside the pages.
It also shows the examples in docstrings, lines after `>>>`, as code.
"""

import re
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/*.py",
    "src/divtrain/gal.py",
    "results/**/*.md",
    "results/**/*.png",
    "results/**/*.csv",
    "results/**/*.html",
    "results/**/*.json*",
    "results/**/*.py",
)


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ that pages link to, under their paths in the repository."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between docs/ and the rest of the repository into links within the site."""
    name = page.file.src_uri
    depth = name.count("/")
    if (ROOT / "docs" / name).exists():
        return markdown.replace("](../", "](")
    return re.sub(rf"\]\(((?:\.\./){{{depth}}})docs/", r"](\1", markdown)


def on_config(config: Any) -> Any:
    """Add the extension that shows docstring examples as code."""
    config.markdown_extensions.append(DoctestExtension())
    return config


class DoctestExtension(Extension):
    """Fences paragraphs that begin with `>>>`."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register before fenced code is looked for."""
        md.preprocessors.register(_Doctests(md), "doctests", priority=40)


class _Doctests(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        done: list[str] = []
        inside = False
        for line in [*lines, ""]:
            if not inside and line.startswith(">>>"):
                done.append("```pycon")
                inside = True
            elif inside and not line.strip():
                done.append("```")
                inside = False
            done.append(line)
        return done
