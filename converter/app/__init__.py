"""The page of ``converter app``: compose, convert and rescue checkpoints in a browser.

`workspace` calls the public functions and keeps what each session wrote, `page` builds the Gradio
page, `server` decides who may request what.
"""

from __future__ import annotations

from converter.app.server import launch as launch
