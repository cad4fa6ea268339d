"""How the scripts under examples/gallery become pages: run at every build in which they, or the library, are new."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from forwardgrad.train.tasks.profiles import SOURCE

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "gallery"
# Scripts that want more than the docs group and the extra `train`, and those that want files below FORWARDGRAD_DATA.
NEEDS = {"5_transformer": ("transformers", "peft"), "9_black_box": ("scipy", "pyamg")}
DATA = {"9_wall_model": SOURCE}


def config(docs: Path) -> dict:
    """The settings of sphinx-gallery.

    Args:
        docs: folder of the pages; the gallery is written to `gallery` below it.
    """
    forget(docs / "gallery")
    idle = [stem for stem, needed in NEEDS.items() if not all(map(find_spec, needed))]
    idle += [stem for stem, source in DATA.items() if not source.look().present]
    return {
        "examples_dirs": str(EXAMPLES),
        "gallery_dirs": "gallery",
        "filename_pattern": "/(?!" + "|".join([*idle, "$"]) + r")[^/]*\.py$",  # the others are shown without a run
        "within_subsection_order": "FileNameSortKey",
        "image_scrapers": ("matplotlib",),
        "remove_config_comments": True,
        "download_all_examples": False,
        "show_signature": False,
        "write_computation_times": False,
        "min_reported_time": 10**6,  # seconds: how long a script took here is nobody's business
    }


def forget(built: Path) -> None:
    """Drops what sphinx-gallery remembers of earlier runs where the library has changed since.

    Sphinx-gallery passes over scripts that are as they were; whether they still run depends on the library too.

    Args:
        built: the folder of the written gallery.
    """
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        digest.update(path.read_bytes())
    built.mkdir(parents=True, exist_ok=True)
    mark = built / ".library"
    if not mark.exists() or mark.read_text() != digest.hexdigest():
        for memory in built.glob("*.md5"):
            memory.unlink()
        mark.write_text(digest.hexdigest())
