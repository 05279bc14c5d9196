"""Says which advisories cannot be read: cargo-deny would pass over them without a word.

    readable.py FOLDER
"""

import pathlib
import re
import sys
import tomllib

FRONT = re.compile(r"\A```toml\n(.*?)\n```\n", re.DOTALL)


def fault(path: pathlib.Path) -> str | None:
    front = FRONT.match(path.read_text(encoding="utf-8"))
    if not front:
        return "it does not begin with its data"
    try:
        data = tomllib.loads(front[1])
        advisory, patched = data["advisory"], data["versions"]["patched"]
        if (advisory["id"], advisory["package"]) != (path.stem, path.parent.name):
            return "it is another's"
        return None if isinstance(patched, list) else "patched is no list"
    except (tomllib.TOMLDecodeError, KeyError) as error:
        return repr(error)


faults = [(path, fault(path)) for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.md"))]
for path, what in faults:
    if what:
        print(f"{path}: {what}", file=sys.stderr)
sys.exit(any(what for _, what in faults))
