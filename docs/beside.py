"""Hooks of the documentation: copies of the files outside of docs/ that pages link to (examples, configs), and lists
made of the aligned rows of docstrings."""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(\.\./((?:\.\./)?)((?:examples|conf)/[\w./]+|constraints[\w-]*\.txt)\)")
ROW = re.compile(r"^(?:    )?(\w[\w, .()]*?) {2,}(?=\S)")


def on_files(files: Files, config: Any) -> Files:
    """Adds each file that a page links to above docs/."""
    texts = [file.content_string for file in files.documentation_pages()]
    for path in sorted({path for text in texts for _, path in LINK.findall(text)}):
        files.append(File.generated(config, path, abs_src_path=str(Path(config.config_file_path).parent / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Points those links to the copies."""
    return LINK.sub(r"](\1\2)", markdown)


class Rows(griffe.Extension):
    """Makes the rows `name  what it is` of a docstring a list, which a page would otherwise run together."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            parts = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(listed(part) for part in parts)


def listed(part: str) -> str:
    """A paragraph of a docstring with its rows as a list."""
    if part.startswith(" ") or not any(map(ROW.match, part.splitlines())):
        return part
    lines, inside = list[str](), False
    for line in part.splitlines():
        row = ROW.match(line) is not None
        apart = row != inside and not (
            inside and line.startswith(" ")
        )  # a list and a sentence have a blank line between
        lines.append("\n" * apart + ROW.sub(r"- `\1`: ", line))
        inside = row or (inside and not apart)
    return "\n".join(lines)
