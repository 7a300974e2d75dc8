"""What MkDocs does to each page: links out of docs/, and the list of modules in the reference."""

import ast
import json
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")
NAMES = "<!-- the public names -->"
MODULES = "<!-- every module -->"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs with a page's text; returns what is rendered."""
    if NAMES in markdown:
        markdown = markdown.replace(NAMES, " · ".join(public_names()))
    if MODULES in markdown:
        markdown = markdown.replace(MODULES, "\n\n".join(modules()))
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def named(link: re.Match[str]) -> str:
        """A file that GitHub links to and the site does not hold: its path, in code type."""
        text, path = link[1], posixpath.normpath(posixpath.join(folder, link[2]))
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    return OUTSIDE.sub(named, markdown)


def public_names() -> list[str]:
    """What `import cbam` offers, each name with a link to where it is described.

    Read from the imports in cbam/__init__.py. A table, such as METHODS, is described by its module.
    """
    tree = ast.parse((ROOT / "cbam" / "__init__.py").read_text(encoding="utf-8"))
    return [
        f"[`cbam.{each.name}`][{node.module}{'' if each.name.isupper() else f'.{each.name}'}]"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    ]


def modules() -> list[str]:
    """A block for mkdocstrings for every module of the library, a package before what is in it.

    Only what a module defines is described there: what it imports has its place elsewhere.
    """
    blocks: dict[str, str] = {}
    for file in (ROOT / "cbam").rglob("*.py"):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name == "cbam" or "._" in name:
            continue
        body = ast.parse(file.read_text(encoding="utf-8")).body
        kinds = (ast.ClassDef, ast.FunctionDef)
        members = [each.name for each in body if isinstance(each, kinds) and each.name[0] != "_"]
        options = {"toc_label": name, "members": members or False}
        blocks[name] = f"::: {name}\n    options: {json.dumps(options)}"
    return [blocks[name] for name in sorted(blocks)]
