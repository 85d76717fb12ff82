"""QuPath's entry: a request in, JSON lines out; loads neither typer nor rich.

Protocol, version 1
-------------------
Started as ``python -u -X utf8 -m stimage_qupath worker --request FILE``. ``FILE`` is a request as
:mod:`stimage_qupath.request` and ``schema/request.schema.json`` describe it; its folder is the *job folder*.

Standard output carries one JSON object a line, ASCII, finite numbers only, each line prefixed ``@@STIMAGE ``. Anything
else that Python or a library prints goes to standard error, which is for the log. ``event`` tells the objects apart:

``started``    ``api``, ``run_id``, ``package`` (version), ``device`` (as asked for), ``images`` (how many). First,
               before anything heavy is loaded; absent when the request is no good.
``progress``   ``image`` (id, or null), ``stage``, ``done``, ``total`` (0: unknown), ``message``. At least every 5 s in
               every stage, importing and loading included.
``done``, ``failed``, ``cancelled``
               The terminal answer, exactly one, last line; its fields are those of ``response.json``.

Each image becomes a run folder ``<output>/image-<id>``. An image that fails does not stop the others.

``response.json`` appears in the job folder, whole or not at all, before the terminal line: ``api``, ``run_id``,
``status`` (``done``, ``failed``, ``cancelled``), ``exit_code``, ``error`` (null, or ``type``, ``message``, ``hint``),
``images``, ``seconds``, ``versions``, ``peak_memory_mib``. Each of ``images`` has ``id``, ``name`` and ``status``
(``done``, ``failed``, ``not started``); unless not started, ``exit_code`` and ``error``; and when done, ``folder``,
``cells``, ``device``, ``genes``, ``warnings``, ``research_use``, ``seconds``, ``stages`` and ``regions``: ``id``,
``first``, ``count`` and ``first_id`` (of the nucleus at ``first``) of each region in the order of ``cells.geojson.gz``.
A response that is there from before is removed first, so that a missing one means that the worker was killed.

To cancel, create the empty file ``cancel`` in the job folder, or terminate the process politely. The worker looks every
quarter of a second, and stops likewise when the process that started it is gone (``STIMAGE_PARENT_PID``, or its parent
as the system knows it). Work that has not stopped by itself a second later is abandoned: what it had half written is
removed and the process ends.

The process ends with the exit code of :mod:`stimage_qupath.errors`: 0, that of the only image or of all failed images
alike, 10 when some images failed or in different ways, 7 cancelled, 2 for a request that is no good.

``worker --validate FILE`` holds a run against annotations: ``FILE`` is the JSON of
:class:`stimage_qupath.config.ValidateSettings`, paths absolute, and its folder the job folder. It answers in the same
words, ``run_id`` null; the one image's ``folder`` is the validation's: ``validation.json`` and ``validation.html``.

``worker --check`` in place of ``--request FILE`` proves the way there and back: it loads the bundled model, without an
image, and answers in the same words; the job folder is the current one, and ``run_id`` null.
"""

from stimage_qupath.worker.entry import main

__all__ = ["main"]
