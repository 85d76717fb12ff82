"""The process in which QuPath's JVM lives: ``python -m stimage_qupath.qupath.bridge [REQUEST.json]``.

One JSON object a line comes in on stdin (or one request in a file), one or more go out on stdout, and nothing else::

    > {"op": "objects", "project": "P/project.qpproj", "image": "1", "output": "a.geojson", "kinds": ["annotation"]}
    < {"event": "progress", "done": 50000, "total": 100000}
    < {"event": "done", "result": {...}}
    < {"event": "failed", "error": {"type": "UsageError", "message": "...", "exit_code": 2}}

Every request ends in exactly one ``done`` or ``failed``; the end of stdin ends the process. A request names what is to
be done (``op``) and the arguments of the function of that name below; paths are absolute. What Java and QuPath print
goes to stderr. torch is never loaded here: beside it a JVM that may take half of the memory has no place, and Java
does not survive a fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from stimage_qupath.errors import StimageError, UsageError

Emit = Callable[[Mapping[str, Any]], None]


class Bridge:
    """Answers requests; projects stay open between them."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._stores: dict[tuple[str, str], Any] = {}

    def answer(self, request: Mapping[str, Any]) -> None:
        """Do one request and emit its terminal answer."""
        try:
            result = self._dispatch(dict(request))
        except StimageError as error:
            self._fail(type(error).__name__, str(error), error.exit_code)
        except Exception as error:  # noqa: BLE001 - a request always ends in an answer; Java's exceptions are any
            self._fail("StimageError", f"QuPath's process failed: {error!r}"[:2000], StimageError.exit_code)
        else:
            self._emit({"event": "done", "result": result})

    def _fail(self, kind: str, message: str, exit_code: int) -> None:
        self._emit({"event": "failed", "error": {"type": kind, "message": message, "exit_code": exit_code}})

    def _dispatch(self, request: dict[str, Any]) -> Any:
        operations: dict[str, Callable[..., Any]] = {
            "find": self.find,
            "start": self.start,
            "images": self.images,
            "classes": self.classes,
            "objects": self.objects,
            "write": self.write,
            "remove": self.remove,
            "add_images": self.add_images,
            "create": self.create,
            "modules": self.modules,
        }
        name = request.pop("op", None)
        if name not in operations:
            msg = f"expected an operation out of {', '.join(operations)}, found {name!r}"
            raise UsageError(msg)
        try:
            return operations[name](**request)
        except TypeError as error:
            if "argument" not in str(error) or error.__traceback__ is None or error.__traceback__.tb_next is not None:
                raise
            msg = f"expected the arguments of {name}, found others: {error}"
            raise UsageError(msg) from error

    def find(self) -> str:
        """Return QuPath's folder of jars, without starting Java."""
        from stimage_qupath.qupath.project.jvm import find_qupath

        return find_qupath()

    def start(self) -> str:
        """Start Java and return QuPath's version."""
        from stimage_qupath.qupath.project.jvm import start_qupath

        return start_qupath()

    def images(self, project: str, path_map: Mapping[str, str] | None = None) -> Any:
        """Return the images of a project."""
        return self._store(project, path_map).images()

    def classes(self, project: str, path_map: Mapping[str, str] | None = None) -> Any:
        """Return the classes of a project."""
        return self._store(project, path_map).classes()

    def objects(self, project: str, image: str, output: str, kinds: Iterable[str] = ("annotation",)) -> Any:
        """Export objects of an image to a GeoJSON file and return their number."""
        return self._store(project).export(image, Path(output), kinds=kinds)

    def write(
        self,
        project: str,
        image: str,
        run: str,
        expected: str | None,
        path_map: Mapping[str, str] | None = None,
        clear_dead_locks: bool = False,
    ) -> Any:
        """Write a run into an image."""

        def progress(done: int, total: int) -> None:
            self._emit({"event": "progress", "done": done, "total": total})

        store = self._store(project, path_map)
        return asdict(
            store.write_run(image, Path(run), expected=expected, progress=progress, clear_dead_locks=clear_dead_locks)
        )

    def remove(self, project: str, image: str, expected: str | None, path_map: Mapping[str, str] | None = None) -> Any:
        """Remove our objects from an image."""
        return asdict(self._store(project, path_map).remove_own(image, expected=expected))

    def add_images(self, project: str, images: Iterable[str]) -> Any:
        """Add image files and return their entry ids."""
        return self._store(project).add_images([Path(image) for image in images])

    def create(self, project: str, images: Iterable[str]) -> Any:
        """Make a project in a new folder and return the ids of its images."""
        self.start()
        from stimage_qupath.qupath.project.create import create_project

        return self.add_images(str(create_project(Path(project))), images)

    def modules(self) -> list[str]:
        """Return the names of all loaded modules."""
        return sorted(sys.modules)

    def _store(self, project: str, path_map: Mapping[str, str] | None = None) -> Any:
        """Return the open project, read anew when its file changed."""
        self.start()
        from stimage_qupath.qupath.project.store import ProjectStore

        stamp = json.dumps([Path(project).stat().st_mtime_ns if Path(project).exists() else 0, path_map or {}])
        if (project, stamp) not in self._stores:
            self._stores = {(project, stamp): ProjectStore(Path(project), path_maps=path_map)}
        return self._stores[project, stamp]


def main(arguments: list[str]) -> int:
    """Answer the request in the file named by the only argument, or each line of stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started this one decides
    answers = _own_stdout()

    def emit(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    bridge = Bridge(emit)
    lines: Iterable[str] = [Path(arguments[0]).read_text(encoding="utf-8")] if arguments else sys.stdin
    for line in lines:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
        except ValueError:
            request = {}
        bridge.answer(request if isinstance(request, dict) else {})
    return 0


def _own_stdout() -> TextIO:
    """Return the real stdout, and let everything else that prints, Java too, print to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
