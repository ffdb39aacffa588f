"""The Hub's own opinion of a model card, asked for before anything is made or sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import OutputError, Problem

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_card(path: Path, api: HfApi) -> None:
    """Let the Hub look at the front matter of a card.

    Raises:
        OutputError: if it does not accept it, with what it says.
    """
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    session: Any = get_session()
    answer = session.post(
        f"{api.endpoint}/api/validate-yaml",
        json={"content": path.read_text("utf-8", "replace"), "repoType": "model"},
        headers=build_hf_headers(token=api.token),
    )
    if answer.status_code == 400:
        told = answer.json().get("errors") or [{}]
        raise OutputError(
            f"{path}: the Hub does not accept this model card; nothing was sent",
            [Problem(str(each.get("message", "is not valid")), str(path)) for each in told],
            remedy="Mend what stands at its top between two lines of ---; what may stand there: "
            "https://huggingface.co/docs/hub/model-cards",
        )
    hf_raise_for_status(answer)
