"""Work items of shards that end their process as a decoder's crash would; light to import, as workers do."""

from __future__ import annotations

import os
import signal

from internvl_detect.data.shards import shard_file

WRITE, LOOK = shard_file.write_shard, shard_file.check_alone


def write_or_die(job):
    """Dies on the second shard unless the fourth line is left out."""
    if job.label.endswith("1") and not job.without:
        os.kill(os.getpid(), signal.SIGKILL)
    return WRITE(job)


def look_or_die(item):
    """Dies on the fourth line."""
    if item[1] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return LOOK(item)
