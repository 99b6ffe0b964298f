"""The start time of this command, which names its folder. All processes of a job have the same."""

from datetime import datetime, timedelta

from inception_zoo.system.ranks import agreed, is_first

_chosen: list[datetime] = []


def start_time() -> datetime:
    """Return the start time. Other ranks than 0 wait until rank 0 has called `share`."""
    if not _chosen:
        now = datetime.now()
        _chosen.append(now if is_first() else datetime.fromisoformat(agreed("start", now.isoformat())))
    return _chosen[0]


def start_later() -> None:
    """Change the start time to the next second, because another command has the folder of this one."""
    _chosen[0] = start_time() + timedelta(seconds=1)


def share() -> None:
    """Send the start time of rank 0 to the other ranks."""
    agreed("start", start_time().isoformat())
