"""The pages of the documentation site that lie outside of docs/: a hook of MkDocs (mkdocs.yml), which builds from the same files.

README.md becomes the first page, CONTRIBUTING.md and CHANGELOG.md pages of their own. Links are written for a code host, where
docs/ is a folder beside them; here they are made to hold on the site, where all pages lie in one folder.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}  # in ROOT -> on the site
_ORIGIN = {page: name for name, page in MOVED.items()}
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside docs/."""
    for name, page in MOVED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs names them
    """Return a page whose links to files of the repository lead to their pages."""
    here = _ORIGIN.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda link: f"]({moved(link[1], here)}{link[2] or ''})", markdown)


def moved(
    target: str,  # as the file `here` of the repository writes it
    here: str,
) -> str:
    """Return where a link leads on the site."""
    named = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    return MOVED.get(named) or posixpath.relpath(named, "docs")
