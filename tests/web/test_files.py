"""The page's own files: nothing in them leads to another host."""

import json
import re
from pathlib import Path

WEB = Path(__file__).parents[2] / "web"


def test_versions_are_pinned_and_no_registry_is_named():
    wanted = json.loads((WEB / "package.json").read_text("utf-8"))
    text = (WEB / "package-lock.json").read_text("utf-8")
    locked = json.loads(text)["packages"]
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert locked[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in one for place, one in locked.items() if place)
    assert "http" not in text


def test_the_page_names_this_machine_only():
    for name in ("index.html", "page.js", "page.css"):
        addresses = re.findall(r"\bhttps?://[\w.-]+", (WEB / name).read_text("utf-8"))
        assert set(addresses) <= {"http://localhost"}
