"""`push`: a checkpoint directory in a Hub repository."""

from __future__ import annotations

from converter.options import PushOptions
from converter.python_calls import takes
from converter.storage.hub_upload import PushResult, upload


@takes(PushOptions)
def push(options: PushOptions) -> PushResult:
    """Upload a checkpoint directory to the Hub in one commit, without files that have not changed.

    A missing repository is created. A model card that somebody edited is not replaced.

    Raises:
        UsageError: if `repo_id` is not an id, or options contradict each other.
        OutputError: if the directory is not a checkpoint, or the Hub refuses or is unreachable;
            the repository is unchanged then.

    """
    return upload(options)
