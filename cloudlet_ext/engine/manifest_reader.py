# SPDX-License-Identifier: Apache-2.0
"""Reader of manifests: JSON whose cost is bounded before it is parsed, and checks that name the field."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from cloudlet_ext.engine.digest import DIGEST_BYTES
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.manifest import (
    CHUNKS_LIMIT,
    HEAD_LIMIT_BYTES,
    MACHINE_LIMIT_BYTES,
    NAME_LIMIT_BYTES,
    PART_LIMITS_BYTES,
    REGIONS_LIMIT,
    Part,
    canonical,
)


class ManifestReader:
    """Checks of JSON fields; every refusal is a Malformed that names the field."""

    def __init__(self, data: bytes, path: str, fields: set[str]) -> None:
        """``data``: an object that has exactly ``fields``, in at most HEAD_LIMIT_BYTES. A byte of JSON becomes up to 30
        bytes of objects (lists of empty lists), so that its size bounds what parsing takes."""
        self.path = path
        if len(data) > HEAD_LIMIT_BYTES:
            self.refuse("", f"it has {len(data)} bytes beside its segments, at most {HEAD_LIMIT_BYTES} are allowed")
        document = self.parse(data, "")
        if not isinstance(document, dict):
            self.refuse("", "it is not a JSON object")
        for name in sorted(document.keys() - fields):
            self.refuse(name, "unknown field")
        for name in sorted(fields - document.keys()):
            self.refuse(name, "the field is missing")
        self.check_canonical(document, data, "")
        self.document: dict[str, Any] = document

    def parse(self, data: bytes, field: str) -> Any:
        """JSON as objects; its form is yet to be looked at."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            self.refuse(field, f"it is not JSON: {error}")

    def check_canonical(self, document: Any, data: bytes, field: str) -> None:
        """Refuse ``data`` unless it is what is written of ``document``."""
        try:
            again = canonical(document)
        except (ValueError, RecursionError) as error:
            self.refuse(field, f"it has values that are not allowed: {error}")
        if again != data:
            self.refuse(field, "it is not canonical JSON")

    def refuse(self, field: str, reason: str) -> NoReturn:
        """Raise Malformed."""
        place = f"the manifest, {field}" if field else "the manifest"
        raise Malformed(path=self.path, place=place, reason=reason)

    def number(self, value: Any, field: str, least: int, most: int) -> int:
        """A whole number in bounds."""
        if type(value) is not int or not least <= value <= most:
            self.refuse(field, f"{value!r:.40} is not a number from {least} to {most}")
        return int(value)

    def digest(self, value: Any, field: str) -> str:
        """64 lower-case hexadecimal digits."""
        if not isinstance(value, str) or len(value) != 2 * DIGEST_BYTES or value.strip("0123456789abcdef"):
            self.refuse(field, f"{value!r:.80} is not a digest of 64 hexadecimal digits")
        return value

    def machine(self) -> dict[str, Any]:
        """The machine description: an object of bounded size."""
        machine = self.document["machine"]
        if not isinstance(machine, dict):
            self.refuse("machine", "it is not an object")
        size = len(canonical(machine))
        if size > MACHINE_LIMIT_BYTES:
            self.refuse("machine", f"it has {size} bytes, at most {MACHINE_LIMIT_BYTES} are allowed")
        return machine

    def layout(self) -> Layout:
        """Regions: at most one disk, which comes first; names unique and not empty."""
        rows = self.document["regions"]
        if not isinstance(rows, list):
            self.refuse("regions", "it is not a list")
        self.number(len(rows), "regions", 1, REGIONS_LIMIT)
        regions: list[Region] = []
        for number, row in enumerate(rows):
            field = f"region {number}"
            if not isinstance(row, list) or len(row) != 3:
                self.refuse(field, "it is not [name, kind, chunks]")
            name, kind, chunks = row
            if not isinstance(name, str) or not 0 < len(name.encode()) <= NAME_LIMIT_BYTES or not name.isprintable():
                self.refuse(field, f"{name!r:.40} is not a name")
            if kind not in ("disk", "memory") or (kind == "disk" and regions):
                self.refuse(field, f"kind {kind!r:.40} is not allowed here")
            if any(region.name == name for region in regions):
                self.refuse(field, f"the name {name!r} is there twice")
            regions.append(Region(name, kind, self.number(chunks, field, 1, CHUNKS_LIMIT)))
        layout = Layout(tuple(regions))
        if not layout.memory:
            self.refuse("regions", "there is no memory among them")
        self.number(layout.total_chunks, "regions", 1, CHUNKS_LIMIT)
        return layout

    def parts(self, required: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, Part]:
        """Parts of a base by name."""
        rows = self.document["parts"]
        if not isinstance(rows, dict):
            self.refuse("parts", "it is not an object")
        for name in sorted(rows.keys() - set(required) - set(optional)):
            self.refuse(f"parts, {name}", "unknown part")
        parts = {}
        for name in required + tuple(name for name in optional if name in rows):
            row = rows.get(name)
            if not isinstance(row, dict) or row.keys() != {"bytes", "digest"}:
                self.refuse(f"parts, {name}", "it is not {bytes, digest}")
            parts[name] = Part(
                self.number(row["bytes"], f"parts, {name}", 0, PART_LIMITS_BYTES[name]),
                self.digest(row["digest"], f"parts, {name}"),
            )
        return parts
